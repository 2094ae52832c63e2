"""Affine transforms and elastic deformation of images and labels."""

from functools import partial

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates
from jaxtyping import Bool, Float, Key, Num, Shaped

from jaxseg.augment import tiles
from jaxseg.types import Array, Images, PerImage, as_floats

Matrices = Float[Array, "B 2 3"]
"""``[[a, b, row], [c, d, column]]`` for each image: output pixel ``(y, x)`` reads input pixel
``(a y + b x + row, c y + d x + column)``. Both are measured in pixels from the image's center."""

Displacements = Float[Array, "B M N 2"]
"""A coarse grid of points for each image: how far down and to the right of its position an output
pixel reads, as fractions of height and width."""

Coordinates = tuple[Float[jax.Array, "B H W"], Float[jax.Array, "B H W"]]
"""Rows and columns of the input that the output pixels read."""


def affine_matrices(
    size: tuple[int, int],
    *,
    rotation: Float[Array, "B"],
    scale: Float[Array, "B"],
    shift: Float[Array, "B 2"],
    shear: Float[Array, "B"],
    flip: Bool[Array, "B 2"],
) -> Float[jax.Array, "B 2 3"]:
    """Returns matrices that flip, scale, shear, rotate and shift images, in this order.

    Args:
        size: Height and width of the images in pixels.
        rotation: Degrees, counterclockwise on the screen.
        scale: Factors above 0; a factor above 1 enlarges.
        shift: Shifts down and to the right, as fractions of height and width.
        shear: Degrees. A row ``d`` pixels below the center moves ``d * tan(shear)`` to the right.
        flip: Whether to flip up-down, and whether to flip left-right.

    Returns:
        float32 ``[B, 2, 3]`` for `warp`. They map output pixels to input pixels, as the matrix of
        SciPy's ``affine_transform`` does, but about the image's center.
    """
    rotation, scale, shift, shear, pixels = (
        jnp.asarray(array, jnp.float32) for array in (rotation, scale, shift, shear, size)
    )
    angle, lean = jnp.deg2rad(rotation), jnp.tan(jnp.deg2rad(shear))
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    # The inverse transform: unshear @ unrotate, then divide by the scale, then flip.
    rows = jnp.stack([cos, sin], -1)
    columns = jnp.stack([-sin - lean * cos, cos - lean * sin], -1)
    linear = jnp.stack([rows, columns], -2) / scale[:, None, None]
    linear = jnp.where(jnp.asarray(flip)[:, :, None], -linear, linear)
    offset = -(linear * (shift * pixels[None])[:, None, :]).sum(-1, keepdims=True)
    return jnp.concatenate([linear, offset], -1)


def elastic_displacements(
    key: Key[jax.Array, ""], amplitude: PerImage
) -> Float[jax.Array, "B 3 3 2"]:
    """Returns random displacements of a 3 x 3 grid for `warp`, an elastic deformation.

    The coarse grid with bicubic interpolation is that of the U-Net paper (Ronneberger et al. 2015),
    which samples from a normal distribution instead. Up to an amplitude of 0.1, none of 3,000
    random deformations folded the image.

    Args:
        key: A typed key, as from `jax.random.key`.
        amplitude: Largest displacement in either direction, as a fraction of height and width.

    Returns:
        float32, uniform within the amplitude of each image.
    """
    amplitude = jnp.asarray(amplitude, jnp.float32)
    grid = jax.random.uniform(key, (*amplitude.shape, 3, 3, 2), jnp.float32, -1.0, 1.0)
    return grid * amplitude[:, None, None, None]


