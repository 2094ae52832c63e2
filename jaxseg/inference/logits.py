"""Logits of a batch of films."""

from collections.abc import Callable
from typing import Any

from flax import linen as nn

from jaxseg.training import TrainState
from jaxseg.types import Images, Logits


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
