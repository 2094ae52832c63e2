"""Search for the nearest boundary element of another mask.

Boundaries are small, so only their elements are searched, in chunks. Each element reads the
packed columns to its left and right, nearest columns first, until no farther column can be nearer.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Bool, Float, Int

from jaxseg.surface.boundary import Boundary, contour_lengths
from jaxseg.surface.distances import SurfaceDistances, chunk_size, count_chunks
from jaxseg.surface.packed import (
    WORD,
    ColumnIndex,
    count_true,
    find_nth_true,
    index_columns,
    rows_to_nearest,
)
from jaxseg.surface.transform import BLOCK, smaller, squared_distance
from jaxseg.types import Array


def distances_between(
    boundaries: Boundary, capacity: int, spacing: Float[Array, "B 2"]
) -> SurfaceDistances:
    """Distance from every element of each boundary to the nearest element of the other.

    Args:
        boundaries: Fields ``[2, B, ...]``, of the predicted and the actual masks.
        capacity: Upper bound on the number of elements of one mask; sets the buffer size.
        spacing: Of rows and columns.
    """
    directions, batch, groups, width = boundaries.elements.shape
    targets = index_columns(boundaries.elements[::-1])
    has_target = jnp.any(targets.words != 0, axis=(2, 3))
    words, shape = jax.tree.map(lambda w: w.reshape(directions, batch, groups * width), boundaries)
    cumulative = jnp.cumsum(count_true(words), axis=2, dtype=jnp.int32)
    elements = cumulative[..., -1]
    size = chunk_size(batch, capacity)

    def fill_chunk(step, buffers):
        n = step * size + jnp.arange(size, dtype=jnp.int32)
        word, bit = jax.vmap(jax.vmap(partial(find_nth_true, n=n)))(words, cumulative)
        used = n[None, None] < elements[..., None]
        rows, columns = WORD * (word // width) + bit, word % width
        nearest = _nearest(targets, rows, columns, used & has_target[..., None], spacing)
        distances, lengths = jnp.where(used, nearest, jnp.inf), None
        if shape is not None:
            at_elements = jax.tree.map(lambda s: jnp.take_along_axis(s, word, axis=2), shape)
            lengths = jnp.where(used, contour_lengths(at_elements, bit, spacing[None]), 0)
        return jax.tree.map(
            lambda buffer, chunk: lax.dynamic_update_slice_in_dim(buffer, chunk, step * size, 2),
            buffers,
            (distances, lengths),
        )

    buffer = jnp.full((directions, batch, -(-capacity // size) * size), jnp.inf, jnp.float32)
    buffers = (buffer, None if shape is None else jnp.zeros_like(buffer))
    distances, lengths = lax.fori_loop(0, count_chunks(elements, size), fill_chunk, buffers)
    return SurfaceDistances(distances, lengths, elements)


def _nearest(
    targets: ColumnIndex,
    rows: Int[Array, "2 B Q"],
    columns: Int[Array, "2 B Q"],
    needed: Bool[Array, "2 B Q"],
    spacing: Float[Array, "B 2"],
) -> Float[Array, "2 B Q"]:
    """Distance from each position to the nearest True pixel of the targets.

    Positions that are not needed may get a distance that is too large.
    """
    width = targets.words.shape[-1]
    block = min(BLOCK, width)
    search_block = jax.vmap(jax.vmap(partial(_nearest_in_block, block=block)))
    spacing = jnp.broadcast_to(spacing, (*rows.shape[:2], 2))

    def can_improve(search):
        offset, best = search
        reach = squared_distance(offset, spacing[..., 1:])
        return (offset < width) & jnp.any(needed & (best > reach))

    def search_next_blocks(search):
        offset, best = search
        for first in (columns + offset, columns - offset - block):
            best = smaller(search_block(targets, rows, columns, first, spacing), best)
        return offset + block, best

    nothing = jnp.full(rows.shape, jnp.inf, jnp.float32)
    _, best = lax.while_loop(can_improve, search_next_blocks, (jnp.int32(0), nothing))
    return jnp.sqrt(best)


def _nearest_in_block(
    targets: ColumnIndex,
    rows: Int[Array, "Q"],
    columns: Int[Array, "Q"],
    first: Int[Array, "Q"],
    spacing: Float[Array, "2"],
    *,
    block: int,
) -> Float[Array, "Q"]:
    """Squared distance to the nearest True pixel in ``block`` columns from ``first``, in one mask.

    A block that crosses the image border is moved inside. It then reads some columns twice.
    """
    first = jnp.clip(first, 0, targets.words.shape[1] - block)
    dimensions = lax.GatherDimensionNumbers(
        offset_dims=(1,), collapsed_slice_dims=(0,), start_index_map=(0, 1)
    )
    starts = jnp.stack([rows // WORD, first], axis=-1)
    index = jax.tree.map(
        lambda field: lax.gather(field, starts, dimensions, (1, block), mode="clip"), targets
    )
    down = rows_to_nearest(index, rows[:, None])
    across = (first - columns)[:, None] + jnp.arange(block, dtype=jnp.int32)[None]
    squares = squared_distance(down, spacing[0]) + squared_distance(across, spacing[1])
    # Non-negative floats order as their bits do, and on CPU only an integer minimum is vectorized.
    nearest = jnp.min(lax.bitcast_convert_type(squares, jnp.int32), axis=1)
    return lax.bitcast_convert_type(nearest, jnp.float32)
