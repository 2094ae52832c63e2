"""Folders of images: what is written, what is left out, how a killed command goes on."""

import csv
import dataclasses
import functools
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import pytest
from PIL import Image
from scipy import ndimage

from experiments import command, predict
from experiments.predictions import Predictions
from experiments.runs import load_trained
from jaxseg import UNet, inference
from jaxseg.data import phantom
from jaxseg.data.images import read_image, resize_image
from jaxseg.inference import resize_logits
from jaxseg.training import TrainState
from tests.dicom_file import write_dicom

ROOT = Path(__file__).parents[1]
SIZES = [(40, 50), (40, 50), (61, 33), (61, 33), (90, 70)]


@pytest.fixture(scope="module")
def run(untrained_run):
    return untrained_run.path


@pytest.fixture(scope="module")
def network(untrained_run):
    """The run's network, read once for all tests."""
    return load_trained(untrained_run)


@pytest.fixture
def images(tmp_path):
    """A folder of five images of three sizes, named out of their alphabetical order."""
    folder = tmp_path / "images"
    folder.mkdir()
    for i, (height, width) in enumerate(SIZES):
        image = phantom.generate(3, "Normal", i + 1, image_size=96, mask_size=48).image
        Image.fromarray(image).resize((width, height)).save(folder / f"image-{2 * i + 7}.png")
    return folder


@pytest.fixture
def called(called, network, monkeypatch):
    """predict in this process: its exit status, standard output and standard error."""
    monkeypatch.setattr(predict, "load_trained", lambda _: network)
    return functools.partial(called, predict)


def keep_two(images):
    """Leaves two images of different sizes."""
    for path in images.iterdir():
        if path.stem not in ("image-7", "image-15"):
            path.unlink()


