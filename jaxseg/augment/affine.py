"""One affine warp of films, labels and the pixels that count.

Coordinates are fixed-point integers. So which pixel an output pixel reads is the same to the bit
however a program is compiled and sharded, and on CPU finding it takes a quarter of the time that
floats take, whose rounding and conversion cost more than the reading.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, Integer

from jaxseg.augment.tiles import patch_side, read_by_tiles
from jaxseg.types import Array, Images, as_floats

Matrices = Float[Array, "B 2 3"]
"""From an output pixel to where in the film it reads: rows, columns and offset, in pixels from the
centre; for each film ``[[rr, rc, r], [cr, cc, c]]``."""

REACH = 8
"""Coordinates may lie this many sides of the film away from its centre."""


def affine_matrices(
    size: tuple[int, int],
    *,
    rotation: Float[Array, "B"],
    scale: Float[Array, "B"],
    shift: Float[Array, "B 2"],
    shear: Float[Array, "B"],
    flip: Bool[Array, "B 2"],
) -> Float[jax.Array, "B 2 3"]:
    """The matrices of films that are flipped, scaled, sheared, turned and shifted, in that order.

    Args:
        size: Height and width in pixels.
        rotation: Degrees, counter-clockwise as one looks at the film.
        scale: Factor, above 0; above 1 enlarges.
        shift: Down and right, as shares of height and width.
        shear: Degrees that vertical lines lean: a row ``d`` pixels below the centre moves
            ``d tan(shear)`` to the right.
        flip: Whether to mirror up-down and left-right.

    Returns:
        float32 ``[B, 2, 3]`` as `warp` takes them, output to input as SciPy's `affine_transform`.
    """
    angle, lean = (jnp.deg2rad(jnp.asarray(degrees, jnp.float32)) for degrees in (rotation, shear))
    lean = jnp.tan(lean)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    # The inverse, step by step: turn back, then lean back, then shrink, then flip.
    rows = jnp.stack([cos, sin], -1)
    columns = jnp.stack([-sin - lean * cos, cos - lean * sin], -1)
    linear = jnp.stack([rows, columns], -2) / jnp.asarray(scale, jnp.float32)[:, None, None]
    linear = jnp.where(jnp.asarray(flip)[:, :, None], -linear, linear)
    moved = jnp.asarray(shift, jnp.float32) * jnp.asarray(size, jnp.float32)[None]
    offset = -(linear * moved[:, None, :]).sum(-1, keepdims=True)
    return jnp.concatenate([linear, offset], -1)


def warp(
    images: Images,
    labels: Integer[Array, "B Hl Wl"],
    matrices: Matrices,
    *,
    where: Bool[Array, "B Hl Wl"] | None = None,
) -> tuple[Float[jax.Array, "B H W C"], Integer[jax.Array, "B Hl Wl"], Bool[jax.Array, "B Hl Wl"]]:
    """Moves each film and all that belongs to its pixels by one affine map.

    Films are read bilinearly, labels and ``where`` at the nearest pixel. An output pixel whose
    nearest pixel lies outside the film is 0 in film and labels and False in ``where``; up to the
    rim the film's last row or column continues. Coordinates are exact to ``side**2 / 2**28``
    pixels: 1/4096 at 256 x 256, 1/64 at 2048 x 2048. Pixels are read one by one, which is slow on
    a TPU; there `make_augment`, which knows how far its matrices reach, reads by tiles.

    Args:
        images: uint8, read as value / 255, or float in [0, 1].
        labels: Integer class ids, on the films' grid or a finer one.
        matrices: One for each film, as `affine_matrices` gives them. A map that reaches further
            than `REACH` sides from the centre counts as one that reads outside only.
        where: The pixels that count, on the labels' grid; None for all.

    Returns:
        Films (float32, or the floating dtype given), labels (dtype kept) and where, bool, on the
        labels' grid.

    Raises:
        ValueError: Films are neither uint8 nor floats, or the labels' grid is coarser than the
            films' or of other proportions, or ``where`` is not on it.
    """
    films, classes, _, counted = move(
        as_floats(images),
        jnp.asarray(labels),
        None if where is None else jnp.asarray(where),
        jnp.asarray(matrices, jnp.float32),
    )
    return films, classes, counted


# One program also where the caller compiles nothing: operations one by one round differently.
@partial(jax.jit, static_argnames="stretch")
def move(
    images: Float[jax.Array, "B H W C"],
    labels: Integer[jax.Array, "B Hl Wl"],
    where: Bool[jax.Array, "B Hl Wl"] | None,
    matrices: Float[jax.Array, "B 2 3"],
    *,
    stretch: float | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """What `warp` does; films, labels, films' pixels from inside, and labels' that count.

    Args:
        images: Floats.
        labels: Class ids below 2**24.
        where: The pixels that count; None for all.
        matrices: One for each film.
        stretch: What the sum of the absolute factors in a matrix's row does not exceed, where that
            is known: it lets a TPU read films by tiles.
    """
    grid, label_grid = images.shape[1:3], labels.shape[1:3]
    if label_grid[0] < grid[0] or label_grid[0] * grid[1] != label_grid[1] * grid[0]:
        raise ValueError(
            f"labels of {label_grid} for films of {grid}: coarser, or of other proportions"
        )
    if where is not None and where.shape != labels.shape:
        raise ValueError(f"where of {where.shape} for labels of {labels.shape}")
    planes = jnp.moveaxis(images, -1, 1)
    classes = [labels] if where is None else [labels, where]
    if grid == label_grid:
        films, read, inside = _moved(planes, classes, matrices, stretch=stretch)
        inside_labels = inside
    else:
        films, _, inside = _moved(planes, [], matrices, stretch=stretch)
        none = jnp.zeros((len(planes), 0, *label_grid), planes.dtype)
        offsets = matrices[..., 2:] * (label_grid[0] / grid[0])
        finer = jnp.concatenate([matrices[..., :2], offsets], -1)
        _, read, inside_labels = _moved(none, classes, finer, stretch=stretch)
    counts = inside_labels if where is None else inside_labels & read[1]
    return jnp.moveaxis(films, 1, -1), read[0], inside, counts


def _moved(
    films: Float[jax.Array, "B C H W"],
    classes: list[jax.Array],
    matrices: Float[jax.Array, "B 2 3"],
    *,
    stretch: float | None,
) -> tuple[jax.Array, list[jax.Array], jax.Array]:
    """Films and planes of classes on one grid, 0 where they read outside, and the pixels inside."""
    height, width = films.shape[2:]
    bits = fraction_bits(height, width)

    def one(planes: jax.Array, classes: list[jax.Array], matrix: jax.Array) -> Any:
        row, column, fits = _coordinates(matrix, height, width, bits)
        nearest_row, nearest_column = (_nearest(at, bits) for at in (row, column))
        inside = (nearest_row >= 0) & (nearest_row < height)
        inside &= (nearest_column >= 0) & (nearest_column < width) & fits
        planes, *read = _read(planes, classes, row, column, bits=bits, stretch=stretch)
        planes = jnp.where(inside[None], planes, jnp.zeros((), planes.dtype))
        read = [jnp.where(inside, plane, jnp.zeros((), plane.dtype)) for plane in read]
        return planes, read, inside

    return jax.vmap(one)(films, classes, matrices)


def _read(
    films: Float[jax.Array, "C H W"],
    classes: list[jax.Array],
    row: Int[jax.Array, "H W"],
    column: Int[jax.Array, "H W"],
    *,
    bits: int,
    stretch: float | None,
) -> tuple[jax.Array, ...]:
    """Films read bilinearly, and each plane of classes at the nearest pixel; see `move`."""

    def by_pixels(films: jax.Array, classes: list[jax.Array]) -> tuple[jax.Array, ...]:
        height, width = row.shape
        nearest_row = jnp.clip(_nearest(row, bits), 0, height - 1)
        nearest = nearest_row * width + jnp.clip(_nearest(column, bits), 0, width - 1)
        film = jax.vmap(_bilinear, (0, None, None, None))(films, row, column, bits)
        return film, *(_take(plane, nearest) for plane in classes)

    if stretch is None:
        return by_pixels(films, classes)
    side = patch_side(stretch)

    def by_tiles(films: jax.Array, classes: list[jax.Array]) -> tuple[jax.Array, ...]:
        planes = jnp.zeros((len(classes), *row.shape), jnp.float32)
        if classes:
            planes = jnp.stack([plane.astype(jnp.float32) for plane in classes])
        film, read = read_by_tiles(
            films.astype(jnp.float32), planes, row, column, bits=bits, side=side
        )
        exact = (plane.astype(like.dtype) for plane, like in zip(read, classes, strict=True))
        return film.astype(films.dtype), *exact

    return jax.lax.platform_dependent(films, classes, tpu=by_tiles, default=by_pixels)


def _nearest(at: Int[jax.Array, "H W"], bits: int) -> Int[jax.Array, "H W"]:
    return (at + (1 << (bits - 1))) >> bits


def fraction_bits(height: int, width: int) -> int:
    """Binary places of a coordinate: as many as leave `REACH` sides of room in 32 bits."""
    return 31 - (REACH * max(height, width) - 1).bit_length()


def _coordinates(
    matrix: Float[jax.Array, "2 3"], height: int, width: int, bits: int
) -> tuple[Int[jax.Array, "H W"], Int[jax.Array, "H W"], Bool[jax.Array, ""]]:
    """Where each output pixel reads, times ``2**bits``, and whether all that fits 32 bits."""
    side = max(height, width)
    # Half a side from centre to rim on the way in, and half from the centre to coordinate 0.
    reach = jnp.abs(matrix[:, :2]).sum(-1) * (side / 2) + jnp.abs(matrix[:, 2]) + side / 2
    fits = (reach < REACH * side).all()
    matrix = jnp.where(fits, matrix, jnp.zeros_like(matrix))
    # Twice the distance from the centre is an integer for even sides and odd; half the factor.
    factor = jnp.round(matrix[:, :2] * 2.0 ** (bits - 1)).astype(jnp.int32)
    offset = jnp.round(matrix[:, 2] * 2.0**bits).astype(jnp.int32)
    down = (2 * jnp.arange(height, dtype=jnp.int32) - (height - 1))[:, None]
    right = (2 * jnp.arange(width, dtype=jnp.int32) - (width - 1))[None]
    row, column = (
        factor[axis, 0] * down + factor[axis, 1] * right + (offset[axis] + centre)
        for axis, centre in enumerate(((height - 1) << (bits - 1), (width - 1) << (bits - 1)))
    )
    return row, column, fits


def _bilinear(
    image: Float[jax.Array, "H W"],
    row: Int[jax.Array, "H W"],
    column: Int[jax.Array, "H W"],
    bits: int,
) -> Float[jax.Array, "H W"]:
    height, width = image.shape
    row = jnp.clip(row, 0, (height - 1) << bits)
    column = jnp.clip(column, 0, (width - 1) << bits)
    top, left = row >> bits, column >> bits
    bottom, right = jnp.minimum(top + 1, height - 1), jnp.minimum(left + 1, width - 1)
    down, along = (
        (at & ((1 << bits) - 1)).astype(jnp.float32) * 2.0**-bits for at in (row, column)
    )

    def read(row: jax.Array, column: jax.Array) -> jax.Array:
        return _take(image, row * width + column).astype(jnp.float32)

    upper = read(top, left) * (1.0 - along) + read(top, right) * along
    lower = read(bottom, left) * (1.0 - along) + read(bottom, right) * along
    return (upper * (1.0 - down) + lower * down).astype(image.dtype)


def _take(array: jax.Array, index: Int[jax.Array, "H W"]) -> jax.Array:
    return array.reshape(-1).at[index].get(mode="promise_in_bounds")
