"""A folder of films from file to mask, beside the network's bare rate on as many films.

    python -m benchmarks.predict RUN --images DIR [--repeats N]

Each command is a process of its own, with and without overlays, and once on a single film, which
gives what starting and compiling take. The bare rate is of batches that lie in memory, logits
fetched, timed before and after each command. Peak memory is the process's largest resident set.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import record
from experiments import trained
from experiments.predict import PICTURES
from experiments.run_directory import RunDirectory
from experiments.segmenter import AS_THE_RUN_SCORES, Segmenter

WAYS = {"masks and overlays": (), "masks alone": ("--no-overlay",)}


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


def command(run: Path, films: list[Path] | Path, options: tuple[str, ...]) -> tuple[float, float]:
    """Seconds and peak memory in MB of one predict command."""
    given = films if isinstance(films, list) else [films]
    with tempfile.TemporaryDirectory() as out:
        arguments = ["-m", "experiments.predict", run, *given, "--out", out, *options]
        began = time.perf_counter()
        started = subprocess.Popen(
            [sys.executable, *map(str, arguments)], stdout=subprocess.DEVNULL
        )
        _, status, usage = os.wait4(started.pid, 0)
        seconds = time.perf_counter() - began
        if status:
            sys.exit(f"predict ended with status {os.waitstatus_to_exitcode(status)}")
        return seconds, usage.ru_maxrss / 1024


def measured(run: Path, images: Path, repeats: int) -> Iterator[dict[str, Any]]:
    """A row for each way."""
    films = [path for path in sorted(images.iterdir()) if path.suffix.lower() in PICTURES]
    segmenter = Segmenter(trained.load(RunDirectory(run)), AS_THE_RUN_SCORES)
    for way, options in WAYS.items():
        bare, whole, start, memory = [bare_rate(segmenter)], [], [], []
        for _ in range(repeats):
            start.append(command(run, films[:1], options)[0])
            seconds, peak = command(run, images, options)
            whole.append(seconds)
            memory.append(peak)
            bare.append(bare_rate(segmenter))
        seconds, begun = statistics.median(whole), statistics.median(start)
        rate = statistics.median(bare)
        under_way = (len(films) - 1) / (seconds - begun)
        yield {
            "written": way,
            "films": len(films),
            "seconds": seconds,
            "films_a_second": len(films) / seconds,
            "start,_s": begun,
            "films_a_second_once_started": under_way,
            "bare_network,_films_a_second": rate,
            "share_of_bare": under_way / rate,
            "peak_MB": max(memory),
        }


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("run", type=Path)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=1)
    options = parser.parse_args()
    print(record.conditions())
    columns = {
        "written": "",
        "films": "d",
        "seconds": ".1f",
        "films_a_second": ".1f",
        "start,_s": ".1f",
        "films_a_second_once_started": ".1f",
        "bare_network,_films_a_second": ".1f",
        "share_of_bare": ".2f",
        "peak_MB": ".0f",
    }
    for row in measured(options.run, options.images, options.repeats):
        print(record.table([row], columns), flush=True)


if __name__ == "__main__":
    main()
