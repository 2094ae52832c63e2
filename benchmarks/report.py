"""The JSON format of all benchmarks, and their tables."""

import contextlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
CPUINFO = Path("/proc/cpuinfo")
VECTORS = ("avx512f", "avx2", "avx", "sve", "asimd")
"""Vector extensions as Linux names them, widest first."""
FLAGS = ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "OMP_NUM_THREADS", "JAX_PLATFORMS")
LIBRARIES = ("jax", "libtpu", "flax", "torch", "keras", "tensorflow", "tensorflow-cpu", "monai")
LIBRARIES += ("surface-distance-based-measures", "grain", "pillow")
LOAD = os.getloadavg()[0]
"""The load average before the benchmark."""

Row = dict[str, Any]


def make(benchmark: str, settings: Mapping[str, Any], rows: Sequence[Row]) -> dict[str, Any]:
    """Returns the report of a benchmark: what was measured, when, on what, and the rows."""
    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    flags = _listed("flags", "Features").split()
    return {
        "benchmark": benchmark,
        "command": " ".join(["python -m benchmarks." + benchmark, *_without_json(sys.argv[1:])]),
        "date": time.strftime("%Y-%m-%d"),
        "version": _version(),
        "processor": _listed("model name") or platform.processor(),
        "vectors": next((name for name in VECTORS if name in flags), ""),
        "cores": os.cpu_count(),
        "load": LOAD,
        "flags": {name: os.environ[name] for name in FLAGS if name in os.environ},
        "versions": versions,
        "settings": dict(settings),
        "rows": list(rows),
    }


def publish(report: Mapping[str, Any], columns: Sequence[str], path: Path | None = None) -> None:
    """Prints the table of a report, and writes it to a file if one is given."""
    print(f"\n{report['benchmark']}: {json.dumps(report['settings'])}\n")
    print(table(report["rows"], columns), flush=True)
    if path is not None:
        write(path, [report])


def write(path: Path, reports: Sequence[Mapping[str, Any]]) -> None:
    """Writes reports as JSON, a line for each value and row."""
    texts = []
    for report in reports:
        values = {key: json.dumps(value) for key, value in report.items()}
        values["rows"] = "[\n  " + ",\n  ".join(map(json.dumps, report["rows"])) + "\n ]"
        texts.append(
            "{\n" + ",\n".join(f' "{key}": {text}' for key, text in values.items()) + "\n}"
        )
    path.write_text("[\n" + ",\n".join(texts) + "\n]\n")


def read(path: Path) -> list[dict[str, Any]]:
    """Returns the reports in a file."""
    return json.loads(path.read_text())


def table(rows: Sequence[Row], columns: Sequence[str]) -> str:
    """Returns Markdown with these keys as columns; an absent value is an empty cell."""
    lines = [[key.replace("_", " ") for key in columns], ["---" for _ in columns]]
    lines += [[_cell(row.get(key)) for key in columns] for row in rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _without_json(arguments: Sequence[str]) -> list[str]:
    """Returns a command's arguments without the file it writes, which says nothing."""
    if "--json" not in arguments:
        return list(arguments)
    at = arguments.index("--json")
    return [*arguments[:at], *arguments[at + 2 :]]


def _cell(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return f"{value:,.0f}" if abs(value) >= 100 or isinstance(value, int) else f"{value:.3g}"


def _listed(*names: str) -> str:
    """Returns what Linux says about the processor under one of these names."""
    for line in CPUINFO.read_text().splitlines() if CPUINFO.exists() else ():
        name, _, value = line.partition(":")
        if name.strip() in names:
            return value.strip()
    return ""


def _version() -> str:
    """Returns the version of jaxseg and, if Git knows it, the commit."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    try:
        commit = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return version
    return f"{version} ({commit})"