def rows_of(folder):
    with (folder / "predictions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def mask_of(folder, stem) -> Any:
    with Image.open(folder / f"{stem}_mask.png") as mask:
        assert mask.mode == "L"
        values = np.asarray(mask)
    assert set(np.unique(values)) <= {0, 255}
    return values == 255


def read_pixels(path):
    with Image.open(path) as image:
        return np.asarray(image)


def forward(network):
    def logits(state, images) -> Any:
        return network.model.apply(state.variables(), images, train=False)

    return logits


def logits_of(network, path, **views):
    """A image's logits at its own size, one image at a time and on the device."""
    image = read_image(path)[..., 0]
    small = resize_image(image, network.configuration.data.size)[None, ..., None]
    predict = jax.jit(inference.with_test_time_augmentation(forward(network), **views))
    logits = predict(network.state, small)
    return np.asarray(resize_logits(logits, image.shape))[0, ..., 0].astype(np.float64)


def parts_of(mask) -> Any:
    """Numbered parts that hang together over edges or corners, and how many."""
    return ndimage.label(mask, np.ones((3, 3)))


def test_masks_and_their_rows_are_those_of_each_image_alone(
    run, network, images, tmp_path, succeeds
):
    out = tmp_path / "out"
    text = succeeds(run, images, "--out", out)
    assert "5 images segmented" in text
    rows = rows_of(out)
    assert [row["image"] for row in rows] == [f"image-{n}.png" for n in (7, 9, 11, 13, 15)]
    for row, size in zip(rows, SIZES, strict=True):
        stem = row["image"].removesuffix(".png")
        logits = logits_of(network, images / row["image"])
        mask = mask_of(out, stem)
        np.testing.assert_array_equal(mask, logits > 0)
        assert 0.02 < mask.mean() < 0.98
        assert (int(row["height"]), int(row["width"])) == size == mask.shape
        assert int(row["area_px"]) == mask.sum()
        assert row["area_mm2"] == row["error"] == ""
        assert float(row["area_fraction"]) == pytest.approx(mask.mean(), rel=1e-4)
        probability = 1 / (1 + np.exp(-logits))
        by_hand = (probability[mask].mean() + (1 - probability[~mask]).mean()) / 2
        assert float(row["confidence"]) == pytest.approx(by_hand, rel=1e-4)
        assert int(row["components"]) == parts_of(mask)[1]
        with Image.open(out / f"{stem}_overlay.png") as overlay:
            assert (overlay.size, overlay.mode) == (size[::-1], "RGB")


def test_options_act_on_the_mask_and_are_recorded(
    run, network, images, tmp_path, succeeds, refused
):
    keep_two(images)
    out = tmp_path / "out"
    options = ["--tta-flips", "left_right", "--tta-scales", "1.0", "0.5", "--threshold", "0.4"]
    options += ["--keep-largest", "1", "--fill-holes", "--no-overlay"]
    succeeds(run, images, "--out", out, *options)
    assert not list(out.glob("*_overlay.png"))
    for path in images.iterdir():
        logits = logits_of(network, path, flips=["left_right"], scales=[1.0, 0.5])
        labels, count = parts_of(logits > math.log(0.4 / 0.6))
        areas = ndimage.sum_labels(labels > 0, labels, range(1, count + 1))
        largest = ndimage.binary_fill_holes(labels == 1 + np.argmax(areas))
        np.testing.assert_array_equal(mask_of(out, path.stem), largest)
    made_with = json.loads((out / "predictions.json").read_text())["made_with"]
    assert made_with["tta_flips"] == ["left_right"]
    assert made_with["tta_scales"] == [1.0, 0.5]
    assert (made_with["threshold"], made_with["keep_largest"], made_with["fill_holes"]) == (
        0.4,
        1,
        True,
    )
    error = refused(run, images, "--out", out)
    assert "threshold is 0.4 there and 0.5 now" in error


@pytest.mark.slow
def test_tiles_see_a_image_at_its_own_size(run, network, images, tmp_path, succeeds):
    keep_two(images)
    succeeds(run, images, "--out", tmp_path / "out", "--tile", "96")
    for path in images.iterdir():
        image = read_image(path)[..., 0]
        padding = [(0, 96 - side) for side in image.shape]
        padded = np.pad(image, padding, mode="edge")[None, ..., None]
        logits = jax.jit(forward(network))(network.state, padded)
        own = np.asarray(logits)[0, : image.shape[0], : image.shape[1], 0]
        np.testing.assert_array_equal(mask_of(tmp_path / "out", path.stem), own > 0)


def modified(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.png")}


def test_what_is_whole_is_left_as_it_is_and_what_is_not_is_done(run, images, tmp_path, succeeds):
    out = tmp_path / "out"
    succeeds(run, images, "--out", out)
    before, rows = modified(out), rows_of(out)
    # As a kill leaves it: a line cut short, another with no mask; and a image that changed since,
    # whatever its time says.
    text = (out / "predictions.csv").read_text()
    (out / "predictions.csv").write_text(text[: text.rindex("image-15") + 20])
    (out / "image-11_mask.png").unlink()
    with Image.open(images / "image-7.png") as image:
        image.transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(images / "image-7.png")
    os.utime(images / "image-7.png", ns=(0, 0))
    text = succeeds(run, images, "--out", out)
    assert "2 of 5 images are done already" in text
    after = modified(out)
    redone = {name for name in before if after[name] != before[name]}
    assert redone == {f"image-{n}_{kind}.png" for n in (7, 11, 15) for kind in ("mask", "overlay")}
    assert rows_of(out)[1:] == rows[1:]
    assert rows_of(out)[0] != rows[0]


def test_a_image_of_the_same_name_is_another_image(run, images, tmp_path, succeeds):
    keep_two(images)
    out, other = tmp_path / "out", tmp_path / "other patient"
    other.mkdir()
    succeeds(run, images, "--out", out)
    (first,) = (row for row in rows_of(out) if row["image"] == "image-7.png")
    with Image.open(images / "image-15.png") as image:
        image.save(other / "image-7.png")
    os.utime(other / "image-7.png", ns=(0, 0))
    text = succeeds(run, other, "--out", out)
    assert "already" not in text
    (second,) = (row for row in rows_of(out) if row["image"] == "image-7.png")
    assert second["height"] == str(SIZES[-1][0]) != first["height"]
    # The mask is now of another file: its line alone stays.
    (other / "image-7.png").unlink()
    (other / "image-7.jpg").write_bytes((images / "image-7.png").read_bytes())
    succeeds(run, other, "--out", out)
    assert [row["image"] for row in rows_of(out)] == ["image-7.jpg", "image-15.png"]
    assert rows_of(out)[0] == first | {"image": "image-7.jpg"}


@pytest.mark.parametrize("delimiter", [",", ";"])
def test_a_table_that_a_spreadsheet_saved_keeps_its_rows(
    delimiter, run, images, tmp_path, succeeds
):
    keep_two(images)
    out = tmp_path / "out"
    succeeds(run, images, "--out", out)
    rows, table = rows_of(out), out / "predictions.csv"
    with table.open("w", newline="", encoding="utf-8-sig") as file:
        saved = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)  # Lines end with CR LF.
        saved.writeheader()
        saved.writerows(rows)
    text = succeeds(run, images / "image-7.png", "--out", out)
    assert "1 of 1 images are done already" in text
    assert rows_of(out) == rows


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("image,sha256,object\n\xe9,1,lung\n".encode("latin-1"), "is not UTF-8 text"),
        (b"image,object\na.png,lung\n", "has no column sha256"),
        (b"image,sha256,object\na.png,1\nb.png,2,lung\n", "line 2 does not fit"),
        (b"image,sha256,object\na.png,1,lung,9\nb.png,2,lung\n", "line 2 does not fit"),
    ],
)
def test_a_table_that_cannot_be_read_is_left_as_it_is(
    content, words, run, images, tmp_path, refused
):
    keep_two(images)
    out = tmp_path / "out"
    out.mkdir()
    (out / "predictions.csv").write_bytes(content)
    error = refused(run, images, "--out", out)
    assert words in error
    assert (out / "predictions.csv").read_bytes() == content


