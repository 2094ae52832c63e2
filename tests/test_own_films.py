"""Runs on films of one's own: options, scores of several classes, and a run from end to end."""

import csv
import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from PIL import Image

from experiments import pictures, report
from experiments.configuration import Configuration, from_json
from experiments.configurations import CONFIGURATIONS
from experiments.evaluate import films_to_score
from experiments.films import Films, OwnPlaces, load
from experiments.run_directory import RunDirectory
from experiments.scoring import foreground, score
from experiments.train import validate
from jaxseg import losses, metrics, parallel
from jaxseg.augment import Strengths
from jaxseg.data.arrays import ImageArrays
from jaxseg.data.phantom import generate
from jaxseg.errors import InputError
from jaxseg.inference import make_predict
from jaxseg.training import Evaluation, TrainState

ROOT = Path(__file__).parents[1]
FOLDERS: dict[str, Any] = {"images": Path("films"), "masks": Path("masks")}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"images": Path("films")}, "--masks: --images and --masks go together"),
        ({"masks": Path("masks")}, "--images: --images and --masks"),
        ({**FOLDERS, "manual_dir": Path("archive")}, "--manual-dir"),
        ({**FOLDERS, "input_path": "stream"}, "--input-path"),
        ({**FOLDERS, "classes": ("lungs",)}, "'lungs' is not NAME=VALUE"),
        ({**FOLDERS, "classes": ("lungs=1,x",)}, "'lungs=1,x' is not"),
        ({**FOLDERS, "classes": ("=1",)}, "'=1' is not"),
        ({**FOLDERS, "classes": ("lungs=1", "lungs=2")}, "lungs is there twice"),
        ({**FOLDERS, "classes": ("lungs=1,2", "heart=2")}, "2 stands for two classes"),
        ({"classes": ("lungs=1",)}, "--classes: goes with --images"),
        ({"groups": Path("patients.csv")}, "--groups: goes with --images"),
        ({**FOLDERS, "groups": Path("patients.csv"), "split": "seed"}, "--groups: goes with"),
        ({"near": 100}, "--near: goes with --images"),
        ({**FOLDERS, "near": -1}, "--near: must not be negative"),
    ],
)
def test_options_that_will_not_do_are_named(fields, words):
    with pytest.raises(InputError, match=words):
        Configuration(name="own", **fields)


def test_a_new_run_warns_of_flips_with_one_sided_classes():
    flips = {"augment": Strengths(flip_left_right=0.5)}
    sided = Configuration(name="own", classes=("lung_Left=1",), **flips, **FOLDERS)
    assert "a flipped film has its lung_Left on the other side" in str(sided.check_new())
    for classes, options in ((("bright=1", "cleft=2"), flips), (("left=1",), {})):
        plain = Configuration(name="own", classes=classes, **options, **FOLDERS)
        assert plain.check_new() is None


@pytest.mark.parametrize(("classes", "channels"), [((), 1), (("a=1",), 1), (("a=1", "b=2,3"), 3)])
def test_the_network_has_a_channel_for_each_class_and_the_background(classes, channels):
    folders = {name: folder.absolute() for name, folder in FOLDERS.items()}
    configuration = Configuration(name="own", classes=classes, **folders)
    assert configuration.model().num_classes == channels
    assert from_json(json.loads(json.dumps(configuration.as_json())), configuration) == (
        configuration
    )


def test_a_run_from_before_there_were_classes_is_still_read():
    values = CONFIGURATIONS["phantom"].as_json()
    for name in ("images", "masks", "classes"):
        del values[name]
    assert from_json(values, CONFIGURATIONS["phantom"]) == CONFIGURATIONS["phantom"]


