"""Losses that weigh each pixel's error by distances in the masks: boundary and Hausdorff."""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float32

from jaxseg.losses import channels
from jaxseg.losses.pixels import (
    ClassWeights,
    Cost,
    Pixels,
    Targets,
    check_not_negative,
    class_probabilities,
    class_targets,
    count_pixels,
    labels_fit,
    mean_over_classes,
    ratio,
    read_pixels,
    read_pooling,
    sum_counted,
)
from jaxseg.surface import distance_transform
from jaxseg.types import Logits, Where

Spacing = tuple[float, float]


def boundary(
    logits: Logits,
    labels: Targets,
    *,
    where: Where | None = None,
    class_weights: ClassWeights = None,
    spacing: Spacing = (1.0, 1.0),
    pooled: bool = False,
    axis_name: str | None = None,
) -> Cost:
    r"""Boundary loss: probabilities weighed by the signed distance to the true boundary.

    The mean over the counted pixels of :math:`p_i \phi_i`, averaged over classes, where
    :math:`\phi` is the distance to the class for pixels outside it and, inside, minus the distance
    to the nearest pixel outside plus one pixel (so that the innermost pixels are the most
    negative and those on the edge are 0, for ``spacing`` that is the same both ways). It falls
    without limit as the mask grows, so it is meant as a small addition to another loss.

    Kervadec et al., "Boundary loss for highly unbalanced segmentation", 2019. Agrees with MONAI's
    `BoundaryLoss`. Distances are exact and go to counted pixels only; pixels left out by
    ``where`` are neither inside nor outside.

    Args:
      logits: ``[B, H, W, K]`` floating point.
      labels: ``[B, H, W]`` class ids, or ``[B, H, W, K]`` probabilities, cut at 0.5.
      where: ``[B, H, W]`` bool, the pixels that count.
      class_weights: One per channel, not negative; 0 leaves a class out of the mean.
      spacing: The size of a pixel, (row, column); it sets the unit of the loss. The one pixel
        added inside is the smaller of the two.
      pooled: One mean over all pixels of the global batch instead of one for each image.
      axis_name: The mapped axis that ``pooled`` also runs over, under `jax.pmap`.

    Returns:
      ``[B]`` float32 (a scalar with ``pooled``), of either sign, in the unit of ``spacing``. A
      class that fills the counted pixels or has none of them adds 0, and so does an image
      without counted pixels; NaN where a counted label is none of the classes.

    Raises:
      TypeError: Wrong dtypes.
      ValueError: Shapes that do not go together, or an option out of its range.
    """
    pooling = read_pooling(pooled, axis_name)
    pixels = read_pixels(logits, labels, where)
    to_inside, to_outside = _edge_distances(class_targets(pixels) > 0.5, pixels, spacing)
    signed = to_inside - jnp.maximum(to_outside - min(spacing), 0)
    losses = class_probabilities(pixels) * signed
    means = ratio(pooling(sum_counted(losses, pixels)), pooling(count_pixels(pixels)))
    return pooling.close(mean_over_classes(means, class_weights), labels_fit(pixels))


def hausdorff_dt(
    logits: Logits,
    labels: Targets,
    *,
    where: Where | None = None,
    alpha: float = 2.0,
    class_weights: ClassWeights = None,
    spacing: Spacing = (1.0, 1.0),
    pooled: bool = False,
    axis_name: str | None = None,
) -> Cost:
    r"""Hausdorff loss by distance transforms: squared errors weighed by distance to both edges.

    The mean over the counted pixels of
    :math:`(p_i - t_i)^2 (d_{P,i}^\alpha + d_{T,i}^\alpha)`, averaged over classes, where
    :math:`d_P` and :math:`d_T` are each pixel's distance to the other side of the predicted
    (:math:`p > 0.5`) and of the true mask. Distances carry no gradient.

    Karimi and Salcudean, "Reducing the Hausdorff distance in medical image segmentation with
    convolutional neural networks", 2019. Agrees with MONAI's `HausdorffDTLoss`, whose default
    leaves class 0 out (``class_weights=(0, 1, ...)`` here). Distances are exact and go to counted
    pixels only.

    Args:
      logits: ``[B, H, W, K]`` floating point.
      labels: ``[B, H, W]`` class ids, or ``[B, H, W, K]`` probabilities, cut at 0.5 for distances.
      where: ``[B, H, W]`` bool, the pixels that count.
      alpha: Exponent of the distances, not negative.
      class_weights: One per channel, not negative; 0 leaves a class out of the mean.
      spacing: The size of a pixel, (row, column).
      pooled: One mean over all pixels of the global batch instead of one for each image.
      axis_name: The mapped axis that ``pooled`` also runs over, under `jax.pmap`.

    Returns:
      ``[B]`` float32 (a scalar with ``pooled``), at least 0. A mask that fills the counted pixels
      or has none of them adds no distance; an image without counted pixels costs 0. NaN where a
      counted label is none of the classes.

    Raises:
      TypeError: Wrong dtypes.
      ValueError: Shapes that do not go together, or an option out of its range.
    """
    check_not_negative(alpha=alpha)
    pooling = read_pooling(pooled, axis_name)
    pixels = read_pixels(logits, labels, where)
    p, t = class_probabilities(pixels), class_targets(pixels)
    predicted = _edge_distances(jax.lax.stop_gradient(p) > 0.5, pixels, spacing)
    actual = _edge_distances(t > 0.5, pixels, spacing)
    weights = sum(predicted) ** alpha + sum(actual) ** alpha
    sums = sum_counted(jnp.square(p - t) * weights, pixels)
    means = ratio(pooling(sums), pooling(count_pixels(pixels)))
    return pooling.close(mean_over_classes(means, class_weights), labels_fit(pixels))


def _edge_distances(
    inside: Bool[jax.Array, "B H W *K"], pixels: Pixels, spacing: Spacing
) -> tuple[Float32[jax.Array, "B H W *K"], Float32[jax.Array, "B H W *K"]]:
    """Distances to the nearest counted pixel inside and outside; 0 where either does not exist."""
    sides = jnp.stack([channels.keep(side, pixels.where) for side in (inside, ~inside)])
    # Heights and widths last: axes 2 and 3 of [side, B, H, W] or [side, B, H, W, K].
    sides = jnp.moveaxis(sides, (2, 3), (-2, -1))
    distances = jnp.moveaxis(distance_transform(~sides, spacing=spacing), (-2, -1), (2, 3))
    has_edge = jnp.isfinite(distances).all(0)
    to_inside, to_outside = jnp.where(has_edge[None], distances, 0)
    return to_inside, to_outside
