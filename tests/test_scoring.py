"""Scores on masks of many sizes: those of each image alone, with few programs."""

from typing import Any

import jax
import numpy as np
import pytest

from experiments import scoring
from experiments.scoring import COLUMNS, score
from jaxseg import parallel
from jaxseg.data.arrays import ImageArrays, MaskFiles
from jaxseg.data.images import IGNORED
from jaxseg.resizing import resize_logits

SIZES = [(24, 40), (31, 29), (24, 24), (40, 40), (9, 12), (33, 17)]


def blobs(rng: np.random.Generator, size: tuple[int, int], classes: int) -> np.ndarray:
    """Objects of a few pixels, some at the border."""
    coarse = rng.integers(0, classes + 1, (5, 5))
    rows, columns = (np.arange(side) * 5 // side for side in size)
    return coarse[np.ix_(rows, columns)].astype(np.uint8)


def dataset(classes: int, *, ignore: bool = False) -> ImageArrays:
    rng = np.random.default_rng(0)
    masks = [blobs(rng, size, classes) for size in SIZES]
    count = len(SIZES)
    labels = np.stack([blobs(rng, (16, 16), classes) for _ in SIZES])
    where = rng.random((count, 16, 16)) < 0.8 if ignore else None
    if ignore:
        for mask in masks:
            mask[rng.random(mask.shape) < 0.2] = IGNORED
    names = [f"image-{i}" for i in range(count)]
    return ImageArrays(
        images=rng.integers(0, 256, (count, 16, 16, 1), np.uint8),
        labels=labels,
        masks=MaskFiles(SIZES, masks.__getitem__),
        ids=names,
        classes=[""] * count,
        sources=[""] * count,
        split=["test"] * count,
        groups=names,
        where=where,
    )


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
    ("channels", "ignore", "postprocess"), [(1, False, None), (3, True, None), (1, True, "half")]
)
def test_images_of_many_sizes_have_the_scores_of_each_alone(channels, ignore, postprocess):
    arrays = dataset(max(1, channels - 1), ignore=ignore)
    mesh = parallel.make_mesh(jax.devices()[:1])
    state = parallel.replicate({"k": np.zeros(channels, np.float32)}, mesh)
    options: Any = {"rows": 4, "mend": keep_upper_half if postprocess else None}
    together = score(predict, state, arrays, np.arange(len(SIZES)), mesh, **options)
    for i in range(len(SIZES)):
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
