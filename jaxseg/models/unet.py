"""The U-Net of Ronneberger, Fischer and Brox (MICCAI 2015), for any size of image."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from jaxseg.models import packing
from jaxseg.models.blocks import Convolution, DoubleConv
from jaxseg.models.dropout import Dropout
from jaxseg.models.layers import NORMS, Initializer, UpConv, glorot_uniform, rates_per_level
from jaxseg.types import Images, Logits, Rows, Valid, as_floats

LAYOUTS = ("auto", "plain", "packed")

DROPOUTS = ("dropout", "decoder_dropout", "skip_dropout")
"""The names that a level's dropout layers begin with."""

CACHED_BYTES = 2**23
"""What the finest features of films computed at once may take on a CPU."""

MOST_PIECES = 8
"""Into which a batch is cut on a CPU; the program is compiled for each."""


class UNet(nn.Module):
    """U-Net: convolve and pool down, convolve and double up, every scale joined across.

    The defaults have 2,158,417 parameters for one input channel.

    Attributes:
        num_classes: Channels of the logits. 1 is binary (sigmoid); K > 1 one class per channel.
        widths: Features of each level, finest first; the last is the bottleneck.
        norm: "none", "batch", "group" or "instance". A convolution before a norm has no bias.
        dropout: Rate after every pool, or one rate for each.
        decoder_dropout: Rate after every concatenation.
        dtype: What the layers compute in. Logits are float32 whatever it is. Where it is not
            ``param_dtype``, the network has no forward-mode derivative (`jax.jvp`, `jax.jacfwd`,
            `jax.hessian`).
        param_dtype: What the parameters are kept in.
        kernel_init: Initialiser of every kernel; Glorot-uniform, as Keras has it.
        axis_name: The mapped axis when called inside `jax.pmap` or `jax.shard_map`; batch
            statistics then span it. Leave None under jit.
        remat: Levels, 0 the finest, whose features are computed again for the gradient instead
            of being kept: less memory for more work, the same values.
        layout: How features lie in memory, never what they are: "plain", "packed" (columns of
            the fine levels side by side in the channels, for TPUs; see `packing`), or "auto",
            packed where JAX's default device is a TPU. To compile for devices that are not there,
            name one. With a hundred images and more on each TPU chip "plain" moves no more memory
            and computes less (benchmarks/README.md).
        films_at_once: How many films of a batch to compute at a time, never what comes out: layers
            whose features fit a processor's cache take half the time (benchmarks/README.md). None
            is as many as fit where the layout is "auto" and JAX's only device a CPU, and the whole
            batch elsewhere. Training with batch norm takes the whole batch whatever is said.

    Examples:
        >>> import jax
        >>> import jaxseg
        >>> model = jaxseg.UNet(num_classes=3, widths=(4, 8), norm="batch")
        >>> films = jax.random.uniform(jax.random.key(0), (2, 13, 10, 1))
        >>> variables = model.init(jax.random.key(1), films)
        >>> model.apply(variables, films).shape
        (2, 13, 10, 3)
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
    remat: Sequence[int] = ()
    layout: str = "auto"
    films_at_once: int | None = None

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
            ValueError: If ``norm``, ``layout``, ``dropout``, ``decoder_dropout``, ``remat``,
                ``films_at_once`` or the rank or dtype of ``images`` does not fit.
        """
        if images.ndim != 4:
            raise ValueError(f"images has shape {images.shape}; it must be [B, H, W, C]")
        if self.norm not in NORMS:
            raise ValueError(f"norm is {self.norm!r}; it must be one of {', '.join(NORMS)}")
        if self.layout not in LAYOUTS:
            raise ValueError(f"layout is {self.layout!r}; it must be one of {', '.join(LAYOUTS)}")
        # Where there is no key for dropout, Flax takes that of `params`.
        has_key = self.has_rng("dropout") or self.has_rng("params")
        rng = self.make_rng("dropout") if train and has_key else None
        count = self._films_at_once(images.shape, train)
        if count is None:
            return self._logits(images, train, valid, rows, rng)
        rows = jnp.arange(images.shape[0]) if rows is None else jnp.asarray(rows)
        # Every piece has the same key: dropout draws by the row.
        pieces = [slice(first, first + count) for first in range(0, images.shape[0], count)]
        return jnp.concatenate(
            [self._logits(images[piece], train, None, rows[piece], rng) for piece in pieces]
        )

    @nn.compact
    def _logits(
        self,
        images: Images,
        train: bool,
        valid: Valid | None,
        rows: Rows | None,
        rng: jax.Array | None,
    ) -> Logits:
        levels = len(self.widths) - 1
        rates = rates_per_level(self.dropout, levels)
        if unknown := set(self.remat) - set(range(levels + 1)):
            raise ValueError(f"remat names level {min(unknown)}; levels are 0 to {levels}")
        columns = packing.columns_per_level(self.widths)
        packed = self._packed()
        shares = columns if packed else (1,) * (levels + 1)
        options: dict[str, Any] = {
            "kernel_init": self.kernel_init,
            "dtype": self.dtype,
            "param_dtype": self.param_dtype,
        }
        double_conv = partial(DoubleConv, norm=self.norm, axis_name=self.axis_name, **options)

        # Names are given, since those of Flax's own choice differ inside `nn.remat`, and with
        # them the bits.
        def dropout(x: jax.Array, rate: float, level: int, name: str) -> jax.Array:
            layer = Dropout(rate, columns[level], packed, name=f"{name}_{level}")
            place = len(DROPOUTS) * level + DROPOUTS.index(name)
            key = None if rng is None else jax.random.fold_in(rng, place)
            return layer(x, train=train, rows=rows, rng=key)

        def convolve(name: str, level: int, *parts: jax.Array) -> jax.Array:
            block = double_conv(self.widths[level], shares[level], name=name)
            return block(parts, train, valid)

        def down(_: nn.Module, x: jax.Array, level: int) -> jax.Array:
            return convolve("bottleneck" if level == levels else f"encoder_{level}", level, x)

        def up(_: nn.Module, x: jax.Array, skip: jax.Array, level: int) -> jax.Array:
            x = UpConv(self.widths[level], shares[level], name=f"up_{level}", **options)(x)
            x = dropout(x, self.decoder_dropout, level, "decoder_dropout")
            skip = dropout(skip, self.decoder_dropout, level, "skip_dropout")
            return convolve(f"decoder_{level}", level, x, skip)

        def at_level(block: Callable[..., jax.Array], level: int) -> Callable[..., jax.Array]:
            placed = partial(block, level=level)
            return nn.remat(placed) if level in self.remat else placed

        height, width = images.shape[1:3]
        x = _pad_to_multiple(as_floats(images).astype(self.dtype), 2**levels)
        x = packing.pack(x, shares[0])
        skips = []
        for level, rate in enumerate(rates):
            x = at_level(down, level)(self, x)
            skips.append(x)
            x = packing.max_pool(x, shares[level])
            x = dropout(x, rate, level + 1, "dropout")
        x = at_level(down, levels)(self, x)
        for level in reversed(range(levels)):
            x = at_level(up, level)(self, x, skips[level])
        logits = Convolution(self.num_classes, 1, shares[0], name="head", **options)([x])
        logits = packing.unpack(logits, shares[0])
        return logits[:, :height, :width].astype(jnp.float32)

    def _films_at_once(self, shape: tuple[Any, ...], train: bool) -> int | None:
        """None where the batch is to be computed whole."""
        films, *size, _ = shape
        count = self.films_at_once
        if count is not None and count < 1:
            raise ValueError(f"films_at_once is {count}; it must be at least 1")
        # What is exported has names for sizes.
        named = not all(isinstance(side, int) for side in (films, *size))
        if named or self.is_initializing() or (train and self.norm == "batch"):
            return None
        alone = jax.default_backend() == "cpu" and jax.device_count() == 1
        if count is None and self.layout == "auto" and alone:
            film = math.prod(size) * self.widths[0] * jnp.dtype(self.dtype).itemsize
            count = max(1, CACHED_BYTES // film, -(-films // MOST_PIECES))
        return None if count is None or count >= films else count

    def _packed(self) -> bool:
        return self.layout == "packed" or (self.layout == "auto" and jax.default_backend() == "tpu")


def _pad_to_multiple(x: jax.Array, multiple: int) -> jax.Array:
    """Repeats edge pixels at the bottom and right until height and width are multiples."""
    rows, columns = (-size % multiple for size in x.shape[1:3])
    if rows or columns:
        x = jnp.pad(x, ((0, 0), (0, rows), (0, columns), (0, 0)), mode="edge")
    return x
