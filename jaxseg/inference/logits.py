"""Logits of a batch, and logits at the film's own size."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Float

from jaxseg.training import TrainState
from jaxseg.types import Array, Images, Logits


def resize_logits(
    logits: Float[Array, "B _ _ K"], size: tuple[int, int]
) -> Float[jax.Array, "B _ _ K"]:
    """Resizes logits bilinearly, so that a threshold afterwards gives smooth masks.

    Pixel centres lie at half-integers and no antialiasing is done, as in
    ``torch.nn.functional.interpolate(mode="bilinear", align_corners=False)``.

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


def make_predict(model: nn.Module) -> Callable[[TrainState, Images], Logits]:
    """Makes ``predict(state, images) -> logits``: dropout off, averaged parameters where kept.

    Args:
        model: A Linen module with ``__call__(images, *, train)``.

    Returns:
        A pure function to compile with `jaxseg.parallel.jit_rows` or `jax.jit`.

    Examples:
        >>> import jax
        >>> import numpy as np
        >>> import optax
        >>> import jaxseg
        >>> from jaxseg import inference
        >>> model, films = jaxseg.UNet(widths=(4, 8)), np.zeros((2, 8, 8, 1), np.uint8)
        >>> state = jaxseg.TrainState.create(model, optax.adam(1e-3), jax.random.key(0), films)
        >>> jax.jit(inference.make_predict(model))(state, films).shape
        (2, 8, 8, 1)
    """

    def predict(state: TrainState, images: Images) -> Logits:
        # Linen types apply as if it might return a tuple, which without mutable it does not.
        logits: Any = model.apply(state.variables(), images, train=False)
        return logits

    return predict
