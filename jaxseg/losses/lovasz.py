"""The Lovász extension of the Jaccard loss: hinge for two classes, softmax for any number.

The value is a weighted sum of the pixels' errors. A pixel's weight is what it adds to the Jaccard
loss when pixels turn wrong in the order of falling error, so all that is needed is the order.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float32, Int32

from jaxseg.losses import channels
from jaxseg.losses.pixels import (
    Cost,
    Pixels,
    Pooling,
    Targets,
    class_probabilities,
    class_targets,
    labels_fit,
    ratio,
    read_pixels,
    read_pooling,
)
from jaxseg.types import Logits, Where


def lovasz_hinge(
    logits: Logits,
    labels: Targets,
    *,
    where: Where | None = None,
    pooled: bool = False,
    axis_name: str | None = None,
) -> Cost:
    r"""Lovász hinge: a convex surrogate of the Jaccard loss of the foreground.

    With errors :math:`m_i = \max(0, 1 - x_i)` on the foreground and :math:`\max(0, 1 + x_i)` off
    it, sorted to fall, :math:`\sum_i m_i (J_i - J_{i-1})`, where :math:`J_i` is the Jaccard loss
    of a prediction that is wrong on the first i pixels only.

    Berman et al., "The Lovász-Softmax loss", 2018; Yu and Blaschko, "Learning submodular losses
    with the Lovász hinge", 2015. Agrees with segmentation_models_pytorch's binary `LovaszLoss`
    (``per_image=True``; its default is ``pooled=True`` here). Pixels of equal error and label
    share their slope equally, where sorting gives them different ones.

    Args:
      logits: ``[B, H, W, 1]`` floating point.
      labels: ``[B, H, W]``, 0 and 1 or boolean.
      where: ``[B, H, W]`` bool, the pixels that count.
      pooled: One ordering of all pixels of the global batch instead of one for each image.
      axis_name: The mapped axis that ``pooled`` also runs over, under `jax.pmap`.

    Returns:
      ``[B]`` float32 (a scalar with ``pooled``), at least 0; without foreground it is the largest
      error. 0 where no pixel counts, NaN where a counted label is neither 0 nor 1.

    Raises:
      TypeError: Wrong dtypes; probabilities as labels.
      ValueError: Shapes that do not go together, or more than one logit channel.
    """
    pooling = read_pooling(pooled, axis_name)
    pixels = read_pixels(logits, labels, where)
    _check_class_ids(pixels)
    if pixels.logits.ndim != 3:
        raise ValueError(
            f"lovasz_hinge needs logits with K = 1, got shape {pixels.logits.shape}; "
            f"lovasz_softmax takes several classes"
        )
    foreground = pixels.labels == 1
    errors = jnp.maximum(1 + jnp.where(foreground, -pixels.logits, pixels.logits), 0)
    costs, _ = _lovasz_by_class(errors[..., None], foreground[..., None], pixels, pooling)
    return pooling.close(costs[..., 0], labels_fit(pixels))


def lovasz_softmax(
    logits: Logits,
    labels: Targets,
    *,
    where: Where | None = None,
    pooled: bool = False,
    axis_name: str | None = None,
) -> Cost:
    r"""Lovász-softmax: the Lovász extension of the Jaccard loss of each class, averaged.

    For class k the errors are :math:`|t_{ik} - p_{ik}|`, sorted to fall, and the loss is
    :math:`\sum_i e_i (J_i - J_{i-1})` as in `lovasz_hinge`. The mean runs over the classes that
    the counted labels hold.

    Berman et al., "The Lovász-Softmax loss", 2018. Agrees with segmentation_models_pytorch's
    multiclass `LovaszLoss` (``per_image=True``; its default is ``pooled=True`` here). A single
    channel is taken as background and foreground with probabilities ``1 - p`` and ``p``.

    Args:
      logits: ``[B, H, W, K]`` floating point.
      labels: ``[B, H, W]`` class ids.
      where: ``[B, H, W]`` bool, the pixels that count.
      pooled: One ordering of all pixels of the global batch instead of one for each image.
      axis_name: The mapped axis that ``pooled`` also runs over, under `jax.pmap`.

    Returns:
      ``[B]`` float32 (a scalar with ``pooled``) in [0, 1]. 0 where no pixel counts, NaN where a
      counted label is none of the classes.

    Raises:
      TypeError: Wrong dtypes; probabilities as labels.
      ValueError: Shapes that do not go together.
    """
    pooling = read_pooling(pooled, axis_name)
    pixels = read_pixels(logits, labels, where)
    _check_class_ids(pixels)
    targets = class_targets(pixels)
    errors = jnp.abs(targets - class_probabilities(pixels))
    if errors.ndim == 3:
        errors, targets = jnp.stack([errors, errors], -1), jnp.stack([1 - targets, targets], -1)
    costs, sizes = _lovasz_by_class(errors, targets > 0, pixels, pooling)
    present = (sizes > 0).astype(jnp.float32)
    cost = ratio((costs * present).sum(-1), present.sum(-1))
    return pooling.close(cost, labels_fit(pixels))


def _check_class_ids(pixels: Pixels) -> None:
    if jnp.issubdtype(pixels.labels.dtype, jnp.floating):
        raise TypeError("labels must be class ids here, got probabilities")


def _lovasz_by_class(
    errors: Float32[jax.Array, "B H W classes"],
    positive: Bool[jax.Array, "B H W classes"],
    pixels: Pixels,
    pooling: Pooling,
) -> tuple[Float32[jax.Array, "*rows classes"], Float32[jax.Array, "*rows classes"]]:
    """The extension for each class, and its number of positive pixels."""
    # Errors of 0 come last in the order, and what comes last changes nothing before it.
    errors = channels.keep(errors, pixels.where)
    positive = channels.keep(positive, pixels.where)
    batch, classes = errors.shape[0], errors.shape[-1]
    errors = jnp.moveaxis(errors.reshape(batch, -1, classes), 2, 0)
    positive = jnp.moveaxis(positive.reshape(batch, -1, classes), 2, 0)
    # Class after class, because sorting needs many times the memory of what it sorts.
    slopes = jax.lax.map(
        lambda rows: _slopes(rows[0], rows[1], pooling), (jax.lax.stop_gradient(errors), positive)
    )
    sizes = positive.sum(-1, dtype=jnp.float32)
    return pooling((errors * slopes).sum(-1).T), pooling(sizes.T)


def _slopes(
    errors: Float32[jax.Array, "B N"], positive: Bool[jax.Array, "B N"], pooling: Pooling
) -> Float32[jax.Array, "B N"]:
    """What each pixel adds to the Jaccard loss in the order of falling error.

    Pixels of equal error and label share equally what they add together.
    """
    # Error and label in one integer, because a single int32 is what sorts fast: without its sign
    # bit the bits of a float that is not negative order as the float does, which leaves room for
    # the label; flipping all but the top bit makes the order signed and falling.
    bits = jax.lax.bitcast_convert_type(errors, jnp.int32)
    keys = ((bits << 1) | positive.astype(jnp.int32)) ^ jnp.int32(0x7FFFFFFF)
    if not pooling.pooled:
        return _slopes_of_rows(keys)
    if pooling.axis_name is None:
        return _slopes_of_rows(keys.reshape(1, -1)).reshape(keys.shape)
    everyones = jax.lax.all_gather(keys, pooling.axis_name)
    slopes = _slopes_of_rows(everyones.reshape(1, -1)).reshape(everyones.shape)
    return slopes[jax.lax.axis_index(pooling.axis_name)]


def _slopes_of_rows(keys: Int32[jax.Array, "rows N"]) -> Float32[jax.Array, "rows N"]:
    return jax.lax.platform_dependent(keys, tpu=_slopes_by_sorting, default=_slopes_by_search)


def _slopes_by_search(keys: Int32[jax.Array, "rows N"]) -> Float32[jax.Array, "rows N"]:
    """Sorts the keys and looks each pixel's own up: a search is cheaper than sorting indices."""
    ordered = jax.lax.sort(keys)
    # At the first of a run of equal keys, which is the one looked up, the run starts.
    slopes = _slopes_in_order(ordered, jax.lax.broadcasted_iota(jnp.int32, keys.shape, 1))
    first = _first_position(ordered, keys)
    return jnp.take_along_axis(slopes, first, -1, mode="promise_in_bounds")


