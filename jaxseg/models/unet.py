"""The U-Net of Ronneberger, Fischer and Brox (MICCAI 2015), for any size of image."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from jaxseg.models.layers import (
    NORMS,
    Dropout,
    Initializer,
    Normalization,
    UpConv,
    glorot_uniform,
    rates_per_level,
)
from jaxseg.types import Images, Logits, Rows, Valid


class DoubleConv(nn.Module):
    """Two 3x3 convolutions, each with its norm and a ReLU."""

    features: int
    norm: str
    dtype: DTypeLike
    param_dtype: DTypeLike
    kernel_init: Initializer
    axis_name: str | None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, valid: Valid | None) -> jax.Array:
        """``[B, H, W, C]`` to ``[B, H, W, features]``."""
        dtypes: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        for _ in range(2):
            x = nn.Conv(
                self.features,
                (3, 3),
                use_bias=self.norm == "none",
                kernel_init=self.kernel_init,
                **dtypes,
            )(x)
            x = Normalization(self.norm, axis_name=self.axis_name, **dtypes)(
                x, train=train, valid=valid
            )
            x = nn.relu(x)
        return x


class UNet(nn.Module):
    """U-Net: convolve and pool down, convolve and double up, every scale joined across.

    The defaults have 2,158,417 parameters for one input channel.

    Attributes:
        num_classes: Channels of the logits. 1 is binary (sigmoid); K > 1 one class per channel.
        widths: Features of each level, finest first; the last is the bottleneck.
        norm: "none", "batch", "group" or "instance". A convolution before a norm has no bias.
        dropout: Rate after every pool, or one rate for each.
        decoder_dropout: Rate after every concatenation.
        dtype: What the layers compute in. Logits are float32 whatever it is.
        param_dtype: What the parameters are kept in.
        kernel_init: Initialiser of every kernel; Glorot-uniform, as Keras has it.
        axis_name: The mapped axis when called inside `jax.pmap` or `jax.shard_map`; batch
            statistics then span it. Leave None under jit.
    """

    num_classes: int = 1
    widths: Sequence[int] = (16, 32, 64, 128, 256)
    norm: str = "none"
    dropout: float | Sequence[float] = 0.0
    decoder_dropout: float = 0.0
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32
    kernel_init: Initializer = glorot_uniform
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self,
        images: Images,
        *,
        train: bool = False,
        valid: Valid | None = None,
        rows: Rows | None = None,
    ) -> Logits:
        """Computes the logits of a batch of images.

        Args:
            images: ``[B, H, W, C]``, uint8 (divided by 255 here) or float in [0, 1]. Any height
                and width: edge pixels are repeated at the bottom and right up to a multiple of
                two to the number of pools, and the logits are cropped back.
            train: Whether dropout acts (key ``dropout``) and batch statistics are taken from the
                batch and updated (collection ``batch_stats``).
            valid: ``[B]`` bool, False on rows that only pad the batch: these stay out of batch
                statistics. None counts every row.
            rows: ``[B]`` int32, each row's index in the global batch, from which dropout draws;
                None counts from 0.

        Returns:
            float32 logits ``[B, H, W, num_classes]``.

        Raises:
            ValueError: If ``norm``, ``dropout`` or the rank or dtype of ``images`` does not fit.
        """
        if images.ndim != 4:
            raise ValueError(f"images has shape {images.shape}; it must be [B, H, W, C]")
        if self.norm not in NORMS:
            raise ValueError(f"norm is {self.norm!r}; it must be one of {', '.join(NORMS)}")
        levels = len(self.widths) - 1
        rates = rates_per_level(self.dropout, levels)
        dtypes: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        double_conv = partial(
            DoubleConv,
            norm=self.norm,
            kernel_init=self.kernel_init,
            axis_name=self.axis_name,
            **dtypes,
        )

        height, width = images.shape[1:3]
        x = _pad_to_multiple(_as_float(images, self.dtype), 2**levels)
        skips = []
        for level, rate in enumerate(rates):
            x = double_conv(self.widths[level], name=f"encoder_{level}")(x, train, valid)
            skips.append(x)
            x = nn.max_pool(x, (2, 2), strides=(2, 2))
            x = Dropout(rate)(x, train=train, rows=rows)
        x = double_conv(self.widths[-1], name="bottleneck")(x, train, valid)
        for level in reversed(range(levels)):
            features = self.widths[level]
            x = UpConv(features, kernel_init=self.kernel_init, **dtypes, name=f"up_{level}")(x)
            x = jnp.concatenate([x, skips[level]], axis=-1)
            x = Dropout(self.decoder_dropout)(x, train=train, rows=rows)
            x = double_conv(features, name=f"decoder_{level}")(x, train, valid)
        head = nn.Conv(
            self.num_classes, (1, 1), kernel_init=self.kernel_init, **dtypes, name="head"
        )
        logits = head(x)
        return logits[:, :height, :width].astype(jnp.float32)


def _as_float(images: Images, dtype: DTypeLike) -> jax.Array:
    """uint8 to [0, 1], float as it is."""
    images = jnp.asarray(images)
    if images.dtype == jnp.uint8:
        return (images.astype(jnp.float32) / 255.0).astype(dtype)
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f"images has dtype {images.dtype}; it must be uint8 or float in [0, 1]")
    return images.astype(dtype)


def _pad_to_multiple(x: jax.Array, multiple: int) -> jax.Array:
    """Repeats edge pixels at the bottom and right until height and width are multiples."""
    rows, columns = (-size % multiple for size in x.shape[1:3])
    if rows or columns:
        x = jnp.pad(x, ((0, 0), (0, rows), (0, columns), (0, 0)), mode="edge")
    return x
