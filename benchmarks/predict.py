"""Images a second of the predict command, and of its network alone as an upper bound.

    python -m benchmarks.predict RUN --images DIR

A command on a single image gives the time to start. Each command is a separate process.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import protocol, report
from benchmarks.protocol import Implementation
from experiments import command
from jaxseg.data.images import find_images

OUTPUTS = {"masks and overlays": (), "masks only": ("--no-overlay",)}
COLUMNS = (
    "name", "images", "seconds", "start_seconds", "images_per_second", "upper_bound",
    "fraction_of_upper_bound", "peak_MB"
)  # fmt: skip


def network_alone(run: str) -> Any:
    """Logits of one batch, from host memory to host memory."""
    from experiments.runs import find_run, load_trained
    from experiments.segmenter import Segmenter, Settings

    segmenter = Segmenter(load_trained(find_run(Path(run))), Settings())
    sampling = segmenter.sampling
    shape = (segmenter.rows, sampling.size, sampling.size, sampling.channels)
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    return {"batch": lambda: np.asarray(segmenter.predict(images))}, {"rows": segmenter.rows}


def upper_bound(run: Path, rounds: int) -> float:
    """Returns images a second of the network alone."""
    alone = Implementation("network alone", "benchmarks.predict:network_alone", "jaxseg")
    (row,) = protocol.measure({alone: sys.executable}, {"run": str(run)}, rounds)
    return row["rows"] / row["seconds"]


def predict(run: Path, *more: object) -> tuple[float, float]:
    """Runs the command; returns its seconds and peak memory in MB."""
    with tempfile.TemporaryDirectory() as out:
        arguments = ["-m", "experiments.predict", run, *more, "--out", out]
        began = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, *map(str, arguments)], stdout=subprocess.DEVNULL
        )
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            sys.exit(f"predict ended with status {os.waitstatus_to_exitcode(status)}")
        return time.perf_counter() - began, usage.ru_maxrss / 976.5625


def main() -> None:
    """Measures and publishes."""
    parser = protocol.parser(__doc__)
    parser.set_defaults(rounds=1)
    parser.add_argument("run", type=Path, help="run directory")
    parser.add_argument("--images", type=Path, required=True, help="folder of images")
    options = parser.parse_args()
    images, rows = list(find_images(options.images).values()), []
    bound = upper_bound(options.run, protocol.ROUNDS)
    for name, more in OUTPUTS.items():
        results = protocol.alternate(
            {
                "start": lambda more=more: predict(options.run, images[0], *more),
                "folder": lambda more=more: predict(options.run, options.images, *more),
            },
            options.rounds,
        )
        row = {"name": name, **protocol.summary([seconds for seconds, _ in results["folder"]])}
        row["start_seconds"] = statistics.median(seconds for seconds, _ in results["start"])
        rate = (len(images) - 1) / (row["seconds"] - row["start_seconds"])
        row |= {
            "images": len(images),
            "images_per_second": rate,
            "upper_bound": bound,
            "fraction_of_upper_bound": rate / bound,
            "peak_MB": max(peak for _, peak in results["folder"]),
        }
        rows.append(row)
    settings = {"images": len(images)}
    report.publish(report.make("predict", settings, rows), COLUMNS, options.json)


if __name__ == "__main__":
    command.run(main)
