import io
import zipfile

import pytest

from jaxseg.data.sheets import read_sources
from jaxseg.errors import InputError

HEADING = ["FILE NAME", "FORMAT", "SIZE", "URL"]


def sheet(rows) -> bytes:
    openpyxl = pytest.importorskip("openpyxl", reason="writes the sheets that are read here")
    book = openpyxl.Workbook()
    page = book.active
    for row in rows:
        page.append(row)
    file = io.BytesIO()
    book.save(file)
    return file.getvalue()


def test_urls_are_found_by_lower_case_film_name():
    data = sheet(
        [
            HEADING,
            ["NORMAL-1", "PNG", "256*256", "https://example.org/a?b=1&c=<2>"],
            ["Normal-2", "PNG", "256*256", " https://example.org/ü "],
        ]
    )
    assert read_sources(data, "x") == {
        "normal-1": "https://example.org/a?b=1&c=<2>",
        "normal-2": "https://example.org/ü",
    }


def test_columns_are_found_by_name_in_any_order_and_case():
    data = sheet([["Url", "note", "File Name"], ["u", None, "COVID-1"]])
    assert read_sources(data, "x") == {"covid-1": "u"}


def test_a_film_without_url_has_an_empty_one_and_empty_rows_are_left_out():
    data = sheet([HEADING, ["COVID-1", "PNG", "256*256", None], [], ["COVID-2", None, None, "u"]])
    assert read_sources(data, "x") == {"covid-1": "", "covid-2": "u"}


def test_a_sheet_that_would_unpack_to_too_much_is_named():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as book:
        book.writestr("xl/workbook.xml", bytes(257 * 2**20))
    with pytest.raises(InputError, match=r"sheet 7: cannot be read .* unpacks to 269 MB"):
        read_sources(file.getvalue(), "sheet 7")


def test_the_first_of_several_sheets_is_read():
    openpyxl = pytest.importorskip("openpyxl", reason="writes the sheets that are read here")
    book = openpyxl.Workbook()
    book.active.append(HEADING)
    book.active.append(["COVID-1", "PNG", "256*256", "u"])
    book.create_sheet("Sheet0", 1).append(["something else"])
    file = io.BytesIO()
    book.save(file)
    assert read_sources(file.getvalue(), "x") == {"covid-1": "u"}


def test_inline_and_rich_text_read_as_plain_text():
    main = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    rows = (
        "<row><c t='inlineStr'><is><t>FILE NAME</t></is></c>"
        "<c t='inlineStr'><is><r><t>U</t></r><r><t>RL</t></r></is></c></row>"
        "<row><c t='inlineStr'><is><t>COVID-1</t></is></c><c t='str'><v>u</v></c></row>"
    )
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as book:
        book.writestr(
            "xl/workbook.xml",
            f"<workbook {main} xmlns:r='{office}'><sheets><sheet r:id='r1'/></sheets></workbook>",
        )
        book.writestr(
            "xl/_rels/workbook.xml.rels",
            "<Relationships><Relationship Id='r1' Target='/xl/first.xml'/></Relationships>",
        )
        book.writestr(
            "xl/first.xml", f"<worksheet {main}><sheetData>{rows}</sheetData></worksheet>"
        )
    assert read_sources(file.getvalue(), "x") == {"covid-1": "u"}


@pytest.mark.parametrize("data", [b"", b"FILE NAME,URL\n", b"PK\x03\x04 cut"])
def test_what_is_no_sheet_is_named(data):
    with pytest.raises(InputError, match=r"COVID\.metadata\.xlsx: cannot be read"):
        read_sources(data, "COVID.metadata.xlsx")


def test_a_zip_that_is_no_workbook_is_named():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as book:
        book.writestr("a.txt", "")
    with pytest.raises(InputError, match="sheet 7: cannot be read"):
        read_sources(file.getvalue(), "sheet 7")


@pytest.mark.parametrize("rows", [[], [["FILE NAME", "FORMAT"], ["COVID-1", "PNG"]]])
def test_a_sheet_without_the_columns_says_which_it_needs(rows):
    with pytest.raises(InputError, match="FILE NAME and URL"):
        read_sources(sheet(rows), "x")
