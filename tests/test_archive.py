import shutil
import subprocess
import sys
import zipfile

import pytest
from fake_archive import ALL_CLASSES, FOLDER, pack, write_folder

from jaxseg.data import archive as archive_module
from jaxseg.data.archive import ZIP_NAMES, PartialReleaseWarning, open_archive
from jaxseg.errors import InputError


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "unpacked", {"COVID": [1, 2, 10], "Viral Pneumonia": [7]})


def fingerprint(path) -> str:
    with open_archive(path) as archive:
        return archive.fingerprint


def ids(path, classes=("COVID",)) -> list[str]:
    with open_archive(path) as archive:
        return [film.id for film in archive.films(classes)]


@pytest.mark.parametrize("name", ZIP_NAMES)
def test_each_name_that_kaggle_gives_the_zip_is_found(folder, tmp_path, name):
    pack(folder, tmp_path / name)
    assert ids(tmp_path) == ["COVID-1", "COVID-2", "COVID-10"]


def test_the_folder_its_parent_and_the_path_of_a_zip_are_found(folder, tmp_path):
    anywhere = pack(folder, tmp_path / "mine.zip")
    for path in (folder, folder.parent, anywhere, str(anywhere)):
        assert ids(path) == ["COVID-1", "COVID-2", "COVID-10"]


def test_a_zip_made_without_the_outer_folder_is_read(folder, tmp_path):
    path = tmp_path / "archive.zip"
    with zipfile.ZipFile(path, "w") as packed:
        for file in folder.rglob("*.png"):
            packed.write(file, file.relative_to(folder))
    assert ids(path) == ["COVID-1", "COVID-2", "COVID-10"]


def test_a_folder_within_the_folder_is_read(folder, tmp_path):
    (tmp_path / FOLDER).mkdir()
    shutil.move(folder, tmp_path / FOLDER)
    assert ids(tmp_path) == ["COVID-1", "COVID-2", "COVID-10"]


def test_films_come_with_their_masks_by_class_and_number(folder, tmp_path):
    with open_archive(pack(folder, tmp_path / "archive.zip")) as archive:
        films = archive.films(["Viral Pneumonia", "COVID"])
    assert [(film.class_name, film.number) for film in films] == [
        ("COVID", 1),
        ("COVID", 2),
        ("COVID", 10),
        ("Viral Pneumonia", 7),
    ]
    assert films[3].image == "Viral Pneumonia/images/Viral Pneumonia-7.png"
    assert films[3].mask == "Viral Pneumonia/masks/Viral Pneumonia-7.png"


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_zip_and_folder_give_the_same_bytes_sizes_and_fingerprint(folder, tmp_path, compression):
    path = pack(folder, tmp_path / "archive.zip", compression)
    with open_archive(path) as packed, open_archive(folder) as unpacked:
        assert packed.fingerprint == unpacked.fingerprint
        for film in packed.films(["COVID"]):
            for name in (film.image, film.mask):
                expected = (folder / name).read_bytes()
                assert packed.read(name) == unpacked.read(name) == expected
                assert packed.size(name) == unpacked.size(name) == len(expected)


def test_the_fingerprint_changes_with_any_byte_name_or_file(folder):
    seen = {fingerprint(folder)}
    film = folder / "COVID/images/COVID-1.png"
    data = film.read_bytes()
    film.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    seen.add(fingerprint(folder))
    for kind in ("images", "masks"):
        (folder / f"COVID/{kind}/COVID-10.png").rename(folder / f"COVID/{kind}/COVID-11.png")
    seen.add(fingerprint(folder))
    (folder / "COVID.metadata.xlsx").write_bytes(b"")
    seen.add(fingerprint(folder))
    shutil.rmtree(folder / "Viral Pneumonia")
    seen.add(fingerprint(folder))
    assert len(seen) == 5


def test_the_fingerprint_counts_the_size_beside_the_checksum(folder, monkeypatch):
    monkeypatch.setattr(archive_module.Archive, "_crc", lambda *_: 0)
    before = fingerprint(folder)
    with (folder / "COVID/masks/COVID-1.png").open("ab") as file:
        file.write(b"x")
    assert fingerprint(folder) != before


