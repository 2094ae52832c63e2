"""Which of an archive's files are films with masks, and what is wrong with the rest."""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from jaxseg.errors import InputError

CLASSES = ("COVID", "Lung_Opacity", "Normal", "Viral Pneumonia")
"""The release's class folders, in their order."""


@dataclass(frozen=True)
class Film:
    """One film and its mask: where they lie in the archive.

    Attributes:
        id: the file's stem, such as ``Viral Pneumonia-12``.
        class_name: the class folder's name.
        number: the film's number within its class.
        image: the film's name in the archive.
        mask: the mask's name in the archive.
    """

    id: str
    class_name: str
    number: int
    image: str
    mask: str


class Fault(NamedTuple):
    """Something in an archive that will not do.

    Attributes:
        film: the id of the film that it costs; empty where it costs none.
        message: names the file and says what is wrong, in one line.
    """

    film: str
    message: str


def check(faults: Collection[Fault], path: object) -> None:
    """Raises InputError with the first fault in one line; nothing where there is none.

    Args:
        faults: what was found.
        path: the archive, to name it.
    """
    for fault in faults:
        more = f", and {len(faults) - 1} more will not do" if len(faults) > 1 else ""
        raise InputError(f"{path}: {fault.message}{more}; --skip-bad leaves out what will not do")


def climbs_out(name: str) -> bool:
    """Whether a name in a zip would leave the folder that the zip is unpacked to."""
    parts = name.replace("\\", "/").split("/")
    return ".." in parts or parts[0] == "" or parts[0].endswith(":")


def place(names: Iterable[str], path: object, *, expected: str) -> dict[str, str]:
    """Picks films, masks and metadata sheets, disregarding anything else.

    Args:
        names: every file's name, with forward slashes.
        path: the archive, to name it in an error.
        expected: a folder in which films should lie, for an error.

    Returns:
        The file's full name by its name relative to the data set's own folder, such as
        ``COVID/images/COVID-1.png``. macOS's ``__MACOSX`` and hidden files are no part of it.

    Raises:
        InputError: there are no films, or there are films under two folders.
    """
    classes = "|".join(map(re.escape, CLASSES))
    pattern = re.compile(
        rf"(?P<root>.*/)?(?P<name>(?:{classes})/(?:images|masks)/[^/.][^/]*\.(?i:png)"
        rf"|(?:{classes})\.metadata\.xlsx)"
    )
    matches = {
        name: match
        for name in names
        if (match := pattern.fullmatch(name)) and "__MACOSX" not in name.split("/")
    }
    roots = {match["root"] for match in matches.values() if "/images/" in match["name"]}
    if not roots:
        raise InputError(f"{path}: holds no films; they should lie in folders such as {expected}")
    if len(roots) > 1:
        first, second, *_ = sorted(root or "./" for root in roots)
        raise InputError(f"{path}: holds the films twice, in {first} and in {second}")
    (root,) = roots
    return {match["name"]: name for name, match in matches.items() if match["root"] == root}


def pair_films(
    class_name: str, names: Collection[str], doubled: Collection[str] = ()
) -> tuple[list[Film], list[Fault]]:
    """Pairs one class's films with their masks by number.

    Args:
        class_name: the class folder's name.
        names: every file's name, relative to the data set's own folder.
        doubled: those of them that the archive holds more than once.

    Returns:
        The films that have one mask and are one file, by number; and a fault for every other
        film and mask.
    """
    faults: list[Fault] = []
    images = _numbered(class_name, "images", names, faults)
    masks = _numbered(class_name, "masks", names, faults)
    films = []
    for number in sorted(images.keys() | masks.keys()):
        image, mask = images.get(number, []), masks.get(number, [])
        stem = _stem((image or mask)[0])
        if message := _fault_of(class_name, image, mask, doubled):
            faults.append(Fault(stem, message))
        else:
            films.append(Film(stem, class_name, number, image[0], mask[0]))
    return films, faults


def _numbered(
    class_name: str, kind: str, names: Collection[str], faults: list[Fault]
) -> dict[int, list[str]]:
    """The files of one folder by film number; more than one where 1 and 01 are both there."""
    numbered: dict[int, list[str]] = {}
    for name in names:
        if not name.startswith(f"{class_name}/{kind}/"):
            continue
        stem = _stem(name)
        match = re.fullmatch(rf"{re.escape(class_name)}-(\d+)", stem, re.ASCII)
        if match is None:
            faults.append(Fault(stem, f"{name} should be named {class_name}-NUMBER.png"))
        else:
            numbered.setdefault(int(match[1]), []).append(name)
    return numbered


def _stem(name: str) -> str:
    """As pathlib's, which is many times slower: there are 42,330 names."""
    return name.rsplit("/", 1)[1].rsplit(".", 1)[0]


def _fault_of(
    class_name: str, image: list[str], mask: list[str], doubled: Collection[str]
) -> str | None:
    """What is wrong with the files of one number."""
    if not mask:
        return f"{image[0]} has no mask in {class_name}/masks"
    if not image:
        return f"{mask[0]} has no film in {class_name}/images"
    for files in (image, mask):
        if len(files) > 1:
            return f"{files[0]} and {files[1]} have the same number"
        if files[0] in doubled:
            return f"{files[0]} is in the archive more than once"
    return None
