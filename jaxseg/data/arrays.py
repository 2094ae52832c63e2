"""Images and masks as uint8 arrays, kept in a cache on disk.

Decoding and resizing the whole release takes a minute; reading it back takes a second.
"""

import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, UInt8

from jaxseg.data.images import Resize
from jaxseg.data.preprocessing import Preprocessing
from jaxseg.data.sampling import Sampling
from jaxseg.data.stream import StoredImages
from jaxseg.data.threads import Progress, in_threads
from jaxseg.errors import InputError

if TYPE_CHECKING:
    from jaxseg.data.covid_radiography import Builder

_ARRAYS = ("images", "labels", "masks")

_LAYOUT = 5
"""Part of the cache's name; raise it when the cached files change."""


class MaskFiles:
    """Masks at their own sizes, read from their files when they are asked for.

    Attributes:
        sizes: Height and width of every mask.
    """

    def __init__(self, sizes: Sequence[tuple[int, int]], read: Callable[[int], np.ndarray]):
        """Keeps the sizes and the reader; reads no file yet.

        Args:
            sizes: Height and width of every mask.
            read: Reads the mask of an index as uint8 class ids.
        """
        self.sizes, self._read = list(sizes), read

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int) -> UInt8[np.ndarray, "H W"]:
        return self._read(range(len(self.sizes))[index])


@dataclass(frozen=True, eq=False)
class ImageArrays:
    """Every image of a dataset once, in natural order of the names.

    Attributes:
        images: uint8 ``[N, S, S, C]``, 0 to 255.
        labels: uint8 ``[N, L, L]``, class ids at the training size.
        masks: The class ids at the masks' own sizes, uint8: ``[N, H, W]``, or a sequence of
            ``[H, W]`` that is read from disk. Ignored pixels are `jaxseg.data.images.IGNORED`.
        ids: The images' names.
        classes: The class of every image, or empty text.
        sources: The source of every image, or empty text.
        split: ``train``, ``validation`` or ``test`` for every image.
        groups: The id of the first image of every image's group. Images of a group share a split.
        where: bool ``[N, L, L]``, False on ignored pixels; None if no pixel is ignored.
    """

    images: UInt8[np.ndarray, "N S S C"]
    labels: UInt8[np.ndarray, "N L L"]
    masks: UInt8[np.ndarray, "N H W"] | MaskFiles
    ids: list[str]
    classes: list[str]
    sources: list[str]
    split: list[str]
    groups: list[str]
    where: Bool[np.ndarray, "N L L"] | None = None

    def mask_size(self, index: int) -> tuple[int, int]:
        """Height and width of an image's mask."""
        if isinstance(self.masks, MaskFiles):
            return self.masks.sizes[index]
        _, height, width = self.masks.shape
        return height, width

    def trained_on(self) -> dict[str, np.ndarray]:
        """The arrays of a batch: ``images``, ``labels`` and, if there is one, ``where``."""
        arrays = {"images": self.images, "labels": self.labels}
        return arrays if self.where is None else arrays | {"where": self.where}


def load_arrays(
    builder: "Builder",
    *,
    size: int,
    label_size: int | None = None,
    channels: int = 1,
    resize: Resize = "bilinear",
    preprocessing: Preprocessing = "none",
    cache_dir: Path | str | None = None,
    progress: Progress | None = None,
) -> ImageArrays:
    """Returns all images of a prepared dataset at one size, memory-mapped from a cache on disk.

    The cache is keyed by the archive's fingerprint, the config, the builder's version and the
    sampling. It appears when it is complete and stored on the disk.

    Args:
        builder: A prepared ``covid_radiography`` builder.
        size: See `jaxseg.data.sampling.Sampling`, as the next four.
        label_size: Height and width of labels.
        channels: 1 or 3.
        resize: How images are resized.
        preprocessing: A change of gray values before resizing.
        cache_dir: The folder of the cache. Default: next to the prepared data.
        progress: Called after every image that is written to the cache.

    Returns:
        The images of all splits. The arrays are read-only.

    Raises:
        InputError: The sampling is invalid or needs scikit-image, the cache's folder is full or
            cannot be written to, or the cache or a record of the dataset is damaged.
        ValueError: The builder is not prepared.
    """
    sampling = Sampling(size, label_size, channels, resize, preprocessing)
    prepared = Path(builder.data_dir)
    if not (prepared / "dataset_info.json").exists():
        raise ValueError(f"{builder.info.full_name} is not prepared: call prepare() first")
    root = Path(cache_dir).expanduser() if cache_dir else prepared.parents[2] / "arrays"
    key = (builder.fingerprint[:16], *prepared.parts[-2:], size, label_size or size, channels,
           resize, preprocessing, _LAYOUT)  # fmt: skip
    directory = root / "-".join(map(str, key))
    try:
        if not directory.exists():
            _write(directory, builder, sampling, progress)
    except OSError as error:
        # Another process may have finished first.
        if not directory.exists():
            raise InputError(f"{root}: cannot be written to ({error})") from error
    try:
        arrays = {name: np.load(directory / f"{name}.npy", mmap_mode="r") for name in _ARRAYS}
        return ImageArrays(**arrays, **json.loads((directory / "images.json").read_text()))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{directory}: is damaged ({error}). Remove the folder to write it again"
        ) from error


def _write(
    directory: Path, builder: "Builder", sampling: Sampling, progress: Progress | None
) -> None:
    """Writes the cache in a temporary folder and renames that when it is complete."""
    stored = StoredImages(builder)
    ids, classes, sources, split, groups, _ = zip(*stored.records, strict=True)
    metadata = {"ids": ids, "classes": classes, "sources": sources, "split": split,
                "groups": groups}  # fmt: skip
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=f".{directory.name}-") as scratch:
        complete = Path(scratch) / directory.name
        complete.mkdir()
        (complete / "images.json").write_text(json.dumps(metadata))
        sample = partial(stored.sample, sampling=sampling)
        with contextlib.ExitStack() as stack:
            # Not a memory map: on a full disk, writing to one kills the process.
            files = [stack.enter_context((complete / f"{name}.npy").open("wb")) for name in _ARRAYS]
            for file, array in zip(files, sample(0), strict=True):
                shape = (len(stored), *array.shape)
                header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
            for arrays in in_threads(sample, range(len(stored)), progress):
                for file, array in zip(files, arrays, strict=True):
                    file.write(array.tobytes())
        for file in complete.iterdir():
            with file.open("rb+") as written:
                os.fsync(written)
        complete.rename(directory)
