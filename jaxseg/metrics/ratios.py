"""Overlap ratios as functions of `Counts`.

The counts decide what a ratio is taken over. Counts ``[B, K]`` of `count` give one value per image,
counts ``[K]`` of `pooled` give one value over the whole set. In the formulas tp, fp, fn and tn are
the fields of `Counts`.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg.metrics.counts import Counts
from jaxseg.types import Array

Quantity = Any
"""A JAX array, a NumPy array, or the scalar that NumPy's arithmetic makes of a 0-d array."""


def dice(counts: Counts, *, undefined: float = math.nan) -> Array:
    """Returns the Dice coefficient, or F1 score: 2 tp / (2 tp + fp + fn).

    Dice 1945; Sorensen 1948. Agrees with ``sklearn.metrics.f1_score``, whose ``zero_division`` is
    ``undefined``, and with torchmetrics' ``segmentation.dice_score``. MONAI's ``compute_dice`` with
    ``ignore_empty=False`` is this with ``undefined=1``. By default MONAI also leaves out images
    whose actual mask is empty but whose predicted mask is not; they score 0 here.

    Args:
        counts: ``[B, K]`` per image, or ``[K]`` pooled.
        undefined: The value if neither mask has a pixel.

    Returns:
        Values in [0, 1] of the counts' shape: float32 from JAX counts, float64 from NumPy counts.
        NaN if a label was outside the classes, whatever ``undefined`` is.

    Examples:
        >>> import numpy as np
        >>> from jaxseg import metrics
        >>> predicted = np.array([[[1, 1, 0, 0]], [[0, 0, 0, 0]]])  # two images of 1 x 4 pixels
        >>> actual = np.array([[[1, 0, 0, 0]], [[0, 0, 0, 0]]])
        >>> counts = metrics.count(predicted, actual, num_classes=1)

        >>> print(np.asarray(metrics.dice(counts)).ravel().round(3))  # the second has empty masks
        [0.667   nan]
    """
    tp, fp, fn, _ = _cells(counts)
    return ratio(2 * tp, 2 * tp + fp + fn, counts.outside, undefined)


def iou(counts: Counts, *, undefined: float = math.nan) -> Array:
    """Returns intersection over union, or the Jaccard index: tp / (tp + fp + fn).

    Jaccard 1912. Agrees with ``sklearn.metrics.jaccard_score``, whose ``zero_division`` is
    ``undefined``, and with torchmetrics' ``binary_jaccard_index``. MONAI's ``compute_iou`` differs
    on empty masks as its ``compute_dice`` does from `dice`.

    Args:
        counts: ``[B, K]`` per image, or ``[K]`` pooled.
        undefined: The value if neither mask has a pixel.

    Returns:
        As for `dice`.

    Examples:
        >>> import numpy as np
        >>> from jaxseg import metrics
        >>> predicted = np.array([[[1, 1, 0, 0]], [[0, 0, 0, 0]]])  # two images of 1 x 4 pixels
        >>> actual = np.array([[[1, 0, 0, 0]], [[0, 0, 0, 0]]])
        >>> counts = metrics.count(predicted, actual, num_classes=1)

        >>> print(metrics.iou(counts, undefined=1.0)[:, 0])
        [0.5 1. ]
    """
    tp, fp, fn, _ = _cells(counts)
    return ratio(tp, tp + fp + fn, counts.outside, undefined)


def precision(counts: Counts, *, undefined: float = math.nan) -> Array:
    """Returns precision, or positive predictive value: tp / (tp + fp).

    Agrees with ``sklearn.metrics.precision_score``, whose ``zero_division`` is ``undefined``.

    Args:
        counts: ``[B, K]`` per image, or ``[K]`` pooled.
        undefined: The value if the predicted mask is empty.

    Returns:
        As for `dice`.
    """
    tp, fp, _, _ = _cells(counts)
    return ratio(tp, tp + fp, counts.outside, undefined)


def recall(counts: Counts, *, undefined: float = math.nan) -> Array:
    """Returns recall, or sensitivity: tp / (tp + fn).

    Agrees with ``sklearn.metrics.recall_score``, whose ``zero_division`` is ``undefined``.

    Args:
        counts: ``[B, K]`` per image, or ``[K]`` pooled.
        undefined: The value if the actual mask is empty.

    Returns:
        As for `dice`.
    """
    tp, _, fn, _ = _cells(counts)
    return ratio(tp, tp + fn, counts.outside, undefined)


def specificity(counts: Counts, *, undefined: float = math.nan) -> Array:
    """Returns specificity, or the true negative rate: tn / (tn + fp).

    Agrees with torchmetrics' ``binary_specificity``.

    Args:
        counts: ``[B, K]`` per image, or ``[K]`` pooled.
        undefined: The value if the actual mask is full.

    Returns:
        As for `dice`.
    """
    _, fp, _, tn = _cells(counts)
    return ratio(tn, tn + fp, counts.outside, undefined)


def negative_predictive_value(counts: Counts, *, undefined: float = math.nan) -> Array:
    """Returns the negative predictive value (NPV): tn / (tn + fn).

    Agrees with torchmetrics' ``binary_negative_predictive_value``, which is 0 where this is
    undefined, and with MONAI's and segmentation_models_pytorch's "negative predictive value".

    Args:
        counts: ``[B, K]`` per image, or ``[K]`` pooled.
        undefined: The value if the predicted mask is full.

    Returns:
        As for `dice`.
    """
    _, _, fn, tn = _cells(counts)
    return ratio(tn, tn + fn, counts.outside, undefined)