def _first_position(
    ordered: Int32[jax.Array, "rows N"], keys: Int32[jax.Array, "rows N"]
) -> Int32[jax.Array, "rows N"]:
    """How many keys come before each; `jnp.searchsorted` takes over twice as long."""
    power = (ordered.shape[-1] - 1).bit_length()
    last = jnp.iinfo(jnp.int32).max
    padding = 2**power - ordered.shape[-1]
    padded = jnp.pad(ordered, ((0, 0), (0, padding)), constant_values=last)

    def halve(step: jax.Array, before: jax.Array) -> jax.Array:
        more = before + (1 << (power - 1 - step))
        probe = jnp.take_along_axis(padded, more - 1, -1, mode="promise_in_bounds")
        return jnp.where(probe < keys, more, before)

    return jax.lax.fori_loop(0, power, halve, jnp.zeros_like(keys))


def _slopes_by_sorting(keys: Int32[jax.Array, "rows N"]) -> Float32[jax.Array, "rows N"]:
    """Sorts there and back again: where random access is slow and sorting is not."""
    position = jax.lax.broadcasted_iota(jnp.int32, keys.shape, 1)
    ordered, index = jax.lax.sort((keys, position), num_keys=1)
    is_first = jnp.concatenate(
        [jnp.ones_like(ordered[..., :1], bool), ordered[..., 1:] != ordered[..., :-1]], -1
    )
    start = jax.lax.cummax(jnp.where(is_first, position, 0), axis=1)
    return jax.lax.sort((index, _slopes_in_order(ordered, start)), num_keys=1)[1]


def _slopes_in_order(
    ordered: Int32[jax.Array, "rows N"], start: Int32[jax.Array, "rows N"]
) -> Float32[jax.Array, "rows N"]:
    """Slopes of keys in order, each in the run of equal keys that begins at its ``start``."""
    positive = (~ordered) & 1
    position = jax.lax.broadcasted_iota(jnp.int32, ordered.shape, 1)
    is_last = jnp.concatenate(
        [ordered[..., 1:] != ordered[..., :-1], jnp.ones_like(ordered[..., :1], bool)], -1
    )
    end = jax.lax.cummin(jnp.where(is_last, position + 1, ordered.shape[1]), axis=1, reverse=True)
    # Positives that turn wrong before the run does, and negatives.
    passed = jnp.cumsum(positive, -1) - positive - positive * (position - start)
    total = positive.sum(-1, keepdims=True).astype(jnp.float32)
    missed = (start - passed).astype(jnp.float32)
    union = jnp.maximum(total + missed, 1)
    length = (end - start).astype(jnp.float32)
    negative_slope = (total - passed.astype(jnp.float32)) / (union * (union + length))
    # Without a positive pixel the first run makes the loss 1 and no other adds to it.
    alone = jnp.where(start == 0, 1 / length, 0)
    return jnp.where(positive == 1, 1 / union, jnp.where(total > 0, negative_slope, alone))
