"""Drawn chest films (phantoms) with their exact lung masks, from a seed.

`write_archive` lays them out as the COVID-19 Radiography Database is released, oddities included,
so that tests, benchmarks and a first training run take the real data's path without a download.
"""

import io
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from jaxseg.data import anatomy, radiograph
from jaxseg.errors import InputError

CLASSES = tuple(radiograph.FINDINGS)
"""COVID, Lung_Opacity, Normal, Viral Pneumonia."""

FILMS = dict.fromkeys(CLASSES, 120)
"""How many films of each class `write_archive` draws unless told."""

FOLDER = "COVID-19_Radiography_Dataset"

_README = """\
Phantoms: drawn chest films with the lung masks that they were drawn from.
No film shows a person, and nothing here may serve a medical purpose.
The folders, names, sizes and oddities are those of the COVID-19 Radiography Database.
"""
_SOURCES = ("first-hospital", "second-hospital", "teaching-collection")


class Film(NamedTuple):
    """A film and its mask.

    Attributes:
        image: uint8 grey values, bright where little light came through.
        mask: uint8, 255 on the pixels whose centre lies in a lung, 0 elsewhere.
    """

    image: UInt8[np.ndarray, "H W"]
    mask: UInt8[np.ndarray, "h w"]


def rasterize(outline: np.ndarray, size: int) -> Bool[np.ndarray, "H W"]:
    """Which pixels' centres lie inside a polygon, by the even-odd rule.

    Args:
        outline: corners (x, y), [N, 2]; the picture is the unit square, y runs down. Corners may
            lie outside it. None at all gives an empty mask.
        size: pixels on a side.

    Returns:
        bool [size, size].
    """
    start = outline * size - 0.5
    stop = np.roll(start, -1, axis=0)
    rows = np.arange(size)
    edge, row = np.nonzero((start[:, 1, None] <= rows) != (stop[:, 1, None] <= rows))
    part = (row - start[edge, 1]) / (stop[edge, 1] - start[edge, 1])
    x = start[edge, 0] + part * (stop[edge, 0] - start[edge, 0])
    # Every crossing turns inside to outside, or back, for the rest of its row.
    column = np.clip(np.ceil(x), 0, size).astype(np.int64)
    turns = np.bincount(row * (size + 1) + column, minlength=size * (size + 1))
    return np.cumsum(turns.reshape(size, size + 1)[:, :size], axis=1) % 2 == 1


def draw(
    seed: int, class_name: str, number: int, *, image_size: int = 299, mask_size: int = 256
) -> Film:
    """Draws one film; the same arguments give the same film, whatever else is drawn.

    Lungs lie as in the release's masks: up to the ribs, down to the diaphragm, beside heart and
    mediastinum. The class says what fills their air: COVID haze in the periphery of both, Lung
    Opacity dense consolidation or fluid, Viral Pneumonia scattered patches, Normal nothing. Where
    disease hides a lung's border from sight the mask keeps it.

    Args:
        seed: not negative.
        class_name: one of `CLASSES`.
        number: which film of the class, not negative.
        image_size: the film's side in pixels; the release's is 299.
        mask_size: the mask's side in pixels; the release's is 256.

    Raises:
        InputError: the class is unknown, or seed or number is negative.

    Examples:
        >>> from jaxseg.data import phantom
        >>> film = phantom.draw(0, "Normal", 1, image_size=64, mask_size=32)
        >>> film.image.shape, film.image.dtype.name, film.mask.shape, film.mask.max().item()
        ((64, 64), 'uint8', (32, 32), 255)
    """
    if class_name not in CLASSES:
        raise InputError(f"class {class_name!r} is unknown; there are {', '.join(CLASSES)}")
    if seed < 0 or number < 0:
        raise InputError(f"seed {seed} and film number {number} must not be negative")
    rng = np.random.default_rng([seed, CLASSES.index(class_name), number])
    patient = anatomy.sample_patient(rng)
    right, left = (rasterize(anatomy.lung(patient, side), mask_size) for side in anatomy.SIDES)
    image = radiograph.render(rng, patient, class_name, image_size)
    return Film(image, (right | left).astype(np.uint8) * 255)


