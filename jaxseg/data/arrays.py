"""Films and masks as uint8 arrays: from a prepared data set through a cache, or from two folders.

Decoding and resizing the whole release takes a minute, reading it back memory-mapped a second, so
it is done once per size and kept.
"""

import functools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt8

from jaxseg.data import cache
from jaxseg.data.cache import Pair
from jaxseg.data.films import Resize, read_classes, read_film, read_mask
from jaxseg.data.preprocessing import Preprocessing, preprocess
from jaxseg.data.records import StoredFilms, at_size
from jaxseg.data.splits import natural_key
from jaxseg.data.threads import in_threads
from jaxseg.errors import InputError

if TYPE_CHECKING:
    import jaxseg.data.covid_radiography

Progress = Callable[[int, int], None]

PICTURES = (".png", ".jpg", ".jpeg")
"""How the names of films and masks in folders end, in lower case."""

_LAYOUT = 3
"""Part of the cache's name: a change of what lies in it raises this."""


@dataclass(frozen=True, eq=False)
class FilmArrays:
    """Every film once, in natural order of class and number.

    Attributes:
        images: uint8 ``[N, S, S, 1]``, 0 to 255, the films at the network's size.
        labels: uint8 ``[N, L, L]``, the masks at the size they are learnt from: 0 and 1, or class
            ids.
        masks: uint8, the same on the masks' own grid: ``[N, Hm, Wm]``, or a tuple of N arrays
            ``[Hm, Wm]`` where their sizes differ.
        ids: the films' names.
        classes: the films' classes, empty text where unknown.
        sources: where the films came from, empty text where unknown.
        split: ``train``, ``validation`` or ``test`` for each film.
        groups: for each film the id of its group's first film; films of a group are copies of one
            another, look alike, or are said to belong together, and must not be parted.
    """

    images: UInt8[np.ndarray, "N S S 1"]
    labels: UInt8[np.ndarray, "N L L"]
    masks: UInt8[np.ndarray, "N Hm Wm"] | tuple[UInt8[np.ndarray, "_ _"], ...]
    ids: list[str]
    classes: list[str]
    sources: list[str]
    split: list[str]
    groups: list[str]


def load_arrays(
    builder: "jaxseg.data.covid_radiography.Builder",
    *,
    size: int,
    label_size: int | None = None,
    film_resize: Resize = "bilinear",
    preprocessing: Preprocessing = "none",
    cache_dir: Path | str | None = None,
    progress: Progress | None = None,
) -> FilmArrays:
    """Gives all films of a prepared data set at one size, memory-mapped from a cache on disk.

    The cache is keyed by the archive's fingerprint, the config, the builder's version, the sizes,
    the resize and the preprocessing. It appears once it is whole, is checked in full at every load,
    and made again where it is damaged.

    Args:
        builder: a prepared ``covid_radiography`` builder.
        size: the side in pixels that films are resized to, 1 or more.
        label_size: the side that labels are resized to; None for the films'.
        film_resize: how films are resized, ``bilinear`` (antialiased) or ``nearest``; masks always
            nearest.
        preprocessing: what is done to a film's grey values before it is resized.
        cache_dir: where to keep the arrays; None: beside the prepared data.
        progress: called with the films done so far and the films in all; not called where the
            cache serves.

    Returns:
        The films of all splits. The arrays are read-only.

    Raises:
        InputError: a size is below 1, the preprocessing lacks scikit-image, the cache's folder
            is full or cannot be written to, or a record of the data set is damaged.
        ValueError: the builder is not prepared.
    """
    _check_sizes(size, label_size)
    version_dir = Path(builder.data_dir)
    if not (version_dir / "dataset_info.json").exists():
        raise ValueError(f"{builder.info.full_name} is not prepared: prepare() it first")
    root = Path(cache_dir).expanduser() if cache_dir else version_dir.parents[2] / "arrays"
    config, version = version_dir.parts[-2:]
    sizes = str(size) if label_size in (None, size) else f"{size}-{label_size}"
    made_with = (config, version, sizes, film_resize, preprocessing, str(_LAYOUT))
    directory = root / "-".join((builder.fingerprint[:16], *made_with))
    if not cache.is_whole(directory):
        try:
            _fill_cache(directory, builder, size, label_size, film_resize, preprocessing, progress)
        except OSError as error:
            # Another process may have finished first and hold the folder's name.
            if not cache.is_whole(directory):
                raise InputError(f"{root}: cannot be written to ({error})") from error
    return FilmArrays(**cache.read(directory))


