import importlib.util
import io
import os
import shutil
import subprocess
import sys
import zipfile
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from fake_archive import ALL_CLASSES, FOLDER, film_pixels, mask_pixels, pack, write_folder
from PIL import Image
from tensorflow_datasets.core.dataset_metadata import valid_tags

from jaxseg.data.archive import PartialReleaseWarning, open_archive
from jaxseg.data.covid_radiography import (
    Builder,
    covid_radiography_dataset_builder,
    default_data_dir,
    preparation,
    prepare,
)
from jaxseg.data.splits import SPLITS
from jaxseg.errors import InputError

pytestmark = pytest.mark.filterwarnings(
    "ignore::jaxseg.data.archive.PartialReleaseWarning",
)

FILMS = {"COVID": range(1, 31), "Lung_Opacity": [1], "Normal": [1, 2], "Viral Pneumonia": [3]}


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path, FILMS)


def stored(builder, **options) -> dict[str, dict]:
    """All examples by id, each with its split."""
    return {
        example["id"].decode(): {**example, "split": split}
        for split in SPLITS
        if builder.info.splits[split].num_examples
        for example in builder.as_data_source(split, **options)
    }


def splits(builder) -> dict[str, str]:
    return {film: example["split"] for film, example in stored(builder).items()}


def test_every_film_is_stored_with_its_mask_class_and_id(folder, tmp_path):
    examples = stored(prepare(folder, tmp_path / "data"))
    names = [f"{name}-{number}" for name, numbers in FILMS.items() for number in numbers]
    assert sorted(examples) == sorted(names)
    for film, example in examples.items():
        class_name, number = film.rsplit("-", 1)
        assert example["class"] == ALL_CLASSES.index(class_name)
        assert example["source"] == b""
        np.testing.assert_array_equal(
            example["image"][..., 0], film_pixels(class_name, int(number))
        )
        np.testing.assert_array_equal(example["mask"][..., 0], mask_pixels(class_name, int(number)))


def test_an_rgb_film_becomes_grey_and_a_grey_one_keeps_its_bytes(folder, tmp_path):
    film = folder / "Normal/images/Normal-1.png"
    Image.open(film).convert("RGB").save(film)
    builder = prepare(folder, tmp_path / "data", "normal")
    examples = stored(builder, decoders={"image": tfds.decode.SkipDecoding()})
    grey = (folder / "Normal/images/Normal-2.png").read_bytes()
    assert examples["Normal-2"]["image"] == grey
    with Image.open(io.BytesIO(examples["Normal-1"]["image"])) as picture:
        assert picture.mode == "L"
        np.testing.assert_array_equal(np.asarray(picture), film_pixels("Normal", 1))


@pytest.mark.parametrize(
    ("config", "classes"),
    [
        ("covid", {"COVID"}),
        ("normal", {"Normal"}),
        ("lung_opacity", {"Lung_Opacity"}),
        ("viral_pneumonia", {"Viral Pneumonia"}),
    ],
)
def test_a_config_takes_its_class_only(folder, tmp_path, config, classes):
    films = stored(prepare(folder, tmp_path / "data", config))
    assert {film.rsplit("-", 1)[0] for film in films} == classes


def test_the_sheets_urls_become_the_sources(folder, tmp_path):
    openpyxl = pytest.importorskip("openpyxl", reason="writes the sheet that is read here")
    book = openpyxl.Workbook()
    book.active.append(["FILE NAME", "FORMAT", "SIZE", "URL"])
    book.active.append(["NORMAL-2", "PNG", "256*256", "https://example.org/2"])
    book.active.append(["NORMAL-1", "PNG", "256*256", None])
    book.save(folder / "Normal.metadata.xlsx")
    examples = stored(prepare(folder, tmp_path / "data", "normal"))
    assert examples["Normal-2"]["source"] == b"https://example.org/2"
    assert examples["Normal-1"]["source"] == b""


def test_films_with_the_same_bytes_share_a_split_and_are_listed(folder, tmp_path):
    images = folder / "COVID/images"
    for copy, original in [(2, 1), (30, 1), (17, 4), (9, 8)]:
        shutil.copy(images / f"COVID-{original}.png", images / f"COVID-{copy}.png")
    shutil.copy(images / "COVID-4.png", folder / "Normal/images/Normal-1.png")
    builder = prepare(folder, tmp_path / "data")
    groups = [
        ["COVID-1", "COVID-2", "COVID-30"],
        ["COVID-4", "COVID-17", "Normal-1"],
        ["COVID-8", "COVID-9"],
    ]
    assert builder.duplicates == groups
    split = splits(builder)
    for group in groups:
        assert len({split[film] for film in group}) == 1


