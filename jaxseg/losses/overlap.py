"""Losses that are functions of overlaps: Dice, Jaccard, Tversky, their variants, and Matthews.

They use the same soft counts of each class: ``tp``, the sum of ``min(p, t)``; ``fp``, the excess of
``p`` over ``t``; ``fn``, the excess of ``t`` over ``p``. For class ids these are the sums of
``p t``, ``p (1 - t)`` and ``(1 - p) t``. For probabilities as labels they keep the minimum of the
losses at ``p = t``, which the products do not (Wang et al., "Dice semimetric losses", 2023). A loss
is computed as the fraction that is wrong, because one minus the fraction that is right would lose
digits of small values.
"""

# ruff: noqa: D417 - the package docstring describes the arguments that all losses have.

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float32

from jaxseg.losses.inputs import (
    ClassWeights,
    LossValue,
    Number,
    Pixels,
    Targets,
    check_number,
    floored_divide,
    mean_over_classes,
    prepare,
    read_class_weights,
)
from jaxseg.types import Logits, Where

PerClass = Float32[jax.Array, "*rows K"]


class Overlap(NamedTuple):
    """Soft counts of each class, per image or over the batch."""

    tp: PerClass
    fp: PerClass
    fn: PerClass


def soft_dice(
    logits: Logits,
    labels: Targets,
    *,
    where: Where | None = None,
    multilabel: bool = False,
    smooth: Number = 1.0,
    class_weights: ClassWeights = None,
    pooled: bool = False,
) -> LossValue:
    r"""Soft Dice loss: one minus the Dice coefficient of probabilities, mean over classes.

    .. math:: 1 - \frac{2 tp + s}{2 tp + fp + fn + s}

    Milletari et al., "V-Net", 2016, without the squares. On class ids it agrees with MONAI's
    `DiceLoss` at ``smooth=1e-5`` (its ``batch=True`` is ``pooled=True`` here, its ``sigmoid=True``
    is ``multilabel=True``); on probabilities with its ``soft_label=True``. Agrees with
    segmentation_models_pytorch's `DiceLoss` at ``smooth=0, pooled=True`` if all classes are
    present: there an absent class has loss 0 and smoothing counts twice, as in
    `optax.losses.dice_loss`.

    See `jaxseg.losses` for the arguments that all losses take, the result and the errors.

    Args:
        smooth: s, in pixels, at least 0. It gives an empty mask a gradient towards an empty
            prediction; with 0 there is none.

    Returns:
        In [0, 1]. An empty mask has loss ``fp / (fp + s)``.

    Examples:
        >>> import numpy as np
        >>> from jaxseg import losses
        >>> logits = np.array([2.0, -2.0, 0.0, 9.0], np.float32).reshape(1, 2, 2, 1)
        >>> labels = np.array([1, 0, 1, 1]).reshape(1, 2, 2)

        >>> print(np.asarray(losses.soft_dice(logits, labels)).round(3))
        [0.114]
    """
    pixels = prepare(logits, labels, where, multilabel=multilabel, pooled=pooled)
    return pixels.nan_if_invalid(mean_over_classes(_dice_losses(pixels, smooth), class_weights))


def jaccard(
    logits: Logits,
    labels: Targets,
    *,
    where: Where | None = None,
    multilabel: bool = False,
    smooth: Number = 1.0,
    class_weights: ClassWeights = None,
    pooled: bool = False,
) -> LossValue:
    r"""Jaccard loss: one minus the soft intersection over union, mean over classes.

    .. math:: 1 - \frac{tp + s}{tp + fp + fn + s}

    Rahman and Wang, "Optimizing intersection-over-union in deep neural networks", 2016. On class
    ids it agrees with MONAI's ``DiceLoss(jaccard=True)``, whose smoothing acts as half (``2e-5``
    there is ``smooth=1e-5`` here), and with segmentation_models_pytorch's `JaccardLoss` at
    ``pooled=True`` if all classes are present: there an absent class has loss 0.

    See `jaxseg.losses` for the arguments that all losses take, the result and the errors.

    Args:
        smooth: s, in pixels, at least 0.

    Returns:
        In [0, 1]. An empty mask has loss ``fp / (fp + s)``.
    """
    pixels = prepare(logits, labels, where, multilabel=multilabel, pooled=pooled)
    losses = _tversky_losses(pixels, 1.0, 1.0, smooth)
    return pixels.nan_if_invalid(mean_over_classes(losses, class_weights))


