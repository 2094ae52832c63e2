"""Hausdorff distance, average surface distance and normalized surface Dice."""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float

from jaxseg.surface.boundary import Mask, find_boundaries
from jaxseg.surface.checks import Convention, Spacing, check_arguments
from jaxseg.surface.distances import SurfaceDistances
from jaxseg.surface.nearest import distances_between
from jaxseg.surface.packed import count_true
from jaxseg.types import Array, PerImage

Result = TypeVar("Result")


def hausdorff(
    predicted: Mask,
    actual: Mask,
    *,
    where: Mask | None = None,
    percentile: float | int = 100.0,
    spacing: Spacing = (1.0, 1.0),
    convention: Convention = "monai",
) -> PerImage:
    """Hausdorff distance (HD), or a percentile of it such as HD95.

    The larger of two one-way percentiles. One way, it is the percentile of the distances from one
    boundary to the nearest element of the other. Percentile 100 is the classical Hausdorff
    distance; 95 is HD95. Agrees with MONAI's ``compute_hausdorff_distance`` or, with
    ``convention="surface-distance"``, with that library's ``compute_robust_hausdorff``.

    Args:
        predicted: bool ``[B, H, W]``.
        actual: bool ``[B, H, W]``.
        where: bool ``[B, H, W]``, True on valid pixels. Invalid pixels create no boundary (see
            `jaxseg.surface`). Default: all pixels are valid.
        percentile: 0 to 100, rounded to 0.001 in the MONAI convention.
        spacing: Distance between neighboring rows and between neighboring columns, positive. One
            pair, or ``[B, 2]`` with one pair per image.
        convention: Definition of the boundary and the percentile (see `jaxseg.surface`).

    Returns:
        float32 ``[B]`` in the unit of ``spacing``. NaN if both masks have no boundary
        (surface-distance gives infinity). Infinite if only one of them has none (below percentile
        100 MONAI gives NaN there).

    Raises:
        TypeError: A mask is not boolean.
        ValueError: The masks differ in shape, are not ``[B, H, W]`` or have no pixel; an option
            is out of range.

    Examples:
        >>> import numpy as np
        >>> from jaxseg import surface
        >>> actual = np.zeros((1, 16, 16), bool)
        >>> actual[:, 4:10, 4:10] = True
        >>> predicted = np.roll(actual, 2, axis=2)  # two columns to the right

        >>> surface.hausdorff(predicted, actual).tolist()
        [2.0]
        >>> surface.hausdorff(predicted, actual, spacing=(1.0, 0.5)).tolist()
        [1.0]
    """
    read = SurfaceDistances.hausdorff
    return measure(
        read, predicted, actual, percentile, where=where, spacing=spacing, convention=convention
    )


def average_surface_distance(
    predicted: Mask,
    actual: Mask,
    *,
    where: Mask | None = None,
    spacing: Spacing = (1.0, 1.0),
    convention: Convention = "monai",
) -> PerImage:
    """Average symmetric surface distance (ASSD).

    The mean of the distances of both directions together. Agrees with MONAI's
    ``compute_average_surface_distance(symmetric=True)``. surface-distance returns the two one-way
    averages instead; ``measure(SurfaceDistances.one_way_averages, ...)`` gives those.

    Args:
        predicted: bool ``[B, H, W]``.
        actual: bool ``[B, H, W]``.
        where: As in `hausdorff`.
        spacing: As in `hausdorff`.
        convention: As in `hausdorff`. With ``"surface-distance"`` the mean is weighted by length.

    Returns:
        float32 ``[B]`` in the unit of ``spacing``. NaN if both masks have no boundary, infinite if
        only one of them has none.

    Raises:
        TypeError, ValueError: As in `hausdorff`.

    Examples:
        >>> import numpy as np
        >>> from jaxseg import surface
        >>> actual = np.zeros((1, 16, 16), bool)
        >>> actual[:, 4:10, 4:10] = True
        >>> predicted = np.roll(actual, 2, axis=2)  # two columns to the right

        >>> print(np.asarray(surface.average_surface_distance(predicted, actual)).round(2))
        [1.]
    """
    read = SurfaceDistances.average
    return measure(read, predicted, actual, where=where, spacing=spacing, convention=convention)