def test_litter_is_disregarded(folder, tmp_path):
    clean = fingerprint(folder)
    (folder / "README.md.txt").write_text("text")
    (folder / "COVID/images/.DS_Store").write_bytes(b"x")
    (folder / "COVID/images/._COVID-1.png").write_bytes(b"x")
    (folder / "COVID/images/Thumbs.db").write_bytes(b"x")
    (folder / "Other/images").mkdir(parents=True)
    shutil.copy(folder / "COVID/images/COVID-1.png", folder / "Other/images/Other-1.png")
    path = pack(folder, tmp_path / "archive.zip")
    with zipfile.ZipFile(path, "a") as packed:
        packed.writestr(f"__MACOSX/{FOLDER}/COVID/images/COVID-9.png", b"x")
        packed.writestr(f"__MACOSX/{FOLDER}/COVID/images/._COVID-1.png", b"x")
        packed.writestr(f"{FOLDER}/.DS_Store", b"x")
        packed.writestr(f"{FOLDER}/COVID/", b"")
    assert fingerprint(path) == fingerprint(folder) == clean


def test_symbolic_links_are_followed(folder, tmp_path):
    expected = fingerprint(folder)
    film = folder / "COVID/images/COVID-1.png"
    film.rename(tmp_path / "film.png")
    film.symlink_to(tmp_path / "film.png")
    (folder / "COVID").rename(tmp_path / "elsewhere")
    (folder / "COVID").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "manual").mkdir()
    (tmp_path / "manual" / FOLDER).symlink_to(folder)
    assert fingerprint(tmp_path / "manual") == expected


@pytest.mark.parametrize("name", ZIP_NAMES)
def test_a_zip_behind_a_symbolic_link_is_read(folder, tmp_path, name):
    real = pack(folder, tmp_path / "real.zip")
    (tmp_path / "manual").mkdir()
    (tmp_path / "manual" / name).symlink_to(real)
    assert fingerprint(tmp_path / "manual") == fingerprint(folder)


def remove(name):
    return lambda folder: (folder / name).unlink()


def rename(name, to):
    return lambda folder: (folder / name).rename(folder / to)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (remove("COVID/masks/COVID-2.png"), "COVID/images/COVID-2.png has no mask"),
        (remove("COVID/images/COVID-2.png"), "COVID/masks/COVID-2.png has no film"),
        (rename("COVID/images/COVID-2.png", "COVID/images/a.png"), "COVID/images/a.png should be"),
        (rename("COVID/masks/COVID-2.png", "COVID/masks/COVID-01.png"), "the same number"),
        (lambda folder: shutil.rmtree(folder / "COVID"), "no films of COVID.*Viral Pneumonia"),
        (lambda folder: shutil.rmtree(folder / "COVID/images"), "no films of COVID"),
    ],
)
def test_an_inconsistent_archive_names_the_file(folder, spoil, message):
    spoil(folder)
    with open_archive(folder) as archive, pytest.raises(InputError, match=message) as raised:
        archive.films(["COVID"])
    assert str(folder) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_class_is_not_held_to_account_for_another(folder):
    (folder / "Viral Pneumonia/masks/Viral Pneumonia-7.png").unlink()
    assert len(ids(folder)) == 3


def test_absent_classes_are_told_from_those_present(folder):
    with open_archive(folder) as archive:
        assert archive.classes == ("COVID", "Viral Pneumonia")
        with pytest.raises(
            InputError,
            match=r"of Lung_Opacity, Normal; .* COVID, Viral Pneumonia \(configurations covid",
        ):
            archive.films(ALL_CLASSES)
        with pytest.warns(PartialReleaseWarning, match="COVID 3 of 3616, Viral Pneumonia"):
            archive.warn_if_partial(ALL_CLASSES)


def test_an_empty_or_absent_directory_says_what_to_put_there(tmp_path):
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(InputError, match="tawsifurrahman") as raised:
            open_archive(path)
        assert str(path) in str(raised.value)
        assert all(name in str(raised.value) for name in (*ZIP_NAMES, FOLDER))


