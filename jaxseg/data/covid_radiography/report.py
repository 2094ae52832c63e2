"""Inspects an archive before it is built, and reports what it holds as metadata and as text."""

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from jaxseg.data.archive import IMAGE_SIZE, MASK_SIZE, RELEASE_COUNTS, Archive, Pair
from jaxseg.data.images import read_image, read_mask, size_and_mode
from jaxseg.data.near_duplicates import (
    BITS,
    MAX_HASH_DISTANCE,
    near_duplicate_pairs,
    perceptual_hash,
)
from jaxseg.data.splits import SPLITS, group_images, grouped_split
from jaxseg.data.threads import in_threads
from jaxseg.errors import InputError, refuse_files

FILE = "report.md"
"""The report's name in the folder of the prepared data."""

_LISTED_SOURCES = 30


class Inspected(NamedTuple):
    """An image of the archive with its split.

    Attributes:
        pair: The image and its mask.
        content: The sha256 of the image file, in hexadecimal.
        source: The address of its source, or empty text.
        split: Its split.
    """

    pair: Pair
    content: str
    source: str
    split: str


class _Look(NamedTuple):
    content: str
    hash: np.ndarray
    unusual: tuple[str, ...]


def inspect(
    archive: Archive,
    classes: Sequence[str],
    *,
    skip_bad: bool = False,
    progress: Callable[[], None] | None = None,
) -> tuple[list[Inspected], dict[str, Any]]:
    """Decodes every image and mask of an archive, and splits the images.

    Images of other classes are decoded too: the groups, and so the splits, are the same whichever
    classes are used. Faults of other classes are not reported.

    Args:
        archive: The archive.
        classes: Names of class folders.
        skip_bad: Skip files that cannot be used, instead of raising an error.
        progress: Called after each image.

    Returns:
        The images of ``classes``, and the metadata: ``images`` ``{class: {split: count}}``;
        ``sources`` ``{class: {source: count}}``; ``duplicates``, lists of ids of identical images;
        ``near_duplicates``, ``[id, id, bits that differ]`` of other near-duplicates; ``groups``,
        each with its ``images`` and its ``split``; ``unusual`` ``{what: count}``; ``skipped``,
        messages.

    Raises:
        InputError: A class is absent; or, unless ``skip_bad``, files cannot be used.
    """
    wanted, bad = archive.pairs(classes)
    sources = _sources(archive, classes, wanted, bad)
    everything, _ = archive.pairs(archive.classes)
    pairs, looks = [], []
    for pair, look in zip(everything, in_threads(partial(_look, archive), everything), strict=True):
        if isinstance(look, _Look):
            pairs.append(pair)
            looks.append(look)
        elif pair.class_name in classes:
            bad.append(look)
        if progress is not None:
            progress()
    if not skip_bad:
        refuse_files(archive.path, bad)
    contents = [look.content for look in looks]
    hashes = np.stack([look.hash for look in looks]) if looks else np.zeros((0, 128), np.uint8)
    near = near_duplicate_pairs(hashes)
    first = group_images(contents, [(one, other) for one, other, _ in near])
    split = grouped_split(contents, first)
    inspected = [
        Inspected(pair, look.content, sources.get(pair.id, ""), name)
        for pair, look, name in zip(pairs, looks, split, strict=True)
        if pair.class_name in classes
    ]
    is_used = [pair.class_name in classes for pair in pairs]
    unusual = Counter(
        what for look, used in zip(looks, is_used, strict=True) if used for what in look.unusual
    )

    def ids(groups: Sequence[Sequence[int]]) -> list[list[str]]:
        return [[pairs[i].id for i in group] for group in groups]

    groups = _members(first, is_used)
    return inspected, {
        **_counts(inspected, classes),
        "duplicates": ids(_members(contents, is_used)),
        "near_duplicates": [
            [pairs[one].id, pairs[other].id, bits]
            for one, other, bits in near
            if contents[one] != contents[other] and (is_used[one] or is_used[other])
        ],
        "groups": [
            {"images": members, "split": split[group[0]]}
            for group, members in zip(groups, ids(groups), strict=True)
        ],
        "unusual": dict(sorted(unusual.items())),
        "skipped": bad,
    }


def _counts(inspected: Sequence[Inspected], classes: Sequence[str]) -> dict[str, Any]:
    """The number of images by class and split, and by class and source."""
    images, sources = {}, {}
    for name in classes:
        of_class = [image for image in inspected if image.pair.class_name == name]
        counts = Counter(image.split for image in of_class)
        images[name] = {split: counts[split] for split in SPLITS}
        sources[name] = dict(Counter(image.source or "unknown" for image in of_class).most_common())
    return {"images": images, "sources": sources}


