"""The exact Euclidean distance transform."""

import math

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Bool, Float, Int

from jaxseg.surface.checks import Spacing, check_mask, spacing_pairs
from jaxseg.surface.columns import WORD, Columns, columns, pack, rows_to_nearest
from jaxseg.types import Array

BLOCK = 16
"""Columns on one side that one step of a search looks at."""


def distance_transform(
    mask: Bool[Array, "*B H W"], *, spacing: Spacing = (1.0, 1.0)
) -> Float[Array, "*B H W"]:
    """Euclidean distance of every True pixel to the nearest False one.

    Exact, as ``scipy.ndimage.distance_transform_edt`` with ``sampling=spacing``. The picture's
    border is no False pixel. Felzenszwalb and Huttenlocher's two passes (2012,
    https://doi.org/10.4086/toc.2012.v008a019): rows to the nearest False pixel of the same column,
    then the minimum over columns, searched outwards until no column can come nearer. Memory is
    a few float32 per pixel; time grows with the largest distance times the pixels.

    Args:
        mask: bool, any leading axes (none, too).
        spacing: distance of neighbouring rows and of neighbouring columns, positive: one pair for
            all masks, or an array ``[*B, 2]`` of one pair per mask.

    Returns:
        float32 in the unit of ``spacing``, 0 on False pixels, infinite all over a mask without a
        False pixel (where SciPy's result means nothing).

    Raises:
        TypeError: the mask is not boolean.
        ValueError: the mask has no two axes or no pixel; a spacing is not positive or no pair.

    Examples:
        >>> import numpy as np
        >>> from jaxseg import surface
        >>> mask = np.ones((3, 4), bool)
        >>> mask[1, 0] = False
        >>> print(np.asarray(surface.distance_transform(mask)).round(2))
        [[1.   1.41 2.24 3.16]
         [0.   1.   2.   3.  ]
         [1.   1.41 2.24 3.16]]
    """
    check_mask("mask", mask)
    *lead, height, width = mask.shape
    pairs = spacing_pairs(spacing, tuple(lead))
    flat = jnp.reshape(mask, (math.prod(lead), height, width))
    distances = _transform(flat, pairs.reshape(-1, 2))
    return distances.reshape(mask.shape)


def squares(steps: Int[Array, "*#N"], spacing: Float[Array, "*#N"]) -> Float[Array, "*#N"]:
    """Squared distance of pixels that lie in one column, or in one row.

    Args:
        steps: rows or columns between them; the integer type's maximum for no pixel at all, which
            is infinitely far.
        spacing: distance of two rows or columns.
    """
    distance = steps.astype(jnp.float32) * spacing
    return jnp.where(steps == jnp.iinfo(steps.dtype).max, jnp.inf, distance * distance)


def as_bits(squares: Float[Array, "*N"]) -> Int[Array, "*N"]:
    """Non-negative float32s as the integers of their bits, which order as they do.

    A minimum of integers is vectorized; one of floats has NaNs to heed and on CPU is not.
    """
    return lax.bitcast_convert_type(squares, jnp.int32)


def square_root(bits: Int[Array, "*N"]) -> Float[Array, "*N"]:
    """Square root of what `as_bits` was given."""
    return jnp.sqrt(lax.bitcast_convert_type(bits, jnp.float32))


@jax.jit
def _transform(mask: Bool[Array, "B H W"], spacing: Float[Array, "B 2"]) -> Float[Array, "B H W"]:
    width = mask.shape[2]
    row_height, column_width = (spacing[:, None, None, axis] for axis in (0, 1))
    rows = _rows_to_false(mask)
    nowhere = jnp.asarray(jnp.iinfo(rows.dtype).max, rows.dtype)
    margin = -(-width // BLOCK) * BLOCK
    padded = lax.pad(rows, nowhere, ((0, 0, 0), (0, 0, 0), (margin, margin, 0)))
    # A mask without a False pixel never gets a distance; it must not keep the search going.
    has_false = jnp.any(~mask, axis=(1, 2), keepdims=True)

    def unfinished(search):
        offset, best = search
        farthest = jnp.max(jnp.where(has_false, best, 0), axis=(1, 2), keepdims=True)
        return (offset < width) & jnp.any(farthest > as_bits(squares(offset, column_width)))

    def widen(search):
        offset, best = search
        starts = (margin + offset, margin - offset - BLOCK + 1)
        right, left = (
            squares(lax.dynamic_slice_in_dim(padded, start, width + BLOCK - 1, axis=2), row_height)
            for start in starts
        )
        for step in range(BLOCK):
            across = squares(offset + step, column_width)
            for side, start in ((right, step), (left, BLOCK - 1 - step)):
                near = lax.slice_in_dim(side, start, start + width, axis=2)
                best = jnp.minimum(best, as_bits(near + across))
        return offset + BLOCK, best

    own_column = as_bits(squares(rows, row_height))
    _, best = lax.while_loop(unfinished, widen, (jnp.int32(1), own_column))
    return square_root(best)


def _rows_to_false(mask: Bool[Array, "B H W"]) -> Int[Array, "B H W"]:
    """Rows from each pixel to the nearest False one of its column; none: the type's maximum."""
    batch, height, width = mask.shape
    words = pack(~mask)
    shape = (batch, words.shape[1], WORD, width)
    group, bit = (lax.broadcasted_iota(jnp.int32, shape, axis) for axis in (1, 2))
    rows = WORD * group + bit
    at = jax.tree.map(lambda word: jnp.broadcast_to(word[:, :, None], shape), columns(words))
    nearest = rows_to_nearest(Columns(*at), rows).reshape(batch, words.shape[1] * WORD, width)[
        :, :height
    ]
    # Half the memory where it suffices: the search reads nothing else.
    narrow = jnp.int16 if height < jnp.iinfo(jnp.int16).max else jnp.int32
    return jnp.minimum(nearest, jnp.iinfo(narrow).max).astype(narrow)
