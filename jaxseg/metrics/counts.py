"""Predicted labels, and the integer counts that every overlap ratio is a function of."""

from typing import Any

import flax.struct
import jax.numpy as jnp
from jaxtyping import Bool, Int, Integer

from jaxseg.metrics.aggregation import sum_pixels
from jaxseg.metrics.inputs import (
    AnyLabels,
    check_same_shape,
    checked_logits,
    class_masks,
    valid_pixels,
)
from jaxseg.types import Array, Logits


@flax.struct.dataclass
class Counts:
    """Pixels of each class by outcome, one class against the rest.

    A pytree whose fields have the same shape: int32 ``[B, K]`` from `count`, NumPy int64 ``[K]``
    from `pooled`. In every entry ``tp + fp + fn + tn + outside`` is the number of valid pixels.

    Attributes:
        tp: True positives: pixels of the class, predicted as the class.
        fp: False positives: pixels of another class, predicted as the class.
        fn: False negatives: pixels of the class, predicted as another class.
        tn: True negatives: all other pixels whose labels are classes.
        outside: Pixels whose predicted or actual label is no class. They are in none of the other
            four fields, and one such pixel makes every ratio of the image NaN. The number is the
            same for all classes, except for multilabel counts, where each channel has its own.
    """

    # Any, because a pytree's leaves may be shardings or specs while JAX transforms it.
    tp: Any
    fp: Any
    fn: Any
    tn: Any
    outside: Any


def predicted_labels(logits: Logits, *, multilabel: bool = False) -> Integer[Array, "B *dims"]:
    """Returns the class that the logits predict at each pixel.

    Args:
        logits: ``[B, *spatial, K]`` floating.
        multilabel: Whether each of the K channels is an independent binary problem.

    Returns:
        int32 ``[B, *spatial]``. K = 1: 1 where the logit is above 0 (probability above 0.5), else
        0. K > 1: the index of the largest logit, the first one on a tie. With ``multilabel`` int32
        ``[B, *spatial, K]``, 1 where the logit is above 0, else 0. A pixel with a NaN logit (with
        ``multilabel``, that channel of it) is -1, which is no class, so that the scores of a
        diverged network are NaN.

    Raises:
        TypeError: The logits are not floating.
        ValueError: The shape is not ``[B, *spatial, K]``.

    Examples:
        >>> import numpy as np
        >>> from jaxseg import metrics
        >>> logits = np.array([0.3, -0.3, np.nan], np.float32).reshape(1, 1, 3, 1)
        >>> metrics.predicted_labels(logits).tolist()
        [[[1, 0, -1]]]
    """
    logits = checked_logits(logits)
    if multilabel:
        return jnp.where(jnp.isnan(logits), -1, (logits > 0).astype(jnp.int32))
    if logits.shape[-1] == 1:
        labels = (logits[..., 0] > 0).astype(jnp.int32)
    else:
        labels = jnp.argmax(logits, axis=-1).astype(jnp.int32)
    return jnp.where(jnp.isnan(logits).any(axis=-1), -1, labels)


