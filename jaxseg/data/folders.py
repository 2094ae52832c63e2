"""Loads a folder of images and a folder of masks as a dataset with splits."""

import unicodedata
import warnings
from collections import Counter
from collections.abc import Collection, Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxseg.data.arrays import ImageArrays, MaskFiles
from jaxseg.data.images import (
    IGNORED,
    Mask,
    Resize,
    find_images,
    read_image,
    read_mask,
    to_gray,
)
from jaxseg.data.near_duplicates import MAX_HASH_DISTANCE, near_duplicate_pairs, perceptual_hash
from jaxseg.data.preprocessing import Preprocessing
from jaxseg.data.sampling import Sampling
from jaxseg.data.splits import group_images, grouped_split, natural_key
from jaxseg.data.tables import ImageTable
from jaxseg.data.threads import Progress, in_threads
from jaxseg.errors import DataWarning, InputError, refuse_files

MAX_UNNAMED = 0.01
"""The largest fraction of object pixels that may have a value that no class names."""


class FolderDataset(NamedTuple):
    """Images and masks of two folders.

    Attributes:
        arrays: The images.
        fingerprint: sha256 of all names, files, groups and given splits, in hexadecimal.
        skipped: One message for every file that was skipped.
    """

    arrays: ImageArrays
    fingerprint: str
    skipped: list[str]


class _Loaded(NamedTuple):
    """One image at the training size, and what is kept of its files."""

    image: np.ndarray
    label: np.ndarray
    size: tuple[int, int]
    present: set[int]
    mask: Mask
    image_hash: str
    mask_hash: str
    look: np.ndarray


def load_folders(
    images_dir: Path | str,
    masks_dir: Path | str,
    *,
    size: int,
    label_size: int | None = None,
    channels: int = 1,
    classes: Sequence[Collection[int]] | None = None,
    background: Collection[int] | None = (0,),
    ignore: Collection[int] = (),
    mask_suffix: str = "",
    table: ImageTable | None = None,
    near_duplicate_bits: int | None = MAX_HASH_DISTANCE,
    test_only: bool = False,
    skip_bad: bool = False,
    resize: Resize = "bilinear",
    preprocessing: Preprocessing = "none",
    progress: Progress | None = None,
) -> FolderDataset:
    """Loads a folder of images and a folder of masks, paired by name.

    Images of one group share a split. A group consists of the images that ``table`` puts into it,
    identical images and near-duplicates. Splits are those of ``table``. Without them, groups are
    split about 70/10/20 by a hash, as in `jaxseg.data.splits.grouped_split`. The hash is of the
    group's name in ``table``, or of the content of its first image. If there are three groups or
    more, no split is empty. Splits do not depend on sizes.

    Args:
        images_dir: PNG, JPEG, TIFF, BMP or DICOM images; see `jaxseg.data.images.read_image`.
        masks_dir: Their masks, with the same names; see `jaxseg.data.images.read_mask`.
        size: See `jaxseg.data.sampling.Sampling`, as ``label_size``, ``channels``, ``resize`` and
            ``preprocessing``.
        label_size: Height and width of labels.
        channels: 1 for gray or 3 for RGB.
        classes: As in `jaxseg.data.images.read_mask`, as the next.
        background: Mask values of the background, if ``classes`` are given; None: all other values.
        ignore: Mask values of pixels to leave out. They become False in ``where``.
        mask_suffix: Text at the end of the masks' names, such as ``_mask``. Images and masks may
            then be in one folder.
        table: Groups and splits, from `jaxseg.data.tables.read_table`.
        near_duplicate_bits: The largest number of bits in which the hashes of near-duplicates
            differ; None looks for none. The default is measured on chest X-rays. If all images
            share an outline, such as the round field of a fundus camera, use a smaller number.
        test_only: Make all images test images, and look for no near-duplicates.
        skip_bad: Skip files that cannot be used, instead of raising an error.
        resize: How images are resized.
        preprocessing: A change of gray values before resizing.
        progress: Called after every image.

    Returns:
        The images in natural order of their names. Full-size masks are read when you index them.

    Raises:
        InputError: An option is invalid, a folder is missing or empty, or both are the same; a
            class is in no mask; more than `MAX_UNNAMED` of the object pixels have an unnamed value;
            or, unless ``skip_bad``, files are unreadable, without partner, not in the table, equal
            to their mask, of other proportions than it, or no value of the mask is named.

    Warns:
        jaxseg.errors.DataWarning: A folder holds other files, object pixels have a value that no
            class names, no image is left for validation, or the splits of ``table`` separate images
            of a group.
    """
    table = table or ImageTable({}, {})
    sampling = Sampling(size, label_size, channels, resize, preprocessing)
    files, bad = _pair_files(images_dir, masks_dir, mask_suffix, table)
    read = partial(read_mask, classes=classes, background=background, ignore=ignore)
    loaded: dict[str, _Loaded] = {}
    names = sorted(files, key=natural_key)
    load = partial(_load, sampling=sampling, read=read)
    results = in_threads(load, [files[name] for name in names], progress)
    for name, result in zip(names, results, strict=True):
        if isinstance(result, str):
            bad.append(result)
        else:
            loaded[name] = result
    if not skip_bad:
        refuse_files(images_dir, bad)
    if not loaded:
        raise InputError(f"{images_dir}: no image can be used; the first: {bad[0]}")
    _check_values(masks_dir, loaded, classes)
    names, items = list(loaded), list(loaded.values())
    near = None if test_only else near_duplicate_bits
    first = _groups(names, items, table, near)
    split = ["test"] * len(names) if test_only else _splits(names, items, first, table)
    labels = np.stack([item.label for item in items])
    is_valid = labels != IGNORED
    arrays = ImageArrays(
        images=np.stack([item.image for item in items]),
        labels=np.where(is_valid, labels, np.uint8(0)) if ignore else labels,
        masks=MaskFiles([i.size for i in items], lambda i: read(files[names[i]][1]).labels),
        ids=names,
        classes=[""] * len(names),
        sources=[""] * len(names),
        split=split,
        groups=[names[i] for i in first],
        where=is_valid if ignore else None,
    )
    return FolderDataset(arrays, _fingerprint(names, items, table), bad)