def test_a_runs_own_films_are_found_where_they_were_moved_to(tmp_path):
    before, after = tmp_path / "before", tmp_path / "after"
    rng = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (before / kind).mkdir(parents=True)
        for i in range(40):
            grey = Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8))
            grey.resize((16, 16)).save(before / kind / f"{i}.png")
    groups = before / "groups.csv"
    groups.write_text("image,group\n" + "".join(f"{i},{i // 2}\n" for i in range(40)))
    trained_on = Configuration(
        name="own", images=before / "images", masks=before / "masks", groups=groups, size=8
    )
    run = RunDirectory(tmp_path / "run")
    run.start(trained_on, load(trained_on).fingerprint)
    expected, _ = films_to_score(run)
    before.rename(after)
    with pytest.raises(InputError, match=r"there is no such folder|cannot be read"):
        films_to_score(run)
    moved = OwnPlaces(
        own_images=after / "images", own_masks=after / "masks", own_groups=after / "groups.csv"
    )
    found, indices = films_to_score(run, own_places=moved)
    np.testing.assert_array_equal(found.images, expected.images)
    assert {found.split[i] for i in indices} == {"test"}
    others = after / "others"
    shutil.copytree(after / "masks", others)
    Image.new("L", (16, 16), 255).save(others / "0.png")
    with pytest.raises(InputError, match="was trained on other films"):
        films_to_score(run, own_places=dataclasses.replace(moved, own_masks=others))


class Told(nn.Module):
    """Predicts the class that a pixel's grey level names; NaN where there is no such class."""

    @nn.compact
    def __call__(self, images, *, train):
        del train
        shown = jax.nn.one_hot(images[..., 0], 3) + jnp.where(images > 2, jnp.nan, 0.25)
        return shown * self.param("scale", nn.initializers.ones_init(), ())


def edge(mask):
    """Pixels of a mask with a neighbour outside of it, or of the picture."""
    inside = np.pad(mask, 1)
    whole = inside[:-2, 1:-1] & inside[2:, 1:-1] & inside[1:-1, :-2] & inside[1:-1, 2:]
    return np.argwhere(mask & ~whole)


def hd95(one, other):
    """The larger of the two directed 95th percentiles of distances; NaN where a mask is empty."""
    if not one.any() or not other.any():
        return np.nan
    apart = np.linalg.norm(edge(one)[:, None] - edge(other)[None], axis=-1)
    return max(np.percentile(apart.min(axis=axis), 95) for axis in (0, 1))


@pytest.mark.slow
def test_scores_of_several_classes_are_each_classes_own(tmp_path):
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, (5, 12, 12)).astype(np.uint8)
    predicted = np.where(rng.random(truth.shape) < 0.7, truth, rng.integers(0, 3, truth.shape))
    truth[1][truth[1] == 2] = 0
    predicted[1][predicted[1] == 2] = 1
    # A heart that is missed.
    predicted[4][predicted[4] == 2] = 1
    names = [f"film{i}" for i in range(5)]
    arrays = ImageArrays(
        images=predicted.astype(np.uint8)[..., None], labels=truth, masks=truth, ids=names,
        classes=[""] * 5, sources=[""] * 5, split=["test"] * 5, groups=names,
    )  # fmt: skip
    mesh = parallel.make_mesh(jax.devices()[:1])
    state = TrainState(
        step=0, params={"scale": jnp.float32(1)}, collections={}, opt_state=(), key=0
    )
    chosen = np.array([3, 1, 0, 4])
    scores = score(
        make_predict(Told()),
        state,
        arrays,
        chosen,
        mesh,
        rows=3,
        class_names=("lungs", "heart"),
    )
    dice, pair = np.full((4, 2), np.nan), (predicted, truth)
    for row, film in enumerate(chosen):
        for label in (1, 2):
            ours, theirs = predicted[film] == label, truth[film] == label
            if total := ours.sum() + theirs.sum():
                dice[row, label - 1] = 2 * (ours & theirs).sum() / total
    for column, name in enumerate(("lungs", "heart")):
        np.testing.assert_allclose(scores.by_class[name]["dice"], dice[:, column], atol=1e-6)
        expected = [hd95(*(labels[film] == column + 1 for labels in pair)) for film in chosen]
        np.testing.assert_allclose(scores.by_class[name]["hd95"], expected, atol=1e-5)
    assert np.isnan(dice[1, 1])
    lungs, heart = (scores.by_class[name]["hd95"] for name in ("lungs", "heart"))
    np.testing.assert_array_equal(np.isnan(heart), [False, True, False, True])
    # Of a film without a heart it is the lungs' alone; where the heart is missed there is none.
    hd95_of_films = [(lungs[0] + heart[0]) / 2, lungs[1], (lungs[2] + heart[2]) / 2, np.nan]
    np.testing.assert_allclose(scores.columns["hd95"], hd95_of_films, atol=1e-5)
    np.testing.assert_allclose(scores.columns["dice"], np.nanmean(dice, axis=1), atol=1e-6)
    right = (predicted == truth).mean(axis=(1, 2))[chosen]
    np.testing.assert_allclose(scores.columns["pixel_accuracy"], right, atol=1e-6)

    summary = scores.summary()
    assert summary["dice_mean"] == pytest.approx(np.nanmean(dice, axis=1).mean(), abs=1e-6)
    assert summary["undefined_distances"] == 1
    assert summary["hd95_mean"] == pytest.approx(np.nanmean(hd95_of_films), abs=1e-5)
    heart = summary["classes"]["heart"]
    assert heart["undefined_distances"] == 2
    # Films 1 and 4 have no heart in the prediction, film 1 none in the truth either.
    assert (heart["undefined_precision"], heart["undefined_recall"]) == (2, 1)
    assert heart["dice_mean"] == pytest.approx(np.nanmean(dice[:, 1]), abs=1e-6)
    assert (heart["undefined"], summary["classes"]["lungs"]["undefined"]) == (1, 0)
    line = report.one_line(summary)
    assert f"heart Dice {heart['dice_mean']:.4f}" in line
    scores.table().write(tmp_path / "scores.csv")
    rows = list(csv.DictReader((tmp_path / "scores.csv").read_text().splitlines()))
    assert [row["id"] for row in rows] == ["film3", "film1", "film0", "film4"]
    assert rows[1]["dice_heart"] == ""
    assert float(rows[0]["dice_heart"]) == pytest.approx(dice[0, 1], rel=1e-5)
    assert "pixel_accuracy_heart" not in rows[0]


