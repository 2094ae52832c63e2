"""Scores of images: by hand, of several classes, on masks of many sizes with few programs."""

import csv
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from experiments import scores, scoring
from experiments.dataset import Dataset
from experiments.scores import COLUMNS
from experiments.scoring import score
from experiments.train import validate
from jaxseg import losses, metrics, parallel
from jaxseg.data.arrays import ImageArrays, MaskFiles
from jaxseg.data.images import IGNORED
from jaxseg.inference import make_predict
from jaxseg.resizing import resize_logits
from jaxseg.training import Evaluation, TrainState

SIZES = [(24, 40), (31, 29), (24, 24), (40, 40), (9, 12), (33, 17)]


def blobs(rng: np.random.Generator, size: tuple[int, int], classes: int) -> np.ndarray:
    """Objects of a few pixels, some at the border."""
    coarse = rng.integers(0, classes + 1, (5, 5))
    rows, columns = (np.arange(side) * 5 // side for side in size)
    return coarse[np.ix_(rows, columns)].astype(np.uint8)


def arrays_of(images, labels, masks, where=None) -> ImageArrays:
    """Images that are each a group of their own."""
    names = [f"image{i}" for i in range(len(images))]
    empty = [""] * len(names)
    return ImageArrays(
        images=images, labels=labels, masks=masks, ids=names, classes=empty, sources=empty,
        split=empty, groups=names, where=where,
    )  # fmt: skip


def dataset(classes: int, *, ignore: bool = False) -> ImageArrays:
    rng = np.random.default_rng(0)
    masks = [blobs(rng, size, classes) for size in SIZES]
    count = len(SIZES)
    labels = np.stack([blobs(rng, (16, 16), classes) for _ in SIZES])
    where = rng.random((count, 16, 16)) < 0.8 if ignore else None
    if ignore:
        for mask in masks:
            mask[rng.random(mask.shape) < 0.2] = IGNORED
    images = rng.integers(0, 256, (count, 16, 16, 1), np.uint8)
    return arrays_of(images, labels, MaskFiles(SIZES, masks.__getitem__), where)


def predict(state: Any, images: Any) -> Any:
    """Logits that follow the images, of three classes or of one."""
    values = images.astype(np.float32) / 255.0
    return jax.numpy.concatenate([values - 0.5, 0.3 - values, 0.2 * values][: state["k"].size], -1)


def keep_upper_half(logits: np.ndarray) -> np.ndarray:
    """A decision that depends on the size of the image."""
    labels = (logits[..., 0] > 0) if logits.shape[-1] == 1 else logits.argmax(-1)
    labels = labels.astype(np.int32)
    labels[len(labels) // 2 :] = 0
    return labels


@pytest.mark.parametrize(
    ("channels", "ignore", "postprocess", "i"),
    [
        (3, True, None, 1),
        pytest.param(1, False, None, 4, marks=pytest.mark.slow),
        pytest.param(1, True, keep_upper_half, 4, marks=pytest.mark.slow),
    ],
)
def test_images_of_many_sizes_have_the_scores_of_each_alone(channels, ignore, postprocess, i):
    arrays = dataset(max(1, channels - 1), ignore=ignore)
    mesh = parallel.make_mesh(jax.devices()[:1])
    state = parallel.replicate({"k": np.zeros(channels, np.float32)}, mesh)
    options: Any = {"rows": 4, "postprocess": postprocess}
    together = score(predict, state, arrays, np.arange(len(SIZES)), mesh, **options)
    alone = score(predict, state, arrays, np.array([i]), mesh, **options)
    for name in (*COLUMNS, "dice_network_size"):
        np.testing.assert_allclose(
            together.columns[name][i], alone.columns[name][0], rtol=1e-6, err_msg=name
        )
    assert np.isfinite(together.columns["hd95"]).any()


def test_sizes_within_a_factor_of_two_share_one_program():
    masks = dataset(1)
    canvases = {canvas for _, canvas in scoring._batches(masks, np.arange(6), rows=2)}
    assert canvases == {(40, 40), (10, 10), (20, 20)} & canvases
    assert len(canvases) <= 2
    for batch, (height, width) in scoring._batches(masks, np.arange(6), rows=4):
        for i in batch:
            rows, columns = SIZES[i]
            assert rows <= height
            assert columns <= width
            assert min(height / rows, width / columns) < 2


@pytest.mark.parametrize("size", [(16, 16), (7, 31), (40, 5)])
def test_logits_on_a_canvas_are_those_of_the_size(size):
    logits = np.random.default_rng(1).normal(size=(1, 16, 16, 2)).astype(np.float32)
    resized = scoring._resize_each(logits, np.array([size], np.int32), (40, 40))
    np.testing.assert_allclose(
        resized[:, : size[0], : size[1]], resize_logits(logits, size), rtol=1e-5, atol=1e-5
    )


class FromGray(nn.Module):
    """Predicts the class given by a pixel's gray level; NaN where there is no such class."""

    @nn.compact
    def __call__(self, images, *, train):
        del train
        shown = jax.nn.one_hot(images[..., 0], 3) + jnp.where(images > 2, jnp.nan, 0.25)
        return shown * self.param("scale", nn.initializers.ones_init(), ())


def edge(mask):
    """Pixels of a mask with a neighbor outside of it or of the image."""
    inside = np.pad(mask, 1)
    whole = inside[:-2, 1:-1] & inside[2:, 1:-1] & inside[1:-1, :-2] & inside[1:-1, 2:]
    return np.argwhere(mask & ~whole)


def hd95(one, other):
    """The larger of the two directed 95th percentiles of distances; NaN where a mask is empty."""
    if not one.any() or not other.any():
        return np.nan
    apart = np.linalg.norm(edge(one)[:, None] - edge(other)[None], axis=-1)
    return max(np.percentile(apart.min(axis=axis), 95) for axis in (0, 1))


def test_scores_of_several_classes_are_each_classes_own(tmp_path):
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, (5, 12, 12)).astype(np.uint8)
    predicted = np.where(rng.random(truth.shape) < 0.7, truth, rng.integers(0, 3, truth.shape))
    truth[1][truth[1] == 2] = 0
    predicted[1][predicted[1] == 2] = 1
    # A heart that is missed.
    predicted[4][predicted[4] == 2] = 1
    arrays = arrays_of(predicted.astype(np.uint8)[..., None], truth, truth)
    mesh = parallel.make_mesh(jax.devices()[:1])
    state = TrainState(0, {"scale": jnp.float32(1)}, {}, (), 0)
    chosen = np.array([3, 1, 0, 4])
    classes: Any = {"rows": 3, "class_names": ("lungs", "heart")}
    scored = score(make_predict(FromGray()), state, arrays, chosen, mesh, **classes)
    dice, pair = np.full((4, 2), np.nan), (predicted, truth)
    for row, image in enumerate(chosen):
        for label in (1, 2):
            ours, theirs = predicted[image] == label, truth[image] == label
            if total := ours.sum() + theirs.sum():
                dice[row, label - 1] = 2 * (ours & theirs).sum() / total
    for column, name in enumerate(("lungs", "heart")):
        np.testing.assert_allclose(scored.columns[f"dice_{name}"], dice[:, column], atol=1e-6)
        expected = [hd95(*(labels[image] == column + 1 for labels in pair)) for image in chosen]
        np.testing.assert_allclose(scored.columns[f"hd95_{name}"], expected, atol=1e-5)
    assert np.isnan(dice[1, 1])
    lungs, heart = (scored.columns[f"hd95_{name}"] for name in ("lungs", "heart"))
    np.testing.assert_array_equal(np.isnan(heart), [False, True, False, True])
    # Without a heart, or with one that is missed, it is that of the lungs.
    hd95_of_images = [(lungs[0] + heart[0]) / 2, lungs[1], (lungs[2] + heart[2]) / 2, lungs[3]]
    np.testing.assert_allclose(scored.columns["hd95"], hd95_of_images, atol=1e-5)
    np.testing.assert_allclose(scored.columns["dice"], np.nanmean(dice, axis=1), atol=1e-6)
    right = (predicted == truth).mean(axis=(1, 2))[chosen]
    np.testing.assert_allclose(scored.columns["pixel_accuracy"], right, atol=1e-6)

    summary = scored.summary()
    pairs = np.stack([truth[chosen].ravel(), predicted[chosen].ravel()])
    confusion = [
        [int(((pairs[0] == a) & (pairs[1] == p)).sum()) for p in range(3)] for a in range(3)
    ]
    assert summary["confusion_matrix"] == confusion
    assert summary["dice_mean"] == pytest.approx(np.nanmean(dice, axis=1).mean(), abs=1e-6)
    assert summary["undefined_distances"] == 0
    assert summary["hd95_mean"] == pytest.approx(np.nanmean(hd95_of_images), abs=1e-5)
    heart = summary["classes"]["heart"]
    assert heart["undefined_distances"] == 2
    # Images 1 and 4 have no heart in the prediction, and image 1 none in the ground truth.
    assert (heart["undefined_precision"], heart["undefined_recall"]) == (2, 1)
    assert heart["dice_mean"] == pytest.approx(np.nanmean(dice[:, 1]), abs=1e-6)
    assert (heart["undefined"], summary["classes"]["lungs"]["undefined"]) == (1, 0)
    line = scores.one_line(summary)
    assert f"heart Dice {heart['dice_mean']:.4f}" in line
    scored.write(tmp_path / "scores.csv")
    rows = list(csv.DictReader((tmp_path / "scores.csv").read_text().splitlines()))
    assert [row["id"] for row in rows] == ["image3", "image1", "image0", "image4"]
    assert rows[1]["dice_heart"] == ""
    assert float(rows[0]["dice_heart"]) == pytest.approx(dice[0, 1], rel=1e-5)
    assert "pixel_accuracy_heart" not in rows[0]


def test_an_image_with_logits_that_are_nan_has_no_scores():
    truth = np.zeros((2, 12, 12), np.uint8)
    truth[:, 3:8, 4:9] = 1
    predicted = truth.copy()
    predicted[1, 0, :2] = 9
    arrays = arrays_of(predicted[..., None], truth, truth)
    mesh = parallel.make_mesh(jax.devices()[:1])
    state = TrainState(0, {"scale": jnp.float32(1)}, {}, (), 0)
    scored = score(make_predict(FromGray()), state, arrays, np.arange(2), mesh, rows=2)
    for name, best in {"dice": 1, "precision": 1, "hd95": 0, "assd": 0}.items():
        np.testing.assert_array_equal(scored.columns[name], [best, np.nan])
    summary = scored.summary()
    assert (summary["images"], summary["groups"]) == (2, 2)
    assert (summary["undefined"], summary["undefined_distances"]) == (1, 1)


@pytest.mark.parametrize(("broken", "expected"), [(False, 1.0), (True, np.nan)])
def test_validation_of_a_network_that_gives_nan_on_an_image_is_no_score(broken, expected):
    state = TrainState(jnp.int32(0), {}, {}, (), jax.random.key(0))
    truth = np.zeros((5, 8, 8), np.uint8)
    truth[:4, 2:5, 2:5] = 1
    arrays = arrays_of(truth[..., None] * 255, truth, truth)
    if broken:
        arrays.images[2] = 7
    dataset = Dataset(arrays, np.arange(0), np.arange(5), np.arange(0), "")

    def eval_step(state, batch):
        del state
        gray = batch["images"].astype(jnp.float32)
        logits = jnp.where(gray == 7, jnp.nan, gray - 100)
        return Evaluation(
            loss=losses.cross_entropy(logits, batch["labels"].astype(jnp.int32)),
            counts=metrics.count(
                metrics.predicted_labels(logits), batch["labels"].astype(jnp.int32), num_classes=1
            ),
            soft_dice=None,
        )

    mesh = parallel.make_mesh(jax.devices()[:1])
    found = validate(eval_step, state, dataset, 2, mesh)
    np.testing.assert_equal(found["validation_dice"], expected)
    assert np.isnan(found["validation_loss"]) == broken
