"""The layers that the U-Net is made of and Flax lacks in this form.

`UpConv` is a 3x3 stride-2 transposed convolution computed without zeros in between, and
`Normalization` is one of four norms.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Float

from jaxseg.models import convolution, packing
from jaxseg.types import Valid

NORMS = ("none", "batch", "group", "instance")

Initializer = Callable[..., jax.Array]


def glorot_uniform(
    key: jax.Array, shape: Sequence[int], dtype: DTypeLike = jnp.float32
) -> jax.Array:
    """Uniform in ±sqrt(6 / (fan_in + fan_out)) (Glorot and Bengio, AISTATS 2010).

    The very numbers of `jax.nn.initializers.glorot_uniform`, but drawn flat: on CPU XLA takes
    five times as long to compile a draw in four dimensions, and a network has dozens.
    """
    receptive_field = math.prod(shape[:-2])
    variance = 2.0 / (receptive_field * (shape[-2] + shape[-1]))
    flat = jax.random.uniform(key, (math.prod(shape),), dtype, -1.0)
    return flat.reshape(shape) * jnp.sqrt(jnp.asarray(3.0 * variance, dtype))


def _taps_by_phase(kernel: jax.Array, axis: int) -> jax.Array:
    """Turns the three taps along an axis into ``[tap, phase]`` of the equal two-tap convolution.

    Along one axis a stride-2 transposed convolution is ``out[2i] = x[i-1] w0 + x[i] w2`` and
    ``out[2i+1] = x[i] w1``: a window of two inputs, and one set of weights per output phase.
    """
    w0, w1, w2 = (jax.lax.index_in_dim(kernel, tap, axis, keepdims=False) for tap in range(3))
    even = jnp.stack([w0, w2], axis)
    odd = jnp.stack([jnp.zeros_like(w1), w1], axis)
    return jnp.stack([even, odd], axis + 1)


def upsampling_convolution(
    x: Float[jax.Array, "B H W C"], kernel: Float[jax.Array, "3 3 C D"]
) -> Float[jax.Array, "B 2*H 2*W D"]:
    """3x3 stride-2 transposed convolution with "SAME" padding, as a 2x2 convolution and a shuffle.

    Equal to ``jax.lax.conv_transpose(x, kernel, (2, 2), "SAME")``, which XLA computes on CPU by
    filling the input with zeros, at several times the cost.

    Args:
        x: Features.
        kernel: The transposed convolution's own kernel, laid out as in `flax.linen.ConvTranspose`;
            of any float dtype (see `convolution.convolve`).

    Returns:
        Features of twice the height and width, of ``x``'s dtype.
    """
    batch, height, width, channels = x.shape
    features = kernel.shape[-1]
    phased = _taps_by_phase(_taps_by_phase(kernel, 0), 2)
    phased = phased.transpose(0, 2, 4, 1, 3, 5).reshape(2, 2, channels, 4 * features)
    out = convolution.convolve(x, phased, [(1, 0), (1, 0)])
    out = out.reshape(batch, height, width, 2, 2, features).transpose(0, 1, 3, 2, 4, 5)
    return out.reshape(batch, 2 * height, 2 * width, features)


class UpConv(nn.Module):
    """A 3x3 stride-2 transposed convolution that doubles height and width.

    Parameters (``kernel`` ``[3, 3, C, features]``, ``bias``) and result are those of
    ``nn.ConvTranspose(features, (3, 3), strides=(2, 2))``; see `upsampling_convolution`.

    Attributes:
        features: Channels that come out.
        columns: Columns that share a place of the result; 1 is the plain layout, and in a packed
            one the features given have half as many (see `packing`).
        dtype: What it computes in; None for the wider of the features' dtype and ``param_dtype``.
            Where it is not ``param_dtype``, there is no forward-mode derivative (`jax.jvp`).
    """

    features: int
    columns: int = 1
    use_bias: bool = True
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    kernel_init: Initializer = glorot_uniform

    @nn.compact
    def __call__(self, x: Float[jax.Array, "B H P C"]) -> Float[jax.Array, "B 2*H Q D"]:
        """Returns features of twice the height and width."""
        shape = (3, 3, x.shape[-1] // max(1, self.columns // 2), self.features)
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        x = x.astype(self.dtype or jnp.promote_types(x.dtype, self.param_dtype))
        if self.columns == 1:
            out = upsampling_convolution(x, jnp.asarray(kernel))
        else:
            out = packing.convolve_up(x, kernel, self.columns // 2)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros_init(), shape[-1:], self.param_dtype)
            out = convolution.add_bias(out, jnp.tile(bias, self.columns))
        return out


class BatchNorm(nn.Module):
    """Batch norm over the global batch without the rows that pad it (Ioffe and Szegedy, ICML 2015).

    `flax.linen.BatchNorm`, parameters, running statistics (momentum 0.9) and all, but for this:
    under a mapped axis Flax averages the devices' means, which is wrong where they have different
    numbers of rows that count.
    """

    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    axis_name: str | None = None
    epsilon: float = 1e-5

    @nn.compact
    def __call__(
        self, x: Float[jax.Array, "B *spatial C"], *, train: bool, valid: Valid | None = None
    ) -> Float[jax.Array, "B *spatial C"]:
        """Normalises by the batch's mean and variance (``train``) or by the running ones.

        Args:
            x: Features; statistics are taken in float32 whatever their dtype.
            train: Whether to use the batch's statistics, and to move the running ones.
            valid: ``[B]`` bool, False on rows to leave out of them; None counts all. With no row
                that counts anywhere, the running statistics are used, and stay.
        """
        features = x.shape[-1:]
        means = self.variable("batch_stats", "mean", jnp.zeros, features, jnp.float32)
        variances = self.variable("batch_stats", "var", jnp.ones, features, jnp.float32)
        scale = self.param("scale", nn.initializers.ones_init(), features, self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros_init(), features, self.param_dtype)
        mean, variance = means.value, variances.value
        if train:
            mean, variance, rows = self._statistics(x.astype(jnp.float32), valid)
            mean = jnp.where(rows > 0, mean, means.value)
            variance = jnp.where(rows > 0, variance, variances.value)
            if not self.is_initializing():
                means.value = 0.9 * means.value + 0.1 * mean
                variances.value = 0.9 * variances.value + 0.1 * variance
        dtype = self.dtype or jnp.promote_types(x.dtype, self.param_dtype)
        slope = jax.lax.rsqrt(variance + self.epsilon) * scale.astype(jnp.float32)
        mean, slope, bias = (
            jnp.expand_dims(a.astype(jnp.float32), range(x.ndim - 1)) for a in (mean, slope, bias)
        )
        return ((x.astype(jnp.float32) - mean) * slope + bias).astype(dtype)

    def _statistics(
        self, x: jax.Array, valid: Valid | None
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Mean, variance, and of how many rows they are."""
        counted = jnp.ones(x.shape[0], bool) if valid is None else jnp.asarray(valid)
        rows = counted.sum(dtype=jnp.int32)
        kept = jnp.where(jnp.expand_dims(counted, range(1, x.ndim)), x, 0.0)
        axes = tuple(range(x.ndim - 1))
        sums = (kept.sum(axes), jnp.square(kept).sum(axes), rows)
        if self.axis_name is not None:
            sums = jax.lax.psum(sums, self.axis_name)
        total, squares, rows = sums
        pixels = jnp.maximum(rows, 1).astype(jnp.float32) * math.prod(x.shape[1:-1])
        mean = total / pixels
        return mean, jnp.maximum(squares / pixels - jnp.square(mean), 0.0), rows


