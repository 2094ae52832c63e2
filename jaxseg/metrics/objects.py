"""Scores that count objects instead of pixels, in NumPy on the host.

The objects of a mask are its components, connected over edges and corners, in any number of
dimensions. An actual and a predicted object match if their intersection over union (IoU) is above
a threshold; each object matches at most one other. From 0.5 on there is at most one choice
(Kirillov et al. 2019). Below, the matches have the largest sum of IoU that is possible.

As for pixels, counts come first and ratios last: `count_objects`, then `jaxseg.metrics.pooled`,
then `panoptic_quality` and the others. SciPy is imported on first use.
"""

import math
from typing import Any, NamedTuple

import flax.struct
import numpy as np
from jaxtyping import Bool, Float, Int, Integer

from jaxseg.metrics.inputs import AnyLabels, check_same_shape, class_masks, valid_pixels
from jaxseg.metrics.ratios import floats, ratio
from jaxseg.types import Array


@flax.struct.dataclass
class ObjectCounts:
    """Objects of each class by outcome.

    A pytree whose fields have the same shape: NumPy ``[B, K]`` from `count_objects`, ``[K]`` from
    `jaxseg.metrics.pooled`, 0-d from `ObjectMatches.counts`.

    Attributes:
        tp: Matched pairs of an actual and a predicted object, int64.
        fp: Predicted objects without a match, int64.
        fn: Actual objects without a match, int64.
        iou: Sum of the IoU of the matched pairs, float64.
        dice: Sum of the Dice coefficients of the matched pairs, float64.
        outside: Pixels whose predicted or actual label is no class, int64, as in
            `jaxseg.metrics.Counts`. One such pixel makes every ratio of the image NaN.
    """

    # Any, because a pytree's leaves may be shardings or specs while JAX transforms it.
    tp: Any
    fp: Any
    fn: Any
    iou: Any
    dice: Any
    outside: Any


class ObjectMatches(NamedTuple):
    """The actual objects of one image, and the predicted object that matches each.

    Objects are in the order of their ids; components are in reading order of their first pixels.

    Attributes:
        match: int64 ``[N]``, index of the predicted object that matches; -1 if there is none.
        iou: float64 ``[N]``, IoU with the match; 0 if there is none.
        dice: float64 ``[N]``, Dice coefficient with the match; 0 if there is none.
        num_predicted: Number of predicted objects, matched or not.
    """

    match: Int[np.ndarray, "N"]
    iou: Float[np.ndarray, "N"]
    dice: Float[np.ndarray, "N"]
    num_predicted: int

    @property
    def counts(self) -> ObjectCounts:
        """The image's counts, 0-d."""
        tp = np.sum(self.match >= 0)
        return ObjectCounts(
            tp=tp,
            fp=self.num_predicted - tp,
            fn=len(self.match) - tp,
            iou=self.iou.sum(),
            dice=self.dice.sum(),
            outside=np.int64(0),
        )


def match_objects(
    predicted: Bool[Array, "*spatial"] | Integer[Array, "*spatial"],
    actual: Bool[Array, "*spatial"] | Integer[Array, "*spatial"],
    *,
    iou_threshold: float = 0.5,
) -> ObjectMatches:
    """Matches the objects of one image's predicted and actual mask by IoU.

    A pair matches if its intersection over union is above a threshold; each object matches at most
    one other. At thresholds from 0.5 on there is only one choice (Kirillov et al. 2019). Below,
    the matches have the largest possible sum of IoU.

    Args:
        predicted: A bool mask, whose objects are its connected components, over edges and corners;
            or integer ids of objects, where 0 is background. Objects that touch need ids.
        actual: The same.
        iou_threshold: In [0, 1). A pair matches if its IoU is above it.

    Returns:
        The match, IoU and Dice coefficient of every actual object, arrays of length 0 if there is
        no object.

    Raises:
        TypeError: An array is neither bool nor integer.
        ValueError: Shapes differ, an id is negative, or the threshold is not in [0, 1).

    Examples:
        >>> import numpy as np
        >>> from jaxseg import metrics
        >>> actual = np.array([[1, 1, 1, 0, 1, 0, 0]], bool)
        >>> predicted = np.array([[1, 1, 0, 0, 0, 0, 1]], bool)
        >>> found = metrics.match_objects(predicted, actual)
        >>> found.match.tolist(), found.dice.tolist(), found.num_predicted
        ([0, -1], [0.8, 0.0], 2)
    """
    if not 0 <= iou_threshold < 1:
        raise ValueError(f"iou_threshold must be in [0, 1), got {iou_threshold}")
    check_same_shape("actual", actual, np.shape(predicted))
    p, a = _object_ids("predicted", predicted), _object_ids("actual", actual)
    p_areas, a_areas = (np.bincount(ids, minlength=1) for ids in (p, a))
    both = (p > 0) & (a > 0)
    pairs, overlap = np.unique(a[both] * len(p_areas) + p[both], return_counts=True)
    row, column = np.divmod(pairs, len(p_areas))
    iou = overlap / (a_areas[row] + p_areas[column] - overlap)
    above = iou > iou_threshold
    row, column, iou = row[above] - 1, column[above] - 1, iou[above]
    if iou_threshold < 0.5:
        chosen = _assignment(row, column, iou)
        row, column, iou = row[chosen], column[chosen], iou[chosen]
    match, best = np.full(len(a_areas) - 1, -1), np.zeros(len(a_areas) - 1)
    match[row], best[row] = column, iou
    return ObjectMatches(match, best, 2 * best / (1 + best), len(p_areas) - 1)


