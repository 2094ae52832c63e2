"""Prediction of large images in overlapping tiles, whose logits are blended.

The network sees batches of tiles of one shape at any image size. It is compiled once, and the
device holds at most two batches. The image's logits are summed on the host. Images are 2-D.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Num

from jaxseg.errors import InputError
from jaxseg.types import Images, Logits


@dataclass(frozen=True)
class Tiling:
    """How images are cut into square tiles, and how the tiles' logits are blended.

    Along each axis a tile's weight is 1, falls toward its inner borders as a squared cosine over
    ``overlap - 2 * margin`` pixels, and is 0 on the last ``margin`` pixels. It does not fall at the
    image border. Weights are divided by their sum at each pixel, so a pixel that only one tile
    covers gets that tile's logits.

    With ``margin`` at least the radius of the network's receptive field and a suitable
    ``multiple``, the result equals the prediction of the whole image. An axis shorter than a tile
    is an exception: it is padded with its edge pixels, where the network would pad with zeros.

    Attributes:
        side: Height and width of a tile in pixels.
        overlap: Least overlap of neighboring tiles in pixels. Tiles are spaced evenly, so they
            often overlap more.
        margin: Pixels along a tile's inner borders that have weight 0.
        multiple: Tiles start at multiples of it, and images are padded to a multiple of it. For a
            U-Net use 2 to the number of its pools, so that pools cover the same pixels as in the
            whole image.

    Raises:
        InputError: A field does not fit the others. The message names it.
    """

    side: int
    overlap: int
    margin: int = 0
    multiple: int = 1

    def __post_init__(self) -> None:
        """Checks that tiles cover an image."""
        side, overlap, margin, multiple = self.side, self.overlap, self.margin, self.multiple
        if multiple < 1 or side < 1 or side % multiple:
            raise InputError(f"tile: {side} pixels. Use a positive multiple of {multiple}.")
        if not 0 <= overlap < side or overlap % multiple:
            raise InputError(
                f"overlap: {overlap} pixels. Use a multiple of {multiple}, at least 0 and below "
                f"the tile's {side}."
            )
        if margin < 0 or (margin and 2 * margin >= overlap):
            raise InputError(f"margin: {margin} pixels. Use less than half the overlap, {overlap}.")

    def starts(self, length: int) -> np.ndarray:
        """Returns the first pixel of each tile of an axis with ``length`` pixels, int64."""
        room = self.padded(length) - self.side
        gaps = -(-room // (self.side - self.overlap))
        if gaps == 0:
            return np.zeros(1, np.int64)
        return np.arange(gaps + 1) * (room // self.multiple) // gaps * self.multiple

    def padded(self, length: int) -> int:
        """Returns the axis length after padding to a multiple and to at least one tile."""
        return max(self.side, -(-length // self.multiple) * self.multiple)

    def weights(self, length: int) -> Float[np.ndarray, "tiles side"]:
        """Returns each tile's weights along an axis, float32. They sum to 1 at every pixel."""
        starts = self.starts(length)
        weights = np.ones((len(starts), self.side))
        if ramp := self.overlap - 2 * self.margin:
            inward = (np.arange(self.side) + 0.5 - self.margin) / ramp
            rise = np.sin(np.pi / 2 * np.clip(inward, 0, 1)) ** 2
            weights[1:] *= rise
            weights[:-1] *= rise[::-1]
        pixels = starts[:, None] + np.arange(self.side)
        total = np.bincount(pixels.ravel(), weights.ravel())
        return (weights / total[pixels]).astype(np.float32)


def predict_tiles(
    predict: Callable[[Images], Logits],
    image: Num[np.ndarray, "H W C"],
    tiling: Tiling,
    *,
    batch_size: int = 8,
) -> Float[np.ndarray, "H W K"]:
    """Returns the logits of an image of any size, predicted in batches of tiles.

    Args:
        predict: Compiled ``images [batch_size, side, side, C] -> logits [batch_size, side, side,
            K]``, called with this shape only.
        image: uint8, or float in [0, 1]. An image that is smaller than a tile, or not a multiple
            of ``tiling.multiple``, is padded with its edge pixels at the bottom and right.
        tiling: How to cut and blend.
        batch_size: Tiles per call of ``predict``, divisible by the number of devices.

    Returns:
        float32 logits at the image's size, on the host: 4 bytes per pixel and channel.

    Examples:
        >>> import numpy as np
        >>> from jaxseg import inference
        >>> image = np.random.default_rng(0).random((50, 70, 1), dtype=np.float32)
        >>> negative = lambda images: 1 - images  # in place of a network
        >>> logits = inference.predict_tiles(negative, image, inference.Tiling(side=32, overlap=8))
        >>> logits.shape, bool(np.abs(logits - negative(image)).max() < 1e-6)
        ((50, 70, 1), True)
    """
    side, (height, width) = tiling.side, image.shape[:2]
    padding = [(0, tiling.padded(length) - length) for length in (height, width)]
    padded = np.pad(image, (*padding, (0, 0)), mode="edge")
    rows, columns = (
        zip(tiling.starts(length), tiling.weights(length), strict=True)
        for length in (height, width)
    )
    windows = list(itertools.product(rows, columns))

    def batches() -> Iterator[Any]:
        for first in range(0, len(windows), batch_size):
            batch = windows[first : first + batch_size]
            tiles = np.zeros((batch_size, side, side, image.shape[2]), image.dtype)
            for tile, ((top, _), (left, _)) in zip(tiles, batch, strict=False):
                tile[:] = padded[top : top + side, left : left + side]
            yield batch, predict(tiles)

    blended: Any = None
    for batch, logits in _one_ahead(batches()):
        if blended is None:
            blended = np.zeros((*padded.shape[:2], logits.shape[3]), np.float32)
        for ((top, down), (left, across)), tile in zip(batch, np.asarray(logits), strict=False):
            weight = down[:, None, None] * across[:, None]
            blended[top : top + side, left : left + side] += weight * tile
    return blended[:height, :width]


def _one_ahead(items: Iterator[Any]) -> Iterator[Any]:
    """Yields each item after the next one was started, so that device and host overlap."""
    pending = next(items)
    for item in items:
        yield pending
        pending = item
    yield pending