def tversky(
    logits: Logits,
    labels: Targets,
    *,
    where: Where | None = None,
    multilabel: bool = False,
    alpha: Number = 0.3,
    beta: Number = 0.7,
    smooth: Number = 1.0,
    class_weights: ClassWeights = None,
    pooled: bool = False,
) -> LossValue:
    r"""Tversky loss: overlap with separate weights for false positives and negatives.

    .. math:: 1 - \frac{tp + s}{tp + \alpha fp + \beta fn + s}

    Salehi et al., "Tversky loss function for image segmentation using 3D fully convolutional deep
    networks", 2017; the defaults are its best values. ``alpha = beta = 0.5`` is Dice with twice the
    smoothing, ``1`` is Jaccard. Agrees with MONAI's `TverskyLoss` on class ids, on probabilities
    with its ``soft_label=True``; and with segmentation_models_pytorch's on class ids at
    ``pooled=True`` if all classes are present: there an absent class has loss 0.

    See `jaxseg.losses` for the arguments that all losses take, the result and the errors.

    Args:
        alpha: Weight of false positives, at least 0.
        beta: Weight of false negatives, at least 0.
        smooth: s, in pixels, at least 0.

    Returns:
        In [0, 1]. An empty mask has loss ``alpha fp / (alpha fp + s)``.
    """
    pixels = prepare(logits, labels, where, multilabel=multilabel, pooled=pooled)
    losses = _tversky_losses(pixels, alpha, beta, smooth)
    return pixels.nan_if_invalid(mean_over_classes(losses, class_weights))


def focal_tversky(
    logits: Logits,
    labels: Targets,
    *,
    where: Where | None = None,
    multilabel: bool = False,
    alpha: Number = 0.3,
    beta: Number = 0.7,
    gamma: Number = 0.75,
    smooth: Number = 1.0,
    class_weights: ClassWeights = None,
    pooled: bool = False,
) -> LossValue:
    r"""Focal Tversky loss: the Tversky loss of each class to a power, mean over classes.

    .. math:: \Big(1 - \frac{tp + s}{tp + \alpha fp + \beta fn + s}\Big)^\gamma

    Abraham and Khan, "A novel focal Tversky loss function with improved attention U-Net for lesion
    segmentation", 2019; the paper writes the exponent as :math:`1 / \gamma` with
    :math:`\gamma = 4/3`. On class ids and K = 1 it agrees with segmentation_models_pytorch's
    ``TverskyLoss(gamma=...)`` at ``pooled=True``; for K > 1 that raises the mean over classes, not
    each class.

    See `jaxseg.losses` for the arguments that all losses take, the result and the errors.

    Args:
        alpha: Weight of false positives, at least 0.
        beta: Weight of false negatives, at least 0.
        gamma: The exponent, at least 0. If it is below 1 the gradient grows as the loss falls, down
            to a Tversky loss of 1e-10.
        smooth: s, in pixels, at least 0.

    Returns:
        In [0, 1]. An empty mask has loss ``(alpha fp / (alpha fp + s)) ** gamma``.
    """
    gamma = check_number("gamma", gamma)
    pixels = prepare(logits, labels, where, multilabel=multilabel, pooled=pooled)
    losses = _tversky_losses(pixels, alpha, beta, smooth)
    # Linear below the floor: for gamma < 1 the power has no finite derivatives at 0.
    powers = losses * jnp.maximum(losses, 1e-10) ** (gamma - 1)
    return pixels.nan_if_invalid(mean_over_classes(powers, class_weights))


