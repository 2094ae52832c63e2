"""Archives with something wrong: one line that names it, or dropped and counted with skip_bad."""

import shutil
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from fake_archive import FOLDER, film_pixels, mask_pixels, pack, write_folder
from PIL import Image

from jaxseg.data import archive as archive_module
from jaxseg.data.archive import open_archive
from jaxseg.data.covid_radiography import prepare
from jaxseg.data.inspection import inspect
from jaxseg.data.listing import climbs_out
from jaxseg.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore::jaxseg.data.archive.PartialReleaseWarning")

FILM, MASK = "COVID/images/COVID-2.png", "COVID/masks/COVID-2.png"


def cut(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: 3 * len(data) // 4])


def resized(size):
    def spoil(path: Path) -> None:
        with Image.open(path) as picture:
            picture.resize(size, Image.Resampling.NEAREST).save(path)

    return spoil


def bomb(path: Path) -> None:
    """A small PNG whose header promises 50,000 x 50,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 0, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(9))) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + data)


def swollen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + bytes(17 * 2**20))


def sheet_without(path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl", reason="writes the sheet that is read here")
    book = openpyxl.Workbook()
    book.active.append(["FILE NAME", "FORMAT", "SIZE", "URL"])
    book.active.append(["COVID-1", "PNG", "256*256", "https://example.org/1"])
    book.save(path)


SHEET = "COVID.metadata.xlsx"

SPOILT = {
    "a film cut short": (FILM, cut, f"{FILM}: cannot be read as a picture"),
    "a mask cut short": (MASK, cut, f"{MASK}: cannot be read as a picture"),
    "a film of another size": (FILM, resized((299, 298)), f"{FILM} is 299x298 pixels"),
    "a mask of another size": (MASK, resized((299, 299)), f"{MASK} is 299x299 pixels"),
    "too many pixels": (FILM, bomb, f"{FILM}: cannot be read as a picture .*decompression bomb"),
    "a file too large": (FILM, swollen, f"{FILM} unpacks to 18 MB"),
    "no mask": (MASK, Path.unlink, f"{FILM} has no mask in COVID/masks"),
    "no film": (FILM, Path.unlink, f"{MASK} has no film in COVID/images"),
    "a number twice": (
        FILM,
        lambda path: shutil.copy(path, path.with_name("COVID-02.png")),
        "COVID-0?2.png and COVID/images/COVID-0?2.png have the same number",
    ),
}


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "unpacked", {"COVID": range(1, 7)})


def refused(place, tmp_path, message):
    with pytest.raises(InputError, match=message) as raised:
        prepare(place, tmp_path / "data", "covid")
    line = str(raised.value)
    assert "\n" not in line
    assert str(place) in line
    assert "--skip-bad" in line
    assert not list((tmp_path / "data").rglob("dataset_info.json"))


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "zip"])
@pytest.mark.parametrize("kind", SPOILT)
def test_a_file_that_will_not_do_is_named_or_left_out_and_told(folder, tmp_path, kind, packed):
    name, spoil, message = SPOILT[kind]
    spoil(folder / name)
    place = pack(folder, tmp_path / "mine.zip", zipfile.ZIP_DEFLATED) if packed else folder
    refused(place, tmp_path, message)
    builder = prepare(place, tmp_path / "data", "covid", skip_bad=True)
    assert sum(builder.report["films"]["COVID"].values()) == 5
    assert sum(builder.info.splits[split].num_examples for split in builder.info.splits) == 5
    (fault,) = builder.report["faults"]
    assert fault["film"] in ("COVID-2", "COVID-02")
    text = Path(builder.data_dir, "report.md").read_text()
    assert "1 films left out" in text
    assert fault["message"] in text
    # Prepared with films left out, it does not pass for whole later on.
    with pytest.raises(InputError, match=message):
        prepare(place, tmp_path / "data", "covid")


def test_a_sheet_without_a_films_row_is_named_or_its_source_left_empty(folder, tmp_path):
    sheet_without(folder / SHEET)
    refused(folder, tmp_path, rf"{SHEET} has no row for COVID-2 and 4 more films")
    builder = prepare(folder, tmp_path / "data", "covid", skip_bad=True)
    assert builder.report["sources"]["COVID"] == {
        "https://example.org/1": 1,
        "no row in the sheet": 5,
    }
    assert [fault["film"] for fault in builder.report["faults"]] == [""]


def test_a_sheet_that_is_none_is_named_or_disregarded(folder, tmp_path):
    (folder / SHEET).write_text("FILE NAME,URL")
    refused(folder, tmp_path, rf"{SHEET}: cannot be read as an .xlsx sheet")
    builder = prepare(folder, tmp_path / "data", "covid", skip_bad=True)
    assert builder.report["sources"]["COVID"] == {"no metadata sheet": 6}


@pytest.mark.parametrize(
    "name", ["../evil.png", f"{FOLDER}/../../evil.png", "/etc/evil", "C:/evil", "..\\evil.png"]
)
def test_a_name_that_climbs_out_of_the_zip_is_named_or_disregarded(folder, tmp_path, name):
    path = pack(folder, tmp_path / "mine.zip")
    with zipfile.ZipFile(path, "a") as packed:
        packed.writestr(name, b"x")
    refused(path, tmp_path, "evil.* climbs out of the archive")
    builder = prepare(path, tmp_path / "data", "covid", skip_bad=True)
    assert sum(builder.report["films"]["COVID"].values()) == 6
    assert "climbs out" in builder.report["faults"][0]["message"]
    assert not list(tmp_path.parent.rglob("evil*"))


def test_a_film_above_the_folder_is_never_taken_for_one_in_it(folder, tmp_path):
    path = tmp_path / "mine.zip"
    with zipfile.ZipFile(path, "w") as packed:
        for file in folder.rglob("*.png"):
            packed.write(file, f"../{file.relative_to(folder.parent)}")
    with pytest.raises(InputError, match="holds no films"):
        open_archive(path)


@pytest.mark.parametrize(
    ("name", "climbs"),
    [("a/b.png", False), ("a/..b.png", False), ("a/../b", True), ("/a", True), ("..", True)],
)
def test_a_name_climbs_where_a_part_of_it_is_two_dots_or_it_begins_at_the_root(name, climbs):
    assert climbs_out(name) == climbs


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_is_twice_in_the_zip_is_named_or_left_out(folder, tmp_path):
    path = pack(folder, tmp_path / "mine.zip")
    with zipfile.ZipFile(path, "a") as packed:
        packed.writestr(f"{FOLDER}/{MASK}", (folder / "COVID/masks/COVID-3.png").read_bytes())
    refused(path, tmp_path, f"{MASK} is in the archive more than once")
    builder = prepare(path, tmp_path / "data", "covid", skip_bad=True)
    assert [fault["film"] for fault in builder.report["faults"]] == ["COVID-2"]


def test_several_faults_are_one_line_that_counts_them(folder, tmp_path):
    for number in (2, 4, 5):
        (folder / f"COVID/masks/COVID-{number}.png").unlink()
    refused(folder, tmp_path, f"{FILM} has no mask in COVID/masks, and 2 more will not do")


def test_what_is_wrong_with_another_class_stops_nothing(folder, tmp_path):
    write_folder(tmp_path / "other", {"Normal": [1, 2]})
    shutil.move(tmp_path / "other" / FOLDER / "Normal", folder / "Normal")
    cut(folder / "Normal/images/Normal-1.png")
    (folder / "Normal/masks/Normal-2.png").unlink()
    assert prepare(folder, tmp_path / "data", "covid").report["faults"] == []


def test_a_zip_bomb_is_not_unpacked(folder, tmp_path, monkeypatch):
    path = pack(folder, tmp_path / "mine.zip", zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr(f"{FOLDER}/COVID/images/COVID-9.png", bytes(17 * 2**20))
        packed.writestr(f"{FOLDER}/COVID/masks/COVID-9.png", b"")
    with open_archive(path) as archive:
        unpacked = []
        monkeypatch.setattr(archive._zip, "read", unpacked.append)
        with pytest.raises(InputError, match=r"COVID-9\.png unpacks to 18 MB"):
            archive.read("COVID/images/COVID-9.png")
        assert unpacked == []


def test_oddities_of_the_release_are_counted_and_kept(folder):
    for number in (1, 2, 3):
        path = folder / f"COVID/images/COVID-{number}.png"
        Image.open(path).convert("RGB").save(path)
    Image.fromarray(np.zeros((256, 256), np.uint8)).save(folder / MASK)
    with open_archive(folder) as archive:
        found = inspect(archive, ["COVID"])
    assert found.oddities == {
        "film stored as RGB: made grey": 3,
        "mask stored as RGB: made grey": 5,
        "mask without lung: kept": 1,
    }
    assert found.faults == []


def test_a_changed_copy_joins_its_films_group_in_every_class(folder, tmp_path):
    write_folder(tmp_path / "other", {"Normal": [1, 2]})
    shutil.move(tmp_path / "other" / FOLDER / "Normal", folder / "Normal")
    for number in range(1, 7):
        brighter = film_pixels("COVID", number) // 2 + np.uint8(60)
        Image.fromarray(brighter).save(folder / f"Normal/images/Normal-{number}.png")
        Image.fromarray(mask_pixels("Normal", number)).save(
            folder / f"Normal/masks/Normal-{number}.png"
        )
    builder = prepare(folder, tmp_path / "data", "normal")
    assert builder.duplicates == []
    pairs = [pair[:2] for pair in builder.report["near_duplicates"]]
    assert pairs == [[f"COVID-{number}", f"Normal-{number}"] for number in range(1, 7)]
    covid = prepare(folder, tmp_path / "data", "covid").report["groups"]
    assert covid == builder.report["groups"]
    assert len({group["split"] for group in covid}) > 1
    assert any(group["alone"] for group in covid)


def test_the_limit_on_a_file_is_far_above_the_releases_files():
    # A film of 299x299 RGB pixels that does not compress at all.
    assert archive_module.LARGEST_FILE > 10 * 299 * 299 * 3
