"""Interpolation by tiles with matrix products, for TPUs, which read single pixels slowly.

A tile of output pixels reads one small patch of the input. Matrix products copy the patches and
weight their pixels, so nothing is gathered. Compiled for TPU v5e, not run on one.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Float

TILE = 32
"""Side of a tile of output pixels."""


def map_coordinates(
    plane: Float[jax.Array, "H W"],
    coordinates: tuple[Float[jax.Array, "Ho Wo"], Float[jax.Array, "Ho Wo"]],
    *,
    order: int,
    max_stretch: float,
) -> Float[jax.Array, "Ho Wo"]:
    """Returns ``jax.scipy.ndimage.map_coordinates(plane, coordinates, order, "nearest")``.

    Args:
        plane: The input, finite.
        coordinates: Rows and columns that the output pixels read, affine in the pixel's position.
        order: 1 for bilinear, 0 for nearest.
        max_stretch: Upper bound on the sum of the two absolute linear factors of a coordinate.
    """
    patch = math.ceil((TILE - 1) * max_stretch + 0.01) + 2
    choose, weights = [], []
    for at, size in zip(coordinates, plane.shape, strict=True):
        at = _to_tiles(jnp.clip(at, 0.0, size - 1.0))
        at = jnp.floor(at + 0.5) if order == 0 else at
        first = jnp.minimum(jnp.floor(at.min(1)), max(size - patch, 0))
        inputs = jnp.arange(size, dtype=jnp.float32)
        index = first[:, None] + inputs[None, :patch]
        choose.append((index[:, :, None] == inputs[None, None]).astype(jnp.float32))
        # Bilinear weights. A whole coordinate gives weight 1 to one pixel and 0 to all others.
        weights.append(jnp.maximum(1.0 - jnp.abs(at[:, None] - index[:, :, None]), 0.0))
    patches = jnp.einsum("trh,hw->trw", choose[0], plane, precision="highest")
    patches = jnp.einsum("trw,tcw->trc", patches, choose[1], precision="highest")
    rows = jnp.einsum("trc,tcp->trp", patches, weights[1], precision="highest")
    return _from_tiles((rows * weights[0]).sum(1), coordinates[0].shape)


def _to_tiles(plane: Float[jax.Array, "H W"]) -> Float[jax.Array, "T P"]:
    """Returns the pixels of each tile; incomplete tiles repeat the last row and column."""
    plane = jnp.pad(plane, [(0, -side % TILE) for side in plane.shape], mode="edge")
    height, width = plane.shape
    tiles = plane.reshape(height // TILE, TILE, width // TILE, TILE).swapaxes(1, 2)
    return tiles.reshape(-1, TILE * TILE)


def _from_tiles(tiles: Float[jax.Array, "T P"], size: tuple[int, ...]) -> jax.Array:
    rows, columns = (-(-side // TILE) for side in size)
    plane = tiles.reshape(rows, columns, TILE, TILE).swapaxes(1, 2)
    return plane.reshape(rows * TILE, columns * TILE)[: size[0], : size[1]]
