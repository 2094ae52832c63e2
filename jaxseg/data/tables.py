"""Reads a table of groups and splits, such as one saved by a spreadsheet program."""

import codecs
import csv
from pathlib import Path
from typing import NamedTuple

from jaxseg.data.images import image_stem
from jaxseg.data.splits import SPLITS
from jaxseg.errors import InputError

_DELIMITERS = ",;\t"
_SPLIT_NAMES = {**{name: name for name in SPLITS}, "training": "train", "val": "validation"}


class ImageTable(NamedTuple):
    """What a table says about images, by their names without suffix.

    Attributes:
        groups: The group of every image, such as its patient; empty if the table has no groups.
        splits: ``train``, ``validation`` or ``test``; empty if the table has no splits.
    """

    groups: dict[str, str]
    splits: dict[str, str]


def read_table(path: Path | str) -> ImageTable:
    """Reads a CSV file with a column ``image`` and a column ``group``, ``split`` or both.

    Commas, semicolons or tabs may separate the columns, as spreadsheets write them. Case and
    surrounding blanks of column names do not matter, other columns are not read, and empty rows are
    skipped.

    Args:
        path: The file, in UTF-8, or in UTF-16 with a byte order mark. An image is named as its
            file, with or without suffix. Splits are train, validation (or val) and test.

    Raises:
        InputError: The file cannot be read; a column is missing or there twice; a row lacks a
            value; an image is there twice; or a split is unknown.
    """
    rows = _rows(path)
    columns = [name.strip().lower() for name in (rows[0] if rows else [])]
    if "image" not in columns or not {"group", "split"} & set(columns):
        raise InputError(
            f"{path}: needs a column image and a column group or split. Its columns are "
            f"{', '.join(map(repr, columns)) or 'none'}"
        )
    given = [name for name in ("image", "group", "split") if name in columns]
    for name in given:
        if columns.count(name) > 1:
            raise InputError(f"{path}: has the column {name} twice. Remove one of them")
    table = ImageTable({}, {})
    for number, row in enumerate(rows[1:], 2):
        cells = dict(zip(columns, (cell.strip() for cell in row), strict=False))
        if not any(cells.values()):
            continue
        if missing := [name for name in given if not cells.get(name)]:
            raise InputError(f"{path}: line {number} has no {missing[0]}")
        stem = image_stem(cells["image"].replace("\\", "/").rpartition("/")[2])
        if stem in table.groups or stem in table.splits:
            raise InputError(f"{path}: line {number}: {cells['image']} is there twice")
        if "group" in given:
            table.groups[stem] = cells["group"]
        if "split" in given:
            if (split := cells["split"].lower()) not in _SPLIT_NAMES:
                names = ", ".join(SPLITS)
                raise InputError(f"{path}: line {number}: split {split!r} must be one of {names}")
            table.splits[stem] = _SPLIT_NAMES[split]
    return table


def _rows(path: Path | str) -> list[list[str]]:
    """The cells of every row; empty lines before the first are left out."""
    try:
        content = Path(path).read_bytes()
        utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        lines = content.decode("utf-16" if utf16 else "utf-8-sig").lstrip().splitlines()
        delimiter = max(_DELIMITERS, key=lambda d: len(next(csv.reader(lines, delimiter=d), [])))
        # Strict: otherwise a quote that is not closed takes all later rows into its cell.
        return list(csv.reader(lines, delimiter=delimiter, strict=True))
    except csv.Error as error:
        raise InputError(f"{path}: cannot be read as CSV ({error}). Is a quote missing?") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 text. Save it as CSV UTF-8") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
