"""Distances between two boundaries, and their means, percentiles and fractions."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float, Int

from jaxseg.surface.checks import check_percentile, check_tolerance
from jaxseg.types import Array, PerImage

BothDirections = Float[Array, "2 B"]
"""Row 0: from predicted to actual. Row 1: from actual to predicted."""


class SurfaceDistances(NamedTuple):
    """Distance from each boundary element of one mask to the nearest one of the other; a pytree.

    The first axis of every array is the direction: 0 from predicted to actual, 1 from actual to
    predicted. Distances to an empty mask are infinite. From an empty mask there are no distances,
    so the one-way means and percentiles are NaN.
    """

    distances: Float[Array, "2 B N"]
    """In the unit of the spacing and in no particular order; infinite from ``elements`` on."""
    lengths: Float[Array, "2 B N"] | None
    """Contour length of each element, 0 from ``elements`` on; None if every element counts 1."""
    elements: Int[Array, "2 B"]
    """Number of boundary elements of each mask."""

    def hausdorff(self, percentile: float | int = 100.0) -> PerImage:
        """Larger of the two one-way percentiles, as `jaxseg.surface.hausdorff`."""
        # fmax ignores the NaN of an empty mask; the opposite direction is infinite there.
        return jnp.fmax(*self.one_way_percentiles(percentile))

    def average(self) -> PerImage:
        """Mean of both directions together, as `average_surface_distance`."""
        return jnp.sum(_weighted_sum(self, _distance), 0) / jnp.sum(_weighted_sum(self, _one), 0)

    def normalized_dice(self, tolerance: float | int) -> PerImage:
        """Fraction of both boundaries within the tolerance, as `normalized_surface_dice`."""
        check_tolerance(tolerance)
        within = _weighted_sum(self, _is_within, tolerance)
        return jnp.sum(within, 0) / jnp.sum(_weighted_sum(self, _one), 0)

    def f_score(self, tolerance: float | int) -> PerImage:
        """Harmonic mean of both fractions within the tolerance, as `boundary_f_score`."""
        precision, recall = self.one_way_within(tolerance)
        total = precision + recall  # NaN if one mask is empty, where the score is 0.
        score = jnp.where(total > 0, 2 * precision * recall / jnp.where(total > 0, total, 1), 0)
        return jnp.where(jnp.isnan(precision) & jnp.isnan(recall), jnp.nan, score)

    def one_way_within(self, tolerance: float | int) -> BothDirections:
        """Fraction of each boundary within the tolerance of the other: precision and recall."""
        check_tolerance(tolerance)
        return _weighted_sum(self, _is_within, tolerance) / _weighted_sum(self, _one)

    def one_way_averages(self) -> BothDirections:
        """Mean distance of each direction."""
        return _weighted_sum(self, _distance) / _weighted_sum(self, _one)

    def one_way_percentiles(self, percentile: float | int) -> BothDirections:
        """Percentile of the distances of each direction.

        With lengths it is the smallest distance that this fraction of the total length does not
        exceed (surface-distance). Without lengths it is ``numpy.percentile``, linear between ranks
        (MONAI).

        Args:
            percentile: 0 to 100, rounded to 0.001 without lengths; exact up to 2**24 elements.

        Raises:
            ValueError: The percentile is outside 0 to 100.
        """
        check_percentile(percentile)
        if self.lengths is None:
            return _interpolated_percentile(self, round(percentile * 1000))
        return _weighted_percentile(self, percentile / 100)


def chunk_size(batch: int, capacity: int) -> int:
    """Number of elements per mask to process at a time, small enough for the CPU cache."""
    return min(capacity, max(128, min(4096, 2**13 // max(batch, 1))))


def count_chunks(elements: Int[Array, "2 B"], size: int) -> Int[Array, ""]:
    """Number of chunks that hold the elements of every mask."""
    return (jnp.max(elements, initial=0) + size - 1) // size


@partial(jax.jit, static_argnums=1)
def _weighted_sum(
    surfaces: SurfaceDistances, value: Callable[..., Array], *arguments: Array | float
) -> BothDirections:
    """Sum of ``value(distances, *arguments)`` over the elements, weighted by their lengths."""
    _, batch, capacity = surfaces.distances.shape
    size = chunk_size(batch, capacity)
    # Only a buffer that the user has cut has an incomplete last chunk.
    padding = ((0, 0), (0, 0), (0, -capacity % size))
    buffers = jax.tree.map(lambda b: jnp.pad(b, padding), (surfaces.distances, surfaces.lengths))

    def add_chunk(step, total):
        distances, lengths = jax.tree.map(
            lambda buffer: lax.dynamic_slice_in_dim(buffer, step * size, size, axis=2), buffers
        )
        if lengths is None:
            n = step * size + lax.broadcasted_iota(jnp.int32, distances.shape, 2)
            lengths = (n < surfaces.elements[..., None]).astype(jnp.float32)
        terms = jnp.where(lengths > 0, lengths * value(distances, *arguments), 0)
        return total + jnp.sum(terms, axis=2)

    zero = jnp.zeros(surfaces.elements.shape, jnp.float32)
    return lax.fori_loop(0, count_chunks(surfaces.elements, size), add_chunk, zero)


def _one(distances: Array) -> Array:
    return jnp.ones_like(distances)


def _distance(distances: Array) -> Array:
    return distances


def _is_within(distances: Array, tolerance: Array) -> Array:
    # 3 steps of 0.7 may be rounded to slightly more than a tolerance of 2.1.
    return (distances <= tolerance * (1 + 1e-6)).astype(jnp.float32)


def _is_below(distances: Array, limit_bits: Array) -> Array:
    bits = lax.bitcast_convert_type(distances, jnp.int32)
    return (bits < limit_bits[..., None]).astype(jnp.float32)


@partial(jax.jit, static_argnums=1)
def _interpolated_percentile(surfaces: SurfaceDistances, thousandths: int) -> BothDirections:
    # The rank is percentile / 100 * (elements - 1). Its fraction multiplies the gap between two
    # distances, which can be as wide as the image, so it is computed in integers.
    last = jnp.maximum(surfaces.elements - 1, 0)
    hundredths = (last // 1000) * thousandths
    rest = (last % 1000) * thousandths + (hundredths % 100) * 1000
    rank = hundredths // 100 + rest // 100_000
    fraction = (rest % 100_000).astype(jnp.float32) / 100_000
    ranks = jnp.stack([rank, jnp.minimum(rank + 1, last)])
    low, high = jax.vmap(partial(_smallest_reaching, surfaces))(ranks.astype(jnp.float32) + 1)
    between = jnp.where(low == high, low, low + fraction * (high - low))
    return jnp.where(surfaces.elements > 0, between, jnp.nan)


@jax.jit
def _weighted_percentile(surfaces: SurfaceDistances, fraction: Array | float) -> BothDirections:
    # 19 of 20 equal lengths are exactly 95 %; rounding must not ask for more than that.
    needed = _weighted_sum(surfaces, _one) * fraction * (1 - 1e-6)
    # Percentile 0 is the smallest distance.
    needed = jnp.maximum(needed, jnp.finfo(jnp.float32).tiny)
    return jnp.where(surfaces.elements > 0, _smallest_reaching(surfaces, needed), jnp.nan)


def _smallest_reaching(surfaces: SurfaceDistances, needed: BothDirections) -> BothDirections:
    """Smallest distance at which the elements up to that distance have the needed length.

    Non-negative floats order as their bits do. The distance is found bit by bit, highest first,
    because a sort takes many times longer.
    """

    def try_bit(step, bits):
        trial = bits | jnp.int32(1 << 30) >> step
        below = _weighted_sum(surfaces, _is_below, trial)
        return jnp.where(below < needed, trial, bits)

    zero = jnp.zeros(needed.shape, jnp.int32)
    bits = lax.fori_loop(jnp.int32(0), jnp.int32(31), try_bit, zero)
    return lax.bitcast_convert_type(bits, jnp.float32)