@pytest.mark.slow
def test_a_film_with_logits_that_are_nan_has_no_scores():
    truth = np.zeros((2, 12, 12), np.uint8)
    truth[:, 3:8, 4:9] = 1
    predicted = truth.copy()
    predicted[1, 0, :2] = 9
    arrays = ImageArrays(
        images=predicted[..., None], labels=truth, masks=truth, ids=["whole", "partly"],
        classes=[""] * 2, sources=[""] * 2, split=["test"] * 2, groups=["whole"] * 2,
    )  # fmt: skip
    mesh = parallel.make_mesh(jax.devices()[:1])
    state = TrainState(
        step=0, params={"scale": jnp.float32(1)}, collections={}, opt_state=(), key=0
    )
    scores = score(make_predict(Told()), state, arrays, np.arange(2), mesh, rows=2)
    for name, best in {"dice": 1, "precision": 1, "hd95": 0, "assd": 0}.items():
        np.testing.assert_array_equal(scores.columns[name], [best, np.nan])
    summary = scores.summary()
    assert (summary["images"], summary["groups"]) == (2, 1)
    assert (summary["undefined"], summary["undefined_distances"]) == (1, 1)


def test_the_background_is_no_object_and_an_undefined_class_none_of_the_mean():
    assert foreground(np.array([[1, 2, 3]])).tolist() == [[2, 3]]
    assert foreground(np.array([[1]])).tolist() == [[1]]
    values = np.array([[0.5, np.nan], [0.25, 0.75], [np.nan, np.nan]])
    np.testing.assert_array_equal(metrics.mean_over_classes(values), [0.5, 0.5, np.nan])


@pytest.mark.parametrize(("broken", "expected"), [(False, 1.0), (True, np.nan)])
def test_validation_of_a_network_that_gives_nan_on_a_film_is_no_score(broken, expected):
    state = TrainState(jnp.int32(0), {}, {}, (), jax.random.key(0))
    truth = np.zeros((5, 8, 8), np.uint8)
    truth[:4, 2:5, 2:5] = 1
    names = [f"film{i}" for i in range(5)]
    arrays = ImageArrays(
        images=truth[..., None] * 255, labels=truth, masks=truth, ids=names, classes=[""] * 5,
        sources=[""] * 5, split=["validation"] * 5, groups=names,
    )  # fmt: skip
    if broken:
        arrays.images[2] = 7
    films = Films(arrays, np.arange(0), np.arange(5), np.arange(0), "")

    def eval_step(state, batch):
        del state
        grey = batch["images"].astype(jnp.float32)
        logits = jnp.where(grey == 7, jnp.nan, grey - 100)
        return Evaluation(
            loss=losses.cross_entropy(logits, batch["labels"].astype(jnp.int32)),
            counts=metrics.count(
                metrics.predicted_labels(logits), batch["labels"].astype(jnp.int32), num_classes=1
            ),
            soft_dice=None,
        )

    mesh = parallel.make_mesh(jax.devices()[:1])
    found = validate(eval_step, state, films, 2, mesh)
    np.testing.assert_equal(found["validation_dice"], expected)
    assert np.isnan(found["validation_loss"]) == broken


