"""Combined losses: weighted sums, and one loss on several depths of a network."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Shaped

from jaxseg.losses.inputs import LossValue, Targets
from jaxseg.types import Array, Logits, Where, narrowed

Loss = Callable[..., jax.Array]
"""``loss(logits, labels, *, where=None, **options)``, ``[B]`` or a scalar."""

DepthLogits = Sequence[Float[Array, "B *_ K"]]
"""Logits of several depths of a network, finest first."""


def combine(losses: Mapping[Loss, float]) -> Loss:
    """Makes a loss that is a weighted sum of losses.

    ``combine({cross_entropy: 1.0, soft_dice: 0.5})`` is called like its terms. Set options of one
    term with `functools.partial`; options of the call (``pooled``, ``multilabel``) go to every
    term.

    Args:
        losses: The weight of each loss.

    Returns:
        ``combined(logits, labels, *, where=None, **options)``, which returns what the terms
        return: ``[B]`` float32, or a scalar if all are pooled. It raises ValueError if some are
        pooled and some are not.

    Raises:
        ValueError: There is no loss.

    Examples:
        >>> import numpy as np
        >>> from jaxseg import losses
        >>> logits = np.array([2.0, -2.0, 0.0, 9.0], np.float32).reshape(1, 2, 2, 1)
        >>> labels = np.array([1, 0, 1, 1]).reshape(1, 2, 2)

        >>> loss = losses.combine({losses.cross_entropy: 1.0, losses.soft_dice: 0.5})
        >>> print(np.asarray(loss(logits, labels)).round(3))
        [0.294]
    """
    terms = tuple(losses.items())
    if not terms:
        raise ValueError("combine needs at least one loss, got none")

    def combined(
        logits: Logits, labels: Targets, *, where: Where | None = None, **options: Any
    ) -> LossValue:
        values = [loss(logits, labels, where=where, **options) for loss, _ in terms]
        shapes = [value.shape for value in values]
        if len(set(shapes)) > 1:
            raise ValueError(
                f"combine cannot add losses per image to pooled ones: they have shapes {shapes}"
            )
        return sum(
            (weight * value for (_, weight), value in zip(terms, values, strict=True)),
            start=jnp.zeros(shapes[0], jnp.float32),
        )

    names = (f"{getattr(loss, '__name__', repr(loss))}: {weight}" for loss, weight in terms)
    combined.__name__ = f"combine({{{', '.join(names)}}})"
    return combined


def deep_supervision(loss: Loss, weights: Sequence[float] | None = None) -> Loss:
    """Makes a loss on the logits of several depths of a network, finest first.

    Labels and ``where`` are resized to each depth by taking the pixel nearest to each center. The
    depths' losses are added with ``weights``. For one array of logits instead of a sequence, the
    result is the plain ``loss``, so that training and evaluation can use the same function.

    Lee et al., "Deeply-supervised nets", 2015. Agrees with MONAI's `DeepSupervisionLoss`, whose
    default weights do not fall below 1/16.

    Args:
        loss: The loss at each depth.
        weights: One per depth; by default 1, 1/2, 1/4 and so on.

    Returns:
        ``supervised(logits, labels, *, where=None, **options)``, where ``logits`` is a tuple or
        list of ``[B, *spatial_d, K]`` and labels have any one size. Options such as
        ``multilabel`` go to ``loss``. It raises ValueError if the numbers of depths and weights
        differ.
    """

    def supervised(
        logits: DepthLogits | Logits,
        labels: Shaped[Array, "B *fine"],
        *,
        where: Shaped[Array, "B *pixels"] | None = None,
        **options: Any,
    ) -> LossValue:
        if not isinstance(logits, Sequence):
            return loss(logits, labels, where=where, **options)
        factors = [0.5**depth for depth in range(len(logits))] if weights is None else weights
        if len(logits) != len(factors) or not logits:
            raise ValueError(
                f"deep_supervision has {len(factors)} weights for {len(logits)} depths of logits"
            )
        values = [
            factor
            * loss(
                depth,
                _resize_nearest(labels, depth.shape[1:-1]),
                where=None if where is None else _resize_nearest(where, depth.shape[1:-1]),
                **options,
            )
            for factor, depth in zip(factors, logits, strict=True)
        ]
        return sum(values[1:], start=values[0])

    return supervised


def _resize_nearest(pixels: Array, shape: tuple[int, ...]) -> jax.Array:
    """The pixel nearest to the center of each pixel of a grid of that shape."""
    pixels = jnp.asarray(narrowed(pixels))
    for axis, size in enumerate(shape, start=1):
        nearest = ((np.arange(size) + 0.5) * (pixels.shape[axis] / size)).astype(int)
        pixels = jnp.take(pixels, nearest, axis)
    return pixels
