"""The centerline Dice (clDice) loss of vessels, roads and other thin structures, 2-D only."""

# ruff: noqa: D417 - the package docstring describes the arguments that all losses have.

import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Float32

from jaxseg.losses.inputs import (
    ClassWeights,
    LossValue,
    Number,
    Targets,
    check_number,
    floored_divide,
    mean_over_classes,
    prepare,
)
from jaxseg.types import Array, Logits, Where


def soft_cl_dice(
    logits: Logits,
    labels: Targets,
    *,
    where: Where | None = None,
    multilabel: bool = False,
    iterations: int = 3,
    smooth: Number = 1.0,
    class_weights: ClassWeights = None,
    pooled: bool = False,
) -> LossValue:
    r"""Soft clDice loss: one minus the centerline Dice of probabilities, 2-D only.

    With the soft skeletons :math:`S_p` and :math:`S_t` of probabilities and labels, the topology
    precision P and sensitivity S are

    .. math:: P = \frac{\sum_i S_{p,i} t_i + s}{\sum_i S_{p,i} + s}, \quad
       S = \frac{\sum_i S_{t,i} p_i + s}{\sum_i S_{t,i} + s}

    and the loss is :math:`1 - 2 P S / (P + S)`, mean over classes. For K > 1 the background is one
    of the classes; leave it out with ``class_weights=(0, 1, ...)``. The paper adds the loss to
    `soft_dice`: ``combine({soft_dice: 0.5, soft_cl_dice: 0.5})``.

    Shit et al., "clDice - a novel topology-preserving loss function for tubular structure
    segmentation", 2021. K = 1 agrees with MONAI's `SoftclDiceLoss`, which adds 1e-4 to ``P + S``.
    For K > 1 MONAI adds the sums of all classes before it divides.

    See `jaxseg.losses` for the arguments that all losses take, the result and the errors. The
    formula is for class ids: for probabilities as labels, the smallest loss is not at ``p = t``.

    Args:
        iterations: As in `soft_skeleton`.
        smooth: s, in pixels, at least 0.

    Returns:
        In [0, 1]. An empty mask has S = 1 and ``P = s / (sum of S_p + s)``.
    """
    smooth = check_number("smooth", smooth)
    pixels = prepare(logits, labels, where, multilabel=multilabel, pooled=pooled)
    shape = logits.shape[1:-1]
    if len(shape) != 2:
        raise ValueError(f"soft_cl_dice is for two spatial axes, got spatial shape {shape}")
    valid = (pixels.weights > 0).reshape(-1, 1, *shape)

    def outside(skeleton_of: jax.Array, mask: jax.Array) -> jax.Array:
        """The fraction of the skeleton that is outside of the other mask."""
        images = skeleton_of.reshape(*skeleton_of.shape[:2], *shape)
        skeleton = soft_skeleton(images, iterations=iterations, where=valid).reshape(mask.shape)
        wrong = pixels.sum(skeleton * jax.nn.relu(1 - mask))
        return floored_divide(wrong, pixels.sum(skeleton * mask) + wrong + smooth)

    p, t = pixels.probabilities(), pixels.targets
    a, b = outside(p, t), outside(t, p)
    # One minus the harmonic mean of 1 - a and 1 - b, without subtracting from one.
    losses = (a + b) / 2 + jnp.square(a - b) / (2 * jnp.maximum(2 - a - b, 1e-7))
    return pixels.nan_if_invalid(mean_over_classes(losses, class_weights))


def soft_skeleton(
    images: Float[Array, "*B H W"],
    *,
    iterations: int = 3,
    where: Bool[Array, "*#B H W"] | None = None,
) -> Float32[jax.Array, "*B H W"]:
    """Returns the soft skeleton: what opening removes from the image and from its erosions.

    Erosion is the minimum over a pixel and its four neighbors, dilation the maximum over 3 x 3
    pixels. Shit et al. 2021, algorithm 1. Agrees with MONAI's `soft_skel`.

    Args:
        images: ``[*B, H, W]`` in [0, 1] with any number of leading axes, such as probabilities.
        iterations: Number of erosions, at least 0. A structure whose radius in pixels is larger has
            no skeleton. The time is proportional to the number.
        where: bool, True on valid pixels. Invalid pixels are ignored, like pixels outside the
            image.

    Returns:
        float32 ``[*B, H, W]`` in [0, 1]; 0 on invalid pixels.

    Raises:
        ValueError: ``iterations`` is negative.
    """
    iterations = operator.index(iterations)
    if iterations < 0:
        raise ValueError(f"iterations must be at least 0, got {iterations}")
    images = jnp.asarray(images, jnp.float32)
    valid = jnp.ones_like(images, bool) if where is None else jnp.broadcast_to(where, images.shape)

    def erode(x: jax.Array) -> jax.Array:
        x = jnp.where(valid, x, jnp.inf)
        return jnp.where(valid, jnp.minimum(*(_over_three(x, jnp.minimum, a) for a in (-2, -1))), 0)

    def ridge(x: jax.Array) -> jax.Array:
        opened = jnp.where(valid, erode(x), -jnp.inf)
        opened = _over_three(_over_three(opened, jnp.maximum, -2), jnp.maximum, -1)
        return jnp.where(valid, jax.nn.relu(x - opened), 0)

    def step(_: Any, state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        eroded, skeleton = erode(state[0]), state[1]
        return eroded, skeleton + jax.nn.relu(ridge(eroded) * (1 - skeleton))

    return jax.lax.fori_loop(0, iterations, step, (images, ridge(images)))[1]


def _over_three(x: jax.Array, extreme: Callable[..., jax.Array], axis: int) -> jax.Array:
    """Minimum or maximum over a pixel and its two neighbors; equal ones share the gradient evenly.

    That is symmetric, and on CPU faster than the gradient of `jax.lax.reduce_window`.
    """
    absent = jnp.inf if extreme is jnp.minimum else -jnp.inf
    edge = jnp.full_like(jax.lax.slice_in_dim(x, 0, 1, axis=axis), absent)
    padded = jnp.concatenate([edge, x, edge], axis)
    before, after = (jax.lax.slice_in_dim(padded, i, i + x.shape[axis], axis=axis) for i in (0, 2))
    return extreme(x, extreme(before, after))
