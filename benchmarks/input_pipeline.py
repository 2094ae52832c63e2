"""Images a second of jaxseg's input paths and of PyTorch's DataLoader.

    python -m benchmarks.input_pipeline --manual-dir DIR [--data-config NAME] [--batch 16]

The stream and the DataLoader (two processes) decode the same PNG pairs in the same order, resize
them and make uint8 batches. "on device" gathers batches from cached arrays. The exit status is 1 if
two of them read different images.
"""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import loaders, protocol, report
from benchmarks.protocol import Implementation
from experiments import command

IMPLEMENTATIONS = (
    Implementation("PyTorch DataLoader", "benchmarks.loaders:data_loader", "torch"),
    Implementation("stream", "benchmarks.loaders:stream", "jaxseg"),
    Implementation("on device", "benchmarks.loaders:on_device", "jaxseg"),
)
COLUMNS = ("name", "images_per_second", "slowest_rate", "fastest_rate", "relative_time", "peak_MB")


def write_pictures(dataset: Sequence[str], folder: Path) -> int:
    """Writes every PNG pair in the order of the arrays; returns their number."""
    from jaxseg.data.stream import StoredImages

    stored = StoredImages(loaders.prepared(*dataset))
    for number in range(len(stored)):
        for name, content in zip(("image", "mask"), stored.files(number), strict=True):
            (folder / f"{name}-{number}.png").write_bytes(content)
    return len(stored)


def difference(rows: Sequence[dict[str, Any]]) -> str | None:
    """Returns a line about the first row that read other images; rounding may differ."""
    first = rows[0]["read"]
    for row in rows:
        read = row["read"]
        same = all(read[name] == first[name] for name in ("images", "label_sum"))
        if not same or abs(read["image_sum"] / first["image_sum"] - 1) > 1e-3:
            return f"{row['name']} read {read}, {rows[0]['name']} read {first}"
    return None


def main() -> None:
    """Measures and publishes."""
    parser = protocol.parser(__doc__, IMPLEMENTATIONS)
    parser.add_argument("--manual-dir", type=Path, required=True, help="folder of the archive")
    parser.add_argument("--data-config", default="all", help="which classes (all)")
    parser.add_argument("--data-dir", type=Path, help="prepared data; default: temporary")
    parser.add_argument("--size", type=int, default=256, help="height and width in pixels (256)")
    parser.add_argument("--batch", type=int, default=16, help="images per batch (16)")
    options = parser.parse_args()
    implementations = protocol.chosen(IMPLEMENTATIONS, options)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        data_dir = options.data_dir or folder / "data"
        dataset = [str(options.manual_dir), options.data_config, str(data_dir)]
        (folder / "pictures").mkdir()
        images = write_pictures(dataset, folder / "pictures")
        settings = {
            "images": images, "size": options.size, "batch": options.batch, "workers": 2,
            "dataset": dataset, "pictures": str(folder / "pictures"),
        }  # fmt: skip
        rows = protocol.measure(implementations, settings, options.rounds)
    for row in rows:
        row["images_per_second"] = images / row["seconds"]
        row["slowest_rate"], row["fastest_rate"] = images / row["slowest"], images / row["fastest"]
    for name in ("dataset", "pictures"):
        del settings[name]
    settings["data_config"] = options.data_config
    report.publish(report.make("input_pipeline", settings, rows), COLUMNS, options.json)
    if line := difference(rows):
        sys.exit(line)


if __name__ == "__main__":
    command.run(main)
