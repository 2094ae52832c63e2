"""Hausdorff distance, average surface distance and normalised surface Dice of two masks.

Two conventions, named after the tool that each agrees with (the latter but for its rounding where
lengths make up a percentile's share exactly):

- ``"monai"`` (the default): the boundary is the mask's edge pixels, those with a False pixel or the
  picture's border beside, above or below them (the mask minus its erosion by the
  4-neighbourhood); every edge pixel counts 1; percentiles are interpolated linearly.
- ``"surface-distance"``: the boundary runs through the corners of pixels around which not all four
  pixels are alike, what lies outside the picture being False; every corner counts with the length
  of contour through it; a percentile is the smallest distance that such a share of the length does
  not exceed.
"""

from collections.abc import Callable
from functools import partial
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Bool, Float

from jaxseg.surface.boundary import boundary
from jaxseg.surface.checks import (
    Convention,
    Spacing,
    check_convention,
    check_pair,
    check_percentile,
    check_tolerance,
    spacing_pairs,
)
from jaxseg.surface.columns import count_pixels
from jaxseg.surface.distances import SurfaceDistances
from jaxseg.surface.nearest import distances_between
from jaxseg.types import Array, PerImage

Mask = Bool[Array, "B H W"]
Result = TypeVar("Result")


def hausdorff(
    predicted: Mask,
    actual: Mask,
    *,
    percentile: float | int = 100.0,
    spacing: Spacing = (1.0, 1.0),
    convention: Convention = "monai",
) -> PerImage:
    """Hausdorff distance at a percentile: the larger of the two one-way percentiles.

    One way, it is the distance that ``percentile`` per cent of one mask's boundary do not exceed,
    measured to the nearest point of the other's: 100 is the classical Hausdorff distance, 95 is
    HD95. Agrees with MONAI's ``compute_hausdorff_distance`` or, by ``convention``, with
    surface-distance's ``compute_robust_hausdorff``.

    Args:
        predicted: bool ``[B, H, W]``.
        actual: the same.
        percentile: 0 to 100, taken to a thousandth.
        spacing: distance of neighbouring rows and of neighbouring columns, positive: one pair, or
            an array ``[B, 2]``.
        convention: what a boundary is and how its percentiles are taken (see this module).

    Returns:
        float32 ``[B]`` in the unit of ``spacing``. NaN where both masks are empty (surface-distance
        gives infinity); infinite where one is (at percentiles MONAI gives NaN, its interpolation
        subtracting infinities).

    Raises:
        TypeError: a mask is not boolean.
        ValueError: the masks differ in shape, are not ``[B, H, W]`` or have no pixel; an option
            is out of its range.

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
    check_percentile(percentile)
    return _checked(
        SurfaceDistances.hausdorff, (percentile,), predicted, actual, spacing, convention
    )


def average_surface_distance(
    predicted: Mask,
    actual: Mask,
    *,
    spacing: Spacing = (1.0, 1.0),
    convention: Convention = "monai",
) -> PerImage:
    """Average symmetric surface distance (ASSD): the mean over both directions' distances together.

    Agrees with MONAI's ``compute_average_surface_distance(symmetric=True)``. surface-distance gives
    the one-way averages apart, as does ``measure(lambda d: d.one_way_averages(), ...)``; in its
    convention this is their mean, weighted by the boundaries' lengths.

    Args:
        predicted: bool ``[B, H, W]``.
        actual: the same.
        spacing: as for `hausdorff`.
        convention: what a boundary is (see this module).

    Returns:
        float32 ``[B]`` in the unit of ``spacing``; NaN where both masks are empty, infinite where
        one is.

    Raises:
        TypeError, ValueError: as `hausdorff`.

    Examples:
        >>> import numpy as np
        >>> from jaxseg import surface
        >>> actual = np.zeros((1, 16, 16), bool)
        >>> actual[:, 4:10, 4:10] = True
        >>> predicted = np.roll(actual, 2, axis=2)  # two columns to the right

        >>> print(np.asarray(surface.average_surface_distance(predicted, actual)).round(2))
        [1.]
    """
    return _checked(SurfaceDistances.average, (), predicted, actual, spacing, convention)


def normalized_surface_dice(
    predicted: Mask,
    actual: Mask,
    *,
    tolerance: float | int,
    spacing: Spacing = (1.0, 1.0),
    convention: Convention = "monai",
) -> PerImage:
    """Normalised surface Dice (NSD): the share of both boundaries within the tolerance.

    Nikolov et al., 2018, https://arxiv.org/abs/1809.04430. Agrees with MONAI's
    ``compute_surface_dice`` or, by ``convention``, with surface-distance's
    ``compute_surface_dice_at_tolerance``.

    Args:
        predicted: bool ``[B, H, W]``.
        actual: the same.
        tolerance: the largest distance that counts as met, in the unit of ``spacing``, at least 0;
            a millionth of it more is taken for rounding.
        spacing: as for `hausdorff`.
        convention: what a boundary is and how long its parts are (see this module).

    Returns:
        float32 ``[B]`` from 0 to 1; NaN where both masks are empty, 0 where one is.

    Raises:
        TypeError, ValueError: as `hausdorff`.

    Examples:
        >>> import numpy as np
        >>> from jaxseg import surface
        >>> actual = np.zeros((1, 16, 16), bool)
        >>> actual[:, 4:10, 4:10] = True
        >>> predicted = np.roll(actual, 2, axis=2)  # two columns to the right

        >>> share = surface.normalized_surface_dice(predicted, actual, tolerance=1.0)
        >>> print(np.asarray(share).round(2))
        [0.6]
    """
    check_tolerance(tolerance)
    return _checked(
        SurfaceDistances.normalized_dice, (tolerance,), predicted, actual, spacing, convention
    )


def measure(
    read: Callable[[SurfaceDistances], Result],
    predicted: Mask,
    actual: Mask,
    *,
    spacing: Spacing = (1.0, 1.0),
    convention: Convention = "monai",
) -> Result:
    """Several measures of the same masks, from distances that are searched for once.

    Args:
        read: makes any pytree of arrays from `SurfaceDistances`. It is traced for two sizes of
            their buffers, a small one for boundaries as short as they mostly are and one that holds
            any, so the shapes of what it gives must not follow theirs. Outside jit a function that
            keeps its name is compiled once, a lambda at each call.
        predicted: bool ``[B, H, W]``.
        actual: the same.
        spacing: as for `hausdorff`.
        convention: what a boundary is (see this module).

    Returns:
        What ``read`` gave.

    Raises:
        TypeError, ValueError: as `hausdorff`.

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
    return _checked(read, (), predicted, actual, spacing, convention)


