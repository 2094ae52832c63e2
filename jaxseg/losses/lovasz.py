"""The Lovász extension of the Jaccard loss: hinge for two classes, softmax for any number.

The value is a weighted sum of the pixels' errors. A pixel's weight is what it adds to the Jaccard
loss when pixels turn wrong in the order of falling error, so all that is needed is the order.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float32, Int32

from jaxseg.losses.pixels import (
    Cost,
    Pixels,
    Pooling,
    Targets,
    class_probabilities,
    class_targets,
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
    if pixels.logits.shape[-1] != 1:
        raise ValueError(
            f"lovasz_hinge needs logits with K = 1, got shape {pixels.logits.shape}; "
            f"lovasz_softmax takes several classes"
        )
    signs = 2 * class_targets(pixels) - 1
    errors = jax.nn.relu(1 - pixels.logits * signs)
    cost, _ = _lovasz_by_class(errors, class_targets(pixels) > 0, pixels, pooling)
    return pooling.close(cost[..., 0], pixels)


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
    if targets.shape[-1] == 1:
        errors = jnp.concatenate([errors, errors], -1)
        targets = jnp.concatenate([1 - targets, targets], -1)
    costs, positives = _lovasz_by_class(errors, targets > 0, pixels, pooling)
    present = (positives > 0).astype(jnp.float32)
    cost = ratio((costs * present).sum(-1), present.sum(-1))
    return pooling.close(cost, pixels)


def _check_class_ids(pixels: Pixels) -> None:
    if pixels.labels.ndim == 4:
        raise TypeError("labels must be class ids here, got probabilities")


def _lovasz_by_class(
    errors: Float32[jax.Array, "B H W classes"],
    positive: Bool[jax.Array, "B H W classes"],
    pixels: Pixels,
    pooling: Pooling,
) -> tuple[jax.Array, jax.Array]:
    """The extension for each class and its number of positive pixels, both ``[..., classes]``."""
    if pixels.where is not None:
        # Errors of 0 come last in the order, and what comes last changes nothing before it.
        errors = jnp.where(pixels.where[..., None], errors, 0)
        positive = positive & pixels.where[..., None]
    batch, classes = errors.shape[0], errors.shape[-1]
    errors = jnp.moveaxis(errors.reshape(batch, -1, classes), 2, 1)
    positive = jnp.moveaxis(positive.reshape(batch, -1, classes), 2, 1)
    order_errors, order_positive = jax.lax.stop_gradient(errors), positive
    if pooling.pooled:
        order_errors = jnp.moveaxis(order_errors, 0, 1).reshape(1, classes, -1)
        order_positive = jnp.moveaxis(order_positive, 0, 1).reshape(1, classes, -1)
    if pooling.axis_name is not None:
        gather = functools.partial(
            jax.lax.all_gather, axis_name=pooling.axis_name, axis=2, tiled=True
        )
        order_errors, order_positive = gather(order_errors), gather(order_positive)
    weights = _jaccard_slopes(order_errors, order_positive)
    if pooling.axis_name is not None:
        own = weights.shape[-1] // jax.lax.axis_size(pooling.axis_name)
        weights = jax.lax.dynamic_slice_in_dim(
            weights, jax.lax.axis_index(pooling.axis_name) * own, own, axis=2
        )
    if pooling.pooled:
        weights = jnp.moveaxis(weights.reshape(classes, batch, -1), 0, 1)
    costs = pooling((errors * weights).sum(-1))
    return costs, pooling(positive.sum(-1, dtype=jnp.int32).astype(jnp.float32))


def _jaccard_slopes(
    errors: Float32[jax.Array, "*rows N"], positive: Bool[jax.Array, "*rows N"]
) -> Float32[jax.Array, "*rows N"]:
    """What each pixel adds to the Jaccard loss in the order of falling error.

    Pixels of equal error and label share equally what they add together.
    """
    # Error and label in one integer, because a single int32 is what sorts fast: without its sign
    # bit the bits of a float that is not negative order as the float does, which leaves room for
    # the label; flipping all but the top bit makes the order signed and falling.
    bits = jax.lax.bitcast_convert_type(errors, jnp.int32)
    keys = ((bits << 1) | positive.astype(jnp.int32)) ^ jnp.int32(0x7FFFFFFF)
    return jax.lax.platform_dependent(keys, tpu=_slopes_by_sorting, default=_slopes_by_search)


def _slopes_by_search(keys: Int32[jax.Array, "*rows N"]) -> Float32[jax.Array, "*rows N"]:
    """Sorts the keys and looks each pixel's own up: a search is cheaper than sorting indices."""
    size = keys.shape[-1]
    rows = keys.reshape(-1, size)
    ordered = jax.lax.sort(rows)
    slopes = _slopes_in_order(ordered)
    first = jax.vmap(functools.partial(jnp.searchsorted, side="left"))(ordered, rows)
    return jnp.take_along_axis(slopes, first, axis=-1).reshape(keys.shape)


def _slopes_by_sorting(keys: Int32[jax.Array, "*rows N"]) -> Float32[jax.Array, "*rows N"]:
    """Sorts there and back again: where random access is slow and sorting is not."""
    index = jax.lax.broadcasted_iota(jnp.int32, keys.shape, keys.ndim - 1)
    ordered, index = jax.lax.sort((keys, index), num_keys=1)
    return jax.lax.sort((index, _slopes_in_order(ordered)), num_keys=1)[1]


def _slopes_in_order(ordered: Int32[jax.Array, "*rows N"]) -> Float32[jax.Array, "*rows N"]:
    """Slopes of keys that are already in order."""
    axis = ordered.ndim - 1
    positive = (~ordered) & 1
    position = jax.lax.broadcasted_iota(jnp.int32, ordered.shape, axis)
    steps = ordered[..., 1:] != ordered[..., :-1]
    edge = jnp.ones_like(steps[..., :1], shape=(*ordered.shape[:-1], 1))
    # The run of equal keys around each position, from start up to end.
    start = jax.lax.cummax(jnp.where(jnp.concatenate([edge, steps], -1), position, 0), axis=axis)
    end = jax.lax.cummin(
        jnp.where(jnp.concatenate([steps, edge], -1), position + 1, ordered.shape[-1]),
        axis=axis,
        reverse=True,
    )
    positives = positive.sum(-1, keepdims=True)
    # Positives before the run. Within a run of negatives the count does not change.
    passed = jnp.cumsum(positive, -1) - positive
    passed = jnp.where(positive == 1, passed - (position - start), passed)
    total, hit = positives.astype(jnp.float32), passed.astype(jnp.float32)
    missed = (start - passed).astype(jnp.float32)
    length = (end - start).astype(jnp.float32)
    union = total + missed
    off = (total - hit) / (jnp.maximum(union, 1) * (union + length))
    # Without a positive pixel the first error makes the loss 1 and no other adds to it.
    alone = jnp.where(missed == 0, 1 / length, 0)
    return jnp.where(positive == 1, 1 / jnp.maximum(union, 1), jnp.where(total > 0, off, alone))
