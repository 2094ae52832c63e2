"""The TFDS dataset: what is stored, in which split, and what happens if something is wrong."""

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from fake_archive import ALL_CLASSES, FOLDER, image_pixels, pack, write_folder, write_sheet
from PIL import Image
from tensorflow_datasets.core.dataset_metadata import valid_tags

from jaxseg.data.archive import RELEASE_COUNTS, PartialReleaseWarning, open_archive
from jaxseg.data.covid_radiography import (
    Builder,
    covid_radiography_dataset_builder,
    default_data_dir,
    prepare,
    report,
)
from jaxseg.data.splits import SPLITS, split_of_hash
from jaxseg.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore::jaxseg.data.archive.PartialReleaseWarning")

IMAGES = {"COVID": range(1, 15), "Lung_Opacity": [1], "Normal": [1, 2], "Viral Pneumonia": [3]}
IDS = [f"{name}-{number}" for name, numbers in IMAGES.items() for number in numbers]
IMAGE, MASK, SHEET = "COVID/images/COVID-2.png", "COVID/masks/COVID-2.png", "COVID.metadata.xlsx"


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    """Copies, an edited copy in another class, an RGB image, an empty mask, a metadata sheet."""
    folder = write_folder(tmp_path_factory.mktemp("release"), IMAGES)
    for copy in (2, 12):
        shutil.copy(folder / "COVID/images/COVID-1.png", folder / f"COVID/images/COVID-{copy}.png")
    edited = image_pixels("COVID", 4) // 2 + np.uint8(60)
    Image.fromarray(edited).convert("RGB").save(folder / "Normal/images/Normal-2.png")
    empty = Image.fromarray(np.zeros((256, 256), np.uint8))
    empty.save(folder / "COVID/masks/COVID-7.png")
    rows = [["NORMAL-2", "https://example.org/2"], ["NORMAL-1", None], ["NORMAL-9", "x"]]
    write_sheet(folder / "Normal.metadata.xlsx", [["FILE NAME", "URL"], *rows])
    return folder


@pytest.fixture(scope="module")
def prepared(release, tmp_path_factory):
    return prepare(release, tmp_path_factory.mktemp("data"))


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path, {"COVID": range(1, 7), "Normal": [1, 2]})


def stored(builder, **options) -> dict[str, dict]:
    """All examples by id, each with its split."""
    return {
        example["id"].decode(): {**example, "split": split}
        for split in SPLITS
        if builder.info.splits[split].num_examples
        for example in builder.as_data_source(split, **options)
    }


def splits(builder) -> dict[str, str]:
    return {name: example["split"] for name, example in stored(builder).items()}


def test_every_image_is_stored_with_its_mask_class_id_and_source(release, prepared):
    examples = stored(prepared)
    assert sorted(examples) == sorted(IDS)
    for name, example in examples.items():
        class_name = name.rsplit("-", 1)[0]
        assert example["class"] == ALL_CLASSES.index(class_name)
        assert example["source"] == (b"https://example.org/2" if name == "Normal-2" else b"")
        for key in ("image", "mask"):
            with Image.open(release / class_name / f"{key}s" / f"{name}.png") as file:
                np.testing.assert_array_equal(example[key][..., 0], np.asarray(file.convert("L")))


def test_a_gray_image_keeps_its_bytes(release, prepared):
    examples = stored(prepared, decoders={"image": tfds.decode.SkipDecoding()})
    for name in ("Normal-1", "Normal-2"):
        is_gray = name == "Normal-1"
        content = (release / f"Normal/images/{name}.png").read_bytes()
        assert (examples[name]["image"] == content) == is_gray


def test_a_slice_is_the_start_of_the_split_in_the_order_of_the_hashes(release, prepared):
    def content(name: str) -> tuple[str, str]:
        file = release / name.rsplit("-", 1)[0] / "images" / f"{name}.png"
        return hashlib.sha256(file.read_bytes()).hexdigest(), name

    train = sorted((name for name, split in splits(prepared).items() if split == "train"),
                   key=content)  # fmt: skip
    for part, expected in (("[:50%]", train[: round(len(train) / 2)]), ("[2:5]", train[2:5])):
        source: Any = prepared.as_data_source(f"train{part}")
        assert [example["id"].decode() for example in source] == expected


