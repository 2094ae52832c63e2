"""Every film of an archive looked at before anything is written: what it holds, what is wrong."""

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from jaxseg.data.archive import FILM_SIZE, MASK_SIZE, Archive
from jaxseg.data.films import decode_film, decode_mask, grey_film_png, picture_kind
from jaxseg.data.likeness import near_pairs, perceptual_hash, stacked
from jaxseg.data.listing import Fault, Film, check
from jaxseg.data.splits import Grouping, group_films, split_alone
from jaxseg.data.threads import in_threads
from jaxseg.errors import InputError


@dataclass(frozen=True)
class Inspected:
    """A film that will do.

    Attributes:
        film: where it lies.
        content: the sha256 of the film's bytes, in hexadecimal.
        likeness: its perceptual hash, 128 bytes.
        oddities: what the release has too, but a reader may not expect: stored as RGB, empty.
    """

    film: Film
    content: str
    likeness: bytes
    oddities: tuple[str, ...]


@dataclass(frozen=True)
class Inspection:
    """What an archive holds.

    Attributes:
        films: the films of all classes in (class, number) order, less those that will not do.
        near: ``(film, other, bits that differ)`` of the near duplicates, as indices into ``films``,
            those with the same bytes included.
        grouping: the films that must not be parted.
        sheets: the classes asked for whose metadata sheet was read.
        sources: where each film came from, by id, empty where the sheet's row does not say; films
            without a row are left out.
        oddities: how often each occurs among the classes asked for.
        faults: what will not do among the classes asked for.
    """

    films: Sequence[Inspected]
    near: Sequence[tuple[int, int, int]]
    grouping: Grouping
    sheets: Sequence[str]
    sources: Mapping[str, str]
    oddities: Mapping[str, int]
    faults: Sequence[Fault]

    def split(self, film: int) -> str:
        """The split of one film, by index: that of its group's first."""
        return split_alone(self.films[self.grouping.first[film]].content)


def inspect(
    archive: Archive,
    classes: Sequence[str],
    *,
    skip_bad: bool = False,
    looked_at: Callable[[], None] | None = None,
) -> Inspection:
    """Reads and decodes every film and mask of an archive.

    Films of classes that are not asked for are looked at too: a film's group, and so its split, is
    the same whichever classes are used. What is wrong with those is left for when they are.

    Args:
        archive: the archive.
        classes: names of class folders.
        skip_bad: leave out what will not do, and tell of it in ``faults``; a film that only a
            metadata sheet lacks stays, without a source.
        looked_at: called after each film.

    Raises:
        InputError: a class is absent; or, unless ``skip_bad``, a file will not do: no picture,
            damaged, of another size than the release's, unpaired, doubled, named otherwise, a
            sheet that cannot be read or lacks a film of its class.
    """
    wanted, faults = archive.survey(classes)
    sheets, sources, unread = _sources(archive, classes, wanted)
    faults += unread
    if not skip_bad:
        check(faults, archive.path)
    films, _ = archive.survey(archive.classes)
    good, oddities = [], Counter()
    for film, found in zip(films, in_threads(partial(_look_at, archive), films), strict=True):
        asked_for = film.class_name in classes
        if isinstance(found, Inspected):
            good.append(found)
            oddities.update(found.oddities if asked_for else ())
        elif asked_for:
            faults.append(found)
            if not skip_bad:
                check([found], archive.path)
        if looked_at is not None:
            looked_at()
    near = near_pairs(stacked([film.likeness for film in good]))
    grouping = group_films([film.content for film in good], [(a, b) for a, b, _ in near])
    return Inspection(good, near, grouping, sheets, sources, dict(oddities), faults)


def _sources(
    archive: Archive, classes: Sequence[str], films: Sequence[Film]
) -> tuple[list[str], dict[str, str], list[Fault]]:
    """The classes with a sheet, the source that it gives each film, what is wrong with sheets."""
    sheets, sources, faults = [], {}, []
    for class_name in classes:
        try:
            named = archive.sources(class_name)
        except InputError as error:
            faults.append(Fault("", _without_path(error, archive)))
            continue
        if named is None:
            continue
        sheets.append(class_name)
        ids = [film.id for film in films if film.class_name == class_name]
        sources |= {film: named[film.lower()] for film in ids if film.lower() in named}
        if missing := [film for film in ids if film.lower() not in named]:
            more = f" and {len(missing) - 1} more films" if len(missing) > 1 else ""
            faults.append(
                Fault("", f"{class_name}.metadata.xlsx has no row for {missing[0]}{more}")
            )
    return sheets, sources, faults


def _look_at(archive: Archive, film: Film) -> Inspected | Fault:
    """Decodes a film and its mask."""
    try:
        image, mask = archive.read(film.image), archive.read(film.mask)
        oddities = [
            *_oddities(archive, film.image, image, "film", FILM_SIZE),
            *_oddities(archive, film.mask, mask, "mask", MASK_SIZE),
        ]
        name = f"{archive.path}: {film.image}"
        pixels = decode_film(grey_film_png(image, name), name)
        if not decode_mask(mask, f"{archive.path}: {film.mask}", checked=True).any():
            oddities.append("mask without lung: kept")
    except InputError as error:
        return Fault(film.id, _without_path(error, archive))
    likeness = np.asarray(perceptual_hash(pixels)).tobytes()
    return Inspected(film, hashlib.sha256(image).hexdigest(), likeness, tuple(oddities))


def _oddities(
    archive: Archive, name: str, data: bytes, what: str, expected: tuple[int, int]
) -> list[str]:
    size, mode = picture_kind(data, f"{archive.path}: {name}")
    if size != expected:
        raise InputError(
            f"{archive.path}: {name} is {size[0]}x{size[1]} pixels; "
            f"every {what} of the release is {expected[0]}x{expected[1]}"
        )
    return [] if mode == "L" else [f"{what} stored as {mode}: made grey"]


def _without_path(error: InputError, archive: Archive) -> str:
    return str(error).removeprefix(f"{archive.path}: ")
