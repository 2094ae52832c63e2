"""The Lovász extension of the Jaccard loss: hinge for binary problems, softmax for classes."""

import jax
import jax.numpy as jnp
from jaxtyping import Float32

from jaxseg.losses.inputs import (
    LossValue,
    Pixels,
    Targets,
    hardest_first,
    prepare,
    safe_divide,
)
from jaxseg.types import Logits, Where

PerClass = Float32[jax.Array, "*rows K"]


def lovasz_hinge(
    logits: Logits,
    labels: Targets,
    *,
    where: Where | None = None,
    multilabel: bool = False,
    pooled: bool = False,
) -> LossValue:
    r"""Lovász hinge: a convex surrogate of the Jaccard loss of the foreground.

    With errors :math:`m_i = \max(0, 1 - x_i)` on the foreground and :math:`\max(0, 1 + x_i)` on the
    background, in descending order, :math:`\sum_i m_i (J_i - J_{i-1})`, where :math:`J_i` is the
    Jaccard loss of a prediction that is wrong on the first i pixels only.

    Berman et al., "The Lovász-Softmax loss", 2018; Yu and Blaschko, "Learning submodular losses
    with the Lovász hinge", 2015. K = 1 agrees with segmentation_models_pytorch's binary
    `LovaszLoss` (``per_image=True``; its default is ``pooled=True`` here). Its "multilabel" mode
    takes all channels as one image; here each channel has its own loss. Pixels of equal error may
    be in any order, which affects the gradient only.

    See `jaxseg.losses` for the arguments that all losses take, the result and the errors. Labels
    are 0 and 1. Float labels need ``multilabel=True``, and other values than 0 and 1 give NaN.

    Returns:
        At least 0. For an empty mask it is the largest error.
    """
    pixels = prepare(logits, labels, where, multilabel=multilabel, pooled=pooled, only_ids=True)
    if not pixels.binary:
        raise ValueError(
            f"lovasz_hinge needs logits with K = 1 or multilabel=True, got shape {logits.shape}. "
            f"Use lovasz_softmax for several classes."
        )
    errors = jax.nn.relu(1 + jnp.where(pixels.targets > 0, -pixels.logits, pixels.logits))
    losses, _ = _lovasz(errors, pixels.targets, pixels)
    return pixels.nan_if_invalid(losses.mean(-1))


def lovasz_softmax(
    logits: Logits,
    labels: Targets,
    *,
    where: Where | None = None,
    pooled: bool = False,
) -> LossValue:
    r"""Lovász-softmax: the Lovász extension of the Jaccard loss, mean over classes present.

    For class k the errors are :math:`|t_{ik} - p_{ik}|` in descending order, and the loss is
    :math:`\sum_i e_i (J_i - J_{i-1})` as in `lovasz_hinge`. The mean is over the classes that
    occur in the valid pixels.

    Berman et al., "The Lovász-Softmax loss", 2018. Agrees with segmentation_models_pytorch's
    multiclass `LovaszLoss` (``per_image=True``; its default is ``pooled=True`` here). The classes
    of K = 1 are background and foreground with probabilities ``1 - p`` and ``p``. Pixels of equal
    error may be in any order, which affects the gradient only.

    See `jaxseg.losses` for the arguments that all losses take, the result and the errors.
    Labels are class ids.

    Returns:
        In [0, 1].
    """
    pixels = prepare(logits, labels, where, multilabel=False, pooled=pooled, only_ids=True)
    p, t = pixels.probabilities(), pixels.targets
    if pixels.binary:
        p, t = jnp.concatenate([1 - p, p], 1), jnp.concatenate([1 - t, t], 1)
    losses, sizes = _lovasz(jnp.abs(t - p), t, pixels)
    present = (sizes > 0).astype(jnp.float32)
    return pixels.nan_if_invalid(safe_divide((losses * present).sum(-1), present.sum(-1)))


def _lovasz(
    errors: Float32[jax.Array, "B K N"], targets: Float32[jax.Array, "B K N"], pixels: Pixels
) -> tuple[PerClass, PerClass]:
    """The Lovász extension of each class's Jaccard loss, and the weight of its pixels.

    Equals ``sum_i e_i (J_i - J_(i-1))``, with the differences in closed form: they are too small
    to subtract in float32.
    """
    weights = jnp.broadcast_to(pixels.weights[:, None], errors.shape)
    errors, positive, negative = hardest_first(
        pixels, errors, targets * weights, (1 - targets) * weights
    )
    size = positive.sum(-1, keepdims=True)
    # Sums over the pixels that turned wrong so far.
    missed, added = jnp.cumsum(positive, -1), jnp.cumsum(negative, -1)
    added_before = jnp.pad(added[..., :-1], ((0, 0), (0, 0), (1, 0)))
    union_before, union = size + added_before, size + added
    increments = safe_divide(positive, union_before) + safe_divide(
        size - missed, union_before
    ) * safe_divide(negative, union)
    # Without positive pixels the Jaccard loss is 1 from the first wrong pixel on.
    first = (added_before == 0) & (negative > 0)
    increments = jnp.where(size > 0, increments, first.astype(jnp.float32))
    losses, sizes = (errors * increments).sum(-1), size[..., 0]
    return (losses[0], sizes[0]) if pixels.pooled else (losses, sizes)
