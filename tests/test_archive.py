"""Zips and folders as users have them: complete, partial, repacked and damaged."""

import hashlib
import shutil
import zipfile
import zlib
from pathlib import Path
from unittest import mock

import pytest
from fake_archive import ALL_CLASSES, FOLDER, pack, write_folder, write_sheet

from jaxseg.data import archive as archive_module
from jaxseg.data.archive import ZIP_NAMES, PartialReleaseWarning, open_archive
from jaxseg.errors import InputError

IMAGE, MASK, SHEET = "COVID/images/COVID-2.png", "COVID/masks/COVID-2.png", "COVID.metadata.xlsx"


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "unpacked", {"COVID": [1, 2, 10], "Viral Pneumonia": [7]})


@pytest.fixture
def path(folder, tmp_path):
    return pack(folder, tmp_path / "archive.zip")


def fingerprint(path: Path) -> str:
    with open_archive(path) as archive:
        return archive.fingerprint


def ids_and_faults(path: Path, classes=("COVID",)) -> tuple[list[str], list[str]]:
    with open_archive(path) as archive:
        pairs, faults = archive.pairs(classes)
        return [pair.id for pair in pairs], faults


def expected_fingerprint(folder: Path) -> str:
    """The documented digest, from the files themselves."""
    files = {
        file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*.png")
    }
    lines = (f"{name}\0{len(files[name])}\0{zlib.crc32(files[name])}\n" for name in sorted(files))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def without_outer_folder(folder: Path, there: Path) -> Path:
    with zipfile.ZipFile(there / "archive.zip", "w") as packed:
        for file in folder.rglob("*.png"):
            packed.write(file, file.relative_to(folder))
    return there


def folder_in_folder(folder: Path, there: Path) -> Path:
    (there / FOLDER).mkdir()
    shutil.move(folder, there / FOLDER)
    return there


def symbolic_links(folder: Path, there: Path) -> Path:
    (folder / IMAGE).rename(there / "image.png")
    (folder / IMAGE).symlink_to(there / "image.png")
    (folder / "COVID").rename(there / "COVID")
    (folder / "COVID").symlink_to(there / "COVID")
    (there / "manual").mkdir()
    (there / "manual" / FOLDER).symlink_to(folder)
    return there / "manual"


def linked_zip(folder: Path, there: Path) -> Path:
    (there / "archive.zip").symlink_to(pack(folder, there / "real.zip"))
    return there


