"""Images per second through a run's network alone, from memory to fetched logits.

    python -m benchmarks.bare_rate RUN

Prints the rate without compilation. `benchmarks.predict` compares with it.
"""

import argparse
import time
from pathlib import Path

import numpy as np

from experiments import command
from experiments.runs import RunDirectory, load_trained
from experiments.segmenter import Segmenter, Settings


def bare_rate(segmenter: Segmenter, *, seconds: float = 5.0) -> float:
    """Returns images per second through the compiled network alone, over about ``seconds``."""
    side = segmenter.sampling.size
    shape = (segmenter.rows, side, side, segmenter.sampling.channels)
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
    print(bare_rate(Segmenter(load_trained(RunDirectory(options.run)), Settings())))


if __name__ == "__main__":
    command.run(main)
