"""Run directories: one user at a time, their files, and files that are complete or absent."""

import csv
import dataclasses
import json
import os
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from experiments import batches, dataset, evaluate, files
from experiments.configs import CONFIGURATIONS
from experiments.configuration import Configuration
from experiments.dataset import Dataset, Moved
from experiments.evaluate import ExternalImages
from experiments.options import Data
from experiments.progress import Progress
from experiments.runs import RunDirectory
from jaxseg import parallel
from jaxseg.data.arrays import ImageArrays
from jaxseg.errors import InputError

PHANTOM = CONFIGURATIONS["phantom"]


def some_images(count=5):
    """A dataset of black images: three for training, one for validation, one for testing."""
    black = np.zeros((count, 8, 8), np.uint8)
    names = [f"image-{i}" for i in range(count)]
    groups = [names[0], names[0], *names[2:]]
    arrays = ImageArrays(
        images=black[..., None], labels=black, masks=black, ids=names, classes=[""] * count,
        sources=[""] * count, split=["train"] * count, groups=groups,
    )  # fmt: skip
    return Dataset(arrays, np.array([2, 0, 1]), np.array([3]), np.array([4]), "fingerprint")


def gray_folders(path, count=40, side=16):
    """Two folders of random images and masks."""
    rng = np.random.default_rng(0)
    folders = path / "images", path / "masks"
    for folder in folders:
        folder.mkdir(parents=True)
        for i in range(count):
            gray = Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8))
            gray.resize((side, side)).save(folder / f"{i}.png")
    return folders


@pytest.fixture
def run(tmp_path):
    run = RunDirectory(tmp_path / "run")
    run.start(PHANTOM, some_images())
    return run


def test_a_run_records_id_split_and_group_of_every_image_it_used(run):
    with run.images.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == [f"image-{i}" for i in range(5)]
    assert [row["split"] for row in rows] == ["train", "train", "train", "validation", "test"]
    assert [row["group"] for row in rows][:3] == ["image-0", "image-0", "image-2"]


def test_a_run_is_resumed_only_if_you_ask_and_only_by_its_configuration(run, tmp_path):
    with pytest.raises(InputError, match=r"used already\. Add --resume"):
        run.check_usable(PHANTOM, resume=False)
    assert run.check_usable(PHANTOM.with_data(data_dir=Path("/moved")), resume=True)
    with pytest.raises(InputError, match="skip_bad is False there and True here"):
        run.check_usable(PHANTOM.with_data(skip_bad=True), resume=True)
    with pytest.raises(InputError, match="trained on other images"):
        run.check_same_images("another fingerprint")
    other = tmp_path / "thesis"
    other.mkdir()
    (other / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match=r"has files but no run \(no config.json\)"):
        RunDirectory(other).check_usable(PHANTOM, resume=True)
    assert [path.name for path in other.iterdir()] == ["thesis.txt"]


def test_a_directory_with_a_half_written_file_of_a_killed_job_is_new(tmp_path):
    (tmp_path / ".config.json.123").write_text("{")
    assert not RunDirectory(tmp_path).check_usable(PHANTOM, resume=True)


@pytest.mark.parametrize("name", ["config.json", "summary.json"])
@pytest.mark.parametrize("content", ["", "{", "[]", '{"a": NaN'])
def test_a_damaged_file_of_a_run_is_named(name, content, run):
    (run.path / name).write_text(content)
    with pytest.raises(InputError, match=rf"{name}: is damaged"):
        run.read_summary() if name == "summary.json" else run.configuration()


def test_a_configuration_of_another_form_is_damaged(run):
    values = run.read_config()
    for broken in ({"data": None}, {"optimization": {"loss": None}}, {"network": {"widths": 5}}):
        files.write_json(run.config, values | {"configuration": {"name": "phantom", **broken}})
        with pytest.raises(InputError, match=r"config\.json: is damaged"):
            run.configuration()


def test_a_run_finds_its_images_from_any_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = RunDirectory(tmp_path / "run")
    run.start(PHANTOM.with_data(images=Path("images"), masks=Path("masks")), some_images())
    monkeypatch.chdir("/")
    assert run.configuration().data.images == tmp_path / "images"


def test_one_job_at_a_time_has_a_run_and_an_unused_directory_goes(tmp_path):
    run = RunDirectory(tmp_path / "run")
    with (
        run.locked(),
        pytest.raises(InputError, match="--workdir: another job trains in"),
        RunDirectory(run.path).locked(),
    ):
        pass
    assert not run.path.exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"), RunDirectory(tmp_path / "file").locked():
        pass


def test_logs_are_cut_to_the_step_that_a_run_resumes_from(run):
    for step in range(1, 5):
        run.log_step(step, {"loss": np.float32(step), "skipped": np.int32(0)})
    run.log_epoch({"step": 2, "epoch": 1, "loss": 1.5})
    run.log_epoch({"step": 4, "epoch": 2, "loss": float("nan"), "validation_dice": 0.5})
    with run.steps.open("a") as file:
        file.write('{"step": 5, "lo')  # As a killed job leaves it.
    assert run.read_metrics()[1] == {"step": 4, "epoch": 2, "loss": None, "validation_dice": 0.5}
    lines = run.metrics_csv.read_text().splitlines()
    assert lines == ["step,epoch,loss,validation_dice", "2,1,1.5,", "4,2,,0.5"]
    run.keep_logs(up_to_step=3)
    assert [row["step"] for row in run.read_steps()] == [1, 2, 3]
    assert [row["step"] for row in run.read_metrics()] == [2]


