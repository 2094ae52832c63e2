"""Synthetic chest X-rays (phantoms) with their exact lung masks, from a random seed.

`write_archive` writes them in the layout of the COVID-19 Radiography Database, unusual files
included, so that tests, benchmarks and a first training run use the code for the real data without
a download.
"""

import io
import os
import re
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from jaxseg.data import radiograph
from jaxseg.data.archive import FOLDER_NAME
from jaxseg.data.images import png_bytes
from jaxseg.data.threads import Progress
from jaxseg.errors import InputError

CLASSES = tuple(radiograph.FINDINGS)
"""COVID, Lung_Opacity, Normal, Viral Pneumonia."""

IMAGES = dict.fromkeys(CLASSES, 120)
"""Default number of images per class in `write_archive`."""

_README = b"Phantoms: no image shows a person, and nothing here may serve a medical purpose.\n"
_TIME = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
_SOURCES = ("first-hospital", "second-hospital", "teaching-collection")


class Sample(NamedTuple):
    """An image and its mask.

    Attributes:
        image: uint8 gray values, bright where the tissue absorbs most.
        mask: uint8, 255 on pixels whose center is in a lung, 0 elsewhere.
    """

    image: UInt8[np.ndarray, "H W"]
    mask: UInt8[np.ndarray, "h w"]


def generate(
    seed: int, class_name: str, number: int, *, image_size: int = 299, mask_size: int = 256
) -> Sample:
    """Generates one image; the same arguments give the same image.

    Lungs are outlined as in the release's masks: up to the ribs, down to the diaphragm, next to
    heart and mediastinum. The class sets what the lungs show. COVID: peripheral haze in both.
    Lung Opacity: dense consolidation or fluid. Viral Pneumonia: scattered patches. Normal: nothing.
    Where disease hides a lung's border, the mask still includes the hidden part.

    Args:
        seed: Random seed, not negative.
        class_name: One of `CLASSES`.
        number: Which image of the class, not negative.
        image_size: Height and width of the image in pixels; 299 in the release.
        mask_size: Height and width of the mask in pixels; 256 in the release.

    Raises:
        InputError: The class is unknown, or seed or number is negative.

    Examples:
        >>> from jaxseg.data import phantom
        >>> sample = phantom.generate(0, "Normal", 1, image_size=64, mask_size=32)
        >>> sample.image.shape, sample.image.dtype.name, sample.mask.shape, sample.mask.max().item()
        ((64, 64), 'uint8', (32, 32), 255)
    """
    if class_name not in CLASSES:
        raise InputError(f"class {class_name!r} is unknown; there are {', '.join(CLASSES)}")
    if seed < 0 or number < 0:
        raise InputError(f"seed {seed} and image number {number} must not be negative")
    rng = np.random.default_rng([seed, CLASSES.index(class_name), number])
    chest = radiograph.Chest(rng)
    mask = 255 * chest.lungs(mask_size).astype(np.uint8)
    return Sample(radiograph.render(rng, chest, class_name, image_size), mask)


def write_archive(
    directory: str | os.PathLike[str],
    *,
    images: Mapping[str, int] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Path:
    """Generates images and writes them as ``archive.zip``, as Kaggle gives the release.

    For each class there are ``<class>/images/<class>-N.png``, ``<class>/masks/<class>-N.png`` and
    ``<class>.metadata.xlsx``. Images are 299x299 and masks 256x256. A few images repeat their
    predecessor, some Viral Pneumonia images and all masks are RGB, and the sheets state the wrong
    size. The same seed gives the same bytes (with the same NumPy, Pillow, zlib and openpyxl), and
    image N does not depend on how many there are.

    Args:
        directory: Made if absent. An ``archive.zip`` in it is replaced when the new one is
            complete; a killed run leaves at most a folder ``.phantom-*``.
        images: Number of images per class, 1 or more. Default: `IMAGES`, 480 in all.
        seed: Random seed, not negative.
        progress: Called after each image with the number of images done and of all images.

    Returns:
        The path of the archive.

    Raises:
        InputError: A class is unknown, a count is below 1, there is no class, the seed is negative,
            or the archive cannot be written.
    """
    images = IMAGES if images is None else images
    if not images or any(count < 1 for count in images.values()):
        raise InputError(f"images={dict(images)} must name a class, and 1 or more images of each")
    keys = [(name, number) for name, count in images.items() for number in range(1, count + 1)]
    path = Path(directory, "archive.zip")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".phantom-", dir=directory) as scratch:
            with zipfile.ZipFile(Path(scratch, path.name), "w") as archive:
                for done, (name, number) in enumerate(keys, 1):
                    for kind, content in _pair(seed, name, number).items():
                        _store(archive, f"{FOLDER_NAME}/{name}/{kind}/{name}-{number}.png", content)
                    if progress is not None:
                        progress(done, len(keys))
                for name, count in images.items():
                    _store(archive, f"{FOLDER_NAME}/{name}.metadata.xlsx", _sheet(name, count))
                _store(archive, f"{FOLDER_NAME}/README.md.txt", _README)
            os.replace(Path(scratch, path.name), path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error
    return path


def _pair(seed: int, class_name: str, number: int) -> dict[str, bytes]:
    """The files of an image and of its mask, with what is unusual in the release.

    The fifth of every sixty images repeats its predecessor; every tenth Viral Pneumonia image is
    RGB, and so are all masks.
    """
    if number % 60 == 5:
        return _pair(seed, class_name, number - 1)
    image, mask = generate(seed, class_name, number)
    if class_name == "Viral Pneumonia" and number % 10 == 3:
        image = np.dstack([image] * 3)
    return {"images": png_bytes(image), "masks": png_bytes(np.dstack([mask] * 3))}


def _sheet(class_name: str, count: int) -> bytes:
    """A class's metadata sheet. As in the release, the size is wrong and NORMAL is upper case."""
    import openpyxl

    book, written, buffer = openpyxl.Workbook(), io.BytesIO(), io.BytesIO()
    sheet = book.worksheets[0]
    sheet.append(["FILE NAME", "FORMAT", "SIZE", "URL"])
    stem = class_name.upper() if class_name == "Normal" else class_name
    for number in range(1, count + 1):
        source = f"https://phantom.example.org/{_SOURCES[number % len(_SOURCES)]}"
        sheet.append([f"{stem}-{number}", "PNG", "256*256", source])
    book.save(written)
    # The sheet is a zip of XML, packed again without the time of writing.
    with zipfile.ZipFile(written) as parts, zipfile.ZipFile(buffer, "w") as archive:
        for name in parts.namelist():
            _store(archive, name, _TIME.sub(b"1980-01-01T00:00:00Z", parts.read(name)))
    return buffer.getvalue()


def _store(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    """Adds a file to a zip with nothing of the day, the user or the system in its entry."""
    entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    entry.create_system, entry.external_attr = 3, 0o100644 << 16
    archive.writestr(entry, content)
