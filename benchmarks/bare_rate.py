"""Films a second through a run's network alone: batches that lie in memory, logits fetched.

    python -m benchmarks.bare_rate RUN

Prints the rate; compiling is apart. `benchmarks.predict` compares with it.
"""

import argparse
import time
from pathlib import Path

import numpy as np

from experiments import command, trained
from experiments.run_directory import RunDirectory
from experiments.segmenter import AS_THE_RUN_SCORES, Segmenter


def bare_rate(segmenter: Segmenter, *, seconds: float = 5.0) -> float:
    """Films per second through the compiled network alone, for about so many seconds."""
    side = segmenter.configuration.size
    shape = (segmenter.rows, side, side, 1)
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    np.asarray(segmenter.predict(images))
    began, batches = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        np.asarray(segmenter.predict(images))
        batches += 1
    return batches * segmenter.rows / (time.perf_counter() - began)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("run", type=Path)
    options = parser.parse_args()
    print(bare_rate(Segmenter(trained.load(RunDirectory(options.run)), AS_THE_RUN_SCORES)))


if __name__ == "__main__":
    command.run(main)
