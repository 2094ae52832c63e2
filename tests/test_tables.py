"""Tables of groups and splits, as spreadsheets and people write them."""

import unicodedata

import pytest

from jaxseg.data.tables import ImageTable, read_table
from jaxseg.errors import InputError

ROWS = [("Image", " Group ", "Split"), ("scans/a.png", "p1", "Train"), ("b.c", "p1", "val"),
        ("C:\\scans\\Müller.dcm", "p 2", "TEST"), ("1.2.840.dcm", "p3", "validation")]  # fmt: skip
GROUPS = {"a": "p1", "b.c": "p1", "Müller": "p 2", "1.2.840": "p3"}
SPLITS = {"a": "train", "b.c": "validation", "Müller": "test", "1.2.840": "validation"}


def written(path, rows=ROWS, delimiter=",", encoding="utf-8", newline="\n"):
    text = newline.join(delimiter.join(row) for row in rows) + newline
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_a_table_reads_the_same_however_a_spreadsheet_saves_it(
    delimiter, encoding, newline, tmp_path
):
    path = written(tmp_path / "table.csv", ROWS, delimiter, encoding, newline)
    assert read_table(path) == ImageTable(GROUPS, SPLITS)


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_names_are_composed(form, tmp_path):
    rows = [[unicodedata.normalize(form, cell) for cell in row] for row in ROWS]
    assert read_table(str(written(tmp_path / "table.csv", rows))).groups == GROUPS


@pytest.mark.parametrize("column", [1, 2])
def test_a_table_may_have_one_of_the_columns_and_others_that_are_not_read(column, tmp_path):
    rows = [(f"{row[column]} ", "x, y", f" {row[0]}") for row in ROWS]
    rows = [*rows[:2], (" ", "", ""), *rows[2:], ("", "", "")]
    table = read_table(written(tmp_path / "table.csv", rows, ";"))
    assert table == (ImageTable(GROUPS, {}) if column == 1 else ImageTable({}, SPLITS))


def test_quoted_cells_may_hold_the_delimiter(tmp_path):
    (tmp_path / "table.csv").write_text('"image","group"\n"a, b.png","x;""y"""\n')
    assert read_table(tmp_path / "table.csv").groups == {"a, b": 'x;"y"'}


# A quote that is never closed takes all rows after it into its cell.
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name;group\na;1\n", "needs a column image .* columns are 'name', 'group'$"),
        ("image,patient\na,1\n", "a column group or split. Its columns are 'image', 'patient'$"),
        ("image group\na 1\n", "Its columns are 'image group'$"),
        ("", "Its columns are none$"),
        ("image,group,GROUP\na,1,2\n", "has the column group twice"),
        ("Image, image ,group\na,b,1\n", "has the column image twice"),
        ("image,split,split\na,train,test\n", "has the column split twice"),
        ("image,group\na,1\nb,\n", "line 3 has no group"),
        ("image,group\na,1\n\nb\n", "line 4 has no group"),
        ("image,group\n ,1\n", "line 2 has no image"),
        ("image,group,split\na,1, \n", "line 2 has no split"),
        ("image,group\na.png,1\nx/a.tif,1\n", r"line 3: x/a\.tif is there twice"),
        ("image,split\na,dev\n", "line 2: split 'dev' must be one of train, val"),
        ("image,group\nMüller,1\n".encode("latin-1"), "is not UTF-8 text. Save it as CSV UTF-8"),
        (b"\xff\xfe\x00", "is not UTF-8 text"),
        ('image,group\na,"1\nb,2\n', "cannot be read as CSV"),
        ('image,group\na,"1\n' + "b,2\n" * 50_000, "cannot be read as CSV"),
    ],
)
def test_a_table_that_cannot_be_used_is_one_line_that_says_why(text, words, tmp_path):
    path = tmp_path / "table.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=words) as error:
        read_table(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


def test_a_table_that_is_absent_or_a_folder_is_named(tmp_path):
    with pytest.raises(InputError, match=r"absent\.csv: cannot be read \(No such file"):
        read_table(tmp_path / "absent.csv")
    with pytest.raises(InputError, match="cannot be read"):
        read_table(tmp_path)
