"""Masks packed into bits: one uint32 word holds 32 vertically adjacent pixels.

Counting bits then answers two questions in a few vector operations: where the nearest True pixel
of a column is, and where the n-th True pixel of a mask is.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Bool, Int, UInt32

from jaxseg.types import Array

WORD = 32
"""Rows per word."""

_FAR = 2**30
"""Stands for no row; more than twice the height of any image."""

NO_PIXEL = jnp.iinfo(jnp.int32).max
"""Row distance in a column without True pixels."""

PackedMask = UInt32[Array, "*B G W"]
"""``G`` groups of 32 rows: bit ``r`` of word ``[g, x]`` is the pixel in row ``32 g + r``."""


def pack(mask: Bool[Array, "*B H W"]) -> PackedMask:
    """Packs a mask into words. Rows that fill the last word are False."""
    *batch, height, width = mask.shape
    groups = -(-height // WORD)
    padding = [(0, 0)] * len(batch) + [(0, WORD * groups - height), (0, 0)]
    rows = jnp.pad(mask, padding).reshape(*batch, groups, WORD, width).astype(jnp.uint32)
    bit = lax.broadcasted_iota(jnp.uint32, rows.shape, rows.ndim - 2)
    return jnp.sum(rows << bit, axis=-2, dtype=jnp.uint32)


def shift_down(mask: PackedMask) -> PackedMask:
    """Shifts the mask one row down and fills the first row with False."""
    return (mask << 1) | _shift(mask >> (WORD - 1), -2, 1, 0)


def shift_up(mask: PackedMask) -> PackedMask:
    """Shifts the mask one row up and fills the last row with False."""
    return (mask >> 1) | _shift(mask << (WORD - 1), -2, -1, 0)


def shift_right(mask: PackedMask) -> PackedMask:
    """Shifts the mask one column to the right and fills the first column with False."""
    return _shift(mask, -1, 1, 0)


def shift_left(mask: PackedMask) -> PackedMask:
    """Shifts the mask one column to the left and fills the last column with False."""
    return _shift(mask, -1, -1, 0)


class ColumnIndex(NamedTuple):
    """Packed mask with the nearest True rows above and below each word."""

    words: PackedMask
    last_above: Int[Array, "*B G W"]
    """Last True row of the words above; ``-_FAR`` if there is none."""
    first_below: Int[Array, "*B G W"]
    """First True row of the words below; ``_FAR`` if there is none."""


def index_columns(mask: PackedMask) -> ColumnIndex:
    """Builds the index that `rows_to_nearest` reads."""
    axis = mask.ndim - 2
    first_row = WORD * lax.broadcasted_iota(jnp.int32, mask.shape, axis)
    last = jnp.where(mask != 0, first_row + (WORD - 1) - _leading_zeros(mask), -_FAR)
    first = jnp.where(mask != 0, first_row + _trailing_zeros(mask), _FAR)
    return ColumnIndex(
        words=mask,
        last_above=_shift(lax.cummax(last, axis), -2, 1, -_FAR),
        first_below=_shift(lax.cummin(first, axis, reverse=True), -2, -1, _FAR),
    )


def rows_to_nearest(index: ColumnIndex, rows: Int[Array, "*#N"]) -> Int[Array, "*#N"]:
    """Number of rows from a pixel to the nearest True pixel of its column, or `NO_PIXEL`.

    Args:
        index: Index entries of the words that contain the pixels; broadcasts against ``rows``.
        rows: int32 row of each pixel.
    """
    bit = (rows % WORD).astype(jnp.uint32)
    up = _leading_zeros(index.words << (WORD - 1 - bit))
    down = _trailing_zeros(index.words >> bit)
    up = jnp.where(up < WORD, up, rows - index.last_above)
    down = jnp.where(down < WORD, down, index.first_below - rows)
    nearest = jnp.minimum(up, down)
    return jnp.where(nearest < _FAR // 2, nearest, NO_PIXEL)


def count_true(words: UInt32[Array, "*N"]) -> Int[Array, "*N"]:
    """Number of True pixels in each word."""
    return lax.population_count(words).astype(jnp.int32)


def find_nth_true(
    words: UInt32[Array, "N"], cumulative: Int[Array, "N"], n: Int[Array, "Q"]
) -> tuple[Int[Array, "Q"], Int[Array, "Q"]]:
    """Position of the n-th True pixel, counted word by word and downwards in each word.

    Args:
        words: All words of one mask.
        cumulative: Number of True pixels up to and including each word.
        n: Which pixels to find, from 0. The result is arbitrary beyond the last True pixel.

    Returns:
        Index of the word and of the bit in that word.
    """
    # method="scan": some compilers fuse an unrolled search and double its time with every step.
    index = jnp.searchsorted(cumulative, n, side="right", method="scan")
    index = jnp.minimum(index.astype(jnp.int32), words.size - 1)
    word = words[index]
    remaining = n - (cumulative[index] - count_true(word))
    bit = jnp.zeros_like(remaining)
    for half in (16, 8, 4, 2, 1):
        in_lower_half = count_true(word & jnp.uint32((1 << half) - 1))
        upper = remaining >= in_lower_half
        remaining = jnp.where(upper, remaining - in_lower_half, remaining)
        word = jnp.where(upper, word >> half, word)
        bit = jnp.where(upper, bit + half, bit)
    return index, bit


def _leading_zeros(words: UInt32[Array, "*N"]) -> Int[Array, "*N"]:
    return lax.clz(words).astype(jnp.int32)


def _trailing_zeros(words: UInt32[Array, "*N"]) -> Int[Array, "*N"]:
    return lax.population_count(~words & (words - 1)).astype(jnp.int32)


def _shift(values: Array, axis: int, by: int, fill: int) -> jax.Array:
    padding = [(0, 0, 0)] * values.ndim
    padding[axis] = (by, -by, 0)
    return lax.pad(values, jnp.asarray(fill, values.dtype), padding)
