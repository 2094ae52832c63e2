"""A folder on disk that keeps films and masks as arrays: there in full or not there at all.

It is written beside its place and moved there once it is whole, and every file's checksum is
compared when it is read.
"""

import contextlib
import json
import shutil
import tempfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from jaxseg.data.threads import in_threads

_ARRAYS = ("images.npy", "labels.npy", "masks.npy")
_FACTS = "films.json"
_CHECKSUMS = "crc32.json"


class Pair(NamedTuple):
    """A film at the network's size, its labels at theirs, and the mask on its own grid."""

    image: UInt8[np.ndarray, "S S"]
    label: UInt8[np.ndarray, "L L"]
    mask: UInt8[np.ndarray, "Hm Wm"]


def write(directory: Path, pairs: Iterable[Pair], *, count: int, facts: Mapping) -> None:
    """Writes the folder; one that is there already and damaged is replaced.

    Args:
        directory: the folder's place.
        pairs: the films, written as they come; one or more, their masks of one size.
        count: how many pairs there are.
        facts: what else to keep, as JSON has it.

    Raises:
        ValueError: the masks' sizes differ.
        OSError: the disk is full or cannot be written to, or another process has put a whole
            folder there meanwhile.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=f".{directory.name}-") as beside:
        whole = Path(beside) / directory.name
        whole.mkdir()
        _write_arrays(whole, pairs, count)
        (whole / _FACTS).write_text(json.dumps(facts))
        (whole / _CHECKSUMS).write_text(json.dumps(_checksums(whole)))
        if directory.exists() and not is_whole(directory):
            shutil.rmtree(directory)
        whole.rename(directory)


def is_whole(directory: Path) -> bool:
    """Whether the folder is there and every byte in it is as it was written; reads all of it."""
    try:
        return json.loads((directory / _CHECKSUMS).read_text()) == _checksums(directory)
    except (OSError, ValueError):
        return False


def read(directory: Path) -> dict[str, Any]:
    """Opens a whole folder.

    Returns:
        The facts, and memory-mapped, read-only ``images`` uint8 ``[N, S, S, 1]``, ``labels`` uint8
        ``[N, L, L]`` and ``masks`` uint8 ``[N, Hm, Wm]``.
    """
    facts = json.loads((directory / _FACTS).read_text())
    images, labels, masks = (np.load(directory / name, mmap_mode="r") for name in _ARRAYS)
    return {"images": images, "labels": labels, "masks": masks, **facts}


def _write_arrays(folder: Path, pairs: Iterable[Pair], count: int) -> None:
    """Writes the three arrays pair by pair.

    Plain writes, not a memory map: on a full disk these raise, a map kills the process.
    """
    grid = None
    with contextlib.ExitStack() as stack:
        images, labels, masks = (stack.enter_context((folder / n).open("wb")) for n in _ARRAYS)
        for pair in pairs:
            if grid is None:
                grid = pair.mask.shape
                _write_header(images, (count, *pair.image.shape, 1))
                _write_header(labels, (count, *pair.label.shape))
                _write_header(masks, (count, *grid))
            if pair.mask.shape != grid:
                raise ValueError(f"masks of {grid} and of {pair.mask.shape}")
            images.write(pair.image.tobytes())
            labels.write(pair.label.tobytes())
            masks.write(pair.mask.tobytes())


def _write_header(file: IO[bytes], shape: tuple[int, ...]) -> None:
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


def _checksums(folder: Path) -> dict[str, int]:
    files = [folder / name for name in (*_ARRAYS, _FACTS)]
    checksums = in_threads(_checksum, files)
    return {file.name: checksum for file, checksum in zip(files, checksums, strict=True)}


def _checksum(path: Path) -> int:
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            checksum = zlib.crc32(block, checksum)
    return checksum
