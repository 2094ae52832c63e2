"""Which films look alike: a perceptual hash that survives what copies go through.

A film copied, saved anew, brightened or moved by a pixel has other bytes and much the same hash.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import UInt8

from jaxseg.data.films import resize_film

BITS = 1023
"""Bits of a hash that can differ."""

NEAR = 230
"""Films that differ in no more bits than this are near duplicates.

Measured by `benchmarks.likeness` on 1,100 real films: it finds 99.4 to 100 % of those saved as a
poor JPEG, halved, brightened, with another gamma, equalised (also adaptively), turned by 1 degree,
moved by 2 pixels, cropped by 3 or labelled, and none cropped by 8. No two different films differ
in fewer than 303 bits; the full release has 370 times as many pairs, hence the distance from there.
`experiments.inspect_data` shows the closest pairs.
"""

_FREQUENCIES = 32
_SIDE = 4 * _FREQUENCIES

_ROWS = np.arange(_FREQUENCIES)[:, None]
_COSINES = np.cos(np.pi / _SIDE * _ROWS * (np.arange(_SIDE) + 0.5))

# A flat film's coefficients are rounding errors; one grey level on one pixel makes more than this.
_NOTHING = 1e-6

_BLOCK = 512


def perceptual_hash(film: UInt8[np.ndarray, "H W"]) -> UInt8[np.ndarray, "128"]:
    """Hashes a film by what it shows: the signs of its 32x32 lowest frequencies.

    The discrete cosine transform (type II) of the film at 128x128, after Zauner, "Implementation
    and Benchmarking of Perceptual Image Hash Functions" (2010), with signs in place of the
    comparison with the median and more frequencies: chest films are so much alike that 64 bits do
    not tell them apart.

    Args:
        film: any size; its proportions do not count.

    Returns:
        1,024 bits, packed, the lowest frequency first. The first, the mean's, is always 0. A film
        of one grey value has no bit set.
    """
    small = resize_film(film, _SIDE).astype(np.float64)
    # Unlike a matrix product this starts no threads, which on products so small cost more than they
    # give.
    across = np.einsum("rx,fx->rf", small, _COSINES)
    bits = np.einsum("gr,rf->gf", _COSINES, across) > _NOTHING
    bits[0, 0] = False
    return np.packbits(bits)


def near_pairs(
    hashes: UInt8[np.ndarray, "N 128"], *, limit: int = NEAR
) -> list[tuple[int, int, int]]:
    """Finds the pairs of films that look alike.

    Compares every film with every other: 21,165 films take a minute and little memory.

    Args:
        hashes: a `perceptual_hash` for every film.
        limit: the most bits that may differ.

    Returns:
        ``(film, other, bits that differ)`` with ``film < other``, in order.
    """
    pairs = []
    for start, distances in _distances(hashes):
        rows, columns = np.nonzero(np.triu(distances <= limit, 1))
        bits = distances[rows, columns]
        pairs += zip(
            (rows + start).tolist(), (columns + start).tolist(), bits.tolist(), strict=True
        )
    return pairs


def closest_pairs(
    hashes: UInt8[np.ndarray, "N 128"], *, count: int, above: int = NEAR
) -> list[tuple[int, int, int]]:
    """Finds the most alike pairs of films that are not near duplicates.

    Args:
        hashes: a `perceptual_hash` for every film.
        count: how many pairs, 1 or more.
        above: pairs that differ in no more bits than this are left out.

    Returns:
        At most ``count`` of ``(film, other, bits that differ)``, the most alike first.
    """
    closest: list[tuple[int, int, int]] = []
    worst = 8 * hashes.shape[1]
    for start, distances in _distances(hashes):
        wanted = np.triu((distances > above) & (distances <= worst), 1)
        rows, columns = np.nonzero(wanted)
        bits = distances[rows, columns]
        kept = np.argsort(bits, kind="stable")[:count]
        found = ((int(rows[k]) + start, int(columns[k]) + start, int(bits[k])) for k in kept)
        closest = sorted([*closest, *found], key=lambda pair: (pair[2], pair[:2]))[:count]
        if len(closest) == count:
            worst = closest[-1][2]
    return closest


def stacked(hashes: Sequence[bytes]) -> UInt8[np.ndarray, "N 128"]:
    """Hashes kept as bytes, as the array that pairs are found in; no film gives ``[0, 128]``."""
    return np.frombuffer(b"".join(hashes), np.uint8).reshape(len(hashes), (BITS + 1) // 8)


def _distances(hashes: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Bits that differ between a block of films and all films from the block's first on."""
    words = np.ascontiguousarray(hashes).view(np.uint64)
    for start in range(0, len(words), _BLOCK):
        distances = np.zeros((len(words[start : start + _BLOCK]), len(words) - start), np.uint16)
        for word in range(words.shape[1]):
            column = words[start:, word]
            distances += np.bitwise_count(column[:_BLOCK, None] ^ column)
        yield start, distances
