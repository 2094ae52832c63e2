"""Reads single images of a prepared dataset, in a fixed order."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from jaxseg.data.archive import CLASSES
from jaxseg.data.images import read_mask
from jaxseg.data.sampling import Sampling
from jaxseg.data.splits import SPLITS, natural_key
from jaxseg.errors import InputError

if TYPE_CHECKING:
    from jaxseg.data.covid_radiography import Builder


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
        # TFDS's decorators hide the arguments of as_data_source from type checkers.
        open_split: Any = builder.as_data_source
        self._folder = Path(builder.data_dir)
        self._splits = {
            split: open_split(split, decoders=skip)
            for split in SPLITS
            if builder.info.splits[split].num_examples
        }
        self.records = []
        for split, examples in self._splits.items():
            for index in range(len(examples)):
                example = self._example(split, index)
                name, source = example["id"].decode(), example["source"].decode()
                self.records.append(Record(name, CLASSES[example["class"]], source, split, index))
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
        record = self.records[index]
        example = self._example(record.split, record.position)
        return example["image"], example["mask"]

    def sample(self, index: int, sampling: Sampling) -> Sample:
        """Decodes an image and its mask; several threads may.

        Args:
            index: Position in ``records``.
            sampling: The sizes.

        Raises:
            InputError: The record is damaged.
        """
        name = self.records[index].id
        image, mask = self.files(index)
        labels = read_mask(mask, name=f"mask of {name}", verify=False).labels
        return Sample(
            sampling.image(image, name=name, verify=False), sampling.label(labels), labels
        )

    def _example(self, split: str, index: int) -> Any:
        try:
            return self._splits[split][index]
        # array_record's reader raises RuntimeError, whatever is wrong with the file.
        except RuntimeError as error:
            raise InputError(
                f"{self._folder}: record {index} of {split} is damaged ({error}). Remove the "
                "folder to prepare it again"
            ) from error
