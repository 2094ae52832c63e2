"""How far probabilities can be believed: calibration error, reliability diagram, Brier score.

The convention is that of torchmetrics. Binary logits (``K == 1``): the confidence of a pixel is the
probability of foreground, and a hit is a foreground pixel. ``K > 1``: the confidence is the largest
probability, and a hit is a pixel whose likeliest class is its label. Bins have equal width and hold
their lower edge; the last holds 1 as well (torchmetrics puts confidences of exactly 1 in a bin of
their own, which is the one difference).
"""

import math
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Integer

from jaxseg.metrics.logits import forecast
from jaxseg.metrics.pooling import Additive, sum_pixels
from jaxseg.metrics.ratios import floats, ratio
from jaxseg.types import Array, Logits, Where


@flax.struct.dataclass
class CalibrationSums(Additive):
    """What calibration is made of; a pytree that adds with ``+``.

    Shapes are those of `calibration_sums`, one row per image; `pooled` takes the ``B`` away.

    Attributes:
        pixels: pixels by bin of confidence, int32 ``[B, bins]``.
        hits: how many of them were hits, int32 ``[B, bins]``.
        confidence: the sum of their confidences, float32 ``[B, bins]``.
        squared_error: the sum over pixels and classes of (probability - target)^2, float32
            ``[B, 1]``.
        outside: pixels whose label is no class or whose probability is NaN, int32 ``[B, 1]``. They
            are in none of the others, and one of them makes every score NaN.
    """

    # Any, because a pytree's leaves may be shardings or specs while JAX transforms it.
    pixels: Any
    hits: Any
    confidence: Any
    squared_error: Any
    outside: Any


class Reliability(NamedTuple):
    """A reliability diagram, bin by bin; ``[B, bins]``, or ``[bins]`` of pooled sums.

    Attributes:
        confidence: mean confidence, in [0, 1]; NaN in an empty bin.
        frequency: share of hits, in [0, 1]; NaN in an empty bin.
        share: share of all pixels that fall in the bin; sums to 1. NaN where no pixel counts.
    """

    confidence: Array
    frequency: Array
    share: Array


def calibration_sums(
    logits: Logits, labels: Integer[Array, "B H W"], *, where: Where | None = None, bins: int = 15
) -> CalibrationSums:
    """Sorts each image's pixels into bins of confidence.

    Args:
        logits: ``[B, H, W, K]`` floating; sigmoid for ``K == 1``, else softmax.
        labels: ``[B, H, W]`` integer class ids.
        where: ``[B, H, W]`` bool, True on the pixels that count.
        bins: how many bins of equal width divide [0, 1].

    Returns:
        CalibrationSums of one row per image; zero where all pixels are masked out.

    Raises:
        TypeError: the logits are not floating, the labels not integer, ``where`` not bool.
        ValueError: the shapes do not fit, or ``bins`` is below 1.
    """
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}")
    probabilities, labels, counted, outside = forecast(logits, labels, where)
    if probabilities.shape[-1] == 1:
        confidence = probabilities[..., 0]
        hit = labels == 1
        squared_error = jnp.square(confidence - hit.astype(jnp.float32))
    else:
        confidence = probabilities.max(axis=-1)
        hit = jnp.argmax(probabilities, axis=-1).astype(jnp.int32) == labels
        targets = jax.nn.one_hot(labels, probabilities.shape[-1], dtype=jnp.float32)
        squared_error = jnp.square(probabilities - targets).sum(axis=-1)

    def bin_sums(edges: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        lower, upper = edges
        inside = counted & (confidence >= lower) & (confidence < upper)
        return (
            sum_pixels(inside),
            sum_pixels(inside & hit),
            sum_pixels(jnp.where(inside, confidence, 0)),
        )

    edges = np.linspace(0, 1, bins + 1, dtype=np.float32)
    lower, upper = edges[:-1], np.append(edges[1:-1], np.float32(np.inf))
    # A loop, because XLA does not fuse the comparison into the sum on a CPU: all bins at once would
    # hold [B, H, W, bins] in memory.
    sums = jax.lax.map(bin_sums, jnp.stack([lower, upper], axis=-1))
    pixels, hits, confidences = (rows.T for rows in sums)
    return CalibrationSums(
        pixels=pixels,
        hits=hits,
        confidence=confidences,
        squared_error=sum_pixels(jnp.where(counted, squared_error, 0))[:, None],
        outside=outside[:, None],
    )


def expected_calibration_error(sums: CalibrationSums) -> Array:
    """Mean over pixels of their bin's |share of hits - mean confidence|.

    Naeini et al. 2015; Guo et al. 2017. Agrees with torchmetrics' ``binary_calibration_error``
    and ``multiclass_calibration_error``, ``norm="l1"``.

    Args:
        sums: of `calibration_sums`, or pooled.

    Returns:
        Values in [0, 1], ``[B]``, or 0-d of pooled sums: float32 on the device, float64 from NumPy
        sums. NaN where no pixel counts or one was outside the classes.
    """
    hits, confidence, pixels = floats(sums.hits, sums.confidence, sums.pixels)
    gap = abs(hits - confidence).sum(axis=-1)
    return ratio(gap, pixels.sum(axis=-1), sums.outside[..., 0], math.nan)


def maximum_calibration_error(sums: CalibrationSums) -> Array:
    """The largest |share of hits - mean confidence| of any bin that is not empty.

    Naeini et al. 2015. Agrees with torchmetrics, ``norm="max"``.

    Args:
        sums: of `calibration_sums`, or pooled.

    Returns:
        As for `expected_calibration_error`.
    """
    hits, confidence, pixels = floats(sums.hits, sums.confidence, sums.pixels)
    gap = ratio(abs(hits - confidence), pixels, sums.outside, 0.0).max(axis=-1)
    some = (pixels.sum(axis=-1) > 0).astype(gap.dtype)
    return ratio(gap, some, sums.outside[..., 0], math.nan)


def brier_score(sums: CalibrationSums) -> Array:
    """Mean over pixels of the squared error of the probabilities.

    Brier 1950. ``K == 1``: the error of the foreground's probability alone, in [0, 1]; agrees with
    ``sklearn.metrics.brier_score_loss``. ``K > 1``: summed over the classes, in [0, 2], which for
    two classes is twice the binary score; agrees with ``sklearn`` with ``scale_by_half=False``.

    Args:
        sums: of `calibration_sums`, or pooled.

    Returns:
        ``[B]``, or 0-d of pooled sums: float32 on the device, float64 from NumPy sums. NaN where no
        pixel counts or one was outside the classes.
    """
    squared_error, pixels = floats(sums.squared_error, sums.pixels)
    return ratio(squared_error[..., 0], pixels.sum(axis=-1), sums.outside[..., 0], math.nan)


def reliability(sums: CalibrationSums) -> Reliability:
    """The points of a reliability diagram: the share of hits against the mean confidence.

    DeGroot and Fienberg 1983. Agrees with ``sklearn.calibration.calibration_curve``, which leaves
    the empty bins out, and puts a probability on a bin's edge into the bin below.

    Args:
        sums: of `calibration_sums`, or pooled.

    Returns:
        A Reliability of the sums' shape; NaN throughout where a pixel was outside the classes.
    """
    hits, confidence, pixels = floats(sums.hits, sums.confidence, sums.pixels)
    return Reliability(
        confidence=ratio(confidence, pixels, sums.outside, math.nan),
        frequency=ratio(hits, pixels, sums.outside, math.nan),
        share=ratio(pixels, pixels.sum(axis=-1, keepdims=True), sums.outside, math.nan),
    )
