"""Reads images of a prepared dataset one by one, and streams them in batches.

A stream is for datasets that do not fit on a device. Grain decodes ahead in threads. The batches
equal those of `jaxseg.data.arrays` bit for bit.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Int, UInt8

from jaxseg.data.archive import CLASSES
from jaxseg.data.images import read_image, read_mask
from jaxseg.data.sampling import Sampling
from jaxseg.data.splits import SPLITS, natural_key
from jaxseg.errors import InputError

if TYPE_CHECKING:
    from jaxseg.data.covid_radiography import Builder

Batch = dict[str, np.ndarray]

MAX_THREADS = 16
"""More threads do not decode faster, because of the interpreter's lock."""


class Sample(NamedTuple):
    """An image, its labels at the training size, and its mask at its own size."""

    image: UInt8[np.ndarray, "S S C"]
    label: UInt8[np.ndarray, "L L"]
    mask: UInt8[np.ndarray, "H W"]


class Record(NamedTuple):
    """Metadata of an image, and its position in the prepared dataset."""

    id: str
    class_name: str
    source: str
    split: str
    group: str
    position: int


class StoredImages:
    """Every image of a prepared dataset once, in natural order of class and number.

    Attributes:
        records: The metadata of the images.
    """

    def __init__(self, builder: "Builder"):
        """Reads the metadata of every record. Decodes no image.

        Args:
            builder: A prepared ``covid_radiography`` builder.

        Raises:
            InputError: A record is damaged.
        """
        import tensorflow_datasets as tfds

        skip = {"image": tfds.decode.SkipDecoding(), "mask": tfds.decode.SkipDecoding()}
        counts = {name: builder.info.splits[name].num_examples for name in SPLITS}
        # TFDS's decorators hide the arguments of as_data_source from type checkers.
        open_splits: Any = builder.as_data_source
        self._folder = Path(builder.data_dir)
        self._examples = open_splits("+".join(filter(counts.get, SPLITS)), decoders=skip)
        split = [name for name in SPLITS for _ in range(counts[name])]
        groups = [group["images"] for group in builder.report["groups"]]
        first = {id: ids[0] for ids in groups for id in ids}
        self.records = []
        for position in range(len(split)):
            example = self._example(position)
            id, source = example["id"].decode(), example["source"].decode()
            record = Record(id, CLASSES[example["class"]], source, split[position],
                            first.get(id, id), position)  # fmt: skip
            self.records.append(record)
        self.records.sort(key=lambda record: natural_key(record.id))

    def __len__(self) -> int:
        return len(self.records)

    def files(self, index: int) -> tuple[bytes, bytes]:
        """Returns the PNG files of an image and of its mask.

        Args:
            index: Position in ``records``.

        Raises:
            InputError: The record is damaged.
        """
        example = self._example(self.records[index].position)
        return example["image"], example["mask"]

    def sample(self, index: int, sampling: Sampling) -> Sample:
        """Decodes an image and its mask; several threads may.

        Args:
            index: Position in ``records``.
            sampling: The sizes.

        Raises:
            InputError: The record is damaged.
        """
        name, (image, mask) = self.records[index].id, self.files(index)
        pixels = read_image(image, channels=sampling.channels, name=name)
        labels = read_mask(mask, name=f"mask of {name}").labels
        return Sample(sampling.image(pixels), sampling.label(labels), labels)

    def _example(self, position: int) -> Any:
        try:
            return self._examples[position]
        # array_record's reader raises RuntimeError, whatever is wrong with the file.
        except RuntimeError as error:
            raise InputError(
                f"{self._folder}: record {position} is damaged ({error}). Remove the folder to "
                "prepare it again"
            ) from error


@contextlib.contextmanager
def stream_batches(
    stored: StoredImages,
    order: Int[np.ndarray, "steps rows"],
    sampling: Sampling,
    *,
    threads: int | None = None,
) -> Iterator[Iterator[Batch]]:
    """Opens a stream of batches; its threads end with the ``with`` block.

    To resume in the middle of an order, pass only the remaining batches. A process that needs only
    some rows of each batch passes only these.

    Args:
        stored: The images.
        order: The images of each batch, as positions in ``stored.records``.
        sampling: The sizes.
        threads: Number of threads that decode. Default: one per processor, at most `MAX_THREADS`.

    Yields:
        An iterator of dicts: ``images`` uint8 ``[rows, S, S, C]`` and ``labels`` uint8
        ``[rows, L, L]``, 0 and 1. Up to two batches per thread are decoded ahead.

    Raises:
        InputError: By the iterator: a record is damaged.
    """
    # Takes a second to import, which only a stream should cost.
    import grain

    def batch(rows: np.ndarray) -> Batch:
        images, labels, _ = zip(*(stored.sample(int(row), sampling) for row in rows), strict=True)
        return {"images": np.stack(images), "labels": np.stack(labels)}

    threads = threads or min(os.cpu_count() or 1, MAX_THREADS)
    # Twice as many batches as threads, so that no thread waits for a slower one.
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    batches = iter(grain.MapDataset.source(list(order)).map(batch).to_iter_dataset(options))
    try:
        yield batches
    finally:
        batches.close()
