"""Overlap ratios as functions of Counts, which say over what a ratio is taken.

Of the rows that `count` gives, one value per image; of what `pooled` makes of them, one value over
the whole set.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg.metrics.counts import Counts
from jaxseg.types import Array

Quantity = Any
"""A JAX array, a NumPy one, or the scalar that NumPy's arithmetic makes of a 0-d array."""


def dice(counts: Counts, *, undefined: float = math.nan) -> Array:
    """Dice coefficient, F1 score: 2 tp / (2 tp + fp + fn).

    Dice 1945; Sorensen 1948. Agrees with ``sklearn.metrics.f1_score``, whose ``zero_division`` is
    ``undefined``, and with torchmetrics' ``segmentation.dice_score``. MONAI's ``compute_dice`` is
    this with ``undefined=1`` if ``ignore_empty=False``; by default it also leaves out the images
    whose truth alone is empty, which score 0 here.

    Args:
        counts: ``[B, K]`` per image, or ``[K]`` pooled.
        undefined: what it gives where neither mask has a pixel.

    Returns:
        Values in [0, 1] of the counts' shape: float32 on the device, float64 from NumPy counts.
        NaN where a label was outside the classes, whatever ``undefined`` says.

    Examples:
        >>> import numpy as np
        >>> from jaxseg import metrics
        >>> predicted = np.array([[[1, 1, 0, 0]], [[0, 0, 0, 0]]])  # two films of 1 x 4 pixels
        >>> actual = np.array([[[1, 0, 0, 0]], [[0, 0, 0, 0]]])
        >>> counts = metrics.count(predicted, actual, num_classes=1)

        >>> print(np.asarray(metrics.dice(counts)).ravel().round(3))  # the second: two empty masks
        [0.667   nan]
    """
    tp, fp, fn, _ = floats(counts.tp, counts.fp, counts.fn, counts.tn)
    return ratio(2 * tp, 2 * tp + fp + fn, counts.outside, undefined)


def iou(counts: Counts, *, undefined: float = math.nan) -> Array:
    """Intersection over union, Jaccard index: tp / (tp + fp + fn).

    Jaccard 1912. Agrees with ``sklearn.metrics.jaccard_score``, whose ``zero_division`` is
    ``undefined``, and with torchmetrics' ``binary_jaccard_index``; what `dice` says of MONAI holds
    for its ``compute_iou``.

    Args:
        counts: ``[B, K]`` per image, or ``[K]`` pooled.
        undefined: what it gives where neither mask has a pixel.

    Returns:
        As for `dice`.

    Examples:
        >>> import numpy as np
        >>> from jaxseg import metrics
        >>> predicted = np.array([[[1, 1, 0, 0]], [[0, 0, 0, 0]]])  # two films of 1 x 4 pixels
        >>> actual = np.array([[[1, 0, 0, 0]], [[0, 0, 0, 0]]])
        >>> counts = metrics.count(predicted, actual, num_classes=1)

        >>> print(metrics.iou(counts, undefined=1.0)[:, 0])
        [0.5 1. ]
    """
    tp, fp, fn, _ = floats(counts.tp, counts.fp, counts.fn, counts.tn)
    return ratio(tp, tp + fp + fn, counts.outside, undefined)


def precision(counts: Counts, *, undefined: float = math.nan) -> Array:
    """Share of the predicted pixels that are right, positive predictive value: tp / (tp + fp).

    Agrees with ``sklearn.metrics.precision_score``, whose ``zero_division`` is ``undefined``.

    Args:
        counts: ``[B, K]`` per image, or ``[K]`` pooled.
        undefined: what it gives where nothing is predicted.

    Returns:
        As for `dice`.
    """
    tp, fp, _, _ = floats(counts.tp, counts.fp, counts.fn, counts.tn)
    return ratio(tp, tp + fp, counts.outside, undefined)


def recall(counts: Counts, *, undefined: float = math.nan) -> Array:
    """Share of the actual pixels that are found, sensitivity: tp / (tp + fn).

    Agrees with ``sklearn.metrics.recall_score``, whose ``zero_division`` is ``undefined``.

    Args:
        counts: ``[B, K]`` per image, or ``[K]`` pooled.
        undefined: what it gives where the class has no pixel.

    Returns:
        As for `dice`.
    """
    tp, _, fn, _ = floats(counts.tp, counts.fp, counts.fn, counts.tn)
    return ratio(tp, tp + fn, counts.outside, undefined)


def specificity(counts: Counts, *, undefined: float = math.nan) -> Array:
    """Share of the other pixels that are left out, true negative rate: tn / (tn + fp).

    Agrees with torchmetrics' ``binary_specificity``.

    Args:
        counts: ``[B, K]`` per image, or ``[K]`` pooled.
        undefined: what it gives where every pixel is of the class.

    Returns:
        As for `dice`.
    """
    _, fp, _, tn = floats(counts.tp, counts.fp, counts.fn, counts.tn)
    return ratio(tn, tn + fp, counts.outside, undefined)


