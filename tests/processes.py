"""Commands in processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def start(name: str, *arguments: object, devices: int = 1) -> subprocess.Popen[str]:
    """Starts a command on virtual CPU devices."""
    flags = os.environ["XLA_FLAGS"].replace("device_count=8", f"device_count={devices}")
    return subprocess.Popen(
        [sys.executable, "-m", f"experiments.{name}", *map(str, arguments)],
        cwd=ROOT, env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def output(started: subprocess.Popen[str], status: int = 0) -> tuple[str, str]:
    """Waits for a command, which must end with a status; returns standard output and error."""
    out, error = started.communicate(timeout=300)
    assert started.returncode == status, error
    return out, error
