"""Splits images into train, validation and test, and keeps related images in one split.

The rules are pure functions of names and contents, so that two machines, two configurations or two
parts of one release agree.
"""

import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from jaxseg.errors import InputError

SPLITS = ("train", "validation", "test")

_MIDDLE = {"train": 0.35, "validation": 0.75, "test": 0.9}


def natural_key(name: str) -> tuple[list[str | int], str]:
    """Sort key under which ``COVID-2`` comes before ``COVID-10``.

    Returns:
        The name cut into words and whole numbers, then the name itself, so that names that differ
        only in leading zeros have an order too.
    """
    pieces: list[str | int] = [
        int(piece) if piece.isdecimal() else piece for piece in re.split(r"(\d+)", name)
    ]
    return pieces, name


def group_images(contents: Sequence[str], pairs: Iterable[tuple[int, int]] = ()) -> list[int]:
    """Groups images that must share a split: those with the same content, and given pairs.

    Groups are the connected components: if A and B are a pair, and B and C, all three are one
    group.

    Args:
        contents: A hash of the content of every image.
        pairs: Pairs of indices of images that belong together, such as near-duplicates.

    Returns:
        For every image the index of its group's first image.
    """
    first = list(range(len(contents)))

    def first_of(image: int) -> int:
        while first[image] != image:
            image = first[image]
        return image

    seen: dict[str, int] = {}
    same = [(seen.setdefault(content, image), image) for image, content in enumerate(contents)]
    for one, other in [*same, *pairs]:
        low, high = sorted((first_of(one), first_of(other)))
        first[high] = low
    return [first_of(image) for image in range(len(contents))]


def grouped_split(
    contents: Sequence[str], first: Sequence[int], *, fill_empty: bool = False
) -> list[str]:
    """Splits images 70/10/20 into train, validation and test, and keeps groups whole.

    A group takes its split from the hash of its first image. Images that are added later do not
    change the split of earlier ones, unless one joins two groups or becomes the first of its group.

    Args:
        contents: The sha256 of every image's content, in hexadecimal.
        first: The index of the first image of every image's group, from `group_images`.
        fill_empty: Whether an empty split gets the group whose hash is closest to the middle of its
            range, from a split that has two or more groups. With three or more groups no split is
            empty then. For small datasets: images that are added later may move such a group.

    Returns:
        For every image the name of its split. The fractions hold on average.
    """
    groups = {index: split_of_hash(contents[index]) for index in sorted(set(first))}
    for name, middle in _MIDDLE.items() if fill_empty else ():
        count = Counter(groups.values())
        movable = [index for index, split in groups.items() if count[split] > 1]
        if movable and not count[name]:
            groups[min(movable, key=lambda i: abs(_fraction(contents[i]) - middle))] = name
    return [groups[index] for index in first]


def split_of_hash(content: str) -> str:
    """Returns the split that a sha256 in hexadecimal stands for."""
    fraction = _fraction(content)
    return "train" if fraction < 0.7 else "validation" if fraction < 0.8 else "test"