def _members(values: Sequence[Any], is_used: Sequence[bool]) -> list[list[int]]:
    """The indices of every value that several images have, at least one of them used."""
    members: dict[Any, list[int]] = {}
    for index, value in enumerate(values):
        members.setdefault(value, []).append(index)
    return [m for m in members.values() if len(m) > 1 and any(is_used[i] for i in m)]


def markdown(name: str, metadata: Mapping[str, Any]) -> str:
    """Returns the report as Markdown.

    Args:
        name: The name of the dataset.
        metadata: As `inspect` returns it, and the archive's ``fingerprint``.
    """
    images, groups, skipped = (metadata[key] for key in ("images", "groups", "skipped"))
    rows = [(key, RELEASE_COUNTS[key], *counts.values()) for key, counts in images.items()]
    total = ("all", *(sum(column) for column in list(zip(*rows, strict=True))[1:]))
    sources = []
    for key, counts in metadata["sources"].items():
        listed = list(counts.items())[:_LISTED_SOURCES]
        sources += [(key, source, count) for source, count in listed]
        if rest := len(counts) - len(listed):
            more = sum(counts.values()) - sum(count for _, count in listed)
            sources.append((key, f"{rest} more", more))
    near = metadata["near_duplicates"]
    return "\n".join(
        [
            f"# {name}\n",
            f"Built from the archive with the fingerprint {metadata['fingerprint'][:16]}.\n",
            *_table(("class", "in the release", *SPLITS), [*rows, total]),
            "\n## Sources\n",
            *_table(("class", "source", "images"), sources),
            "\n## Images that share a split\n",
            f"{len(groups)} groups of {sum(len(group['images']) for group in groups)} images: "
            f"{len(metadata['duplicates'])} sets of identical files and {len(near)} pairs of "
            f"near-duplicates (at most {MAX_HASH_DISTANCE} of {BITS} bits differ).\n",
            *(f"- {group['split']}: {', '.join(group['images'])}" for group in groups),
            *(f"- near-duplicates: {a} and {b}, {bits} bits differ" for a, b, bits in near),
            "\n## Unusual files\n",
            *([f"- {what}: {count}" for what, count in metadata["unusual"].items()] or ["None."]),
            "\n## Skipped files\n",
            *([f"- {message}" for message in skipped] or ["None."]),
            "",
        ]
    )


def _table(heading: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    lines = [heading, ["---"] * len(heading), *rows]
    return ["| " + " | ".join(map(str, line)) + " |" for line in lines]


def _sources(
    archive: Archive, classes: Sequence[str], pairs: Sequence[Pair], bad: list[str]
) -> dict[str, str]:
    """The source of every image that a metadata sheet names, by id."""
    sources = {}
    for class_name in classes:
        try:
            named = archive.sources(class_name)
        except InputError as error:
            bad.append(_without_path(error, archive))
            continue
        ids = [pair.id for pair in pairs if pair.class_name == class_name]
        if named is not None:
            sources |= {id: named[id.lower()] for id in ids if id.lower() in named}
            bad += [
                f"{class_name}.metadata.xlsx has no row for {id}"
                for id in ids
                if id.lower() not in named
            ]
    return sources


def _look(archive: Archive, pair: Pair) -> _Look | str:
    """Decodes an image and its mask; a message if one cannot be used."""
    try:
        content, mask = archive.read(pair.image), archive.read(pair.mask)
        unusual = [
            *_unusual(content, "image", pair.image, IMAGE_SIZE),
            *_unusual(mask, "mask", pair.mask, MASK_SIZE),
        ]
        pixels = read_image(content, name=pair.image)
        if not read_mask(mask, name=pair.mask).labels.any():
            unusual.append("mask without lung")
    except InputError as error:
        return _without_path(error, archive)
    look = perceptual_hash(pixels[..., 0])
    return _Look(hashlib.sha256(content).hexdigest(), look, tuple(unusual))


def _unusual(content: bytes, what: str, name: str, expected: tuple[int, int]) -> list[str]:
    size, mode = size_and_mode(content, name)
    if size != expected:
        raise InputError(
            f"{name}: has {size[0]} x {size[1]} pixels; every {what} of the release has "
            f"{expected[0]} x {expected[1]}"
        )
    return [] if mode == "L" else [f"{what} stored as {mode}"]


def _without_path(error: InputError, archive: Archive) -> str:
    return str(error).removeprefix(f"{archive.path}: ")
