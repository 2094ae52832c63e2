"""Boundary IoU and boundary F score: how well two masks agree near their edges."""

import jax.numpy as jnp

from jaxseg.surface.boundary import Mask
from jaxseg.surface.checks import Convention, Spacing, check_arguments, check_tolerance
from jaxseg.surface.distances import SurfaceDistances
from jaxseg.surface.metrics import measure
from jaxseg.surface.transform import distance_transform
from jaxseg.types import Array, PerImage


def boundary_iou(
    predicted: Mask,
    actual: Mask,
    *,
    distance: float | int | None = None,
    where: Mask | None = None,
    spacing: Spacing = (1.0, 1.0),
) -> PerImage:
    """Boundary IoU: intersection over union of the pixels of each mask near its own edge.

    Only pixels of a mask within ``distance`` of its outside count. Pixels outside the image are
    outside of the mask. Cheng et al., "Boundary IoU: Improving object-centric image
    segmentation evaluation", 2021, https://arxiv.org/abs/2103.16562.

    The authors' code rounds the distance to whole pixels and erodes by 3 x 3 pixels, which measures
    it in rows or columns, whichever are more. Distances here are Euclidean, as in the paper's text.
    Both are equal on rectangles. On other shapes the bands here are slightly narrower along
    diagonals.

    Args:
        predicted: bool ``[B, H, W]``.
        actual: bool ``[B, H, W]``.
        distance: Width of the band inside the edge, in the unit of ``spacing``, at least 0; an edge
            pixel is one pixel from the outside. Default: 2 % of the image diagonal as in the paper,
            but at least one pixel.
        where: bool ``[B, H, W]``, True on valid pixels. Invalid pixels are neither inside nor
            outside. Default: all pixels are valid.
        spacing: As in `hausdorff`.

    Returns:
        float32 ``[B]`` from 0 to 1. NaN if neither mask has a pixel near its edge, 0 if only one
        has.

    Raises:
        TypeError, ValueError: As in `hausdorff`.

    Examples:
        >>> import numpy as np
        >>> from jaxseg import surface
        >>> actual = np.zeros((1, 16, 16), bool)
        >>> actual[:, 4:10, 4:10] = True
        >>> predicted = actual.copy()
        >>> predicted[:, 6:8, 6:8] = False  # a hole

        >>> surface.boundary_iou(predicted, predicted, distance=1).tolist()
        [1.0]
        >>> print(np.asarray(surface.boundary_iou(predicted, actual, distance=1)).round(2))
        [0.71]
    """
    pairs = check_arguments(predicted, actual, where, spacing, "monai")
    if distance is None:
        size = jnp.asarray(predicted.shape[1:], jnp.float32)
        diagonal = jnp.linalg.norm(pairs * size[None], axis=1)
        limit = jnp.maximum(0.02 * diagonal, pairs.max(axis=1))
    else:
        check_tolerance(distance, "distance")
        limit = jnp.full(pairs.shape[:1], distance, jnp.float32)
    # As for `normalized_surface_dice`, rounding must not exclude a pixel at the limit.
    limit = limit[:, None, None] * (1 + 1e-6)

    def near_edge(mask: Mask) -> Array:
        not_outside = mask if where is None else mask | ~where
        padded = jnp.pad(not_outside, ((0, 0), (1, 1), (1, 1)))
        distances = distance_transform(padded, spacing=pairs)[:, 1:-1, 1:-1]
        inside = mask if where is None else mask & where
        return inside & (distances <= limit)

    p, a = near_edge(predicted), near_edge(actual)
    intersection, union = (x.sum(axis=(1, 2)).astype(jnp.float32) for x in (p & a, p | a))
    return intersection / union


def boundary_f_score(
    predicted: Mask,
    actual: Mask,
    *,
    tolerance: float | int,
    where: Mask | None = None,
    spacing: Spacing = (1.0, 1.0),
    convention: Convention = "monai",
) -> PerImage:
    """Boundary F score (BF, F1 of boundaries) at a tolerance.

    The harmonic mean of precision, the fraction of the predicted boundary within the tolerance of
    the actual one, and recall, the same with the masks exchanged. `normalized_surface_dice` is the
    fraction of both boundaries together. Csurka et al., "What is a good evaluation measure for
    semantic segmentation?", 2013; F of DAVIS (Perazzi et al. 2016), which defines boundaries
    between pixels differently. With ``convention="surface-distance"``, precision and recall agree
    with that library's ``compute_surface_overlap_at_tolerance``. `SurfaceDistances.one_way_within`
    gives them.

    Args:
        predicted: bool ``[B, H, W]``.
        actual: bool ``[B, H, W]``.
        tolerance: As in `normalized_surface_dice`. DAVIS uses 0.8 % of the image diagonal.
        where: As in `hausdorff`.
        spacing: As in `hausdorff`.
        convention: As in `hausdorff`.

    Returns:
        float32 ``[B]`` from 0 to 1. NaN if both masks have no boundary, 0 if only one of them has
        none.

    Raises:
        TypeError, ValueError: As in `hausdorff`.
    """
    read = SurfaceDistances.f_score
    return measure(
        read, predicted, actual, tolerance, where=where, spacing=spacing, convention=convention
    )
