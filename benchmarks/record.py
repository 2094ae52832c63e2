"""What is written beside every figure: device, versions, flags, date; and the tables."""

import json
import os
import platform
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

CPUINFO = Path("/proc/cpuinfo")
"""What Linux says of the processor; elsewhere there is no such file."""
VECTORS = ("avx512f", "avx2", "avx", "sve", "asimd")
"""Vector extensions as Linux calls them, widest first; processors of one name differ in them."""

FLAGS = (
    "XLA_FLAGS",
    "LIBTPU_INIT_ARGS",
    "OMP_NUM_THREADS",
    "JAX_PLATFORMS",
    "JAX_DEFAULT_PRNG_IMPL",
)


def conditions() -> dict[str, Any]:
    """Under which this process measures."""
    device = jax.devices()[0]
    return {
        "device": device.device_kind,
        "devices": jax.device_count(),
        "processor": _listed("model name") or platform.processor(),
        "vectors": _vectors(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "jax": jax.__version__,
        "flags": {name: os.environ[name] for name in FLAGS if name in os.environ},
        "date": time.strftime("%Y-%m-%d"),
    }


def write(path: Path, values: Any) -> None:
    """As JSON."""
    path.write_text(json.dumps(values, indent=1) + "\n")


def table(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> str:
    """Markdown, one line a row.

    Args:
        rows: What to show.
        columns: Keys of the rows, and the format of each; a value that a row lacks, or that is
            None, is an empty cell.
    """
    lines = [_line(key.replace("_", " ") for key in columns), _line("---" for _ in columns)]
    for row in rows:
        lines.append(_line(_cell(row.get(key), form) for key, form in columns.items()))
    return "\n".join(lines)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(value: Any, form: str) -> str:
    return "" if value is None else format(value, form)


def _listed(*names: str) -> str:
    """Of the first line of `CPUINFO` that has one of these names; else empty."""
    for line in CPUINFO.read_text().splitlines() if CPUINFO.exists() else ():
        name, _, value = line.partition(":")
        if name.strip() in names:
            return value.strip()
    return ""


def _vectors() -> str:
    found = _listed("flags", "Features").split()
    return next((name for name in VECTORS if name in found), "")
