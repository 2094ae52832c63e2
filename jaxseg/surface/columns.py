"""Masks as packed columns: the 32 pixels of a word lie below each other in one column.

Bit counts then answer in a few vector operations what a scan over the rows would: which pixel is
next in a column, and where the n-th pixel of a mask lies.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Bool, Int, UInt32

from jaxseg.types import Array

WORD = 32
"""Rows in a word."""

_FAR = 2**30
"""More than twice the rows that any picture has."""

Words = UInt32[Array, "*B G W"]
"""``G`` groups of 32 rows: bit ``r`` of word ``[g, x]`` is the pixel in row ``32 g + r``."""


def pack(mask: Bool[Array, "*B H W"]) -> Words:
    """Packs a mask into words; the rows that fill the last group are False."""
    *lead, height, width = mask.shape
    groups = -(-height // WORD)
    padding = [(0, 0)] * len(lead) + [(0, WORD * groups - height), (0, 0)]
    rows = jnp.pad(mask, padding).reshape(*lead, groups, WORD, width).astype(jnp.uint32)
    return jnp.sum(rows << _iota(rows.shape, -2).astype(jnp.uint32), axis=-2, dtype=jnp.uint32)


def rows_down(words: Words) -> Words:
    """The mask moved one row down, a False row entering at the top."""
    return (words << 1) | _shifted(words >> (WORD - 1), -2, 1, 0)


def rows_up(words: Words) -> Words:
    """The mask moved one row up, a False row entering at the bottom."""
    return (words >> 1) | _shifted(words << (WORD - 1), -2, -1, 0)


def columns_right(words: Words) -> Words:
    """The mask moved one column to the right, a False column entering at the left."""
    return _shifted(words, -1, 1, 0)


def columns_left(words: Words) -> Words:
    """The mask moved one column to the left, a False column entering at the right."""
    return _shifted(words, -1, -1, 0)


class Columns(NamedTuple):
    """What each word must know to tell how far the next pixel of its column is."""

    words: Words
    last_above: Int[Array, "*B G W"]
    """The last True row of the groups above, far outside the picture where there is none."""
    first_below: Int[Array, "*B G W"]
    """The first True row of the groups below, likewise."""


def columns(words: Words) -> Columns:
    """Adds to each word the nearest True rows outside it."""
    axis = words.ndim - 2
    first_row = WORD * _iota(words.shape, -2)
    last = jnp.where(words != 0, first_row + (WORD - 1) - _leading_zeros(words), -_FAR)
    first = jnp.where(words != 0, first_row + _trailing_zeros(words), _FAR)
    return Columns(
        words=words,
        last_above=_shifted(lax.cummax(last, axis), -2, 1, -_FAR),
        first_below=_shifted(lax.cummin(first, axis, reverse=True), -2, -1, _FAR),
    )


def rows_to_nearest(at: Columns, rows: Int[Array, "*N"]) -> Int[Array, "*N"]:
    """Rows from a pixel to the nearest True one of its column; an empty column gives int32's max.

    Args:
        at: the columns, taken at the pixels' groups: each field has the shape of ``rows``.
        rows: int32, the pixels' rows, counted from the top of the picture.
    """
    bit = (rows % WORD).astype(jnp.uint32)
    up = _leading_zeros(at.words << (WORD - 1 - bit))
    down = _trailing_zeros(at.words >> bit)
    up = jnp.where(up < WORD, up, rows - at.last_above)
    down = jnp.where(down < WORD, down, at.first_below - rows)
    nearest = jnp.minimum(up, down)
    return jnp.where(nearest < _FAR // 2, nearest, jnp.iinfo(jnp.int32).max)


def count_pixels(words: UInt32[Array, "*N"]) -> Int[Array, "*N"]:
    """True pixels in each word."""
    return lax.population_count(words).astype(jnp.int32)


def nth_pixel(
    words: UInt32[Array, "N"], running: Int[Array, "N"], order: Int[Array, "Q"]
) -> tuple[Int[Array, "Q"], Int[Array, "Q"]]:
    """Where the n-th True pixel lies, word by word and from the top of each word down.

    Args:
        words: the words of one mask, in one row.
        running: True pixels up to and including each word.
        order: which pixels, counted from 0. Beyond the last pixel the answer means nothing.

    Returns:
        The word's index and the bit within it.
    """
    # A rolled search: unrolled, some compilers fuse its steps at twice the cost for each one more.
    index = jnp.searchsorted(running, order, side="right", method="scan")
    index = jnp.minimum(index.astype(jnp.int32), words.size - 1)
    word = words[index]
    left = order - (running[index] - count_pixels(word))
    bit = jnp.zeros_like(left)
    for half in (16, 8, 4, 2, 1):
        below = count_pixels(word & jnp.uint32((1 << half) - 1))
        upper = left >= below
        left = jnp.where(upper, left - below, left)
        word = jnp.where(upper, word >> half, word)
        bit = jnp.where(upper, bit + half, bit)
    return index, bit


def _leading_zeros(words: UInt32[Array, "*N"]) -> Int[Array, "*N"]:
    return lax.clz(words).astype(jnp.int32)


def _trailing_zeros(words: UInt32[Array, "*N"]) -> Int[Array, "*N"]:
    return lax.population_count(~words & (words - 1)).astype(jnp.int32)


def _iota(shape: tuple[int, ...], axis: int) -> Int[Array, "*N"]:
    return lax.broadcasted_iota(jnp.int32, shape, axis % len(shape))


def _shifted(values: Array, axis: int, by: int, fill: int) -> jax.Array:
    padding = [(0, 0, 0)] * values.ndim
    padding[axis] = (by, -by, 0)
    return lax.pad(values, jnp.asarray(fill, values.dtype), padding)
