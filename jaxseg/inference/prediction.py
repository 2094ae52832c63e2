"""Logits of a batch of images."""

from collections.abc import Callable

from jaxseg.training import Model, TrainState, apply_in_parts
from jaxseg.types import Images, Logits


def make_predict(model: Model) -> Callable[[TrainState, Images], Logits]:
    """Makes ``predict(state, images) -> logits``, with dropout off.

    It uses the exponential moving average of the parameters if the state has one. On a single CPU
    device it computes a few images at a time, which is faster there.

    Args:
        model: The network; see `jaxseg.training.Model`.

    Returns:
        A pure function, to compile with `jax.jit`.

    Examples:
        >>> import jax
        >>> import numpy as np
        >>> import optax
        >>> import jaxseg
        >>> from jaxseg import inference
        >>> model, images = jaxseg.UNet(widths=(4, 8)), np.zeros((2, 8, 8, 1), np.uint8)
        >>> state = jaxseg.TrainState.create(model, optax.adam(1e-3), jax.random.key(0), images)
        >>> jax.jit(inference.make_predict(model))(state, images).shape
        (2, 8, 8, 1)
    """

    def predict(state: TrainState, images: Images) -> Logits:
        return apply_in_parts(model, state.variables(), images)

    return predict
