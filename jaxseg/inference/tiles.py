"""Films larger than the network, cut into overlapping tiles whose logits are blended.

The network sees batches of tiles of one shape whatever the film's size, so that it is compiled
once and its memory is that of two batches. The film's own logits are summed up on the host.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Num

from jaxseg.types import Images, InputError, Logits


@dataclass(frozen=True)
class Tiling:
    """How films are cut into square tiles, and how tiles are blended.

    Along each axis a tile's weight is 1, falls towards its inner borders as a squared cosine over
    ``overlap - 2 * margin`` pixels, and is 0 on the last ``margin`` pixels; then the weights of
    the tiles that cover a pixel are divided by their sum. Where one tile alone covers a pixel its
    logits are taken as they are. At the film's own borders nothing falls.

    Attributes:
        side: A tile's height and width in pixels.
        overlap: Pixels that neighbours share at least; tiles are spread evenly, so that they often
            share more.
        margin: Pixels along a tile's inner borders that count for nothing. From the radius of the
            network's receptive field on, and with ``multiple``, tiles give the logits that the
            whole film gives, if it is no shorter than a tile along either axis: a shorter one is
            continued by its edge pixels, where the network would see its own padding.
        multiple: Tiles begin at multiples of it, as does the film's padded end. 2 to the number of
            a U-Net's pools, so that its pools fall on the same pixels as in the whole film.
    """

    side: int
    overlap: int
    margin: int = 0
    multiple: int = 1

    def __post_init__(self) -> None:
        """Refuses tiles that do not cover a film.

        Raises:
            InputError: Naming the field.
        """
        if self.multiple < 1 or self.side < 1 or self.side % self.multiple:
            raise InputError(
                f"tile of {self.side} pixels: should be a positive multiple of {self.multiple}"
            )
        if not 0 <= self.overlap < self.side or self.overlap % self.multiple:
            raise InputError(
                f"overlap of {self.overlap} pixels: should be a multiple of {self.multiple} "
                f"from 0 to below the tile's {self.side}"
            )
        if self.margin < 0 or (self.margin and 2 * self.margin >= self.overlap):
            raise InputError(
                f"margin of {self.margin} pixels: should be below half of the overlap of "
                f"{self.overlap}"
            )

    def starts(self, length: int) -> np.ndarray:
        """Where the tiles of an axis of so many pixels begin, int64, the first at 0."""
        room = self.padded(length) - self.side
        gaps = -(-room // (self.side - self.overlap))
        if gaps == 0:
            return np.zeros(1, np.int64)
        return np.arange(gaps + 1) * (room // self.multiple) // gaps * self.multiple

    def padded(self, length: int) -> int:
        """The axis's length in pixels once it is a multiple and holds a tile."""
        return max(self.side, -(-length // self.multiple) * self.multiple)

    def weights(self, length: int) -> Float[np.ndarray, "tiles side"]:
        """What each tile of an axis counts at each of its pixels; they sum to 1 at every pixel."""
        starts = self.starts(length)
        weights = np.ones((len(starts), self.side))
        if ramp := self.overlap - 2 * self.margin:
            inward = (np.arange(self.side) + 0.5 - self.margin) / ramp
            rise = np.sin(np.pi / 2 * np.clip(inward, 0, 1)) ** 2
            weights[1:] *= rise
            weights[:-1] *= rise[::-1]
        total = np.zeros(self.padded(length))
        for start, weight in zip(starts, weights, strict=True):
            total[start : start + self.side] += weight
        covers = starts[:, None] + np.arange(self.side)
        return (weights / total[covers]).astype(np.float32)


def predict_tiles(
    predict: Callable[[Images], Logits],
    film: Num[np.ndarray, "H W C"],
    tiling: Tiling,
    *,
    rows: int = 8,
) -> Float[np.ndarray, "H W K"]:
    """Gives the logits of a film of any size from batches of tiles.

    Args:
        predict: ``images [rows, side, side, C] -> logits [rows, side, side, K]``, compiled; it is
            called with this shape alone. Its result may still be under way.
        film: uint8, or float in [0, 1]. Where it is smaller than a tile, or no multiple of
            ``tiling.multiple``, its edge pixels are repeated at the bottom and right, as `UNet`
            does.
        tiling: The tiles.
        rows: Tiles at once, an even share for every device.

    Returns:
        float32 logits at the film's own size, on the host: 4 bytes a pixel and class.

    Examples:
        >>> import numpy as np
        >>> from jaxseg import inference
        >>> film = np.random.default_rng(0).random((50, 70, 1), dtype=np.float32)
        >>> negative = lambda images: 1 - images  # in place of a network
        >>> logits = inference.predict_tiles(negative, film, inference.Tiling(side=32, overlap=8))
        >>> logits.shape, bool(np.abs(logits - negative(film)).max() < 1e-6)
        ((50, 70, 1), True)
    """
    height, width = film.shape[:2]
    padding = [(0, tiling.padded(side) - side) for side in (height, width)]
    padded = np.pad(film, (*padding, (0, 0)), mode="edge")
    places = list(
        itertools.product(
            zip(tiling.starts(height), tiling.weights(height), strict=True),
            zip(tiling.starts(width), tiling.weights(width), strict=True),
        )
    )
    blended = None
    for batch, logits in _one_ahead(predict, padded, places, tiling.side, rows):
        if blended is None:
            blended = np.zeros((*padded.shape[:2], logits.shape[-1]), np.float32)
        for ((top, down), (left, across)), tile in zip(batch, logits, strict=False):
            area = blended[top : top + tiling.side, left : left + tiling.side]
            area += (down[:, None] * across[None])[..., None] * tile
    assert blended is not None, "a film has at least one tile"
    return blended[:height, :width]


def _one_ahead(
    predict: Callable[[Images], Logits], padded: np.ndarray, places: list, side: int, rows: int
) -> Iterator[tuple[list, np.ndarray]]:
    """Batches of places with their logits; the next batch is under way while one is blended."""
    pending = None
    for first in range(0, len(places), rows):
        batch = places[first : first + rows]
        tiles = np.zeros((rows, side, side, padded.shape[2]), padded.dtype)
        for tile, ((top, _), (left, _)) in zip(tiles, batch, strict=False):
            tile[:] = padded[top : top + side, left : left + side]
        under_way = predict(tiles)
        if pending is not None:
            yield pending[0], np.asarray(pending[1])
        pending = batch, under_way
    if pending is not None:
        yield pending[0], np.asarray(pending[1])