def _speckled(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The mask with a few stray specks."""
    mask = mask.copy()
    for _ in range(rng.integers(1, 4)):
        row, column, tall, wide = rng.integers((0, 0, 1, 1), (*mask.shape, 4, 4))
        mask[row : row + tall, column : column + wide] = 255
    return mask


def _png(pixels: np.ndarray, mode: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _pair(seed: int, class_name: str, number: int) -> tuple[bytes, bytes]:
    """The files of a film and of its mask, with the release's oddities.

    The fifth of every sixty films is its predecessor again, byte for byte; every tenth Viral
    Pneumonia film is RGB, and so are all masks; one mask in 25 has specks.
    """
    if number % 60 == 5:
        return _pair(seed, class_name, number - 1)
    image, mask = draw(seed, class_name, number)
    if number % 25 == 7:
        mask = _speckled(mask, np.random.default_rng([seed, CLASSES.index(class_name), number, 1]))
    coloured = class_name == "Viral Pneumonia" and number % 10 == 3
    return _png(image, "RGB" if coloured else "L"), _png(mask, "RGB")


def _workbook(rows: Sequence[Sequence[str]]) -> bytes:
    """One sheet of text cells as an Office Open XML workbook, the least that readers accept."""
    schemas = "http://schemas.openxmlformats.org"
    main, office = f"{schemas}/spreadsheetml/2006/main", f"{schemas}/officeDocument/2006"
    package = f"{schemas}/package/2006"
    kind = "application/vnd.openxmlformats-officedocument.spreadsheetml"

    def relationship(type_name: str, target: str) -> str:
        return (
            f'<Relationships xmlns="{package}/relationships"><Relationship Id="rId1" '
            f'Type="{office}/relationships/{type_name}" Target="{target}"/></Relationships>'
        )

    cells = "".join(
        "<row>"
        + "".join(f'<c t="inlineStr"><is><t>{escape(cell)}</t></is></c>' for cell in row)
        + "</row>"
        for row in rows
    )
    parts = {
        "[Content_Types].xml": f'<Types xmlns="{package}/content-types"><Default Extension="rels" '
        'ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
        f'<Override PartName="/xl/workbook.xml" ContentType="{kind}.sheet.main+xml"/>'
        f'<Override PartName="/xl/worksheets/sheet1.xml" ContentType="{kind}.worksheet+xml"/>'
        "</Types>",
        "_rels/.rels": relationship("officeDocument", "xl/workbook.xml"),
        "xl/workbook.xml": f'<workbook xmlns="{main}" xmlns:r="{office}/relationships"><sheets>'
        '<sheet name="Sheet1" sheetId="1" r:id="rId1"/></sheets></workbook>',
        "xl/_rels/workbook.xml.rels": relationship("worksheet", "worksheets/sheet1.xml"),
        "xl/worksheets/sheet1.xml": f'<worksheet xmlns="{main}"><sheetData>{cells}</sheetData>'
        "</worksheet>",
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in parts.items():
            _store(archive, name, f'<?xml version="1.0" encoding="UTF-8"?>\n{text}'.encode())
    return buffer.getvalue()


def _sheet(class_name: str, count: int) -> bytes:
    """A class's metadata sheet; as released, it misstates the size and shouts NORMAL."""
    stem = class_name.upper() if class_name == "Normal" else class_name
    rows = [("FILE NAME", "FORMAT", "SIZE", "URL")]
    for number in range(1, count + 1):
        source = f"https://phantom.example.org/{_SOURCES[number % len(_SOURCES)]}"
        rows.append((f"{stem}-{number}", "PNG", "256*256", source))
    return _workbook(rows)


def _store(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    """Adds a file to a zip with nothing of the day, the user or the system in its entry."""
    entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    entry.create_system, entry.external_attr = 3, 0o100644 << 16
    archive.writestr(entry, content)


def _films(films: Mapping[str, int], seed: int) -> Iterator[tuple[str, bytes, bytes]]:
    for class_name, count in films.items():
        for number in range(1, count + 1):
            name = f"{FOLDER}/{class_name}/{{}}/{class_name}-{number}.png"
            yield name, *_pair(seed, class_name, number)


def write_archive(
    directory: str | os.PathLike[str],
    *,
    films: Mapping[str, int] | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Draws films and writes them as ``archive.zip``, as Kaggle gives the release.

    For each class there are ``<class>/images/<class>-N.png``, ``<class>/masks/<class>-N.png`` and
    ``<class>.metadata.xlsx``, and beside them ``README.md.txt``. Films are 299x299 and masks
    256x256; a few films repeat their predecessor, some Viral Pneumonia films and all masks are
    RGB, some masks have specks, and the sheets state the wrong size. The same seed gives the same
    bytes (with the same NumPy, Pillow and zlib), and film N is the same however many there are.

    Args:
        directory: made if absent. An ``archive.zip`` in it is replaced only once the new one is
            complete; a killed run leaves at most a folder ``.phantom-*``.
        films: how many films of each class, 1 or more; default `FILMS`, 480 in all.
        seed: not negative.
        progress: called after each film with the number of films done and of films in all.

    Returns:
        The archive's path.

    Raises:
        InputError: a class is unknown, a count below 1, no class given, the seed negative, or
            the archive cannot be written.
    """
    films = FILMS if films is None else films
    if not films or any(count < 1 for count in films.values()):
        raise InputError(f"films {dict(films)} must name a class, and 1 or more films of each")
    directory = Path(directory)
    path, total = directory / "archive.zip", sum(films.values())
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".phantom-", dir=directory) as scratch:
            unfinished = Path(scratch, path.name)
            with zipfile.ZipFile(unfinished, "w") as archive:
                for done, (name, image, mask) in enumerate(_films(films, seed), start=1):
                    _store(archive, name.format("images"), image)
                    _store(archive, name.format("masks"), mask)
                    if progress is not None:
                        progress(done, total)
                for class_name, count in films.items():
                    sheet = _sheet(class_name, count)
                    _store(archive, f"{FOLDER}/{class_name}.metadata.xlsx", sheet)
                _store(archive, f"{FOLDER}/README.md.txt", _README.encode())
            os.replace(unfinished, path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error
    return path
