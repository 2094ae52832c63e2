"""Checks of the arguments that the metrics share. Errors name the argument, at trace time."""

import math
import operator

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Integer

from jaxseg.metrics.aggregation import sum_pixels
from jaxseg.types import Array, Logits, narrowed

AnyLabels = Integer[Array, "B *dims"] | Bool[Array, "B *dims"]
"""``[B, *spatial]``, or ``[B, *spatial, K]`` of 0 and 1 for multilabel problems."""


def class_masks(
    name: str, labels: AnyLabels, *, num_classes: int, multilabel: bool = False
) -> tuple[jax.Array, jax.Array]:
    """Returns one-hot labels, and where the labels are classes at all.

    Args:
        name: The argument's name, for messages.
        labels: ``[B, *spatial]``, or ``[B, *spatial, K]`` with ``multilabel``.
        num_classes: K.
        multilabel: Whether each of K channels is an independent binary problem.

    Returns:
        bool ``[B, *spatial, K]``: for K = 1 the foreground, otherwise one-hot; and bool that is
        False where a label is no class, ``[B, *spatial, 1]`` or with ``multilabel``
        ``[B, *spatial, K]``.

    Raises:
        TypeError: The labels are not integer (bool is allowed for two classes and multilabel), or
            ``num_classes`` is no integer.
        ValueError: The shape is wrong, ``num_classes`` is below 1, or an image has 2**31 pixels or
            more, which int32 cannot count.
    """
    num_classes = operator.index(num_classes)
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, got {num_classes}")
    labels = jnp.asarray(narrowed(labels))
    if labels.ndim < 2 + multilabel or (multilabel and labels.shape[-1] != num_classes):
        expected = f"[B, *spatial, {num_classes}]" if multilabel else "[B, *spatial]"
        raise ValueError(f"{name} must have shape {expected}, got {labels.shape}")
    binary = multilabel or num_classes == 1
    if labels.dtype == jnp.bool_ and num_classes > 2 and not multilabel:
        raise TypeError(f"{name} is bool; for num_classes={num_classes} it must be integer")
    if labels.dtype != jnp.bool_ and not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(f"{name} must be integer class ids, got {labels.dtype}")
    if math.prod(labels.shape[1:]) >= 2**31:
        raise ValueError(f"{name} has shape {labels.shape}; an image must have under 2**31 pixels")
    if labels.dtype.itemsize < 4:  # num_classes may exceed the range of 8 or 16 bits.
        labels = labels.astype(jnp.int32)
    known = (labels >= 0) & (labels < (2 if binary else num_classes))
    if binary:
        masks = labels == 1
        return (masks, known) if multilabel else (masks[..., None], known[..., None])
    masks = jax.nn.one_hot(labels.astype(jnp.int32), num_classes, dtype=bool)
    return masks & known[..., None], known[..., None]


def check_same_shape(name: str, array: Array, shape: tuple[int, ...]) -> None:
    """Raises ValueError unless ``array`` has this shape."""
    if jnp.shape(array) != shape:
        raise ValueError(f"{name} has shape {jnp.shape(array)}, expected {shape}")


def valid_pixels(where: Bool[Array, "B *spatial"] | None, shape: tuple[int, ...]) -> jax.Array:
    """Returns ``where``, or True everywhere if it is None.

    Raises:
        TypeError: ``where`` is not bool.
        ValueError: ``where`` has another shape.
    """
    if where is None:
        return jnp.ones(shape, dtype=bool)
    where = jnp.asarray(where)
    if where.dtype != jnp.bool_:
        raise TypeError(f"where must be bool, got {where.dtype}; only losses take weights")
    check_same_shape("where", where, shape)
    return where


def checked_logits(logits: Logits) -> jax.Array:
    """Returns logits as a JAX array.

    Raises:
        TypeError: The logits are not floating.
        ValueError: The shape is not ``[B, *spatial, K]``.
    """
    logits = jnp.asarray(logits)
    if not jnp.issubdtype(logits.dtype, jnp.floating):
        raise TypeError(f"logits must be floating, got {logits.dtype}")
    if logits.ndim < 3 or logits.shape[-1] < 1:
        raise ValueError(f"logits must have shape [B, *spatial, K], got {logits.shape}")
    return logits


def probabilities_and_targets(
    logits: Logits,
    labels: AnyLabels,
    where: Bool[Array, "B *spatial"] | None,
    *,
    multilabel: bool = False,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Returns probabilities, targets, valid pixels, and the number of pixels outside the classes.

    Args:
        logits: ``[B, *spatial, K]`` floating.
        labels: ``[B, *spatial]``, or ``[B, *spatial, K]`` with ``multilabel``.
        where: ``[B, *spatial]`` bool, True on valid pixels.
        multilabel: Whether each of K channels is an independent binary problem.

    Returns:
        Probabilities float32 ``[B, *spatial, K]``, 0 where not valid; one-hot targets bool of the
        same shape, False where not valid; ``where`` without the pixels outside, bool of the same
        shape; and int32 ``[B, K]``, pixels whose label is no class or whose probability is NaN.
    """
    logits = checked_logits(logits).astype(jnp.float32)
    num_classes = logits.shape[-1]
    check_same_shape("labels", labels, logits.shape if multilabel else logits.shape[:-1])
    targets, known = class_masks("labels", labels, num_classes=num_classes, multilabel=multilabel)
    binary = multilabel or num_classes == 1
    probabilities = jax.nn.sigmoid(logits) if binary else jax.nn.softmax(logits, axis=-1)
    where = valid_pixels(where, logits.shape[:-1])[..., None]
    known &= ~jnp.isnan(probabilities)
    valid = where & known
    probabilities = jnp.where(valid, probabilities, 0)
    return probabilities, targets & valid, valid, sum_pixels(where & ~known)
