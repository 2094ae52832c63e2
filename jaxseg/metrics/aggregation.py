"""Sums over pixels, sums over images, and means over images and classes.

Pixels are summed on the device, one row per image. Images are summed on the host in int64 and
float64, because a dataset has more pixels than int32 can count.
"""

import math
from typing import Literal, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxseg.types import Array, Valid

Infinite = Literal["keep", "exclude"] | float
"""What to do with infinite values: keep them, leave them out, or replace them by a number."""

Tree = TypeVar("Tree")


class ImageMean(NamedTuple):
    """A mean over images, and the number of images in it.

    Attributes:
        mean: float64, 0-d for one value per image, ``[K]`` for one per image and class. NaN if no
            image has a value.
        images: Number of images in the mean, int64 of the same shape.
        undefined: Number of images left out because their value is NaN (or infinite, with
            ``infinite="exclude"``), int64 of the same shape.
    """

    mean: np.ndarray
    images: np.ndarray
    undefined: np.ndarray


def sum_pixels(values: jax.Array) -> jax.Array:
    """Returns sums over the spatial axes, ``[B, *spatial, K]`` to ``[B, K]``.

    bool gives int32, float32 stays float32. Summing one axis at a time loses fewer digits of
    float32 than summing all at once.
    """
    dtype = jnp.int32 if values.dtype == jnp.bool_ else values.dtype
    for _ in range(values.ndim - 2):
        values = values.sum(axis=1, dtype=dtype)
    return values


def pooled(sums: Tree, *, valid: Valid | None = None) -> Tree:
    """Returns the sums over all images, so that a ratio of them is over the whole set.

    Runs on the host, which needs every row: return the rows from jit, and in a run of several
    processes gather them first. Sums inside jit would overflow int32 at 2**31 pixels. Pooled sums
    of two batches add exactly: ``jax.tree.map(np.add, pooled(a), pooled(b))``.

    Args:
        sums: `Counts`, `SoftDiceSums`, `CalibrationSums`, confusion matrices, or any pytree of
            arrays ``[B, ...]`` of two or more axes with one row per image.
        valid: ``[B]`` bool, False on the padding rows of a batch, which are left out.

    Returns:
        The same pytree without the image axis, as NumPy arrays: int64 from integers, float64 from
        floats. Zero if there is no row.

    Raises:
        TypeError: ``valid`` is not bool.
        ValueError: ``sums`` are pooled already, or ``valid`` has another number of rows.

    Examples:
        >>> import numpy as np
        >>> from jaxseg import metrics
        >>> predicted = np.array([[[1, 1, 0, 0]], [[1, 1, 1, 1]]])  # two images of 1 x 4 pixels
        >>> actual = np.array([[[1, 0, 0, 0]], [[1, 1, 1, 0]]])
        >>> counts = metrics.count(predicted, actual, num_classes=1)
        >>> print(metrics.dice(metrics.pooled(counts)))  # 2 * 4 / (6 + 4)
        [0.8]
    """

    def total(rows: Array) -> np.ndarray:
        rows = np.asarray(rows)
        if rows.ndim < 2:
            raise ValueError(f"sums must have one row per image, [B, ...], got shape {rows.shape}")
        wide = np.int64 if np.issubdtype(rows.dtype, np.integer) else np.float64
        return _valid_rows("sums", rows, valid).sum(axis=0, dtype=wide)

    return jax.tree.map(total, sums)


def mean_over_images(
    values: Float[Array, "N"] | Float[Array, "N K"],
    *,
    valid: Valid | None = None,
    infinite: Infinite = "keep",
) -> ImageMean:
    """Returns the mean of the defined values and the number of undefined ones.

    NaN means undefined. It is also the score of an image with a label that is no class and of a
    diverged network; `Counts.outside` is above 0 there. Runs on the host.

    Args:
        values: ``[N]`` or ``[N, K]`` floating, one row per image, NaN where undefined.
        valid: ``[N]`` bool, False on padding rows. They are left out and not counted as undefined.
        infinite: ``"keep"``, ``"exclude"`` or a number that replaces infinite values, such as the
            surface distances of a missed object; see `jaxseg.metrics`.

    Returns:
        The mean over the images in float64, for each class separately.

    Raises:
        TypeError: ``valid`` is not bool.
        ValueError: ``values`` has another shape, or ``valid`` another number of rows.

    Examples:
        >>> import numpy as np
        >>> from jaxseg import metrics
        >>> mean = metrics.mean_over_images(np.array([0.5, 1.0, np.nan]))
        >>> float(mean.mean), int(mean.images), int(mean.undefined)
        (0.75, 2, 1)
        >>> hd95 = np.array([2.0, 4.0, np.inf])  # the third object was missed
        >>> [float(metrics.mean_over_images(hd95, infinite=x).mean) for x in ("exclude", 30.0)]
        [3.0, 12.0]
    """
    values = np.asarray(values)
    if values.ndim not in (1, 2):
        raise ValueError(f"values must have shape [N] or [N, K], got {values.shape}")
    values = replace_infinite(_valid_rows("values", values, valid).astype(np.float64), infinite)
    images = np.asarray((~np.isnan(values)).sum(axis=0))
    return ImageMean(np.asarray(_mean_of_defined(values, axis=0)), images, len(values) - images)


def mean_over_classes(
    values: Float[Array, "*dims K"], *, infinite: Infinite = "keep"
) -> Float[Array, "*dims"]:
    """Returns the mean over the classes that are defined, ``[..., K]`` to ``[...]``.

    Args:
        values: ``[..., K]`` floating, one value per class, NaN where undefined. Drop the
            background first if it should not count: ``values[..., 1:]``.
        infinite: As for `mean_over_images`.

    Returns:
        ``[...]`` of the same dtype, a JAX array from JAX values and NumPy from NumPy. NaN where no
        class is defined.

    Examples:
        >>> import numpy as np
        >>> from jaxseg import metrics
        >>> print(metrics.mean_over_classes(np.array([[0.5, 1.0, np.nan], [np.nan] * 3])))
        [0.75  nan]
    """
    return _mean_of_defined(replace_infinite(values, infinite), axis=-1)


def replace_infinite(values: Array, infinite: Infinite) -> Array:
    """Returns the values with infinite ones kept, set to NaN or replaced by a number."""
    if infinite == "keep":
        return values
    if isinstance(infinite, str) and infinite != "exclude":
        raise ValueError(f'infinite must be "keep", "exclude" or a number, got {infinite!r}')
    xp = jnp if isinstance(values, jax.Array) else np
    replacement = math.nan if infinite == "exclude" else float(infinite)
    return xp.where(xp.isinf(values), replacement, values)


def _mean_of_defined(values: Array, axis: int) -> Array:
    xp = jnp if isinstance(values, jax.Array) else np
    defined = ~xp.isnan(values)
    number = defined.sum(axis=axis).astype(values.dtype)
    with np.errstate(invalid="ignore"):  # inf - inf is NaN, as it should be.
        total = xp.where(defined, values, 0).sum(axis=axis)
    return xp.asarray(total / xp.where(number == 0, math.nan, number))


def _valid_rows(name: str, rows: np.ndarray, valid: Valid | None) -> np.ndarray:
    if valid is None:
        return rows
    valid = np.asarray(valid)
    if valid.dtype != np.bool_:
        raise TypeError(f"valid must be bool, got {valid.dtype}")
    if valid.shape != rows.shape[:1]:
        raise ValueError(f"valid has shape {valid.shape}, {name} has {rows.shape[0]} rows")
    return rows[valid]
