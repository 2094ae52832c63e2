"""Calibration error, reliability diagram and Brier score of the predicted probabilities.

The convention is that of torchmetrics. Binary logits (K = 1): a pixel's confidence is the
probability of foreground, and a hit is a foreground pixel. K > 1: the confidence is the largest
probability, and a hit is a pixel whose most probable class is its label. Bins have equal width and
include their lower edge; the last bin also includes 1. torchmetrics gives a confidence of exactly 1
a separate bin, which is the only difference.
"""

import math
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool

from jaxseg.metrics.aggregation import sum_pixels
from jaxseg.metrics.inputs import probabilities_and_targets
from jaxseg.metrics.ratios import floats, ratio
from jaxseg.types import Array, Labels, Logits


@flax.struct.dataclass
class CalibrationSums:
    """The sums that calibration scores are functions of.

    The shapes are those of `calibration_sums`; `pooled` removes the axis B.

    Attributes:
        pixels: Number of pixels by bin of confidence, int32 ``[B, bins]``.
        hits: Number of hits among them, int32 ``[B, bins]``.
        confidence: Sum of their confidences, float32 ``[B, bins]``.
        squared_error: Sum over pixels and classes of (probability - target)^2, float32 ``[B, 1]``.
        outside: Pixels whose label is no class or whose probability is NaN, int32 ``[B, 1]``. They
            are in none of the other fields, and one such pixel makes every score NaN.
    """

    # Any, because a pytree's leaves may be shardings or specs while JAX transforms it.
    pixels: Any
    hits: Any
    confidence: Any
    squared_error: Any
    outside: Any


class Reliability(NamedTuple):
    """A reliability diagram by bin, ``[B, bins]``, or ``[bins]`` for pooled sums.

    Attributes:
        confidence: Mean confidence in [0, 1]; NaN in an empty bin.
        frequency: Fraction of hits in [0, 1]; NaN in an empty bin.
        fraction: Fraction of all valid pixels that are in the bin; the sum over bins is 1. NaN
            if no pixel is valid.
    """

    confidence: Array
    frequency: Array
    fraction: Array


def calibration_sums(
    logits: Logits,
    labels: Labels | Bool[Array, "B *spatial"],
    *,
    where: Bool[Array, "B *spatial"] | None = None,
    bins: int = 15,
) -> CalibrationSums:
    """Returns each image's pixels, hits and confidences by bin of confidence.

    Args:
        logits: ``[B, *spatial, K]`` floating; sigmoid for K = 1, softmax otherwise.
        labels: ``[B, *spatial]`` integer class ids.
        where: ``[B, *spatial]`` bool, True on valid pixels.
        bins: Number of bins of equal width in [0, 1].

    Returns:
        CalibrationSums with one row per image; zero for an image without a valid pixel.

    Raises:
        TypeError: Logits are not floating, labels not integer, or ``where`` not bool.
        ValueError: The shapes do not fit, or ``bins`` is below 1.
    """
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}")
    probabilities, targets, valid, outside = probabilities_and_targets(logits, labels, where)
    confidence, valid = probabilities.max(axis=-1, keepdims=True), valid[..., :1]
    likeliest = probabilities.argmax(axis=-1, keepdims=True)
    hit = jnp.take_along_axis(targets, likeliest, axis=-1)

    def bin_sums(edges: jax.Array) -> tuple[jax.Array, ...]:
        inside = valid & (confidence >= edges[0]) & (confidence < edges[1])
        columns = (inside, inside & hit, jnp.where(inside, confidence, 0))
        return tuple(sum_pixels(column)[:, 0] for column in columns)

    edges = np.linspace(0, 1, bins + 1, dtype=np.float32)
    edges[-1] = np.inf
    # A loop over bins: all at once would need memory for [B, *spatial, bins].
    pairs = jnp.stack([edges[:-1], edges[1:]], axis=-1)
    pixels, hits, confidences = (rows.T for rows in jax.lax.map(bin_sums, pairs))
    squared_error = jnp.square(probabilities - targets.astype(jnp.float32))
    return CalibrationSums(
        pixels=pixels,
        hits=hits,
        confidence=confidences,
        squared_error=sum_pixels(squared_error).sum(axis=-1, keepdims=True),
        outside=outside[:, :1],
    )


def expected_calibration_error(sums: CalibrationSums) -> Array:
    """Returns the mean over pixels of their bin's |fraction of hits - mean confidence|.

    Naeini et al. 2015; Guo et al. 2017. Agrees with torchmetrics' ``binary_calibration_error``
    and ``multiclass_calibration_error``, ``norm="l1"``.

    Args:
        sums: Of `calibration_sums`, or pooled.

    Returns:
        Values in [0, 1], ``[B]``, or 0-d for pooled sums: float32 from JAX sums, float64 from NumPy
        sums. NaN if no pixel is valid or one was outside the classes.
    """
    hits, confidence, pixels = floats(sums.hits, sums.confidence, sums.pixels)
    gap = abs(hits - confidence).sum(axis=-1)
    return ratio(gap, pixels.sum(axis=-1), sums.outside[..., 0], math.nan)


def maximum_calibration_error(sums: CalibrationSums) -> Array:
    """Returns the largest |fraction of hits - mean confidence| of the bins with pixels.

    Naeini et al. 2015. Agrees with torchmetrics, ``norm="max"``.

    Args:
        sums: Of `calibration_sums`, or pooled.

    Returns:
        As for `expected_calibration_error`.
    """
    hits, confidence, pixels = floats(sums.hits, sums.confidence, sums.pixels)
    gap = ratio(abs(hits - confidence), pixels, sums.outside, 0.0).max(axis=-1)
    some = (pixels.sum(axis=-1) > 0).astype(gap.dtype)
    return ratio(gap, some, sums.outside[..., 0], math.nan)


def brier_score(sums: CalibrationSums) -> Array:
    """Returns the mean over pixels of the squared error of the probabilities.

    Brier 1950. K = 1: the error of the foreground's probability, in [0, 1]; agrees with
    ``sklearn.metrics.brier_score_loss``. K > 1: the sum over classes, in [0, 2], which for two
    classes is twice the binary score; agrees with sklearn's ``scale_by_half=False``.

    Args:
        sums: Of `calibration_sums`, or pooled.

    Returns:
        ``[B]``, or 0-d for pooled sums: float32 from JAX sums, float64 from NumPy sums. NaN if no
        pixel is valid or one was outside the classes.
    """
    squared_error, pixels = floats(sums.squared_error, sums.pixels)
    return ratio(squared_error[..., 0], pixels.sum(axis=-1), sums.outside[..., 0], math.nan)


def reliability(sums: CalibrationSums) -> Reliability:
    """Returns the points of a reliability diagram: fraction of hits against mean confidence.

    DeGroot and Fienberg 1983. Agrees with ``sklearn.calibration.calibration_curve``, except that
    sklearn leaves out empty bins and puts a probability on an edge into the lower bin.

    Args:
        sums: Of `calibration_sums`, or pooled.

    Returns:
        A Reliability of the sums' shape; all NaN if a pixel was outside the classes.
    """
    hits, confidence, pixels = floats(sums.hits, sums.confidence, sums.pixels)
    return Reliability(
        confidence=ratio(confidence, pixels, sums.outside, math.nan),
        frequency=ratio(hits, pixels, sums.outside, math.nan),
        fraction=ratio(pixels, pixels.sum(axis=-1, keepdims=True), sums.outside, math.nan),
    )
