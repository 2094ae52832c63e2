"""The network as one would write it in Flax: `nn.Conv`, `nn.ConvTranspose`, `nn.max_pool`."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from benchmarks.peers.compiled import number_of_parameters, prepared
from benchmarks.peers.setting import DECODER_DROPOUT, EPSILON, LEARNING_RATE, Prepared, Setting


class PlainDoubleConv(nn.Module):
    """Two 3x3 convolutions with ReLU."""

    features: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """``[B, H, W, C]`` to ``[B, H, W, features]``."""
        for _ in range(2):
            x = nn.relu(nn.Conv(self.features, (3, 3), dtype=self.dtype)(x))
        return x


class PlainUNet(nn.Module):
    """The seed's U-Net; its parameters have the names that `jaxseg.UNet` gives them."""

    widths: tuple[int, ...] = (16, 32, 64, 128, 256)
    dropout: tuple[float, ...] = (0.25, 0.5, 0.5, 0.5)
    decoder_dropout: float = DECODER_DROPOUT
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Films ``[B, H, W, 1]`` to float32 logits of that size."""
        skips = []
        x = x.astype(self.dtype)
        for level, rate in enumerate(self.dropout):
            x = PlainDoubleConv(self.widths[level], self.dtype, name=f"encoder_{level}")(x)
            skips.append(x)
            x = nn.max_pool(x, (2, 2), strides=(2, 2))
            x = nn.Dropout(rate, deterministic=not train)(x)
        x = PlainDoubleConv(self.widths[-1], self.dtype, name="bottleneck")(x)
        for level in reversed(range(len(skips))):
            width = self.widths[level]
            up = nn.ConvTranspose(width, (3, 3), (2, 2), dtype=self.dtype, name=f"up_{level}")
            x = jnp.concatenate([up(x), skips[level]], axis=-1)
            x = nn.Dropout(self.decoder_dropout, deterministic=not train)(x)
            x = PlainDoubleConv(width, self.dtype, name=f"decoder_{level}")(x)
        return nn.Conv(1, (1, 1), dtype=self.dtype, name="head")(x).astype(jnp.float32)


def prepare(setting: Setting) -> Prepared:
    """Compiles the step, or the prediction."""
    model = PlainUNet(setting.widths, setting.dropout, dtype=jnp.dtype(setting.dtype))
    tx = optax.adam(LEARNING_RATE, eps=EPSILON)
    example = jnp.zeros((1, setting.size, setting.size, 1))
    params = jax.jit(model.init)(jax.random.key(0), example)["params"]

    def step(state: Any, images: jax.Array, labels: jax.Array) -> Any:
        params, opt_state, key = state
        key, dropout_key = jax.random.split(key)

        def objective(params: Any) -> jax.Array:
            logits: Any = model.apply(
                {"params": params}, images, train=True, rngs={"dropout": dropout_key}
            )
            targets = labels.astype(jnp.float32)
            return optax.sigmoid_binary_cross_entropy(logits[..., 0], targets).mean()

        loss, gradients = jax.value_and_grad(objective)(params)
        updates, opt_state = tx.update(gradients, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state, key), loss

    def predict(params: Any, images: jax.Array, labels: jax.Array) -> Any:
        del labels
        return params, model.apply({"params": params}, images)

    parameters = number_of_parameters(params)
    if setting.work == "predict":
        return prepared(predict, params, setting, parameters)
    return prepared(step, (params, tx.init(params), jax.random.key(1)), setting, parameters)
