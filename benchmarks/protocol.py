"""The protocol of all comparisons: alternating rounds of implementations in separate processes.

Every implementation runs in a separate process, so that neither threads nor memory are shared.
After a warm-up, the implementations of a case alternate, so that a slow phase of the machine
affects all of them. A row has the median, the fastest and the slowest call. Its relative
time is its median divided by that of the first implementation: above 1, the first one is faster.
"""

import argparse
import contextlib
import dataclasses
import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import report

ROUNDS = 7
ENVIRONMENT = {
    # Processes that share a GPU must not allocate all of its memory.
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    "TF_FORCE_GPU_ALLOW_GROWTH": "true",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}


@dataclasses.dataclass(frozen=True, eq=False)
class Implementation:
    """A library's way to do what is measured."""

    name: str
    function: str
    """``module:function``. Called with the settings, it returns `benchmarks.worker.Prepared`."""
    needs: str
    """Module that must be installed."""
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Further arguments of the function."""
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    checkout: str | None = None
    """Directory of another version of jaxseg, or None for this one."""


class Ended(SystemExit):
    """The process of an implementation ended too early."""


class Worker:
    """The process of one implementation."""

    def __init__(self, implementation: Implementation, settings: Mapping[str, Any], python: str):
        self.name = implementation.name
        call = {
            "function": implementation.function,
            "settings": {**settings, **implementation.options},
            "checkout": implementation.checkout,
        }
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process: Any = subprocess.Popen(
            [python, "-m", "benchmarks.worker", json.dumps(call)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True,
            env={**os.environ, **ENVIRONMENT, **implementation.environment},
        )  # fmt: skip

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._log):
            with contextlib.suppress(BrokenPipeError):
                stream.close()

    def ask(self, request: Any) -> Any:
        """Sends a request and returns the answer; see `benchmarks.worker`."""
        with contextlib.suppress(BrokenPipeError):  # The answer says why the process ended.
            print(json.dumps(request), file=self._process.stdin, flush=True)
        return self.answer()

    def answer(self) -> Any:
        """Returns the next answer; raises `Ended` with the process's last line if there is none."""
        if line := self._process.stdout.readline():
            return json.loads(line)
        self._log.seek(0)
        last = self._log.read().strip().splitlines()[-1:]
        raise Ended(f"{self.name} ended: {''.join(last)}")


def parser(
    doc: str | None, implementations: Sequence[Implementation] = ()
) -> argparse.ArgumentParser:
    """Returns a parser with the options that all benchmarks share."""
    lines = (doc or "").splitlines()
    found = argparse.ArgumentParser(description=lines[0] if lines else None)
    found.add_argument("--json", type=Path, metavar="FILE", help="write the report to this file")
    found.add_argument("--rounds", type=int, default=ROUNDS, help=f"timed rounds ({ROUNDS})")
    if implementations:
        names = [implementation.name for implementation in implementations]
        found.add_argument(
            "--implementations", nargs="+", choices=names, default=names, metavar="NAME",
            help="which to measure; the first one is what ratios refer to: " + ", ".join(names),
        )  # fmt: skip
        found.add_argument(
            "--checkout", type=Path, help="another version of jaxseg to compare with"
        )
        found.add_argument("--tensorflow-python", help="interpreter that has TensorFlow")
    return found


def chosen(
    implementations: Sequence[Implementation], options: argparse.Namespace
) -> dict[Implementation, str]:
    """Returns what can run here, with its interpreter; prints a line for each that cannot.

    Raises:
        SystemExit: An option is invalid, or nothing is left.
    """
    if options.rounds < 1:
        raise SystemExit(f"--rounds: must be at least 1, got {options.rounds}")
    by_name = {implementation.name: implementation for implementation in implementations}
    wanted = [by_name[name] for name in options.implementations]
    if options.checkout is not None:
        if not (options.checkout / "jaxseg").is_dir():
            raise SystemExit(f"--checkout: no directory jaxseg in {options.checkout}")
        name, where = f"jaxseg of {options.checkout.name}", str(options.checkout.resolve())
        wanted.append(dataclasses.replace(by_name["jaxseg"], name=name, checkout=where))
    python = options.tensorflow_python
    if python is not None and shutil.which(python) is None:
        raise SystemExit(f"--tensorflow-python: no interpreter {python}")
    found = {}
    for implementation in wanted:
        if python is not None and implementation.needs == "tensorflow":
            found[implementation] = python
        elif importlib.util.find_spec(implementation.needs) is not None:
            found[implementation] = sys.executable
        else:
            print(f"{implementation.name}: skipped, {implementation.needs} is not installed")
    if not found:
        raise SystemExit("--implementations: none of them is installed")
    return found


