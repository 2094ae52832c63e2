"""Distances between the boundaries of two masks, and what is read from them."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float, Int

from jaxseg.surface.checks import check_percentile, check_tolerance
from jaxseg.surface.transform import as_bits
from jaxseg.types import Array, PerImage

EachWay = Float[Array, "2 B"]
"""First from predicted to actual, then from actual to predicted."""


class SurfaceDistances(NamedTuple):
    """From each boundary element of one mask to the nearest one of the other, both ways; a pytree.

    In all arrays the first axis is the way: first from predicted to actual, then from actual to
    predicted. A way that starts from an empty mask has no distances, so that its mean and
    percentiles are NaN; one that leads to an empty mask has infinite ones.
    """

    distances: Float[Array, "2 B N"]
    """In the unit of the spacing, in no particular order; infinite from index ``elements`` on."""
    lengths: Float[Array, "2 B N"] | None
    """Length of boundary that each element stands for; None where each counts 1."""
    elements: Int[Array, "2 B"]
    """Boundary elements of each mask."""

    def hausdorff(self, percentile: float | int = 100.0) -> PerImage:
        """The larger of the two one-way percentiles; see `hausdorff`."""
        # fmax: an empty mask has no distances of its own, but the other mask's are infinite.
        return jnp.fmax(*self.one_way_percentiles(percentile))

    def average(self) -> PerImage:
        """The mean over both ways together; see `average_surface_distance`."""
        return _both(_sum_over(self, _itself)) / _both(_sum_over(self, _one))

    def normalized_dice(self, tolerance: float | int) -> PerImage:
        """The share of both boundaries within the tolerance; see `normalized_surface_dice`."""
        check_tolerance(tolerance)
        return _both(_sum_over(self, _within, tolerance)) / _both(_sum_over(self, _one))

    def one_way_averages(self) -> EachWay:
        """The mean of each way's distances."""
        return _sum_over(self, _itself) / _sum_over(self, _one)

    def one_way_percentiles(self, percentile: float | int) -> EachWay:
        """The distance that ``percentile`` per cent of a boundary do not exceed, each way.

        With lengths, the smallest distance whose elements and all nearer ones make up that share of
        the length (surface-distance). Without, as ``numpy.percentile``: between the two nearest
        ranks linearly (MONAI).

        Args:
            percentile: 0 to 100, taken to a thousandth (exact for up to 2**24 elements).

        Raises:
            ValueError: the percentile is outside 0 to 100.
        """
        check_percentile(percentile)
        if self.lengths is None:
            return _interpolated_percentiles(self, round(percentile * 1000))
        return _weighted_percentiles(self, percentile / 100)


def chunk_size(batch: int, room: int) -> int:
    """Boundary elements of each mask that are treated at a time: few enough to stay in a cache."""
    return min(room, max(128, min(4096, 2**13 // max(batch, 1))))


def count_chunks(elements: Int[Array, "2 B"], size: int) -> Int[Array, ""]:
    """How many chunks of a size hold the elements of every mask."""
    return (jnp.max(elements, initial=0) + size - 1) // size


def _both(ways: EachWay) -> PerImage:
    there, back = ways
    return there + back


@partial(jax.jit, static_argnums=1)
def _sum_over(
    surfaces: SurfaceDistances, value: Callable[..., Array], *arguments: Array | float
) -> EachWay:
    """Sums ``value(distances, *arguments)`` times the length over each mask's elements."""
    _, batch, room = surfaces.distances.shape
    size = chunk_size(batch, room)

    def add(step, total):
        # The last chunk of a buffer that was cut to no multiple of a chunk begins before its turn.
        start = jnp.minimum(step * size, room - size)
        distances = lax.dynamic_slice_in_dim(surfaces.distances, start, size, axis=2)
        slots = start + lax.broadcasted_iota(jnp.int32, distances.shape, 2)
        if surfaces.lengths is None:
            lengths = (slots < surfaces.elements[..., None]).astype(jnp.float32)
        else:
            lengths = lax.dynamic_slice_in_dim(surfaces.lengths, start, size, axis=2)
        lengths = jnp.where(slots >= step * size, lengths, 0)
        terms = jnp.where(lengths > 0, lengths * value(distances, *arguments), 0)
        return total + jnp.sum(terms, axis=2)

    nothing = jnp.zeros(surfaces.elements.shape, jnp.float32)
    return lax.fori_loop(0, count_chunks(surfaces.elements, size), add, nothing)


def _itself(distances: Array) -> Array:
    return distances


def _one(distances: Array) -> Array:
    return jnp.ones_like(distances)


def _within(distances: Array, tolerance: Array) -> Array:
    # As a distance of 3 steps of 0.7 may be rounded to just above a tolerance of 2.1.
    tolerance = tolerance * (1 + 1e-6)
    return (distances <= tolerance).astype(jnp.float32)


def _nearer(distances: Array, bits: Array) -> Array:
    return (as_bits(distances) < bits[..., None]).astype(jnp.float32)


@partial(jax.jit, static_argnums=1)
def _interpolated_percentiles(surfaces: SurfaceDistances, thousandths: int) -> EachWay:
    # The rank percentile / 100 * (elements - 1) in integers: in float32 its fraction would be off
    # by 1e-4, times the gap to the next distance, which an outlier makes as wide as the picture.
    last = jnp.maximum(surfaces.elements - 1, 0)
    hundredths = (last // 1000) * thousandths
    rest = (last % 1000) * thousandths + (hundredths % 100) * 1000
    rank = hundredths // 100 + rest // 100_000
    fraction = (rest % 100_000).astype(jnp.float32) / 100_000
    ranks = jnp.stack([rank, jnp.minimum(rank + 1, last)])
    low, high = jax.vmap(partial(_value_at, surfaces))(ranks.astype(jnp.float32) + 1)
    between = jnp.where(low == high, low, low + fraction * (high - low))
    return jnp.where(surfaces.elements > 0, between, jnp.nan)


@jax.jit
def _weighted_percentiles(surfaces: SurfaceDistances, share: Array | float) -> EachWay:
    # Where elements make up the very share, 19 of 20 alike 95 %, rounding must not ask for more.
    needed = _sum_over(surfaces, _one) * share * (1 - 1e-6)
    # At a share of 0 the nearest element is still the first that reaches it.
    needed = jnp.maximum(needed, jnp.finfo(jnp.float32).tiny)
    return jnp.where(surfaces.elements > 0, _value_at(surfaces, needed), jnp.nan)


def _value_at(surfaces: SurfaceDistances, needed: EachWay) -> EachWay:
    """The smallest distance that, with all smaller ones, makes up the needed length.

    It is found bit by bit, highest first: a sort would cost many times as much.
    """

    def refine(search):
        bit, bits = search
        trial = bits | bit
        return bit >> 1, jnp.where(_sum_over(surfaces, _nearer, trial) < needed, trial, bits)

    highest = (jnp.int32(1 << 30), jnp.zeros(needed.shape, jnp.int32))
    _, bits = lax.while_loop(lambda search: search[0] > 0, refine, highest)
    return lax.bitcast_convert_type(bits, jnp.float32)
