"""What every loss starts from and ends with: checked pixels in, one value per image out.

All arithmetic is float32. A pixel that does not count is emptied (logit 0, label 0) before any
loss sees it, so that nothing it held, NaN included, reaches a value or a gradient.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Float32, Integer

from jaxseg.losses import channels
from jaxseg.types import Array, Logits, Where, narrowed

Targets = Integer[Array, "B H W"] | Bool[Array, "B H W"] | Float[Array, "B H W K"]
"""Class ids, a boolean mask (``K == 1``), or the probability of every channel's class."""

Cost = Float32[jax.Array, "B"] | Float32[jax.Array, ""]
"""One value per image, or with ``pooled=True`` one for the whole batch."""

ClassWeights = Float[Array, "classes"] | Sequence[float] | None

# Probabilities may miss [0, 1] by the rounding of what made them; bfloat16 misses by 0.004.
_PROBABILITY_SLACK = 0.01
_MISFIT = -2.0


class Pixels(NamedTuple):
    """The checked input of a loss, without the channel axis where there is one channel.

    Attributes:
      logits: 0 where not counted.
      labels: Class ids or probabilities, as they were given; 0 where not counted. What is no
        class keeps its number; what is no probability becomes `_MISFIT`, which is finite.
      where: The pixels that count; None for all.
    """

    logits: channels.Channels
    labels: channels.Labels
    where: Bool[jax.Array, "B H W"] | None

    @property
    def num_classes(self) -> int:
        """Two for a single channel: background and foreground."""
        return 2 if self.logits.ndim == 3 else self.logits.shape[-1]

    def misfits(self) -> Bool[jax.Array, "B H W"]:
        """Counted labels that are none of the classes, or hold what is no probability."""
        if jnp.issubdtype(self.labels.dtype, jnp.integer):
            return (self.labels < 0) | (self.labels >= self.num_classes)
        misfits = self.labels == _MISFIT
        return misfits if misfits.ndim == 3 else misfits.any(-1)


def read_pixels(logits: Logits, labels: Targets, where: Where | None) -> Pixels:
    """Checks what can be checked without values, casts, and empties what does not count.

    Raises:
      TypeError: A dtype is not what the argument needs.
      ValueError: A shape is not, or two shapes do not go together.
    """
    logits, labels = jnp.asarray(logits), jnp.asarray(narrowed(labels))
    _check_logits(logits)
    _check_labels(labels, logits)
    if where is not None:
        where = jnp.asarray(where)
        _check_where(where, logits)
    num_classes = max(logits.shape[-1], 2)
    scores = logits.astype(jnp.float32)
    if logits.shape[-1] == 1:
        # XLA's CPU backend would otherwise loop over the axis of length 1 innermost.
        scores = jax.lax.optimization_barrier(scores[..., 0])
    if labels.ndim == 3:
        labels = channels.keep(_as_int32(labels, num_classes), where)
    else:
        labels = channels.keep(labels.astype(jnp.float32).reshape(scores.shape), where)
        # Worded so that NaN does not fit either.
        fits = (labels >= -_PROBABILITY_SLACK) & (labels <= 1 + _PROBABILITY_SLACK)
        labels = jnp.where(fits, labels, _MISFIT)
    return Pixels(channels.keep(scores, where), labels, where)


def class_targets(pixels: Pixels) -> channels.Channels:
    """The probability of every channel's class; class ids become 0 and 1."""
    return channels.targets(pixels.labels, pixels.logits)


def class_probabilities(pixels: Pixels) -> channels.Channels:
    """Sigmoid of a single channel (the foreground), softmax over several."""
    return channels.probabilities(pixels.logits)


def class_sizes(pixels: Pixels) -> tuple[Float32[jax.Array, "B K"], Bool[jax.Array, "B"]]:
    """How many counted pixels each channel's class has, and whether every label fits.

    Exact up to 2^24 pixels, the size of a 4096 x 4096 film. Both come from one sum, which is NaN
    where a label does not fit; the size is then given as 0.
    """
    pixels = jax.lax.optimization_barrier(pixels)
    sizes, misfits = channels.keep(class_targets(pixels), pixels.where), pixels.misfits()
    sums = channels.sum_pixels(
        jnp.where(misfits if sizes.ndim == 3 else misfits[..., None], jnp.nan, sizes)
    )
    fits = ~jnp.isnan(sums)
    return jnp.where(fits, sums, 0), fits.all(-1)


def labels_fit(pixels: Pixels) -> Bool[jax.Array, "B"]:
    """False for an image with a counted label that is no class, or no probability."""
    return ~pixels.misfits().any((1, 2))


def sum_counted(values: channels.Channels, pixels: Pixels) -> Float32[jax.Array, "B K"]:
    """Per-image sums over the pixels that count; of planes, with K = 1."""
    return channels.sum_pixels(channels.keep(values, pixels.where))


def count_pixels(pixels: Pixels) -> Float32[jax.Array, "B 1"]:
    """How many pixels of each image count; exact up to 2^24."""
    batch, height, width = pixels.logits.shape[:3]
    if pixels.where is None:
        return jnp.full((batch, 1), height * width, jnp.float32)
    return channels.sum_pixels(pixels.where.astype(jnp.float32))


