"""Resizing of logits, to an image's size or to the size of finer labels."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxseg.types import Array


def resize_logits(
    logits: Float[Array, "B _ _ K"], size: tuple[int, int]
) -> Float[jax.Array, "B _ _ K"]:
    """Resizes logits bilinearly, so that a threshold afterwards gives smooth masks.

    Pixel centers are at half-integers and there is no antialiasing, as in
    ``torch.nn.functional.interpolate(mode="bilinear", align_corners=False)``. It is computed as a
    matrix product along each axis, so a NaN or infinite logit makes its whole row and column NaN.

    Args:
        logits: ``[B, H, W, K]``.
        size: Height and width of the result.

    Returns:
        Logits ``[B, *size, K]`` of the same dtype, unchanged if they have this size.
    """
    logits = jnp.asarray(logits)
    shape = (logits.shape[0], *size, logits.shape[3])
    if shape == logits.shape:
        return logits
    return jax.image.resize(logits, shape, "bilinear", antialias=False)


def resize_logits_on_host(
    logits: Float[np.ndarray, "_ _ K"], size: tuple[int, int]
) -> Float[np.ndarray, "_ _ K"]:
    """Resizes one image's logits as `resize_logits` does, in NumPy.

    Use it for images of many sizes: JAX would compile a program for every size.

    Args:
        logits: ``[H, W, K]``.
        size: Height and width of the result.

    Returns:
        Logits ``[*size, K]`` of the same dtype.
    """
    for axis, wanted in enumerate(size):
        given = logits.shape[axis]
        if given == wanted:
            continue
        position = np.clip((np.arange(wanted) + 0.5) * (given / wanted) - 0.5, 0, given - 1)
        before = position.astype(np.int64)
        after = np.minimum(before + 1, given - 1)
        weight = np.expand_dims((position - before).astype(logits.dtype), (1, 2)).swapaxes(0, axis)
        first = np.take(logits, before, axis)
        logits = first + weight * (np.take(logits, after, axis) - first)
    return logits
