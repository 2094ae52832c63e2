"""Runs the speed comparisons, and compares their ratios with the recorded ones.

    python -m benchmarks.run [NAME ...] [--check | --record] [--json FILE] [--rounds N]

``--check`` ends with status 1 if a library's time relative to jaxseg is lower than the recorded
ratio by more than 15 %. ``--record`` replaces what is recorded for this kind of processor; it needs
an idle machine.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import report

NAMES = ("train_step", "inference", "losses", "surface", "augment", "startup")
RECORDED = Path(__file__).with_name("recorded.json")
SLACK = 0.15
IDLE = 0.3
"""Largest load average of an idle machine."""
Report = Mapping[str, Any]


def kind(measured: Report) -> tuple[Any, ...]:
    """Returns what two reports must have in common to be compared.

    Times depend on the machine. Ratios depend on the kind of device: for CPUs the widest vector
    extension and the number of cores.
    """
    devices = {row["device"] for row in measured["rows"] if row["name"] == "jaxseg"} - {"cpu"}
    machine = sorted(devices) or [measured["vectors"], measured["cores"]]
    return measured["benchmark"], measured["settings"], machine


def ratios(measured: Report) -> dict[tuple[str, str], float]:
    """Returns the time relative to jaxseg by case and implementation."""
    reference = {row["case"] for row in measured["rows"] if row["name"] == "jaxseg"}
    return {
        (row["case"], row["name"]): row["relative_time"]
        for row in measured["rows"]
        if row["name"] != "jaxseg" and row.get("case") in reference
    }


def lower(measured: Sequence[Report], recorded: Sequence[Report]) -> tuple[int, list[str]]:
    """Returns how many ratios were compared, and a line for each that is lower than recorded."""
    compared, lines = 0, []
    for new in measured:
        known = {}
        for old in recorded:
            known |= ratios(old) if kind(old) == kind(new) else {}
        for key, ratio in ratios(new).items():
            if key in known:
                compared += 1
                if ratio < (1 - SLACK) * known[key]:
                    lines.append(f"{', '.join(key)}: {ratio:.2f}, recorded {known[key]:.2f}")
    return compared, lines


def measure(names: Sequence[str], more: Sequence[str]) -> list[dict[str, Any]]:
    """Runs benchmarks with these options and returns their reports.

    Raises:
        subprocess.CalledProcessError: A benchmark failed.
    """
    reports = []
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            written = Path(folder, name)
            command = [sys.executable, "-m", f"benchmarks.{name}", "--json", str(written), *more]
            subprocess.run(command, check=True)
            reports += report.read(written)
    return reports


def main() -> None:
    """Runs, checks or records.

    Raises:
        SystemExit: An option is invalid, or a check failed.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--check", action="store_true", help="compare with recorded ratios")
    parser.add_argument("--record", action="store_true", help="replace recorded ratios")
    parser.add_argument("--json", type=Path, default=Path("benchmarks.json"), metavar="FILE")
    options, more = parser.parse_known_args()
    if unknown := set(options.names) - set(NAMES):
        parser.error(f"no benchmark {min(unknown)!r}; there are {', '.join(NAMES)}")
    if options.record and (load := os.getloadavg()[0]) > IDLE:
        parser.error(f"--record: the load is {load:.1f}. Wait until the machine is idle")
    reports = measure(options.names or NAMES, more)
    report.write(options.json, reports)
    print(f"\nwritten to {options.json}")
    recorded = report.read(RECORDED)
    if options.record:
        for each in reports:
            each["load"] = "idle"  # What it measures itself is the load of the one before.
        new = [kind(each) for each in reports]
        report.write(RECORDED, [old for old in recorded if kind(old) not in new] + reports)
    if options.check:
        compared, lines = lower(reports, recorded)
        print("\n".join([f"{compared} ratios compared, {len(lines)} lower", *lines]))
        if lines or not compared:
            sys.exit(1)


if __name__ == "__main__":
    main()