def accuracy(counts: Counts, *, undefined: float = math.nan) -> Array:
    """Returns the accuracy of each class against the rest: (tp + tn) / (tp + fp + fn + tn).

    For binary labels this is the pixel accuracy. For K > 1 a rare class has a high accuracy just
    because it is rare; `pixel_accuracy` is the fraction of pixels with the right label. Agrees with
    torchmetrics' ``binary_accuracy`` and with "accuracy" of MONAI's
    ``compute_confusion_matrix_metric``. torchmetrics' ``multiclass_accuracy`` of a class is its
    `recall`.

    Args:
        counts: ``[B, K]`` per image, or ``[K]`` pooled.
        undefined: The value if no pixel is valid.

    Returns:
        As for `dice`.
    """
    tp, fp, fn, tn = _cells(counts)
    return ratio(tp + tn, tp + fp + fn + tn, counts.outside, undefined)


def pixel_accuracy(counts: Counts, *, undefined: float = math.nan) -> Array:
    """Returns the fraction of pixels whose label is right, over all classes at once.

    Binary labels: (tp + tn) / (tp + fp + fn + tn). K > 1: sum_k tp_k / (tp + fp + fn + tn). Long et
    al. 2015. Agrees with torchmetrics' ``multiclass_accuracy``, ``average="micro"``. Multilabel
    counts have no single label per pixel; use `accuracy` for them.

    Args:
        counts: ``[B, K]`` per image, or ``[K]`` pooled, with all classes, background included.
        undefined: The value if no pixel is valid.

    Returns:
        Values in [0, 1] of shape ``[B]``, or 0-d for pooled counts. Otherwise as for `dice`.
    """
    tp, fp, fn, tn = _cells(counts)
    right = (tp + tn)[..., 0] if tp.shape[-1] == 1 else tp.sum(axis=-1)
    return ratio(right, (tp + fp + fn + tn)[..., 0], counts.outside[..., 0], undefined)


def f_beta(counts: Counts, *, beta: float, undefined: float = math.nan) -> Array:
    """Returns the F score: (1 + beta^2) tp / ((1 + beta^2) tp + beta^2 fn + fp).

    ``beta`` above 1 weights recall more, below 1 precision; 1 gives `dice`. van Rijsbergen 1979.
    Agrees with ``sklearn.metrics.fbeta_score``, whose ``zero_division`` is ``undefined``.

    Args:
        counts: ``[B, K]`` per image, or ``[K]`` pooled.
        beta: Finite, above 0.
        undefined: The value if neither mask has a pixel.

    Returns:
        As for `dice`.

    Raises:
        ValueError: ``beta`` is not finite and above 0.
    """
    if not 0 < beta < math.inf:
        raise ValueError(f"beta must be finite and above 0, got {beta}")
    tp, fp, fn, _ = _cells(counts)
    hits = (1 + beta**2) * tp
    return ratio(hits, hits + beta**2 * fn + fp, counts.outside, undefined)


def matthews(counts: Counts, *, undefined: float = math.nan) -> Array:
    """Returns the Matthews correlation coefficient (MCC) of each class.

    (tp tn - fp fn) / sqrt((tp + fp)(tp + fn)(tn + fp)(tn + fn)). Matthews 1975. For K > 1 it is one
    correlation per class against the rest; `multiclass_matthews` is Gorodkin's single R_K.
    Agrees with ``sklearn.metrics.matthews_corrcoef`` of binary labels, which is 0 where this is
    undefined.

    Args:
        counts: ``[B, K]`` per image, or ``[K]`` pooled.
        undefined: The value if a mask is empty or full.

    Returns:
        Values in [-1, 1]. Otherwise as for `dice`.
    """
    tp, fp, fn, tn = _cells(counts)
    # The product of all four overflows float32 on a large mask; products of two do not.
    scale = ((tp + fp) * (tp + fn)) ** 0.5 * ((tn + fp) * (tn + fn)) ** 0.5
    covariance = (tp * tn - fp * fn).clip(-scale, scale)
    return ratio(covariance, scale, counts.outside, undefined)


def _cells(counts: Counts) -> list[Quantity]:
    return floats(counts.tp, counts.fp, counts.fn, counts.tn)


def floats(*sums: Quantity) -> list[Quantity]:
    """Returns JAX arrays as float32 and NumPy arrays as float64."""
    return [x.astype(jnp.float32 if isinstance(x, jax.Array) else np.float64) for x in sums]


def ratio(numerator: Quantity, denominator: Quantity, outside: Quantity, undefined: float) -> Array:
    """Returns a quotient: ``undefined`` over 0, and NaN where ``outside`` is above 0.

    All three arrays have the same shape and are either JAX or NumPy arrays.
    """
    xp = jnp if isinstance(numerator, jax.Array) else np
    empty = denominator == 0
    quotient = numerator / xp.where(empty, 1, denominator)
    return xp.where(outside > 0, math.nan, xp.where(empty, undefined, quotient))