def count_objects(
    predicted: AnyLabels,
    actual: AnyLabels,
    *,
    num_classes: int,
    iou_threshold: float = 0.5,
    where: Bool[Array, "B *spatial"] | None = None,
) -> ObjectCounts:
    """Returns each image's matched, false and missed objects by class.

    The objects of a class are the connected components of its pixels; see
    `jaxseg.metrics.objects`. It takes one class at a time, so use it for small numbers of classes.

    Args:
        predicted: ``[B, *spatial]`` labels, as for `count`.
        actual: The same.
        num_classes: 1 for binary labels 0 and 1, of which only the foreground is counted; K > 1
            for labels 0 to K - 1, background included. Leave it out with ``[:, 1:]`` or ``[1:]``.
        iou_threshold: In [0, 1). A pair matches if its IoU is above it.
        where: ``[B, *spatial]`` bool, True on valid pixels; None means all. Invalid pixels are
            removed from their components. Kirillov et al. 2019 also ignore unmatched
            predicted objects of which most is not valid; here they count as false.

    Returns:
        Counts ``[B, K]``, 0 for an image without an object.

    Raises:
        TypeError: Labels are not integer, or ``where`` is not bool.
        ValueError: Shapes differ or are not ``[B, *spatial]``, ``num_classes`` is below 1, or the
            threshold is not in [0, 1).

    Examples:
        >>> import numpy as np
        >>> from jaxseg import metrics
        >>> actual = np.array([[[1, 1, 1, 0, 1, 0, 0]]])
        >>> predicted = np.array([[[1, 1, 0, 0, 0, 0, 1]]])
        >>> counts = metrics.count_objects(predicted, actual, num_classes=1)
        >>> counts.tp.tolist(), counts.fp.tolist(), counts.fn.tolist()
        ([[1]], [[1]], [[1]])
        >>> print(metrics.panoptic_quality(metrics.pooled(counts)).round(3))
        [0.333]
    """
    check_same_shape("actual", actual, np.shape(predicted))
    p, p_known = class_masks("predicted", predicted, num_classes=num_classes)
    a, a_known = class_masks("actual", actual, num_classes=num_classes)
    valid, known = np.asarray(valid_pixels(where, p.shape[:-1])), np.asarray(p_known & a_known)
    p, a = np.asarray(p), np.asarray(a)
    shape, rows = (len(p), p.shape[-1]), []
    for b, k in np.ndindex(shape):
        ids = [_object_ids("labels", x[b, ..., k]).reshape(valid[b].shape) for x in (p, a)]
        found = match_objects(*(x * valid[b] for x in ids), iou_threshold=iou_threshold).counts
        missing = np.sum(valid[b] & ~known[b, ..., 0])
        rows.append([found.tp, found.fp, found.fn, missing, found.iou, found.dice])
    table = np.moveaxis(np.array(rows, np.float64).reshape(*shape, 6), -1, 0)
    tp, fp, fn, outside = table[:4].astype(np.int64)
    return ObjectCounts(tp=tp, fp=fp, fn=fn, iou=table[4], dice=table[5], outside=outside)


def panoptic_quality(counts: ObjectCounts, *, undefined: float = math.nan) -> Array:
    """Returns panoptic quality (PQ): sum of IoU / (tp + fp / 2 + fn / 2).

    It is `segmentation_quality` times `object_f1`. Kirillov et al. 2019. Agrees with MONAI's
    ``compute_panoptic_quality`` at thresholds from 0.5 on, but for the 1e-6 that MONAI adds to the
    denominator. Below 0.5 MONAI may choose other matches, with a smaller sum.

    Args:
        counts: ``[B, K]`` per image, or ``[K]`` pooled. The paper pools the images, then takes the
            mean over classes with `jaxseg.metrics.mean_over_classes`.
        undefined: The value if neither mask has an object.

    Returns:
        float64 in [0, 1] of the counts' shape. NaN if a label was outside the classes, whatever
        ``undefined`` is.
    """
    tp, fp, fn, iou = floats(counts.tp, counts.fp, counts.fn, counts.iou)
    return ratio(iou, tp + (fp + fn) / 2, counts.outside, undefined)


