"""The commands, end to end on a few phantoms, and what they say about invalid input."""

import csv
import importlib
import itertools
import json
import signal
import subprocess
import sys
import time
import zipfile
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

from experiments import command, evaluate, predict, report, train
from experiments.configs import CONFIGURATIONS
from experiments.runs import RunDirectory, load_trained
from jaxseg.data import phantom
from tests.processes import ROOT, output, start

pytestmark = pytest.mark.filterwarnings("ignore::jaxseg.data.archive.PartialReleaseWarning")

SMALL = ["--size", "32", "--widths", "4", "8", "--epochs", "2", "--batch-size", "8"]


@pytest.fixture(scope="session")
def archive(tmp_path_factory):
    """The folder of a small archive."""
    folder = tmp_path_factory.mktemp("archive")
    counts = {"COVID": 10, "Lung_Opacity": 6, "Normal": 14, "Viral Pneumonia": 10}
    phantom.write_archive(folder, images=counts, seed=1)
    return folder


@pytest.fixture(scope="session")
def finished(archive, tmp_path_factory):
    """A finished run."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    data = tmp_path_factory.mktemp("data")
    options = ["phantom", "--manual-dir", archive, "--data-dir", data, "--workdir", folder, *SMALL]
    out, _ = output(start("train", *options, "--tensorboard", "--deep-supervision"))
    assert "compiling the train step" in out
    assert "Dice 0." in out
    return RunDirectory(folder)


def assert_refused(result, *words):
    """Asserts exit status 2 and one line on standard error, which has the words."""
    code, _, error = result
    lines = [line for line in error.splitlines() if not line.startswith("warning: ")]
    assert code == 2
    assert len(lines) == 1, error
    for word in ("error:", *words):
        assert word in lines[0]


def scores_of(path):
    with path.open() as file:
        return {row["id"]: row for row in csv.DictReader(file)}


def ids_in(run, split):
    """The images that a run used in a split."""
    with run.images.open() as file:
        return {row["id"] for row in csv.DictReader(file) if row["split"] == split}


def test_a_run_leaves_its_files_and_the_summary_is_the_mean_of_the_images(finished):
    names = {path.name for path in finished.path.iterdir() if path.name != ".lock"}
    assert names == {
        "config.json", "images.csv", "metrics.jsonl", "metrics.csv", "steps.jsonl", "summary.json",
        "checkpoints", "curves.png", "examples.png", "report.html", "test_per_image.csv",
        "tensorboard",
    }  # fmt: skip
    summary = finished.finished_summary()
    assert {"parameters", "train_seconds", "images_per_second", "device", "versions"} <= set(
        summary
    )
    test, rows = summary["test"], list(scores_of(finished.test_scores).values())
    assert len(rows) == test["images"] == summary["images"]["test"] > 0
    for name, column in (("dice_mean", "dice"), ("iou_mean", "iou"), ("hd95_mean", "hd95")):
        values = [float(row[column]) for row in rows if row[column]]
        assert test[name] == pytest.approx(np.mean(values), rel=1e-4)
    low, high = test["dice_ci95"]
    assert low <= test["dice_mean"] <= high
    assert np.sum(test["confusion_matrix"]) == len(rows) * 256 * 256
    with finished.images.open() as file:
        used = list(csv.DictReader(file))
    assert ids_in(finished, "test") == set(scores_of(finished.test_scores))
    assert len(used) == 40


def test_steps_are_logged_and_their_mean_is_the_loss_of_the_epoch(finished):
    steps, epochs = finished.read_steps(), finished.read_metrics()
    assert [row["epoch"] for row in epochs] == [1, 2]
    assert [row["step"] for row in steps] == list(range(1, epochs[-1]["step"] + 1))
    first = [row for row in steps if row["step"] <= epochs[0]["step"]]
    images = sum(row["images"] for row in first)
    loss = sum(row["loss"] * row["images"] for row in first) / images
    assert images == finished.finished_summary()["images"]["train"] // 8 * 8
    assert epochs[0]["loss"] == pytest.approx(loss, rel=1e-5)


def test_tensorboard_has_a_value_per_epoch_and_a_picture(finished):
    events: Any = importlib.import_module("tensorboardX.proto.event_pb2")

    (path,) = (finished.path / "tensorboard").iterdir()
    content, values = path.read_bytes(), []
    while content:  # TensorBoard's record: length, checksum, content, checksum.
        length = int.from_bytes(content[:8], "little")
        event = events.Event.FromString(content[12 : 12 + length])
        values += [(event.step, value) for value in event.summary.value]
        content = content[16 + length :]
    found = {(step, value.tag): value for step, value in values}
    for row in finished.read_metrics():
        assert found[row["step"], "loss"].simple_value == pytest.approx(row["loss"])
        assert found[row["step"], "validation"].image.height > 100


def test_the_report_fetches_nothing_and_has_the_scores(finished, succeeds):
    finished.report.unlink()
    succeeds(report, finished.path)
    page = finished.report.read_text()
    assert "http" not in page.replace("http-equiv", "")
    assert page.count("data:image/png;base64,") == 3
    test = finished.finished_summary()["test"]
    matrix = np.array(test["confusion_matrix"])
    fractions = matrix / matrix.sum(axis=1, keepdims=True)
    for text in (
        "images of COVID",
        "predicted lungs",
        f"{test['dice_mean']:.4f}",
        f"{fractions[1, 1]:.4f}",
        "not for diagnosis",
    ):
        assert text in page


def test_evaluate_scores_the_test_images_as_training_did(finished, tmp_path, succeeds):
    succeeds(evaluate, finished.path, "--subset", "test", "--out", tmp_path)
    evaluation = json.loads((tmp_path / "evaluation.json").read_text())
    assert evaluation["subset"] == "test"
    assert scores_of(tmp_path / "per_image.csv").keys() == ids_in(finished, "test")
    ours, theirs = evaluation["test"], finished.finished_summary()["test"]
    for name in ("dice_mean", "dice_worst", "hd95_mean", "soft_dice_pooled", "pixel_accuracy"):
        assert ours[name] == pytest.approx(theirs[name], rel=1e-4)
    assert ours["dice_ci95"] == pytest.approx(theirs["dice_ci95"], rel=1e-4)
    matrices = [np.array(test["confusion_matrix"]) for test in (ours, theirs)]
    assert np.abs(matrices[0] - matrices[1]).max() <= 1e-4 * matrices[1].sum()


@pytest.mark.slow
def test_evaluate_scores_the_training_images_when_asked(finished, tmp_path, succeeds):
    succeeds(evaluate, finished.path, "--subset", "train", "--out", tmp_path)
    assert scores_of(tmp_path / "per_image.csv").keys() == ids_in(finished, "train")


@pytest.mark.slow
@pytest.mark.parametrize(
    "made",
    [
        (),
        ("--threshold", 0.6, "--keep-largest", 1, "--fill-holes", "--tta-flips", "left_right"),
    ],
)
def test_external_images_have_the_scores_of_the_masks_that_predict_writes(
    finished, tmp_path, succeeds, made
):
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    truths = {}
    for i, size in enumerate([(40, 50), (40, 50), (61, 33)]):
        sample = phantom.generate(3, "Normal", i + 1, image_size=64, mask_size=48)
        shape = (size[1], size[0])
        Image.fromarray(sample.image).resize(shape).save(tmp_path / "images" / f"image{i}.jpg")
        mask = np.asarray(Image.fromarray(sample.mask).resize(shape, Image.Resampling.NEAREST))
        truths[f"image{i}"] = mask > 0
        stored = np.where(mask > 0, rng.choice([150, 200], mask.shape), 250).astype(np.uint8)
        Image.fromarray(stored).save(tmp_path / "masks" / f"image{i}.png")
    options = ["--images", tmp_path / "images", "--masks", tmp_path / "masks"]
    options += ["--mask-values", 150, 200, "--out", tmp_path / "out"]
    succeeds(evaluate, finished.path, *options, *made)
    rows = scores_of(tmp_path / "out" / "per_image.csv")
    assert set(rows) == set(truths)
    written = json.loads((tmp_path / "out" / "evaluation.json").read_text())["postprocessing"]
    assert written["threshold"] == (0.6 if made else 0.5)
    folder = tmp_path / "predicted"
    succeeds(predict, finished.path, tmp_path / "images", "--out", folder, *made)
    for name, truth in truths.items():
        with Image.open(folder / f"{name}_mask.png") as picture:
            predicted = np.asarray(picture) > 0
        dice = 2 * (predicted & truth).sum() / (predicted.sum() + truth.sum())
        assert float(rows[name]["dice"]) == pytest.approx(dice, abs=1e-5)


@pytest.fixture(scope="session")
def unbroken(archive, tmp_path_factory):
    """The options of a run of many short steps, and the run."""
    folder = tmp_path_factory.mktemp("unbroken")
    options = ["phantom", "--manual-dir", archive, "--data-dir", folder / "data", *SMALL]
    options += ["--epochs", "12", "--batch-size", "1", "--dropout", "0.3"]
    output(start("train", *options, "--workdir", folder / "run"))
    return options, RunDirectory(folder / "run")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sent", "status", "word"),
    [
        (signal.SIGKILL, -signal.SIGKILL, None),
        (signal.SIGTERM, 75, "preempted"),
    ],
)
def test_a_stopped_run_resumes_bit_for_bit(sent, status, word, unbroken, tmp_path):
    options, unbroken = unbroken
    broken = RunDirectory(tmp_path / "broken")
    started = start("train", *options, "--workdir", broken.path, "--resume")
    while len(broken.read_metrics()) < 3:
        assert started.poll() is None, started.communicate()
        time.sleep(0.01)
    started.send_signal(sent)
    _, error = output(started, status)
    if word:
        assert error.splitlines()[-1].startswith(f"{word}: saved step ")
    assert broken.read_summary() is None
    out, _ = output(start("train", *options, "--workdir", broken.path, "--resume"))
    assert "resuming from step" in out

    states = [load_trained(run).state for run in (broken, unbroken)]
    jax.tree.map(np.testing.assert_array_equal, *((s.params, s.opt_state) for s in states))
    clocked = {"images_per_second": 0, "train_seconds": 0}
    rows = [[{**row, **clocked} for row in run.read_metrics()] for run in (broken, unbroken)]
    assert rows[0] == rows[1]
    assert broken.read_steps() == unbroken.read_steps()
    assert broken.finished_summary()["test"] == unbroken.finished_summary()["test"]


def small_run(archive, folder):
    """The options of a run on the small archive."""
    return ["phantom", "--manual-dir", archive, "--data-dir", folder / "data",
            "--workdir", folder / "run", *SMALL]  # fmt: skip


def test_a_used_directory_another_configuration_and_other_images_are_refused(
    finished, archive, tmp_path, called
):
    options = ["phantom", "--manual-dir", archive, "--workdir", finished.path, *SMALL]
    assert_refused(called(train, *options), "--workdir", "used already", "--resume")
    options += ["--resume", "--deep-supervision"]
    result = called(train, *options, "--learning-rate", "0.5")
    assert_refused(result, "another configuration", "learning_rate is 0.004 there and 0.5 here")
    phantom.write_archive(tmp_path, images=dict.fromkeys(phantom.CLASSES, 6), seed=2)
    options += ["--manual-dir", tmp_path, "--data-dir", tmp_path / "data"]
    assert_refused(called(train, *options), "other images")
    with finished.locked():
        assert_refused(called(train, *options), "--workdir: another job trains in")


@pytest.mark.slow
def test_training_starts_from_the_weights_of_a_run(finished, archive, tmp_path, succeeds):
    # So small a learning rate changes no parameter.
    options = [*small_run(archive, tmp_path), "--learning-rate", "1e-30", "--epochs", "1"]
    succeeds(train, *options, "--init", finished.path)
    started = load_trained(RunDirectory(tmp_path / "run")).state.params
    given = load_trained(finished).state.params
    assert set(given) - set(started) == set()
    jax.tree.map(np.testing.assert_array_equal, started, {name: given[name] for name in started})


@pytest.mark.slow
def test_training_stops_early_and_a_resumed_run_stays_stopped(archive, tmp_path, succeeds):
    # So small a learning rate changes no Dice: the first epoch is the best.
    options = [*small_run(archive, tmp_path), "--learning-rate", "1e-30", "--epochs", "9"]
    options += ["--norm", "none", "--patience", "2", "--resume"]
    out = succeeds(train, *options)
    assert "no better validation Dice in 2 epochs: stopping early" in out
    run = RunDirectory(tmp_path / "run")
    assert [row["epoch"] for row in run.read_metrics()] == [1, 2, 3]
    run.summary.unlink()
    succeeds(train, *options)
    assert len(run.read_metrics()) == 3


def test_patience_without_validation_images_is_refused(archive, tmp_path, called):
    options = [*small_run(archive, tmp_path), "--patience", "2", "--split", "random"]
    assert_refused(called(train, *options), "--patience: the split random has no validation images")
    assert not (tmp_path / "run").exists()


def test_weights_that_are_absent_or_do_not_fit_are_refused(finished, archive, tmp_path, called):
    options = small_run(archive, tmp_path)
    refused = called(train, *options, "--init", tmp_path / "absent")
    assert_refused(refused, "absent: there is no such run directory")
    assert not (tmp_path / "run").exists()
    refused = called(train, *options, "--init", finished.path, "--widths", "4", "16")
    assert_refused(refused, "--init: the pretrained variables do not fit the network")


@pytest.mark.slow
def test_a_run_that_is_not_finite_any_more_ends_and_keeps_its_logs(archive, tmp_path, called):
    options = ["--learning-rate", "1e30", "--skipped-in-a-row", "3"]
    code, _, error = called(train, *small_run(archive, tmp_path), *options)
    lines = [line for line in error.splitlines() if not line.startswith("warning: ")]
    assert code == command.DIVERGED
    assert len(lines) == 1
    assert "not finite 3 times in a row" in lines[0]
    steps = RunDirectory(tmp_path / "run").read_steps()
    assert [row["skipped"] for row in steps[-4:]] == [0, 1, 1, 1]


def test_a_checkpoint_folder_that_cannot_be_written_is_named_before_training(
    archive, tmp_path, called, monkeypatch
):
    def put_a_file_in_the_way(run, *_):
        # Root may write in any folder.
        run.path.mkdir(parents=True, exist_ok=True)
        run.checkpoints.write_text("")

    monkeypatch.setattr(RunDirectory, "start", put_a_file_in_the_way)
    assert_refused(called(train, *small_run(archive, tmp_path)), "checkpoints")
    assert not (tmp_path / "run" / "steps.jsonl").exists()


def test_a_broken_archive_is_one_line_and_leaves_nothing(archive, tmp_path, called):
    (tmp_path / "archive").mkdir()
    image = "COVID-19_Radiography_Dataset/COVID/images/COVID-3.png"
    with (
        zipfile.ZipFile(archive / "archive.zip") as whole,
        zipfile.ZipFile(tmp_path / "archive" / "archive.zip", "w") as packed,
    ):
        for name in whole.namelist():
            packed.writestr(name, b"scribble" if name == image else whole.read(name))
    assert_refused(called(train, *small_run(tmp_path / "archive", tmp_path)), "COVID-3")
    assert not (tmp_path / "run").exists()
    assert not list(tmp_path.glob("data/*/covid_radiography/*/*/dataset_info.json"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["hearts"], ["hearts: not a configuration", *CONFIGURATIONS]),
        (["baseline"], ["--manual-dir: the configuration baseline needs"]),
        (["baseline", "--manual-dir", "empty"], ["Kaggle", "archive.zip"]),
        (["custom"], ["--images: the configuration custom needs --images DIR and --masks DIR"]),
        (["phantom", "--epochs", "0"], ["--epochs: must be at least 1, got 0"]),
        (["phantom", "--coordinator", "nowhere"], ["must be given together"]),
        (["phantom", "--resume"], ["--resume: needs the --workdir"]),
        (["phantom", "--seeds", "0"], ["--seeds: must be at least 1"]),
    ],
)
def test_invalid_options_of_train_are_named(arguments, words, tmp_path, called, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    assert_refused(called(train, *arguments), *words)
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").iterdir())


def test_a_misspelt_option_ends_with_status_2(called):
    assert called(train, "phantom", "--epoch", "3")[0] == 2


@pytest.mark.parametrize("module", [evaluate, predict, report])
def test_a_run_that_does_not_exist_is_named(module, tmp_path, called):
    Image.new("L", (8, 8)).save(tmp_path / "image.png")
    extra = [tmp_path / "image.png", "--out", tmp_path / "out"] if module is predict else []
    assert_refused(called(module, tmp_path / "absent", *extra), "absent", "no such run directory")
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_one_line(tmp_path, called, monkeypatch):
    def full():
        raise OSError(28, "No space left on device", str(tmp_path / "summary.json"))

    monkeypatch.setattr(train, "main", full)
    assert_refused(called(train), "summary.json", "No space left")


@pytest.mark.parametrize("columns", ["1", "5", "200"])
def test_help_has_groups_at_any_width_of_the_terminal(columns, called, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    code, text, _ = called(train, "--help")
    assert code == 0
    for words in ("data options", "network options", "optimization options", "--learning-rate"):
        assert words in text


@pytest.mark.parametrize("command", [train, evaluate, predict])
def test_lines_of_the_help_are_full(command, called, monkeypatch):
    monkeypatch.setenv("COLUMNS", "90")
    _, text, _ = called(command, "--help")
    lines = [line.strip("│").rstrip() for line in text.splitlines()]
    wrapped = [
        (line, after.split()[0]) for line, after in itertools.pairwise(lines)
        if line.startswith(" " * 20) and after.startswith(" " * 20)
    ]  # fmt: skip
    assert wrapped
    assert [line for line, word in wrapped if len(line) + len(word) < 80] == []


def test_the_commands_are_listed():
    listed = subprocess.run(
        [sys.executable, "-m", "experiments"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    commands = {
        path.stem
        for path in (ROOT / "experiments").glob("*.py")
        if '__name__ == "__main__"' in path.read_text() and path.stem != "__main__"
    }
    assert commands == {line.split()[0] for line in listed.splitlines() if line.startswith("  ")}
