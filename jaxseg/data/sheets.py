"""The metadata sheets of the archive: which film came from where.

An .xlsx file is a zip of XML. The few cells needed here are read directly, so that what the
builder writes does not depend on which optional packages are installed.
"""

import io
import posixpath
import re
import zipfile
from xml.etree import ElementTree

from jaxseg.errors import InputError

_LARGEST_BOOK = 256 * 2**20
"""Bytes; the release's largest sheet, of 10,192 films, unpacks to a few megabytes."""

_MAIN = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
_RELATION = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}id"


def read_sources(data: bytes, name: str) -> dict[str, str]:
    """Reads the URL of every film from one class's metadata sheet.

    Args:
        data: the .xlsx file's bytes; its first sheet has the columns ``FILE NAME`` and ``URL``.
        name: what to call the file in an error.

    Returns:
        The URL by film name in lower case: the sheets and the files differ in case. Empty where
        the sheet names the film but no URL.

    Raises:
        InputError: the file is no .xlsx sheet, or lacks one of the two columns.
    """
    try:
        rows = _rows(data)
    except (zipfile.BadZipFile, ElementTree.ParseError, KeyError, IndexError, ValueError) as error:
        raise InputError(f"{name}: cannot be read as an .xlsx sheet ({error})") from error
    heading = {text.strip().upper(): column for column, text in (rows[0] if rows else {}).items()}
    if not {"FILE NAME", "URL"} <= heading.keys():
        raise InputError(
            f"{name}: its first row should name the columns FILE NAME and URL; "
            f"it has {', '.join(heading) or 'nothing'}"
        )
    film, url = heading["FILE NAME"], heading["URL"]
    return {row[film].strip().lower(): row.get(url, "").strip() for row in rows[1:] if film in row}


def _rows(data: bytes) -> list[dict[str, str]]:
    """The first sheet's rows, each a text by column letters; empty cells are left out."""
    with zipfile.ZipFile(io.BytesIO(data)) as book:
        if (size := sum(part.file_size for part in book.infolist())) > _LARGEST_BOOK:
            raise ValueError(f"it unpacks to {size / 1e6:.0f} MB")
        shared = []
        if "xl/sharedStrings.xml" in book.namelist():
            root = ElementTree.fromstring(book.read("xl/sharedStrings.xml"))
            shared = [_text(item) for item in root.iter(f"{_MAIN}si")]
        sheet = ElementTree.fromstring(book.read(_first_sheet(book)))
    rows = []
    for row in sheet.iter(f"{_MAIN}row"):
        cells = {}
        for position, cell in enumerate(row.iter(f"{_MAIN}c")):
            reference = cell.get("r")
            column = re.sub(r"\d", "", reference) if reference else str(position)
            kind, value = cell.get("t"), cell.findtext(f"{_MAIN}v")
            if kind == "inlineStr":
                cells[column] = _text(cell)
            elif value is not None:
                cells[column] = shared[int(value)] if kind == "s" else value
        rows.append(cells)
    return rows


def _first_sheet(book: zipfile.ZipFile) -> str:
    workbook = ElementTree.fromstring(book.read("xl/workbook.xml"))
    relations = ElementTree.fromstring(book.read("xl/_rels/workbook.xml.rels"))
    targets = {relation.get("Id"): relation.get("Target", "") for relation in relations}
    sheet = next(workbook.iter(f"{_MAIN}sheet"), None)
    if sheet is None:
        raise ValueError("the workbook has no sheet")
    # A target is relative to xl/, or absolute within the zip.
    return posixpath.join("/xl", targets[sheet.get(_RELATION)]).lstrip("/")


def _text(element: ElementTree.Element) -> str:
    """All of a string's runs; the phonetic hints beside them are no part of it."""
    runs = [element, *element.iter(f"{_MAIN}r"), *element.iter(f"{_MAIN}is")]
    return "".join(text.text or "" for run in runs for text in run.findall(f"{_MAIN}t"))
