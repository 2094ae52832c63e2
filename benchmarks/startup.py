"""Time before the first train step: imports, and the default run without and with a cache.

    python -m benchmarks.startup [--rounds 3]

Every measurement is a new process. The first step of the default run is timed twice in a round:
with an empty cache of compiled programs, and with the cache that this filled.
"""

import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from benchmarks import protocol, report


def import_seconds(module: str) -> float:
    """Returns the seconds of a process that imports a module."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", f"import {module}"], check=True)
    return time.perf_counter() - began


def first_step_seconds(cache: Path) -> float:
    """Returns the seconds from the start of ``experiments.train`` until its first step is logged.

    Args:
        cache: Folder of compiled programs.

    Raises:
        SystemExit: The command ended without a step.
    """
    with tempfile.TemporaryDirectory() as folder:
        steps, began = Path(folder, "run", "steps.jsonl"), time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "experiments.train", "--workdir", str(steps.parent)],
            env={**os.environ, "JAX_COMPILATION_CACHE_DIR": str(cache)},
            stdout=subprocess.DEVNULL,
        )
        while not (steps.exists() and steps.stat().st_size):
            if process.poll() is not None:
                raise SystemExit(f"experiments.train ended with status {process.returncode}")
            time.sleep(0.02)
        seconds = time.perf_counter() - began
        process.kill()
        process.wait()
        return seconds


def main() -> None:
    """Measures and publishes."""
    options = protocol.parser(__doc__, rounds=3).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        caches = [Path(folder, str(number)) for number in range(options.rounds)]
        empty, full = iter(caches), iter(caches)
        timings = protocol.alternate(
            {
                "import flax.linen": partial(import_seconds, "flax.linen"),
                "import jaxseg": partial(import_seconds, "jaxseg"),
                "first step, empty cache": lambda: first_step_seconds(next(empty)),
                "first step, full cache": lambda: first_step_seconds(next(full)),
            },
            options.rounds,
        )
    columns = ("name", "seconds", "fastest", "slowest")
    rows = protocol.rows_of(timings)
    report.publish(report.make("startup", {}, rows), columns, options.json)


if __name__ == "__main__":
    main()
