"""Checks and prepares logits, labels and ``where`` once for all losses."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float32, Integer, Num, Shaped

from jaxseg.types import Array, Logits, Where, narrowed

Targets = (
    Integer[Array, "B *spatial"]
    | Bool[Array, "B *spatial"]
    | Num[Array, "B *spatial K"]
    | Bool[Array, "B *spatial K"]
)
"""Class ids, probabilities, or with ``multilabel=True`` a 0 or 1 for every channel."""

LossValue = Float32[jax.Array, "B"] | Float32[jax.Array, ""]
"""One value per image, or with ``pooled=True`` one for the whole batch."""

Number = float | int | np.number | Shaped[jax.Array, ""]
"""A Python, NumPy or JAX number."""

ClassWeights = Shaped[Array, "classes"] | Sequence[Number] | None
"""One weight >= 0 per class; None weights all classes equally."""

# Probabilities may be outside [0, 1] by rounding, which is 0.004 in bfloat16.
_SLACK = 0.01


class Pixels(NamedTuple):
    """The input of a loss as float32 with N pixels in one axis, which XLA computes fastest.

    Invalid pixels have logit, target and weight 0.

    Attributes:
        logits: Infinite ones are replaced by +-1e30.
        targets: The probability of each channel's class.
        weights: The weight of each pixel.
        labels_valid: False for an image with a valid label that is no class or no probability.
        multilabel: Whether channels are independent problems.
        pooled: Whether sums run over the batch.
    """

    logits: Float32[jax.Array, "B K N"]
    targets: Float32[jax.Array, "B K N"]
    weights: Float32[jax.Array, "B N"]
    labels_valid: Bool[jax.Array, "B"]
    multilabel: bool
    pooled: bool

    @property
    def binary(self) -> bool:
        """Whether each channel is a binary problem; otherwise channels are the classes of one."""
        return self.multilabel or self.logits.shape[1] == 1

    def probabilities(self) -> Float32[jax.Array, "B K N"]:
        """Sigmoid or softmax of the logits."""
        if self.binary:
            return jax.nn.sigmoid(self.logits)
        # On CPU 1.3 times as fast with its gradient as jax.nn.softmax.
        return jnp.exp(jax.nn.log_softmax(self.logits, axis=1))

    def sum(self, values: Float32[jax.Array, "B K N"]) -> Float32[jax.Array, "*rows K"]:
        """Weighted sum over the pixels of each image, or of the batch if pooled."""
        sums = (values * self.weights[:, None]).sum(-1)
        return sums.sum(0) if self.pooled else sums

    def sum_of_weights(self) -> Float32[jax.Array, "*rows 1"]:
        """Sum of the weights of the pixels."""
        return self.sum(jnp.ones_like(self.weights)[:, None])

    def nan_if_invalid(self, value: Float32[jax.Array, "*rows"]) -> Float32[jax.Array, "*rows"]:
        """The loss, or NaN with gradient 0 for invalid labels."""
        fit = self.labels_valid.all() if self.pooled else self.labels_valid
        return jnp.where(fit, value, jnp.nan)


def prepare(
    logits: Logits,
    labels: Targets,
    where: Where | None,
    *,
    multilabel: bool,
    pooled: bool,
    only_ids: bool = False,
) -> Pixels:
    """Returns the arguments of a loss as `Pixels`; ``only_ids`` refuses probabilities as labels.

    Raises:
        TypeError: A dtype is wrong.
        ValueError: A shape is wrong, or two shapes do not match.
    """
    logits, labels = jnp.asarray(logits), jnp.asarray(narrowed(labels))
    _check_logits(logits)
    _check_labels(labels, logits, multilabel, only_ids)
    weights = _pixel_weights(where, logits)
    valid = weights[:, None] > 0
    logits = _channels_first(logits).astype(jnp.float32)
    # Infinity times a target of 0 would be NaN.
    logits = jnp.where(jnp.isinf(logits), jnp.sign(logits) * 1e30, logits)
    batch, channels, size = logits.shape
    if multilabel or jnp.issubdtype(labels.dtype, jnp.floating):
        targets = _channels_first(labels).astype(jnp.float32)
        fit = (targets >= -_SLACK) & (targets <= 1 + _SLACK)  # False for NaN
        if only_ids:
            fit = (targets == 0) | (targets == 1)
    else:
        labels = labels.reshape(batch, 1, size)
        ids, num_classes = labels.astype(jnp.int32), max(channels, 2)
        # The second comparison finds ids that int32 cannot hold.
        fit = (ids >= 0) & (ids < num_classes) & (ids.astype(labels.dtype) == labels)
        classes = jnp.arange(num_classes - channels, num_classes, dtype=jnp.int32)
        targets = (ids == classes[None, :, None]).astype(jnp.float32)
    return Pixels(
        logits=jnp.where(valid, logits, 0.0),
        targets=jnp.where(valid & fit, targets, 0.0),
        weights=weights,
        labels_valid=(fit | ~valid).all((1, 2)),
        multilabel=multilabel,
        pooled=pooled,
    )


def check_number(name: str, value: Number, most: float = math.inf) -> Float32[jax.Array, ""]:
    """Returns a number as float32.

    Raises:
        ValueError: It is not in [0, most]. Values of JAX arrays are not checked.
    """
    if not isinstance(value, jax.Array) and not 0 <= value <= most:
        limits = "at least 0" if most == math.inf else f"in [0, {most:g}]"
        raise ValueError(f"{name} must be {limits}, got {value}")
    return jnp.asarray(value, jnp.float32)


def read_class_weights(
    class_weights: ClassWeights, num_classes: int, name: str = "class_weights"
) -> Float32[jax.Array, "classes"]:
    """Returns one float32 weight per class, by default ones.

    Raises:
        ValueError: Their number is not ``num_classes``, or one is negative. Values of JAX arrays
            are not checked.
    """
    if class_weights is None:
        return jnp.ones((num_classes,), jnp.float32)
    if len(class_weights) != num_classes:
        raise ValueError(
            f"{name} must have {num_classes} weights, one per class, got {len(class_weights)}"
        )
    if isinstance(class_weights, jax.Array):
        return class_weights.astype(jnp.float32)
    return jnp.stack([check_number(name, weight) for weight in class_weights])


def floored_divide(numerator: jax.Array, denominator: jax.Array) -> jax.Array:
    """Returns the quotient of two sums >= 0 of pixels, and 0 where both are 0.

    The floor keeps second derivatives finite where saturated probabilities add up to almost 0.
    """
    return numerator / jnp.maximum(denominator, 1e-7)


def safe_divide(numerator: jax.Array, denominator: jax.Array) -> jax.Array:
    """Returns the quotient, and 0 where the denominator is 0, of sums >= 0 of any size."""
    positive = denominator > 0
    return jnp.where(positive, numerator / jnp.where(positive, denominator, 1.0), 0.0)


def hardest_first(
    pixels: Pixels, errors: Float32[jax.Array, "B K N"], *others: Float32[jax.Array, "B K N"]
) -> list[Float32[jax.Array, "rows K M"]]:
    """Returns the arrays with the pixels of each class in the order of descending errors.

    If the loss is pooled, they have one row with the pixels of all images. The order has no
    gradient.
    """
    arrays = [errors, *others]
    if pixels.pooled:
        arrays = [jnp.moveaxis(x, 0, 1).reshape(1, x.shape[1], -1) for x in arrays]
    order = jnp.argsort(jax.lax.stop_gradient(arrays[0]), axis=-1, descending=True)
    return [jnp.take_along_axis(x, order, -1) for x in arrays]


def sum_over_classes(
    values: Float32[jax.Array, "*rows K"], weights: Float32[jax.Array, "#K"]
) -> Float32[jax.Array, "*rows"]:
    """Returns the weighted sum; not a matrix product, because accelerators round its factors."""
    return (values * jnp.broadcast_to(weights, values.shape)).sum(-1)


def mean_over_classes(
    values: Float32[jax.Array, "*rows K"], class_weights: ClassWeights
) -> Float32[jax.Array, "*rows"]:
    """Returns the mean over channels, weighted if weights are given."""
    weights = read_class_weights(class_weights, values.shape[-1])
    return safe_divide(sum_over_classes(values, weights), weights.sum())


def _channels_first(values: Shaped[jax.Array, "B *spatial K"]) -> Shaped[jax.Array, "B K N"]:
    batch, *_, channels = values.shape
    return jnp.moveaxis(values, -1, 1).reshape(batch, channels, -1)


def _check_logits(logits: jax.Array) -> None:
    if not jnp.issubdtype(logits.dtype, jnp.floating):
        raise TypeError(f"logits must be floating point, got {logits.dtype}")
    if logits.ndim < 3 or logits.shape[-1] == 0:
        raise ValueError(f"logits must have shape [B, *spatial, K] with K > 0, got {logits.shape}")


def _check_labels(labels: jax.Array, logits: jax.Array, multilabel: bool, only_ids: bool) -> None:
    floating, boolean = jnp.issubdtype(labels.dtype, jnp.floating), labels.dtype == jnp.bool_
    if not (floating or boolean or jnp.issubdtype(labels.dtype, jnp.integer)):
        raise TypeError(f"labels must be class ids or probabilities, got {labels.dtype}")
    if boolean and not multilabel and logits.shape[-1] != 1:
        raise TypeError(
            f"labels may be boolean only if logits have K = 1 or with multilabel=True, got logits "
            f"of shape {logits.shape}"
        )
    if multilabel:
        kind, shape = "one label per channel [B, *spatial, K]", logits.shape
    elif floating:
        kind, shape = "probabilities [B, *spatial, K]", logits.shape
    else:
        kind, shape = "class ids [B, *spatial]", logits.shape[:-1]
    if labels.shape != shape:
        raise ValueError(
            f"labels of dtype {labels.dtype} are {kind}; their shape {labels.shape} does not "
            f"match logits of shape {logits.shape}"
        )
    if floating and only_ids and not multilabel:
        raise TypeError("labels must be class ids for this loss, got probabilities")


def _pixel_weights(where: Where | None, logits: jax.Array) -> Float32[jax.Array, "B N"]:
    shape = logits.shape[:-1]
    where = jnp.ones(shape, jnp.bool_) if where is None else jnp.asarray(where)
    if where.dtype != jnp.bool_ and not jnp.issubdtype(where.dtype, jnp.floating):
        raise TypeError(f"where must be bool or float, got {where.dtype}")
    if where.shape != shape:
        raise ValueError(
            f"where has shape {where.shape}, which does not match logits of shape {logits.shape}"
        )
    weights = where.reshape(shape[0], -1).astype(jnp.float32)
    return jnp.where(weights > 0, weights, 0.0)
