"""Losses that are a mean over pixels: cross entropy and focal."""

import jax
import jax.numpy as jnp
from jaxtyping import Float32

from jaxseg.losses import channels
from jaxseg.losses.pixels import (
    ClassWeights,
    Cost,
    Pixels,
    Targets,
    check_not_negative,
    class_sizes,
    count_pixels,
    labels_fit,
    ratio,
    read_class_weights,
    read_pixels,
    read_pooling,
    sum_counted,
    weighted_mean,
)
from jaxseg.types import Logits, Where


def cross_entropy(
    logits: Logits,
    labels: Targets,
    *,
    where: Where | None = None,
    class_weights: ClassWeights = None,
    label_smoothing: float = 0.0,
    pooled: bool = False,
    axis_name: str | None = None,
) -> Cost:
    r"""Cross entropy, the mean over the pixels that count.

    With :math:`t'_k = (1 - \epsilon) t_k + \epsilon / C` over C classes (two for a single
    channel) and class weights w,

    .. math:: \frac{-\sum_i \sum_k w_k t'_{ik} \log p_{ik}}{\sum_i \sum_k w_k t_{ik}}

    Agrees with `torch.nn.functional.cross_entropy` (``pooled=True`` with its "mean"), weights and
    smoothing included; torch divides by the plain number of pixels where labels are
    probabilities. For a single channel without weights it is
    `torch.nn.functional.binary_cross_entropy_with_logits`, whose ``pos_weight`` also divides by
    the plain number of pixels. Label smoothing: Szegedy et al., "Rethinking the Inception
    Architecture for Computer Vision", 2016.

    Args:
      logits: ``[B, H, W, K]`` floating point.
      labels: ``[B, H, W]`` class ids, or ``[B, H, W, K]`` probabilities in [0, 1].
      where: ``[B, H, W]`` bool, the pixels that count.
      class_weights: One per class, not negative; (background, foreground) for a single channel.
      label_smoothing: :math:`\epsilon` in [0, 1].
      pooled: One mean over all pixels of the global batch instead of one for each image.
      axis_name: The mapped axis that ``pooled`` also runs over, under `jax.pmap`.

    Returns:
      ``[B]`` float32 (a scalar with ``pooled``), at least 0. 0 where no pixel counts or all that
      count have weight 0; NaN where a counted label is none of the classes.

    Raises:
      TypeError: Wrong dtypes.
      ValueError: Shapes that do not go together, or an option out of its range.

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
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing must be in [0, 1], got {label_smoothing}")
    pooling = read_pooling(pooled, axis_name)
    pixels = read_pixels(logits, labels, where)
    weights = read_class_weights(class_weights, pixels.num_classes)
    losses = channels.cross_entropies(
        pixels.logits,
        pixels.labels,
        (1 - label_smoothing) * weights,
        label_smoothing / pixels.num_classes * weights,
    )
    total = pooling(sum_counted(losses, pixels))
    if class_weights is None:
        weight, fits = count_pixels(pixels), labels_fit(pixels)
    else:
        sizes, fits = class_sizes(pixels)
        if sizes.shape[-1] == 1:
            sizes = jnp.concatenate([count_pixels(pixels) - sizes, sizes], -1)
        weight = (sizes * weights[None]).sum(-1, keepdims=True)
    return pooling.close(weighted_mean(total, pooling(weight))[..., 0], fits)


def focal(
    logits: Logits,
    labels: Targets,
    *,
    where: Where | None = None,
    gamma: float = 2.0,
    alpha: float | ClassWeights = None,
    pooled: bool = False,
    axis_name: str | None = None,
) -> Cost:
    r"""Focal loss: cross entropy that counts less where the prediction is already right.

    The mean over the counted pixels of
    :math:`-\sum_k \alpha_k t_k (1 - p_k)^\gamma \log p_k`, with background and foreground as the
    classes of a single channel.

    Lin et al., "Focal loss for dense object detection", 2017. For class ids a single channel
    agrees with MONAI's and segmentation_models_pytorch's `FocalLoss` and with
    `optax.losses.sigmoid_focal_loss`; several agree with MONAI's ``FocalLoss(use_softmax=True)``
    times K, because MONAI also takes the mean over classes. segmentation_models_pytorch takes
    several channels as that many sigmoids. For probabilities the three differ from one another;
    this is the expectation over the label.

    Args:
      logits: ``[B, H, W, K]`` floating point.
      labels: ``[B, H, W]`` class ids, or ``[B, H, W, K]`` probabilities in [0, 1].
      where: ``[B, H, W]`` bool, the pixels that count.
      gamma: How much less the sure pixels count, not negative; 0 is cross entropy.
      alpha: One weight per class, (background, foreground) for a single channel; or one number
        in [0, 1], for every class but the first, which takes one minus it. The sum is not
        divided by the weights.
      pooled: One mean over all pixels of the global batch instead of one for each image.
      axis_name: The mapped axis that ``pooled`` also runs over, under `jax.pmap`.

    Returns:
      ``[B]`` float32 (a scalar with ``pooled``), at least 0. 0 where no pixel counts, NaN where a
      counted label is none of the classes.

    Raises:
      TypeError: Wrong dtypes.
      ValueError: Shapes that do not go together, or an option out of its range.

    Examples:
      >>> import numpy as np
      >>> from jaxseg import losses
      >>> logits = np.array([2.0, -2.0, 0.0, 9.0], np.float32).reshape(1, 2, 2, 1)
      >>> labels = np.array([1, 0, 1, 1]).reshape(1, 2, 2)

      >>> print(np.asarray(losses.focal(logits, labels, gamma=2.0)).round(3))
      [0.044]
    """
    check_not_negative(gamma=gamma)
    pooling = read_pooling(pooled, axis_name)
    pixels = read_pixels(logits, labels, where)
    alphas = _read_alpha(alpha, pixels.num_classes)
    total = pooling(sum_counted(_focal_losses(pixels, alphas, gamma), pixels))
    cost = ratio(total, pooling(count_pixels(pixels)))[..., 0]
    return pooling.close(cost, labels_fit(pixels))


def _focal_losses(
    pixels: Pixels, alphas: Float32[jax.Array, "classes"], gamma: float
) -> Float32[jax.Array, "B H W"]:
    none = jnp.zeros_like(alphas)
    shares = channels.shares_of(pixels.labels, alphas, none)
    if jnp.issubdtype(pixels.labels.dtype, jnp.integer):
        # Only the labelled class counts, so that one power does for all.
        surprise = channels.cross_entropies(*pixels[:2], jnp.ones_like(alphas), none)
        if pixels.logits.ndim == 3:
            # 1 - p is the other class's probability, and logits are differences of logs.
            log_doubt = jnp.where(pixels.labels == 1, -pixels.logits, pixels.logits) - surprise
        else:
            log_doubt = _log_doubt(surprise)
        losses = channels.add_planes(shares) * jnp.exp(gamma * log_doubt) * surprise
    else:
        losses = channels.add_planes(
            share * jnp.exp(gamma * _log_doubt(surprise)) * surprise
            for share, surprise in channels.paired(shares, channels.surprises(pixels.logits))
        )
    return channels.materialize(losses)


def _log_doubt(surprise: Float32[jax.Array, "B H W"]) -> Float32[jax.Array, "B H W"]:
    """``log(1 - p)`` from ``-log p``, with a floor that keeps its slope finite at ``p = 1``."""
    return jnp.log(jnp.maximum(-jnp.expm1(-surprise), jnp.finfo(jnp.float32).tiny))


def _read_alpha(alpha: float | ClassWeights, num_classes: int) -> Float32[jax.Array, "classes"]:
    if isinstance(alpha, int | float):
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha must be in [0, 1], got {alpha}")
        alpha = [1.0 - alpha] + [float(alpha)] * (num_classes - 1)
    return read_class_weights(alpha, num_classes, name="alpha")
