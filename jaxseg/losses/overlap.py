"""Losses that are ratios of overlaps: Dice, Jaccard, Tversky and their kin.

All of them read the same soft counts of each class: ``tp``, the sum of ``min(p, t)``; ``fp``, of
what ``p`` has above ``t``; ``fn``, of what ``t`` has above ``p``. For class ids these are the sums
of ``p t``, ``p (1 - t)`` and ``(1 - p) t``; for probabilities as labels they keep the losses at
their minimum where ``p = t``, which the products do not (Wang et al., "Dice semimetric losses",
2023). Every loss is written as wrong over all, not as one minus right over all, so that small
values keep their precision.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float32

from jaxseg.losses import channels
from jaxseg.losses.pixels import (
    ClassWeights,
    Cost,
    Pixels,
    Pooling,
    Targets,
    check_not_negative,
    class_sizes,
    count_pixels,
    mean_over_classes,
    ratio,
    read_pixels,
    read_pooling,
)
from jaxseg.types import Logits, Where


class Overlap(NamedTuple):
    """Soft counts of every class, per image or over the global batch; ``size`` is the labels'."""

    size: Float32[jax.Array, "*rows K"]
    fp: Float32[jax.Array, "*rows K"]
    fn: Float32[jax.Array, "*rows K"]

    @property
    def tp(self) -> Float32[jax.Array, "*rows K"]:
        """What the prediction does not miss."""
        return self.size - self.fn


def soft_dice(
    logits: Logits,
    labels: Targets,
    *,
    where: Where | None = None,
    smooth: float = 1.0,
    class_weights: ClassWeights = None,
    pooled: bool = False,
    axis_name: str | None = None,
) -> Cost:
    r"""Soft Dice loss: one minus the Dice coefficient of probabilities, averaged over classes.

    .. math:: 1 - \frac{2 tp + s}{2 tp + fp + fn + s}

    Milletari et al., "V-Net", 2016, without the squares. Agrees with MONAI's `DiceLoss` at
    ``smooth=1e-5`` (its ``batch=True`` is ``pooled=True`` here), and with
    segmentation_models_pytorch's `DiceLoss` at ``smooth=0, pooled=True`` and all classes present:
    it costs an absent class 0, and its own smoothing counts twice. So does that of
    `optax.losses.dice_loss`.

    Args:
      logits: ``[B, H, W, K]`` floating point.
      labels: ``[B, H, W]`` class ids, or ``[B, H, W, K]`` probabilities in [0, 1].
      where: ``[B, H, W]`` bool, the pixels that count.
      smooth: s, in pixels, not negative. It gives an empty mask a slope towards an empty
        prediction; with 0 there is none.
      class_weights: One per channel, not negative; 0 leaves a class out of the mean.
      pooled: Counts over the global batch instead of one loss for each image.
      axis_name: The mapped axis that ``pooled`` also runs over, under `jax.pmap`.

    Returns:
      ``[B]`` float32 (a scalar with ``pooled``) in [0, 1]. An empty mask costs
      ``fp / (fp + s)``; 0 where no pixel counts, NaN where a counted label is none of the
      classes.

    Raises:
      TypeError: Wrong dtypes.
      ValueError: Shapes that do not go together, or an option out of its range.

    Examples:
      >>> import numpy as np
      >>> from jaxseg import losses
      >>> logits = np.array([2.0, -2.0, 0.0, 9.0], np.float32).reshape(1, 2, 2, 1)
      >>> labels = np.array([1, 0, 1, 1]).reshape(1, 2, 2)

      >>> print(np.asarray(losses.soft_dice(logits, labels)).round(3))
      [0.114]
    """
    check_not_negative(smooth=smooth)
    pooling = read_pooling(pooled, axis_name)
    pixels = read_pixels(logits, labels, where)
    counts, fits = _overlap(pixels, pooling)
    wrong = counts.fp + counts.fn
    losses = ratio(wrong, 2 * counts.tp + wrong + smooth)
    return pooling.close(mean_over_classes(losses, class_weights), fits)


