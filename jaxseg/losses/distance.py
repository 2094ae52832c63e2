"""2-D losses that weight errors by distances in the masks: boundary and Hausdorff."""

# ruff: noqa: D417 - the package docstring describes the arguments that all losses have.

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float32

from jaxseg.losses.inputs import (
    ClassWeights,
    LossValue,
    Number,
    Pixels,
    Targets,
    check_number,
    mean_over_classes,
    prepare,
    safe_divide,
)
from jaxseg.surface import distance_transform
from jaxseg.types import Logits, Where

Spacing = tuple[float, float]


def boundary(
    logits: Logits,
    labels: Targets,
    *,
    where: Where | None = None,
    multilabel: bool = False,
    class_weights: ClassWeights = None,
    spacing: Spacing = (1.0, 1.0),
    pooled: bool = False,
) -> LossValue:
    r"""Boundary loss: probabilities weighted by signed distance to the boundary, 2-D only.

    The mean over valid pixels of :math:`p_i \phi_i`, averaged over classes. Outside of the class
    :math:`\phi` is the distance to it. Inside it is one pixel minus the distance to the nearest
    pixel outside: 0 on the edge, and negative further inside.
    The loss falls without limit as the mask grows, so use it as a small addition to another loss.

    Kervadec et al., "Boundary loss for highly unbalanced segmentation", 2019. Agrees with MONAI's
    `BoundaryLoss` on class ids. Distances are exact. They are measured to valid pixels only.

    See `jaxseg.losses` for the arguments that all losses take, the result and the errors.
    For distances, probabilities as labels are thresholded at 0.5.

    Args:
        spacing: Size of a pixel, (row, column), which sets the unit of the loss. "One
            pixel" above is the smaller of the two.

    Returns:
        Of either sign, in the unit of ``spacing``. A class that has all or none of the valid pixels
        adds 0.
    """
    pixels = prepare(logits, labels, where, multilabel=multilabel, pooled=pooled)
    distances = partial(_edge_distances, pixels=pixels, shape=logits.shape[1:-1], spacing=spacing)
    to_inside, to_outside = distances(pixels.targets > 0.5)
    signed = to_inside - jnp.maximum(to_outside - min(spacing), 0)
    means = safe_divide(pixels.sum(pixels.probabilities() * signed), pixels.sum_of_weights())
    return pixels.nan_if_invalid(mean_over_classes(means, class_weights))


def hausdorff_dt(
    logits: Logits,
    labels: Targets,
    *,
    where: Where | None = None,
    multilabel: bool = False,
    alpha: Number = 2.0,
    class_weights: ClassWeights = None,
    spacing: Spacing = (1.0, 1.0),
    pooled: bool = False,
) -> LossValue:
    r"""Hausdorff loss: squared errors weighted by distance to both boundaries, 2-D only.

    The mean over valid pixels of :math:`(p_i - t_i)^2 (d_{P,i}^\alpha + d_{T,i}^\alpha)`, averaged
    over classes. :math:`d_P` and :math:`d_T` are the pixel's distances to the other side of the
    predicted (:math:`p > 0.5`) and of the labeled mask. Distances carry no gradient.

    Karimi and Salcudean, "Reducing the Hausdorff distance in medical image segmentation with
    convolutional neural networks", 2019. Agrees with MONAI's `HausdorffDTLoss` on class ids,
    whose default leaves class 0 out (``class_weights=(0, 1, ...)`` here). Distances are exact. They
    are measured to valid pixels only.

    See `jaxseg.losses` for the arguments that all losses take, the result and the errors.
    For distances, probabilities as labels are thresholded at 0.5.

    Args:
        alpha: Exponent of the distances, at least 0.
        spacing: Size of a pixel, (row, column).

    Returns:
        At least 0, in the unit of ``spacing`` to the power ``alpha``. A mask that has all or none
        of the valid pixels adds no distance.
    """
    alpha = check_number("alpha", alpha)
    pixels = prepare(logits, labels, where, multilabel=multilabel, pooled=pooled)
    distances = partial(_edge_distances, pixels=pixels, shape=logits.shape[1:-1], spacing=spacing)
    p, t = pixels.probabilities(), pixels.targets
    weights = sum(distances(p > 0.5)) ** alpha + sum(distances(t > 0.5)) ** alpha
    means = safe_divide(pixels.sum(jnp.square(p - t) * weights), pixels.sum_of_weights())
    return pixels.nan_if_invalid(mean_over_classes(means, class_weights))


def _edge_distances(
    inside: Bool[jax.Array, "B K N"], pixels: Pixels, shape: tuple[int, ...], spacing: Spacing
) -> tuple[Float32[jax.Array, "B K N"], Float32[jax.Array, "B K N"]]:
    """Distances to the nearest valid pixel inside and outside; 0 where either does not exist."""
    if len(shape) != 2:
        raise ValueError(f"distance losses are for two spatial axes, got spatial shape {shape}")
    valid = pixels.weights[:, None] > 0
    sides = jnp.stack([inside & valid, ~inside & valid])
    distances = distance_transform(~sides.reshape(*sides.shape[:3], *shape), spacing=spacing)
    distances = distances.reshape(sides.shape)
    has_edge = jnp.isfinite(distances).all(0)
    to_inside, to_outside = jnp.where(has_edge[None], distances, 0.0)
    return to_inside, to_outside