def segmentation_quality(counts: ObjectCounts, *, undefined: float = math.nan) -> Array:
    """Returns segmentation quality (SQ), the mean IoU of the matched pairs.

    Kirillov et al. 2019. Agrees with MONAI as `panoptic_quality` does.

    Args:
        counts: ``[B, K]`` per image, or ``[K]`` pooled.
        undefined: The value if no object matches.

    Returns:
        As for `panoptic_quality`.
    """
    iou, tp = floats(counts.iou, counts.tp)
    return ratio(iou, tp, counts.outside, undefined)


def object_f1(counts: ObjectCounts, *, undefined: float = math.nan) -> Array:
    """Returns the F1 score of objects, or recognition quality (RQ): 2 tp / (2 tp + fp + fn).

    Kirillov et al. 2019. Agrees with MONAI as `panoptic_quality` does.

    Args:
        counts: ``[B, K]`` per image, or ``[K]`` pooled.
        undefined: The value if neither mask has an object.

    Returns:
        As for `panoptic_quality`.
    """
    tp, fp, fn = floats(counts.tp, counts.fp, counts.fn)
    return ratio(2 * tp, 2 * tp + fp + fn, counts.outside, undefined)


def object_precision(counts: ObjectCounts, *, undefined: float = math.nan) -> Array:
    """Returns the fraction of predicted objects that match: tp / (tp + fp).

    Args:
        counts: ``[B, K]`` per image, or ``[K]`` pooled.
        undefined: The value if no object is predicted.

    Returns:
        As for `panoptic_quality`.
    """
    tp, fp = floats(counts.tp, counts.fp)
    return ratio(tp, tp + fp, counts.outside, undefined)


def object_recall(counts: ObjectCounts, *, undefined: float = math.nan) -> Array:
    """Returns the fraction of actual objects that match, or sensitivity: tp / (tp + fn).

    Args:
        counts: ``[B, K]`` per image, or ``[K]`` pooled.
        undefined: The value if there is no actual object.

    Returns:
        As for `panoptic_quality`.
    """
    tp, fn = floats(counts.tp, counts.fn)
    return ratio(tp, tp + fn, counts.outside, undefined)


def object_dice(counts: ObjectCounts, *, undefined: float = math.nan) -> Array:
    """Returns the mean Dice coefficient of objects: sum of Dice / (tp + fp + fn).

    A missed and a false object have Dice 0 each. This is the mean of lesion-wise Dice in the BraTS
    2023 challenge, which matches objects by other rules. For the Dice coefficient of every single
    object use `match_objects`.

    Args:
        counts: ``[B, K]`` per image, or ``[K]`` pooled.
        undefined: The value if neither mask has an object.

    Returns:
        As for `panoptic_quality`.
    """
    tp, fp, fn, dice = floats(counts.tp, counts.fp, counts.fn, counts.dice)
    return ratio(dice, tp + fp + fn, counts.outside, undefined)


def _object_ids(name: str, objects: Array) -> Int[np.ndarray, "pixels"]:
    """Returns the objects' ids, numbered from 1 on without gaps, flattened; 0 is background."""
    objects = np.asarray(objects)
    if objects.dtype == np.bool_:
        from scipy import ndimage

        labeled: Any = ndimage.label(objects, np.ones((3,) * objects.ndim, bool))
        return labeled[0].ravel().astype(np.int64)
    if not np.issubdtype(objects.dtype, np.integer):
        raise TypeError(f"{name} must be bool or integer ids of objects, got {objects.dtype}")
    values, ids = np.unique(objects.ravel(), return_inverse=True)
    if values.size and values[0] < 0:
        raise ValueError(f"{name} has the id {values[0]}; ids must be at least 0")
    return ids + int(values.size > 0 and values[0] > 0)


def _assignment(row: np.ndarray, column: np.ndarray, iou: np.ndarray) -> np.ndarray:
    """Returns the indices of the pairs with the largest sum that share no row and no column."""
    from scipy.optimize import linear_sum_assignment

    _, r = np.unique(row, return_inverse=True)
    _, c = np.unique(column, return_inverse=True)
    index = np.full((r.max(initial=-1) + 1, c.max(initial=-1) + 1), -1)
    index[r, c] = np.arange(len(iou))
    gain = np.append(iou, 0.0)[index]  # Index -1 reads the 0.
    chosen = index[linear_sum_assignment(gain, maximize=True)]
    return chosen[chosen >= 0]
