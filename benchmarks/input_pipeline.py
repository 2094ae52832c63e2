"""Images a second of jaxseg's input paths and of PyTorch's DataLoader.

    python -m benchmarks.input_pipeline --manual-dir DIR [--data-config NAME]

The stream and the DataLoader (two processes) decode the same PNG pairs in the same order, resize
them and make uint8 batches of 16. "on device" gathers batches from cached arrays. The exit status
is 1 if two of them read different images. Imports are local, so that no process loads the
libraries of another.
"""

import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import protocol, report
from benchmarks.protocol import Implementation

IMPLEMENTATIONS = (
    Implementation("PyTorch DataLoader", "benchmarks.input_pipeline:data_loader"),
    Implementation("stream", "benchmarks.input_pipeline:stream"),
    Implementation("on device", "benchmarks.input_pipeline:on_device"),
)
COLUMNS = ("name", "images_per_second", "slowest_rate", "fastest_rate", "relative_time", "peak_MB")
Batches = Iterable[tuple[Any, Any]]
"""uint8 images ``[B, S, S, 1]`` and labels ``[B, S, S]``."""


def order(images: int, batch: int) -> list[list[int]]:
    """Returns which images each batch has, all once; the last batch may be smaller."""
    shuffled = np.random.default_rng(0).permutation(images).tolist()
    return [shuffled[start : start + batch] for start in range(0, images, batch)]


def one_pass(read: Callable[[], Batches]) -> Any:
    """Returns the case of an implementation, and sums of all that it reads as metadata."""
    sums = {"images": 0, "image_sum": 0, "label_sum": 0}
    for batch in read():
        images, labels = (np.asarray(array) for array in batch)
        sums["images"] += len(images)
        sums["image_sum"] += int(images.sum(dtype=np.int64))
        sums["label_sum"] += int(labels.sum(dtype=np.int64))

    def run() -> None:
        for _ in read():
            pass

    return {"one pass": run}, {"read": sums}


def prepared(manual_dir: str, config: str, data_dir: str) -> Any:
    """Returns the builder of an archive, prepared in ``data_dir``."""
    from jaxseg.data.covid_radiography import prepare

    warnings.simplefilter("ignore")
    return prepare(manual_dir, data_dir, config)


def stream(*, images: int, batch: int, size: int, dataset: list[str], **_: Any) -> Any:
    """Batches in host memory, decoded by threads."""
    from jaxseg.data.sampling import Sampling
    from jaxseg.data.stream import StoredImages, stream_batches

    stored, batches = StoredImages(prepared(*dataset)), order(images, batch)
    # All batches of a stream have one size; what fills the last one up is dropped.
    rows = np.zeros((len(batches), batch), np.int32)
    for row, wanted in zip(rows, batches, strict=True):
        row[: len(wanted)] = wanted

    def read() -> Iterator[tuple[Any, Any]]:
        with stream_batches(stored, rows, Sampling(size)) as streamed:
            for found, wanted in zip(streamed, batches, strict=True):
                yield found["images"][: len(wanted)], found["labels"][: len(wanted)]

    return one_pass(read)


def on_device(*, images: int, batch: int, size: int, dataset: list[str], **_: Any) -> Any:
    """Batches on the device, gathered from the cached arrays that are on it."""
    import jax

    from jaxseg.data.arrays import load_arrays

    arrays = load_arrays(prepared(*dataset), size=size)
    stored = jax.device_put((arrays.images, arrays.labels))
    gather = jax.jit(lambda stored, rows: [array[rows] for array in stored])

    def read() -> Iterator[tuple[Any, Any]]:
        for rows in order(images, batch):
            yield jax.block_until_ready(gather(stored, np.asarray(rows, np.int32)))

    return one_pass(read)


class Pairs:
    """The PNG pairs as a map-style dataset for PyTorch's DataLoader."""

    def __init__(self, pictures: str, size: int):
        self.pictures, self.size = Path(pictures), size

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        import torch
        from PIL import Image

        square = (self.size, self.size)
        with Image.open(self.pictures / f"image-{index}.png") as picture:
            image = np.array(picture.resize(square, Image.Resampling.BILINEAR))
        with Image.open(self.pictures / f"mask-{index}.png") as picture:
            mask = np.array(picture.resize(square, Image.Resampling.NEAREST))
        return torch.from_numpy(image[..., None]), torch.from_numpy((mask > 127).astype(np.uint8))


def data_loader(
    *, images: int, batch: int, size: int, pictures: str, workers: int, **_: Any
) -> Any:
    """PyTorch's DataLoader with Pillow, in worker processes that persist."""
    import torch
    from torch.utils.data import DataLoader

    torch.set_num_threads(1)
    pairs: Any = Pairs(pictures, size)
    options = {"num_workers": workers, "persistent_workers": workers > 0}
    loader = DataLoader(pairs, batch_sampler=order(images, batch), **options)
    return one_pass(lambda: loader)


def write_pictures(dataset: Sequence[str], folder: Path) -> int:
    """Writes every PNG pair in the order of the arrays; returns their number."""
    from jaxseg.data.stream import StoredImages

    stored = StoredImages(prepared(*dataset))
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
    from experiments import command

    command.run(main)
