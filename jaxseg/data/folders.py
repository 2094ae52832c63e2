"""Films of one's own: a folder of films and one of masks, as a data set with splits."""

import csv
import dataclasses
import hashlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxseg.data.arrays import PICTURES, FilmArrays, Progress, films_from_folders, pictures_in
from jaxseg.data.films import Resize, decode_film
from jaxseg.data.likeness import NEAR, near_pairs, perceptual_hash, stacked
from jaxseg.data.preprocessing import Preprocessing
from jaxseg.data.splits import group_films, split_alone
from jaxseg.data.threads import in_threads
from jaxseg.errors import InputError


class OwnFilms(NamedTuple):
    """Films and masks from two folders, split by group.

    Attributes:
        arrays: the films; ``split`` and ``groups`` tell which belong where.
        fingerprint: sha256 of all names and contents, films and masks, and of given groups; any
            change changes it.
    """

    arrays: FilmArrays
    fingerprint: str


def load_folders(
    images_dir: Path | str,
    masks_dir: Path | str,
    *,
    size: int,
    label_size: int | None = None,
    classes: Sequence[Collection[int]] | None = None,
    groups: Mapping[str, str] | None = None,
    near: int = NEAR,
    film_resize: Resize = "bilinear",
    preprocessing: Preprocessing = "none",
    progress: Progress | None = None,
) -> OwnFilms:
    """Reads a folder of films and one of masks, paired by file stem, as a data set to learn from.

    Splits are 70/10/20 as `jaxseg.data.splits.grouped_split` has them, in natural order of the
    names: films with the same bytes, those that look alike, and those of one given group share a
    split. A given group takes its split from the hash of its name. Neither the size nor the
    preprocessing moves a film.

    Args:
        images_dir: PNG or JPEG films of any size and mode.
        masks_dir: their masks, each with its film's stem.
        size: the side in pixels that films are resized to, 1 or more.
        label_size: the side that labels are resized to; None for the films'.
        classes: the mask values of class 1, of class 2 and so on, see
            `jaxseg.data.films.read_classes`; None: one class, the grey values above 127.
        groups: by every film's stem what it must not be parted from, its patient, see
            `read_groups`; None where nothing is known.
        near: films look alike if their `jaxseg.data.likeness.perceptual_hash`es differ in no more
            bits. The default is measured on chest films; where all pictures share an outline, as
            the round field of a fundus camera, it takes different ones for copies and must be less.
        film_resize: how films are resized; masks always nearest.
        preprocessing: what is done to a film's grey values before it is resized.
        progress: called with the films done so far and the films in all.

    Returns:
        The films, in memory.

    Raises:
        InputError: as `jaxseg.data.arrays.films_from_folders`, or all masks are empty.
    """
    films = pictures_in(images_dir)
    arrays = films_from_folders(
        images_dir,
        masks_dir,
        size=size,
        label_size=label_size,
        classes=classes,
        groups=groups,
        film_resize=film_resize,
        preprocessing=preprocessing,
        progress=progress,
    )
    if not any(mask.any() for mask in arrays.masks):
        raise InputError(f"{masks_dir}: every mask is empty; there is nothing to learn")
    masks = pictures_in(masks_dir)
    facts = list(in_threads(lambda name: _identified(films[name], masks[name]), arrays.ids))
    contents = [fact.film for fact in facts]
    alike = near_pairs(stacked([fact.likeness for fact in facts]), limit=near)
    together = [(film, other) for film, other, _ in alike]
    place = {name: film for film, name in enumerate(arrays.ids)}
    leaders = [place[name] for name in arrays.groups]
    together += [(leader, film) for film, leader in enumerate(leaders) if leader != film]
    first = group_films(contents, together).first
    # By its name a group stays where it is, whatever films it is given, unless one of them looks
    # like another group's.
    deciding, given = contents, [""] * len(arrays.ids)
    if groups is not None:
        deciding = [_sha256(groups[name].encode()) for name in arrays.ids]
        given = [f"\0{groups[name]}" for name in arrays.ids]
    named = zip(arrays.ids, facts, given, strict=True)
    everything = "".join(f"{name}\0{fact.film}{fact.mask}{own}\n" for name, fact, own in named)
    return OwnFilms(
        dataclasses.replace(
            arrays,
            groups=[arrays.ids[film] for film in first],
            split=[split_alone(deciding[film]) for film in first],
        ),
        _sha256(everything.encode()),
    )


def read_groups(path: Path | str) -> dict[str, str]:
    """Reads which films must not be parted, those of one patient, from a CSV file.

    Args:
        path: a table with the columns ``film`` and ``group``, and maybe others: a film's file name,
            with or without its ending, and any text that films of one group share. Blanks around
            either do not count.

    Returns:
        By every film's stem its group.

    Raises:
        InputError: there is no such file, it is no such table, it has a film twice or a row
            without a film or a group, or two groups that differ in upper and lower case alone.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            table = csv.DictReader(file)
            rows, columns = list(table), table.fieldnames or ()
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as a table ({error})") from error
    if not {"film", "group"} <= set(columns):
        raise InputError(f"{path}: needs a first line that names the columns film and group")
    groups: dict[str, str] = {}
    for number, row in enumerate(rows, 1):
        film, group = ((row[name] or "").strip() for name in ("film", "group"))
        if not film or not group:
            raise InputError(f"{path}: row {number} lacks a film or a group")
        file = Path(film)
        stem = file.stem if file.suffix.lower() in PICTURES else file.name
        if stem in groups:
            raise InputError(f"{path}: {film} is there twice")
        groups[stem] = group
    spelt: dict[str, str] = {}
    for group in groups.values():
        if (other := spelt.setdefault(group.lower(), group)) != group:
            raise InputError(
                f"{path}: the groups {other} and {group} differ in case alone; if they are two, "
                "rename one"
            )
    return groups


class _Facts(NamedTuple):
    """Of one film: the sha256 of its bytes and of its mask's, and its perceptual hash."""

    film: str
    mask: str
    likeness: bytes


def _identified(film: Path, mask: Path) -> _Facts:
    content = film.read_bytes()
    likeness = np.asarray(perceptual_hash(decode_film(content, str(film)))).tobytes()
    return _Facts(_sha256(content), _sha256(mask.read_bytes()), likeness)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