class Normalization(nn.Module):
    """One of `NORMS`, over features ``[B, ..., C]``, with learned scale and offset.

    ``batch`` keeps running statistics in the collection ``batch_stats`` and leaves rows that only
    pad the batch out of them; ``group`` has 8 groups, or as many as divide both 8 and the channels.
    """

    norm: str
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self,
        x: Float[jax.Array, "B *spatial C"],
        *,
        train: bool,
        valid: Valid | None = None,
    ) -> Float[jax.Array, "B *spatial C"]:
        """Returns the normalised features in the shape given."""
        if self.norm == "none":
            return x
        dtypes: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        if self.norm == "batch":
            return BatchNorm(axis_name=self.axis_name, **dtypes)(x, train=train, valid=valid)
        # Flax takes the statistics in float32 and lets features of another dtype promote.
        with jax.numpy_dtype_promotion("standard"):
            if self.norm == "group":
                return nn.GroupNorm(num_groups=math.gcd(8, x.shape[-1]), **dtypes)(x)
            if self.norm == "instance":
                return nn.InstanceNorm(**dtypes)(x)
        raise ValueError(f"norm is {self.norm!r}; it must be one of {', '.join(NORMS)}")


def rates_per_level(dropout: float | Sequence[float], levels: int) -> tuple[float, ...]:
    """Spreads one dropout rate, or one per pool, over the pools.

    Raises:
        ValueError: If their number is not ``levels``.
    """
    rates = np.asarray(dropout, np.float64).tolist()
    rates = tuple(rates) if isinstance(rates, list) else (rates,) * levels
    if len(rates) != levels:
        raise ValueError(f"dropout has {len(rates)} rates, the network has {levels} pools")
    return rates
