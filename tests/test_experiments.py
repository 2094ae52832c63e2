"""The commands, end to end on a few drawn films, and what they say of bad input."""

import csv
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
import warnings
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from experiments import (
    command,
    evaluate,
    opening,
    predict,
    report,
    run_directory,
    train,
    trained,
)
from experiments.configurations import CONFIGURATIONS
from experiments.run_directory import RunDirectory
from jaxseg import parallel
from jaxseg.data import phantom
from jaxseg.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore::jaxseg.data.archive.PartialReleaseWarning")

ROOT = Path(__file__).parents[1]
SMALL = ["--size", "32", "--widths", "4", "8", "--epochs", "2", "--batch-size", "8"]


@pytest.fixture(scope="session")
def films(tmp_path_factory):
    """A folder with a small archive."""
    folder = tmp_path_factory.mktemp("films")
    counts = {"COVID": 10, "Lung_Opacity": 6, "Normal": 14, "Viral Pneumonia": 10}
    phantom.write_archive(folder, images=counts, seed=1)
    return folder


def process(name, *arguments):
    """A command in a process of its own, on one device."""
    flags = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1")
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(
        [sys.executable, "-m", f"experiments.{name}", *map(str, arguments)],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def ended(started):
    """Standard output of a command that ended well."""
    out, error = started.communicate(timeout=300)
    assert started.returncode == 0, error
    return out


@pytest.fixture(scope="session")
def finished(films, tmp_path_factory):
    """A finished run."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    data = tmp_path_factory.mktemp("data")
    options = ["phantom", "--manual-dir", films, "--data-dir", data, "--workdir", folder, *SMALL]
    out = ended(process("train", *options))
    assert "Dice 0." in out
    return RunDirectory(folder)


def run(module, arguments, capsys, monkeypatch):
    """A command in this process: its exit status, standard output and standard error."""
    monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, arguments)])
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    with pytest.raises(SystemExit) as stopped:
        command.run(module.main)
    return (stopped.value.code, *capsys.readouterr())


def assert_refused(result, *words):
    """Exit status 2, one line on standard error with the words in it, no traceback."""
    code, _, error = result
    lines = [line for line in error.splitlines() if not line.startswith("warning: ")]
    assert code == 2
    assert len(lines) == 1, error
    for word in ("error:", *words):
        assert word in lines[0]


def test_a_run_leaves_what_the_design_says(finished):
    summary = finished.read_summary()
    keys = {
        "dice_mean", "dice_ci95", "dice_mean_network_size", "iou_mean", "hd95_mean", "assd_mean",
        "pixel_accuracy", "soft_dice_pooled", "images", "undefined",
    }  # fmt: skip
    assert keys <= set(summary["test"])
    assert {"parameters", "train_seconds", "images_per_second", "device", "versions"} <= set(
        summary
    )
    names = {path.name for path in finished.path.iterdir() if path.name != ".lock"}
    assert names == {
        "config.json", "metrics.jsonl", "steps.jsonl", "summary.json", "checkpoints", "curves.png",
        "examples.png", "report.html", "test_per_image.csv",
    }  # fmt: skip
    assert [row["epoch"] for row in finished.read_metrics()] == [1, 2]


def test_the_steps_of_an_epoch_are_logged_and_their_mean_is_the_epochs_loss(finished):
    steps, epochs = finished.read_steps(), finished.read_metrics()
    assert [row["step"] for row in steps] == list(range(1, epochs[-1]["step"] + 1))
    first = [row for row in steps if row["step"] <= epochs[0]["step"]]
    images = sum(row["images"] for row in first)
    loss = sum(row["loss"] * row["images"] for row in first) / images
    batch_size = int(SMALL[-1])
    assert images == finished.read_summary()["films"]["train"] // batch_size * batch_size
    assert epochs[0]["loss"] == pytest.approx(loss, rel=1e-5)


def test_the_summary_is_the_mean_of_the_films(finished):
    test = finished.read_summary()["test"]
    with finished.test_scores.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == test["images"] > 0
    for name, column in (("dice_mean", "dice"), ("iou_mean", "iou"), ("hd95_mean", "hd95")):
        values = [float(row[column]) for row in rows if row[column]]
        assert test[name] == pytest.approx(np.mean(values), rel=1e-4)
    low, high = test["dice_ci95"]
    assert low <= test["dice_mean"] <= high


def test_the_report_fetches_nothing_and_names_the_scores(finished):
    page = finished.report.read_text()
    assert "http" not in page.replace("http-equiv", "")
    assert page.count("data:image/png;base64,") == 4
    assert "Scores by class of film" in page
    assert f"{finished.read_summary()['test']['dice_mean']:.4f}" in page
    assert "not for diagnosis" in page


def test_evaluating_the_own_test_films_repeats_the_summary(finished, tmp_path, capsys, monkeypatch):
    with jax.numpy_dtype_promotion("standard"):
        code, _, error = run(evaluate, [finished.path, "--out", tmp_path], capsys, monkeypatch)
    assert code == 0, error
    ours = json.loads((tmp_path / "evaluation.json").read_text())["test"]
    summary = finished.read_summary()["test"]
    for name, value in summary.pop("calibration").items():
        found, expected = (np.array(v, np.float64) for v in (ours["calibration"][name], value))
        np.testing.assert_allclose(found, expected, rtol=1e-4)
    for name, value in summary.items():
        assert ours[name] == pytest.approx(value, rel=1e-4)


@pytest.mark.parametrize("part", ["train", pytest.param("validation", marks=pytest.mark.slow)])
def test_the_films_that_a_run_learnt_from_are_scored_on_request(
    part, finished, tmp_path, capsys, monkeypatch
):
    options = [finished.path, "--part", part, "--out", tmp_path]
    with jax.numpy_dtype_promotion("standard"):
        code, _, error = run(evaluate, options, capsys, monkeypatch)
    assert code == 0, error
    with (tmp_path / "per_image.csv").open() as file:
        scored = {row["id"] for row in csv.DictReader(file)}
    with finished.test_scores.open() as file:
        tested = {row["id"] for row in csv.DictReader(file)}
    assert len(scored) == finished.read_summary()["films"][part]
    assert not scored & tested
    assert json.loads((tmp_path / "evaluation.json").read_text())["part"] == part
    folders = ["--images", tmp_path, "--masks", tmp_path]
    code, _, error = run(evaluate, [*options, *folders], capsys, monkeypatch)
    assert code == 2
    assert "--part: is of the run's own films" in error


@pytest.mark.parametrize(
    "made",
    [
        (),
        pytest.param(
            ("--threshold", 0.6, "--largest", 1, "--fill-holes", "--flips", "left_right"),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_films_from_elsewhere_are_scored_on_their_own_masks_grid(
    finished, tmp_path, capsys, monkeypatch, made
):
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    truths = {}
    for i, size in enumerate([(40, 50), (40, 50), (61, 33)]):
        film = phantom.generate(3, "Normal", i + 1, image_size=64, mask_size=48)
        shape = (size[1], size[0])
        Image.fromarray(film.image).resize(shape).save(tmp_path / "images" / f"film{i}.jpg")
        mask = np.asarray(Image.fromarray(film.mask).resize(shape, Image.Resampling.NEAREST))
        truths[f"film{i}"] = mask > 0
        stored = np.where(mask > 0, rng.choice([150, 200], mask.shape), 250).astype(np.uint8)
        Image.fromarray(stored).save(tmp_path / "masks" / f"film{i}.png")
    options = ["--images", tmp_path / "images", "--masks", tmp_path / "masks"]
    options += ["--mask-values", 150, 200, "--out", tmp_path / "out"]
    code, _, error = run(evaluate, [finished.path, *options, *made], capsys, monkeypatch)
    assert code == 0, error
    with (tmp_path / "out" / "per_image.csv").open() as file:
        rows = {row["id"]: row for row in csv.DictReader(file)}
    assert set(rows) == set(truths)
    written = json.loads((tmp_path / "out" / "evaluation.json").read_text())["masks_made"]
    assert written["threshold"] == (0.6 if made else 0.5)
    # Film and mask are of one size here, so predict gives the masks that were scored.
    folder = tmp_path / "predicted"
    code, _, error = run(
        predict, [finished.path, tmp_path / "images", "--out", folder, *made], capsys, monkeypatch
    )
    assert code == 0, error
    for name, truth in truths.items():
        with Image.open(folder / f"{name}_mask.png") as picture:
            predicted = np.asarray(picture) > 0
        dice = 2 * (predicted & truth).sum() / (predicted.sum() + truth.sum())
        assert float(rows[name]["dice"]) == pytest.approx(dice, abs=1e-5)


def film_of_mode(mode, path):
    """A film of 75 by 50 pixels in some mode."""
    grey = np.tile(np.linspace(0, 255, 75, dtype=np.uint8), (50, 1))
    picture = Image.fromarray(grey)
    if mode == "16-bit":
        picture = Image.fromarray(grey.astype(np.uint16) * 257)
    elif mode == "jpeg":
        path = path.with_suffix(".jpg")
    else:
        picture = picture.convert(mode)
    picture.save(path)
    return path


@pytest.mark.parametrize(
    "mode",
    [
        "RGBA",
        "16-bit",
        *(pytest.param(m, marks=pytest.mark.slow) for m in ("L", "RGB", "P", "jpeg")),
    ],
)
def test_masks_come_back_at_the_films_own_size(mode, finished, tmp_path, capsys, monkeypatch):
    film = film_of_mode(mode, tmp_path / "film.png")
    out = tmp_path / "out"
    code, _, error = run(predict, [finished.path, film, "--out", out], capsys, monkeypatch)
    assert code == 0, error
    with Image.open(out / "film_mask.png") as mask:
        assert (mask.size, mask.mode) == ((75, 50), "L")
        assert set(np.unique(np.asarray(mask))) <= {0, 255}
    with Image.open(out / "film_overlay.png") as overlay:
        assert (overlay.size, overlay.mode) == ((75, 50), "RGB")


def test_reports_are_written_anew(finished, capsys, monkeypatch):
    finished.report.unlink()
    code, _, error = run(report, [finished.path], capsys, monkeypatch)
    assert code == 0, error
    assert finished.report.exists()


def stopped(options, run, signal_number):
    """Both outputs and the exit status of a run that got a signal after three epochs."""
    started = process("train", *options, "--workdir", run.path, "--resume")
    while len(run.read_metrics()) < 3:
        assert started.poll() is None
        time.sleep(0.01)
    started.send_signal(signal_number)
    out, error = started.communicate(timeout=300)
    return out, error, started.returncode


@pytest.fixture(scope="session")
def unbroken(films, tmp_path_factory):
    """The options of a run of many short steps, and the run."""
    folder = tmp_path_factory.mktemp("unbroken")
    options = ["phantom", "--manual-dir", films, "--data-dir", folder / "data", *SMALL]
    options += ["--epochs", "12", "--batch-size", "1", "--dropout", "0.3"]
    ended(process("train", *options, "--workdir", folder / "run"))
    return options, RunDirectory(folder / "run")


@pytest.mark.slow
def test_a_run_killed_in_mid_epoch_resumes_and_ends_with_the_same_bits(unbroken, tmp_path):
    options, unbroken = unbroken
    broken = RunDirectory(tmp_path / "broken")
    stopped(options, broken, signal.SIGKILL)
    assert broken.read_summary() is None
    out = ended(process("train", *options, "--workdir", broken.path, "--resume"))
    assert "resuming after step" in out

    states = [trained.load(directory).state for directory in (broken, unbroken)]
    jax.tree.map(np.testing.assert_array_equal, *((s.params, s.opt_state) for s in states))
    clocked = {"images_per_second": 0, "train_seconds": 0}
    rows = [[{**row, **clocked} for row in d.read_metrics()] for d in (broken, unbroken)]
    assert rows[0] == rows[1]
    assert broken.read_steps() == unbroken.read_steps()
    summaries = [directory.read_summary() for directory in (broken, unbroken)]
    assert summaries[0] is not None
    assert summaries[1] is not None
    assert summaries[0]["test"] == summaries[1]["test"]


def test_a_used_run_directory_is_refused_without_resume(finished, films, capsys, monkeypatch):
    options = ["phantom", "--manual-dir", films, "--workdir", finished.path, *SMALL]
    assert_refused(
        run(train, options, capsys, monkeypatch), "--workdir", "used already", "--resume"
    )


def test_a_run_from_before_there_was_an_option_can_go_on(tmp_path):
    run, phantoms = RunDirectory(tmp_path / "run"), CONFIGURATIONS["phantom"]
    run.start(phantoms, "")
    kept = run.read_config()
    del kept["configuration"]["skip_bad"], kept["configuration"]["augment"]["noise"]
    run.config.write_text(json.dumps(kept))
    assert run.check_usable(phantoms, resume=True)
    with pytest.raises(InputError, match="skip_bad is False there and True here"):
        run.check_usable(dataclasses.replace(phantoms, skip_bad=True), resume=True)


def test_an_unknown_option_of_a_run_is_refused(tmp_path):
    run = RunDirectory(tmp_path)
    run.start(CONFIGURATIONS["phantom"], "")
    kept = run.read_config()
    kept["configuration"] |= {"fold": 3}
    kept["configuration"]["augment"]["elastic"] = 1.0
    run.config.write_text(json.dumps(kept))
    with pytest.raises(InputError, match="unknown options: elastic, fold"):
        run.configuration()


@pytest.mark.parametrize("name", ["config.json", "summary.json"])
@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"a": NaN'])
def test_a_damaged_file_of_a_run_is_named(name, content, tmp_path):
    run = RunDirectory(tmp_path)
    run.start(CONFIGURATIONS["phantom"], "")
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=rf"{name}: is damaged"):
        run.read_summary() if name == "summary.json" else run.configuration()


def test_a_run_finds_its_images_from_any_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    here = {"images": Path("images"), "masks": Path("masks")}
    run = RunDirectory(tmp_path / "run")
    run.start(dataclasses.replace(CONFIGURATIONS["own"], **here), "")
    monkeypatch.chdir("/")
    assert run.configuration().images == tmp_path / "images"


def test_a_run_has_the_same_keys_whatever_the_default_generator_is():
    keys = []
    for generator in ("threefry2x32", "rbg"):
        with jax.default_prng_impl(generator):
            keys.append(jax.random.key_data(CONFIGURATIONS["phantom"].key()))
    np.testing.assert_array_equal(*keys)


def test_a_file_that_a_full_disk_refuses_is_named_and_leaves_nothing(tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    (tmp_path / "summary.json").write_text("before")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: .*summary\.json"):
        run_directory.write_json(tmp_path / "summary.json", {})
    assert [path.name for path in tmp_path.iterdir()] == ["summary.json"]
    assert (tmp_path / "summary.json").read_text() == "before"


@pytest.mark.parametrize("columns", ["1", "5", "200"])
def test_help_ends_on_a_terminal_of_any_width(columns, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    code, text, _ = run(train, ["--help"], capsys, monkeypatch)
    assert code == 0
    assert "--learning-rate" in text


def test_a_folder_in_which_a_kill_left_a_half_written_file_is_a_new_one(tmp_path):
    (tmp_path / ".config.json.123").write_text("{")
    assert not RunDirectory(tmp_path).check_usable(CONFIGURATIONS["phantom"], resume=True)


def test_one_job_at_a_time_has_a_run(finished, films, capsys, monkeypatch):
    options = ["phantom", "--manual-dir", films, "--workdir", finished.path, "--resume", *SMALL]
    with finished.hold():
        result = run(train, options, capsys, monkeypatch)
    assert_refused(result, "--workdir: another job trains in")
    finished.hold().close()


def folders_of_films(path, names):
    """Bright images and white masks of these names, in two folders."""
    folders = path / "images", path / "masks"
    for folder, value in zip(folders, (250, 255), strict=True):
        folder.mkdir()
        for i, name in enumerate(names):
            shade = 255 if value == 255 else value - i
            Image.new("L", (64, 64), shade).save(folder / f"{name}.png")
    return folders


@pytest.mark.parametrize(("asked", "side"), [(None, 32), (16, 32), (48, 48)])
def test_films_from_elsewhere_have_labels_of_the_size_learnt_from(asked, side, tmp_path):
    folders = folders_of_films(tmp_path, "a")
    run = RunDirectory(tmp_path / "run")
    run.start(dataclasses.replace(CONFIGURATIONS["phantom"], size=32, label_size=asked), "")
    arrays, _ = evaluate.films_to_score(run, evaluate.Elsewhere(*folders))
    assert (arrays.images.shape[1], arrays.labels.shape[1]) == (32, side)


def test_films_from_elsewhere_may_be_of_patients(tmp_path):
    folders = folders_of_films(tmp_path, "abc")
    run, table = RunDirectory(tmp_path / "run"), tmp_path / "patients.csv"
    run.start(dataclasses.replace(CONFIGURATIONS["phantom"], size=32), "")
    table.write_text("image,group\na,P1\nb,P2\nc,P1\n")
    elsewhere = evaluate.Elsewhere(*folders, groups=table)
    arrays, _ = evaluate.films_to_score(run, elsewhere)
    assert arrays.groups == ["a", "b", "a"]
    table.write_text("image,group\na,P1\nb,P2\n")
    with pytest.raises(InputError, match=r"c\.png: is not in the table"):
        evaluate.films_to_score(run, elsewhere)
    with pytest.raises(InputError, match="--groups: goes with --images"):
        evaluate.films_to_score(run, evaluate.Elsewhere(groups=table))


def test_a_run_directory_of_another_configuration_is_refused(finished, films, capsys, monkeypatch):
    options = ["phantom", "--manual-dir", films, "--workdir", finished.path, "--resume", *SMALL]
    result = run(train, [*options, "--learning-rate", "0.5"], capsys, monkeypatch)
    assert_refused(result, "another configuration", "learning_rate is 0.004 there and 0.5 here")


def test_a_run_directory_of_other_films_is_refused(finished, tmp_path, capsys, monkeypatch):
    other = phantom.write_archive(tmp_path, images=dict.fromkeys(phantom.CLASSES, 6), seed=2)
    options = ["phantom", "--manual-dir", other.parent, "--data-dir", tmp_path / "data"]
    options += ["--workdir", finished.path, "--resume", *SMALL]
    assert_refused(run(train, options, capsys, monkeypatch), "other films")


def test_a_folder_that_holds_something_else_is_refused(films, tmp_path, capsys, monkeypatch):
    (tmp_path / "thesis.txt").write_text("mine")
    options = ["phantom", "--manual-dir", films, "--workdir", tmp_path, "--resume"]
    assert_refused(run(train, options, capsys, monkeypatch), "no run")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_no_archive_is_one_line_that_says_where_to_get_it(tmp_path, capsys, monkeypatch):
    (tmp_path / "empty").mkdir()
    options = ["seed", "--manual-dir", tmp_path / "empty", "--workdir", tmp_path / "run"]
    assert_refused(run(train, options, capsys, monkeypatch), "Kaggle", "archive.zip")
    assert not (tmp_path / "run").exists()


def test_the_real_recipes_ask_for_the_archive(tmp_path, capsys, monkeypatch):
    result = run(train, ["seed", "--workdir", tmp_path / "run"], capsys, monkeypatch)
    assert_refused(result, "--manual-dir", "Kaggle")


def broken_archive(kind, films, folder):
    """An archive with one thing wrong, and a word that its error must hold."""
    source, path = films / "archive.zip", folder / "archive.zip"
    if kind == "no zip":
        path.write_text("not a zip")
        return "archive.zip"
    if kind == "cut short":
        path.write_bytes(source.read_bytes()[:-3000])
        return "archive.zip"
    film = "COVID-19_Radiography_Dataset/COVID/images/COVID-3.png"
    mask = film.replace("images", "masks")
    left_out = {"no mask": mask, "no film": film, "no class": "/Normal/"}.get(kind, "nothing")
    with zipfile.ZipFile(source) as whole, zipfile.ZipFile(path, "w") as archive:
        for name in whole.namelist():
            if left_out not in name:
                content = (
                    b"scribble" if (kind == "no picture" and name == film) else whole.read(name)
                )
                archive.writestr(name, content)
    return {"no mask": "COVID-3", "no film": "COVID-3", "no class": "Normal"}.get(kind, "COVID-3")


@pytest.mark.parametrize(
    "kind", ["no zip", "cut short", "no mask", "no film", "no class", "no picture"]
)
def test_a_broken_archive_is_one_line_and_leaves_nothing(
    kind, films, tmp_path, capsys, monkeypatch
):
    (tmp_path / "archive").mkdir()
    word = broken_archive(kind, films, tmp_path / "archive")
    options = ["phantom", "--manual-dir", tmp_path / "archive", "--data-dir", tmp_path / "data"]
    result = run(train, [*options, "--workdir", tmp_path / "run"], capsys, monkeypatch)
    assert_refused(result, word)
    assert not (tmp_path / "run").exists()
    assert not list(tmp_path.glob("data/*/covid_radiography/*/*/dataset_info.json"))


@pytest.mark.parametrize("module", [evaluate, predict, report])
def test_a_run_that_is_not_there_is_named(module, tmp_path, capsys, monkeypatch):
    extra = [tmp_path / "film.png", "--out", tmp_path / "out"] if module is predict else []
    if module is predict:
        film_of_mode("L", tmp_path / "film.png")
    result = run(module, [tmp_path / "nowhere", *extra], capsys, monkeypatch)
    assert_refused(result, "nowhere", "no such run directory")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("content", "word"), [(b"scribble", "film.png"), (None, "no such film")])
def test_a_film_that_cannot_be_read_is_named(
    content, word, finished, tmp_path, capsys, monkeypatch
):
    film = tmp_path / "film.png"
    if content is not None:
        film.write_bytes(content)
    result = run(predict, [finished.path, film, "--out", tmp_path / "out"], capsys, monkeypatch)
    assert_refused(result, "film.png", word)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--epochs", "0"], ["--epochs", "at least 1"]),
        (["--widths", "8"], ["--widths"]),
        (["--dropout", "0.1", "0.2"], ["--dropout", "one rate or 4"]),
        (["--dropout", "1.0"], ["[0, 1)"]),
        (["--learning-rate", "0"], ["--learning-rate"]),
        (["--learning-rate", "nan"], ["--learning-rate"]),
        (["--weight-decay", "-1"], ["--weight-decay", "negative"]),
        (["--ema-decay", "1"], ["--ema-decay", "[0, 1)"]),
        (["--seed", "-1"], ["--seed", "between 0"]),
        (["--seed", "4294967296"], ["--seed", "between 0"]),
        (["--remat", "5"], ["--remat", "0 to 4"]),
        (["--coordinator", "nowhere"], ["must be given together"]),
        (["--resume"], ["--workdir"]),
    ],
)
def test_an_option_that_will_not_do_is_named(options, words, capsys, monkeypatch):
    assert_refused(run(train, ["phantom", *options], capsys, monkeypatch), *words)


def on(films, folder):
    """Options of a run on the small archive."""
    return ["phantom", "--manual-dir", films, "--data-dir", folder / "data",
            "--workdir", folder / "run", *SMALL]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            ["--batch-size", "12"],
            "8 devices do not divide a batch of 12 images; .* fit are 8 and 16",
        ),
        (["--microbatches", "3"], "8 devices and 3 microbatches do not divide .* that fit are 24"),
    ],
)
def test_a_batch_size_that_does_not_fit_is_refused_with_the_nearest(options, words):
    configuration = dataclasses.replace(
        CONFIGURATIONS["phantom"],
        **{options[0].removeprefix("--").replace("-", "_"): int(options[1])},
    )
    with pytest.raises(InputError, match=words):
        opening.check_batch_size(configuration, 100, parallel.make_mesh())


def test_a_batch_larger_than_the_training_set_shrinks_to_it(capsys):
    configuration = dataclasses.replace(CONFIGURATIONS["phantom"], batch_size=16)
    mesh = parallel.make_mesh()
    assert opening.check_batch_size(configuration, 100, mesh) == 16
    assert capsys.readouterr().out == ""
    assert opening.check_batch_size(configuration, 13, mesh) == 8
    assert capsys.readouterr().out == "--batch-size: 8 instead of 16, for 13 training images\n"
    with pytest.raises(InputError, match="7 training images are fewer than 8"):
        opening.check_batch_size(configuration, 7, mesh)


def test_a_checkpoint_folder_that_cannot_be_written_is_named_before_training(
    films, tmp_path, capsys, monkeypatch
):
    def no_training(*_, **__):
        raise AssertionError("training began")

    monkeypatch.setattr(train, "epoch_order", no_training)
    # A file where the folder should be, since root may write in any folder.
    monkeypatch.setattr(RunDirectory, "start", put_a_file_in_the_way)
    assert_refused(run(train, on(films, tmp_path), capsys, monkeypatch), "checkpoints")


def put_a_file_in_the_way(directory, configuration, fingerprint):
    """Starts a run whose checkpoints' folder is a file."""
    del configuration, fingerprint
    directory.path.mkdir(parents=True, exist_ok=True)
    directory.checkpoints.write_text("")


def test_a_run_that_gives_no_finite_numbers_any_more_ends_and_keeps_its_checkpoint(
    films, tmp_path, capsys, monkeypatch
):
    options = [*on(films, tmp_path), "--learning-rate", "1e30", "--skipped-in-a-row", "3"]
    with jax.numpy_dtype_promotion("standard"):
        code, _, error = run(train, options, capsys, monkeypatch)
    lines = [line for line in error.splitlines() if not line.startswith("warning: ")]
    assert code == command.DIVERGED
    assert len(lines) == 1
    assert "not finite 3 times in a row" in lines[0]
    steps = RunDirectory(tmp_path / "run").read_steps()
    assert [row["skipped"] for row in steps[-4:]] == [0, 1, 1, 1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sent", "status", "word"), [(signal.SIGTERM, 75, "preempted"), (signal.SIGINT, 130, "interr")]
)
def test_a_stopped_run_saves_ends_with_its_status_and_resumes_to_the_same_bits(
    sent, status, word, unbroken, tmp_path
):
    options, unbroken = unbroken
    told = RunDirectory(tmp_path / "told")
    _, error, found = stopped(options, told, sent)
    assert found == status
    assert error.splitlines()[-1].startswith(word)
    assert "saved step " in error
    ended(process("train", *options, "--workdir", told.path, "--resume"))
    states = [trained.load(directory).state for directory in (told, unbroken)]
    jax.tree.map(np.testing.assert_array_equal, *((s.params, s.opt_state) for s in states))


def test_an_unknown_configuration_is_named_with_those_there_are(capsys, monkeypatch):
    result = run(train, ["hearts"], capsys, monkeypatch)
    assert_refused(result, "hearts", *CONFIGURATIONS)


def test_a_misspelt_option_ends_with_status_2(capsys, monkeypatch):
    code, _, _ = run(train, ["phantom", "--epoch", "3"], capsys, monkeypatch)
    assert code == 2


def test_a_full_disk_is_one_line(tmp_path, capsys, monkeypatch):
    def full():
        raise OSError(28, "No space left on device", str(tmp_path / "summary.json"))

    monkeypatch.setattr(train, "main", full)
    assert_refused(run(train, [], capsys, monkeypatch), "summary.json", "No space left")


def test_the_seed_configuration_is_the_seeds_network():
    model = CONFIGURATIONS["seed"].model()
    shapes = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 64, 64, 1), np.float32))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 2_158_417
    assert model.dropout == (0.25, 0.5, 0.5, 0.5)
    assert model.decoder_dropout == 0.5


def test_a_configuration_names_its_loss_as_code_would():
    names = [CONFIGURATIONS[name].as_json()["loss"] for name in ("seed", "phantom")]
    assert names == ["cross_entropy", "combine({cross_entropy: 1.0, soft_dice: 1.0})"]


def test_an_epoch_uses_every_image_at_most_once_in_an_order_of_its_own():
    images = np.arange(100, 137)
    orders = [train.epoch_order(images, 42, epoch, 16) for epoch in (0, 1)]
    for order in orders:
        assert order.shape == (2, 16)
        assert len(set(order.ravel())) == 32
        assert set(order.ravel()) <= set(images)
    assert not np.array_equal(orders[0], orders[1])
    np.testing.assert_array_equal(orders[0], train.epoch_order(images, 42, 0, 16))