def jaccard(
    logits: Logits,
    labels: Targets,
    *,
    where: Where | None = None,
    smooth: float = 1.0,
    class_weights: ClassWeights = None,
    pooled: bool = False,
    axis_name: str | None = None,
) -> Cost:
    r"""Jaccard loss: one minus the soft intersection over union, averaged over classes.

    .. math:: 1 - \frac{tp + s}{tp + fp + fn + s}

    Rahman and Wang, "Optimizing intersection-over-union in deep neural networks", 2016. Agrees
    with MONAI's ``DiceLoss(jaccard=True)``, whose smoothing acts as half (``2e-5`` there is
    ``smooth=1e-5`` here), and with segmentation_models_pytorch's `JaccardLoss` at
    ``pooled=True`` and all classes present: it costs an absent class 0.

    Args:
      logits: ``[B, H, W, K]`` floating point.
      labels: ``[B, H, W]`` class ids, or ``[B, H, W, K]`` probabilities in [0, 1].
      where: ``[B, H, W]`` bool, the pixels that count.
      smooth: s, in pixels, not negative.
      class_weights: One per channel, not negative; 0 leaves a class out of the mean.
      pooled: Counts over the global batch instead of one loss for each image.
      axis_name: The mapped axis that ``pooled`` also runs over, under `jax.pmap`.

    Returns:
      ``[B]`` float32 (a scalar with ``pooled``) in [0, 1]. An empty mask costs
      ``fp / (fp + s)``; 0 where no pixel counts, NaN where a counted label is none of the
      classes.

    Raises:
      TypeError: Wrong dtypes.
      ValueError: Shapes that do not go together, or an option out of its range.
    """
    return tversky(
        logits,
        labels,
        where=where,
        alpha=1.0,
        beta=1.0,
        smooth=smooth,
        class_weights=class_weights,
        pooled=pooled,
        axis_name=axis_name,
    )


def tversky(
    logits: Logits,
    labels: Targets,
    *,
    where: Where | None = None,
    alpha: float = 0.3,
    beta: float = 0.7,
    smooth: float = 1.0,
    class_weights: ClassWeights = None,
    pooled: bool = False,
    axis_name: str | None = None,
) -> Cost:
    r"""Tversky loss: overlap with false positives and false negatives weighed apart.

    .. math:: 1 - \frac{tp + s}{tp + \alpha fp + \beta fn + s}

    Salehi et al., "Tversky loss function for image segmentation using 3D fully convolutional deep
    networks", 2017, whose best values are the defaults. ``alpha = beta = 0.5`` is Dice with twice
    the smoothing, ``1`` is Jaccard. Agrees with MONAI's `TverskyLoss`, and with
    segmentation_models_pytorch's at ``pooled=True`` and all classes present: it costs an absent
    class 0.

    Args:
      logits: ``[B, H, W, K]`` floating point.
      labels: ``[B, H, W]`` class ids, or ``[B, H, W, K]`` probabilities in [0, 1].
      where: ``[B, H, W]`` bool, the pixels that count.
      alpha: Weight of false positives, not negative.
      beta: Weight of false negatives, not negative.
      smooth: s, in pixels, not negative.
      class_weights: One per channel, not negative; 0 leaves a class out of the mean.
      pooled: Counts over the global batch instead of one loss for each image.
      axis_name: The mapped axis that ``pooled`` also runs over, under `jax.pmap`.

    Returns:
      ``[B]`` float32 (a scalar with ``pooled``) in [0, 1]. 0 where no pixel counts, NaN where a
      counted label is none of the classes.

    Raises:
      TypeError: Wrong dtypes.
      ValueError: Shapes that do not go together, or an option out of its range.
    """
    pooling = read_pooling(pooled, axis_name)
    pixels = read_pixels(logits, labels, where)
    losses, fits = _tversky_losses(pixels, pooling, alpha=alpha, beta=beta, smooth=smooth)
    return pooling.close(mean_over_classes(losses, class_weights), fits)


