"""jaxseg's own network and step."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from benchmarks.peers.compiled import number_of_parameters, prepared
from benchmarks.peers.setting import DECODER_DROPOUT, EPSILON, LEARNING_RATE, Prepared, Setting
from jaxseg import TrainState, UNet, losses, make_train_step
from jaxseg.training import apply_in_parts


def unet(setting: Setting, **options: Any) -> UNet:
    """The network of a setting; further options are `UNet`'s."""
    return UNet(
        widths=setting.widths,
        dropout=setting.dropout,
        decoder_dropout=DECODER_DROPOUT,
        dtype=jnp.dtype(setting.dtype),
        **options,
    )


def prepare(setting: Setting, *, bits: str | None = None, **options: Any) -> Prepared:
    """Compiles the step, or the prediction.

    Args:
        setting: The conditions.
        bits: JAX's key implementation; "rbg" draws cheaper bits, which then depend on the sharding.
        **options: `UNet`'s.
    """
    model = unet(setting, **options)
    tx = optax.adam(LEARNING_RATE, eps=EPSILON)
    example = jax.ShapeDtypeStruct((1, setting.size, setting.size, 1), jnp.float32)
    state = TrainState.create(model, tx, jax.random.key(0, impl=bits), example)
    parameters = number_of_parameters(state.params)
    train = make_train_step(model, tx, losses.cross_entropy)

    def step(state: TrainState, images: jax.Array, labels: jax.Array) -> Any:
        return train(state, {"images": images, "labels": labels})

    def predict(params: Any, images: jax.Array, labels: jax.Array) -> Any:
        del labels
        return params, apply_in_parts(model, {"params": params}, images)

    if setting.work == "predict":
        return prepared(predict, state.params, setting, parameters)
    return prepared(step, state, setting, parameters)
