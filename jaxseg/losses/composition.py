"""Losses made of losses: weighted sums, and one loss on several depths of a network."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxseg.losses.pixels import Cost, Targets
from jaxseg.types import Array, Logits, Where

Loss = Callable[..., jax.Array]
"""``loss(logits, labels, *, where=None, **options)``, ``[B]`` or a scalar."""


def combine(losses: Mapping[Loss, float]) -> Loss:
    """Makes a loss that is a weighted sum of losses.

    ``combine({cross_entropy: 1.0, soft_dice: 0.5})`` is called as its terms are. Options of one
    term go in with `functools.partial`; options of the call (``pooled``, ``axis_name``) go to
    every term.

    Args:
      losses: The weight of each loss.

    Returns:
      ``combined(logits, labels, *, where=None, **options)``, what the terms return: ``[B]``
      float32, or a scalar where all are pooled. It raises ValueError where some are and some are
      not; every loss of this package can be pooled.

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
    ) -> Cost:
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


def deep_supervision(loss: Loss, *, weights: Sequence[float] | None = None) -> Loss:
    """Makes a loss on the logits of several depths of a network, finest first.

    Labels and ``where`` are brought to each depth's size by taking the pixel nearest to each
    centre, and the depths' losses are added with ``weights``.

    Lee et al., "Deeply-supervised nets", 2015. Agrees with MONAI's `DeepSupervisionLoss`, whose
    default weights do not fall below 1/16.

    Args:
      loss: The loss at each depth.
      weights: One per depth; 1, 1/2, 1/4 and so on by default.

    Returns:
      ``supervised(logits, labels, *, where=None, **options)``, where ``logits`` is a sequence of
      ``[B, H_d, W_d, K]`` and the labels have any one size. It raises ValueError where the depths
      and the weights differ in number.
    """

    def supervised(
        logits: Sequence[Float[Array, "B _ _ K"]],
        labels: Targets,
        *,
        where: Where | None = None,
        **options: Any,
    ) -> Cost:
        shares = [0.5**depth for depth in range(len(logits))] if weights is None else weights
        if len(logits) != len(shares) or not logits:
            raise ValueError(
                f"deep_supervision has {len(shares)} weights for {len(logits)} depths of logits"
            )
        values = [
            share
            * loss(
                level,
                _resize_nearest(labels, level),
                where=None if where is None else _resize_nearest(where, level),
                **options,
            )
            for share, level in zip(shares, logits, strict=True)
        ]
        return sum(values[1:], start=values[0])

    return supervised


def _resize_nearest(pixels: Array, like: Array) -> jax.Array:
    """The pixel nearest to the centre of each pixel of ``like``."""
    rows, columns = (
        ((np.arange(like.shape[axis]) + 0.5) * (pixels.shape[axis] / like.shape[axis])).astype(int)
        for axis in (1, 2)
    )
    return jnp.asarray(pixels)[:, rows[:, None], columns[None, :]]