def test_a_mask_that_a_killed_command_wrote_is_not_taken_for_the_images_own(
    run, images, tmp_path, succeeds, monkeypatch
):
    keep_two(images)
    out, other = tmp_path / "out", tmp_path / "other"
    other.mkdir()
    succeeds(run, images, "--out", out)
    rows = rows_of(out)
    (other / "image-7.png").write_bytes((images / "image-15.png").read_bytes())

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Predictions, "add", killed)
        patched.setattr(sys, "argv", ["predict", str(run), str(other), "--out", str(out)])
        with pytest.raises(KeyboardInterrupt):
            predict.main()
    assert [row["image"] for row in rows_of(out)] == ["image-15.png"]
    succeeds(run, images, "--out", out)
    assert rows_of(out) == rows
    assert mask_of(out, "image-7").shape == SIZES[0]


def test_one_odd_name_does_not_stop_a_batch(run, images, tmp_path, called, refused):
    keep_two(images)
    names = ["Ba$$in.png", "caf\udce9.png", "M\u00fcller.png", "front\u3000\xa0 1,  2.png"]
    names.append(f"{'x' * 251}.png")
    for name in names:
        shutil.copy(images / "image-15.png", images / name)
    (images / "gone.png").symlink_to(images / "nowhere.png")
    out = tmp_path / "out"
    error = refused(run, images, "--out", out)
    assert "2 images could not be read" in error
    rows = {row["image"]: row["error"] for row in rows_of(out)}
    assert len(rows) == 8
    assert "name is too long" in rows[names[-1]]
    assert "there is no such file" in rows["gone.png"]
    done = ["image-7", "image-15", "Ba$$in", r"caf\udce9", "M\u00fcller", "front\u3000\xa0 1,  2"]
    assert {name for name, error in rows.items() if not error} == {f"{name}.png" for name in done}
    for name in done:
        mask_of(out, name)
    assert "6 of 8 images are done already" in called(run, images, "--out", out)[1]


def test_one_command_at_a_time_writes_to_a_folder(run, images, tmp_path, refused):
    out = tmp_path / "out"
    with Predictions(out, {}, classes=1, overlays=True):
        error = refused(run, images, "--out", out)
    assert "another command writes to" in error