def surface_distances(
    predicted: Mask,
    actual: Mask,
    *,
    spacing: Spacing = (1.0, 1.0),
    convention: Convention = "monai",
) -> SurfaceDistances:
    """All distances both ways between the boundaries, in buffers with room for every pixel.

    For histograms and the like; to read measures alone, `measure` needs a fraction of the memory.

    Args:
        predicted: bool ``[B, H, W]``.
        actual: the same.
        spacing: as for `hausdorff`.
        convention: what a boundary is (see this module).

    Raises:
        TypeError, ValueError: as `hausdorff`.
    """
    check_pair(predicted, actual)
    check_convention(convention)
    return _distances(convention, predicted, actual, spacing_pairs(spacing, predicted.shape[:1]))


def _checked(
    read: Callable[..., Result],
    arguments: tuple[float | int, ...],
    predicted: Mask,
    actual: Mask,
    spacing: Spacing,
    convention: Convention,
) -> Result:
    check_pair(predicted, actual)
    check_convention(convention)
    pairs = spacing_pairs(spacing, predicted.shape[:1])
    return _measured(read, arguments, convention, predicted, actual, pairs)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _measured(
    read: Callable[..., Result],
    arguments: tuple[float | int, ...],
    convention: Convention,
    predicted: Mask,
    actual: Mask,
    spacing: Float[Array, "B 2"],
) -> Result:
    boundaries = boundary(predicted, convention), boundary(actual, convention)

    def reading(room):
        return lambda: read(distances_between(*boundaries, room, spacing), *arguments)

    height, width = predicted.shape[1:]
    every, usual = (height + 1) * (width + 1), 4 * (height + width)
    if every <= max(usual, 2**13):
        return reading(every)()
    counts = [jnp.sum(count_pixels(b.points), axis=(1, 2), dtype=jnp.int32) for b in boundaries]
    longest = jnp.max(jnp.maximum(*counts), initial=0)
    # Buffers for every pixel cost more to fill than all the rest.
    return lax.cond(longest <= usual, reading(usual), reading(every))


@partial(jax.jit, static_argnums=0)
def _distances(
    convention: Convention, predicted: Mask, actual: Mask, spacing: Float[Array, "B 2"]
) -> SurfaceDistances:
    height, width = predicted.shape[1:]
    boundaries = boundary(predicted, convention), boundary(actual, convention)
    return distances_between(*boundaries, (height + 1) * (width + 1), spacing)