class Pooling(NamedTuple):
    """Whether sums stay per image or run over the global batch, and over which mapped axis."""

    pooled: bool
    axis_name: str | None

    def __call__(self, sums: Float32[jax.Array, "B *classes"]) -> Float32[jax.Array, "..."]:
        """Per-image sums, or with ``pooled`` their sum over the batch of all devices."""
        if not self.pooled:
            return sums
        total = sums.sum(0)
        return total if self.axis_name is None else jax.lax.psum(total, self.axis_name)

    def close(
        self, cost: Float32[jax.Array, "*rows"], fits: Bool[jax.Array, "B"]
    ) -> Float32[jax.Array, "*rows"]:
        """NaN, with gradient zero, for what holds a label that does not fit."""
        misfits = self((~fits).astype(jnp.float32))
        return jnp.where(misfits == 0, cost, jnp.nan)


def read_pooling(pooled: bool, axis_name: str | None) -> Pooling:
    """Raises ValueError for an ``axis_name`` that nothing would use."""
    if axis_name is not None and not pooled:
        raise ValueError(f"axis_name={axis_name!r} pools over devices, which needs pooled=True")
    return Pooling(pooled, axis_name)


def ratio(numerator: jax.Array, denominator: jax.Array) -> jax.Array:
    """``numerator / denominator`` of two sums, and 0 where both are 0.

    The floor keeps the square in the quotient's derivative away from the underflow that sums of
    saturated probabilities reach.
    """
    return numerator / jnp.maximum(denominator, 1e-7)


def weighted_mean(total: jax.Array, weight: jax.Array) -> jax.Array:
    """``total / weight``, and 0 where no weight is; weights that are given may be of any size."""
    none = weight == 0
    return jnp.where(none, 0.0, total / jnp.where(none, 1.0, weight))


def read_class_weights(
    class_weights: ClassWeights, num_classes: int, name: str = "class_weights"
) -> jax.Array:
    """One float32 weight per class; ones by default.

    Raises:
      ValueError: Their number is not ``num_classes``, or one is negative (JAX arrays, whose values
        may not be known yet, go unchecked).
    """
    if class_weights is None:
        return jnp.ones((num_classes,), jnp.float32)
    if not isinstance(class_weights, jax.Array) and np.any(np.asarray(class_weights) < 0):
        raise ValueError(f"{name} must not be negative, got {class_weights}")
    weights = jnp.asarray(class_weights, jnp.float32)
    if weights.shape != (num_classes,):
        raise ValueError(
            f"{name} must have shape ({num_classes},), one for each class, got {weights.shape}"
        )
    return weights


def mean_over_classes(
    values: Float32[jax.Array, "*rows K"], class_weights: ClassWeights
) -> Float32[jax.Array, "*rows"]:
    """Mean over the channels' classes, weighted where weights are given."""
    weights = read_class_weights(class_weights, values.shape[-1])
    # No matrix product: accelerators would round its factors.
    total = (values * jnp.broadcast_to(weights, values.shape)).sum(-1)
    return weighted_mean(total, weights.sum())


def check_not_negative(**options: float) -> None:
    """Raises ValueError for a number below 0 by its argument's name; JAX arrays go unchecked."""
    for name, value in options.items():
        if not isinstance(value, jax.Array) and not value >= 0:
            raise ValueError(f"{name} must not be negative, got {value}")


def _check_logits(logits: jax.Array) -> None:
    if not jnp.issubdtype(logits.dtype, jnp.floating):
        raise TypeError(f"logits must be floating point, got {logits.dtype}")
    if logits.ndim != 4 or logits.shape[-1] == 0:
        raise ValueError(f"logits must have shape [B, H, W, K] with K > 0, got {logits.shape}")


def _check_labels(labels: jax.Array, logits: jax.Array) -> None:
    if labels.dtype == jnp.bool_ and logits.shape[-1] != 1:
        raise TypeError(
            f"labels may be boolean only where logits have K = 1, got logits of shape "
            f"{logits.shape}"
        )
    if jnp.issubdtype(labels.dtype, jnp.floating):
        kind, wanted = "probabilities [B, H, W, K]", logits.shape
    elif labels.dtype == jnp.bool_ or jnp.issubdtype(labels.dtype, jnp.integer):
        kind, wanted = "class ids [B, H, W]", logits.shape[:3]
    else:
        raise TypeError(f"labels must be class ids or probabilities, got {labels.dtype}")
    if labels.shape != wanted:
        raise ValueError(
            f"labels of dtype {labels.dtype} are {kind}, and their shape {labels.shape} does not "
            f"fit logits of shape {logits.shape}"
        )


def _check_where(where: jax.Array, logits: jax.Array) -> None:
    if where.dtype != jnp.bool_:
        raise TypeError(f"where must be boolean, got {where.dtype}")
    if where.shape != logits.shape[:3]:
        raise ValueError(
            f"where has shape {where.shape}, which does not fit logits of shape {logits.shape}"
        )


def _as_int32(labels: jax.Array, num_classes: int) -> jax.Array:
    """Ids that int32 cannot hold stay outside the classes rather than wrap into them."""
    if labels.dtype.itemsize > 4:
        labels = jnp.minimum(labels, num_classes)
        if jnp.issubdtype(labels.dtype, jnp.signedinteger):
            labels = jnp.maximum(labels, -1)
    return labels.astype(jnp.int32)