def _pair_files(
    images_dir: Path | str, masks_dir: Path | str, mask_suffix: str, table: ImageTable
) -> tuple[dict[str, tuple[Path, Path]], list[str]]:
    """The image and the mask file by name, and a message for every file without a partner."""
    images, suffix = find_images(images_dir), unicodedata.normalize("NFC", mask_suffix)
    if Path(images_dir).resolve() != Path(masks_dir).resolve():
        masks = find_images(masks_dir, suffix=suffix)
    elif suffix:
        masks = {name: images.pop(name) for name in list(images) if name.endswith(suffix)}
        masks = {name.removesuffix(suffix): file for name, file in masks.items()}
    else:
        raise InputError(
            f"{masks_dir}: images and masks are in the same folder. Use two folders, or name the "
            "masks by a suffix"
        )
    bad = [f"{images[name]}: has no mask in {masks_dir}" for name in images if name not in masks]
    bad += [f"{masks[name]}: has no image in {images_dir}" for name in masks if name not in images]
    names = images.keys() & masks.keys()
    for listed in filter(None, table):
        bad += [f"{images[name]}: is not in the table" for name in sorted(names - listed.keys())]
        names &= listed.keys()
    return {name: (images[name], masks[name]) for name in names}, bad


def _load(files: tuple[Path, Path], sampling: Sampling, read: partial[Mask]) -> _Loaded | str:
    """An image with its mask, or why they cannot be used."""
    image_file, mask_file = files
    try:
        content, mask_content = image_file.read_bytes(), mask_file.read_bytes()
        if content == mask_content:
            return f"{mask_file}: is the same file as its image"
        pixels = read_image(content, channels=sampling.channels, name=str(image_file))
        mask = read(mask_content, name=str(mask_file))
    except OSError as error:
        return f"{error.filename}: cannot be read ({error.strerror})"
    except InputError as error:
        return str(error)
    if mask.object_pixels == mask.unnamed_pixels > 0:
        return f"{mask_file}: has the values {_values(mask)}, none of which is named as a class"
    (height, width), (rows, columns) = pixels.shape[:2], mask.labels.shape
    # A mask of other proportions is rotated, cropped, or that of another image. A pixel more or
    # less is rounding. A square mask may have been resized as images are.
    tolerance = 0.02 * height * columns + max(height, width)
    if rows != columns and abs(height * columns - width * rows) > tolerance:
        return (
            f"{image_file}: has {width} x {height} pixels but its mask {columns} x {rows}, of "
            "other proportions. Is one of them rotated or cropped?"
        )
    return _Loaded(
        image=sampling.image(pixels),
        label=sampling.label(mask.labels),
        size=mask.labels.shape,
        present=set(np.unique(mask.labels).tolist()),
        # Only the counts are kept: masks may be large.
        mask=mask._replace(labels=np.zeros((0, 0), np.uint8)),
        image_hash=sha256(content).hexdigest(),
        mask_hash=sha256(mask_content).hexdigest(),
        look=perceptual_hash(to_gray(pixels)),
    )


