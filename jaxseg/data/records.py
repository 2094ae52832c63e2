"""The films of a prepared data set, each found by its number and decoded when it is asked for.

What fills the array cache and what streams both read them here, so that both have the same films
in the same order.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import UInt8

from jaxseg.data.archive import RELEASE_COUNTS
from jaxseg.data.cache import Pair
from jaxseg.data.films import (
    Resize,
    decode_film,
    decode_mask,
    decode_resized_film,
    resize_film,
    resize_mask,
)
from jaxseg.data.preprocessing import Preprocessing, preprocess
from jaxseg.data.splits import SPLITS, natural_key
from jaxseg.errors import InputError

if TYPE_CHECKING:
    import jaxseg.data.covid_radiography


@dataclass(frozen=True)
class Record:
    """One film's facts, and its place in the prepared data set."""

    id: str
    class_name: str
    source: str
    split: str
    index: int


class StoredFilms:
    """Every film of a prepared data set once, in natural order of class and number.

    Attributes:
        records: the films' facts.
    """

    def __init__(self, builder: "jaxseg.data.covid_radiography.Builder"):
        """Reads every record once, without decoding it.

        Args:
            builder: a prepared ``covid_radiography`` builder.

        Raises:
            InputError: a record is damaged.
        """
        self._folder = Path(builder.data_dir)
        self._splits = {
            split: _undecoded(builder, split)
            for split in SPLITS
            if builder.info.splits[split].num_examples
        }
        self.records = [
            self._record(split, index)
            for split, examples in self._splits.items()
            for index in range(len(examples))
        ]
        self.records.sort(key=lambda record: natural_key(record.id))

    def __len__(self) -> int:
        return len(self.records)

    def pair(
        self,
        index: int,
        *,
        size: int,
        label_size: int | None,
        film_resize: Resize,
        preprocessing: Preprocessing,
    ) -> Pair:
        """Decodes a film and its mask; safe to call from several threads.

        Args:
            index: the film's place in ``records``.
            size: the side in pixels that the film is resized to.
            label_size: the side that its labels are resized to; None for the film's.
            film_resize: how films are resized; masks always nearest.
            preprocessing: what is done to a film's grey values before it is resized.

        Raises:
            InputError: the film's record is damaged.
        """
        record = self.records[index]
        film_file, mask_file = self.files(index)
        mask = decode_mask(mask_file, f"mask of {record.id}")
        if preprocessing == "none":
            film = decode_resized_film(film_file, record.id, size, film_resize)
        else:
            film = preprocess(decode_film(film_file, record.id), preprocessing)
        return at_size(film, mask, size, label_size, film_resize)

    def files(self, index: int) -> tuple[bytes, bytes]:
        """A film's and its mask's PNG files, as they are stored.

        Args:
            index: the film's place in ``records``.

        Raises:
            InputError: the film's record is damaged.
        """
        record = self.records[index]
        example = self._example(record.split, record.index, f", the record of {record.id}")
        return example["image"], example["mask"]

    def _record(self, split: str, index: int) -> Record:
        example = self._example(split, index, "")
        return Record(
            id=example["id"].decode(),
            class_name=tuple(RELEASE_COUNTS)[example["class"]],
            source=example["source"].decode(),
            split=split,
            index=index,
        )

    def _example(self, split: str, index: int, which: str) -> Mapping[str, Any]:
        try:
            return self._splits[split][index]
        # What array_record's reader raises, whatever is wrong with the file.
        except RuntimeError as error:
            raise InputError(
                f"{self._folder}: record {index} of {split}{which} is damaged ({error}); "
                "remove the folder to have it prepared again"
            ) from error


def at_size(
    film: UInt8[np.ndarray, "H W"],
    mask: UInt8[np.ndarray, "Hm Wm"],
    size: int,
    label_size: int | None,
    film_resize: Resize,
) -> Pair:
    """A film at the network's size, its labels at theirs, and the mask as it is."""
    label = resize_mask(mask, size if label_size is None else label_size)
    return Pair(resize_film(film, size, film_resize), label, mask)


# TFDS's decorators hide the arguments of as_data_source from type checkers: hence the first Any. A
# sequence's type is checked in tests by looking at items, of which one may be damaged: the second.
def _undecoded(builder: Any, split: str) -> Any:
    """One split of the prepared data set, a sequence of examples, pictures as files' bytes."""
    import tensorflow_datasets as tfds

    undecoded = {"image": tfds.decode.SkipDecoding(), "mask": tfds.decode.SkipDecoding()}
    return builder.as_data_source(split, decoders=undecoded)
