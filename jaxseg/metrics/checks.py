"""What every metric demands of its arguments, said at trace time in one line that names them."""

import jax
import jax.numpy as jnp

from jaxseg.types import Array, narrowed


def check_num_classes(num_classes: int) -> None:
    """Raises unless ``num_classes`` is a whole number of at least 1."""
    if not isinstance(num_classes, int) or isinstance(num_classes, bool):
        raise TypeError(f"num_classes must be an int, got {type(num_classes).__name__}")
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, got {num_classes}")


def checked_labels(
    name: str, labels: Array, *, shape: tuple[int, ...], shape_of: str, num_classes: int
) -> jax.Array:
    """``labels`` as an array in which every class id can be told apart from every other.

    Args:
        name: the argument's name, for the message.
        labels: integer; bool also where ``num_classes`` is 1.
        shape: the shape that it must have, ``[B, H, W]``.
        shape_of: what has that shape, for the message.
        num_classes: 1 for binary labels.

    Returns:
        The labels, of 32 bits or more, so that comparing them with a class id cannot overflow.

    Raises:
        TypeError: the labels are neither integer nor, for one class, bool.
        ValueError: the shapes differ, are not ``[B, H, W]``, or an image holds 2**31 pixels or more
            (an int32 count would overflow).
    """
    labels = jnp.asarray(narrowed(labels))
    if len(shape) != 3:
        raise ValueError(f"{shape_of} must give labels of shape [B, H, W], got {shape}")
    if labels.shape != shape:
        raise ValueError(f"{name} has shape {labels.shape}, {shape_of} asks for {shape}")
    if labels.dtype == jnp.bool_:
        if num_classes != 1:
            raise TypeError(f"{name} is bool, which only num_classes=1 allows, not {num_classes}")
    elif not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(f"{name} must be integer class ids, got {labels.dtype}")
    if shape[1] * shape[2] >= 2**31:
        raise ValueError(f"{name} has shape {labels.shape}: an image must hold under 2**31 pixels")
    return labels if labels.dtype.itemsize >= 4 else labels.astype(jnp.int32)


def checked_logits(logits: Array) -> jax.Array:
    """``logits`` as an array of shape ``[B, H, W, K]``.

    Raises:
        TypeError: they are not floating.
        ValueError: the shape is not ``[B, H, W, K]`` with K of at least 1.
    """
    logits = jnp.asarray(logits)
    if not jnp.issubdtype(logits.dtype, jnp.floating):
        raise TypeError(f"logits must be floating, got {logits.dtype}")
    if logits.ndim != 4 or logits.shape[-1] < 1:
        raise ValueError(f"logits must have shape [B, H, W, K] with K >= 1, got {logits.shape}")
    return logits


def checked_where(where: Array | None, *, shape: tuple[int, ...]) -> jax.Array:
    """``where`` as an array; all True when it is None.

    Raises:
        TypeError: it is not bool.
        ValueError: its shape is not that of the labels.
    """
    if where is None:
        return jnp.ones(shape, dtype=bool)
    where = jnp.asarray(where)
    if where.dtype != jnp.bool_:
        raise TypeError(f"where must be bool, got {where.dtype}")
    if where.shape != shape:
        raise ValueError(f"where has shape {where.shape}, the labels have {shape}")
    return where