def focal_tversky(
    logits: Logits,
    labels: Targets,
    *,
    where: Where | None = None,
    alpha: float = 0.3,
    beta: float = 0.7,
    gamma: float = 0.75,
    smooth: float = 1.0,
    class_weights: ClassWeights = None,
    pooled: bool = False,
    axis_name: str | None = None,
) -> Cost:
    r"""Focal Tversky loss: the Tversky loss of each class, raised to a power.

    .. math:: \Big(1 - \frac{tp + s}{tp + \alpha fp + \beta fn + s}\Big)^\gamma

    Abraham and Khan, "A novel focal Tversky loss function with improved attention U-Net for
    lesion segmentation", 2019; the paper writes the exponent as :math:`1 / \gamma` with
    :math:`\gamma = 4/3`. Agrees with segmentation_models_pytorch's ``TverskyLoss(gamma=...)`` at
    ``pooled=True`` for a single channel; for several it raises the mean over classes, not each
    class.

    Args:
      logits: ``[B, H, W, K]`` floating point.
      labels: ``[B, H, W]`` class ids, or ``[B, H, W, K]`` probabilities in [0, 1].
      where: ``[B, H, W]`` bool, the pixels that count.
      alpha: Weight of false positives, not negative.
      beta: Weight of false negatives, not negative.
      gamma: The exponent, not negative. Below 1 the slope grows as the loss falls; at exactly 0,
        the minimum, it is taken as 0.
      smooth: s, in pixels, not negative.
      class_weights: One per channel, not negative; 0 leaves a class out of the mean.
      pooled: Counts over the global batch instead of one loss for each image.
      axis_name: The mapped axis that ``pooled`` also runs over, under `jax.pmap`.

    Returns:
      ``[B]`` float32 (a scalar with ``pooled``) in [0, 1]. 0 where no pixel counts, NaN where a
      counted label is none of the classes.

    Raises:
      TypeError: Wrong dtypes.
      ValueError: Shapes that do not go together, or an option out of its range.
    """
    check_not_negative(gamma=gamma)
    pooling = read_pooling(pooled, axis_name)
    pixels = read_pixels(logits, labels, where)
    losses, fits = _tversky_losses(pixels, pooling, alpha=alpha, beta=beta, smooth=smooth)
    # The power's slope at 0 is infinite for gamma < 1; the inner guard keeps it out of the product
    # that the outer one discards.
    positive = losses > jnp.finfo(jnp.float32).tiny
    powers = jnp.where(positive, jnp.where(positive, losses, 1) ** gamma, 0)
    return pooling.close(mean_over_classes(powers, class_weights), fits)


def generalized_dice(
    logits: Logits,
    labels: Targets,
    *,
    where: Where | None = None,
    smooth: float = 1.0,
    pooled: bool = False,
    axis_name: str | None = None,
) -> Cost:
    r"""Generalised Dice loss: one Dice over all classes, each weighed by its inverse size squared.

    .. math:: 1 - \frac{2 \sum_k w_k tp_k + s}{\sum_k w_k (2 tp_k + fp_k + fn_k) + s}, \quad
       w_k = \frac{\min_j T_j^2}{T_k^2}

    with :math:`T_k` the number of pixels of class k and the minimum over the classes present. An
    absent class weighs as much as the smallest one present. A single channel is taken as
    background and foreground, as in the paper.

    Sudre et al., "Generalised Dice overlap as a deep learning loss function for highly unbalanced
    segmentations", 2017. Agrees with MONAI's `GeneralizedDiceLoss` for two and more channels at
    ``smooth=0``; MONAI's weights are not scaled, so that its smoothing of 1e-5 acts as
    ``1e-5 * min(T)^2`` pixels. `optax.losses.multiclass_generalized_dice_loss` is another thing: a
    weighted mean of one Dice per class.

    Args:
      logits: ``[B, H, W, K]`` floating point.
      labels: ``[B, H, W]`` class ids, or ``[B, H, W, K]`` probabilities in [0, 1].
      where: ``[B, H, W]`` bool, the pixels that count.
      smooth: s, in pixels of the smallest class present, not negative.
      pooled: Counts and weights over the global batch instead of one loss for each image.
      axis_name: The mapped axis that ``pooled`` also runs over, under `jax.pmap`.

    Returns:
      ``[B]`` float32 (a scalar with ``pooled``) in [0, 1]. 0 where no pixel counts, NaN where a
      counted label is none of the classes.

    Raises:
      TypeError: Wrong dtypes.
      ValueError: Shapes that do not go together, or an option out of its range.
    """
    check_not_negative(smooth=smooth)
    pooling = read_pooling(pooled, axis_name)
    pixels = read_pixels(logits, labels, where)
    counts, fits = _overlap(pixels, pooling)
    if counts.size.shape[-1] == 1:
        # What the foreground wins the background loses.
        size, fp, fn = counts
        rest = pooling(count_pixels(pixels)) - size
        counts = Overlap(*(jnp.concatenate(p, -1) for p in [(rest, size), (fn, fp), (fp, fn)]))
    present = counts.size > 0
    smallest = jnp.where(present, counts.size, jnp.inf).min(-1, keepdims=True)
    weights = jnp.where(present, jnp.square(smallest / jnp.where(present, counts.size, 1)), 1)
    wrong = (weights * (counts.fp + counts.fn)).sum(-1)
    right = (weights * counts.tp).sum(-1)
    return pooling.close(ratio(wrong, 2 * right + wrong + smooth), fits)