def accuracy(counts: Counts, *, undefined: float = math.nan) -> Array:
    """Share of pixels on the right side of class against rest: (tp + tn) / (tp + fp + fn + tn).

    For binary labels the pixel accuracy. For K > 1 one value per class, where a rare class scores
    high for being rare; the share of pixels with the right label is `pixel_accuracy`. Agrees with
    torchmetrics' ``binary_accuracy`` and MONAI's "accuracy" of a confusion matrix; torchmetrics'
    ``multiclass_accuracy`` of one class is its `recall`.

    Args:
        counts: ``[B, K]`` per image, or ``[K]`` pooled.
        undefined: what it gives where no pixel counts.

    Returns:
        As for `dice`.
    """
    tp, fp, fn, tn = floats(counts.tp, counts.fp, counts.fn, counts.tn)
    return ratio(tp + tn, tp + fp + fn + tn, counts.outside, undefined)


def pixel_accuracy(counts: Counts, *, undefined: float = math.nan) -> Array:
    """Share of the pixels whose label is right, over all classes at once.

    For one class (tp + tn) / (tp + fp + fn + tn); for K > 1 sum_k tp_k / (tp + fp + fn + tn). Long
    et al. 2015. Agrees with torchmetrics' ``multiclass_accuracy``, ``average="micro"``.

    Args:
        counts: ``[B, K]`` per image, or ``[K]`` pooled, with every class that was counted.
        undefined: what it gives where no pixel counts.

    Returns:
        Values in [0, 1] of shape ``[B]``, or 0-d for pooled counts; the rest as for `dice`.
    """
    tp, fp, fn, tn = floats(counts.tp, counts.fp, counts.fn, counts.tn)
    right = (tp + tn)[..., 0] if tp.shape[-1] == 1 else tp.sum(axis=-1)
    return ratio(right, (tp + fp + fn + tn)[..., 0], counts.outside[..., 0], undefined)


def f_beta(counts: Counts, *, beta: float, undefined: float = math.nan) -> Array:
    """F score: (1 + beta^2) tp / ((1 + beta^2) tp + beta^2 fn + fp).

    ``beta`` above 1 weighs recall, below 1 precision; 1 is `dice`. van Rijsbergen 1979. Agrees with
    ``sklearn.metrics.fbeta_score``, whose ``zero_division`` is ``undefined``.

    Args:
        counts: ``[B, K]`` per image, or ``[K]`` pooled.
        beta: finite, above 0.
        undefined: what it gives where neither mask has a pixel.

    Returns:
        As for `dice`.

    Raises:
        ValueError: ``beta`` is not finite and above 0.
    """
    if not 0 < beta < math.inf:
        raise ValueError(f"beta must be finite and above 0, got {beta}")
    tp, fp, fn, _ = floats(counts.tp, counts.fp, counts.fn, counts.tn)
    hits = (1 + beta**2) * tp
    return ratio(hits, hits + beta**2 * fn + fp, counts.outside, undefined)


def matthews(counts: Counts, *, undefined: float = math.nan) -> Array:
    """Matthews correlation: (tp tn - fp fn) / sqrt((tp + fp)(tp + fn)(tn + fp)(tn + fn)).

    For K > 1 one value per class, the class against the rest (not Gorodkin's single R_K). Matthews
    1975. Agrees with ``sklearn.metrics.matthews_corrcoef`` of the binary labels, which gives 0
    where this is undefined.

    Args:
        counts: ``[B, K]`` per image, or ``[K]`` pooled.
        undefined: what it gives where either mask is empty or full.

    Returns:
        Values in [-1, 1]; the rest as for `dice`.
    """
    tp, fp, fn, tn = floats(counts.tp, counts.fp, counts.fn, counts.tn)
    # The product of all four overflows float32 on a large mask; two at a time do not.
    scale = ((tp + fp) * (tp + fn)) ** 0.5 * ((tn + fp) * (tn + fn)) ** 0.5
    covariance = (tp * tn - fp * fn).clip(-scale, scale)
    return ratio(covariance, scale, counts.outside, undefined)


def floats(*sums: Quantity) -> list[Quantity]:
    """The sums as float32 if they are on the device, as float64 if they are NumPy's."""
    return [x.astype(jnp.float32 if isinstance(x, jax.Array) else np.float64) for x in sums]


def ratio(numerator: Quantity, denominator: Quantity, outside: Quantity, undefined: float) -> Array:
    """A quotient that is ``undefined`` over 0, and NaN where a pixel was outside the classes.

    Args:
        numerator: float, on the device or from NumPy.
        denominator: the same, of the same shape.
        outside: how many counted pixels belonged to no class, of the same shape.
        undefined: the value over a denominator of 0.

    Returns:
        The quotient, of the numerator's shape, dtype and kind of array.
    """
    xp = jnp if isinstance(numerator, jax.Array) else np
    empty = denominator == 0
    quotient = numerator / xp.where(empty, 1, denominator)
    return xp.where(outside > 0, math.nan, xp.where(empty, undefined, quotient))
