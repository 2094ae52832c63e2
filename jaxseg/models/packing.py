"""Packed features: neighbouring columns side by side in the channels, for wide vector units.

A TPU computes on 128 channels at a time; where a level has 16, seven eighths of its memory traffic
and of its arithmetic are padding. Packed by ``n`` columns, ``[B, H, W, C]`` becomes
``[B, H, W/n, n*C]`` and a convolution one of structured kernels, assembled inside the program from
the same parameters. Within a place the columns stand in bit-reversed order: then the first half of
the channels holds the even columns, the second the odd ones, pooling is a maximum of halves, and
its result is in that order again.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Float

from jaxseg.models import convolution

LANES = 128
"""Channels that a TPU computes on at a time."""


def columns_per_level(widths: Sequence[int]) -> tuple[int, ...]:
    """How many columns of each level fill the lanes, powers of two that halve from level to level.

    Args:
        widths: Features of each level, finest first.

    Returns:
        ``(8, 4, 2, 1, 1)`` for widths of 16 to 256.
    """
    columns = 1
    while 2 * columns * widths[0] <= LANES and columns < 2 ** (len(widths) - 1):
        columns *= 2
    return tuple(max(1, columns >> level) for level in range(len(widths)))


@functools.cache
def order(columns: int) -> tuple[int, ...]:
    """Which column stands at each position of a place: bit-reversed."""
    if columns == 1:
        return (0,)
    half = order(columns // 2)
    return (*(2 * column for column in half), *(2 * column + 1 for column in half))


def pack(x: jax.Array, columns: int) -> jax.Array:
    """``[..., W, C]`` to ``[..., W/n, n*C]``."""
    if columns == 1:
        return x
    *lead, width, channels = x.shape
    places = x.reshape(*lead, width // columns, columns, channels)
    places = jnp.take(places, jnp.array(order(columns)), axis=-2)
    return places.reshape(*lead, width // columns, columns * channels)


def unpack(x: jax.Array, columns: int) -> jax.Array:
    """``[..., W/n, n*C]`` to ``[..., W, C]``."""
    if columns == 1:
        return x
    *lead, width, channels = x.shape
    places = x.reshape(*lead, width, columns, channels // columns)
    places = jnp.take(places, jnp.array(np.argsort(order(columns))), axis=-2)
    return places.reshape(*lead, width * columns, channels // columns)


def convolve(
    x: Float[jax.Array, "B H P X"], kernel: Float[jax.Array, "S S C D"], columns: int
) -> Float[jax.Array, "B H P Y"]:
    """Convolution of stride 1 with "SAME" padding, packed features to packed features.

    Args:
        x: Features, packed by ``columns``.
        kernel: Of the unpacked convolution, 3x3 or 1x1, in any float dtype; it is assembled in
            its own and computed with in that of ``x``.
        columns: Columns in a place.

    Returns:
        Features of ``x``'s dtype.
    """
    size = kernel.shape[0]
    taps = _same_taps(columns, size)
    rows, places = size // 2, taps.shape[0] // 2
    return convolution.convolve(x, _structured(kernel, taps), [(rows, rows), (places, places)])


def convolve_up(
    x: Float[jax.Array, "B H P X"], kernel: Float[jax.Array, "3 3 C D"], columns: int
) -> Float[jax.Array, "B 2*H P Y"]:
    """3x3 stride-2 transposed convolution with "SAME" padding, packed by n to packed by 2n.

    Each place's columns double where they are; only the rows are dilated, which a TPU does
    without computing on the zeros.

    Args:
        x: Features, packed by ``columns``.
        kernel: Laid out as in `flax.linen.ConvTranspose`; dtypes as in `convolve`.
        columns: Columns in a place of ``x``.

    Returns:
        Features of twice the height and width, packed by ``2 * columns``.
    """
    structured = _structured(kernel, _upsampling_taps(columns))
    return convolution.convolve(x, structured, [(2, 1), (1, 0)], dilation=(2, 1))


def max_pool(x: Float[jax.Array, "B G P X"], columns: int) -> Float[jax.Array, "B H Q Y"]:
    """2x2 max pooling of features packed by ``columns``, to features packed by half as many.

    Of equal values the first, by rows, gets the gradient, as from `flax.linen.max_pool`.
    """
    return _plain_max_pool(x) if columns == 1 else _max_pool(x)


@jax.custom_jvp
def _plain_max_pool(x: jax.Array) -> jax.Array:
    return nn.max_pool(x, (2, 2), strides=(2, 2))


@_plain_max_pool.defjvp
def _plain_max_pool_tangent(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    """The tangent of the first of the largest; its transpose is one pass over the input.

    By JAX's own rule it is a scatter, for which XLA on CPU pools the indices of every pixel too.
    """
    (x,), (tangent,) = primals, tangents
    batch, height, width, features = x.shape
    windows = (batch, height // 2, 2, width // 2, 2, features)
    largest = _plain_max_pool(x)
    corners = x.reshape(windows)
    first = jnp.full(largest.shape, 3, jnp.uint8)
    for place in (2, 1, 0):
        is_largest = corners[:, :, place // 2, :, place % 2] == largest
        first = jnp.where(is_largest, jnp.uint8(place), first)
    places = jnp.arange(4, dtype=jnp.uint8).reshape(1, 1, 2, 1, 2, 1)
    chosen = first[:, :, None, :, None] == places
    moved = tangent.reshape(windows)
    return largest, jnp.where(chosen, moved, jnp.zeros_like(moved)).sum((2, 4))


@jax.custom_jvp
def _max_pool(x: jax.Array) -> jax.Array:
    first, *others = _corners(x)
    for corner in others:
        first = jnp.maximum(first, corner)
    return first


@_max_pool.defjvp
def _max_pool_tangent(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    """The tangent of the first of the largest, as a sum over a mask of the input's own shape.

    Its transpose is one pass over the input; that of slices would be four, and their sum.
    """
    (x,), (tangent,) = primals, tangents
    largest = _max_pool(x)
    chosen, free = [], jnp.ones(largest.shape, bool)
    for corner in _corners(x):
        chosen.append(free & (corner == largest))
        free &= corner != largest
    upper, lower = (jnp.concatenate(c, axis=-1)[:, :, None] for c in (chosen[:2], chosen[2:]))
    # A choice by the row, not a stack of rows, for which XLA would lay out the features anew.
    is_upper = jnp.array([True, False])[None, None, :, None, None]
    pairs = _row_pairs(tangent)
    mask = (is_upper & upper) | (~is_upper & lower)
    kept = jnp.where(mask, pairs, jnp.zeros_like(pairs)).sum(2)
    half = kept.shape[-1] // 2
    return largest, kept[..., :half] + kept[..., half:]


def _row_pairs(x: jax.Array) -> jax.Array:
    return x.reshape(x.shape[0], x.shape[1] // 2, 2, *x.shape[2:])


def _corners(x: jax.Array) -> list[jax.Array]:
    """The four members of each 2x2 window, by rows."""
    half = x.shape[-1] // 2
    rows = _row_pairs(x)
    return [rows[:, :, i, :, part] for i in (0, 1) for part in (slice(half), slice(half, None))]


def _structured(kernel: jax.Array, taps: np.ndarray) -> jax.Array:
    """The kernel over places: ``taps`` ``[t, in, out, x]`` says which tap joins which columns."""
    rows, _, channels, features = kernel.shape
    places, inputs, outputs, _ = taps.shape
    whole = jnp.einsum(
        "tpqx,yxcd->ytpcqd",
        jnp.asarray(taps, kernel.dtype),
        kernel,
        precision=jax.lax.Precision.HIGHEST,
    )
    return whole.reshape(rows, places, inputs * channels, outputs * features)


@functools.cache
def _same_taps(columns: int, size: int) -> np.ndarray:
    reach = size // 2
    taps = np.zeros((1 + 2 * reach, columns, columns, size), np.float32)
    for place, i, j, tap in np.ndindex(taps.shape):
        source = columns * (place - reach) + order(columns)[i]
        taps[place, i, j, tap] = source == order(columns)[j] + tap - reach
    return taps


@functools.cache
def _upsampling_taps(columns: int) -> np.ndarray:
    """``out[2c] = x[c-1] w0 + x[c] w2`` and ``out[2c+1] = x[c] w1``."""
    taps = np.zeros((2, columns, 2 * columns, 3), np.float32)
    for place, i, j in np.ndindex(taps.shape[:3]):
        source = columns * (place - 1) + order(columns)[i]
        column, phase = divmod(order(2 * columns)[j], 2)
        if phase:
            taps[place, i, j, 1] = source == column
        else:
            taps[place, i, j, 0] = source == column - 1
            taps[place, i, j, 2] = source == column
    return taps
