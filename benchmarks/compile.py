"""What is paid before the first step: imports, compiling, and a second start with a cache.

    python -m benchmarks.compile [--rounds N] [--json FILE]

Fresh processes in turns: ``import jaxseg`` beside ``import flax``, medians of ``--rounds``; the
seed's train step compiled without a compilation cache, with an empty one and with a full one, once
each; and the time from the start of ``python -m experiments.train`` to its first step, of two runs.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import record

FIRST_STEP = """
import time; began = time.perf_counter()
import jax
import jaxseg
from benchmarks.peers import ours
from benchmarks.peers.setting import Setting
prepared = ours.prepare(Setting({setting}))
prepared.run()
print(time.perf_counter() - began)
"""


def process_seconds(code: str) -> float:
    """Wall time of ``python -c code``."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    return time.perf_counter() - began


def first_step_seconds(cache: str | None, *, setting: str = "") -> float:
    """From an interpreter that is up to a step that is done; ``cache`` is a folder or None."""
    variables = {key: value for key, value in os.environ.items() if "COMPILATION_CACHE" not in key}
    if cache is not None:
        variables |= {
            "JAX_COMPILATION_CACHE_DIR": cache,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
    done = subprocess.run(
        [sys.executable, "-c", FIRST_STEP.format(setting=setting)],
        check=True,
        capture_output=True,
        text=True,
        env=variables,
    )
    return float(done.stdout.split()[-1])


def train_seconds() -> float:
    """From the start of the default run to its first step; films not drawn yet are on the way."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "experiments.train", "--workdir", f"{folder}/run"],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
        )
        # A step is logged once it is done.
        steps = Path(folder) / "run" / "steps.jsonl"
        while not (steps.exists() and steps.stat().st_size):
            if process.poll() is not None:
                _, errors = process.communicate()
                raise SystemExit(f"experiments.train ended: {errors.decode().strip()[-200:]}")
            time.sleep(0.02)
        seconds = time.perf_counter() - began
        process.kill()
        process.communicate()
    return seconds


def in_turns(rounds: int, measures: dict[str, Callable[[], float]]) -> list[dict[str, object]]:
    """The median of each."""
    seconds: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(rounds):
        for name, measure in measures.items():
            seconds[name].append(measure())
    return [
        {
            "what": name,
            "seconds": statistics.median(taken),
            "fastest": min(taken),
            "slowest": max(taken),
        }
        for name, taken in seconds.items()
    ]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compile")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="of the imports")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    rows = in_turns(
        options.rounds,
        {
            "import flax": lambda: process_seconds("import flax.linen"),
            "import jaxseg": lambda: process_seconds("import jaxseg"),
        },
    )
    with tempfile.TemporaryDirectory() as cache:
        starts = {
            "first step of the seed's U-Net": lambda: first_step_seconds(None),
            "the same, empty cache": lambda: first_step_seconds(cache),
            "the same, full cache": lambda: first_step_seconds(cache),
        }
        rows += in_turns(1, starts)
    rows += in_turns(2, {"first step of the default run": train_seconds})
    print(record.table(rows, {"what": "", "seconds": ".2f", "fastest": ".2f", "slowest": ".2f"}))
    if options.json:
        record.write(options.json, {"conditions": record.conditions(), "results": rows})


if __name__ == "__main__":
    main()