def test_the_report_says_what_was_found(release, prepared):
    found = {key: prepared.report[key] for key in prepared.report if key != "fingerprint"}
    content = {name: hashlib.sha256((release / f"COVID/images/{name}.png").read_bytes())
               for name in ("COVID-1", "COVID-4")}  # fmt: skip
    split = {name: split_of_hash(digest.hexdigest()) for name, digest in content.items()}
    (near,) = found.pop("near_duplicates")
    assert near[:2] == ["COVID-4", "Normal-2"]
    count = Counter((name.rsplit("-", 1)[0], where) for name, where in splits(prepared).items())
    assert found == {
        "images": {name: {where: count[name, where] for where in SPLITS} for name in ALL_CLASSES},
        "sources": {"COVID": {"unknown": 14}, "Lung_Opacity": {"unknown": 1},
                    "Normal": {"https://example.org/2": 1, "unknown": 1},
                    "Viral Pneumonia": {"unknown": 1}},
        "duplicates": [["COVID-1", "COVID-2", "COVID-12"]],
        "groups": [
            {"images": ["COVID-1", "COVID-2", "COVID-12"], "split": split["COVID-1"]},
            {"images": ["COVID-4", "Normal-2"], "split": split["COVID-4"]},
        ],
        "empty_masks": ["COVID-7"],
        "skipped": [],
    }  # fmt: skip
    text = Path(prepared.data_dir, "report.md").read_text()
    covid = found["images"]["COVID"]
    assert {
        "- COVID: train: {train}, validation: {validation}, test: {test}".format(**covid),
        "- Normal: unknown: 1, https://example.org/2: 1",
        "- COVID-1, COVID-2, COVID-12",
        f"- images: COVID-4, Normal-2, split: {split['COVID-4']}",
        "## Empty-masks (1)",
        "## Skipped (0)",
    } <= {*text.splitlines()}


def test_an_image_has_the_same_split_in_every_config_and_every_part(release, prepared, tmp_path):
    everything = splits(prepared)
    assert set(everything.values()) == set(SPLITS)
    for group in prepared.report["groups"]:
        assert {everything[name] for name in group["images"]} == {group["split"]}
    for config, name in [("covid", "COVID"), ("normal", "Normal"), ("lung_opacity", "Lung_Opacity"),
                         ("viral_pneumonia", "Viral Pneumonia")]:  # fmt: skip
        builder = prepare(release, tmp_path, config)
        expected = {id: split for id, split in everything.items() if id.startswith(f"{name}-")}
        assert splits(builder) == expected
        groups = [g for g in prepared.report["groups"] if any(name in id for id in g["images"])]
        assert builder.report["groups"] == groups
    part = write_folder(tmp_path / "part", {"COVID": [3, 8, *range(10, 12), *range(20, 30)]})
    some = splits(prepare(part, tmp_path / "data", "covid"))
    for number in (3, 8, 10, 11):
        assert some[f"COVID-{number}"] == everything[f"COVID-{number}"]


