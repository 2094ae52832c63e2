"""Images a second of jaxseg's input paths and of PyTorch's DataLoader.

    python -m benchmarks.input_pipeline --manual-dir DIR [--data-config NAME]

The stream and the DataLoader (two processes) decode the same PNG pairs in the same order, resize
them and make uint8 batches of 16. "on device" gathers batches from cached arrays. The exit status
is 1 if two of them read different images.
"""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import loaders, protocol, report
from benchmarks.protocol import Implementation

IMPLEMENTATIONS = (
    Implementation("PyTorch DataLoader", "benchmarks.loaders:data_loader"),
    Implementation("stream", "benchmarks.loaders:stream"),
    Implementation("on device", "benchmarks.loaders:on_device"),
)
COLUMNS = ("name", "images_per_second", "slowest_rate", "fastest_rate", "relative_time", "peak_MB")


def write_pictures(dataset: Sequence[str], folder: Path) -> int:
    """Writes every PNG pair in the order of the arrays; returns their number."""
    from jaxseg.data.stored import StoredImages

    stored = StoredImages(loaders.prepared(*dataset))
    folder.mkdir()
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
    options = parser.parse_args()
    implementations = protocol.named(IMPLEMENTATIONS, options.implementations)
    settings: dict[str, Any] = {"size": 256, "batch": 16, "workers": 2}
    with tempfile.TemporaryDirectory() as folder:
        dataset = [str(options.manual_dir), options.data_config, f"{folder}/data"]
        settings["images"] = images = write_pictures(dataset, Path(folder, "pictures"))
        paths = {"dataset": dataset, "pictures": f"{folder}/pictures"}
        rows = protocol.measure(implementations, settings | paths, options.rounds)
    for row in rows:
        row["images_per_second"] = images / row["seconds"]
        row["slowest_rate"], row["fastest_rate"] = images / row["slowest"], images / row["fastest"]
    settings["data_config"] = options.data_config
    report.publish(report.make("input_pipeline", settings, rows), COLUMNS, options.json)
    if line := difference(rows):
        sys.exit(line)


if __name__ == "__main__":
    # Not above: the DataLoader's process must not load JAX.
    from experiments import command

    command.run(main)