FORMS = {
    **{name: lambda folder, there, n=name: pack(folder, there / n).parent for name in ZIP_NAMES},
    "a zip of any name": lambda folder, there: pack(folder, there / "mine.zip"),
    "the folder": lambda folder, _: folder,
    "its parent": lambda folder, _: folder.parent,
    "a zip without the outer folder": without_outer_folder,
    "a folder in a folder": folder_in_folder,
    "symbolic links to folders and files": symbolic_links,
    "a symbolic link to a zip": linked_zip,
    "text": lambda folder, there: str(pack(folder, there / "mine.zip")),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_an_archive_is_found_in_every_form_with_the_same_fingerprint(folder, tmp_path, form):
    expected = expected_fingerprint(folder)
    found = form(folder, tmp_path)
    assert ids_and_faults(found) == (["COVID-1", "COVID-2", "COVID-10"], [])
    assert fingerprint(found) == expected


def test_images_are_paired_with_their_masks_by_class_and_number(path):
    with open_archive(path) as archive:
        pairs, _ = archive.pairs(["Viral Pneumonia", "COVID"])
    names = [("COVID", "COVID-1"), ("COVID", "COVID-2"), ("COVID", "COVID-10")]
    names.append(("Viral Pneumonia", "Viral Pneumonia-7"))
    assert [(pair.class_name, pair.id) for pair in pairs] == names
    for pair, (name, id) in zip(pairs, names, strict=True):
        assert (pair.image, pair.mask) == (f"{name}/images/{id}.png", f"{name}/masks/{id}.png")


@pytest.mark.parametrize("method", ["STORED", "DEFLATED"])
def test_zip_and_folder_give_the_bytes_of_the_files(folder, tmp_path, method):
    path = pack(folder, tmp_path / "archive.zip", getattr(zipfile, f"ZIP_{method}"))
    with open_archive(path) as packed, open_archive(folder) as unpacked:
        for name in (IMAGE, MASK, "Viral Pneumonia/masks/Viral Pneumonia-7.png"):
            expected = (folder / name).read_bytes()
            assert packed.read(name) == unpacked.read(name) == expected


def test_other_files_are_ignored(folder, tmp_path):
    clean = fingerprint(folder)
    for name in ("README.md.txt", *(f"COVID/images/{n}" for n in (".DS_Store", "._COVID-1.png"))):
        (folder / name).write_text("text")
    shutil.copytree(folder / "COVID", folder / "Other")
    path = pack(folder, tmp_path / "archive.zip")
    with zipfile.ZipFile(path, "a") as packed:
        packed.writestr(f"__MACOSX/{FOLDER}/COVID/images/COVID-9.png", b"x")
        packed.writestr(f"{FOLDER}/COVID/", b"")
        # Nothing is unpacked, so names that climb out of the zip do no harm.
        for name in ("../evil.png", "/etc/evil", "C:/evil", "..\\evil.png"):
            packed.writestr(name, b"x")
    assert fingerprint(path) == fingerprint(folder) == clean


@pytest.mark.parametrize(
    ("file", "new_name", "ids", "faults"),
    [
        (MASK, None, [1, 10], [f"{IMAGE} has no mask"]),
        (IMAGE, None, [1, 10], [f"{MASK} has no image"]),
        (IMAGE, "a.png", [1, 10],
         ["COVID/images/a.png is not named COVID-NUMBER.png", f"{MASK} has no image"]),
        (IMAGE, "COVID-2\\2.png", [1, 10],
         ["COVID/images/COVID-2\\2.png is not named COVID-NUMBER.png", f"{MASK} has no image"]),
        (MASK, "COVID-2.PNG", [1, 10],
         ["COVID/masks/COVID-2.PNG is not named COVID-NUMBER.png", f"{IMAGE} has no mask"]),
        (MASK, "COVID-02.png", [1, 10],
         [f"{IMAGE} has no mask", "COVID/masks/COVID-02.png has no image"]),
        ("Viral Pneumonia/masks/Viral Pneumonia-7.png", None, [1, 2, 10], []),
    ],
)  # fmt: skip
def test_every_file_that_cannot_be_paired_is_named(folder, file, new_name, ids, faults):
    if new_name is None:
        (folder / file).unlink()
    else:
        (folder / file).rename((folder / file).with_name(new_name))
    assert ids_and_faults(folder) == ([f"COVID-{number}" for number in ids], faults)


@pytest.mark.parametrize("lost", ["COVID", "COVID/images"])
def test_absent_classes_are_named_with_those_present(folder, lost):
    shutil.rmtree(folder / lost)
    with open_archive(folder) as archive:
        assert archive.classes == ("Viral Pneumonia",)
        message = r"no images of COVID, Lung_Opacity, Normal\. The .* present are Viral Pneumonia$"
        with pytest.raises(InputError, match=message):
            archive.pairs(ALL_CLASSES)


def test_fewer_images_than_the_release_warn_with_both_counts(folder, monkeypatch):
    with open_archive(folder) as archive:
        with pytest.warns(PartialReleaseWarning, match="COVID 3 of 3616, Viral Pneumonia 1 of 134"):
            archive.warn_if_partial(archive.classes)
        monkeypatch.setattr(archive_module, "RELEASE_COUNTS", dict.fromkeys(ALL_CLASSES, 1))
        archive.warn_if_partial(archive.classes)


@pytest.mark.parametrize("name", [".", "absent"])
def test_a_directory_without_archive_says_what_to_put_there(tmp_path, name):
    with pytest.raises(InputError, match="tawsifurrahman") as raised:
        open_archive(tmp_path / name)
    for expected in (str(tmp_path / name), *ZIP_NAMES, FOLDER):
        assert expected in str(raised.value)


@pytest.mark.parametrize("keep", [10, 1000, -30])
def test_a_zip_cut_short_and_a_file_that_is_no_zip_say_what_to_do(path, keep):
    for content in (path.read_bytes()[:keep], b"", b"<html>Sign in</html>"):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"archive\.zip: cannot be read as a zip .*again$"):
            open_archive(path.parent)


