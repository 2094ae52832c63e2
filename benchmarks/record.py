"""What is written beside every figure: device, versions, flags, date; and the tables."""

import json
import os
import platform
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

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
        "processor": _processor(),
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


def _processor() -> str:
    if (listing := Path("/proc/cpuinfo")).exists():
        for line in listing.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()