def log_cosh_dice(
    logits: Logits,
    labels: Targets,
    *,
    where: Where | None = None,
    smooth: float = 1.0,
    class_weights: ClassWeights = None,
    pooled: bool = False,
    axis_name: str | None = None,
) -> Cost:
    r"""Log-cosh Dice loss: :math:`\log \cosh` of `soft_dice`, whose slope falls with the loss.

    Jadon, "A survey of loss functions for semantic segmentation", 2020. No peer has it; it agrees
    with ``log(cosh(.))`` of MONAI's `DiceLoss` as `soft_dice` does.

    Args:
      logits: ``[B, H, W, K]`` floating point.
      labels: ``[B, H, W]`` class ids, or ``[B, H, W, K]`` probabilities in [0, 1].
      where: ``[B, H, W]`` bool, the pixels that count.
      smooth: Of `soft_dice`, in pixels, not negative.
      class_weights: One per channel, not negative; 0 leaves a class out of the mean.
      pooled: Counts over the global batch instead of one loss for each image.
      axis_name: The mapped axis that ``pooled`` also runs over, under `jax.pmap`.

    Returns:
      ``[B]`` float32 (a scalar with ``pooled``) in [0, log cosh 1 = 0.434]. 0 where no pixel
      counts, NaN where a counted label is none of the classes.

    Raises:
      TypeError: Wrong dtypes.
      ValueError: Shapes that do not go together, or an option out of its range.
    """
    dice = soft_dice(
        logits,
        labels,
        where=where,
        smooth=smooth,
        class_weights=class_weights,
        pooled=pooled,
        axis_name=axis_name,
    )
    # cosh x - 1 = 2 sinh(x / 2)^2, which does not lose small x against 1.
    return jnp.log1p(2 * jnp.square(jnp.sinh(dice / 2)))


def _overlap(pixels: Pixels, pooling: Pooling) -> tuple[Overlap, Bool[jax.Array, "B"]]:
    """The counts, and whether each image's labels fit."""
    sizes, fits = class_sizes(pixels)
    fp, fn = channels.error_sums(*pixels)
    return Overlap(pooling(sizes), pooling(fp), pooling(fn)), fits


def _tversky_losses(
    pixels: Pixels, pooling: Pooling, *, alpha: float, beta: float, smooth: float
) -> tuple[Float32[jax.Array, "*rows K"], Bool[jax.Array, "B"]]:
    check_not_negative(alpha=alpha, beta=beta, smooth=smooth)
    counts, fits = _overlap(pixels, pooling)
    wrong = alpha * counts.fp + beta * counts.fn
    return ratio(wrong, counts.tp + wrong + smooth), fits
