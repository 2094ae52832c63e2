"""The folder that predict writes, and which of its images are complete after a kill."""

import csv
import dataclasses
import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from experiments import files
from jaxseg.data.images import image_stem, printable
from jaxseg.data.splits import natural_key
from jaxseg.errors import InputError


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of ``predictions.csv``: one class in one image. None is an empty cell.

    Attributes:
        image: Name of the file.
        sha256: The first 16 hexadecimal digits of the hash of its content.
        object: Name of the class.
        mask_value: Value of the class in the mask.
        height: Height of the image in pixels.
        width: Width of the image in pixels.
        area_px: Pixels of the class.
        area_mm2: The same in square millimeters, if the file has the pixel spacing.
        area_fraction: Fraction of the image's pixels, 0 to 1.
        confidence: Of the image's whole mask; see `jaxseg.inference.confidence`.
        components: Number of connected components.
        error: Why the image could not be read.
    """

    image: str
    sha256: str | None = None
    object: str | None = None
    mask_value: int | None = None
    height: int | None = None
    width: int | None = None
    area_px: int | None = None
    area_mm2: float | None = None
    area_fraction: float | None = None
    confidence: float | None = None
    components: int | None = None
    error: str | None = None


COLUMNS = tuple(field.name for field in dataclasses.fields(Row))

KEY = ("image", "sha256", "object")
"""Columns that must be in a table that predict continues."""


class Predictions:
    """The folder: masks, overlays, ``predictions.csv`` and ``predictions.json``.

    An image's rows are added once its masks are written. An image without all of its rows is
    predicted again, and so is one that could not be read. One command at a time may use the folder.
    """

    def __init__(self, folder: Path, made_with: Mapping[str, Any], *, classes: int, overlays: bool):
        """Opens or makes the folder.

        Args:
            folder: Where everything is written.
            made_with: All that decides what the masks are, as JSON values.
            classes: Rows per image.
            overlays: Whether an image is complete only with its overlay.

        Raises:
            InputError: The folder has predictions made with other settings, its table cannot be
                read, or another command writes there.
        """
        self.folder, self.made_with, self.overlays = folder, dict(made_with), overlays
        self.csv, self.json = folder / "predictions.csv", folder / "predictions.json"
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = files.lock(
            folder / ".lock", f"--out: another command writes to {folder}. Use another folder"
        )
        try:
            if self.json.exists():
                self._check_made_with(files.read_json(self.json).get("made_with", {}))
            by_image: dict[tuple[str, str], list[dict[str, str]]] = {}
            for row in _complete_rows(self.csv):
                by_image.setdefault((row["image"], row["sha256"]), []).append(row)
            # An image that could not be read has one row. Of two images with one stem, the later
            # one has the mask.
            self.rows = {
                image_stem(image): rows
                for (image, _), rows in by_image.items()
                if len(rows) == classes and not rows[0]["error"]
            }
            files.write_json(self.json, {"made_with": self.made_with})
            files.write_text(self.csv, _as_csv(self.rows.values()))
        except BaseException:
            self._lock.close()
            raise

    def __enter__(self) -> "Predictions":
        return self

    def __exit__(self, *_: object) -> None:
        """Unlocks the folder."""
        self._lock.close()

    def mask(self, stem: str) -> Path:
        """Returns the file of an image's mask."""
        return self.folder / f"{stem}_mask.png"

    def overlay(self, stem: str) -> Path:
        """Returns the file of an image's overlay."""
        return self.folder / f"{stem}_overlay.png"

    def has(self, image: Path, stem: str) -> bool:
        """Returns whether everything of this image is there, by its name and content."""
        wanted = [self.mask(stem), *([self.overlay(stem)] if self.overlays else ())]
        if stem not in self.rows or not all(path.exists() for path in wanted):
            return False
        row = self.rows[stem][0]
        try:
            return row["image"] == printable(image.name) and row["sha256"] == digest(image)
        except OSError:
            return False  # Reading it will say why.

    def forget(self, stems: Iterable[str]) -> None:
        """Removes images from the table, before their masks become those of other images."""
        if gone := self.rows.keys() & set(stems):
            for stem in gone:
                del self.rows[stem]
            files.write_text(self.csv, _as_csv(self.rows.values()))

    def add(self, rows: Sequence[Row]) -> None:
        """Adds an image's rows, after its masks were written."""
        cells = [{name: _cell(value) for name, value in vars(row).items()} for row in rows]
        self.rows[image_stem(rows[0].image)] = cells
        with self.csv.open("a", newline="", encoding="utf-8") as file:
            file.write("".join(_line(row.values()) for row in cells))

    def finish(self, metadata: Mapping[str, Any]) -> None:
        """Sorts the table by the images' names and writes the metadata."""
        rows = sorted(self.rows.values(), key=lambda rows: natural_key(rows[0]["image"]))
        files.write_text(self.csv, _as_csv(rows))
        files.write_json(self.json, {"made_with": self.made_with, **metadata})

    def _check_made_with(self, theirs: Mapping[str, Any]) -> None:
        different = [
            f"{name} is {theirs.get(name)} there and {self.made_with.get(name)} now"
            for name in sorted({*theirs, *self.made_with})
            if theirs.get(name) != self.made_with.get(name)
        ]
        if different:
            raise InputError(
                f"--out: {self.folder} contains predictions made with other settings "
                f"({'; '.join(different)}). Use another folder"
            )


def digest(image: Path) -> str:
    """Returns the start of the SHA-256 of a file."""
    with image.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def save_png(picture: Image.Image, path: Path) -> None:
    """Writes a PNG that is complete or absent."""
    content = io.BytesIO()
    # A third of the default level's time, for an eighth more bytes.
    picture.save(content, "png", compress_level=1)
    files.write_bytes(path, content.getvalue())


def _complete_rows(path: Path) -> list[dict[str, str]]:
    """The rows of the table, also if a spreadsheet saved it, without an incomplete last one.

    Raises:
        InputError: The table cannot be read, or a row does not fit the columns.
    """
    if not path.exists():
        return []
    advice = "Restore the table, or use another --out"
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{path}: is not UTF-8 text. {advice}") from None
    lines = text[: text.rfind("\n") + 1].splitlines()
    if not lines:
        return []
    delimiter = max(",;\t", key=lines[0].count)
    rows = list(csv.DictReader(lines, delimiter=delimiter))
    if missing := set(KEY) - set(rows[0] if rows else COLUMNS):
        raise InputError(f"{path}: has no column {', '.join(sorted(missing))}. {advice}")
    for number, row in enumerate(rows, 2):
        if None in row.values() or None in row:
            raise InputError(f"{path}: line {number} does not fit the columns. {advice}")
    return [{name: row.get(name, "") for name in COLUMNS} for row in rows]


def _as_csv(images: Iterable[Sequence[Mapping[str, str]]]) -> str:
    return files.as_csv((row for rows in images for row in rows), COLUMNS)


def _line(cells: Iterable[str]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