def _check_values(
    masks_dir: Path | str, loaded: dict[str, _Loaded], classes: Sequence[Collection[int]] | None
) -> None:
    unnamed = sum(item.mask.unnamed_pixels for item in loaded.values())
    if unnamed:
        fraction = unnamed / sum(item.mask.object_pixels for item in loaded.values())
        worst = max(loaded, key=lambda name: loaded[name].mask.unnamed_pixels)
        message = (
            f"{masks_dir}: {fraction:.2%} of the object pixels have values that belong to no "
            f"class, such as {_values(loaded[worst].mask)} in {worst}"
        )
        if fraction > MAX_UNNAMED:
            raise InputError(
                f"{message}. Masks that were anti-aliased, resized smoothly or saved as JPEG have "
                "such values: save them without smoothing, or name all values as classes, "
                "background or ignored"
            )
        warnings.warn(f"{message}; they count as background", DataWarning, stacklevel=3)
    present = set().union(*(item.present for item in loaded.values()))
    for label, values in enumerate(classes or (), 1):
        if label not in present:
            shown = ", ".join(map(str, values))
            raise InputError(f"{masks_dir}: no mask holds any of the values {shown}")


def _groups(
    names: list[str], items: list[_Loaded], table: ImageTable, max_distance: int | None
) -> list[int]:
    """The index of the first image of every image's group."""
    pairs: list[tuple[int, int]] = []
    if max_distance is not None:
        looks = np.stack([item.look for item in items])
        near = near_duplicate_pairs(looks, max_distance=max_distance)
        pairs = [(one, other) for one, other, _ in near]
    if table.groups:
        leader: dict[str, int] = {}
        pairs += [(leader.setdefault(table.groups[name], i), i) for i, name in enumerate(names)]
    return group_images([item.image_hash for item in items], pairs)


def _splits(
    names: list[str], items: list[_Loaded], first: list[int], table: ImageTable
) -> list[str]:
    """The split of every image."""
    if table.splits:
        split = [table.splits[name] for name in names]
        count = Counter(group for group, _ in {*zip(first, split, strict=True)})
        if divided := [names[group] for group in sorted(count) if count[group] > 1]:
            message = (
                f"the given splits separate the images of {len(divided)} groups, such as that of "
                f"{divided[0]}: scores may be too high"
            )
            warnings.warn(message, DataWarning, stacklevel=3)
    else:
        # The name of a group decides, so that its split does not depend on which images it has.
        contents = [item.image_hash for item in items]
        if table.groups:
            contents = [sha256(table.groups[name].encode()).hexdigest() for name in names]
        split = grouped_split(contents, first, fill_empty=True)
    if "validation" not in split:
        message = f"no image is left for validation: {len(names)} images in {len({*first})} groups"
        warnings.warn(message, DataWarning, stacklevel=3)
    return split


def _fingerprint(names: list[str], items: list[_Loaded], table: ImageTable) -> str:
    given = [*filter(None, table)]
    rows = (
        (name, item.image_hash, item.mask_hash, *(listed[name] for listed in given))
        for name, item in zip(names, items, strict=True)
    )
    return sha256("\n".join(map("\0".join, rows)).encode()).hexdigest()


def _values(mask: Mask) -> str:
    return ", ".join(map(str, mask.unnamed_values))
