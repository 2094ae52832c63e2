"""Runs the cases of one implementation in a separate process, for `benchmarks.protocol`.

``python -m benchmarks.worker JSON`` imports nothing but the implementation that JSON names, because
its library may be the only one of its interpreter. It answers with a JSON line when it is ready
and to every request: ``[case, calls]``, or null for the peak memory in bytes.
"""

import importlib
import json
import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Prepared = tuple[Mapping[str, Callable[[], Any]], Mapping[str, Any]]
"""Functions by name of the case, each of which waits for its result; and metadata for the row."""

LIBRARIES = ("jax", "flax", "torch", "keras", "tensorflow", "monai", "albumentations", "PIL")
LIBRARIES += ("segmentation_models_pytorch", "grain", "tensorflow_datasets")


def peak_bytes() -> int:
    """Largest memory of this process plus that of its child processes; shared pages count twice."""
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for child in multiprocessing.active_children():
        status = Path(f"/proc/{child.pid}/status").read_text()
        peak += 1024 * int(status.split("VmHWM:")[1].split()[0])
    return peak


def main() -> None:
    """Prepares the implementation and answers requests."""
    call = json.loads(sys.argv[1])
    # Libraries print to standard output; this stream is for answers only.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(value: Any) -> None:
        print(json.dumps(value), file=answers, flush=True)

    if call["checkout"]:
        # The benchmarks stay those of this version: their package is imported already.
        sys.path.insert(0, call["checkout"])
    module, function = call["function"].split(":")
    cases, metadata = getattr(importlib.import_module(module), function)(**call["settings"])
    loaded = {name: vars(sys.modules[name]) for name in LIBRARIES if name in sys.modules}
    versions = {name: str(of["__version__"]) for name, of in loaded.items() if "__version__" in of}
    metadata = {"device": "cpu", **metadata}
    answer({"cases": list(cases), "metadata": metadata, "versions": versions})
    for request in map(json.loads, sys.stdin):
        if request is None:
            answer(peak_bytes())
            continue
        case, calls = request
        seconds, processor_seconds = [], []
        for _ in range(calls):
            began, used = time.perf_counter(), time.process_time()
            cases[case]()
            seconds.append(time.perf_counter() - began)
            processor_seconds.append(time.process_time() - used)
        answer({"seconds": seconds, "processor_seconds": processor_seconds})


if __name__ == "__main__":
    main()
