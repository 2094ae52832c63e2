"""Segmentation losses: pure functions ``loss(logits, labels, *, where=None)``, one value per image.

``logits`` are ``[B, H, W, K]`` in any floating dtype; ``K == 1`` is binary, ``K > 1`` one class per
channel. ``labels`` are ``[B, H, W]`` class ids or ``[B, H, W, K]`` probabilities. Only pixels where
``where`` is True count: an image without any costs 0. A counted label that is none of the classes
makes that image's value NaN. Sums run in float32.

``pooled=True`` gives one value for the global batch: over all devices where the arrays are sharded
under `jax.jit`, and with ``axis_name`` under `jax.pmap`. There every device holds the same value,
and the batch's gradient is the mean, not the sum, of the devices' gradients. Rows that pad a batch
must not count: clear their ``where``.
"""

from jaxseg.losses.composition import combine, deep_supervision
from jaxseg.losses.distance import boundary, hausdorff_dt
from jaxseg.losses.lovasz import lovasz_hinge, lovasz_softmax
from jaxseg.losses.overlap import (
    focal_tversky,
    generalized_dice,
    jaccard,
    log_cosh_dice,
    soft_dice,
    tversky,
)
from jaxseg.losses.pixelwise import cross_entropy, focal

__all__ = [
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
    "soft_dice",
    "tversky",
]
