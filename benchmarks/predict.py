"""Images a second of the predict command, and of its network alone as an upper bound.

    python -m benchmarks.predict RUN --images DIR

A command on a single image gives the time to start. Each command is a separate process.
"""

import subprocess
import sys
import tempfile
import time
from functools import partial
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
    "fraction_of_upper_bound"
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


def upper_bound(run: Path) -> float:
    """Returns images a second of the network alone."""
    alone = Implementation("network alone", "benchmarks.predict:network_alone")
    (row,) = protocol.measure([alone], {"run": str(run)}, protocol.ROUNDS)
    return row["rows"] / row["seconds"]


def seconds(*arguments: object) -> float:
    """Returns the seconds of the command with these arguments."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "experiments.predict", *map(str, arguments), "--out", out]
        began = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - began


def main() -> None:
    """Measures and publishes."""
    parser = protocol.parser(__doc__, rounds=1)
    parser.add_argument("run", type=Path, help="run directory")
    parser.add_argument("--images", type=Path, required=True, help="folder of images")
    options = parser.parse_args()
    images, rows = list(find_images(options.images).values()), []
    bound = upper_bound(options.run)
    for name, more in OUTPUTS.items():
        timings = protocol.alternate(
            {
                "start": partial(seconds, options.run, images[0], *more),
                "folder": partial(seconds, options.run, options.images, *more),
            },
            options.rounds,
        )
        start, folder = protocol.rows_of(timings)
        rate = (len(images) - 1) / (folder["seconds"] - start["seconds"])
        rows.append(
            {
                "name": name,
                "images": len(images),
                "seconds": folder["seconds"],
                "start_seconds": start["seconds"],
                "images_per_second": rate,
                "upper_bound": bound,
                "fraction_of_upper_bound": rate / bound,
            }
        )
    settings = {"images": len(images)}
    report.publish(report.make("predict", settings, rows), COLUMNS, options.json)


if __name__ == "__main__":
    command.run(main)
