"""What predict leaves in its folder, and what of it is whole so that a killed run can go on."""

import csv
import dataclasses
import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from experiments.run_directory import read_json, take_lock, write_bytes, write_json, write_text
from jaxseg.data.images import image_stem, printable
from jaxseg.data.splits import natural_key
from jaxseg.errors import InputError


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of ``predictions.csv``, of one object on one film; None is an empty cell.

    Attributes:
        film: The file's name.
        sha256: The start of its content's, by which a film is known again.
        object: What is measured: a class of the run; of one without names lung, or object where it
            learnt from films of one's own.
        height: The film's, in pixels.
        width: The film's, in pixels.
        area_px: Pixels of the object.
        area_mm2: The same in square millimetres, where the file names its pixels' spacing.
        share: The object's share of the film, 0 to 1.
        confidence: Of the film's whole mask; see `jaxseg.inference.confidence`.
        components: Parts that the object falls into.
        error: Why the film could not be read.
    """

    film: str
    sha256: str | None = None
    object: str | None = None
    height: int | None = None
    width: int | None = None
    area_px: int | None = None
    area_mm2: float | None = None
    share: float | None = None
    confidence: float | None = None
    components: int | None = None
    error: str | None = None


COLUMNS = tuple(field.name for field in dataclasses.fields(Row))


class Predictions:
    """The folder: masks, overlays, ``predictions.csv`` and ``predictions.json``.

    Pictures appear whole, by renaming. A film's lines are added once its pictures are there, and
    where a kill cut them short, that film is done again. Films that could not be read are tried
    again by the next run. One command at a time may have the folder.
    """

    def __init__(self, folder: Path, made_with: Mapping[str, Any], *, objects: int, overlays: bool):
        """Opens or makes the folder.

        Args:
            folder: Where everything goes.
            made_with: All that decides what the masks are.
            objects: Lines of a film.
            overlays: Whether a film is whole only with its overlay.

        Raises:
            InputError: The folder holds predictions made with something else, or another command
                writes there.
        """
        self.folder, self.made_with, self.overlays = folder, dict(made_with), overlays
        self.csv, self.json = folder / "predictions.csv", folder / "predictions.json"
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = take_lock(
            folder / ".lock", f"--out: another command writes to {folder}; name another folder"
        )
        try:
            if self.json.exists():
                self._check_made_with(read_json(self.json).get("made_with", {}))
            by_film: dict[tuple[str, str], list[dict[str, str]]] = {}
            for row in _whole_rows(self.csv):
                by_film.setdefault((row["film"], row["sha256"]), []).append(row)
            # A film that cannot be read has one line, as a film of one object has. Of two films of
            # one stem the later has the mask.
            self.rows = {
                image_stem(film): rows
                for (film, _), rows in by_film.items()
                if len(rows) == objects and not rows[0]["error"]
            }
            write_json(self.json, {"made_with": self.made_with})
            write_text(self.csv, _as_csv(self.rows.values()))
        except BaseException:
            self._lock.close()
            raise

    def __enter__(self) -> "Predictions":
        return self

    def __exit__(self, *_: object) -> None:
        """Leaves the folder to other commands."""
        self._lock.close()

    def mask(self, stem: str) -> Path:
        """Where a film's mask goes."""
        return self.folder / f"{stem}_mask.png"

    def overlay(self, stem: str) -> Path:
        """Where a film's overlay goes."""
        return self.folder / f"{stem}_overlay.png"

    def has(self, film: Path, stem: str) -> bool:
        """Whether all of a film is there, and of this very film, by its name and content."""
        wanted = [self.mask(stem), *([self.overlay(stem)] if self.overlays else ())]
        if stem not in self.rows or not all(path.exists() for path in wanted):
            return False
        row = self.rows[stem][0]
        try:
            return row["film"] == printable(film.name) and row["sha256"] == digest_of(film)
        except OSError:
            # Reading it will say why.
            return False

    def forget(self, stems: Iterable[str]) -> None:
        """Takes the films' lines out of the table, before their pictures become other films'."""
        if gone := self.rows.keys() & set(stems):
            for stem in gone:
                del self.rows[stem]
            write_text(self.csv, _as_csv(self.rows.values()))

    def add(self, rows: Sequence[Row]) -> None:
        """Adds a film's lines, its pictures being written."""
        lines = [
            {name: _cell(value) for name, value in dataclasses.asdict(row).items()} for row in rows
        ]
        self.rows[image_stem(rows[0].film)] = lines
        with self.csv.open("a", newline="", encoding="utf-8") as file:
            file.write("".join(_line(line.values()) for line in lines))

    def finish(self, facts: Mapping[str, Any]) -> None:
        """Puts the lines in the order of the films' names, and keeps what is told."""
        films = sorted(self.rows.values(), key=lambda rows: natural_key(rows[0]["film"]))
        write_text(self.csv, _as_csv(films))
        write_json(self.json, {"made_with": self.made_with, **facts})

    def _check_made_with(self, theirs: Mapping[str, Any]) -> None:
        different = [
            f"{name} is {theirs.get(name)} there and {self.made_with.get(name)} here"
            for name in sorted({*theirs, *self.made_with})
            if theirs.get(name) != self.made_with.get(name)
        ]
        if different:
            raise InputError(
                f"--out: {self.folder} holds predictions made otherwise ({'; '.join(different)}); "
                "name another folder"
            )


def digest_of(film: Path) -> str:
    """What tells a film's content from any other's."""
    with film.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def save_png(picture: Image.Image, path: Path) -> None:
    """Writes a picture so that it is there whole or not at all."""
    content = io.BytesIO()
    # A third of the default level's time, for an eighth more bytes.
    picture.save(content, "png", compress_level=1)
    write_bytes(path, content.getvalue())


def _whole_rows(path: Path) -> list[dict[str, str]]:
    """The rows of the table, also if a spreadsheet saved it, but a last one that was cut short.

    Raises:
        InputError: The table cannot be read, or a row in it is incomplete.
    """
    if not path.exists():
        return []
    advice = "Restore the table, or use another --out"
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 text. {advice}") from error
    lines = text[: text.rfind("\n") + 1].splitlines()
    if not lines:
        return []
    delimiter = max(",;\t", key=lines[0].count)
    rows = list(csv.DictReader(lines, delimiter=delimiter))
    if missing := {"film", "sha256", "object"} - set(rows[0] if rows else COLUMNS):
        raise InputError(f"{path}: has no column {', '.join(sorted(missing))}. {advice}")
    for number, row in enumerate(rows, 2):
        if None in row.values() or None in row:
            raise InputError(f"{path}: line {number} does not fit the columns. {advice}")
    return [{name: row.get(name, "") for name in COLUMNS} for row in rows]


def _as_csv(films: Iterable[Sequence[Mapping[str, str]]]) -> str:
    return _line(COLUMNS) + "".join(_line(row.values()) for rows in films for row in rows)


def _line(cells: Iterable[str]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
