"""The layers that the U-Net needs and Flax does not have in this form."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Float

NORMS = ("none", "batch", "group", "instance")

Initializer = Callable[..., jax.Array]


def glorot_uniform(
    key: jax.Array, shape: Sequence[int], dtype: DTypeLike = jnp.float32
) -> jax.Array:
    """Samples uniformly from ±sqrt(6 / (fan_in + fan_out)) (Glorot and Bengio, AISTATS 2010).

    Gives the same numbers as `jax.nn.initializers.glorot_uniform`. It samples a flat array, because
    XLA compiles a four-dimensional one five times more slowly on a CPU.
    """
    receptive_field = math.prod(shape[:-2])
    variance = 2.0 / (receptive_field * (shape[-2] + shape[-1]))
    flat = jax.random.uniform(key, (math.prod(shape),), dtype, -1.0)
    return flat.reshape(shape) * jnp.sqrt(jnp.asarray(3.0 * variance, dtype))


def upsampling_convolution(
    x: Float[jax.Array, "B H W C"], kernel: Float[jax.Array, "3 3 C D"]
) -> Float[jax.Array, "B 2*H 2*W D"]:
    """Computes a 3x3 stride-2 transposed convolution as a 2x2 convolution and a pixel shuffle.

    Along one axis, a stride-2 transposed convolution is ``out[2i] = x[i-1] w0 + x[i] w2`` and
    ``out[2i+1] = x[i] w1``. Both read the window ``x[i-1], x[i]``, so a 2x2 convolution computes
    the four outputs of each input pixel as four groups of channels. The result equals
    ``jax.lax.conv_transpose(x, kernel, (2, 2), "SAME")``, which XLA computes on a CPU by inserting
    zeros into the input; a train step then takes 1.9 times as long.

    Args:
        x: Input.
        kernel: Laid out as in `flax.linen.ConvTranspose`, of the same dtype as ``x``.

    Returns:
        An array of twice the height and width.
    """
    batch, height, width, channels = x.shape
    features = kernel.shape[-1]
    kernel = _two_taps(_two_taps(kernel, axis=0), axis=2)  # [tap, phase, tap, phase, C, D]
    kernel = kernel.transpose(0, 2, 4, 1, 3, 5).reshape(2, 2, channels, 4 * features)
    out = jax.lax.conv_general_dilated(
        x, kernel, (1, 1), [(1, 0), (1, 0)], dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    out = out.reshape(batch, height, width, 2, 2, features).transpose(0, 1, 3, 2, 4, 5)
    return out.reshape(batch, 2 * height, 2 * width, features)


def _two_taps(kernel: jax.Array, axis: int) -> jax.Array:
    """Replaces three taps along an axis by ``[tap, phase]`` of the equal two-tap kernels."""
    w0, w1, w2 = (jax.lax.index_in_dim(kernel, tap, axis, keepdims=False) for tap in range(3))
    even = jnp.stack([w0, w2], axis)
    odd = jnp.stack([jnp.zeros_like(w1), w1], axis)
    return jnp.stack([even, odd], axis + 1)


class UpConv(nn.Module):
    """A 3x3 stride-2 transposed convolution, which doubles height and width.

    Parameters (``kernel`` ``[3, 3, C, features]``, ``bias`` ``[features]``) and result are those of
    ``nn.ConvTranspose(features, (3, 3), strides=(2, 2))``; see `upsampling_convolution`.

    Attributes:
        features: Number of output channels.
        dtype: Dtype of the computation.
        param_dtype: Dtype of the parameters.
        kernel_init: Initializer of the kernel.
    """

    features: int
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32
    kernel_init: Initializer = glorot_uniform

    @nn.compact
    def __call__(self, x: Float[jax.Array, "B H W C"]) -> Float[jax.Array, "B 2*H 2*W D"]:
        """Returns an array of twice the height and width."""
        shape = (3, 3, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), self.param_dtype)
        kernel, bias = jnp.asarray(kernel, self.dtype), jnp.asarray(bias, self.dtype)
        return upsampling_convolution(x.astype(self.dtype), kernel) + bias[None, None, None]


class Norm(nn.Module):
    """One of `NORMS` with a learned scale and offset; "none" returns its input.

    Attributes:
        kind: "none", "batch", "group" or "instance".
        groups: Number of groups of "group"; it must divide the number of channels.
        axis_name: Mapped axis under `jax.pmap`; batch statistics then span all devices.
        dtype: Dtype of the result. Statistics are computed in float32.
        param_dtype: Dtype of the parameters.
    """

    kind: str
    groups: int
    axis_name: str | None
    dtype: DTypeLike
    param_dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[jax.Array, "B H W C"], train: bool) -> Float[jax.Array, "B H W C"]:
        """Returns the normalized input."""
        dtypes: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        if self.kind == "none":
            return x
        # Flax computes statistics in float32 and relies on promotion for other dtypes.
        with jax.numpy_dtype_promotion("standard"):
            if self.kind == "batch":
                norm = nn.BatchNorm(not train, momentum=0.9, axis_name=self.axis_name, **dtypes)
            elif self.kind == "group":
                norm = nn.GroupNorm(self.groups, **dtypes)
            elif self.kind == "instance":
                norm = nn.InstanceNorm(**dtypes)
            else:
                raise ValueError(f"norm is {self.kind!r}; it must be one of {', '.join(NORMS)}")
            return norm(x)
