"""The unthresholded Dice score, pooled over every pixel given."""

import math
from typing import Any

import flax.struct
import jax.numpy as jnp
from jaxtyping import Integer

from jaxseg.metrics.logits import forecast
from jaxseg.metrics.pooling import Additive, sum_pixels
from jaxseg.metrics.ratios import ratio
from jaxseg.types import Array, Logits, Where


@flax.struct.dataclass
class SoftDiceSums(Additive):
    """What the soft Dice score is made of; a pytree that adds with ``+``.

    Attributes:
        overlap: sum of probability times target, float32 ``[B, K]``.
        predicted: sum of the probabilities, float32 ``[B, K]``.
        actual: number of pixels of the class, float32 ``[B, K]``.
        outside: pixels whose label is no class or whose probability is NaN, int32 ``[B, K]``. They
            are in none of the other three, and one of them makes the score NaN.
    """

    # Any, because a pytree's leaves may be shardings or specs while JAX transforms it.
    overlap: Any
    predicted: Any
    actual: Any
    outside: Any


def soft_dice_sums(
    logits: Logits, labels: Integer[Array, "B H W"], *, where: Where | None = None
) -> SoftDiceSums:
    """Sums each image's probabilities, targets and their product, by class.

    Args:
        logits: ``[B, H, W, K]`` floating. ``K == 1``: the sigmoid is the probability of the
            foreground; ``K > 1``: the softmax, background included.
        labels: ``[B, H, W]`` integer class ids.
        where: ``[B, H, W]`` bool, True on the pixels that count.

    Returns:
        SoftDiceSums of ``[B, K]``; zero for an image whose pixels are all masked out.

    Raises:
        TypeError: the logits are not floating, the labels not integer, ``where`` not bool.
        ValueError: the shapes do not fit.
    """
    probabilities, labels, counted, outside = forecast(logits, labels, where)
    num_classes = probabilities.shape[-1]
    classes = (
        jnp.arange(num_classes, dtype=jnp.int32) if num_classes > 1 else jnp.array([1], jnp.int32)
    )
    of_class = labels[..., None] == classes.reshape(1, 1, 1, -1)
    targets = (of_class & counted[..., None]).astype(jnp.float32)
    return SoftDiceSums(
        overlap=sum_pixels(probabilities * targets),
        predicted=sum_pixels(probabilities),
        actual=sum_pixels(targets),
        outside=jnp.broadcast_to(outside[:, None], (outside.shape[0], num_classes)),
    )


def soft_dice_score(sums: SoftDiceSums, *, smooth: float = 1.0) -> Array:
    """Soft Dice of unthresholded probabilities: (2 sum(p t) + s) / (sum(p) + sum(t) + s).

    Milletari et al. 2016 (V-Net), with linear terms below the line. Of pooled sums, which is what
    is meant to be reported, it agrees with the ``dice_coef`` that Keras code commonly defines
    (smooth 1 once above and once below), run once over the whole set. A mean of it over batches is
    another number and depends on how the set was cut.

    Args:
        sums: of `soft_dice_sums`, ``[B, K]``, or pooled, ``[K]``.
        smooth: s, 0 or above.

    Returns:
        Values in [0, 1] of the sums' shape: float32 on the device, float64 from NumPy sums. 1 where
        no pixel counts (NaN if ``smooth`` is 0). NaN where a pixel was outside the classes.

    Raises:
        ValueError: ``smooth`` is below 0.
    """
    if not smooth >= 0:
        raise ValueError(f"smooth must be 0 or above, got {smooth}")
    above = 2 * sums.overlap + smooth
    return ratio(above, sums.predicted + sums.actual + smooth, sums.outside, math.nan)
