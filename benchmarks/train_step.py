"""One train step of the Keras baseline's U-Net, by jaxseg and by other libraries.

    python -m benchmarks.train_step [--batch N ...] [--size N ...] [--dtype D ...] [--widths W ...]

Adam, cross entropy, dropout on. Several values of ``--batch``, ``--size`` or ``--dtype`` are a
sweep, with a table for each. ``python -m benchmarks.inference`` has the same options.
"""

import argparse
import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

from benchmarks import protocol, report, roofline
from benchmarks.peers.setting import Setting
from benchmarks.protocol import Implementation

PYTORCH, KERAS = "benchmarks.peers.pytorch:prepare", "benchmarks.peers.keras_unet:prepare"

IMPLEMENTATIONS = (
    Implementation("jaxseg", "benchmarks.peers.jax_unets:ours", "jaxseg"),
    Implementation("plain Flax", "benchmarks.peers.jax_unets:plain", "flax"),
    Implementation("PyTorch eager", PYTORCH, "torch"),
    Implementation("torch.compile", PYTORCH, "torch", {"compiled": True}),
    Implementation("Keras on JAX", KERAS, "keras", environment={"KERAS_BACKEND": "jax"}),
    Implementation(
        "Keras on TensorFlow", KERAS, "tensorflow", environment={"KERAS_BACKEND": "tensorflow"}
    ),
)

COLUMNS = (
    "name", "seconds", "fastest", "slowest", "relative_time", "images_per_second",
    "compile_seconds", "peak_MB", "roofline_fraction", "device"
)  # fmt: skip


def settings(options: argparse.Namespace, work: Any) -> Iterator[Setting]:
    """Yields a setting for each combination of the options' values.

    Raises:
        SystemExit: The network's pools do not divide a size.
    """
    pools = len(options.widths) - 1
    for batch, size, dtype in itertools.product(options.batch, options.size, options.dtype):
        if size % 2**pools:
            raise SystemExit(f"--size: {size} is not a multiple of {2**pools}")
        yield Setting(work, batch, size, tuple(options.widths), dtype)


def rows_of(setting: Setting, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measures one setting."""
    implementations = protocol.chosen(IMPLEMENTATIONS, options)
    rows = protocol.measure(implementations, dataclasses.asdict(setting), options.rounds)
    for row in rows:
        row["images_per_second"] = setting.batch / row["seconds"]
        bound = roofline.seconds(row["device"], setting.dtype, row.get("flops"), row.get("bytes"))
        row["roofline_fraction"] = None if bound is None else bound / row["seconds"]
    return rows


def run(benchmark: str, work: str, *, batch: int, doc: str | None) -> None:
    """Measures and publishes what the command line asks for."""
    default = Setting("train")
    parser = protocol.parser(doc, IMPLEMENTATIONS)
    parser.add_argument("--batch", type=int, nargs="+", default=[batch], metavar="N")
    parser.add_argument("--size", type=int, nargs="+", default=[default.size], metavar="N")
    parser.add_argument("--widths", type=int, nargs="+", default=default.widths, metavar="W")
    parser.add_argument(
        "--dtype", nargs="+", default=[default.dtype], choices=("float32", "bfloat16")
    )
    options = parser.parse_args()
    reports = []
    for setting in list(settings(options, work)):
        rows = rows_of(setting, options)
        reports.append(report.make(benchmark, dataclasses.asdict(setting), rows))
        report.publish(reports[-1], COLUMNS)
        if options.json:
            # After each setting, so that a failure keeps what was measured.
            report.write(options.json, reports)


if __name__ == "__main__":
    run("train_step", "train", batch=16, doc=__doc__)
