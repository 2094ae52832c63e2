"""Convolutions that take a tensor in parts and in either layout, and the U-Net's blocks of them."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from jaxseg.models import packing
from jaxseg.models.convolution import add_bias
from jaxseg.models.layers import Initializer, Normalization, glorot_uniform
from jaxseg.types import Valid


@jax.custom_jvp
def relu(x: jax.Array) -> jax.Array:
    """max(x, 0), with a gradient that needs the result alone, so that nothing else is kept."""
    return jnp.maximum(x, jnp.zeros_like(x))


@relu.defjvp
def _relu_tangent(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    out = relu(primals[0])
    return out, jnp.where(out > 0, tangents[0], jnp.zeros_like(tangents[0]))


class Convolution(nn.Module):
    """A convolution of stride 1, "SAME" padding, with `nn.Conv`'s parameters.

    Attributes:
        features: Channels that come out.
        size: 3 for a 3x3 kernel, 1 for 1x1.
        columns: Columns that share a place; 1 is the plain layout (see `packing`).
    """

    features: int
    size: int = 3
    columns: int = 1
    use_bias: bool = True
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32
    kernel_init: Initializer = glorot_uniform

    @nn.compact
    def __call__(self, parts: Sequence[jax.Array]) -> jax.Array:
        """Convolves the concatenation of the parts along the channels, without building it."""
        channels = [part.shape[-1] // self.columns for part in parts]
        shape = (self.size, self.size, sum(channels), self.features)
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        first, terms = 0, []
        for part, count in zip(parts, channels, strict=True):
            piece = jax.lax.slice_in_dim(kernel, first, first + count, axis=2)
            terms.append(packing.convolve(part.astype(self.dtype), piece, self.columns))
            first += count
        out = sum(terms[1:], start=terms[0])
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros_init(), shape[-1:], self.param_dtype)
            out = add_bias(out, jnp.tile(bias, self.columns))
        return out


class DoubleConv(nn.Module):
    """Two 3x3 convolutions, each with its norm and a ReLU."""

    features: int
    columns: int
    norm: str
    dtype: DTypeLike
    param_dtype: DTypeLike
    kernel_init: Initializer
    axis_name: str | None

    @nn.compact
    def __call__(self, parts: Sequence[jax.Array], train: bool, valid: Valid | None) -> jax.Array:
        """Parts ``[B, H, P, columns * C]`` to ``[B, H, P, columns * features]``."""
        dtypes: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        for i in range(2):
            x = Convolution(
                self.features,
                columns=self.columns,
                use_bias=self.norm == "none",
                kernel_init=self.kernel_init,
                name=f"Conv_{i}",
                **dtypes,
            )(parts)
            apart = x.reshape(*x.shape[:3], self.columns, self.features)
            normalize = Normalization(self.norm, axis_name=self.axis_name, **dtypes)
            x = relu(normalize(apart, train=train, valid=valid).reshape(x.shape))
            parts = [x]
        return parts[0]