@partial(jax.jit, static_argnames="max_stretch")
def warp(
    images: Images,
    labels: Num[Array, "B Hl Wl *K"],
    matrices: Matrices,
    *,
    where: Bool[Array, "B Hl Wl"] | Float[Array, "B Hl Wl"] | None = None,
    displacements: Displacements | None = None,
    max_stretch: float | None = None,
) -> tuple[
    Float[jax.Array, "B H W C"],
    Num[jax.Array, "B Hl Wl *K"],
    Bool[jax.Array, "B Hl Wl"] | Float[jax.Array, "B Hl Wl"],
]:
    """Returns images, labels and valid pixels after one transform per image.

    Images are interpolated bilinearly; labels and ``where`` take the nearest pixel. An output
    pixel whose nearest input pixel is outside the image becomes 0 in images and labels, and False
    or 0 in ``where``. Agrees with SciPy's ``affine_transform``, order 1 and 0, mode "nearest", and
    with ``displacements`` with SciPy's ``map_coordinates``.

    Args:
        images: ``[B, H, W, C]``, uint8 (read as value / 255) or float in [0, 1].
        labels: Class ids ``[B, Hl, Wl]`` below 2**24, or one channel per class
            ``[B, Hl, Wl, K]``. The size is that of the images, or larger in equal proportion.
        matrices: One per image, as from `affine_matrices`.
        where: Valid pixels ``[B, Hl, Wl]``, bool or a float weight; None if all are valid.
        displacements: An elastic deformation, as from `elastic_displacements`, or None. Its
            bicubic interpolation is added to the positions that the matrices give.
        max_stretch: Upper bound on the sum of the two absolute linear factors in a row of a
            matrix, if known. TPUs then use `jaxseg.augment.tiles`, except with ``displacements``.

    Returns:
        Images (float32, or the floating dtype given), labels (same dtype) and ``where`` (bool if
        it was None).

    Raises:
        ValueError: Images are neither uint8 nor float, labels are smaller than the images or of
            other proportions, or ``where`` has another size than the labels.
    """
    images, labels = as_floats(images), jnp.asarray(labels)
    size, label_size = images.shape[1:3], labels.shape[1:3]
    if label_size[0] < size[0] or label_size[0] * size[1] != label_size[1] * size[0]:
        raise ValueError(
            f"labels have size {label_size}, images {size}; labels must have the same size, or be "
            "larger in equal proportion"
        )
    if where is not None and where.shape != labels.shape[:3]:
        raise ValueError(f"where has shape {where.shape}, labels {labels.shape}; sizes must match")
    read_from = partial(source_coordinates, matrices, displacements=displacements)
    image_at, label_at = read_from(size), read_from(label_size, zoom=label_size[0] / size[0])
    read = partial(sample, max_stretch=max_stretch if displacements is None else None)
    images, labels = read(images, image_at, order=1), read(labels, label_at, order=0)
    if where is None:
        return images, labels, inside(label_at, label_size)
    return images, labels, read(jnp.asarray(where), label_at, order=0)


def source_coordinates(
    matrices: Matrices,
    size: tuple[int, ...],
    *,
    zoom: float = 1.0,
    displacements: Displacements | None = None,
) -> Coordinates:
    """Returns the input row and column that each output pixel reads.

    Args:
        matrices: In pixels of the image.
        size: Height and width of the grid to read.
        zoom: Pixels of the grid per pixel of the image.
        displacements: As for `warp`.
    """
    matrices = jnp.asarray(matrices, jnp.float32)[..., None, None]
    center = [(side - 1) / 2 for side in size]
    y = (jnp.arange(size[0], dtype=jnp.float32) - center[0])[None, :, None]
    x = (jnp.arange(size[1], dtype=jnp.float32) - center[1])[None, None, :]
    rows, columns = (
        matrices[:, axis, 0] * y
        + matrices[:, axis, 1] * x
        + (matrices[:, axis, 2] * zoom + center[axis])
        for axis in (0, 1)
    )
    if displacements is not None:
        shape = (len(displacements), *size, 2)
        field = jax.image.resize(jnp.asarray(displacements, jnp.float32), shape, "cubic")
        rows, columns = rows + field[..., 0] * size[0], columns + field[..., 1] * size[1]
    return rows, columns


def inside(coordinates: Coordinates, size: tuple[int, ...]) -> Bool[jax.Array, "B H W"]:
    """Returns whether the nearest pixel is inside an image of this size."""
    (rows, columns), (height, width) = coordinates, size
    return (rows >= -0.5) & (rows < height - 0.5) & (columns >= -0.5) & (columns < width - 0.5)


def sample(
    array: Shaped[jax.Array, "B H W *K"],
    coordinates: Coordinates,
    *,
    order: int,
    max_stretch: float | None,
) -> Shaped[jax.Array, "B H W *K"]:
    """Returns the array read at the coordinates, 0 outside; order 1 is bilinear, 0 nearest."""

    def read(plane: jax.Array, at: tuple[jax.Array, jax.Array]) -> jax.Array:
        by_pixels = partial(map_coordinates, order=order, mode="nearest")
        if max_stretch is None:
            return by_pixels(plane, at)
        by_tiles = partial(tiles.map_coordinates, order=order, max_stretch=max_stretch)
        return jax.lax.platform_dependent(plane, at, tpu=by_tiles, default=by_pixels)

    mask = inside(coordinates, array.shape[1:3])
    if array.ndim == 4:
        read = jax.vmap(read, (-1, None), -1)
        mask = mask[..., None]
    values = jax.vmap(read)(array.astype(jnp.float32), coordinates)
    return jnp.where(mask, values, 0.0).astype(array.dtype)