def test_examples_show_the_outline_of_every_class(monkeypatch):
    drawn = []
    monkeypatch.setattr(
        pictures, "draw_contour", lambda _, mask, *style: drawn.append((mask.sum(), style[1]))
    )
    truth = np.array([[0, 1, 1], [2, 2, 2]], np.uint8)
    pictures.examples([np.zeros((2, 3), np.uint8)], [truth], [truth.astype(np.int32)], ["film"])
    assert drawn == [(2, "solid"), (2, "dashed"), (3, "solid"), (3, "dashed")]


def started(name, *arguments, devices=1):
    """A command in a process of its own; its standard output."""
    done = subprocess.run(
        [sys.executable, "-m", f"experiments.{name}", *map(str, arguments)],
        cwd=ROOT, env={
            **os.environ,
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
            "JAX_PLATFORMS": "cpu",
        },
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_run_on_two_classes_learns_both_from_folders_and_is_evaluated_on_folders(tmp_path):
    images, masks = tmp_path / "images", tmp_path / "masks"
    images.mkdir()
    masks.mkdir()
    for i in range(1, 49):
        film = generate(0, "Normal", i, image_size=64, mask_size=64)
        values = np.where(film.mask > 0, 100, 0)
        values[:, 32:][values[:, 32:] > 0] = 200
        Image.fromarray(film.image).save(images / f"{i}.png")
        Image.fromarray(values.astype(np.uint8)).save(masks / f"{i}.png")
    folders = ["--images", images, "--masks", masks]
    run = RunDirectory(tmp_path / "run")
    out = started(
        "train", "own", *folders, "--classes", "right=100", "left=200", "--size", "32",
        "--widths", "8", "16", "32", "--epochs", "30", "--workdir", run.path,
    )  # fmt: skip
    assert "right Dice 0." in out
    summary = run.read_summary()
    assert summary is not None
    assert summary["test"]["classes"]["right"]["dice_mean"] > 0.8
    assert summary["test"]["classes"]["left"]["dice_mean"] > 0.8
    page = run.report.read_text()
    assert "Segmentation of right, left" in page
    assert "Scores of left" in page
    started("evaluate", run.path, *folders, "--out", tmp_path / "out")
    evaluation = json.loads((tmp_path / "out" / "evaluation.json").read_text())["test"]
    with run.test_scores.open() as file:
        own = {row["id"]: row for row in csv.DictReader(file)}
    with (tmp_path / "out" / "per_image.csv").open() as file:
        again = {row["id"]: row for row in csv.DictReader(file)}
    assert evaluation["images"] == len(again) == 48
    for name, row in own.items():
        assert float(again[name]["dice_left"]) == pytest.approx(float(row["dice_left"]), abs=1e-4)
    assert dataclasses.asdict(run.configuration())["classes"] == ("right=100", "left=200")


@pytest.mark.slow
def test_two_devices_score_masks_of_an_odd_height_as_one_does(tmp_path):
    rng = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
        for i in range(30):
            grey = Image.fromarray(rng.integers(0, 256, (7, 7), np.uint8))
            grey.resize((35, 35)).save(tmp_path / kind / f"{i}.png")
    options = [
        "--images", tmp_path / "images", "--masks", tmp_path / "masks", "--size", "32",
        "--widths", "4", "8", "--epochs", "1",
    ]  # fmt: skip
    dice = []
    for name, devices in (("two", 2), ("one", 1)):
        run = RunDirectory(tmp_path / name)
        started("train", "own", *options, "--workdir", run.path, devices=devices)
        summary = run.read_summary()
        assert summary is not None
        assert summary["devices"] == devices
        dice.append(summary["test"]["dice_mean"])
    assert dice[0] == pytest.approx(dice[1], abs=0.02)
