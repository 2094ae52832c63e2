"""One train step of the seed's U-Net, jaxseg beside its peers.

    python -m benchmarks.train_step [--batch N ...] [--size N ...] [--widths ...] [--dtype ...]
        [--contenders NAME ...] [--tensorflow-python PYTHON] [--check | --record] [--json FILE]

Dropout on, Adam, cross entropy; every contender in a process of its own, in turns, compile apart.
Several values of an option are a sweep. The README has the protocol and the results.
"""

import argparse
import itertools
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from benchmarks import record
from benchmarks.contenders import CONTENDERS, DEFAULT, SHARED, chosen
from benchmarks.peers.setting import Setting
from benchmarks.turns import Protocol, measure

RECORDED = Path(__file__).with_name("recorded.json")
SLACK = 0.15
"""A ratio that is lower than the recorded one by no more than this share has not fallen."""

COLUMNS = {
    "name": "",
    "seconds": ".3f",
    "fastest": ".3f",
    "slowest": ".3f",
    "images_per_second": ".1f",
    "ratio": ".2f",
    "compile_seconds": ".1f",
    "peak_gigabytes": ".2f",
    "gigaflops_an_image": ".1f",
    "megabytes_an_image": ".0f",
    "share_of_roofline": ".0%",
}


def parser(work: str) -> argparse.ArgumentParser:
    """The options that `benchmarks.train_step` and `benchmarks.inference` share."""
    default = Setting()
    found = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{'train_step' if work == 'train' else 'inference'}"
    )
    found.add_argument("--batch", type=int, nargs="+", default=[default.batch], metavar="N")
    found.add_argument("--size", type=int, nargs="+", default=[default.size], metavar="N")
    found.add_argument(
        "--widths", nargs="+", default=[",".join(map(str, default.widths))], metavar="W,W,..."
    )
    found.add_argument("--dtype", nargs="+", default=[default.dtype], metavar="float32|bfloat16")
    found.add_argument(
        "--data",
        choices=("device", "host"),
        default=default.data,
        help="device: one batch that lies there; host: another from the host's memory every step",
    )
    names = ", ".join(contender.name for contender in CONTENDERS)
    found.add_argument(
        "--contenders", nargs="+", default=DEFAULT, metavar="NAME", help=f"of: {names}"
    )
    found.add_argument(
        "--steps",
        type=int,
        metavar="N",
        help="timed steps of each; on accelerators ten turns share them, rounded down",
    )
    found.add_argument(
        "--tensorflow-python", metavar="PYTHON", help="interpreter that has TensorFlow and Keras"
    )
    found.add_argument("--json", type=Path, metavar="FILE", help="where to write everything")
    return found


def settings(options: argparse.Namespace, work: Any) -> list[Setting]:
    """One for every combination of the options' values.

    Raises:
        SystemExit: A value will not do.
    """
    widths = [tuple(int(width) for width in text.split(",")) for text in options.widths]
    for dtype in options.dtype:
        if dtype not in ("float32", "bfloat16"):
            raise SystemExit(f"--dtype: {dtype!r} is neither float32 nor bfloat16")
    for size, levels in itertools.product(options.size, widths):
        if size % 2 ** (len(levels) - 1):
            raise SystemExit(f"--size: {size} cannot be halved {len(levels) - 1} times")
    return [
        Setting(work=work, batch=batch, size=size, widths=levels, dtype=dtype, data=options.data)
        for batch, size, levels, dtype in itertools.product(
            options.batch, options.size, widths, options.dtype
        )
    ]


def run(options: argparse.Namespace, setting: Setting) -> list[dict[str, Any]]:
    """Measures one setting and prints its table; the first contender is what ratios refer to.

    Raises:
        SystemExit: No contender is left.
    """
    contenders = chosen(options.contenders, options.tensorflow_python)
    print(f"\n{setting.as_json()}", flush=True)
    protocol = Protocol.for_device(jax.default_backend() != "cpu", steps=options.steps)
    results = measure(contenders, setting, protocol, tensorflow_python=options.tensorflow_python)
    if not results:
        raise SystemExit("no contender is left: each is not installed or ended by itself")
    rows = [result.row(setting, results[0].median) for result in results]
    print(record.table([_shown(row, setting) for row in rows], COLUMNS), flush=True)
    if (asked := options.contenders[0]) != results[0].name:
        print(f"{asked} is left out: ratios are to {results[0].name}", flush=True)
    return rows


def ratios(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """How many times as long as jaxseg each equal peer takes.

    Raises:
        SystemExit: jaxseg is not the first, or no equal peer is there.
    """
    _require_jaxseg(rows[0]["name"])
    if found := {row["name"]: row["ratio"] for row in rows[1:] if not row["near"]}:
        return found
    raise SystemExit("--check and --record: no peer of the same network is left")


def _require_jaxseg(first: str) -> None:
    if first != "jaxseg":
        raise SystemExit(f"--check and --record: ratios are to jaxseg, not {first}")


def fallen(measured: dict[str, float], recorded: dict[str, float]) -> list[str]:
    """A line for every ratio that is lower than the recorded one by more than `SLACK`."""
    return [
        f"{name}: {measured[name]:.2f}, recorded {ratio:.2f}"
        for name, ratio in recorded.items()
        if name in measured and measured[name] < (1 - SLACK) * ratio
    ]


def place(setting: Setting) -> str:
    """The key of a setting's ratios in the recorded file: the device kind and the conditions."""
    where = record.conditions()
    processor = f"{where['processor']} {where['vectors']}".strip()
    kind = processor if where["device"] == "cpu" else where["device"]
    return f"{kind}, {where['cores']} cores, {setting.as_json()}"


def main() -> None:
    """Measures, and compares with the recorded ratios where asked."""
    # This process asks JAX for its devices, too.
    os.environ.update(SHARED)
    found = parser("train")
    found.add_argument(
        "--check", action="store_true", help="exit status 1 where a ratio has fallen"
    )
    found.add_argument("--record", action="store_true", help="keep these ratios for --check")
    options = found.parse_args()
    if options.check or options.record:
        _require_jaxseg(options.contenders[0])
    recorded = json.loads(RECORDED.read_text()) if RECORDED.exists() else {}
    everything, lines, compared = [], [], 0
    for setting in settings(options, "train"):
        if options.check and place(setting) not in recorded:
            raise SystemExit(f"--check: nothing recorded in {RECORDED.name} for {place(setting)}")
        rows = run(options, setting)
        everything.append({"setting": json.loads(setting.as_json()), "rows": rows})
        if options.json:
            record.write(options.json, {"conditions": record.conditions(), "results": everything})
        if options.check:
            known = recorded[place(setting)]
            compared += len(known.keys() & ratios(rows).keys())
            lines += fallen(ratios(rows), known)
        if options.record:
            recorded[place(setting)] = recorded.get(place(setting), {}) | ratios(rows)
            record.write(RECORDED, recorded)
    if options.check:
        print("\n".join(("fallen:", *lines) if lines else (f"{compared} ratios, none fallen",)))
        sys.exit(bool(lines) or not compared)


def _shown(row: dict[str, Any], setting: Setting) -> dict[str, Any]:
    def each(key: str, unit: float) -> float | None:
        return None if row.get(key) is None else row[key] / unit

    return {
        **row,
        "name": f"{row['name']} (near)" if row["near"] else row["name"],
        "peak_gigabytes": each("peak_bytes", 1e9),
        "gigaflops_an_image": each("flops", 1e9 * setting.batch),
        "megabytes_an_image": each("bytes", 1e6 * setting.batch),
    }


if __name__ == "__main__":
    main()