def alternate(functions: Mapping[Any, Callable[[], Any]], rounds: int) -> dict[Any, list[Any]]:
    """Calls the functions in alternation; returns what each call returned."""
    results: dict[Any, list[Any]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            results[name].append(function())
    return results


def summary(seconds: Sequence[float]) -> dict[str, Any]:
    """Returns the values of a row for these timings."""
    return {
        "seconds": statistics.median(seconds),
        "fastest": min(seconds),
        "slowest": max(seconds),
        "calls": len(seconds),
    }


def measure(
    implementations: Mapping[Implementation, str], settings: Mapping[str, Any], rounds: int
) -> list[dict[str, Any]]:
    """Returns a row for each case and implementation.

    An implementation that cannot be prepared is left out, and a line says why.

    Args:
        implementations: With the interpreter of each, as from `chosen`.
        settings: JSON values; arguments of the implementations' functions.
        rounds: Rounds after the warm-up. A round has up to ten calls if these are short.

    Raises:
        SystemExit: An implementation ended later, or none is left.
    """
    with contextlib.ExitStack() as stack:
        ready: dict[Worker, dict[str, Any]] = {}
        # One after another, because compiling would slow down the others, and is itself timed.
        for implementation, python in implementations.items():
            worker = stack.enter_context(Worker(implementation, settings, python))
            try:
                ready[worker] = worker.answer()
            except Ended as ended:
                print(ended, flush=True)
        if not ready:
            raise SystemExit("no implementation is left")
        rows = []
        for case in dict.fromkeys(case for answer in ready.values() for case in answer["cases"]):
            having = [worker for worker, answer in ready.items() if case in answer["cases"]]
            rows += _measure_case(case, having, rounds)
        for worker, answer in ready.items():
            known = {**answer["metadata"], "versions": answer["versions"]}
            known["peak_MB"] = worker.ask(None) / 1e6
            rows = [row | (known if row["name"] == worker.name else {}) for row in rows]
    return rows


def _measure_case(case: str, workers: Sequence[Worker], rounds: int) -> list[dict[str, Any]]:
    functions = {}
    for worker in workers:
        last = worker.ask([case, 2])["seconds"][-1]
        if last < 0.1:  # A longer warm-up costs little.
            last = worker.ask([case, 18])["seconds"][-1]
        functions[worker] = partial(worker.ask, [case, max(1, min(10, int(0.1 / last)))])
    rows = []
    for worker, answers in alternate(functions, rounds).items():
        row = {"case": case, "name": worker.name}
        row |= summary([seconds for answer in answers for seconds in answer["seconds"]])
        used = [seconds for answer in answers for seconds in answer["processor_seconds"]]
        rows.append(row | {"processor_seconds": statistics.median(used)})
    for row in rows:
        row["relative_time"] = row["seconds"] / rows[0]["seconds"]
    return rows


def main(
    benchmark: str,
    doc: str | None,
    implementations: Sequence[Implementation],
    columns: Sequence[str],
    *,
    derive: Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]] | None = None,
    **defaults: int | list[int],
) -> None:
    """Measures and publishes what the command line asks for.

    Args:
        benchmark: Name of the module.
        doc: Its docstring.
        implementations: What can be measured.
        columns: Of the table.
        derive: Given a row and the settings, returns further values of the row.
        **defaults: Settings; each has an option of its name.
    """
    found = parser(doc, implementations)
    for name, default in defaults.items():
        nargs: Any = "+" if isinstance(default, list) else None
        found.add_argument(f"--{name}", type=int, nargs=nargs, default=default, metavar="N")
    options = found.parse_args()
    settings = {name: getattr(options, name) for name in defaults}
    rows = measure(chosen(implementations, options), settings, options.rounds)
    if derive is not None:
        rows = [row | derive(row, settings) for row in rows]
    report.publish(report.make(benchmark, settings, rows), columns, options.json)
