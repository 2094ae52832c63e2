"""Losses that are a mean over pixels: cross entropy, of all or the hardest pixels, and focal."""

# ruff: noqa: D417 - the package docstring describes the arguments that all losses have.

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32

from jaxseg.losses.inputs import (
    ClassWeights,
    LossValue,
    Number,
    Pixels,
    Targets,
    check_number,
    hardest_first,
    prepare,
    read_class_weights,
    safe_divide,
    sum_over_classes,
)
from jaxseg.types import Logits, Where


class Classes(NamedTuple):
    """Probabilities of a group of classes.

    A softmax has one group of K classes. A binary problem has two groups, background and
    foreground, with one class for each channel.

    Attributes:
        targets: Probability of each class in the labels.
        log_p: Log of its predicted probability p.
        one_minus_p: ``1 - p``.
    """

    targets: Float32[jax.Array, "B K N"]
    log_p: Float32[jax.Array, "B K N"]
    one_minus_p: Float32[jax.Array, "B K N"]


def cross_entropy(
    logits: Logits,
    labels: Targets,
    *,
    where: Where | None = None,
    multilabel: bool = False,
    class_weights: ClassWeights = None,
    label_smoothing: Number = 0.0,
    pooled: bool = False,
) -> LossValue:
    r"""Cross entropy, the mean over valid pixels.

    With :math:`t'_k = (1 - \epsilon) t_k + \epsilon / C` over C classes (two for a binary problem)
    and class weights w,

    .. math:: \frac{-\sum_i \sum_k w_k t'_{ik} \log p_{ik}}{\sum_i \sum_k w_k t_{ik}}

    Agrees with `torch.nn.functional.cross_entropy` (``pooled=True`` with its "mean"), weights and
    smoothing included; torch divides by the plain number of pixels if labels are probabilities. For
    K = 1 or ``multilabel=True`` without weights it is
    `torch.nn.functional.binary_cross_entropy_with_logits`, whose ``pos_weight`` also divides by the
    plain number. Label smoothing: Szegedy et al., "Rethinking the Inception Architecture for
    Computer Vision", 2016.

    See `jaxseg.losses` for the arguments that all losses take, the result and the errors.

    Args:
        class_weights: One weight >= 0 per class: two for K = 1, (background, foreground); with
            ``multilabel=True`` one per channel.
        label_smoothing: :math:`\epsilon` in [0, 1].

    Returns:
        At least 0; 0 if all valid pixels have a class of weight 0.

    Examples:
        >>> import numpy as np
        >>> from jaxseg import losses
        >>> logits = np.array([2.0, -2.0, 0.0, 9.0], np.float32).reshape(1, 2, 2, 1)
        >>> labels = np.array([1, 0, 1, 1]).reshape(1, 2, 2)

        >>> print(np.asarray(losses.cross_entropy(logits, labels)).round(3))
        [0.237]
        >>> print(np.asarray(losses.cross_entropy(logits, labels, where=labels == 0)).round(3))
        [0.127]
    """
    epsilon = check_number("label_smoothing", label_smoothing, most=1.0)
    pixels = prepare(logits, labels, where, multilabel=multilabel, pooled=pooled)
    groups = _class_groups(pixels)
    num_classes = 2 if pixels.binary else logits.shape[-1]
    if multilabel:
        weights = [read_class_weights(class_weights, logits.shape[-1])] * 2
    else:
        weights = jnp.split(read_class_weights(class_weights, num_classes), len(groups))
    total = weight = jnp.zeros((), jnp.float32)  # Of all groups of classes.
    for (targets, log_p, _), w in zip(groups, weights, strict=True):
        smoothed = (1 - epsilon) * targets + epsilon / num_classes
        total += sum_over_classes(pixels.sum(-smoothed * log_p), w)
        weight += sum_over_classes(pixels.sum(targets), w)
    if class_weights is None:
        weight = _denominator(pixels)
    return pixels.nan_if_invalid(safe_divide(total, weight))


def top_k_cross_entropy(
    logits: Logits,
    labels: Targets,
    *,
    where: Where | None = None,
    multilabel: bool = False,
    fraction: Number = 0.1,
    pooled: bool = False,
) -> LossValue:
    r"""Top-k cross entropy: the mean over the pixels with the largest cross entropy.

    The mean of :math:`-\sum_k t_k \log p_k` over the given fraction of the valid pixels. If that
    fraction is no whole number of pixels, part of the next pixel counts. A pixel of weight w counts
    as w pixels.

    Wu et al., "Bridging category-level and instance-level semantic image segmentation", 2016, where
    it is called online bootstrapping; also known as online hard example mining. With
    ``pooled=True`` it agrees with nnU-Net's `TopKLoss` (``k=10`` is ``fraction=0.1`` here) where
    the fraction is a whole number of pixels; nnU-Net rounds it down.

    See `jaxseg.losses` for the arguments that all losses take, the result and the errors.

    Args:
        fraction: Of the valid pixels, above 0 and at most 1; 1 is `cross_entropy`.

    Returns:
        At least the `cross_entropy`. Pixels of equal loss may be in any order, which affects the
        gradient only.
    """
    if not isinstance(fraction, jax.Array) and not fraction > 0:
        raise ValueError(f"fraction must be above 0, got {fraction}")
    fraction = check_number("fraction", fraction, most=1.0)
    pixels = prepare(logits, labels, where, multilabel=multilabel, pooled=pooled)
    losses = sum(-targets * log_p for targets, log_p, _ in _class_groups(pixels))
    losses = jnp.asarray(losses) if multilabel else jnp.sum(losses, 1, keepdims=True)
    weights = jnp.broadcast_to(pixels.weights[:, None], losses.shape)
    losses, weights = hardest_first(pixels, losses, weights)
    most = fraction * weights.sum(-1, keepdims=True)
    before = jnp.cumsum(weights, -1) - weights
    counted = jnp.clip(most - before, 0.0, weights)
    means = safe_divide((losses * counted).sum(-1), most[..., 0]).mean(-1)
    return pixels.nan_if_invalid(means[0] if pooled else means)


