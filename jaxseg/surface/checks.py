"""Argument checks of the surface functions. They run while a function is traced."""

from collections.abc import Sequence
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Num

from jaxseg.types import Array

Spacing = Sequence[float | int] | Num[Array, "*#B 2"]
"""Distance between neighboring rows and between neighboring columns."""

Convention = Literal["monai", "surface-distance"]
"""Definition of boundaries, weights and percentiles; see `jaxseg.surface`."""


def check_mask(name: str, mask: Bool[Array, "*B H W"]) -> None:
    """Raises unless the mask is boolean and has two axes and at least one pixel."""
    if mask.dtype != np.bool_:
        raise TypeError(
            f"{name} must be a boolean mask, got {mask.dtype} of shape {mask.shape}; "
            "use (labels == class_id) for labels and (logits > 0) for logits"
        )
    if mask.ndim < 2 or 0 in mask.shape[-2:]:
        raise ValueError(f"{name} must be [..., H, W] with at least one pixel, got {mask.shape}")


def check_arguments(
    predicted: Bool[Array, "B H W"],
    actual: Bool[Array, "B H W"],
    where: Bool[Array, "B H W"] | None,
    spacing: Spacing,
    convention: str,
) -> Float[jax.Array, "B 2"]:
    """Raises unless the masks and options can be used, and returns one spacing per mask."""
    for name, mask in (("predicted", predicted), ("actual", actual), ("where", where)):
        if mask is not None:
            check_mask(name, mask)
            if mask.shape != predicted.shape or mask.ndim != 3:
                raise ValueError(
                    f"predicted and {name} must both be [B, H, W] of one shape, "
                    f"got {predicted.shape} and {mask.shape}"
                )
    if convention not in get_args(Convention):
        raise ValueError(f"convention must be one of {get_args(Convention)}, got {convention!r}")
    return spacing_per_mask(spacing, predicted.shape[:1])


def spacing_per_mask(spacing: Spacing, batch: tuple[int, ...]) -> Float[jax.Array, "*B 2"]:
    """Returns one float32 (rows, columns) pair per mask. Only concrete values are checked."""
    if not isinstance(spacing, jax.Array):
        spacing = np.asarray(spacing, np.float32)
        if not (np.isfinite(spacing).all() and (spacing > 0).all()):
            raise ValueError(f"spacing must be positive and finite, got {spacing.tolist()}")
    if spacing.shape not in ((2,), (*batch, 2)):
        raise ValueError(
            f"spacing must be a (rows, columns) pair or one pair per mask, {(*batch, 2)}, "
            f"got shape {spacing.shape}"
        )
    pairs = jnp.asarray(spacing, jnp.float32)
    return pairs if pairs.shape == (*batch, 2) else jnp.tile(pairs, (*batch, 1))


def check_percentile(percentile: float | int) -> None:
    """Raises unless the percentile is from 0 to 100."""
    if not 0 <= percentile <= 100:
        raise ValueError(f"percentile must be from 0 to 100, got {percentile}")


def check_tolerance(tolerance: float | int, name: str = "tolerance") -> None:
    """Raises unless the tolerance is finite and at least 0."""
    if not 0 <= tolerance < float("inf"):
        raise ValueError(f"{name} must be at least 0 and finite, got {tolerance}")