def test_images_that_cannot_be_read_are_left_out_and_listed(
    run, images, tmp_path, called, succeeds
):
    out = tmp_path / "out"
    whole = (images / "image-9.png").read_bytes()
    (images / "image-9.png").write_bytes(whole[:200])
    (images / "image-8.jpg").write_text("scribble")
    code, text, error = called(run, images, "--out", out)
    assert code == 2
    assert error.splitlines() == [
        "error: 2 images could not be read and were skipped, image-8.jpg the first. See the column "
        f"error of {out / 'predictions.csv'}"
    ]
    assert "skipped image-9.png: cannot be read" in text
    rows = {row["image"]: row for row in rows_of(out)}
    assert len(rows) == 6
    assert {name for name, row in rows.items() if row["error"]} == {"image-8.jpg", "image-9.png"}
    assert rows["image-9.png"]["area_px"] == ""
    assert not (out / "image-9_mask.png").exists()

    (images / "image-9.png").write_bytes(whole)
    (images / "image-8.jpg").unlink()
    text = succeeds(run, images, "--out", out)
    assert "4 of 5 images are done already" in text
    # An image that does not exist any more has no row.
    assert not any(row["error"] for row in rows_of(out))
    assert len(rows_of(out)) == 5


def test_dicom_images_have_areas_in_square_millimetres(run, tmp_path, succeeds):
    folder = tmp_path / "images"
    folder.mkdir()
    grey = (
        phantom.generate(3, "Normal", 1, image_size=48, mask_size=48).image.astype(np.uint16) * 16
    )
    write_dicom(folder / "1.2.840.7", grey, PixelSpacing=[0.5, 0.25], WindowCenter=2048,
                  WindowWidth=4096)  # fmt: skip
    write_dicom(folder / "dark.dcm", 4095 - grey, PhotometricInterpretation="MONOCHROME1",
                  WindowCenter=2048, WindowWidth=4096)  # fmt: skip
    succeeds(run, folder, "--out", tmp_path / "out")
    plain, dark = rows_of(tmp_path / "out")
    assert float(plain["area_mm2"]) == pytest.approx(int(plain["area_px"]) * 0.125, rel=1e-4)
    assert dark["area_mm2"] == ""
    assert int(plain["area_px"]) == int(dark["area_px"]) > 0
    same = mask_of(tmp_path / "out", "1.2.840.7") == mask_of(tmp_path / "out", "dark")
    assert same.all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--threshold", "1"], ["--threshold: must be between 0 and 1, got 1"]),
        (["--keep-largest", "0"], ["--keep-largest: must be at least 1, got 0"]),
        (["--overlap", "8"], ["--overlap", "--tile"]),
        (["--tile", "33"], ["tile: 33 pixels", "multiple of 2"]),
        (["--tta-scales", "0"], ["scales", "above 0"]),
    ],
)
def test_options_that_will_not_do_are_named(options, words, run, images, tmp_path, refused):
    error = refused(run, images, "--out", tmp_path / "out", *options)
    for word in words:
        assert word in error
    assert not (tmp_path / "out").exists()


def test_the_images_own_folder_is_refused_and_so_are_two_images_of_one_stem(
    run, images, tmp_path, refused
):
    elsewhere = tmp_path / "elsewhere.png"
    elsewhere.write_bytes((images / "image-9.png").read_bytes())
    before = modified(images)
    for given in ([images], [images / "image-7.png"], [elsewhere, images / "image-7.png"]):
        error = refused(run, *given, "--out", images / ".." / "images")
        assert "is the folder of the images. Use another folder" in error
    assert modified(images) == before
    (images / "image-7.jpg").write_bytes((images / "image-7.png").read_bytes())
    error = refused(run, images, "--out", tmp_path / "out")
    assert "same name" in error