def generalized_dice(
    logits: Logits,
    labels: Targets,
    *,
    where: Where | None = None,
    multilabel: bool = False,
    smooth: Number = 1.0,
    class_weights: ClassWeights = None,
    pooled: bool = False,
) -> LossValue:
    r"""Generalized Dice loss: one Dice over all classes, weighted by inverse squared size.

    .. math:: 1 - \frac{2 \sum_k w_k tp_k + s}{\sum_k w_k (2 tp_k + fp_k + fn_k) + s}, \quad
       w_k = c_k \frac{\min_j T_j^2}{T_k^2}

    :math:`T_k` is the number of pixels of class k and :math:`c_k` its class weight. The minimum is
    over the classes that are present and have a weight above 0. An absent class has the weight of
    the smallest class present. The classes of K = 1 are background and foreground, as in the paper.
    With ``multilabel=True`` and K > 1 the classes are the foregrounds of all channels.

    Sudre et al., "Generalised Dice overlap as a deep learning loss function for highly unbalanced
    segmentations", 2017. Agrees with MONAI's `GeneralizedDiceLoss` for K > 1 at ``smooth=0`` on
    class ids, on probabilities with its ``soft_label=True``. MONAI does not scale the weights, so
    that its smoothing of 1e-5 acts as ``1e-5 * min(T)^2`` pixels. Its ``include_background=False``
    is ``class_weights=(0, 1, ...)`` here. MONAI treats a single channel as one class, whose weight
    cancels. ``class_weights=(0, 1)`` with K = 1 does the same, and equals `soft_dice`.
    `optax.losses.multiclass_generalized_dice_loss` is a weighted mean of one Dice per class
    instead.

    See `jaxseg.losses` for the arguments that all losses take, the result and the errors.

    Args:
        smooth: s, in pixels of the smallest class present, at least 0.
        class_weights: One weight >= 0 per class, by default 1: two for K = 1, (background,
            foreground); with ``multilabel=True`` one per channel if K > 1.

    Returns:
        In [0, 1]; 0 if all class weights are 0. If all classes are absent (``multilabel=True``) it
        is ``fp / (fp + s)``.
    """
    pixels = prepare(logits, labels, where, multilabel=multilabel, pooled=pooled)
    tp, fp, fn = _overlap(pixels)
    if tp.shape[-1] == 1:
        # Background: its true positives are the rest, and errors change sides.
        tn = pixels.sum_of_weights() - tp - fp - fn
        tp, fp, fn = (jnp.concatenate(pair, -1) for pair in [(tn, tp), (fn, fp), (fp, fn)])
    class_weights = jnp.broadcast_to(read_class_weights(class_weights, tp.shape[-1]), tp.shape)
    sizes = tp + fn
    present = (sizes > 0) & (class_weights > 0)
    smallest = jnp.where(present, sizes, jnp.inf).min(-1, keepdims=True)
    weights = jnp.where(present, jnp.square(smallest / jnp.where(present, sizes, 1.0)), 1.0)
    weights *= class_weights
    wrong, right = (weights * (fp + fn)).sum(-1), (weights * tp).sum(-1)
    return pixels.nan_if_invalid(
        floored_divide(wrong, 2 * right + wrong + check_number("smooth", smooth))
    )


def log_cosh_dice(
    logits: Logits,
    labels: Targets,
    *,
    where: Where | None = None,
    multilabel: bool = False,
    smooth: Number = 1.0,
    class_weights: ClassWeights = None,
    pooled: bool = False,
) -> LossValue:
    r"""Log-cosh Dice loss: :math:`\log \cosh` of `soft_dice`; its gradient shrinks with the loss.

    Jadon, "A survey of loss functions for semantic segmentation", 2020. Other libraries do not have
    it. The function is applied to the mean over classes. It agrees with ``log(cosh(.))`` of MONAI's
    `DiceLoss` where `soft_dice` does.

    See `jaxseg.losses` for the arguments that all losses take, the result and the errors.

    Args:
        smooth: As in `soft_dice`.

    Returns:
        In [0, log cosh 1 = 0.434].
    """
    pixels = prepare(logits, labels, where, multilabel=multilabel, pooled=pooled)
    dice = mean_over_classes(_dice_losses(pixels, smooth), class_weights)
    # cosh x - 1 = 2 sinh(x / 2)^2 keeps the digits of a small x.
    return pixels.nan_if_invalid(jnp.log1p(2 * jnp.square(jnp.sinh(dice / 2))))


