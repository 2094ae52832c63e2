"""What the surface functions refuse, while they are traced."""

from collections.abc import Sequence
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Num

from jaxseg.types import Array

Spacing = Sequence[float | int] | Num[Array, "*#B 2"]
"""Distance of neighbouring rows and of neighbouring columns."""

Convention = Literal["monai", "surface-distance"]
"""The tool whose boundaries, lengths and percentiles are taken: see `jaxseg.surface.scores`."""


def check_mask(name: str, mask: Bool[Array, "*B H W"]) -> None:
    """Refuses what is not boolean, has no two axes, or no pixel."""
    if mask.dtype != np.bool_:
        raise TypeError(
            f"{name} must be a boolean mask, got {mask.dtype} of shape {mask.shape}; "
            "of labels take (labels == class_id), of logits (logits > 0)"
        )
    if mask.ndim < 2 or 0 in mask.shape[-2:]:
        raise ValueError(f"{name} must be [..., H, W] with at least one pixel, got {mask.shape}")


def check_pair(predicted: Bool[Array, "B H W"], actual: Bool[Array, "B H W"]) -> None:
    """Refuses two masks that are no boolean [B, H, W] of one shape."""
    for name, mask in (("predicted", predicted), ("actual", actual)):
        check_mask(name, mask)
    if predicted.shape != actual.shape or predicted.ndim != 3:
        raise ValueError(
            "predicted and actual must both be [B, H, W] of one shape, "
            f"got {predicted.shape} and {actual.shape}"
        )


def spacing_pairs(spacing: Spacing, lead: tuple[int, ...]) -> Float[jax.Array, "*B 2"]:
    """One float32 pair per mask; the values are checked unless they are only traced."""
    if not isinstance(spacing, jax.Array):
        spacing = np.asarray(spacing, np.float32)
        if not (np.isfinite(spacing).all() and (spacing > 0).all()):
            raise ValueError(f"spacing must be positive and finite, got {spacing.tolist()}")
    if spacing.shape != (2,) and spacing.shape != (*lead, 2):
        raise ValueError(
            f"spacing must be a (rows, columns) pair or one pair per mask, {(*lead, 2)}, "
            f"got shape {spacing.shape}"
        )
    pairs = jnp.asarray(spacing, jnp.float32)
    if pairs.ndim == 1:
        pairs = pairs.reshape((1,) * len(lead) + (2,))
    return jnp.broadcast_to(pairs, (*lead, 2))


def check_percentile(percentile: float | int) -> None:
    """Refuses what is not from 0 to 100."""
    if not 0 <= percentile <= 100:
        raise ValueError(f"percentile must be from 0 to 100, got {percentile}")


def check_tolerance(tolerance: float | int) -> None:
    """Refuses a negative, infinite or undefined tolerance."""
    if not 0 <= tolerance < float("inf"):
        raise ValueError(f"tolerance must be at least 0 and finite, got {tolerance}")


def check_convention(convention: str) -> None:
    """Refuses any but the two."""
    if convention not in get_args(Convention):
        raise ValueError(f"convention must be one of {get_args(Convention)}, got {convention!r}")
