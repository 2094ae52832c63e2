"""Predicted labels and soft Dice from logits, against their formulas in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxseg import metrics


def on_host(function, *static):
    """Compiled, with NumPy arrays as result, which spare compiling every score."""
    compiled = jax.jit(function, static_argnames=static)
    return lambda *arrays, **options: jax.device_get(compiled(*arrays, **options))


count = on_host(metrics.count, "num_classes")
soft_dice_sums = on_host(metrics.soft_dice_sums, "multilabel")
predicted_labels = on_host(metrics.predicted_labels, "multilabel")


@pytest.mark.parametrize("num_classes", [1, 3])
def test_predicted_labels_are_the_likeliest_classes(num_classes):
    logits = np.random.default_rng(0).normal(size=(2, 5, 6, num_classes)).astype(np.float32)
    expected = logits[..., 0] > 0 if num_classes == 1 else logits.argmax(-1)
    labels = predicted_labels(logits)
    assert labels.dtype == jnp.int32
    np.testing.assert_array_equal(labels, expected)


@pytest.mark.parametrize("num_classes", [1, 3])
def test_a_logit_of_nan_is_no_class_and_its_image_scores_nan(num_classes):
    logits = np.zeros((2, 4, 4, num_classes), np.float32)
    logits[0, 1, 2, -1] = np.nan
    labels = np.ones((2, 4, 4), np.int32)
    predicted = predicted_labels(logits)
    assert predicted[0, 1, 2] == -1
    counts = count(predicted, labels, num_classes=num_classes)
    soft = soft_dice_sums(logits, labels)
    for scores in (metrics.accuracy(counts), metrics.soft_dice_score(soft)):
        assert np.isnan(scores[0]).all()
        assert np.isfinite(scores[1]).all()
    where = np.ones((2, 4, 4), bool)
    where[0, 1, 2] = False
    masked = soft_dice_sums(logits, labels, where=where)
    assert np.isfinite(metrics.soft_dice_score(masked)).all()


def test_multilabel_channels_are_predicted_and_scored_as_binary_problems():
    random = np.random.default_rng(3)
    logits = random.normal(size=(2, 3, 4, 5, 2)).astype(np.float32)
    logits[0, 1, 2, 3, 1] = np.nan
    labels = random.integers(0, 2, logits.shape, dtype=np.int32)
    labels[1, 0, 0, 0, 0] = 7
    where = random.random(logits.shape[:-1]) < 0.7
    where[0, 1, 2, 3] = where[1, 0, 0, 0] = True
    predicted = predicted_labels(logits, multilabel=True)
    sums = soft_dice_sums(logits, labels, where=where, multilabel=True)
    assert sums.outside.tolist() == [[0, 1], [1, 0]]
    for channel in range(2):
        one = slice(channel, channel + 1)
        alone = soft_dice_sums(logits[..., one], labels[..., channel], where=where)
        jax.tree.map(
            lambda both, binary, one=one: np.testing.assert_allclose(both[:, one], binary),
            sums,
            alone,
        )
        np.testing.assert_array_equal(predicted[..., channel], predicted_labels(logits[..., one]))


def test_soft_dice_takes_any_number_of_spatial_axes():
    random = np.random.default_rng(4)
    logits = random.normal(size=(2, 8, 8, 3)).astype(np.float32)
    labels = random.integers(0, 3, (2, 8, 8), dtype=np.int32)
    two, predicted = soft_dice_sums(logits, labels), predicted_labels(logits)
    for shape in ((2, 64), (2, 4, 4, 4)):
        other = soft_dice_sums(logits.reshape(*shape, 3), labels.reshape(shape))
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), two, other)
        found = predicted_labels(logits.reshape(*shape, 3))
        np.testing.assert_array_equal(predicted.reshape(shape), found)


def test_a_logit_of_exactly_zero_is_background():
    assert predicted_labels(np.zeros((1, 1, 1, 1), np.float32)).tolist() == [[[0]]]


@pytest.mark.parametrize(("num_classes", "dtype"), [(1, jnp.float32), (3, jnp.bfloat16)])
def test_soft_dice_is_its_formula_over_the_whole_set(num_classes, dtype):
    random = np.random.default_rng(1)
    logits = jnp.asarray(random.normal(size=(4, 8, 8, num_classes)), dtype)
    labels = random.integers(0, max(num_classes, 2), (4, 8, 8))
    where = random.random((4, 8, 8)) < 0.7
    valid = np.array([True, True, False, True])
    sums = soft_dice_sums(logits, labels, where=where)
    exact = np.asarray(logits, np.float64)
    if num_classes == 1:
        p, t = 1 / (1 + np.exp(-exact)), labels[..., None] == 1
    else:
        p = np.exp(exact) / np.exp(exact).sum(-1, keepdims=True)
        t = labels[..., None] == np.arange(num_classes)

    def score(rows, smooth):
        chosen = where[rows]
        p_, t_ = p[rows][chosen], t[rows][chosen]
        return (2 * (p_ * t_).sum(0) + smooth) / (p_.sum(0) + t_.sum(0) + smooth)

    pooled = metrics.pooled(sums, valid=valid)
    np.testing.assert_allclose(metrics.soft_dice_score(pooled), score(valid, 1.0), rtol=1e-6)
    np.testing.assert_allclose(
        metrics.soft_dice_score(pooled, smooth=0.0), score(valid, 0.0), rtol=1e-6
    )
    for image in range(4):
        one = metrics.soft_dice_score(sums)[image]
        np.testing.assert_allclose(one, score(np.arange(4) == image, 1.0), rtol=1e-6)


def test_soft_dice_of_certain_logits_is_the_dice_of_their_labels():
    predicted, actual = np.random.default_rng(0).integers(0, 2, (2, 4, 8, 8), dtype=np.int32)
    sums = soft_dice_sums(np.where(predicted == 1, 1e4, -1e4)[..., None], actual)
    counts = count(predicted, actual, num_classes=1)
    np.testing.assert_allclose(
        metrics.soft_dice_score(sums, smooth=0.0), metrics.dice(counts), rtol=1e-6
    )


def test_soft_dice_of_nothing_is_one_smoothed_and_nan_unsmoothed():
    sums = soft_dice_sums(
        np.zeros((1, 2, 2, 1), np.float32),
        np.zeros((1, 2, 2), np.int32),
        where=np.zeros((1, 2, 2), bool),
    )
    assert metrics.soft_dice_score(sums).tolist() == [[1.0]]
    assert np.isnan(metrics.soft_dice_score(sums, smooth=0.0)).all()


@pytest.mark.slow
def test_soft_dice_of_a_large_image_keeps_six_digits():
    logits = np.full((1, 2048, 2048, 1), -2.1972246, np.float32)
    labels = np.zeros((1, 2048, 2048), np.uint8)
    labels[:, ::3] = 1
    sums = soft_dice_sums(logits, labels)
    p, t = 0.1 * 2048**2, labels.sum(dtype=np.int64)
    np.testing.assert_allclose(
        metrics.soft_dice_score(sums), [[(0.2 * t + 1) / (p + t + 1)]], rtol=1e-6
    )


def test_soft_dice_over_eight_devices_is_that_of_one():
    random = np.random.default_rng(2)
    logits = random.normal(size=(8, 8, 8, 3)).astype(np.float32)
    labels = random.integers(0, 3, (8, 8, 8), dtype=np.int32)
    mesh = jax.make_mesh((8,), ("data",))
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    sums = soft_dice_sums(*jax.device_put((logits, labels), sharding))
    jax.tree.map(
        lambda one, two: np.testing.assert_allclose(one, two, rtol=1e-6),
        sums,
        soft_dice_sums(logits, labels),
    )


def test_a_soft_dice_label_outside_the_classes_makes_that_image_nan():
    logits = np.zeros((2, 4, 4, 1), np.float32)
    labels = np.zeros((2, 4, 4), np.int32)
    labels[1, 0, 0] = 255
    scores = metrics.soft_dice_score(soft_dice_sums(logits, labels))
    np.testing.assert_array_equal(np.isnan(scores[:, 0]), [False, True])
