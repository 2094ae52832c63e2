"""From pixels to a row of sums per image, from rows to one for the whole set, and to means.

The first happens on the device; the others on the host, in int64 and float64, because a data set
holds more pixels than int32 counts.
"""

from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from jaxseg.types import Array, Valid

Sums = TypeVar("Sums", bound="Additive")


class Additive:
    """A pytree of sums, one row per image or one pooled row, that adds with ``+``."""

    def __add__(self: Sums, other: Sums) -> Sums:
        """Adds entry by entry, in the dtype of the entries; pool first what differs in rows.

        Raises:
            ValueError: the shapes differ.
        """
        if type(other) is not type(self):
            return NotImplemented
        shapes, other_shapes = ([x.shape for x in jax.tree.leaves(sums)] for sums in (self, other))
        if shapes != other_shapes:
            raise ValueError(
                f"{type(self).__name__} of shapes {shapes[0]} and {other_shapes[0]} do not add; "
                "pool each first"
            )
        return jax.tree.map(lambda one, two: one + two, self, other)


class ImageMean(NamedTuple):
    """A mean over images, with how many it is the mean of.

    Attributes:
        mean: float64, 0-d for one value per image, ``[K]`` for one per image and class; NaN where
            no image has a value.
        images: how many images the mean is over; int64 of the same shape.
        undefined: how many had NaN and were left out; int64 of the same shape.
    """

    mean: np.ndarray
    images: np.ndarray
    undefined: np.ndarray


def sum_pixels(pixels: Bool[jax.Array, "B H W *K"] | Float[jax.Array, "B H W *K"]) -> jax.Array:
    """The sum over each image: int32 of bool, float32 of float32, ``[B, *K]``."""
    dtype = jnp.int32 if pixels.dtype == jnp.bool_ else jnp.float32
    # One axis at a time, which on a CPU is faster and holds less than both at once.
    return pixels.sum(axis=2, dtype=dtype).sum(axis=1, dtype=dtype)


def pooled(sums: Sums, *, valid: Valid | None = None) -> Sums:
    """Sums the rows of all images, so that a ratio of the result is over the whole set.

    ``pooled(a) + pooled(b)`` is the pooled sum of two batches, exact for integers. Runs on the
    host, which must hold every row: return the rows from jit, where a sum of int32 would overflow
    at 2**31 pixels, and of several processes gather them first.

    Args:
        sums: Counts, SoftDiceSums or CalibrationSums of one row per image, fields ``[B, ...]``.
        valid: ``[B]`` bool, False on rows that only pad a batch and must not count.

    Returns:
        The same kind of pytree of NumPy arrays without the image axis: int64 from integers, float64
        from floats. Zero where there is no row.

    Raises:
        TypeError: ``valid`` is not bool.
        ValueError: ``sums`` is pooled already, or ``valid`` has another number of rows.

    Examples:
        >>> import numpy as np
        >>> from jaxseg import metrics
        >>> predicted = np.array([[[1, 1, 0, 0]], [[1, 1, 1, 1]]])  # two films of 1 x 4 pixels
        >>> actual = np.array([[[1, 0, 0, 0]], [[1, 1, 1, 0]]])
        >>> counts = metrics.count(predicted, actual, num_classes=1)
        >>> print(metrics.dice(metrics.pooled(counts)))  # 2 * 4 of 6 + 4 pixels
        [0.8]
    """

    def total(rows: Array) -> np.ndarray:
        rows = np.asarray(rows)
        if rows.ndim != 2:
            raise ValueError(f"sums must hold one row per image, [B, ...], got shape {rows.shape}")
        wide = np.int64 if np.issubdtype(rows.dtype, np.integer) else np.float64
        return _valid_rows("sums", rows, valid).sum(axis=0, dtype=wide)

    return jax.tree.map(total, sums)


def mean_over_images(
    values: Float[Array, "N"] | Float[Array, "N K"], *, valid: Valid | None = None
) -> ImageMean:
    """The mean of the values that are defined, and how many were not. Runs on the host.

    A NaN is taken for undefined, also where it tells of a label that is no class or of a network
    that has diverged: there `Counts.outside` is above 0. An infinite value makes the mean infinite.

    Args:
        values: ``[N]`` or ``[N, K]`` floating, one row per image, NaN where undefined.
        valid: ``[N]`` bool, False on rows that only pad a batch: left out, and not undefined.

    Returns:
        The mean over the images, taken in float64, for each class by itself.

    Raises:
        TypeError: ``valid`` is not bool.
        ValueError: ``values`` has neither shape, or ``valid`` has another number of rows.

    Examples:
        >>> import numpy as np
        >>> from jaxseg import metrics
        >>> mean = metrics.mean_over_images(np.array([0.5, 1.0, np.nan]))
        >>> float(mean.mean), int(mean.images), int(mean.undefined)
        (0.75, 2, 1)
    """
    values = np.asarray(values)
    if values.ndim not in (1, 2):
        raise ValueError(f"values must have shape [N] or [N, K], got {values.shape}")
    values = _valid_rows("values", values, valid)
    defined = ~np.isnan(values)
    images = np.asarray(defined.sum(axis=0))
    total = np.where(defined, values, 0).sum(axis=0, dtype=np.float64)
    mean = np.where(images == 0, np.nan, total / np.maximum(images, 1))
    return ImageMean(mean=mean, images=images, undefined=np.asarray((~defined).sum(axis=0)))


def _valid_rows(name: str, rows: np.ndarray, valid: Valid | None) -> np.ndarray:
    if valid is None:
        return rows
    valid = np.asarray(valid)
    if valid.dtype != np.bool_:
        raise TypeError(f"valid must be bool, got {valid.dtype}")
    if valid.shape != rows.shape[:1]:
        raise ValueError(f"valid has shape {valid.shape}, {name} has {rows.shape[0]} rows")
    return rows[valid]