def test_a_file_that_a_full_disk_refuses_is_named_and_leaves_nothing(tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    (tmp_path / "summary.json").write_text("before")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: .*summary\.json"):
        files.write_json(tmp_path / "summary.json", {})
    assert [path.name for path in tmp_path.iterdir()] == ["summary.json"]
    assert (tmp_path / "summary.json").read_text() == "before"


@pytest.mark.parametrize(("asked", "side"), [(None, 32), (16, 32), (48, 48)])
def test_external_images_have_labels_of_the_training_size(asked, side, tmp_path):
    folders = gray_folders(tmp_path, 2, side=64)
    run = RunDirectory(tmp_path / "run")
    run.start(PHANTOM.with_data(size=32, label_size=asked, channels=3), some_images())
    arrays, _ = evaluate.images_to_score(
        run, ExternalImages(*folders), subset="test", moved=Moved()
    )
    assert arrays.images.shape == (2, 32, 32, 3)
    assert arrays.labels.shape == (2, side, side)


def test_external_images_may_have_groups(tmp_path):
    folders = gray_folders(tmp_path, 3)
    run, table = RunDirectory(tmp_path / "run"), tmp_path / "patients.csv"
    run.start(PHANTOM, some_images())

    def groups():
        external = ExternalImages(*folders, table=table)
        return evaluate.images_to_score(run, external, subset="test", moved=Moved())[0].groups

    table.write_text("image,group\n0,P1\n1,P2\n2,P1\n")
    assert groups() == ["0", "1", "0"]
    table.write_text("image,group\n0,P1\n1,P2\n")
    with pytest.raises(InputError, match=r"2\.png: is not in the table"):
        groups()
    for external in (ExternalImages(table=table), ExternalImages(mask_values=(1,))):
        with pytest.raises(InputError, match="needs --images and --masks"):
            external.check()
    with pytest.raises(InputError, match="--subset: is for the run's own images"):
        evaluate.images_to_score(run, ExternalImages(*folders), subset="train", moved=Moved())


def test_the_images_of_a_run_are_found_where_they_were_moved_to(tmp_path):
    before, after = tmp_path / "before", tmp_path / "after"
    images, masks = gray_folders(before)
    table = before / "table.csv"
    table.write_text("image,group\n" + "".join(f"{i},{i // 2}\n" for i in range(40)))
    trained_on = Configuration("custom", Data(images=images, masks=masks, table=table, size=8))
    run = RunDirectory(tmp_path / "run")
    run.start(trained_on, dataset.load(trained_on))
    unmoved = {"subset": "test", "moved": Moved()}
    expected, _ = evaluate.images_to_score(run, ExternalImages(), **unmoved)
    before.rename(after)
    with pytest.raises(InputError, match=r"there is no such folder|cannot be read"):
        evaluate.images_to_score(run, ExternalImages(), **unmoved)
    moved = Moved(
        dataset_images=after / "images",
        dataset_masks=after / "masks",
        dataset_table=after / "table.csv",
    )
    found, indices = evaluate.images_to_score(run, ExternalImages(), subset="test", moved=moved)
    np.testing.assert_array_equal(found.images, expected.images)
    assert {found.split[i] for i in indices} == {"test"}
    Image.new("L", (16, 16), 255).save(after / "masks" / "0.png")
    with pytest.raises(InputError, match="was trained on other images"):
        evaluate.images_to_score(run, ExternalImages(), subset="test", moved=moved)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch_size": 12}, "8 devices do not divide a batch of 12 images; .* fit are 8 and 16"),
        ({"microbatches": 3}, "8 devices and 3 microbatches do not divide .* that fit are 24"),
    ],
)
def test_a_batch_size_that_does_not_fit_is_refused_with_the_nearest(options, words):
    optimization = dataclasses.replace(PHANTOM.optimization, **options)
    with pytest.raises(InputError, match=words):
        batches.check_batch_size(optimization, parallel.make_mesh())


def test_a_batch_larger_than_the_training_set_shrinks_to_it(capsys):
    mesh = parallel.make_mesh()
    assert batches.fitting_batch_size(PHANTOM.optimization, 100, mesh) == 16
    assert capsys.readouterr().out == ""
    assert batches.fitting_batch_size(PHANTOM.optimization, 13, mesh) == 8
    assert capsys.readouterr().out == "--batch-size: 8 instead of 16, for 13 training images\n"
    with pytest.raises(InputError, match="7 training images are fewer than 8"):
        batches.fitting_batch_size(PHANTOM.optimization, 7, mesh)


def test_progress_leaves_out_skipped_updates_and_the_step_that_compiles(monkeypatch):
    clock = iter(range(0, 1000, 2))
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    progress = Progress()
    for i, skipped in enumerate([0, 1, 1, 0]):
        metrics = {"images": 4, "loss": np.float32(i), "skipped": skipped}
        progress.add(jax.tree.map(np.asarray, metrics))
        assert progress.skipped_in_a_row == [0, 1, 2, 0][i]
    assert progress.step == 4
    assert progress.loss() == 1.5
    assert progress.rates() == {"skipped": 2, "train_seconds": 8.0, "images_per_second": 2.0}
    assert Progress(**json.loads(json.dumps(dataclasses.asdict(progress)))) == progress
    for dice, without_gain in ((None, 1), (0.0, 0), (0.5, 0), (float("nan"), 1), (0.5, 2)):
        progress.end_epoch(dice)
        assert progress.epochs_without_gain == without_gain
    assert progress.loss() == 0.0