STOPS_ITSELF = """
import os, sys
from experiments import command, predict, predictions
signal, add = int(sys.argv.pop(1)), predictions.Predictions.add
def stop(self, rows):
    if len(self.rows) == 9:
        os.kill(os.getpid(), signal)
    add(self, rows)
predictions.Predictions.add = stop
command.run(predict.main)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sent", "status"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, command.PREEMPTED)]
)
def test_a_stopped_command_goes_on_to_what_an_unbroken_one_gives(
    sent, status, run, images, tmp_path, succeeds
):
    image = (images / "image-7.png").read_bytes()
    for i in range(50):
        (images / f"copy-{i}.png").write_bytes(image)
    broken, unbroken = tmp_path / "broken", tmp_path / "unbroken"
    stopped = subprocess.run(
        [sys.executable, "-c", STOPS_ITSELF, str(int(sent)), run, images, "--out", broken],
        cwd=ROOT, env={**os.environ, "XLA_FLAGS": ""}, capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip
    assert stopped.returncode == status
    if sent == signal.SIGTERM:
        assert "preempted: saved files are kept; run the command again" in stopped.stderr
    text = succeeds(run, images, "--out", broken)
    assert "images are done already" in text
    succeeds(run, images, "--out", unbroken)
    assert {p.name for p in broken.iterdir()} - {p.name for p in unbroken.iterdir()} <= {
        p.name for p in broken.glob(".*")
    }
    for path in unbroken.glob("*.png"):
        assert (broken / path.name).read_bytes() == path.read_bytes()
    assert rows_of(broken) == rows_of(unbroken)


def test_several_classes_have_a_row_each_and_masks_with_their_values(
    run, network, images, tmp_path, succeeds, refused, monkeypatch
):
    keep_two(images)
    model = UNet(num_classes=3, widths=(4, 8))
    shape = jax.ShapeDtypeStruct((1, 32, 32, 1), np.uint8)
    state = TrainState.create(model, optax.sgd(0.1), jax.random.key(2), shape)
    configuration = network.configuration.with_data(
        images=images, masks=images, classes=("left=1", "right=20")
    )
    several = dataclasses.replace(network, configuration=configuration, model=model, state=state)
    monkeypatch.setattr(predict, "load_trained", lambda _: several)
    out = tmp_path / "out"
    succeeds(run, images, "--out", out, "--keep-largest", "2", "--fill-holes")
    rows = iter(rows_of(out))
    for stem in ("image-7", "image-15"):
        image = read_image(images / f"{stem}.png")[..., 0]
        logits = jax.jit(forward(several))(state, resize_image(image, 32)[None, ..., None])
        expected = np.asarray(resize_logits(logits, image.shape))[0].argmax(axis=-1)
        for number in (1, 2):
            labels, count = parts_of(expected == number)
            areas = np.bincount(labels.ravel(), minlength=count + 1)[1:]
            kept = 1 + np.argsort(-areas, kind="stable")[:2]
            expected[(labels > 0) & ~np.isin(labels, kept)] = 0
        for number in (1, 2):
            holes = ndimage.binary_fill_holes(expected == number) & (expected == 0)
            expected[holes] = number
        with Image.open(out / f"{stem}_mask.png") as mask:
            assert mask.mode == "P"
            np.testing.assert_array_equal(np.asarray(mask), expected)
        assert len(np.unique(expected)) > 1
        for number in (1, 2):
            row = next(rows)
            assert row["image"] == f"{stem}.png"
            assert int(row["area_px"]) == (expected == number).sum()
            assert int(row["components"]) == parts_of(expected == number)[1]
            assert (row["object"], row["mask_value"]) == (
                ["left", "right"][number - 1],
                str(number),
            )
    before = modified(out)
    succeeds(run, images, "--out", out, "--keep-largest", "2", "--fill-holes")
    assert modified(out) == before
    error = refused(run, images, "--out", tmp_path / "other", "--threshold", "0.4")
    assert "--threshold: only for one class. This run has 2" in error
    error = refused(run, images, "--out", tmp_path / "other", "--tta-flips", "both")
    assert "--tta-flips: left-right flips would swap the one-sided class left" in error
    made_with = json.loads((out / "predictions.json").read_text())["made_with"]
    assert made_with["mask_values"] == {"left": 1, "right": 2}
    given = tmp_path / "given"
    options = ["--mask-values-out", "--keep-largest", "2", "--fill-holes"]
    succeeds(run, images, "--out", given, *options)
    values = np.array([0, 1, 20])
    for stem in ("image-7", "image-15"):
        ours, theirs = (read_pixels(folder / f"{stem}_mask.png") for folder in (out, given))
        np.testing.assert_array_equal(values[ours], theirs)
    assert {row["mask_value"] for row in rows_of(given)} == {"1", "20"}
    flips = dataclasses.replace(configuration.augment, flip_left_right=0.5)
    configuration = dataclasses.replace(configuration, augment=flips)
    several = dataclasses.replace(several, configuration=configuration)
    succeeds(run, images, "--out", tmp_path / "flipped", "--tta-flips", "both")
