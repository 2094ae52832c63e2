"""What the process of one implementation does for `benchmarks.protocol`."""

import importlib
import multiprocessing
import os
import resource
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Prepared = tuple[Mapping[str, Callable[[], Any]], Mapping[str, Any]]
"""Functions by name of the case, each of which waits for its result; and metadata for the row."""

_cases: dict[str, Callable[[], Any]] = {}


def prepare(
    function: str, settings: Mapping[str, Any], environment: Mapping[str, str]
) -> tuple[list[str], Mapping[str, Any]]:
    """Calls ``module:function``, which returns `Prepared`; returns the cases and the metadata."""
    os.environ.update(environment)  # Before the library is imported.
    module, name = function.split(":")
    cases, metadata = getattr(importlib.import_module(module), name)(**settings)
    _cases.update(cases)
    return list(cases), metadata


def time_calls(case: str, calls: int) -> list[float]:
    """Returns the seconds of each call of a prepared case."""
    seconds = []
    for _ in range(calls):
        began = time.perf_counter()
        _cases[case]()
        seconds.append(time.perf_counter() - began)
    return seconds


def peak_megabytes() -> float:
    """Largest memory of this process plus that of its child processes; shared pages count twice."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for child in multiprocessing.active_children():
        status = Path(f"/proc/{child.pid}/status").read_text()
        peak += int(status.split("VmHWM:")[1].split()[0])
    return peak * 1024 / 1e6
