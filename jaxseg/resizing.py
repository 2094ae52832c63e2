"""Logits at another size than the network's: a mask's own, or that of finer labels."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxseg.types import Array


def resize_logits(
    logits: Float[Array, "B _ _ K"], size: tuple[int, int]
) -> Float[jax.Array, "B _ _ K"]:
    """Resizes logits bilinearly, so that a threshold afterwards gives smooth masks.

    Pixel centres lie at half-integers and no antialiasing is done, as in
    ``torch.nn.functional.interpolate(mode="bilinear", align_corners=False)``. It is a matrix
    product on each side: a logit that is not finite makes more of the film NaN than its neighbours.

    Args:
        logits: ``[B, H, W, K]``.
        size: Height and width wanted.

    Returns:
        Logits ``[B, *size, K]`` of the same dtype; the very same where the size is right already.
    """
    logits = jnp.asarray(logits)
    shape = (logits.shape[0], *size, logits.shape[3])
    if shape == logits.shape:
        return logits
    return jax.image.resize(logits, shape, "bilinear", antialias=False)


def resize_logits_on_host(
    logits: Float[np.ndarray, "_ _ K"], size: tuple[int, int]
) -> Float[np.ndarray, "_ _ K"]:
    """`resize_logits` of one film in NumPy, for films each of which has a size of its own.

    JAX would compile a program for every size.

    Args:
        logits: ``[H, W, K]``.
        size: Height and width wanted.

    Returns:
        Logits ``[*size, K]`` of the same dtype.
    """
    for axis, wanted in enumerate(size):
        given = logits.shape[axis]
        if given == wanted:
            continue
        places = np.clip((np.arange(wanted) + 0.5) * (given / wanted) - 0.5, 0, given - 1)
        before = places.astype(np.int64)
        after = np.minimum(before + 1, given - 1)
        shares = np.expand_dims((places - before).astype(logits.dtype), (1, 2)).swapaxes(0, axis)
        first = np.take(logits, before, axis)
        logits = first + shares * (np.take(logits, after, axis) - first)
    return logits
