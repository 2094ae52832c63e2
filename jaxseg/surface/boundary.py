"""Boundaries of masks in the two conventions that `jaxseg.surface` describes."""

from functools import reduce
from operator import and_, or_, xor
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from jaxseg.surface.checks import Convention
from jaxseg.surface.packed import PackedMask, pack, shift_down, shift_left, shift_right, shift_up
from jaxseg.types import Array

Mask = Bool[Array, "B H W"]


class ContourShape(NamedTuple):
    """Shape of the contour at each pixel corner, as packed masks.

    A corner with two diagonally opposite True pixels has none of these shapes. The contour there
    is as long as a pixel diagonal.
    """

    half_diagonal: PackedMask
    """One or three of the four pixels around the corner are True."""
    horizontal: PackedMask
    """The two upper pixels are equal. ``half_diagonal`` takes precedence."""
    vertical: PackedMask
    """The two left pixels are equal. ``half_diagonal`` takes precedence."""


class Boundary(NamedTuple):
    """Boundary elements of a batch of masks."""

    elements: PackedMask
    """Edge pixels on the image grid, or corners on the (H + 1) x (W + 1) grid of pixel corners."""
    shape: ContourShape | None
    """Gives the length of each element; None if every element counts 1."""


def find_boundaries(
    predicted: Mask, actual: Mask, where: Mask | None, convention: Convention
) -> Boundary:
    """Boundaries of the predicted (index 0) and the actual masks (index 1), stacked."""
    find = _edge_pixels if convention == "monai" else _contour_corners
    return jax.tree.map(
        lambda *words: jnp.stack(words), find(predicted, where), find(actual, where)
    )


def contour_lengths(
    shape: ContourShape, bit: Int[Array, "*B Q"], spacing: Float[Array, "*#B 2"]
) -> Float[Array, "*B Q"]:
    """Contour length at each corner, as in the lookup table of surface-distance.

    Args:
        shape: Words that contain the corners, each ``[*B, Q]``.
        bit: Bit of each corner in its word.
        spacing: Of rows and columns.
    """
    half_diagonal, horizontal, vertical = (
        (word >> bit.astype(jnp.uint32)) & 1 == 1 for word in shape
    )
    height, width = spacing[..., :1], spacing[..., 1:]
    diagonal = jnp.sqrt(height * height + width * width)
    straight = jnp.where(horizontal, width, jnp.where(vertical, height, diagonal))
    return jnp.where(half_diagonal, diagonal / 2, straight)


def _edge_pixels(mask: Mask, where: Mask | None) -> Boundary:
    pixels = inside = pack(mask)
    if where is not None:
        invalid = pack(~where)
        pixels, inside = pixels & ~invalid, pixels | invalid
    neighbors = (shift(inside) for shift in (shift_down, shift_up, shift_left, shift_right))
    return Boundary(elements=pixels & ~reduce(and_, neighbors), shape=None)


def _contour_corners(mask: Mask, where: Mask | None) -> Boundary:
    pixels = _pixels_around_corners(mask)
    elements = reduce(or_, pixels) & ~reduce(and_, pixels)
    if where is not None:
        elements &= ~reduce(or_, _pixels_around_corners(~where))
    upper_left, upper_right, lower_left, _ = pixels
    shape = ContourShape(
        half_diagonal=reduce(xor, pixels),
        horizontal=~(upper_left ^ upper_right),
        vertical=~(upper_left ^ lower_left),
    )
    return Boundary(elements, shape)


def _pixels_around_corners(mask: Mask) -> tuple[Array, Array, Array, Array]:
    """Upper left, upper right, lower left and lower right pixel of every corner, packed."""
    lower_right = pack(jnp.pad(mask, ((0, 0), (0, 1), (0, 1))))
    lower_left = shift_right(lower_right)
    return shift_down(lower_left), shift_down(lower_right), lower_left, lower_right