def focal(
    logits: Logits,
    labels: Targets,
    *,
    where: Where | None = None,
    multilabel: bool = False,
    gamma: Number = 2.0,
    alpha: Number | ClassWeights = None,
    pooled: bool = False,
) -> LossValue:
    r"""Focal loss: cross entropy with a smaller weight on confident, correct pixels.

    The mean over valid pixels of :math:`-\sum_k \alpha_k t_k (1 - p_k)^\gamma \log p_k`. The
    classes of K = 1 are background and foreground.

    Lin et al., "Focal loss for dense object detection", 2017. On class ids, K = 1 agrees with
    MONAI's and segmentation_models_pytorch's `FocalLoss` and `optax.losses.sigmoid_focal_loss`; K >
    1 is K times MONAI's ``FocalLoss(use_softmax=True)``, which also takes the mean over classes.
    segmentation_models_pytorch treats K > 1 as K sigmoids. With ``multilabel=True`` and labels 0
    and 1 it agrees with MONAI's default and segmentation_models_pytorch's "multilabel" mode. On
    probabilities the libraries differ from each other; this is the expectation over the label.

    See `jaxseg.losses` for the arguments that all losses take, the result and the errors.

    Args:
        gamma: The exponent, at least 0; 0 is cross entropy.
        alpha: Class weights; the sum is not divided by them. Either one number in [0, 1] (Python,
            NumPy or JAX), the weight of every class but the first, which has one minus it. Or one
            weight >= 0 per class: two for K = 1, (background, foreground). With ``multilabel=True``
            one per channel for its foreground, while its background has weight 1, as in MONAI.

    Returns:
        At least 0.

    Examples:
        >>> import numpy as np
        >>> from jaxseg import losses
        >>> logits = np.array([2.0, -2.0, 0.0, 9.0], np.float32).reshape(1, 2, 2, 1)
        >>> labels = np.array([1, 0, 1, 1]).reshape(1, 2, 2)

        >>> print(np.asarray(losses.focal(logits, labels, gamma=2.0)).round(3))
        [0.044]
    """
    gamma = check_number("gamma", gamma)
    pixels = prepare(logits, labels, where, multilabel=multilabel, pooled=pooled)
    groups = _class_groups(pixels)
    weights = _read_alpha(alpha, logits.shape[-1], multilabel)
    total = jnp.zeros((), jnp.float32)
    for (targets, log_p, one_minus_p), w in zip(groups, weights, strict=True):
        # The addend keeps derivatives of the power finite. Where it matters, the loss is almost 0.
        modulation = (one_minus_p + 1e-12) ** gamma
        total += sum_over_classes(pixels.sum(-targets * modulation * log_p), w)
    return pixels.nan_if_invalid(safe_divide(total, _denominator(pixels)))


def _class_groups(pixels: Pixels) -> list[Classes]:
    """Background and foreground of binary problems, or all classes of a softmax."""
    logits, targets = pixels.logits, pixels.targets
    if pixels.binary:
        return [
            Classes(1 - targets, jax.nn.log_sigmoid(-logits), jax.nn.sigmoid(logits)),
            Classes(targets, jax.nn.log_sigmoid(logits), jax.nn.sigmoid(-logits)),
        ]
    log_p = jax.nn.log_softmax(logits, axis=1)
    # By rounding, the exponential can be above 1.
    return [Classes(targets, log_p, jax.nn.relu(1 - jnp.exp(log_p)))]


def _denominator(pixels: Pixels) -> Float32[jax.Array, "*rows"]:
    """Sum of the pixels' weights, once for every channel of a multilabel loss."""
    problems = pixels.logits.shape[1] if pixels.multilabel else 1
    return problems * pixels.sum_of_weights()[..., 0]


def _read_alpha(alpha: Any, channels: int, multilabel: bool) -> list[Float32[jax.Array, "_"]]:
    """The class weights of each group."""
    num_classes = 2 if multilabel else max(channels, 2)
    if alpha is not None and not isinstance(alpha, Sequence) and np.ndim(alpha) == 0:
        alpha = check_number("alpha", alpha, most=1.0)
        weights = jnp.stack([1 - alpha, *[alpha] * (num_classes - 1)])
    elif multilabel:
        foreground = read_class_weights(alpha, channels, name="alpha")
        return [jnp.ones_like(foreground), foreground]
    else:
        weights = read_class_weights(alpha, num_classes, name="alpha")
    return jnp.split(weights, 2 if multilabel or channels == 1 else 1)
