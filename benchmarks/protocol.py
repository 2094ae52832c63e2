"""The protocol of all comparisons: alternating rounds of implementations in separate processes.

Every implementation runs in a separate process, so that neither threads nor memory are shared.
After a warm-up, the implementations of a case alternate, so that a slow phase of the machine
affects all of them. A row has the median, the fastest and the slowest call. Its relative
time is its median divided by that of the first implementation: above 1, the first one is faster.
"""

import argparse
import contextlib
import dataclasses
import multiprocessing
import statistics
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks import report, worker

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
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Further arguments of the function."""
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)


def parser(
    doc: str | None, implementations: Sequence[Implementation] = (), rounds: int = ROUNDS
) -> argparse.ArgumentParser:
    """Returns a parser with the options that all benchmarks share."""
    lines = (doc or "").splitlines()
    found = argparse.ArgumentParser(description=lines[0] if lines else None)
    found.add_argument("--json", type=Path, metavar="FILE", help="write the report to this file")
    found.add_argument("--rounds", type=_positive, default=rounds, help=f"timed rounds ({rounds})")
    if implementations:
        names = [implementation.name for implementation in implementations]
        found.add_argument(
            "--implementations", nargs="+", choices=names, default=names, metavar="NAME",
            help="which to measure; the first one is what ratios refer to: " + ", ".join(names),
        )  # fmt: skip
    return found


def _positive(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def named(implementations: Sequence[Implementation], names: Sequence[str]) -> list[Implementation]:
    """Returns the implementations of these names, in the order of the names."""
    by_name = {each.name: each for each in implementations}
    return [by_name[name] for name in names]


def process() -> ProcessPoolExecutor:
    """Returns a new process. It imports the command's module and what it is asked for."""
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))


def alternate(functions: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[Any]]:
    """Calls the functions in alternation; returns what each call returned."""
    results: dict[str, list[Any]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            results[name].append(function())
    return results


def rows_of(seconds: Mapping[str, Sequence[float]]) -> list[dict[str, Any]]:
    """Returns a row for each name; relative times are relative to the first."""
    rows = [
        {
            "name": name,
            "seconds": statistics.median(timings),
            "fastest": min(timings),
            "slowest": max(timings),
        }
        for name, timings in seconds.items()
    ]
    return [row | {"relative_time": row["seconds"] / rows[0]["seconds"]} for row in rows]


def measure(
    implementations: Sequence[Implementation], settings: Mapping[str, Any], rounds: int
) -> list[dict[str, Any]]:
    """Returns a row for each case and implementation.

    An implementation that cannot be prepared, for example because it is not installed, is left out,
    and a line says why.

    Args:
        implementations: The first one is what ratios refer to.
        settings: Arguments of the implementations' functions.
        rounds: Rounds after the warm-up. A round has up to ten calls if these are short.

    Raises:
        SystemExit: None is left.
        Exception: An implementation failed later.
    """
    with contextlib.ExitStack() as stack:
        processes, cases, metadata = {}, {}, {}
        # One after another, because compiling would slow down the others, and is itself timed.
        for each in implementations:
            found = stack.enter_context(process())
            arguments = ({**settings, **each.options}, {**ENVIRONMENT, **each.environment})
            try:
                ready = found.submit(worker.prepare, each.function, *arguments).result()
            except Exception as error:
                print(f"{each.name}: left out, {error!r}", flush=True)
            else:
                processes[each.name] = found
                cases[each.name], metadata[each.name] = ready
        if not processes:
            raise SystemExit("no implementation is left")
        rows = []
        for case in dict.fromkeys(case for names in cases.values() for case in names):
            timers = {name: _timer(processes[name], case) for name in cases if case in cases[name]}
            timings = alternate(timers, rounds)
            seconds = {name: [s for calls in timings[name] for s in calls] for name in timings}
            rows += [{"case": case, **row, **metadata[row["name"]]} for row in rows_of(seconds)]
        peaks = {name: processes[name].submit(worker.peak_megabytes).result() for name in processes}
        return [row | {"peak_MB": peaks[row["name"]]} for row in rows]


def _timer(found: ProcessPoolExecutor, case: str) -> Callable[[], list[float]]:
    """Warms a case up; returns a function that times a round of calls."""

    def timed(calls: int) -> list[float]:
        return found.submit(worker.time_calls, case, calls).result()

    last = timed(2)[-1]
    if last < 0.1:  # A longer warm-up costs little.
        last = timed(18)[-1]
    calls = max(1, min(10, int(0.1 / last)))
    return lambda: timed(calls)


def main(
    benchmark: str,
    doc: str | None,
    implementations: Sequence[Implementation],
    columns: Sequence[str],
    *,
    count: str | None = None,
    **defaults: Any,
) -> None:
    """Measures and publishes what the command line asks for.

    Args:
        benchmark: Name of the module.
        doc: Its docstring.
        implementations: What can be measured.
        columns: Of the table.
        count: The setting that is the number of images of a call, for ``images_per_second``.
        **defaults: Settings: a number, a text or a list of numbers. Each has an option of its name.
    """
    found = parser(doc, implementations)
    for name, default in defaults.items():
        several = isinstance(default, list)
        found.add_argument(
            f"--{name}", default=default, type=type(default[0] if several else default),
            nargs="+" if several else None, metavar="VALUE", help=f"default: {default}",
        )  # fmt: skip
    options = found.parse_args()
    settings = {name: getattr(options, name) for name in defaults}
    rows = measure(named(implementations, options.implementations), settings, options.rounds)
    if count is not None:
        rows = [row | {"images_per_second": settings[count] / row["seconds"]} for row in rows]
    report.publish(report.make(benchmark, settings, rows), columns, options.json)