def held_out_split(
    sources: Sequence[str], groups: Sequence[str], split: Sequence[str], *, held_out: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Splits images by source: one source to test on, all others to train on.

    Args:
        sources: The source of every image, an address, or empty text if unknown.
        groups: The name of every image's group. Images of one group must share a split.
        split: Every image's split by `grouped_split`.
        held_out: Text in the address of the held-out source, in any case. Several sources may
            contain it.

    Returns:
        ``(train, validation, test)``, int64 indices. Test images are all images of the source.
        Validation images are those of the other images that ``split`` names so, and train images
        the rest, including images of unknown source. Images of other sources that share a group
        with a test image are in none.

    Raises:
        InputError: No image's source contains the text, or every image's does.
    """
    tested = np.array([held_out.lower() in source.lower() for source in sources], bool)
    if not held_out or not tested.any() or tested.all():
        named = sorted({source for source in sources if source})
        shown = ", ".join(named[:20]) + (f" and {len(named) - 20} more" if len(named) > 20 else "")
        which = "every image" if tested.any() else "no image"
        raise InputError(
            f"held-out source {held_out!r}: {which} comes from there. The sources are "
            f"{shown or 'not known: the archive has no metadata sheets'}"
        )
    free = ~leaked(groups, np.flatnonzero(tested), np.arange(len(groups)))
    validation = free & (np.asarray(split) == "validation")
    return np.flatnonzero(free & ~validation), np.flatnonzero(validation), np.flatnonzero(tested)


def fold_split(
    groups: Sequence[str], fold: int, folds: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Splits images for cross-validation and keeps groups whole.

    Largest first, in the order of the hash of their names, groups go to the fold with the fewest
    images, as in scikit-learn's ``GroupKFold``. So folds are of about equal size.

    Args:
        groups: The name of every image's group. Images of one group must share a split.
        fold: The fold to test on, from 1 to ``folds``.
        folds: Number of folds, from 2 to the number of groups.

    Returns:
        ``(train, validation, test)``, int64 indices in ascending order. Validation images are about
        a tenth of the images that are not tested, from every other fold; none if a group is larger.

    Raises:
        InputError: ``fold`` or ``folds`` is out of range.
    """
    sizes = Counter(groups)
    if not (2 <= folds <= len(sizes) and 1 <= fold <= folds):
        raise InputError(
            f"fold {fold} of {folds}: folds must be 2 to {len(sizes)}, the number of groups, and "
            "the fold 1 to the number of folds"
        )
    hashed = {name: hashlib.sha256(name.encode()).hexdigest() for name in sizes}
    fold_of, images = {}, [0] * folds
    for name in sorted(sizes, key=lambda name: (-sizes[name], hashed[name])):
        smallest = images.index(min(images))
        fold_of[name] = smallest + 1
        images[smallest] += sizes[name]
    split_of, wanted = {}, (len(groups) - images[fold - 1]) // 10
    for name in sorted(sizes, key=hashed.__getitem__):
        if fold_of[name] == fold:
            split_of[name] = "test"
        elif sizes[name] <= wanted:
            split_of[name] = "validation"
            wanted -= sizes[name]
        else:
            split_of[name] = "train"
    split = np.array([split_of[name] for name in groups])
    train, validation, test = (np.flatnonzero(split == name) for name in SPLITS)
    return train, validation, test


def model_selection_split(
    ids: Sequence[str], groups: Sequence[str], split: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Chooses images for model selection, none of which another rule tests on.

    Args:
        ids: Every image's name, once.
        groups: The name of every image's group. Images of one group must share a split.
        split: Every image's split by `grouped_split`.

    Returns:
        ``(train, test)``, int64 indices in ascending order. Of the images that `random_split`
        trains on and that share no group with one that it tests on, these are the train images and
        the validation images of ``split``.
    """
    _, tested = random_split(ids)
    free = ~leaked(groups, tested, np.arange(len(ids)))
    names = np.asarray(split)
    return np.flatnonzero(free & (names == "train")), np.flatnonzero(free & (names == "validation"))


def leaked(groups: Sequence[str], train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Returns which test images share a group with a training image.

    Args:
        groups: The name of every image's group. Images of one group must share a split.
        train: Indices of the training images.
        test: Indices of the test images.

    Returns:
        bool, for every index in ``test``.
    """
    trained_on = {groups[image] for image in train}
    return np.array([groups[image] in trained_on for image in test], bool)


def random_split(ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Splits images 70/30 at random as the Keras baseline does, regardless of groups.

    Agrees with scikit-learn's ``train_test_split(test_size=0.3, random_state=42)`` on the naturally
    sorted ids, order included.

    Args:
        ids: Every image's name, once, in any order.

    Returns:
        ``(train, test)``, int64 indices into ``ids``. Without images both are empty.
    """
    order = np.array(sorted(range(len(ids)), key=lambda i: natural_key(ids[i])), dtype=np.int64)
    shuffled = order[np.random.RandomState(42).permutation(len(ids))]
    # In floating point, as in scikit-learn.
    test_size = math.ceil(0.3 * len(ids))
    return shuffled[test_size:], shuffled[:test_size]


def _fraction(content: str) -> float:
    return int(content[:16], 16) / 2**64