def test_a_split_may_lie_in_several_files(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(covid_radiography_dataset_builder, "_FILMS_PER_SHARD", 4)
    builder = prepare(folder, tmp_path / "data", "covid")
    train = builder.info.splits["train"]
    assert train.num_shards == -(-train.num_examples // 4) > 1
    assert sorted(stored(builder)) == sorted(f"COVID-{n}" for n in FILMS["COVID"])


def test_a_films_split_is_the_same_in_every_config_and_every_part(folder, tmp_path):
    everything = splits(prepare(folder, tmp_path / "data"))
    for config in ("covid", "normal"):
        assert splits(prepare(folder, tmp_path / "data", config)).items() <= everything.items()
    part = write_folder(tmp_path / "part", {"COVID": range(12, 40)})
    part_split = splits(prepare(part, tmp_path / "data", "covid"))
    for number in range(12, 31):
        assert part_split[f"COVID-{number}"] == everything[f"COVID-{number}"]
    assert len(set(everything.values())) == 3


def test_tfds_finds_prepares_and_reads_it_without_tensorflow(folder, tmp_path):
    pack(folder, tmp_path / "archive.zip")
    code = f"""
import sys, warnings
warnings.simplefilter("ignore")
import tensorflow_datasets as tfds
import jaxseg.data.covid_radiography
config = tfds.download.DownloadConfig(manual_dir={str(tmp_path)!r})
source = tfds.data_source(
    "covid_radiography/covid",
    split="train",
    data_dir={str(tmp_path / "data")!r},
    download_and_prepare_kwargs={{"download_config": config}},
)
builder = tfds.builder("covid_radiography/covid", data_dir={str(tmp_path / "data")!r})
assert len(source) == len(builder.as_data_source("train")) > 0
assert source[0]["image"].shape == (299, 299, 1)
assert builder.fingerprint
assert "tensorflow" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_description_homepage_citations_tags_and_release_notes_are_there():
    metadata = Builder.get_metadata()
    for count in ("21,165", "3,616", "6,012", "10,192", "1,345"):
        assert count in metadata.description
    for doi in ("10.1109/ACCESS.2020.3010287", "10.1016/j.compbiomed.2021.104319"):
        assert doi in metadata.citation
    assert metadata.tags
    assert set(metadata.tags) <= set(valid_tags())
    assert str(Builder.VERSION) in Builder.RELEASE_NOTES
    info: Any = Builder(config="covid", data_dir="/nowhere").info
    assert info.homepage.startswith("https://www.kaggle.com/datasets/tawsifurrahman")
    assert info.features["class"].names == list(ALL_CLASSES)
    assert info.description
    assert info.citation


def test_tfds_builder_takes_skip_bad(folder, tmp_path):
    (folder / "COVID/masks/COVID-9.png").unlink()
    pack(folder, tmp_path / "archive.zip")
    config = tfds.download.DownloadConfig(manual_dir=str(tmp_path))
    for skip_bad in (False, True):
        builder = tfds.builder(
            "covid_radiography/covid", data_dir=tmp_path / "data", skip_bad=skip_bad
        )
        if skip_bad:
            builder.download_and_prepare(download_config=config)
            assert len(stored(builder)) == 29
        else:
            with pytest.raises(InputError, match="COVID-9"):
                builder.download_and_prepare(download_config=config)


def test_with_tensorflow_tfds_load_reads_tfrecord_and_data_source_array_record(folder, tmp_path):
    if importlib.util.find_spec("tensorflow") is None:
        pytest.skip("needs TensorFlow")
    pack(folder, tmp_path / "archive.zip")
    code = f"""
import warnings
warnings.simplefilter("ignore")
import numpy as np
import tensorflow_datasets as tfds
import jaxseg.data.covid_radiography
kwargs = dict(download_config=tfds.download.DownloadConfig(manual_dir={str(tmp_path)!r}))
films = tfds.load("covid_radiography/covid", split="train+validation+test",
                  data_dir={str(tmp_path / "records")!r}, download_and_prepare_kwargs=kwargs,
                  builder_kwargs=dict(file_format="tfrecord"))
by_id = {{film["id"]: film for film in films.as_numpy_iterator()}}
sources = tfds.data_source("covid_radiography/covid", data_dir={str(tmp_path / "arrays")!r},
                           download_and_prepare_kwargs=kwargs)
others = {{film["id"]: film for source in sources.values() for film in source}}
assert len(by_id) == 30 and by_id.keys() == others.keys()
for name, film in by_id.items():
    for key in ("image", "mask", "class"):
        np.testing.assert_array_equal(film[key], others[name][key])
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("asked", "given"), [(None, "array_record"), ("tfrecord", "tfrecord"), ("riegeli", "riegeli")]
)
def test_the_file_format_is_array_record_unless_asked_otherwise(tmp_path, asked, given):
    builder = Builder(config="covid", data_dir=tmp_path, file_format=asked)
    assert builder.info.file_format == tfds.core.FileFormat(given)


def test_a_prepared_archive_is_used_again_and_found_by_its_content(folder, tmp_path):
    calls = []
    data_dir = tmp_path / "data"

    def tell(done, total):
        calls.append((done, total))

    first = prepare(folder, data_dir, "covid", progress=tell)
    # All 34 films of the archive are looked at, the 30 of the config are written.
    assert calls == [(done, 64) for done in range(1, 65)]
    again = prepare(pack(folder, tmp_path / "mine.zip"), data_dir, "covid", progress=tell)
    assert len(calls) == 64
    assert again.data_dir == first.data_dir
    assert Path(first.data_dir).is_relative_to(data_dir)


def test_archives_of_other_content_are_prepared_apart(folder, tmp_path):
    first = prepare(folder, tmp_path / "data", "normal")
    shutil.copy(folder / "Normal/masks/Normal-1.png", folder / "Normal/masks/Normal-2.png")
    second = prepare(folder, tmp_path / "data", "normal")
    assert first.data_dir != second.data_dir
    assert first.fingerprint != second.fingerprint


def test_a_run_killed_while_preparing_leaves_nothing_that_passes_for_whole(folder, tmp_path):
    code = f"""
import os, warnings
warnings.simplefilter("ignore")
from jaxseg.data.covid_radiography import prepare
prepare({str(folder)!r}, {str(tmp_path / "data")!r}, "covid",
        progress=lambda done, total: os._exit(9) if done == 50 else None)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    assert not list((tmp_path / "data").rglob("2.0.0"))
    assert len(stored(prepare(folder, tmp_path / "data", "covid"))) == 30


def test_an_interrupted_run_leaves_no_record_files(folder, tmp_path):
    def interrupt(done, _):
        if done == 50:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(folder, tmp_path / "data", "covid", progress=interrupt)
    assert not list((tmp_path / "data").rglob("*array_record*"))


@pytest.mark.parametrize(
    "damage", ["cut a file", "remove a file", "empty the info", "remove the info"]
)
def test_a_prepared_folder_damaged_since_is_prepared_again(folder, tmp_path, damage):
    directory = Path(prepare(folder, tmp_path / "data", "covid").data_dir)
    record, info = next(directory.glob("*train*")), directory / "dataset_info.json"
    if damage == "cut a file":
        record.write_bytes(record.read_bytes()[:-1])
    elif damage == "remove a file":
        record.unlink()
    elif damage == "empty the info":
        info.write_text("")
    else:
        info.unlink()
    assert len(stored(prepare(folder, tmp_path / "data", "covid"))) == 30


def test_two_runs_at_once_both_end_well(folder, tmp_path):
    builders = []

    def run_another(done, _):
        if done == 15:
            builders.append(prepare(folder, tmp_path / "data", "covid"))

    builders.append(prepare(folder, tmp_path / "data", "covid", progress=run_another))
    first, second = map(stored, builders)
    assert first.keys() == second.keys()
    assert len(first) == 30


def test_too_little_space_is_told_before_anything_is_written(folder, tmp_path, monkeypatch):
    usage = namedtuple("usage", ["total", "used", "free"])
    monkeypatch.setattr(preparation.shutil, "disk_usage", lambda _: usage(9, 9, 1000))
    with pytest.raises(InputError, match="MB are needed there and 0 MB are free"):
        prepare(folder, tmp_path / "data", "covid")
    assert not list((tmp_path / "data").rglob("*.png"))


def test_a_disk_that_fills_up_while_writing_is_told(folder, tmp_path, monkeypatch):
    def fill_up(*_, **__):
        raise RuntimeError("write() failed: No space left on device; writing x")

    monkeypatch.setattr(preparation, "_build", fill_up)
    with pytest.raises(InputError, match=r"cannot be written to.*No space left"):
        prepare(folder, tmp_path / "data", "covid")


def test_a_data_dir_that_is_a_file_is_told(folder, tmp_path):
    (tmp_path / "data").write_text("")
    with pytest.raises(InputError, match=r"data.*cannot be written to"):
        prepare(folder, tmp_path / "data", "covid")


def test_an_unknown_config_is_told_with_those_that_exist(folder, tmp_path):
    with pytest.raises(InputError, match="covd: no such data config; there are all, covid"):
        prepare(folder, tmp_path / "data", "covd")


def test_a_class_that_is_absent_is_told_with_those_present(folder, tmp_path):
    shutil.rmtree(folder / "Normal")
    with pytest.raises(InputError, match=r"no films of Normal; .* COVID, Lung_Opacity, Viral"):
        prepare(folder, tmp_path / "data", "all")


@pytest.mark.parametrize("kind", ["images", "masks"])
def test_a_file_that_is_no_picture_is_named(folder, tmp_path, kind):
    (folder / f"COVID/{kind}/COVID-7.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    with pytest.raises(InputError, match=f"COVID/{kind}/COVID-7.png: cannot be read as a picture"):
        prepare(folder, tmp_path / "data", "covid")
    assert not list((tmp_path / "data").rglob("2.0.0"))


def test_fewer_films_than_the_release_warn_when_prepared_and_when_used_again(folder, tmp_path):
    for _ in range(2):
        with pytest.warns(PartialReleaseWarning, match="Normal 2 of 10192"):
            prepare(folder, tmp_path / "data", "normal")


def test_preparing_prints_nothing(folder, tmp_path, capfd):
    prepare(folder, tmp_path / "data", "covid")
    assert capfd.readouterr() == ("", "")


def test_the_default_is_the_users_cache(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert default_data_dir() == tmp_path / "cache/jaxseg"
    builder = prepare(folder, config="normal")
    assert Path(builder.data_dir).is_relative_to(tmp_path / "cache/jaxseg")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    assert default_data_dir() == tmp_path / "home/.cache/jaxseg"


def real_films() -> Path:
    default = Path(__file__).parents[1] / "../shared/data"
    place = Path(os.environ.get("JAXSEG_REAL_DATA", default))
    if not (place / f"{FOLDER}.zip").exists():
        pytest.skip("no real films: JAXSEG_REAL_DATA names the directory that holds the archive")
    return place


@pytest.mark.slow
def test_the_real_films_have_their_known_counts_and_duplicates(tmp_path):
    builder = prepare(real_films(), tmp_path, "viral_pneumonia")
    examples = stored(builder)
    assert len(examples) == 1100
    assert {example["image"].shape for example in examples.values()} == {(299, 299, 1)}
    assert {example["mask"].shape for example in examples.values()} == {(256, 256, 1)}
    assert {value for e in examples.values() for value in np.unique(e["mask"])} == {0, 255}
    pairs = [(74, 75), (117, 118), (249, 250), (294, 295), (595, 596), (953, 954), (1052, 1053)]
    expected = [[f"Viral Pneumonia-{a}", f"Viral Pneumonia-{b}"] for a, b in pairs]
    assert builder.duplicates == expected
    assert builder.report["near_duplicates"] == []
    assert builder.report["oddities"] == {
        "film stored as RGB: made grey": 109,
        "mask stored as RGB: made grey": 1100,
    }
    assert builder.report["faults"] == []
    split = splits(builder)
    assert all(len({split[film] for film in group}) == 1 for group in expected)


@pytest.mark.slow
def test_a_hundred_real_films_added_move_none_of_the_thousand(tmp_path):
    place = real_films()
    with open_archive(place) as archive, zipfile.ZipFile(tmp_path / "part.zip", "w") as part:
        films = archive.films(["Viral Pneumonia"])
        added = np.random.default_rng(0).permutation(len(films))[:100]
        for index in set(range(len(films))) - set(added.tolist()):
            for name in (films[index].image, films[index].mask):
                part.writestr(name, archive.read(name))
    whole = splits(prepare(place, tmp_path / "data", "viral_pneumonia"))
    thousand = splits(prepare(tmp_path / "part.zip", tmp_path / "data", "viral_pneumonia"))
    assert len(thousand) == 1000
    assert thousand.items() <= whole.items()
