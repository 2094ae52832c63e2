"""Pixels counted by class and outcome: the integers that every overlap ratio is made of."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Integer

from jaxseg.metrics.checks import check_num_classes, checked_labels, checked_where
from jaxseg.metrics.pooling import Additive, sum_pixels
from jaxseg.types import Array, Where


@flax.struct.dataclass
class Counts(Additive):
    """Pixels of each class by outcome, the class against the rest; a pytree that adds with ``+``.

    ``tp + fp + fn + tn + outside`` is the number of pixels counted, in every entry. All fields have
    the same shape: ``[B, K]`` int32 from `count`, ``[K]`` NumPy int64 from `pooled`. The sum of two
    Counts keeps their dtype, so add int32 ones only while an entry stays under 2**31; pooling over
    a data set is the work of `pooled`.

    Attributes:
        tp: pixels of the class, predicted as the class.
        fp: pixels of another class, predicted as the class.
        fn: pixels of the class, predicted as another.
        tn: pixels of another class, predicted as another (not always the same one).
        outside: pixels whose predicted or actual label is no class at all. They are in none of the
            other four, and one of them makes every ratio NaN. The same for all classes.
    """

    # Any, because a pytree's leaves may be shardings or specs while JAX transforms it.
    tp: Any
    fp: Any
    fn: Any
    tn: Any
    outside: Any


def count(
    predicted: Integer[Array, "B H W"] | Bool[Array, "B H W"],
    actual: Integer[Array, "B H W"] | Bool[Array, "B H W"],
    *,
    num_classes: int,
    where: Where | None = None,
) -> Counts:
    """Counts each image's pixels by class and outcome.

    Agrees with torchmetrics' ``binary_stat_scores`` and ``multiclass_stat_scores``
    (``multidim_average="samplewise"``) and with ``monai.metrics.get_confusion_matrix``.

    Args:
        predicted: ``[B, H, W]`` integer class ids, or bool where ``num_classes`` is 1.
        actual: the same.
        num_classes: 1 for binary labels 0 and 1, of which only the foreground is counted; K > 1
            for labels 0 to K - 1, background included.
        where: ``[B, H, W]`` bool, True on the pixels that count. The others may hold any label
            (an ignore label is ``where=labels != 255``).

    Returns:
        Counts of int32 ``[B, 1]`` or ``[B, K]``, exact up to 2**31 - 1 pixels an image. All zero
        for an image whose pixels are all masked out.

    Raises:
        TypeError: a label array is not integer, ``where`` is not bool, ``num_classes`` is no int.
        ValueError: the shapes differ or are not ``[B, H, W]``, or ``num_classes`` is below 1.

    Examples:
        >>> import numpy as np
        >>> from jaxseg import metrics
        >>> predicted = np.array([[[1, 1, 0, 0]], [[0, 0, 0, 0]]])  # two films of 1 x 4 pixels
        >>> actual = np.array([[[1, 0, 0, 0]], [[0, 0, 0, 0]]])
        >>> counts = metrics.count(predicted, actual, num_classes=1)

        >>> counts.tp.tolist(), counts.fp.tolist(), counts.fn.tolist(), counts.tn.tolist()
        ([[1], [0]], [[1], [0]], [[0], [0]], [[2], [4]])
    """
    check_num_classes(num_classes)
    shape = jnp.shape(predicted)
    predicted = checked_labels(
        "predicted", predicted, shape=shape, shape_of="predicted", num_classes=num_classes
    )
    actual = checked_labels(
        "actual", actual, shape=shape, shape_of="predicted", num_classes=num_classes
    )
    where = checked_where(where, shape=shape)
    labels_end = max(num_classes, 2)
    inside = (predicted >= 0) & (predicted < labels_end) & (actual >= 0) & (actual < labels_end)
    counted = where & inside

    def areas_of(label: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        as_predicted = counted & (predicted == label.astype(predicted.dtype))
        as_actual = counted & (actual == label.astype(actual.dtype))
        return sum_pixels(as_predicted & as_actual), sum_pixels(as_predicted), sum_pixels(as_actual)

    # A loop, because XLA does not fuse the comparison into the sum on a CPU: all classes at once
    # would hold [B, H, W, K] of int32 in memory.
    classes = (
        jnp.arange(num_classes, dtype=jnp.int32) if num_classes > 1 else jnp.array([1], jnp.int32)
    )
    tp, predicted_area, actual_area = (areas.T for areas in jax.lax.map(areas_of, classes))
    fp, fn = predicted_area - tp, actual_area - tp
    tn = sum_pixels(counted)[:, None] - tp - fp - fn
    outside = jnp.broadcast_to(sum_pixels(where & ~inside)[:, None], tp.shape)
    return Counts(tp=tp, fp=fp, fn=fn, tn=tn, outside=outside)