def films_from_folders(
    images_dir: Path | str,
    masks_dir: Path | str,
    *,
    size: int,
    label_size: int | None = None,
    mask_values: Collection[int] | None = None,
    classes: Sequence[Collection[int]] | None = None,
    groups: Mapping[str, str] | None = None,
    film_resize: Resize = "bilinear",
    preprocessing: Preprocessing = "none",
    progress: Progress | None = None,
) -> FilmArrays:
    """Reads a folder of films and a folder of masks, paired by file stem, into memory.

    Args:
        images_dir: PNG or JPEG films of any size and mode; see ``read_film``.
        masks_dir: their masks, each with its film's stem; see ``read_mask``.
        size: the side in pixels that films are resized to, 1 or more.
        label_size: the side that labels are resized to; None for the films'.
        mask_values: the grey values that are the object; None: those above 127.
        classes: the mask values of class 1, of class 2 and so on, in place of ``mask_values``;
            see ``read_classes``.
        groups: by every film's stem what it shares with films that it is not independent of, its
            patient, see `jaxseg.data.folders.read_groups`; None where nothing is known.
        film_resize: how films are resized, ``bilinear`` (antialiased) or ``nearest``.
        preprocessing: what is done to a film's grey values before it is resized.
        progress: called with the films done so far and the films in all.

    Returns:
        The films in natural order of their stems, all of split ``test``, each a group of its own
        unless ``groups`` says otherwise; classes and sources are empty.

    Raises:
        InputError: a size is below 1, a folder is absent or holds no PNG or JPEG, a film has no
            mask or a mask no film, a film is in no group, two files share a stem, a file cannot be
            read, a film and its mask have other proportions, or no mask has any of ``mask_values``
            or of the values of one of ``classes``.
    """
    _check_sizes(size, label_size)
    films, masks = pictures_in(images_dir), pictures_in(masks_dir)
    for stem, film in films.items():
        if stem not in masks:
            raise InputError(f"{film}: {masks_dir} has no mask of that name, {_named(stem)}")
        if groups is not None and stem not in groups:
            raise InputError(f"{film}: is in no group")
    for stem, mask in masks.items():
        if stem not in films:
            raise InputError(f"{mask}: {images_dir} has no film of that name, {_named(stem)}")
    ids = sorted(films, key=natural_key)

    def pair(stem: str) -> Pair:
        film = preprocess(read_film(films[stem]), preprocessing)
        if classes is None:
            mask = read_mask(masks[stem], mask_values)
        else:
            mask = read_classes(masks[stem], classes)
        _check_same_proportions(films[stem], film.shape, mask.shape)
        return at_size(film, mask, size, label_size, film_resize)

    pairs = list(_told(in_threads(pair, ids), len(ids), progress))
    reference = tuple(pair.mask for pair in pairs)
    wanted = [] if mask_values is None else [mask_values]
    for label, values in enumerate(wanted if classes is None else classes, 1):
        if not any((mask == label).any() for mask in reference):
            raise InputError(
                f"{masks_dir}: no mask holds any of the mask values {', '.join(map(str, values))}"
            )
    first: dict[str, str] = {}
    return FilmArrays(
        images=np.stack([pair.image for pair in pairs])[..., None],
        labels=np.stack([pair.label for pair in pairs]),
        masks=np.stack(reference) if len({mask.shape for mask in reference}) == 1 else reference,
        ids=ids,
        classes=[""] * len(ids),
        sources=[""] * len(ids),
        split=["test"] * len(ids),
        groups=[name if groups is None else first.setdefault(groups[name], name) for name in ids],
    )


def _fill_cache(
    directory: Path,
    builder: "jaxseg.data.covid_radiography.Builder",
    size: int,
    label_size: int | None,
    film_resize: Resize,
    preprocessing: Preprocessing,
    progress: Progress | None,
) -> None:
    stored = StoredFilms(builder)
    pair = functools.partial(
        stored.pair,
        size=size,
        label_size=label_size,
        film_resize=film_resize,
        preprocessing=preprocessing,
    )

    first = {
        film: group["films"][0] for group in builder.report["groups"] for film in group["films"]
    }
    facts = {
        "groups": [first.get(record.id, record.id) for record in stored.records],
        "ids": [record.id for record in stored.records],
        "classes": [record.class_name for record in stored.records],
        "sources": [record.source for record in stored.records],
        "split": [record.split for record in stored.records],
    }
    pairs = _told(in_threads(pair, range(len(stored))), len(stored), progress)
    cache.write(directory, pairs, count=len(stored), facts=facts)


def _check_sizes(size: int, label_size: int | None) -> None:
    for name, given in {"size": size, "label_size": label_size}.items():
        if given is not None and given < 1:
            raise InputError(f"{name} {given}: should be 1 or more pixels")


def _check_same_proportions(film: Path, size: tuple[int, ...], mask_size: tuple[int, ...]) -> None:
    """A mask of other proportions is turned, cropped, or another film's.

    A pixel more or less is rounding, and a square mask was resized as films are.
    """
    (height, width), (rows, columns) = size, mask_size
    if rows == columns:
        return
    if abs(height * columns - width * rows) > 0.02 * height * columns + max(height, width):
        raise InputError(
            f"{film}: {width} x {height} pixels, its mask {columns} x {rows}: of other proportions "
            "(is one of them turned or cropped?)"
        )


def _named(stem: str) -> str:
    return f"{stem}.png, .jpg or .jpeg"


def pictures_in(folder: Path | str) -> dict[str, Path]:
    """The PNG and JPEG files of a folder by their stems; hidden ones are left out.

    Raises:
        InputError: there is no such folder or no picture in it, or two share a stem.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder")
    found: dict[str, Path] = {}
    for file in sorted(folder.iterdir()):
        if file.suffix.lower() in PICTURES and not file.name.startswith("."):
            other = found.setdefault(file.stem, file)
            if other != file:
                raise InputError(f"{file}: has the same name as {other.name}")
    if not found:
        raise InputError(f"{folder}: holds no PNG or JPEG file")
    return found


def _told(pairs: Iterable[Pair], total: int, progress: Progress | None) -> Iterator[Pair]:
    """The pairs as they come, each told of."""
    for done, pair in enumerate(pairs, 1):
        yield pair
        if progress is not None:
            progress(done, total)
