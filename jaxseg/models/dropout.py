"""Dropout that spends on each value only the random bits that its rate needs."""

import math
from fractions import Fraction

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Float

from jaxseg.models import packing
from jaxseg.types import Rows

WORD = 32
"""Bits that one random word brings."""


def bits_and_threshold(rate: float) -> tuple[int, int]:
    """The bits that a value's draw takes, and how many of their outcomes drop it.

    One, two, four or eight bits where they give the rate exactly, else sixteen, which give it to
    the nearest 1 / 65,536.

    Raises:
        ValueError: The rate is outside [0, 1).
    """
    rate = float(rate)
    if not 0.0 <= rate < 1.0:
        raise ValueError(f"dropout rate {rate} is outside [0, 1)")
    for bits in (1, 2, 4, 8):
        dropped = Fraction(rate) * 2**bits
        if dropped.denominator == 1:
            return bits, int(dropped)
    return 16, min(round(rate * 2**16), 2**16 - 1)


class Dropout(nn.Module):
    """Dropout whose bits depend on the key and on each row's index in the global batch alone.

    So neither the number of devices, nor the part of a batch that is at hand, nor rows that pad it
    change what is dropped. A random word serves as many neighbours along the second axis as it has
    bits for: 32 where the rate is 0.5, where a float for each value would take a word for each.

    Attributes:
        rate: Probability of zero, in [0, 1), taken to the nearest 1 / 65,536; a rate that is a
            multiple of 1 / 256 is exact. What is kept is scaled by the rate as taken.
        columns: Columns that share a place in features packed for a TPU (see `packing`). The bits
            are drawn for places, so that the packed and the plain layout drop the same values.
        packed: Whether ``x`` is in the packed layout.
    """

    rate: float
    columns: int = 1
    packed: bool = False

    @nn.compact
    def __call__(
        self,
        x: Float[jax.Array, "B ..."],
        *,
        train: bool,
        rows: Rows | None = None,
        rng: jax.Array | None = None,
    ) -> Float[jax.Array, "B ..."]:
        """Zeroes each value with probability ``rate`` and scales the others by 1 / (1 - rate).

        Args:
            x: Features.
            train: False returns them as they are.
            rows: ``[B]``, each row's index in the global batch; None counts from 0.
            rng: The key; None takes the module's own, of the collection ``dropout``.

        Raises:
            ValueError: The rate is outside [0, 1).
        """
        bits, threshold = bits_and_threshold(self.rate)
        if not train or threshold == 0:
            return x
        rng = self.make_rng("dropout") if rng is None else rng
        rows = jnp.arange(x.shape[0]) if rows is None else jnp.asarray(rows)
        length, *rest = x.shape[1:] or (1,)
        draws = WORD // bits
        count = -(-length // draws)
        words = _words(rng, rows, count * math.prod(rest))
        if self.packed or self.columns == 1:
            words = words.reshape(-1, count, 1, *rest)
        else:
            places = rest[0] // self.columns, self.columns * rest[1]
            words = packing.unpack(words.reshape(-1, count, 1, *places), self.columns)
        shifts = bits * jnp.arange(draws, dtype=jnp.uint32)
        drawn = (words >> shifts.reshape(1, 1, draws, *(1 for _ in rest))) & jnp.uint32(2**bits - 1)
        # The barrier keeps XLA from moving the reshape up, to words repeated for each draw.
        keep = jax.lax.optimization_barrier(drawn >= threshold)
        keep = keep.reshape(x.shape[0], -1, *rest)[:, :length].reshape(x.shape)
        scale = 1.0 / (1.0 - threshold / 2**bits)
        return jnp.where(keep, x * scale, jnp.zeros_like(x))


def _words(key: jax.Array, rows: jax.Array, count: int) -> jax.Array:
    """uint32 words ``[B, count]``, each row's from its own key."""

    def of_row(row: jax.Array) -> jax.Array:
        return jax.random.bits(jax.random.fold_in(key, row), (count,), jnp.uint32)

    # The barrier keeps XLA from drawing a word again for each of the values that share it.
    return jax.lax.optimization_barrier(jax.vmap(of_row)(rows))
