"""A folder of films from file to mask, beside the network's bare rate on as many films.

    python -m benchmarks.predict RUN --images DIR [--repeats N]

Each command is a process of its own, with and without overlays, and once on a single film, which
gives what starting and compiling take. The bare rate is that of `benchmarks.bare_rate`, before and
after each command, in a process of its own, too: a TPU serves one at a time. Peak memory is the
process's largest resident set.
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

from benchmarks import record
from experiments import command
from jaxseg.data.images import find_images

WAYS = {"masks and overlays": (), "masks alone": ("--no-overlay",)}


def bare_rate(run: Path) -> float:
    """Films per second through the run's network alone, by `benchmarks.bare_rate`."""
    arguments = [sys.executable, "-m", "benchmarks.bare_rate", str(run)]
    done = subprocess.run(arguments, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(done.returncode)
    return float(done.stdout.split()[-1])


def predicted(run: Path, films: list[Path] | Path, options: tuple[str, ...]) -> tuple[float, float]:
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
    films = list(find_images(images).values())
    for way, options in WAYS.items():
        bare, whole, start, memory = [bare_rate(run)], [], [], []
        for _ in range(repeats):
            start.append(predicted(run, films[:1], options)[0])
            seconds, peak = predicted(run, images, options)
            whole.append(seconds)
            memory.append(peak)
            bare.append(bare_rate(run))
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
    # Only now, since it takes hold of the device.
    print(record.conditions())


if __name__ == "__main__":
    command.run(main)
