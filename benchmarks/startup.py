"""Time before the first train step: imports, compilation with and without a cache, the default run.

    python -m benchmarks.startup [--rounds N]

Every measurement is a new process. Imports alternate for ``--rounds``; the others run once.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import protocol, report

STEP = """
from benchmarks.peers.jax_unets import ours
cases, _ = ours({settings})
cases["train"]()
"""
COLUMNS = ("name", "seconds", "fastest", "slowest")


def python_seconds(code: str, cache: str | None = None) -> float:
    """Returns the seconds of ``python -c code``; ``cache`` is a folder of compiled programs."""
    environment = {
        key: value for key, value in os.environ.items() if "COMPILATION_CACHE" not in key
    }
    if cache is not None:
        environment |= {
            "JAX_COMPILATION_CACHE_DIR": cache,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    return time.perf_counter() - began


def default_run_seconds() -> float:
    """Returns the seconds from the start of ``experiments.train`` until its first step is logged.

    Raises:
        SystemExit: The command ended without a step.
    """
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "experiments.train", "--workdir", f"{folder}/run"],
            stdout=subprocess.DEVNULL,
        )
        steps = Path(folder, "run", "steps.jsonl")
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
    parser = protocol.parser(__doc__)
    parser.add_argument("--settings", default="work='train'", help="of the train step, as Python")
    parser.add_argument("--no-default-run", action="store_true", help="leave the default run out")
    options = parser.parse_args()
    imports = {
        f"import {name}": lambda name=name: python_seconds(f"import {name}")
        for name in ("flax.linen", "jaxseg")
    }
    seconds = protocol.alternate(imports, options.rounds)
    code = STEP.format(settings=options.settings)
    with tempfile.TemporaryDirectory() as cache:
        once = {
            "first step, no cache": lambda: python_seconds(code),
            "first step, empty cache": lambda: python_seconds(code, cache),
            "first step, full cache": lambda: python_seconds(code, cache),
        }
        if not options.no_default_run:
            once["first step of the default run"] = default_run_seconds
        seconds |= protocol.alternate(once, 1)
    rows = [{"name": name, **protocol.summary(each)} for name, each in seconds.items()]
    settings = {"train_step": options.settings}
    report.publish(report.make("startup", settings, rows), COLUMNS, options.json)


if __name__ == "__main__":
    main()