def test_a_split_may_have_several_files(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(covid_radiography_dataset_builder, "_IMAGES_PER_SHARD", 2)
    builder = prepare(folder, tmp_path / "data", "covid")
    train = builder.info.splits["train"]
    assert train.num_shards == -(-train.num_examples // 2) > 1
    assert sorted(stored(builder)) == [f"COVID-{n}" for n in range(1, 7)]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: 3 * path.stat().st_size // 4])


def resized(size):
    def spoil(path: Path) -> None:
        with Image.open(path) as image:
            image.resize(size, Image.Resampling.NEAREST).save(path)

    return spoil


BAD = {
    "an image cut short": (IMAGE, cut, f"{IMAGE}: cannot be read as an image"),
    "a mask cut short": (MASK, cut, f"{MASK}: cannot be read as an image"),
    "an empty file": (IMAGE, lambda path: path.write_bytes(b""), f"{IMAGE}: cannot be read"),
    "an image of another size": (IMAGE, resized((299, 298)), f"{IMAGE}: has 299 x 298 pixels; "),
    "a mask of another size": (MASK, resized((299, 299)), f"{MASK}: has 299 x 299 .* 256 x 256"),
    "no mask": (MASK, Path.unlink, f"{IMAGE} has no mask"),
    "a sheet that is none": (SHEET, lambda path: path.write_text("FILE NAME,URL"),
                             rf"{SHEET} cannot be read as \.xlsx"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "spoil", "message"), BAD.values(), ids=BAD.keys())
def test_a_bad_file_is_named_or_skipped_and_listed(folder, name, spoil, message):
    spoil(folder / name)
    with open_archive(folder) as archive:
        with pytest.raises(InputError, match=message) as raised:
            report.inspect(archive, ["COVID"])
        images, metadata = report.inspect(archive, ["COVID"], skip_bad=True)
    (skipped,) = metadata["skipped"]
    assert str(raised.value) == f"{folder}: {skipped}"
    assert str(folder) not in skipped
    # An image without a source is used.
    expected = [n for n in range(1, 7) if n != 2 or name == SHEET]
    assert [image.pair.id for image in images] == [f"COVID-{n}" for n in expected]
    assert sum(metadata["images"]["COVID"].values()) == len(expected)


def test_bad_files_of_another_class_do_not_matter(folder, tmp_path):
    cut(folder / "Normal/images/Normal-1.png")
    (folder / "Normal/masks/Normal-2.png").unlink()
    assert prepare(folder, tmp_path / "data", "covid").report["skipped"] == []


def test_a_dataset_prepared_with_skip_bad_is_not_used_without(folder, tmp_path):
    cut(folder / IMAGE)
    for _ in range(2):
        with pytest.raises(InputError, match=f"{IMAGE}: cannot be read as an image"):
            prepare(folder, tmp_path / "data", "covid")
        builder = prepare(folder, tmp_path / "data", "covid", skip_bad=True)
        assert sorted(stored(builder)) == [f"COVID-{n}" for n in (1, 3, 4, 5, 6)]
        assert f"- {IMAGE}: cannot be read" in Path(builder.data_dir, "report.md").read_text()


def test_tfds_builder_takes_skip_bad(folder, tmp_path):
    (folder / MASK).unlink()
    config = tfds.download.DownloadConfig(manual_dir=str(tmp_path))
    name, data_dir = "covid_radiography/covid", tmp_path / "data"
    with pytest.raises(InputError, match="COVID-2"):
        tfds.builder(name, data_dir=data_dir).download_and_prepare(download_config=config)
    builder = tfds.builder(name, data_dir=data_dir, skip_bad=True)
    builder.download_and_prepare(download_config=config)
    assert len(stored(builder)) == 5


def test_tfds_reads_it_without_tensorflow_and_a_killed_run_leaves_no_dataset(folder, tmp_path):
    data = tmp_path / "data"
    code = f"""
import os, sys, warnings
warnings.simplefilter("ignore")
import jaxseg.data.archive, jaxseg.data.arrays, jaxseg.data.splits
assert "tensorflow_datasets" not in sys.modules
import tensorflow_datasets as tfds
import jaxseg.data.covid_radiography
config = tfds.download.DownloadConfig(manual_dir={str(tmp_path)!r})
name, data_dir = "covid_radiography/covid", {str(tmp_path / "tfds")!r}
source = tfds.data_source(name, split="train", data_dir=data_dir,
                          download_and_prepare_kwargs={{"download_config": config}})
builder = tfds.builder(name, data_dir=data_dir)
assert len(source) == len(builder.as_data_source("train")) > 0
assert source[0]["image"].shape == (299, 299, 1)
assert len(builder.fingerprint) == 64
assert "tensorflow" not in sys.modules
jaxseg.data.covid_radiography.prepare(
    {str(folder)!r}, {str(data)!r}, "covid",
    progress=lambda done, total: os._exit(9) if done == 12 else None)
"""
    run = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert run.returncode == 9, run.stderr
    assert list(data.rglob("*array_record*"))
    assert not list(data.rglob(str(Builder.VERSION)))
    assert len(stored(prepare(folder, data, "covid"))) == 6


@pytest.mark.slow
@pytest.mark.usefixtures("folder")
def test_tensorflow_loads_the_same_images(tmp_path):
    if importlib.util.find_spec("tensorflow") is None:
        pytest.skip("needs TensorFlow")
    code = f"""
import warnings
warnings.simplefilter("ignore")
import numpy as np, tensorflow_datasets as tfds
import jaxseg.data.covid_radiography
prepared = {{"download_config": tfds.download.DownloadConfig(manual_dir={str(tmp_path)!r})}}
name, folder = "covid_radiography/covid", {str(tmp_path)!r}
loaded = tfds.load(name, split="train", data_dir=folder + "/records",
                   builder_kwargs={{"file_format": "tfrecord"}},
                   download_and_prepare_kwargs=prepared)
source = tfds.data_source(name, split="train", data_dir=folder + "/arrays",
                          download_and_prepare_kwargs=prepared)
loaded = {{example["id"]: example for example in loaded.as_numpy_iterator()}}
assert len(loaded) == len(source) > 0
for example in source:
    for key in ("image", "mask"):
        np.testing.assert_array_equal(loaded[example["id"]][key], example[key])
"""
    run = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("file_format", [None, "tfrecord", "riegeli"])
def test_the_file_format_is_array_record_by_default(tmp_path, file_format):
    builder = Builder(config="covid", data_dir=tmp_path, file_format=file_format)
    assert builder.info.file_format == tfds.core.FileFormat(file_format or "array_record")


def test_tfds_has_the_description_homepage_citations_tags_and_release_notes():
    metadata = Builder.get_metadata()
    assert all(f"{count:,}" in metadata.description for count in RELEASE_COUNTS.values())
    for doi in ("10.1109/ACCESS.2020.3010287", "10.1016/j.compbiomed.2021.104319"):
        assert doi in metadata.citation
    assert metadata.tags
    assert set(metadata.tags) <= set(valid_tags())
    assert str(Builder.VERSION) in Builder.RELEASE_NOTES
    info: Any = Builder(config="covid", data_dir="/nowhere").info
    assert info.homepage.startswith("https://www.kaggle.com/datasets/tawsifurrahman")
    assert info.features["class"].names == list(ALL_CLASSES)


def test_a_prepared_archive_is_found_by_its_content(folder, tmp_path, capfd):
    calls, data = [], tmp_path / "data"

    def progress(done, total):
        calls.append((done, total))

    first = prepare(folder, data, "covid", progress=progress)
    # All 8 images of the archive are inspected, the 6 of the config are written.
    assert calls == [(done, 14) for done in range(1, 15)]
    again = prepare(pack(folder, tmp_path / "mine.zip"), data, "covid", progress=progress)
    assert len(calls) == 14
    assert again.data_dir == first.data_dir
    assert Path(first.data_dir).is_relative_to(data / first.fingerprint[:16])
    shutil.copy(folder / "COVID/masks/COVID-1.png", folder / MASK)
    other = prepare(folder, data, "covid", progress=progress)
    assert len(calls) == 28
    assert other.data_dir != first.data_dir
    assert capfd.readouterr() == ("", "")


def test_a_folder_damaged_since_is_prepared_again(folder, tmp_path):
    directory = Path(prepare(folder, tmp_path / "data", "covid").data_dir)
    for name, content in [("train", b"cut short"), ("train", None), ("dataset_info.json", b""),
                          ("dataset_info.json", b"{}"), ("dataset_info.json", None)]:  # fmt: skip
        file = next(directory.glob(f"*{name}*"))
        if content is None:
            file.unlink()
        else:
            file.write_bytes(content)
        assert len(stored(prepare(folder, tmp_path / "data", "covid"))) == 6


@pytest.mark.parametrize("step", [3, 12], ids=["inspecting", "writing"])
def test_two_runs_at_the_same_time_both_succeed(folder, tmp_path, step):
    builders = []

    def run_another(done, _):
        if done == step:
            builders.append(prepare(folder, tmp_path / "data", "covid"))

    builders.append(prepare(folder, tmp_path / "data", "covid", progress=run_another))
    first, second = map(splits, builders)
    assert first == second
    assert len(first) == 6


def test_a_full_disk_is_named_and_other_errors_are_passed_on(folder, tmp_path, monkeypatch):
    for message, error in [("write() failed: No space left on device", InputError),
                           ("a defect", RuntimeError)]:  # fmt: skip

        def fail(*_, message=message, **__):
            raise RuntimeError(message)

        monkeypatch.setattr(Builder, "download_and_prepare", fail)
        with pytest.raises(error, match=message.split(": ")[-1]) as raised:
            prepare(folder, tmp_path / "data", "covid")
        assert raised.type is error
    monkeypatch.undo()
    (tmp_path / "data").write_text("")
    with pytest.raises(InputError, match=r"data.*cannot be written to"):
        prepare(folder, tmp_path / "data", "covid")


@pytest.mark.parametrize(
    ("config", "message"),
    [("covd", "covd: no such config. There are all, covid"),
     ("all", r"no images of Lung_Opacity, Viral Pneumonia\. .* are COVID, Normal")],
)  # fmt: skip
def test_a_bad_config_is_named_with_those_that_exist(folder, tmp_path, config, message):
    with pytest.raises(InputError, match=message):
        prepare(folder, tmp_path / "data", config)


def test_fewer_images_than_the_release_warn_at_every_use(folder, tmp_path):
    for _ in range(2):
        with pytest.warns(PartialReleaseWarning, match="Normal 2 of 10192"):
            prepare(folder, tmp_path / "data", "normal")


def test_the_default_is_the_users_cache(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert default_data_dir() == tmp_path / "cache/jaxseg"
    builder = prepare(folder, config="normal")
    assert Path(builder.data_dir).is_relative_to(tmp_path / "cache/jaxseg")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert default_data_dir() == tmp_path / "home/.cache/jaxseg"
    # As it is for a user without a home directory.
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    with pytest.raises(InputError, match=r"no home directory .* set XDG_CACHE_HOME"):
        default_data_dir()


def real_archive() -> Path:
    default = Path(__file__).parents[1] / "../shared/data"
    directory = Path(os.environ.get("JAXSEG_REAL_DATA", default))
    if not (directory / f"{FOLDER}.zip").exists():
        pytest.skip("no real images: JAXSEG_REAL_DATA names the directory that holds the archive")
    return directory


@pytest.mark.slow
def test_the_real_images_have_their_known_counts_and_a_tenth_of_them_moves_none(tmp_path):
    directory = real_archive()
    builder = prepare(directory, tmp_path / "data", "viral_pneumonia")
    examples = stored(builder)
    assert len(examples) == 1100
    assert {value for e in examples.values() for value in np.unique(e["mask"])} == {0, 255}
    pairs = [(74, 75), (117, 118), (249, 250), (294, 295), (595, 596), (953, 954), (1052, 1053)]
    duplicates = [[f"Viral Pneumonia-{a}", f"Viral Pneumonia-{b}"] for a, b in pairs]
    found = builder.report
    assert (found["duplicates"], found["near_duplicates"], found["skipped"]) == (duplicates, [], [])
    assert [group["images"] for group in found["groups"]] == duplicates
    assert found["empty_masks"] == []
    whole = splits(builder)
    assert all(whole[a] == whole[b] for a, b in duplicates)
    with open_archive(directory) as archive, zipfile.ZipFile(tmp_path / "part.zip", "w") as part:
        all_pairs, _ = archive.pairs(["Viral Pneumonia"])
        for index in np.random.default_rng(0).permutation(1100)[100:]:
            for name in (all_pairs[index].image, all_pairs[index].mask):
                part.writestr(name, archive.read(name))
    thousand = splits(prepare(tmp_path / "part.zip", tmp_path / "data", "viral_pneumonia"))
    assert len(thousand) == 1000
    assert thousand.items() <= whole.items()
