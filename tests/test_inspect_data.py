"""What inspect_data says about a small archive with copies in it."""

import csv
import io
import zipfile

import numpy as np
import pytest
from fake_archive import FOLDER
from PIL import Image

from experiments import dataset, inspect_data
from experiments.configs import CONFIGURATIONS
from experiments.runs import RunDirectory
from jaxseg.data import phantom
from jaxseg.data.splits import leaked

pytestmark = pytest.mark.filterwarnings("ignore::jaxseg.data.archive.PartialReleaseWarning")


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Phantoms; COVID-5 is COVID-4 byte for byte, Normal-3 is COVID-1 brightened."""
    folder = tmp_path_factory.mktemp("images")
    whole = phantom.write_archive(
        folder / "whole", images=dict.fromkeys(phantom.CLASSES, 8), seed=1
    )
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(folder / "archive.zip", "w") as packed:
        for name in source.namelist():
            content = source.read(name)
            if name == f"{FOLDER}/Normal/images/Normal-3.png":
                image = Image.open(io.BytesIO(source.read(f"{FOLDER}/COVID/images/COVID-1.png")))
                file = io.BytesIO()
                Image.fromarray(np.asarray(image) // 2 + np.uint8(50)).save(file, "PNG")
                content = file.getvalue()
            packed.writestr(name, content)
    return folder


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


def configured(archive, data_dir, split="grouped"):
    """The phantoms' configuration on this archive."""
    return CONFIGURATIONS["phantom"].with_data(
        manual_dir=archive, data_dir=data_dir, split=split, size=8
    )


@pytest.mark.slow
def test_the_report_and_the_leaks_are_shown(archive, data_dir, succeeds):
    options = ["--manual-dir", archive, "--data-dir", data_dir]
    out = succeeds(inspect_data, *options)
    assert "## Groups (5)" in out
    assert "- COVID-1, Normal-3, " in out
    # The leaks of the random split, counted by hand.
    ids = [f"{name}-{number}" for name in phantom.CLASSES for number in range(1, 9)]
    test = {ids[i] for i in np.random.RandomState(42).permutation(32)[:10]}
    twins = [(f"{name}-4", f"{name}-5") for name in phantom.CLASSES] + [("COVID-1", "Normal-3")]
    copied = {a for pair in twins for a, b in (pair, pair[::-1]) if a in test and b not in test}
    assert copied
    random, grouped = (line for line in out.splitlines() if line.startswith("split "))
    assert "split random: 22 training images, 10 test images" in random
    assert f"of which {len(copied)} have a near-duplicate among the training images" in random
    assert set(random.rsplit(": ", 1)[1].split(", ")) == copied
    assert "of which 0 have a near-duplicate" in grouped


@pytest.mark.slow
def test_dice_is_reported_with_and_without_the_images_that_leaked(
    archive, data_dir, tmp_path, succeeds, refused
):
    configuration = configured(archive, data_dir, split="random")
    loaded = dataset.load(configuration)
    directory = RunDirectory(tmp_path / "run")
    directory.start(configuration, loaded)
    error = refused(inspect_data, directory.path)
    assert "test_per_image.csv: the table of scores does not exist" in error
    copied = leaked(loaded.arrays.groups, loaded.train, loaded.test)
    with directory.test_scores.open("w") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "class", "group", "dice"])
        for image, copy in zip(loaded.test, copied, strict=True):
            rows.writerow([loaded.arrays.ids[image], "", "", 0.75 if copy else 0.5])
    out = succeeds(inspect_data, directory.path)
    assert f"all (10) {0.5 + 0.25 * copied.mean():.6f}" in out
    assert f"without leaked ({10 - copied.sum()}) 0.500000" in out


@pytest.mark.parametrize(
    ("split", "words"),
    [
        ("source:nowhere", ["no image comes from there", "https://phantom.example.org/first"]),
        ("half", ["--split: must be grouped"]),
    ],
)
def test_a_split_that_does_not_exist_is_named(archive, data_dir, refused, split, words):
    options = ["--manual-dir", archive, "--data-dir", data_dir, "--split", split]
    error = refused(inspect_data, *options)
    assert all(word in error for word in words)


def test_skip_bad_skips_an_image_and_the_report_lists_it(archive, tmp_path, succeeds, refused):
    name = f"{FOLDER}/Normal/masks/Normal-7.png"
    there = tmp_path / "archive.zip"
    with zipfile.ZipFile(archive / "archive.zip") as whole, zipfile.ZipFile(there, "w") as packed:
        for entry in whole.namelist():
            packed.writestr(entry, b"scribble" if entry == name else whole.read(entry))
    options = ["--manual-dir", tmp_path, "--data-dir", tmp_path / "data", "--data-config", "normal"]
    error = refused(inspect_data, *options)
    assert "Normal/masks/Normal-7.png: cannot be read as an image" in error
    out = succeeds(inspect_data, *options, "--skip-bad")
    assert "- Normal/masks/Normal-7.png: cannot be read as an image" in out
    # Every command that uses the images says so.
    assert "skipped 1 files that cannot be used: see " in out
