"""Segmentation losses: pure functions ``loss(logits, labels, *, where=None)``.

All losses take these arguments:

- ``logits``: ``[B, *spatial, K]`` in any floating dtype, with any number of spatial axes
  (`boundary`, `hausdorff_dt` and `soft_cl_dice`: two). ``K == 1`` is binary (sigmoid), ``K > 1``
  has one class per channel (softmax). Infinite logits count as +-1e30.
- ``labels``: ``[B, *spatial]`` class ids, for ``K == 1`` also bool; or ``[B, *spatial, K]`` float,
  the probability of each channel's class.
- ``where``: ``[B, *spatial]``, the valid pixels as bool, or a float weight >= 0 of each pixel.
  Means divide by the sum of the weights, and counts of pixels are sums of weights. A pixel whose
  weight is not positive is invalid: what it holds, NaN included, changes no value or gradient.
- ``multilabel=True`` (all but `lovasz_softmax`): each channel is a binary problem (sigmoid).
  ``labels`` are ``[B, *spatial, K]`` of 0 and 1 (int, bool or float; float also probabilities).
  The loss is the mean over channels, unless its docstring says otherwise.
- ``class_weights``: one weight >= 0 per channel for the mean over classes; 0 leaves a class out.
- ``pooled=True``: one value for the global batch instead of one per image; sums and sorts run over
  the pixels of all images. Under `jax.jit` with sharded arrays this is over all devices. Under
  `jax.pmap` a loss sees the images of its device only.

Options that are numbers may be Python, NumPy or JAX numbers.

They return float32: ``[B]``, or a scalar with ``pooled=True``. An image without valid pixels has
loss 0. If a valid label is no class, or is not within 0.01 of [0, 1], the loss of that image (with
``pooled=True`` the loss) is NaN and its gradient 0. For other labels and finite logits, values,
gradients and Hessian-vector products are finite. Sums are float32.

They raise TypeError for a wrong dtype, and ValueError for shapes that do not match and for options
out of range. Values of JAX arrays are not checked.
"""

from jaxseg.losses.centerline import soft_cl_dice, soft_skeleton
from jaxseg.losses.class_weights import balanced_class_weights
from jaxseg.losses.composition import combine, deep_supervision
from jaxseg.losses.distance import boundary, hausdorff_dt
from jaxseg.losses.lovasz import lovasz_hinge, lovasz_softmax
from jaxseg.losses.overlap import (
    focal_tversky,
    generalized_dice,
    jaccard,
    log_cosh_dice,
    matthews,
    soft_dice,
    tversky,
)
from jaxseg.losses.pixelwise import cross_entropy, focal, top_k_cross_entropy

__all__ = [
    "balanced_class_weights",
    "boundary",
    "combine",
    "cross_entropy",
    "deep_supervision",
    "focal",
    "focal_tversky",
    "generalized_dice",
    "hausdorff_dt",
    "jaccard",
    "log_cosh_dice",
    "lovasz_hinge",
    "lovasz_softmax",
    "matthews",
    "soft_cl_dice",
    "soft_dice",
    "soft_skeleton",
    "top_k_cross_entropy",
    "tversky",
]