@pytest.mark.parametrize(
    "name",
    ["a.txt", f"{FOLDER}\\COVID\\images\\COVID-1.png", f"{FOLDER}/COVID/masks/COVID-1.png",
     f"__MACOSX/{FOLDER}/COVID/images/COVID-1.png"],
)  # fmt: skip
def test_a_zip_without_images_says_what_to_put_there(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "archive.zip", "w") as packed:
        packed.writestr(name, b"x")
    with pytest.raises(InputError, match=r"archive\.zip: holds no images; download the"):
        open_archive(tmp_path)


def test_a_zip_without_permission_is_named(path, monkeypatch):
    denied = PermissionError(13, "Permission denied")
    monkeypatch.setattr(zipfile, "ZipFile", mock.Mock(side_effect=denied))
    with pytest.raises(InputError, match=r"archive\.zip: cannot be read as a zip .*denied"):
        open_archive(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", [f"copy/{IMAGE}", IMAGE, f"{FOLDER}/{IMAGE}"])
def test_a_zip_that_holds_something_twice_is_refused(path, name):
    with zipfile.ZipFile(path, "a") as packed:
        packed.writestr(name, b"x")
    with pytest.raises(InputError, match=f"holds {IMAGE} twice"):
        open_archive(path)


def test_a_zip_of_a_later_format_is_named(path):
    data, name = bytearray(path.read_bytes()), f"{FOLDER}/{IMAGE}".encode()
    # The version needed to extract, in the entry of the zip's directory.
    data[data.rindex(name) - 46 + 6] = 99
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"archive\.zip: .*version 9\.9"):
        open_archive(path)


@pytest.mark.parametrize("position", ["start", "middle"])
@pytest.mark.parametrize("method", ["STORED", "DEFLATED"])
def test_a_damaged_member_is_named(folder, tmp_path, method, position):
    path = pack(folder, tmp_path / "archive.zip", getattr(zipfile, f"ZIP_{method}"))
    with zipfile.ZipFile(path) as packed:
        entry = packed.getinfo(f"{FOLDER}/{IMAGE}")
    start = entry.header_offset + 30 + len(entry.filename)
    start += entry.compress_size // 2 if position == "middle" else 0
    data = path.read_bytes()
    path.write_bytes(data[:start] + b"\xff" * 8 + data[start + 8 :])
    with open_archive(path) as archive:
        with pytest.raises(InputError, match=f"{IMAGE} cannot be read"):
            archive.read(IMAGE)
        assert archive.read(MASK) == (folder / MASK).read_bytes()


@pytest.mark.parametrize("streamed", [False, True])
def test_addresses_are_found_by_image_id_in_lower_case(folder, streamed):
    rows = [
        ["Url", "note", " File Name"],
        ["https://example.org/a?b=1&c=<2>", "x", "Covid-1"],
        [" https://example.org/ü ", None, "COVID-2"],
        [None, None, "COVID-10"],
        [],
        ["https://example.org/other", "x"],
    ]
    write_sheet(folder / SHEET, rows, streamed=streamed)
    with open_archive(folder) as archive:
        addresses = ["https://example.org/a?b=1&c=<2>", "https://example.org/ü", ""]
        names = ["covid-1", "covid-2", "covid-10"]
        assert archive.sources("COVID") == dict(zip(names, addresses, strict=True))
        assert archive.sources("Viral Pneumonia") == {}


def test_rows_that_are_shorter_than_the_heading_have_no_address(folder):
    write_sheet(folder / SHEET, [["FILE NAME", "URL"], ["COVID-1"], ["COVID-2", "u"]])
    with open_archive(folder) as archive:
        assert archive.sources("COVID") == {"covid-1": "", "covid-2": "u"}


@pytest.mark.parametrize("rows", [[], [["FILE NAME", "FORMAT"], ["COVID-1", "PNG"]]])
def test_a_sheet_without_the_columns_says_which_it_needs(folder, rows):
    write_sheet(folder / SHEET, rows)
    words = f"{SHEET} lacks the columns FILE NAME and URL; it has"
    with open_archive(folder) as archive, pytest.raises(InputError, match=words):
        archive.sources("COVID")


def test_a_file_that_is_no_sheet_is_named(folder, path):
    (folder / SHEET).touch()
    with open_archive(folder) as archive:
        for content in (b"", b"FILE NAME,URL\n", b"PK\x03\x04 cut short", path.read_bytes()):
            (folder / SHEET).write_bytes(content)
            with pytest.raises(InputError, match=rf"{SHEET} cannot be read as \.xlsx"):
                archive.sources("COVID")