def matthews(
    logits: Logits,
    labels: Targets,
    *,
    where: Where | None = None,
    multilabel: bool = False,
    smooth: Number = 1.0,
    class_weights: ClassWeights = None,
    pooled: bool = False,
) -> LossValue:
    r"""Matthews loss: one minus the Matthews correlation coefficient, mean over classes.

    .. math:: 1 - \frac{tp\,tn - fp\,fn}{\sqrt{(tp + fp)(tp + fn)(tn + fp)(tn + fn)}}

    The smoothing s is added to tp and tn, so that a correct prediction has loss 0 for any mask. tn
    is the sum of ``1 - max(p, t)``.

    Abhishek and Hamarneh, "Matthews correlation coefficient loss for deep convolutional networks",
    2021. At ``smooth=0`` it agrees with MONAI's `MCCLoss` (``batch=True`` is ``pooled=True`` here)
    on class ids, if no class has all or none of the pixels: there MONAI's loss is 1, or 0 if no
    pixel is wrong. segmentation_models_pytorch's `MCCLoss` is pooled, takes probabilities, and adds
    1e-5 to all four counts, so that its loss of an empty mask without errors is 0.5.

    See `jaxseg.losses` for the arguments that all losses take, the result and the errors.

    Args:
        smooth: s, in pixels, at least 0. Below 1e-5 it acts as 1e-5, which keeps derivatives
            finite.

    Returns:
        In [0, 2]; 1 without correlation. An empty mask of N pixels has loss
        ``1 - sqrt(s (tn + s) / ((fp + s) (N + s)))``.
    """
    smooth = jnp.maximum(check_number("smooth", smooth), 1e-5)
    pixels = prepare(logits, labels, where, multilabel=multilabel, pooled=pooled)
    tp, fp, fn = _overlap(pixels)
    tn = pixels.sum(1 - pixels.targets) - fp
    # Rounding may make a count negative.
    tp, fp, fn, tn = (jax.nn.relu(count) for count in (tp, fp, fn, tn))
    tp, tn = tp + smooth, tn + smooth
    scale = jnp.sqrt((tp + fp) * (tp + fn)) * jnp.sqrt((tn + fp) * (tn + fn))
    # Logarithms of scale / (tp tn) keep the digits of a small loss.
    log_ratio = sum(jnp.log1p(wrong / right) for wrong in (fp, fn) for right in (tp, tn)) / 2
    losses = fp * fn / scale - jnp.expm1(-log_ratio)
    return pixels.nan_if_invalid(mean_over_classes(losses, class_weights))


def _overlap(pixels: Pixels) -> Overlap:
    """False positives and negatives are half the sum and difference of two sums of errors."""
    errors = pixels.probabilities() - pixels.targets
    total, net = pixels.sum(jnp.abs(errors)), pixels.sum(errors)
    fp, fn = (total + net) / 2, (total - net) / 2
    return Overlap(pixels.sum(pixels.targets) - fn, fp, fn)


def _dice_losses(pixels: Pixels, smooth: Number) -> PerClass:
    tp, fp, fn = _overlap(pixels)
    return floored_divide(fp + fn, 2 * tp + fp + fn + check_number("smooth", smooth))


def _tversky_losses(pixels: Pixels, alpha: Number, beta: Number, smooth: Number) -> PerClass:
    tp, fp, fn = _overlap(pixels)
    wrong = check_number("alpha", alpha) * fp + check_number("beta", beta) * fn
    return floored_divide(wrong, tp + wrong + check_number("smooth", smooth))