def count(
    predicted: AnyLabels,
    actual: AnyLabels,
    *,
    num_classes: int,
    multilabel: bool = False,
    where: Bool[Array, "B *spatial"] | None = None,
) -> Counts:
    """Returns each image's true and false positives and negatives by class.

    Agrees with torchmetrics' ``binary_stat_scores``, ``multiclass_stat_scores`` and
    ``multilabel_stat_scores`` (``multidim_average="samplewise"``) and with MONAI's
    ``get_confusion_matrix``.

    Args:
        predicted: ``[B, *spatial]`` integer class ids with one or more spatial axes, or bool if
            ``num_classes`` is 1 or 2. With ``multilabel`` ``[B, *spatial, K]`` integer 0 and 1, or
            bool.
        actual: The same.
        num_classes: 1 for binary labels 0 and 1, of which only the foreground is counted; K > 1
            for labels 0 to K - 1, background included.
        multilabel: Whether the labels have K channels, each an independent binary problem.
        where: ``[B, *spatial]`` bool, True on valid pixels; None means all. The other pixels may
            have any label; for an ignore label pass ``where=labels != 255``.

    Returns:
        Counts of int32 ``[B, K]``, exact up to 2**31 - 1 pixels per image. All are 0 for an image
        without a valid pixel.

    Raises:
        TypeError: Labels are not integer, or ``where`` is not bool.
        ValueError: Shapes differ or are not ``[B, *spatial]`` (``[B, *spatial, K]``), or
            ``num_classes`` is below 1.

    Examples:
        >>> import numpy as np
        >>> from jaxseg import metrics
        >>> predicted = np.array([[[1, 1, 0, 0]], [[0, 0, 0, 0]]])  # two images of 1 x 4 pixels
        >>> actual = np.array([[[1, 0, 0, 0]], [[0, 0, 0, 0]]])
        >>> counts = metrics.count(predicted, actual, num_classes=1)

        >>> counts.tp.tolist(), counts.fp.tolist(), counts.fn.tolist(), counts.tn.tolist()
        ([[1], [0]], [[1], [0]], [[0], [0]], [[2], [4]])
    """
    options = {"num_classes": num_classes, "multilabel": multilabel}
    check_same_shape("actual", actual, jnp.shape(predicted))
    p, p_known = class_masks("predicted", predicted, **options)
    a, a_known = class_masks("actual", actual, **options)
    where = valid_pixels(where, p.shape[:-1])[..., None]
    known = p_known & a_known
    valid = where & known
    tp, fp, fn, tn = (sum_pixels(x & valid) for x in (p & a, p & ~a, ~p & a, ~p & ~a))
    outside = jnp.broadcast_to(sum_pixels(where & ~known), tp.shape)
    return Counts(tp=tp, fp=fp, fn=fn, tn=tn, outside=outside)


def confusion_matrix(
    predicted: Integer[Array, "B *spatial"] | Bool[Array, "B *spatial"],
    actual: Integer[Array, "B *spatial"] | Bool[Array, "B *spatial"],
    *,
    num_classes: int,
    where: Bool[Array, "B *spatial"] | None = None,
) -> Int[Array, "B K K"]:
    """Returns each image's confusion matrix; rows are actual classes, columns predicted ones.

    ``pooled(matrix)`` gives the matrix of all images. Agrees with
    ``sklearn.metrics.confusion_matrix``.

    Args:
        predicted: As for `count`.
        actual: As for `count`.
        num_classes: K, background included. Binary labels have two classes, so 1 means the same
            as 2.
        where: As for `count`.

    Returns:
        int32 ``[B, K, K]``, with K = 2 for binary labels. A pixel whose predicted or actual label
        is no class is in no entry; `Counts.outside` has their number.

    Raises:
        TypeError: As for `count`.
        ValueError: As for `count`.

    Examples:
        >>> import numpy as np
        >>> from jaxseg import metrics
        >>> predicted, actual = np.array([[[2, 1, 0, 0]]]), np.array([[[1, 1, 0, 0]]])
        >>> metrics.confusion_matrix(predicted, actual, num_classes=3).tolist()
        [[[2, 0, 0], [0, 1, 1], [0, 0, 0]]]
    """
    check_same_shape("actual", actual, jnp.shape(predicted))
    size = 2 if num_classes == 1 else num_classes
    p, p_known = class_masks("predicted", predicted, num_classes=size)
    a, a_known = class_masks("actual", actual, num_classes=size)
    valid = valid_pixels(where, p.shape[:-1])[..., None] & p_known & a_known
    one_hot = ((x & valid).reshape(len(x), -1, size).astype(jnp.int8) for x in (a, p))
    return jnp.einsum("bna,bnp->bap", *one_hot, preferred_element_type=jnp.int32)