def normalized_surface_dice(
    predicted: Mask,
    actual: Mask,
    *,
    tolerance: float | int,
    where: Mask | None = None,
    spacing: Spacing = (1.0, 1.0),
    convention: Convention = "monai",
) -> PerImage:
    """Normalized surface Dice (NSD): fraction of both boundaries within a tolerance.

    Nikolov et al., 2018, https://arxiv.org/abs/1809.04430. Agrees with MONAI's
    ``compute_surface_dice`` or, with ``convention="surface-distance"``, with that library's
    ``compute_surface_dice_at_tolerance``.

    Args:
        predicted: bool ``[B, H, W]``.
        actual: bool ``[B, H, W]``.
        tolerance: Largest distance that counts as a match, in the unit of ``spacing``, at least 0.
            It is increased by one part in a million to absorb rounding.
        where: As in `hausdorff`.
        spacing: As in `hausdorff`.
        convention: As in `hausdorff`.

    Returns:
        float32 ``[B]`` from 0 to 1. NaN if both masks have no boundary, 0 if only one of them has
        none.

    Raises:
        TypeError, ValueError: As in `hausdorff`.

    Examples:
        >>> import numpy as np
        >>> from jaxseg import surface
        >>> actual = np.zeros((1, 16, 16), bool)
        >>> actual[:, 4:10, 4:10] = True
        >>> predicted = np.roll(actual, 2, axis=2)  # two columns to the right

        >>> nsd = surface.normalized_surface_dice(predicted, actual, tolerance=1.0)
        >>> print(np.asarray(nsd).round(2))
        [0.6]
    """
    read = SurfaceDistances.normalized_dice
    return measure(
        read, predicted, actual, tolerance, where=where, spacing=spacing, convention=convention
    )


def measure(
    read: Callable[..., Result],
    predicted: Mask,
    actual: Mask,
    *arguments: float | int | str,
    where: Mask | None = None,
    spacing: Spacing = (1.0, 1.0),
    convention: Convention = "monai",
) -> Result:
    """Several metrics of the same masks from one search for distances.

    Args:
        read: Computes any pytree of arrays from `SurfaceDistances`. It is traced for two buffer
            sizes, a small one for typical boundaries and one that holds any boundary, so the shape
            of its result must not depend on the buffer size. Outside ``jit``, define it once: a
            new lambda at each call is compiled again.
        predicted: bool ``[B, H, W]``.
        actual: bool ``[B, H, W]``.
        *arguments: Further arguments of ``read``, compiled as constants.
        where: As in `hausdorff`.
        spacing: As in `hausdorff`.
        convention: As in `hausdorff`.

    Returns:
        The result of ``read``.

    Raises:
        TypeError, ValueError: As in `hausdorff`.

    Examples:
        >>> import numpy as np
        >>> from jaxseg import surface
        >>> actual = np.zeros((1, 16, 16), bool)
        >>> actual[:, 4:10, 4:10] = True
        >>> predicted = np.roll(actual, 2, axis=2)  # two columns to the right
        >>> def read(distances):
        ...     return distances.hausdorff(95.0), distances.normalized_dice(1.0)
        >>> hd95, nsd = surface.measure(read, predicted, actual)
        >>> print(np.asarray(hd95).round(2), np.asarray(nsd).round(2))
        [2.] [0.6]
    """
    pairs = check_arguments(predicted, actual, where, spacing, convention)
    return _measure(read, arguments, convention, predicted, actual, where, pairs)


def surface_distances(
    predicted: Mask,
    actual: Mask,
    *,
    where: Mask | None = None,
    spacing: Spacing = (1.0, 1.0),
    convention: Convention = "monai",
) -> SurfaceDistances:
    """All distances between the boundaries, in both directions.

    For histograms and similar uses. The buffers have room for every pixel, so `measure` needs a
    fraction of the memory if you only want metrics.

    Args:
        predicted: bool ``[B, H, W]``.
        actual: bool ``[B, H, W]``.
        where: As in `hausdorff`.
        spacing: As in `hausdorff`.
        convention: As in `hausdorff`.

    Raises:
        TypeError, ValueError: As in `hausdorff`.
    """
    pairs = check_arguments(predicted, actual, where, spacing, convention)
    return _measure(None, (), convention, predicted, actual, where, pairs)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _measure(
    read: Callable[..., Any] | None,
    arguments: tuple[float | int | str, ...],
    convention: Convention,
    predicted: Mask,
    actual: Mask,
    where: Mask | None,
    spacing: Float[Array, "B 2"],
) -> Any:
    boundaries = find_boundaries(predicted, actual, where, convention)
    height, width = predicted.shape[1:]
    largest, typical = (height + 1) * (width + 1), 4 * (height + width)
    if read is None:
        return distances_between(boundaries, largest, spacing)

    def read_with(capacity):
        return lambda: read(distances_between(boundaries, capacity, spacing), *arguments)

    if largest <= max(typical, 2**13):
        return read_with(largest)()
    # Filling buffers for every pixel takes longer than everything else, and is rarely necessary.
    counts = jnp.sum(count_true(boundaries.elements), axis=(2, 3), dtype=jnp.int32)
    fits = jnp.max(counts, initial=0) <= typical
    return lax.cond(fits, read_with(typical), read_with(largest))
