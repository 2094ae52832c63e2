"""What logits say of each pixel: its label, or the probability of every class."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Integer

from jaxseg.metrics.checks import checked_labels, checked_logits, checked_where
from jaxseg.metrics.pooling import sum_pixels
from jaxseg.types import Array, Logits, Where


def predicted_labels(logits: Logits) -> Integer[Array, "B H W"]:
    """The class that the logits favour: sigmoid above 0.5, or the largest of the softmax.

    Args:
        logits: ``[B, H, W, K]``, floating.

    Returns:
        int32 ``[B, H, W]``. ``K == 1``: 1 where the logit is above 0, else 0. ``K > 1``: the index
        of the largest logit, the first of equal ones. -1, which is no class, where a logit is NaN,
        so that a network that has diverged scores NaN and not 0.

    Raises:
        TypeError: the logits are not floating.
        ValueError: the shape is not ``[B, H, W, K]``.

    Examples:
        >>> import numpy as np
        >>> from jaxseg import metrics
        >>> logits = np.array([0.3, -0.3, np.nan], np.float32).reshape(1, 1, 3, 1)
        >>> metrics.predicted_labels(logits).tolist()
        [[[1, 0, -1]]]
    """
    logits = checked_logits(logits)
    if logits.shape[-1] == 1:
        labels = (logits[..., 0] > 0).astype(jnp.int32)
    else:
        labels = jnp.argmax(logits, axis=-1).astype(jnp.int32)
    return jnp.where(jnp.isnan(logits).any(axis=-1), -1, labels)


class Forecast(NamedTuple):
    """Probabilities beside what came true.

    Attributes:
        probabilities: float32 ``[B, H, W, K]``; 0 on pixels that are not counted.
        labels: int32 ``[B, H, W]``; one of the classes on every counted pixel.
        counted: bool ``[B, H, W]``: ``where``, less the pixels outside.
        outside: int32 ``[B]``: pixels in ``where`` whose label is no class or whose probability is
            NaN.
    """

    probabilities: jax.Array
    labels: jax.Array
    counted: jax.Array
    outside: jax.Array


def forecast(logits: Logits, labels: Integer[Array, "B H W"], where: Where | None) -> Forecast:
    """The checked arguments of a metric of probabilities, with the pixels that it may count.

    Args:
        logits: ``[B, H, W, K]`` floating; sigmoid for ``K == 1``, else softmax.
        labels: ``[B, H, W]`` integer class ids.
        where: ``[B, H, W]`` bool, True on the pixels that count.

    Returns:
        A Forecast in float32, whatever the dtype of the logits.

    Raises:
        TypeError: the logits are not floating, the labels not integer, ``where`` not bool.
        ValueError: the shapes do not fit.
    """
    logits = checked_logits(logits)
    shape, num_classes = logits.shape[:-1], logits.shape[-1]
    labels = checked_labels(
        "labels", labels, shape=shape, shape_of="logits", num_classes=num_classes
    )
    where = checked_where(where, shape=shape)
    logits = logits.astype(jnp.float32)
    probabilities = jax.nn.sigmoid(logits) if num_classes == 1 else jax.nn.softmax(logits, axis=-1)
    known = (labels >= 0) & (labels < max(num_classes, 2))
    known &= ~jnp.isnan(probabilities).any(axis=-1)
    counted = where & known
    return Forecast(
        probabilities=jnp.where(counted[..., None], probabilities, 0),
        labels=labels.astype(jnp.int32),
        counted=counted,
        outside=sum_pixels(where & ~known),
    )
