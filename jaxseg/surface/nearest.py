"""The search: from each boundary element of one mask to the nearest one of another.

Few pixels are on a boundary, so only these are searched for: they are numbered through the packed
masks, a chunk of them at a time, and each looks over the columns at its sides, nearest ones first,
until none farther out can be nearer.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Bool, Float, Int

from jaxseg.surface.boundary import Boundary, contour_lengths
from jaxseg.surface.columns import WORD, Columns, columns, count_pixels, nth_pixel, rows_to_nearest
from jaxseg.surface.distances import SurfaceDistances, chunk_size, count_chunks
from jaxseg.surface.transform import BLOCK, as_bits, square_root, squares
from jaxseg.types import Array


def distances_between(
    predicted: Boundary, actual: Boundary, room: int, spacing: Float[Array, "B 2"]
) -> SurfaceDistances:
    """Distances from the elements of each boundary to those of the other.

    Args:
        predicted: boundaries of B masks.
        actual: boundaries of as many.
        room: as many elements as any of them has, or more.
        spacing: of rows and columns.
    """
    sources = jax.tree.map(lambda *ways: jnp.stack(ways), predicted, actual)
    targets = columns(jnp.stack([actual.points, predicted.points]))
    ways, batch, groups, width = sources.points.shape
    words, contour = jax.tree.map(lambda word: word.reshape(ways, batch, groups * width), sources)
    running = jnp.cumsum(count_pixels(words), axis=2, dtype=jnp.int32)
    elements = running[..., -1]
    reachable = jnp.any(targets.words != 0, axis=(2, 3))

    size = chunk_size(batch, room)

    def fill(step, buffers):
        order = step * size + jnp.arange(size, dtype=jnp.int32)
        index, bit = _each_mask(partial(nth_pixel, order=order))(words, running)
        used = order[None, None] < elements[..., None]
        rows, start = WORD * (index // width) + bit, index % width
        nearest = _search(targets, rows, start, used & reachable[..., None], spacing)
        values = [jnp.where(used, nearest, jnp.inf)]
        if contour is not None:
            at = jax.tree.map(lambda word: jnp.take_along_axis(word, index, axis=2), contour)
            values.append(jnp.where(used, contour_lengths(at, bit, spacing[None]), 0))
        return [
            lax.dynamic_update_slice_in_dim(buffer, value, step * size, axis=2)
            for buffer, value in zip(buffers, values, strict=True)
        ]

    shape = (ways, batch, -(-room // size) * size)
    buffers = [jnp.full(shape, jnp.inf, jnp.float32)]
    if contour is not None:
        buffers.append(jnp.zeros(shape, jnp.float32))
    distances, *lengths = lax.fori_loop(0, count_chunks(elements, size), fill, buffers)
    return SurfaceDistances(distances, lengths[0] if lengths else None, elements)


def _each_mask(function: Callable) -> Callable:
    return jax.vmap(jax.vmap(function))


def _search(
    targets: Columns,
    rows: Int[Array, "2 B Q"],
    start: Int[Array, "2 B Q"],
    wanted: Bool[Array, "2 B Q"],
    spacing: Float[Array, "B 2"],
) -> Float[Array, "2 B Q"]:
    """Distance from each pixel (rows, start) to the nearest True one of the targets.

    Where it is not wanted, it may be too large.
    """
    width = targets.words.shape[-1]
    block = min(BLOCK, width)
    look = _each_mask(partial(_nearest_in_block, block=block))
    spacing = jnp.broadcast_to(spacing, (*rows.shape[:2], 2))

    def unfinished(search):
        looked, best = search
        reach = as_bits(squares(looked * block, spacing[..., 1:]))
        return (looked * block < width) & jnp.any(wanted & (best > reach))

    def widen(search):
        looked, best = search
        for first in (start + looked * block, start - (looked + 1) * block):
            best = jnp.minimum(best, look(targets, rows, start, first, spacing))
        return looked + 1, best

    nothing = as_bits(jnp.full(rows.shape, jnp.inf, jnp.float32))
    _, best = lax.while_loop(unfinished, widen, (jnp.int32(0), nothing))
    return square_root(best)


def _nearest_in_block(
    targets: Columns,
    rows: Int[Array, "Q"],
    start: Int[Array, "Q"],
    first: Int[Array, "Q"],
    spacing: Float[Array, "2"],
    *,
    block: int,
) -> Int[Array, "Q"]:
    """Squared distance, as bits, to the nearest True pixel in a block of columns of one mask.

    A block that reaches over the picture's side is moved inside, where it looks again at columns
    that are as good as any.
    """
    first = jnp.clip(first, 0, targets.words.shape[1] - block)
    corners = jnp.stack([rows // WORD, first], axis=-1)
    dimensions = lax.GatherDimensionNumbers(
        offset_dims=(1,), collapsed_slice_dims=(0,), start_index_map=(0, 1)
    )
    taken = jax.tree.map(
        lambda word: lax.gather(word, corners, dimensions, (1, block), mode="clip"), targets
    )
    shape = (*rows.shape, block)
    down = rows_to_nearest(taken, jnp.broadcast_to(rows[:, None], shape))
    across = (first - start)[:, None] + lax.broadcasted_iota(jnp.int32, shape, 1)
    return jnp.min(as_bits(squares(down, spacing[0]) + squares(across, spacing[1])), axis=1)
