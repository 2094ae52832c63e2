"""Which film belongs to which split: the grouped rule, and the seed's random 70/30.

Both are pure functions of names and contents, so that two machines, two configurations or two
parts of one release agree without talking to each other.
"""

import math
import re
from collections.abc import Sequence

import numpy as np

SPLITS = ("train", "validation", "test")


def natural_key(name: str) -> tuple[list[str | int], str]:
    """Sort key under which ``COVID-2`` comes before ``COVID-10``.

    Args:
        name: any text.

    Returns:
        The text cut into words and whole numbers, then the text itself, so that names that differ
        only in leading zeros have an order too.
    """
    pieces: list[str | int] = [
        int(piece) if piece.isdecimal() else piece for piece in re.split(r"(\d+)", name)
    ]
    return pieces, name


def group_films(contents: Sequence[str]) -> list[int]:
    """Groups films that must not be parted: those with the same content.

    Args:
        contents: the sha256 of every film's bytes, in (class, number) order.

    Returns:
        For every film the index of its group's first film; a film alone is its own first.
    """
    first: dict[str, int] = {}
    return [first.setdefault(content, index) for index, content in enumerate(contents)]


def grouped_split(contents: Sequence[str]) -> list[str]:
    """Splits films 70/10/20 into train, validation and test, groups whole.

    A group takes its split from the hash of its first film. The hash is of the film's bytes and a
    group is one content, so a film's split depends on that film alone: films added or left out
    move no other, a film falls into the same split in every configuration, and no film can bridge
    two groups.

    Args:
        contents: the sha256 of every film's bytes in hexadecimal, in (class, number) order.

    Returns:
        For every film its split's name. The shares hold on average, not to the film.
    """
    return [_split_of(contents[first]) for first in group_films(contents)]


def seed_split(ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Splits films 70/30 at random as the seed did, groups and classes disregarded.

    Agrees with scikit-learn's ``train_test_split(test_size=0.3, random_state=42)`` on the
    naturally sorted ids, order included.

    Args:
        ids: every film's name, once, in any order.

    Returns:
        ``(train, test)``, int64 indices into ``ids``. No film gives two empty arrays.
    """
    order = np.array(sorted(range(len(ids)), key=lambda i: natural_key(ids[i])), dtype=np.int64)
    shuffled = order[np.random.RandomState(42).permutation(len(ids))]
    # In floating point, as scikit-learn has it.
    test_size = math.ceil(0.3 * len(ids))
    return shuffled[test_size:], shuffled[:test_size]


def _split_of(content: str) -> str:
    share = int(content[:16], 16) / 2**64
    return "train" if share < 0.7 else "validation" if share < 0.8 else "test"
