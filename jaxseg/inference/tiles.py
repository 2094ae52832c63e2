"""Prediction of large images in overlapping tiles, whose logits are blended.

The network sees batches of tiles of one shape at any image size. It is compiled once, and the
device holds at most two batches. The image's logits are summed on the host. Images are 2-D.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import jax
import numpy as np
from jaxtyping import Float, Num

from jaxseg.errors import InputError
from jaxseg.types import Array, Images


@dataclass(frozen=True)
class Tiling:
    """How images are cut into tiles, and how the tiles' logits are blended.

    Tiles start at evenly spaced pixels, rounded to a `multiple`. With ``multiple=1`` they are
    nnU-Net's ``compute_steps_for_sliding_window`` (Isensee et al. 2021) with the step
    ``side - overlap``. There are two blends:

    - ``"cosine"``: along each axis a tile's weight is 1, falls toward its inner borders as a
      squared cosine over ``overlap - 2 * margin`` pixels, and is 0 on the last ``margin`` pixels.
      It does not fall at the image border.
    - ``"gaussian"``: along each axis a tile's weight is a Gaussian about its center with the
      standard deviation ``side / 8``, and 0 on the last ``margin`` pixels of inner borders. MONAI's
      ``sliding_window_inference(mode="gaussian")`` differs where the product of the weights is
      below 0.001, its lower bound. nnU-Net centers it half a pixel further along an even side.

    Weights are divided by their sum at each pixel, so a pixel that only one tile covers gets that
    tile's logits.

    With ``margin`` at least the radius of the network's receptive field and a suitable
    ``multiple``, the result equals the prediction of the whole image. An axis shorter than a tile
    is an exception: it is padded with its edge pixels, where the network would pad with zeros.

    Attributes:
        side: Height and width of a tile in pixels, one number for a square.
        overlap: Least overlap of neighboring tiles in pixels, along height and width or one number
            for both. Tiles are spaced evenly, so they often overlap more.
        margin: Pixels along a tile's inner borders that have weight 0.
        multiple: Tiles start at multiples of it, and images are padded to a multiple of it. For a
            U-Net use 2 to the power of the number of its poolings, so that poolings cover the same
            pixels as in the whole image.
        blend: ``"cosine"`` or ``"gaussian"``.

    Raises:
        InputError: A field does not fit the others. The message names it.
    """

    side: int | tuple[int, int]
    overlap: int | tuple[int, int]
    margin: int = 0
    multiple: int = 1
    blend: Literal["cosine", "gaussian"] = "cosine"

    def __post_init__(self) -> None:
        """Checks that tiles cover an image."""
        margin, multiple = self.margin, self.multiple
        if self.blend not in ("cosine", "gaussian"):
            raise InputError(f"blend: {self.blend!r}. Use 'cosine' or 'gaussian'.")
        for side, overlap in zip(self.sides, _pair(self.overlap), strict=True):
            if multiple < 1 or side < 1 or side % multiple:
                raise InputError(f"tile: {side} pixels. Use a positive multiple of {multiple}.")
            if not 0 <= overlap < side or overlap % multiple:
                raise InputError(
                    f"overlap: {overlap} pixels. Use a multiple of {multiple}, at least 0 and "
                    f"below the tile's {side}."
                )
            if margin < 0 or (margin and 2 * margin >= overlap):
                raise InputError(
                    f"margin: {margin} pixels. Use less than half the overlap, {overlap}."
                )

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width of a tile."""
        return _pair(self.side)

    def starts(self, length: int, *, axis: int = 0) -> np.ndarray:
        """Returns the first pixel of each tile of an axis with ``length`` pixels, int64.

        ``axis`` is 0 along the height and 1 along the width, also in the other methods.
        """
        side = self.sides[axis]
        room = self.padded(length, axis=axis) - side
        gaps = -(-room // (side - _pair(self.overlap)[axis]))
        steps = np.linspace(0, room // self.multiple, gaps + 1)
        return np.round(steps).astype(np.int64) * self.multiple

    def padded(self, length: int, *, axis: int = 0) -> int:
        """Returns the axis length after padding to a multiple and to at least one tile."""
        return max(self.sides[axis], -(-length // self.multiple) * self.multiple)

    def weights(self, length: int, *, axis: int = 0) -> Float[np.ndarray, "tiles side"]:
        """Returns each tile's weights along an axis, float32. They sum to 1 at every pixel."""
        side, starts = self.sides[axis], self.starts(length, axis=axis)
        weights = np.ones((len(starts), side))
        ramp = _pair(self.overlap)[axis] - 2 * self.margin
        inward = np.arange(side) + 0.5 - self.margin
        if self.blend == "gaussian":
            weights *= np.exp(-0.5 * ((np.arange(side) - (side - 1) / 2) / (side / 8)) ** 2)
            ramp = 0
        rise = np.sin(np.pi / 2 * np.clip(inward / ramp, 0, 1)) ** 2 if ramp else inward > 0
        weights[1:] *= rise
        weights[:-1] *= rise[::-1]
        pixels = starts[:, None] + np.arange(side)
        total = np.bincount(pixels.ravel(), weights.ravel())
        return (weights / total[pixels]).astype(np.float32)


def predict_tiles(
    predict: Callable[[Images], Any],
    image: Num[np.ndarray, "H W C"],
    tiling: Tiling,
    *,
    batch_size: int = 8,
) -> Any:
    """Returns the logits of an image of any size, predicted in batches of tiles.

    Args:
        predict: Compiled ``images [batch_size, *tiling.sides, C] -> logits [batch_size,
            *tiling.sides, K]``, called with this shape only. It may return a tuple or any other
            pytree of such logits, each with its own K.
        image: uint8, or float in [0, 1]. An image that is smaller than a tile, or not a multiple
            of ``tiling.multiple``, is padded with its edge pixels at the bottom and right.
        tiling: How to cut and blend.
        batch_size: Tiles per call of ``predict``, divisible by the number of devices.

    Returns:
        float32 logits ``[H, W, K]`` at the image's size, on the host: 4 bytes per pixel and
        channel. If ``predict`` returns a pytree, the same pytree of logits.

    Raises:
        ValueError: An output of ``predict`` is not at the tiles' size, such as the coarse logits
            of deep supervision.

    Examples:
        >>> import numpy as np
        >>> from jaxseg import inference
        >>> image = np.random.default_rng(0).random((50, 70, 1), dtype=np.float32)
        >>> negative = lambda images: 1 - images  # in place of a network
        >>> logits = inference.predict_tiles(negative, image, inference.Tiling(side=32, overlap=8))
        >>> logits.shape, bool(np.abs(logits - negative(image)).max() < 1e-6)
        ((50, 70, 1), True)
    """
    sides, lengths = tiling.sides, image.shape[:2]
    size = tuple(tiling.padded(length, axis=axis) for axis, length in enumerate(lengths))
    padding = [(0, after - before) for after, before in zip(size, lengths, strict=True)]
    padded = np.pad(image, (*padding, (0, 0)), mode="edge")
    rows, columns = (
        zip(tiling.starts(length, axis=axis), tiling.weights(length, axis=axis), strict=True)
        for axis, length in enumerate(lengths)
    )
    windows = [
        ((slice(top, top + sides[0]), slice(left, left + sides[1])), (down, across))
        for (top, down), (left, across) in itertools.product(rows, columns)
    ]

    def batches() -> Iterator[Any]:
        for first in range(0, len(windows), batch_size):
            batch = windows[first : first + batch_size]
            tiles = np.zeros((batch_size, *sides, image.shape[2]), image.dtype)
            for tile, (window, _) in zip(tiles, batch, strict=False):
                tile[:] = padded[window]
            yield batch, predict(tiles)

    def empty(logits: Array) -> np.ndarray:
        if logits.shape[1:-1] != sides:
            raise ValueError(f"logits have shape {logits.shape}, but tiles have size {sides}")
        return np.zeros((*size, logits.shape[-1]), np.float32)

    blended: Any = None
    for batch, outputs in _one_ahead(batches()):
        if blended is None:
            blended = jax.tree.map(empty, outputs)
        for total, logits in zip(jax.tree.leaves(blended), jax.tree.leaves(outputs), strict=True):
            for (window, (down, across)), tile in zip(batch, np.asarray(logits), strict=False):
                total[window] += down[:, None, None] * across[:, None] * tile
    return jax.tree.map(lambda total: total[: lengths[0], : lengths[1]], blended)


def _pair(number: int | tuple[int, int]) -> tuple[int, int]:
    return number if isinstance(number, tuple) else (number, number)


def _one_ahead(items: Iterator[Any]) -> Iterator[Any]:
    """Yields each item after the next one was started, so that device and host overlap."""
    pending = next(items)
    for item in items:
        yield pending
        pending = item
    yield pending
