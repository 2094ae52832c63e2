"""The soft Dice score, of probabilities without a threshold."""

import math
from typing import Any

import flax.struct
from jaxtyping import Bool

from jaxseg.metrics.aggregation import sum_pixels
from jaxseg.metrics.inputs import AnyLabels, probabilities_and_targets
from jaxseg.metrics.ratios import ratio
from jaxseg.types import Array, Logits


@flax.struct.dataclass
class SoftDiceSums:
    """The sums that the soft Dice score is a function of.

    Attributes:
        overlap: Sum of probability times target, float32 ``[B, K]``.
        predicted: Sum of the probabilities, float32 ``[B, K]``.
        actual: Number of pixels of the class, float32 ``[B, K]``.
        outside: Pixels whose label is no class or whose probability is NaN, int32 ``[B, K]``. They
            are in none of the other fields, and one such pixel makes the score NaN.
    """

    # Any, because a pytree's leaves may be shardings or specs while JAX transforms it.
    overlap: Any
    predicted: Any
    actual: Any
    outside: Any


def soft_dice_sums(
    logits: Logits,
    labels: AnyLabels,
    *,
    where: Bool[Array, "B *spatial"] | None = None,
    multilabel: bool = False,
) -> SoftDiceSums:
    """Returns each image's sums of probabilities, targets and their product, by class.

    Args:
        logits: ``[B, *spatial, K]`` floating. The probability is the sigmoid for K = 1 and with
            ``multilabel``, otherwise the softmax, background included.
        labels: ``[B, *spatial]`` integer class ids. With ``multilabel`` ``[B, *spatial, K]`` of 0
            and 1.
        where: ``[B, *spatial]`` bool, True on valid pixels.
        multilabel: Whether each of the K channels is an independent binary problem.

    Returns:
        SoftDiceSums of ``[B, K]``; zero for an image without a valid pixel.

    Raises:
        TypeError: Logits are not floating, labels not integer, or ``where`` not bool.
        ValueError: The shapes do not fit.
    """
    predicted, targets, _, outside = probabilities_and_targets(
        logits, labels, where, multilabel=multilabel
    )
    targets = targets.astype(predicted.dtype)
    sums = (sum_pixels(x) for x in (predicted * targets, predicted, targets))
    return SoftDiceSums(*sums, outside=outside)


def soft_dice_score(sums: SoftDiceSums, *, smooth: float = 1.0) -> Array:
    """Returns the soft Dice: (2 sum(p t) + s) / (sum(p) + sum(t) + s).

    Milletari et al. 2016 (V-Net), with linear terms in the denominator. On pooled sums it agrees
    with the ``dice_coef`` common in Keras code (with ``smooth`` once in the numerator and once in
    the denominator), computed once over the whole set. Report it on pooled sums: a mean over
    batches depends on how the set was divided.

    Args:
        sums: Of `soft_dice_sums`, ``[B, K]``, or pooled, ``[K]``.
        smooth: s, at least 0.

    Returns:
        Values in [0, 1] of the sums' shape: float32 per image, float64 pooled. Without a valid
        pixel 1, or NaN if ``smooth`` is 0. NaN if a pixel was outside the classes.

    Raises:
        ValueError: ``smooth`` is below 0.
    """
    if not smooth >= 0:
        raise ValueError(f"smooth must be at least 0, got {smooth}")
    numerator = 2 * sums.overlap + smooth
    return ratio(numerator, sums.predicted + sums.actual + smooth, sums.outside, math.nan)
