"""Which film belongs to which split: the grouped rule, and the seed's random 70/30.

Both are pure functions of names and contents, so that two machines, two configurations or two
parts of one release agree without talking to each other.
"""

import math
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from jaxseg.errors import InputError

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


class Bridge(NamedTuple):
    """A film that is like films of several groups, and so joins them.

    Attributes:
        film: the film's index.
        groups: the index of each group's first film; the first of these is the joint group's.
    """

    film: int
    groups: tuple[int, ...]


class Grouping(NamedTuple):
    """Films that must not be parted.

    Attributes:
        first: for every film the index of its group's first film; a film alone is its own first.
        bridges: the films that joined groups, in order.
    """

    first: list[int]
    bridges: list[Bridge]


def group_films(contents: Sequence[str], near: Iterable[tuple[int, int]] = ()) -> Grouping:
    """Groups films that must not be parted: those with the same content, and near duplicates.

    Films are taken in order: each joins the group of the earlier films that it is like, or begins
    one. Likeness is passed on: if B is like A and C like B, the three are one group.

    Args:
        contents: the sha256 of every film's bytes, in (class, number) order.
        near: pairs of indices of films that look alike.
    """
    earlier: dict[int, list[int]] = {}
    for one, other in near:
        earlier.setdefault(max(one, other), []).append(min(one, other))
    seen: dict[str, int] = {}
    grouping = Grouping([], [])

    def first_of(film: int) -> int:
        while grouping.first[film] != film:
            film = grouping.first[film]
        return film

    for film, content in enumerate(contents):
        alike = earlier.get(film, [])
        if content in seen:
            alike = [*alike, seen[content]]
        groups = sorted({first_of(other) for other in alike})
        grouping.first.append(groups[0] if groups else film)
        for group in groups[1:]:
            grouping.first[group] = groups[0]
        if len(groups) > 1:
            grouping.bridges.append(Bridge(film, tuple(groups)))
        seen.setdefault(content, film)
    return Grouping([first_of(film) for film in range(len(contents))], grouping.bridges)


def grouped_split(contents: Sequence[str], near: Iterable[tuple[int, int]] = ()) -> list[str]:
    """Splits films 70/10/20 into train, validation and test, groups whole.

    A group takes its split from the hash of its first film's bytes. Films added after the others
    (with higher numbers, as a release grows) move none of them, unless one bridges two groups:
    `group_films` tells which. A film added before the others moves at most the group of its near
    duplicates, whose first film it becomes.

    Args:
        contents: the sha256 of every film's bytes in hexadecimal, in (class, number) order.
        near: pairs of indices of films that look alike.

    Returns:
        For every film its split's name. The shares hold on average, not to the film.
    """
    return [split_alone(contents[first]) for first in group_films(contents, near).first]


def split_alone(content: str) -> str:
    """The split of a film that begins a group, from the sha256 of its bytes in hexadecimal."""
    share = int(content[:16], 16) / 2**64
    return "train" if share < 0.7 else "validation" if share < 0.8 else "test"


def held_out_split(
    sources: Sequence[str], groups: Sequence[str], split: Sequence[str], *, held_out: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Splits films by where they came from: one source to test on, all others to learn from.

    Args:
        sources: where every film came from, an address, or empty text where unknown.
        groups: a name for every film that films which must not be parted share.
        split: every film's split by `grouped_split`.
        held_out: text that the held-out source's address holds, whatever its case; several
            sources may.

    Returns:
        ``(train, validation, test)``, int64 indices. Test are all films of the source; validation
        those of the other films that are so by ``split``, train the rest of them, films of unknown
        source included. Films of other sources that share a group with a test film are in none.

    Raises:
        InputError: no film's source holds the text, or every film's does.
    """
    tested = np.array([held_out.lower() in source.lower() for source in sources], bool)
    if not held_out or not tested.any() or tested.all():
        named = sorted({source for source in sources if source})
        shown = ", ".join(named[:20]) + (f" and {len(named) - 20} more" if len(named) > 20 else "")
        which = "every film" if tested.any() else "no film"
        raise InputError(
            f"held-out source {held_out!r}: {which} comes from there; "
            f"the sources are {shown or 'not known: the archive has no metadata sheets'}"
        )
    free = ~leaked(groups, np.flatnonzero(tested), np.arange(len(groups)))
    validation = free & (np.asarray(split) == "validation")
    return np.flatnonzero(free & ~validation), np.flatnonzero(validation), np.flatnonzero(tested)


def choosing_split(
    ids: Sequence[str], groups: Sequence[str], split: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Films to choose a recipe by, none of which any rule tests on.

    Args:
        ids: every film's name, once.
        groups: a name for every film that films which must not be parted share.
        split: every film's split by `grouped_split`.

    Returns:
        ``(train, test)``, int64 indices in ascending order: of the films that `seed_split` learns
        from and that share no group with one that it tests on, those that the grouped rule learns
        from, and those that it validates with.
    """
    _, tested = seed_split(ids)
    free = ~leaked(groups, tested, np.arange(len(ids)))
    names = np.asarray(split)
    return np.flatnonzero(free & (names == "train")), np.flatnonzero(free & (names == "validation"))


def leaked(groups: Sequence[str], train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Which test films share a group with a film that was learnt from.

    Args:
        groups: a name for every film that films which must not be parted share.
        train: indices of the films that are learnt from.
        test: indices of the films that are scored.

    Returns:
        bool, for every film of ``test``.
    """
    learnt = {groups[film] for film in train}
    return np.array([groups[film] in learnt for film in test], bool)


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
