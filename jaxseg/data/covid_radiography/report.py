"""Inspects an archive before it is built, and reports what it holds as metadata and as text."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from jaxseg.data.archive import IMAGE_SIZE, MASK_SIZE, Archive, Pair
from jaxseg.data.images import read_image, read_mask
from jaxseg.data.near_duplicates import near_duplicate_pairs, perceptual_hash
from jaxseg.data.splits import SPLITS, group_images, grouped_split
from jaxseg.data.threads import Progress, in_threads
from jaxseg.errors import InputError, refuse_files


class Inspected(NamedTuple):
    """An image of the archive.

    Attributes:
        pair: The image and its mask.
        content: The sha256 of the image file, in hexadecimal.
        hash: Its perceptual hash.
        has_lung: Whether the mask is not empty.
        source: The address of its source, or empty text.
        split: Its split.
    """

    pair: Pair
    content: str
    hash: np.ndarray
    has_lung: bool
    source: str = ""
    split: str = ""


def inspect(
    archive: Archive,
    classes: Sequence[str],
    *,
    skip_bad: bool = False,
    progress: Progress | None = None,
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
        each with its ``images`` and its ``split``; ``empty_masks``, ids; ``skipped``, messages.

    Raises:
        InputError: A class is absent; or, unless ``skip_bad``, files cannot be used.
    """
    _, bad = archive.pairs(classes)
    pairs, _ = archive.pairs(archive.classes)
    images: list[Inspected] = []
    inspected = in_threads(partial(_inspect, archive), pairs, progress)
    for pair, found in zip(pairs, inspected, strict=True):
        if isinstance(found, Inspected):
            images.append(found)
        elif pair.class_name in classes:
            bad.append(found)
    sources: dict[str, str] = {}
    for name in classes:
        try:
            sources |= archive.sources(name)
        except InputError as error:
            bad.append(str(error))
    if not skip_bad:
        refuse_files(archive.path, bad)
    ids, contents = [image.pair.id for image in images], [image.content for image in images]
    near = near_duplicate_pairs(np.array([i.hash for i in images], np.uint8).reshape(-1, 128))
    first = group_images(contents, [(one, other) for one, other, _ in near])
    splits = grouped_split(contents, first)
    used = [
        image._replace(split=split, source=sources.get(image.pair.id.lower(), ""))
        for image, split in zip(images, splits, strict=True)
        if image.pair.class_name in classes
    ]
    used_ids = {image.pair.id for image in used}
    of_class = {name: [i for i in used if i.pair.class_name == name] for name in classes}
    return used, {
        "images": {
            name: {split: [image.split for image in some].count(split) for split in SPLITS}
            for name, some in of_class.items()
        },
        "sources": {
            name: dict(Counter(image.source or "unknown" for image in some).most_common())
            for name, some in of_class.items()
        },
        "duplicates": _with_equal(contents, ids, used_ids),
        "near_duplicates": [
            [ids[one], ids[other], bits]
            for one, other, bits in near
            if contents[one] != contents[other] and used_ids & {ids[one], ids[other]}
        ],
        "groups": [
            {"images": group, "split": splits[ids.index(group[0])]}
            for group in _with_equal(first, ids, used_ids)
        ],
        "empty_masks": [image.pair.id for image in used if not image.has_lung],
        "skipped": bad,
    }


def _inspect(archive: Archive, pair: Pair) -> Inspected | str:
    """Decodes an image and its mask; a message if one cannot be used."""
    try:
        content = archive.read(pair.image)
        image = read_image(content, name=pair.image)[..., 0]
        labels = read_mask(archive.read(pair.mask), name=pair.mask).labels
    except InputError as error:
        return str(error)
    for name, array, side in ((pair.image, image, IMAGE_SIZE), (pair.mask, labels, MASK_SIZE)):
        height, width = array.shape
        if (height, width) != (side, side):
            return f"{name}: has {width} x {height} pixels; in the release it has {side} x {side}"
    sha256 = hashlib.sha256(content).hexdigest()
    return Inspected(pair, sha256, perceptual_hash(image), bool(labels.any()))


def _with_equal(values: Sequence[Any], ids: Sequence[str], used: set[str]) -> list[list[str]]:
    """Returns the ids of every value that several images have, one of them used."""
    members: dict[Any, list[str]] = {}
    for id, value in zip(ids, values, strict=True):
        members.setdefault(value, []).append(id)
    return [some for some in members.values() if len(some) > 1 and used & {*some}]


def markdown(name: str, metadata: Mapping[str, Any]) -> str:
    """Returns the report as Markdown: a section for every kind of metadata.

    Args:
        name: The name of the dataset.
        metadata: As `inspect` returns it, and the archive's ``fingerprint``.
    """
    lines = [f"# {name}\n\nBuilt from the archive with the fingerprint {metadata['fingerprint']}."]
    for key, found in metadata.items():
        if key != "fingerprint":
            lines.append(f"\n## {key.replace('_', '-').capitalize()} ({len(found)})\n")
            items = found.items() if isinstance(found, Mapping) else found
            lines += [f"- {_text(item)}" for item in items]
    return "\n".join([*lines, ""])


def _text(item: Any) -> str:
    if isinstance(item, tuple):
        return f"{item[0]}: {_text(item[1])}"
    if isinstance(item, Mapping):
        return ", ".join(map(_text, item.items()))
    return ", ".join(map(_text, item)) if isinstance(item, list) else str(item)
