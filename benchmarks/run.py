"""Benchmarks of a network's speed, one after another, into one JSON file.

    python -m benchmarks.run [NAME ...] [--json FILE] [--tensorflow-python PYTHON]
                             [--batch N ...] [--dtype D ...]

Prints each one's table; the README says how to read them.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import record

NAMES = ("train_step", "inference", "compile", "layers")
SWEPT = ("train_step", "inference")


def main() -> None:
    """Runs those named, or all.

    Raises:
        SystemExit: With status 1 where one failed; the others are measured and written.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run")
    parser.add_argument("names", nargs="*", metavar="name", help=" or ".join(NAMES))
    parser.add_argument("--json", type=Path, default=Path("benchmarks.json"), metavar="FILE")
    parser.add_argument("--tensorflow-python", metavar="PYTHON")
    parser.add_argument("--batch", nargs="+", metavar="N", help="of train_step and inference")
    parser.add_argument("--dtype", nargs="+", metavar="D", help="likewise")
    options = parser.parse_args()
    if unknown := set(options.names) - set(NAMES):
        parser.error(f"no benchmark {min(unknown)!r}; there are: {', '.join(NAMES)}")
    swept: list[str] = []
    for name, values in (("--batch", options.batch), ("--dtype", options.dtype)):
        swept += [name, *values] if values else []
    if options.tensorflow_python:
        swept += ["--tensorflow-python", options.tensorflow_python]
    everything, failed = {}, []
    for name in options.names or NAMES:
        print(f"\n## {name}\n", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            written = Path(folder) / "results.json"
            command = [sys.executable, "-m", f"benchmarks.{name}", "--json", str(written)]
            done = subprocess.run(command + (swept if name in SWEPT else []), check=False)
            if done.returncode:
                failed.append(name)
            else:
                everything[name] = json.loads(written.read_text())
    record.write(options.json, everything)
    print(f"\nwritten to {options.json}")
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
