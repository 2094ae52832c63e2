"""The U-Net of Ronneberger, Fischer and Brox (MICCAI 2015), for images of any size."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from jaxseg.models.layers import Initializer, Norm, UpConv, glorot_uniform
from jaxseg.types import Images, Logits, as_floats


class ConvBlock(nn.Module):
    """Two 3x3 convolutions, each followed by a norm and a ReLU."""

    features: int
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Returns ``[B, H, W, features]``."""
        for _ in range(2):
            x = self.conv(self.features)(x)
            x = self.norm()(x, train)
            x = nn.relu(x)
        return x


class UNet(nn.Module):
    """U-Net: an encoder that halves the resolution, a decoder that doubles it, and skips.

    The defaults have 2,158,417 parameters for one input channel.

    Attributes:
        num_classes: Number of logit channels. 1 is binary (sigmoid); K > 1 has one per class.
        widths: Channels of each level, finest first. The last level is the bottleneck.
        norm: "none", "batch", "group" or "instance". A convolution before a norm has no bias.
        norm_groups: Number of groups of ``norm="group"``; it must divide every width.
        dropout: Dropout rate after each max pooling: one rate, or one per pooling.
        decoder_dropout: Dropout rate after each concatenation with a skip.
        deep_supervision: In training, return a tuple with the logits of every decoder level, finest
            first, for `jaxseg.losses.deep_supervision` (Lee et al., AISTATS 2015). Level l has
            logits of ``ceil(H / 2**l)`` x ``ceil(W / 2**l)``. Evaluation returns the finest only.
        dtype: Dtype of the computation. Logits are always float32.
        param_dtype: Dtype of the parameters.
        kernel_init: Initializer of every kernel; the default is Keras's.
        axis_name: Mapped axis under `jax.pmap` or `jax.shard_map`, over which batch statistics are
            averaged; `jaxseg.make_train_step` sets it. None under jit.
        remat: Levels, 0 the finest, whose convolutions are recomputed in the backward pass: less
            memory for more computation, the same values.

    Examples:
        >>> import jax
        >>> import jaxseg
        >>> model = jaxseg.UNet(num_classes=3, widths=(4, 8), norm="batch")
        >>> images = jax.random.uniform(jax.random.key(0), (2, 13, 10, 1))
        >>> variables = model.init(jax.random.key(1), images)
        >>> model.apply(variables, images).shape
        (2, 13, 10, 3)
    """

    num_classes: int = 1
    widths: Sequence[int] = (16, 32, 64, 128, 256)
    norm: str = "none"
    norm_groups: int = 8
    dropout: float | Sequence[float] = 0.0
    decoder_dropout: float = 0.0
    deep_supervision: bool = False
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32
    kernel_init: Initializer = glorot_uniform
    axis_name: str | None = None
    remat: Sequence[int] = ()

    @nn.compact
    def __call__(self, images: Images, *, train: bool = False) -> Logits | tuple[Logits, ...]:
        """Computes the logits of a batch of images.

        Args:
            images: ``[B, H, W, C]``, uint8 (divided by 255 here) or float in [0, 1]. Any height and
                width: edge pixels are repeated at the bottom and right up to a multiple of two to
                the number of poolings, and the logits are cropped.
            train: Apply dropout (random key ``dropout``), and compute batch statistics from the
                batch and update the running ones (collection ``batch_stats``).

        Returns:
            float32 logits ``[B, H, W, num_classes]``; with ``deep_supervision`` and ``train`` a
            tuple of logits, finest first.

        Raises:
            ValueError: An attribute, or the rank or dtype of ``images``, is invalid.
        """
        poolings = len(self.widths) - 1
        rates = self._dropout_rates(poolings)
        self._check(images, poolings)
        dtypes: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        options = {"kernel_init": self.kernel_init, **dtypes}
        conv = partial(nn.Conv, kernel_size=(3, 3), use_bias=self.norm == "none", **options)
        norm = partial(
            Norm, kind=self.norm, groups=self.norm_groups, axis_name=self.axis_name, **dtypes
        )

        def conv_block(x: jax.Array, level: int, name: str) -> jax.Array:
            block = nn.remat(ConvBlock, static_argnums=2) if level in self.remat else ConvBlock
            return block(self.widths[level], conv, norm, name=name)(x, train)

        def dropout(x: jax.Array, rate: float) -> jax.Array:
            return nn.Dropout(rate, deterministic=not train)(x)

        def head(x: jax.Array, level: int) -> jax.Array:
            name = f"head_{level}" if level else "head"
            logits = nn.Conv(self.num_classes, (1, 1), name=name, **options)(x)
            height, width = (-(-side // 2**level) for side in images.shape[1:3])
            return logits[:, :height, :width].astype(jnp.float32)

        x = _pad_to_multiple(as_floats(images).astype(self.dtype), 2**poolings)
        skips = []
        for level, rate in enumerate(rates):
            x = conv_block(x, level, f"encoder_{level}")
            skips.append(x)
            x = nn.max_pool(x, (2, 2), strides=(2, 2))
            x = dropout(x, rate)
        x = conv_block(x, poolings, "bottleneck")
        logits = []
        for level in reversed(range(poolings)):
            x = UpConv(self.widths[level], name=f"up_{level}", **options)(x)
            x = jnp.concatenate([x, skips[level]], axis=-1)
            x = dropout(x, self.decoder_dropout)
            x = conv_block(x, level, f"decoder_{level}")
            if level == 0 or self.deep_supervision:
                logits.append(head(x, level))
        return tuple(reversed(logits)) if self.deep_supervision and train else logits[-1]

    def _dropout_rates(self, poolings: int) -> tuple[float, ...]:
        given = self.dropout
        rates = tuple(given) if isinstance(given, Sequence) else (given,) * poolings
        if len(rates) != poolings:
            raise ValueError(f"dropout has {len(rates)} rates, the network has {poolings} poolings")
        for rate in (*rates, self.decoder_dropout):
            if not 0 <= rate < 1:
                raise ValueError(f"dropout rate {rate} is outside [0, 1)")
        return rates

    def _check(self, images: Images, poolings: int) -> None:
        if images.ndim != 4:
            raise ValueError(f"images has shape {images.shape}; it must be [B, H, W, C]")
        if poolings < 1:
            raise ValueError(f"widths is {self.widths}; it must have two levels or more")
        if unknown := set(self.remat) - set(range(poolings + 1)):
            raise ValueError(f"remat names level {min(unknown)}; levels are 0 to {poolings}")
        bad = [width for width in self.widths if width % self.norm_groups]
        if self.norm == "group" and bad:
            raise ValueError(f"norm_groups is {self.norm_groups}, which does not divide {bad[0]}")


def _pad_to_multiple(x: jax.Array, multiple: int) -> jax.Array:
    """Repeats edge pixels at the bottom and right until height and width are multiples."""
    rows, columns = (-size % multiple for size in x.shape[1:3])
    if rows or columns:
        x = jnp.pad(x, ((0, 0), (0, rows), (0, columns), (0, 0)), mode="edge")
    return x
