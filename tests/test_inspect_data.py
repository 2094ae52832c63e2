"""What inspect_data says of a small archive with copies in it, and what data options give."""

import csv
import dataclasses
import io
import sys
import warnings
import zipfile

import numpy as np
import pytest
from PIL import Image

from experiments import command, films, inspect_data
from experiments.configurations import CONFIGURATIONS
from experiments.run_directory import RunDirectory
from jaxseg.data import phantom
from jaxseg.data.arrays import load_arrays
from jaxseg.data.splits import leaked

pytestmark = pytest.mark.filterwarnings("ignore::jaxseg.data.archive.PartialReleaseWarning")

SOURCES = ("first-hospital", "second-hospital", "teaching-collection")


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Phantoms; COVID-5 is COVID-4 byte for byte, Normal-3 is COVID-1 brightened."""
    folder = tmp_path_factory.mktemp("films")
    whole = phantom.write_archive(folder / "whole", films=dict.fromkeys(phantom.CLASSES, 8), seed=1)
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(folder / "archive.zip", "w") as packed:
        for name in source.namelist():
            content = source.read(name)
            if name.endswith("Normal/images/Normal-3.png"):
                film = np.asarray(
                    Image.open(
                        io.BytesIO(source.read(name.replace("Normal", "COVID")[:-5] + "1.png"))
                    )
                )
                file = io.BytesIO()
                Image.fromarray(film // 2 + np.uint8(50)).save(file, "PNG")
                content = file.getvalue()
            packed.writestr(name, content)
    return folder


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


def configured(archive, data_dir, split="grouped"):
    """The phantoms' configuration on this archive."""
    return dataclasses.replace(
        CONFIGURATIONS["phantom"], manual_dir=archive, data_dir=data_dir, split=split, size=8
    )


def run(arguments, capsys, monkeypatch):
    """The command in this process: its exit status, standard output and standard error."""
    monkeypatch.setattr(sys, "argv", ["inspect_data", *map(str, arguments)])
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    with pytest.raises(SystemExit) as stopped:
        command.run(inspect_data.main)
    return (stopped.value.code, *capsys.readouterr())


def test_the_report_the_leaks_and_the_sheets_are_shown(
    archive, data_dir, tmp_path, capsys, monkeypatch
):
    options = ["--manual-dir", archive, "--data-dir", data_dir, "--out", tmp_path / "sheets"]
    code, out, error = run([*options, "--closest", 3], capsys, monkeypatch)
    assert code == 0, error
    for words in (
        "| all | 21165 | 32 |",
        "5 groups of 10 films: 4 times the same bytes, 1 pairs of near duplicates",
        "near duplicates: COVID-1 and Normal-3",
        "0 films left out",
        "split seed: 22 films to learn from, 10 to test on",
    ):
        assert words in out
    assert "split grouped:" in out
    assert "of which 0 have a copy among the former" in out.split("split grouped:")[1]
    names = {path.name for path in (tmp_path / "sheets").iterdir()}
    assert names == {"same-bytes-1.png", "near-duplicates-1.png", "next-closest-1.png"}
    with Image.open(tmp_path / "sheets/near-duplicates-1.png") as sheet:
        assert min(sheet.size) > 100
        assert np.asarray(sheet.convert("L")).std() > 10


def test_the_seeds_leak_is_counted_as_by_hand(archive, data_dir, capsys, monkeypatch):
    options = ["--manual-dir", archive, "--data-dir", data_dir, "--closest", 0]
    _, out, _ = run(options, capsys, monkeypatch)
    ids = [f"{name}-{number}" for name in phantom.CLASSES for number in range(1, 9)]
    test = {ids[i] for i in np.random.RandomState(42).permutation(32)[:10]}
    twins = [(f"{name}-4", f"{name}-5") for name in phantom.CLASSES] + [("COVID-1", "Normal-3")]
    copied = {a for pair in twins for a, b in (pair, pair[::-1]) if a in test and b not in test}
    assert copied
    line = next(line for line in out.splitlines() if "split seed" in line)
    assert f"of which {len(copied)} have a copy" in line
    assert set(line.rsplit(": ", 1)[1].split(", ")) == copied


@pytest.mark.slow
def test_dice_is_reported_with_and_without_the_films_that_leaked(
    archive, data_dir, tmp_path, capsys, monkeypatch
):
    configuration = configured(archive, data_dir, split="seed")
    loaded = films.load(configuration)
    directory = RunDirectory(tmp_path / "run")
    directory.start(configuration, loaded.fingerprint)
    copied = leaked(loaded.arrays.groups, loaded.train, loaded.test)
    with directory.test_scores.open("w") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "dice"])
        for film, copy in zip(loaded.test, copied, strict=True):
            rows.writerow([loaded.arrays.ids[film], 0.75 if copy else 0.5])
    code, out, error = run([directory.path], capsys, monkeypatch)
    assert code == 0, error
    mean = 0.5 + 0.25 * copied.mean()
    assert f"all test films, 10: {mean:.6f}" in out
    assert f"without those, {10 - copied.sum()}: 0.500000" in out
    assert f"those, {copied.sum()}: 0.750000" in out
    assert (directory.path / "same-bytes-1.png").exists()
    assert "Dice of the labels of 8 x 8 themselves, on the masks' own grid, 10 test films: " in out


