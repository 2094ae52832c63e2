"""Scores of all classes at once, as functions of `Counts`.

Background is one of the classes: binary counts (K = 1) have two, background and foreground. The
counts of K > 1 must be those of all classes. Each function takes ``[B, K]`` counts and returns
``[B]``, or takes pooled counts, ``[K]``, and returns one value: float32 from JAX counts, float64
from NumPy counts. The value is NaN if a label was outside the classes. Multilabel counts have no
single class per pixel; only `generalized_dice` takes them.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg.metrics.counts import Counts
from jaxseg.metrics.ratios import Quantity, floats, ratio
from jaxseg.types import Array


def balanced_accuracy(counts: Counts, *, undefined: float = math.nan) -> Array:
    """Returns the mean recall of the classes that occur in the labels.

    K = 1: the mean of `recall` and `specificity`. Brodersen et al. 2010. Agrees with
    ``sklearn.metrics.balanced_accuracy_score``, and where all classes occur with torchmetrics'
    ``multiclass_accuracy``, ``average="macro"``, which counts a class that is only predicted as 0.
    "balanced accuracy" of MONAI and segmentation_models_pytorch is of each class against the rest,
    ``(recall(counts) + specificity(counts)) / 2``, and undefined if a mask is full or empty.

    Args:
        counts: ``[B, K]`` per image, or ``[K]`` pooled.
        undefined: The value if no pixel is valid.

    Returns:
        In [0, 1].
    """
    tp, _, fn, _ = _cells_of_all_classes(counts)
    return _mean_of_present(tp, tp + fn, counts, undefined)


def mean_iou(counts: Counts, *, undefined: float = math.nan) -> Array:
    """Returns the mean intersection over union (mIoU) of the classes that occur in either mask.

    On pooled counts it agrees with torchmetrics' ``multiclass_jaccard_index``, ``average="macro"``.
    segmentation_models_pytorch's ``iou_score`` counts an absent class as 1. Without the background:
    ``mean_over_classes(iou(counts)[..., 1:])``.

    Args:
        counts: ``[B, K]`` per image, or ``[K]`` pooled.
        undefined: The value if no pixel is valid.

    Returns:
        In [0, 1].
    """
    tp, fp, fn, _ = _cells_of_all_classes(counts)
    return _mean_of_present(tp, tp + fp + fn, counts, undefined)


def cohen_kappa(counts: Counts, *, undefined: float = math.nan) -> Array:
    """Returns Cohen's kappa, the agreement beyond chance: (p_o - p_e) / (1 - p_e).

    p_o is the fraction of pixels with the right label, and p_e the one expected if predicted and
    actual labels were independent. Cohen 1960. Agrees with ``sklearn.metrics.cohen_kappa_score``
    and torchmetrics' ``multiclass_cohen_kappa``, without weights.

    Args:
        counts: ``[B, K]`` per image, or ``[K]`` pooled.
        undefined: The value if all pixels are of one class in both masks, or if none is valid.

    Returns:
        In [-1, 1]; 0 for agreement by chance.
    """
    chance, wrong = _disagreement(counts)
    return ratio(chance - wrong, chance, counts.outside.max(axis=-1), undefined)


def multiclass_matthews(counts: Counts, *, undefined: float = math.nan) -> Array:
    """Returns the Matthews correlation coefficient of K classes, Gorodkin's R_K.

    The correlation of the one-hot labels. For K = 1 and 2 it is `matthews` of the foreground.
    Gorodkin 2004. Agrees with ``sklearn.metrics.matthews_corrcoef`` and torchmetrics'
    ``multiclass_matthews_corrcoef``, which are 0 where this is undefined.

    Args:
        counts: ``[B, K]`` per image, or ``[K]`` pooled.
        undefined: The value if all pixels of a mask are of one class.

    Returns:
        In [-1, 1].
    """
    tp, fp, fn, tn = _cells_of_all_classes(counts)
    predicted = ((tp + fp) * (tn + fn)).sum(axis=-1)
    actual = ((tp + fn) * (tn + fp)).sum(axis=-1)
    chance, wrong = _disagreement(counts)
    scale = predicted**0.5 * actual**0.5
    covariance = ((chance - wrong) * _pixels(counts)).clip(-scale, scale)
    return ratio(covariance, scale, counts.outside.max(axis=-1), undefined)


def generalized_dice(counts: Counts, *, undefined: float = math.nan) -> Array:
    """Returns the generalized Dice: 2 sum(w tp) / sum(w (2 tp + fp + fn)), w = 1 / (tp + fn)^2.

    The weight of a class is the inverse square of its size in the labels. An absent class has the
    weight of the smallest one present. One minus this is `jaxseg.losses.generalized_dice` of a
    confident prediction, without smoothing.

    Crum et al. 2006; Sudre et al. 2017. Agrees with MONAI's ``compute_generalized_dice``,
    ``sum_over_classes=True``, which is 1 where this is undefined; and with torchmetrics'
    ``generalized_dice_score`` if every image has every class: there an absent class has its largest
    weight among the images of the batch.

    Args:
        counts: ``[B, K]`` per image, or ``[K]`` pooled. Those of a multilabel problem may be used:
            the classes are the foregrounds of its channels, if there are two or more.
        undefined: The value if no pixel is valid, or if all multilabel masks are empty.

    Returns:
        In [0, 1].
    """
    tp, fp, fn, _ = _cells_of_all_classes(counts)
    xp = jnp if isinstance(tp, jax.Array) else np
    sizes = tp + fn
    present = sizes > 0
    smallest = xp.where(present, sizes, math.inf).min(axis=-1, keepdims=True)
    weights = xp.where(present, (smallest / xp.where(present, sizes, 1)) ** 2, 1)
    right, wrong = 2 * (weights * tp).sum(axis=-1), (weights * (fp + fn)).sum(axis=-1)
    return ratio(right, right + wrong, counts.outside.max(axis=-1), undefined)


def _cells_of_all_classes(counts: Counts) -> list[Quantity]:
    """tp, fp, fn, tn of each class; background comes before the foreground of binary counts."""
    tp, fp, fn, tn = floats(counts.tp, counts.fp, counts.fn, counts.tn)
    if tp.shape[-1] > 1:
        return [tp, fp, fn, tn]
    xp = jnp if isinstance(tp, jax.Array) else np
    return [xp.concatenate(pair, axis=-1) for pair in [(tn, tp), (fn, fp), (fp, fn), (tp, tn)]]


def _pixels(counts: Counts) -> Quantity:
    cells = floats(counts.tp, counts.fp, counts.fn, counts.tn)
    return sum(cell[..., 0] for cell in cells)


def _mean_of_present(tp: Quantity, sizes: Quantity, counts: Counts, undefined: float) -> Array:
    """The mean of tp / sizes over the classes whose size is not 0."""
    total = (tp / sizes.clip(1)).sum(axis=-1)
    (present,) = floats((sizes > 0).sum(axis=-1))
    return ratio(total, present, counts.outside.max(axis=-1), undefined)


def _disagreement(counts: Counts) -> tuple[Quantity, Quantity]:
    """Pixels with different labels: expected by chance, and observed.

    Sums of positive numbers, while 1 - p_e would lose digits.
    """
    tp, _, fn, tn = _cells_of_all_classes(counts)
    chance = ((tp + fn) * (tn + fn)).sum(axis=-1) / _pixels(counts).clip(1)
    return chance, fn.sum(axis=-1)
