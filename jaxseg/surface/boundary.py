"""What the boundary of a mask consists of, in each of two conventions."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from jaxseg.surface.checks import Convention
from jaxseg.surface.columns import Words, columns_left, columns_right, pack, rows_down, rows_up
from jaxseg.types import Array


class Contour(NamedTuple):
    """How the outline runs through each pixel corner on it, as packed pixels."""

    half_diagonal: Words
    """One or three of the four pixels around the corner are True."""
    level: Words
    """The two upper pixels are alike, so that a contour without half a diagonal runs level."""
    upright: Words
    """The two left pixels are alike."""


class Boundary(NamedTuple):
    """The elements of a mask's boundary."""

    points: Words
    """Where they are: on pixels, or on the (H + 1) x (W + 1) corners of pixels."""
    contour: Contour | None
    """What gives them their lengths; without, each counts 1."""


def boundary(mask: Bool[Array, "B H W"], convention: Convention) -> Boundary:
    """The boundary elements of each mask."""
    return _edge_pixels(mask) if convention == "monai" else _contour_corners(mask)


def _edge_pixels(mask: Bool[Array, "B H W"]) -> Boundary:
    """True pixels with a False pixel, or the picture's border, beside, above or below them."""
    pixels = pack(mask)
    inner = rows_down(pixels) & rows_up(pixels) & columns_left(pixels) & columns_right(pixels)
    return Boundary(points=pixels & ~inner, contour=None)


def _contour_corners(mask: Bool[Array, "B H W"]) -> Boundary:
    """Pixel corners around which not all four pixels are alike; outside, all are False."""
    lower_right = pack(jnp.pad(mask, ((0, 0), (0, 1), (0, 1))))
    lower_left = columns_right(lower_right)
    upper_right, upper_left = rows_down(lower_right), rows_down(lower_left)
    some = lower_right | lower_left | upper_right | upper_left
    every = lower_right & lower_left & upper_right & upper_left
    contour = Contour(
        half_diagonal=lower_right ^ lower_left ^ upper_right ^ upper_left,
        level=~(upper_left ^ upper_right),
        upright=~(upper_left ^ lower_left),
    )
    return Boundary(points=some & ~every, contour=contour)


def contour_lengths(
    contour: Contour, bit: Int[Array, "*B Q"], spacing: Float[Array, "*#B 2"]
) -> Float[Array, "*B Q"]:
    """Length of the contour at each corner, as surface-distance's table has it.

    Args:
        contour: the corners' words, each ``[*B, Q]``.
        bit: which bit of its word a corner is.
        spacing: of rows and columns.
    """
    half_diagonal, level, upright = ((word >> bit.astype(jnp.uint32)) & 1 == 1 for word in contour)
    height, width = spacing[..., :1], spacing[..., 1:]
    diagonal = jnp.sqrt(height * height + width * width)
    straight = jnp.where(level, width, jnp.where(upright, height, diagonal))
    return jnp.where(half_diagonal, diagonal / 2, straight)
