"""The warp of `jaxseg.augment.affine` for TPUs, which read single pixels slowly.

There every pixel that is read costs a tile of 4 KB. So the output is made in small tiles, each from
the patch of the film that it can reach: matrix products with zeros and ones copy the patches, one
with weights reads along the columns, and a weighted sum along the rows. Nothing is addressed by
computed indices, and all sums of more than two terms add zeros, so the result is the same.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

TILE = 32
"""Side of an output tile."""

BLOCK = 8
"""Rows are copied in blocks of so many."""


def patch_side(stretch: float) -> int:
    """Side of the patch that a tile reads.

    Args:
        stretch: What the sum of a matrix's absolute row or column factors does not exceed.
    """
    # A little more, for the rounding of coordinates.
    return math.ceil((TILE - 1) * stretch + 0.01) + 2


def read_by_tiles(
    films: Float[jax.Array, "C H W"],
    classes: Float[jax.Array, "D H W"],
    row: Int[jax.Array, "H W"],
    column: Int[jax.Array, "H W"],
    *,
    bits: int,
    side: int,
) -> tuple[Float[jax.Array, "C H W"], Float[jax.Array, "D H W"]]:
    """Reads films bilinearly and classes at the nearest pixel.

    Args:
        films: Channels to read bilinearly.
        classes: Whole numbers below 2**24 to read at the nearest pixel.
        row: Where each output pixel reads, times ``2**bits``.
        column: The same along the width.
        bits: Binary places of the coordinates.
        side: Side of the patches, see `patch_side`.
    """
    height, width = row.shape
    planes = jnp.concatenate([films, classes])
    planes = jnp.pad(planes, ((0, 0), (0, -height % BLOCK), (0, 0)))
    rows = _tiles(jnp.clip(row, 0, (height - 1) << bits))
    columns = _tiles(jnp.clip(column, 0, (width - 1) << bits))
    blocks = planes.reshape(len(planes), -1, BLOCK * width)
    first_block = rows.min(1) >> (bits + BLOCK.bit_length() - 1)
    copied = min(math.ceil((side - 1) / BLOCK) + 1, blocks.shape[1])
    first_block = jnp.minimum(first_block, blocks.shape[1] - copied)
    chosen = _chosen(first_block, copied, blocks.shape[1])
    patches = jnp.einsum("tnb,kbw->ktnw", chosen, blocks, precision="highest")
    patches = patches.reshape(len(planes), len(chosen), copied * BLOCK, width)

    wide = min(side, width)
    first_column = jnp.minimum(columns.min(1) >> bits, width - wide)
    patches = jnp.einsum(
        "ktrw,tcw->ktrc", patches, _chosen(first_column, wide, width), precision="highest"
    )
    at_rows = first_block[:, None] * BLOCK + jnp.arange(copied * BLOCK, dtype=jnp.int32)[None]
    at_columns = first_column[:, None] + jnp.arange(wide, dtype=jnp.int32)[None]

    def read(patches: jax.Array, weigh: Callable[..., jax.Array]) -> jax.Array:
        along = weigh(columns, at_columns, bits)
        down = weigh(rows, at_rows, bits)
        sums = jnp.einsum("ktrc,tcp->ktrp", patches, along, precision="highest")
        return _untiled((sums * down[None]).sum(2), height, width)

    return read(patches[: len(films)], _bilinear), read(patches[len(films) :], _nearest)


def _chosen(first: Int[jax.Array, "T"], count: int, size: int) -> Float[jax.Array, "T N size"]:
    """Ones that choose ``count`` of ``size`` things from the first on."""
    places = first[:, None] + jnp.arange(count, dtype=jnp.int32)[None]
    return (places[:, :, None] == jnp.arange(size, dtype=jnp.int32)[None, None]).astype(jnp.float32)


def _bilinear(pixels: jax.Array, places: jax.Array, bits: int) -> Float[jax.Array, "T N P"]:
    apart = jnp.abs(pixels[:, None] - (places[:, :, None] << bits))
    return jnp.maximum((1 << bits) - apart, 0).astype(jnp.float32) * 2.0**-bits


def _nearest(pixels: jax.Array, places: jax.Array, bits: int) -> Float[jax.Array, "T N P"]:
    nearest = (pixels + (1 << (bits - 1))) >> bits
    return (nearest[:, None] == places[:, :, None]).astype(jnp.float32)


def _tiles(at: Int[jax.Array, "H W"]) -> Int[jax.Array, "T P"]:
    """Each tile's pixels in a row; past the rim the last row and column repeat."""
    rows, columns = (-size % TILE for size in at.shape)
    at = jnp.pad(at, ((0, rows), (0, columns)), mode="edge")
    at = at.reshape(at.shape[0] // TILE, TILE, at.shape[1] // TILE, TILE)
    return at.swapaxes(1, 2).reshape(-1, TILE * TILE)


def _untiled(tiles: Float[jax.Array, "K T P"], height: int, width: int) -> jax.Array:
    rows, columns = (-(-side // TILE) for side in (height, width))
    planes = tiles.reshape(len(tiles), rows, columns, TILE, TILE).swapaxes(2, 3)
    return planes.reshape(len(planes), rows * TILE, columns * TILE)[:, :height, :width]