@pytest.mark.parametrize("keep", [10, 1000, -30])
def test_a_zip_cut_short_is_called_that(folder, tmp_path, keep):
    path = pack(folder, tmp_path / "archive.zip")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"archive\.zip: is cut short"):
        open_archive(tmp_path)


@pytest.mark.parametrize("data", [b"", b"<html>Sign in</html>"])
def test_a_file_that_is_no_zip_is_called_that(tmp_path, data):
    (tmp_path / "archive.zip").write_bytes(data)
    with pytest.raises(InputError, match=r"archive\.zip: is not a zip"):
        open_archive(tmp_path)


def test_a_zip_of_something_else_holds_no_films(tmp_path):
    (tmp_path / "a.txt").write_text("")
    with zipfile.ZipFile(tmp_path / "archive.zip", "w") as packed:
        packed.write(tmp_path / "a.txt")
    with pytest.raises(InputError, match="holds no films"):
        open_archive(tmp_path)


def test_films_in_two_places_are_refused(folder, tmp_path):
    path = pack(folder, tmp_path / "archive.zip")
    with zipfile.ZipFile(path, "a") as packed:
        packed.writestr("copy/COVID/images/COVID-1.png", b"x")
    with pytest.raises(InputError, match=rf"{FOLDER}/ and in copy/"):
        open_archive(path)


def test_a_damaged_file_within_the_zip_is_named(folder, tmp_path):
    path = pack(folder, tmp_path / "archive.zip")
    name = "COVID/images/COVID-2.png"
    film = (folder / name).read_bytes()
    path.write_bytes(path.read_bytes().replace(film, film[:-1] + b"\0"))
    with open_archive(path) as archive, pytest.raises(InputError, match=name):
        archive.read(name)


def test_a_packing_that_python_does_not_know_is_named(folder, tmp_path):
    path = pack(folder, tmp_path / "archive.zip")
    # The method's number in each entry of the zip's directory; 9 is Deflate64.
    data = path.read_bytes().replace(
        b"PK\x01\x02\x14\x03\x14\0\0\0\0\0", b"PK\x01\x02\x14\x03\x14\0\0\0\t\0"
    )
    path.write_bytes(data)
    with (
        open_archive(path) as archive,
        pytest.raises(InputError, match=r"COVID-1\.png cannot be read"),
    ):
        archive.read("COVID/images/COVID-1.png")


def test_a_zip_that_may_not_be_read_is_named(folder, tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    path = pack(folder, tmp_path / "archive.zip")
    monkeypatch.setattr(zipfile, "ZipFile", refuse)
    with pytest.raises(InputError, match=r"archive\.zip: cannot be read .*Permission denied"):
        open_archive(path)


def test_fewer_films_than_the_release_warn_with_both_counts(folder):
    with open_archive(folder) as archive, pytest.warns(PartialReleaseWarning) as caught:
        archive.warn_if_partial(["COVID", "Viral Pneumonia"])
    assert "COVID 3 of 3616, Viral Pneumonia 1 of 1345" in str(caught[0].message)


def test_a_full_release_does_not_warn(folder, monkeypatch):
    monkeypatch.setattr(archive_module, "RELEASE_COUNTS", {"COVID": 3})
    with open_archive(folder) as archive:
        archive.warn_if_partial(["COVID"])


def test_a_class_without_a_sheet_has_no_sources(folder):
    with open_archive(folder) as archive:
        assert archive.sources("COVID") is None


def test_a_bad_sheet_is_named(folder):
    (folder / "COVID.metadata.xlsx").write_text("FILE NAME,URL")
    with open_archive(folder) as archive, pytest.raises(InputError, match=r"COVID\.metadata\.xlsx"):
        archive.sources("COVID")


def test_importing_archive_and_arrays_loads_no_tfds():
    modules = "jaxseg.data.archive", "jaxseg.data.arrays", "jaxseg.data.splits"
    code = f"import sys, {', '.join(modules)}; sys.exit('tensorflow_datasets' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