def test_what_labels_lost_is_what_torch_finds(archive, data_dir):
    torch = pytest.importorskip("torch", reason="the peer")
    loaded = films.load(configured(archive, data_dir, split="seed"))
    labels, masks = (array[loaded.test] for array in (loaded.arrays.labels, loaded.arrays.masks))
    fine = torch.nn.functional.interpolate(
        torch.tensor(2.0 * labels[:, None] - 1.0), size=masks.shape[1:], mode="bilinear"
    )
    again = fine[:, 0].numpy() > 0
    both = (again & (masks == 1)).sum((1, 2))
    expected = (2 * both / (again.sum((1, 2)) + masks.sum((1, 2)))).mean()
    said = f"labels of 8 x 8 themselves, on the masks' own grid, 10 test films: {expected:.6f}"
    assert said in inspect_data.dice_of_labels(loaded)


def test_a_run_without_scores_is_named(archive, data_dir, tmp_path, capsys, monkeypatch):
    configuration = configured(archive, data_dir)
    directory = RunDirectory(tmp_path / "run")
    directory.start(configuration, films.load(configuration).fingerprint)
    code, _, error = run([directory.path], capsys, monkeypatch)
    assert code == 2
    assert "has no test_per_image.csv yet" in error


@pytest.mark.parametrize("source", SOURCES)
def test_a_held_out_source_is_tested_on_and_nothing_of_it_is_learnt(archive, data_dir, source):
    loaded = films.load(configured(archive, data_dir, split=f"source:{source.upper()}"))
    arrays = loaded.arrays
    assert {arrays.sources[i] for i in loaded.test} == {f"https://phantom.example.org/{source}"}
    parts = (loaded.train, loaded.validation, loaded.test)
    groups = [{arrays.groups[i] for i in part} for part in parts]
    assert sum(map(len, groups)) == len(set.union(*groups))
    free = [i for i in range(32) if arrays.groups[i] not in groups[2]]
    assert sorted([*loaded.train, *loaded.validation]) == free
    assert all(arrays.split[i] == "validation" for i in loaded.validation)
    assert all(arrays.split[i] != "validation" for i in loaded.train)


@pytest.mark.parametrize(
    ("split", "words"),
    [
        ("source:nowhere", ["no film comes from there", "https://phantom.example.org/first"]),
        ("source:https", ["every film comes from there"]),
        ("source:", ["held-out source ''"]),
        ("random", ["--split", "'random' is none of seed, grouped, choosing and source:TEXT"]),
    ],
)
def test_a_split_that_will_not_do_is_named(archive, data_dir, capsys, monkeypatch, split, words):
    options = ["--manual-dir", archive, "--data-dir", data_dir, "--split", split]
    code, _, error = run(options, capsys, monkeypatch)
    assert code == 2
    assert error.count("\n") == 1
    assert all(word in error for word in words)


def test_skip_bad_leaves_a_film_out_and_the_report_says_so(archive, tmp_path, capsys, monkeypatch):
    name = "COVID-19_Radiography_Dataset/Normal/masks/Normal-7.png"
    place = tmp_path / "archive.zip"
    with zipfile.ZipFile(archive / "archive.zip") as whole, zipfile.ZipFile(place, "w") as packed:
        for entry in whole.namelist():
            packed.writestr(entry, b"scribble" if entry == name else whole.read(entry))
    options = ["--manual-dir", tmp_path, "--data-dir", tmp_path / "data", "--data-config", "normal"]
    code, _, error = run(options, capsys, monkeypatch)
    assert code == 2
    assert "Normal/masks/Normal-7.png: cannot be read as a picture" in error
    code, out, error = run([*options, "--skip-bad"], capsys, monkeypatch)
    assert code == 0, error
    assert "1 films left out; 1 files will not do." in out
    # Every command that uses the films says so, not only the one that shows the report.
    assert "1 films left out, 1 files that will not do: see " in out
    assert "| Normal | 10192 | 7 |" in out


def test_the_groups_of_the_arrays_are_the_builders(archive, data_dir):
    arrays = load_arrays(films.prepared(configured(archive, data_dir), archive), size=8)
    group = dict(zip(arrays.ids, arrays.groups, strict=True))
    assert group["Normal-3"] == group["COVID-1"] == "COVID-1"
    assert group["COVID-5"] == group["COVID-4"] == "COVID-4"
    assert sum(name != first for name, first in group.items()) == 5
