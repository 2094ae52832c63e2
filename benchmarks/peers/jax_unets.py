"""The network of jaxseg, and a straightforward version of it with Flax's layers."""

import time
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax.training.train_state import TrainState

import jaxseg
from benchmarks.peers.setting import DECODER_DROPOUT, EPSILON, LEARNING_RATE, Setting
from jaxseg import inference, losses


class PlainUNet(nn.Module):
    """The U-Net of `nn.Conv`, `nn.ConvTranspose` and `nn.max_pool`."""

    widths: tuple[int, ...]
    dropout: tuple[float, ...]
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Images ``[B, H, W, 1]`` to float32 logits of the same size."""

        def double_conv(x: jax.Array, width: int) -> jax.Array:
            for _ in range(2):
                x = nn.relu(nn.Conv(width, (3, 3), dtype=self.dtype)(x))
            return x

        skips = []
        for width, rate in zip(self.widths, self.dropout, strict=False):
            skips.append(double_conv(x, width))
            x = nn.max_pool(skips[-1], (2, 2), strides=(2, 2))
            x = nn.Dropout(rate, deterministic=not train)(x)
        x = double_conv(x, self.widths[-1])
        for width, skip in zip(self.widths[-2::-1], skips[::-1], strict=True):
            x = nn.ConvTranspose(width, (3, 3), (2, 2), dtype=self.dtype)(x)
            x = jnp.concatenate([x, skip], axis=-1)
            x = nn.Dropout(DECODER_DROPOUT, deterministic=not train)(x)
            x = double_conv(x, width)
        return nn.Conv(1, (1, 1), dtype=self.dtype)(x).astype(jnp.float32)


def plain(**settings: Any) -> Any:
    """Plain Flax: the whole batch at once, and Flax's train state."""
    setting = Setting(**settings)
    model = PlainUNet(setting.widths, setting.dropout, jnp.dtype(setting.dtype))
    tx = optax.adam(LEARNING_RATE, eps=EPSILON)
    params = model.init(jax.random.key(0), jnp.zeros((1, setting.size, setting.size, 1)))["params"]
    state = TrainState.create(apply_fn=model.apply, params=params, tx=tx)

    def train(state: TrainState, images: jax.Array, labels: jax.Array) -> Any:
        rngs = {"dropout": jax.random.fold_in(jax.random.key(1), state.step)}

        def mean_loss(params: Any) -> jax.Array:
            logits: Any = model.apply({"params": params}, images, train=True, rngs=rngs)
            targets = labels.astype(jnp.float32)
            return optax.sigmoid_binary_cross_entropy(logits[..., 0], targets).mean()

        loss, gradients = jax.value_and_grad(mean_loss)(state.params)
        return state.apply_gradients(grads=gradients), loss

    def predict(state: TrainState, images: jax.Array, _: jax.Array) -> Any:
        return state, model.apply({"params": state.params}, images)

    return _compiled(train if setting.work == "train" else predict, state, setting)


def ours(**settings: Any) -> Any:
    """The network and step of jaxseg."""
    setting = Setting(**settings)
    model = jaxseg.UNet(
        widths=setting.widths,
        dropout=setting.dropout,
        decoder_dropout=DECODER_DROPOUT,
        dtype=jnp.dtype(setting.dtype),
    )
    tx = optax.adam(LEARNING_RATE, eps=EPSILON)
    example = jax.ShapeDtypeStruct((1, setting.size, setting.size, 1), jnp.float32)
    state = jaxseg.TrainState.create(model, tx, jax.random.key(0), example)
    step = jaxseg.make_train_step(model, tx, losses.cross_entropy)
    logits = inference.make_predict(model)

    def train(state: Any, images: jax.Array, labels: jax.Array) -> Any:
        return step(state, {"images": images, "labels": labels})

    def predict(state: Any, images: jax.Array, _: jax.Array) -> Any:
        return state, logits(state, images)

    return _compiled(train if setting.work == "train" else predict, state, setting)


def _compiled(step: Any, state: Any, setting: Setting) -> Any:
    """Compiles ``step(state, images, labels) -> (state, result)`` with its state donated."""
    images, labels = jax.device_put(setting.batch_arrays())
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    began = time.perf_counter()
    program = jax.jit(step, donate_argnums=0).lower(state, images, labels).compile()
    compile_seconds = time.perf_counter() - began

    def run() -> None:
        nonlocal state
        state, result = program(state, images, labels)
        jax.block_until_ready((state, result))

    device = jax.devices()[0].device_kind
    return setting.prepared(run, parameters, compile_seconds=compile_seconds, device=device)
