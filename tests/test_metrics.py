"""Counts, ratios, confusion matrices and means, against Python sets of pixels."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from jax.sharding import NamedSharding, PartitionSpec

from jaxseg import metrics

RATIOS = {
    "dice": metrics.dice,
    "iou": metrics.iou,
    "precision": metrics.precision,
    "recall": metrics.recall,
    "specificity": metrics.specificity,
    "accuracy": metrics.accuracy,
    "pixel_accuracy": metrics.pixel_accuracy,
    "f_beta": lambda counts, **kwargs: metrics.f_beta(counts, beta=2.0, **kwargs),
    "matthews": metrics.matthews,
    "negative_predictive_value": metrics.negative_predictive_value,
    "balanced_accuracy": metrics.balanced_accuracy,
    "mean_iou": metrics.mean_iou,
    "cohen_kappa": metrics.cohen_kappa,
    "multiclass_matthews": metrics.multiclass_matthews,
    "generalized_dice": metrics.generalized_dice,
}
SIGNED = {"matthews", "multiclass_matthews", "cohen_kappa"}
SHAPE = (3, 4, 5)
few = settings(max_examples=10)


def label_arrays(num_classes, shape=SHAPE):
    return hnp.arrays(np.int32, shape, elements=st.integers(0, max(num_classes, 2) - 1))


masks = hnp.arrays(np.bool_, SHAPE)
count_on_device = jax.jit(metrics.count, static_argnames=("num_classes", "multilabel"))
matrix_on_device = jax.jit(metrics.confusion_matrix, static_argnames="num_classes")
ratios_on_device = jax.jit(lambda counts: {name: ratio(counts) for name, ratio in RATIOS.items()})


def count(*arrays, **options):
    """NumPy arrays, which spare compiling every score for every shape."""
    return jax.device_get(count_on_device(*arrays, **options))


def confusion_matrix(*arrays, **options):
    return jax.device_get(matrix_on_device(*arrays, **options))


def pixels_of(labels, label, where):
    return {pixel for pixel, at in np.ndenumerate(labels) if at == label and where[pixel]}


def counts_of_sets(predicted, actual, where, num_classes):
    """tp, fp, fn, tn of one image from Python sets of pixels, as float64 ``[4, K]``."""
    everything = {pixel for pixel, counted in np.ndenumerate(where) if counted}
    rows = []
    for label in [1] if num_classes == 1 else range(num_classes):
        p, a = pixels_of(predicted, label, where), pixels_of(actual, label, where)
        rows.append([len(p & a), len(p - a), len(a - p), len(everything - p - a)])
    return np.array(rows, np.float64).T


def scores_of_all_classes(predicted, actual):
    """Scores of one image from the pixels' one-hot labels, background included."""
    classes = range(max(predicted.max(), actual.max()) + 1)
    p, a = ([labels.ravel() == k for k in classes] for labels in (predicted, actual))
    occurring = [k for k in classes if a[k].any()]
    in_either = [k for k in classes if (a[k] | p[k]).any()]
    right, chance = (
        np.mean(predicted == actual),
        sum(np.mean(x) * np.mean(y) for x, y in zip(p, a, strict=True)),
    )
    weights = [1 / max(x.sum(), min(a[k].sum() for k in occurring)) ** 2 for x in a]
    weights = [1 / x.sum() ** 2 if x.any() else max(weights) for x in a]
    return {
        "balanced_accuracy": np.mean([p[k][a[k]].mean() for k in occurring]),
        "mean_iou": np.mean([(p[k] & a[k]).sum() / (p[k] | a[k]).sum() for k in in_either]),
        "cohen_kappa": (right - chance) / (1 - chance),
        "multiclass_matthews": sum(np.cov(x, y)[0, 1] for x, y in zip(p, a, strict=True))
        / np.sqrt(sum(np.cov(x, x)[0, 1] for x in p) * sum(np.cov(y, y)[0, 1] for y in a)),
        "generalized_dice": 2
        * sum(w * (x & y).sum() for w, x, y in zip(weights, p, a, strict=True))
        / sum(w * (x.sum() + y.sum()) for w, x, y in zip(weights, p, a, strict=True)),
    }


def as_counts(tp, fp, fn, tn, outside=0):
    """Counts of one image and one class."""
    return metrics.Counts(*(np.array([[n]], np.int32) for n in (tp, fp, fn, tn, outside)))


def random_labels(num_classes, shape=(8, 16, 16), seed=0):
    random = np.random.default_rng(seed)
    return (random.integers(0, max(num_classes, 2), shape, dtype=np.int32) for _ in range(2))


def rows_of(tree, rows):
    return jax.tree.map(lambda leaf: leaf[rows], tree)


def assert_trees_equal(one, two):
    jax.tree.map(np.testing.assert_array_equal, one, two)


@pytest.mark.parametrize("num_classes", [1, 3])
@given(data=st.data())
@few
def test_counts_are_those_of_sets_of_pixels(num_classes, data):
    predicted, actual = (data.draw(label_arrays(num_classes)) for _ in range(2))
    where = data.draw(masks)
    counts = count(predicted, actual, num_classes=num_classes, where=where)
    found = np.stack([counts.tp, counts.fp, counts.fn, counts.tn])
    for image in range(SHAPE[0]):
        expected = counts_of_sets(predicted[image], actual[image], where[image], num_classes)
        np.testing.assert_array_equal(found[:, image], expected)
    np.testing.assert_array_equal(found.sum(axis=0) - where.sum((1, 2))[:, None], 0)
    assert counts.tp.dtype == jnp.int32


@given(data=st.data())
@few
def test_multilabel_counts_are_the_binary_counts_of_each_channel(data):
    shape = (3, 4, 5, 2)
    predicted, actual = (data.draw(label_arrays(1, shape)) for _ in range(2))
    where = data.draw(masks)
    counts = count(predicted, actual, num_classes=2, multilabel=True, where=where)
    for channel in range(2):
        one = count(predicted[..., channel], actual[..., channel], num_classes=1, where=where)
        assert_trees_equal(rows_of(counts, (slice(None), slice(channel, channel + 1))), one)


def test_a_multilabel_value_outside_makes_that_channel_nan_and_no_other():
    predicted, actual = np.random.default_rng(0).integers(0, 2, (2, 3, 8, 8, 2), dtype=np.int32)
    actual[1, 2, 3, 0] = 255
    counts = count(predicted, actual, num_classes=2, multilabel=True)
    assert counts.outside.tolist() == [[0, 0], [1, 0], [0, 0]]
    undefined = [[False, False], [True, False], [False, False]]
    assert np.isnan(metrics.dice(counts)).tolist() == undefined


@pytest.mark.parametrize("num_classes", [1, 3])
@given(data=st.data())
@few
def test_ratios_are_their_textbook_formulas(num_classes, data):
    predicted, actual = (data.draw(label_arrays(num_classes)) for _ in range(2))
    counts = count(predicted, actual, num_classes=num_classes)
    everywhere = np.ones(SHAPE[1:], bool)
    images = zip(predicted, actual, strict=True)
    cells = [counts_of_sets(p, a, everywhere, num_classes) for p, a in images]
    tp, fp, fn, tn = np.stack(cells, axis=1)
    with np.errstate(invalid="ignore"):
        precision, recall = tp / (tp + fp), tp / (tp + fn)
        expected = {
            "dice": 2 * tp / ((tp + fp) + (tp + fn)),
            "iou": tp / (tp + fp + fn),
            "precision": precision,
            "recall": recall,
            "specificity": tn / (tn + fp),
            "accuracy": (tp + tn) / 20,
            "pixel_accuracy": (predicted == actual).mean((1, 2)),
            "f_beta": 5 * tp / (5 * tp + 4 * fn + fp),
            "matthews": (tp * tn - fp * fn)
            / np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)),
            "negative_predictive_value": tn / (tn + fn),
        }
        scores = [scores_of_all_classes(*pair) for pair in zip(predicted, actual, strict=True)]
        expected |= {name: np.array([row[name] for row in scores]) for name in scores[0]}
    on_device = ratios_on_device(counts)
    for name, ratio in RATIOS.items():
        np.testing.assert_allclose(on_device[name], expected[name], rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(ratio(counts), expected[name], rtol=1e-12, atol=1e-12)


@given(predicted=masks, actual=masks)
@few
def test_ratios_keep_their_bounds_and_dice_and_iou_agree(predicted, actual):
    counts = count(predicted, actual, num_classes=1)
    for name, ratio in RATIOS.items():
        value = np.asarray(ratio(counts, undefined=0.0))
        assert (value <= 1).all()
        assert (value >= (-1 if name in SIGNED else 0)).all()
    iou = metrics.iou(counts)
    np.testing.assert_allclose(metrics.dice(counts), 2 * iou / (1 + iou), rtol=1e-6)


@given(predicted=masks, actual=masks)
@few
def test_swapping_the_masks_swaps_precision_and_recall_and_leaves_dice(predicted, actual):
    counts = count(predicted, actual, num_classes=1)
    swapped = count(actual, predicted, num_classes=1)
    names = "dice", "iou", "accuracy", "matthews", "mean_iou", "multiclass_matthews", "cohen_kappa"
    for symmetric in (RATIOS[name] for name in names):
        np.testing.assert_array_equal(symmetric(counts), symmetric(swapped))
    np.testing.assert_array_equal(metrics.precision(counts), metrics.recall(swapped))


@given(data=st.data())
@few
def test_the_order_of_pixels_does_not_matter(data):
    predicted, actual = (data.draw(label_arrays(3)) for _ in range(2))
    order = np.array(data.draw(st.permutations(range(20))))
    shuffled = (
        labels.reshape(SHAPE[0], -1)[:, order].reshape(SHAPE) for labels in (predicted, actual)
    )
    assert_trees_equal(count(predicted, actual, num_classes=3), count(*shuffled, num_classes=3))


def test_where_equals_cropping_and_hides_any_label():
    predicted, actual = random_labels(4)
    where = np.zeros(predicted.shape, bool)
    where[:, 3:11, 5:14] = True
    hidden = np.where(where, actual, np.resize([255, -1, 7], actual.shape))
    masked = count(np.where(where, predicted, -7), hidden, num_classes=4, where=where)
    cropped = count(predicted[:, 3:11, 5:14], actual[:, 3:11, 5:14], num_classes=4)
    assert_trees_equal(masked, cropped)


def test_a_batch_equals_a_loop_over_its_images():
    predicted, actual = random_labels(4)
    together = count(predicted, actual, num_classes=4)
    for image in range(len(predicted)):
        rows = slice(image, image + 1)
        alone = count(predicted[rows], actual[rows], num_classes=4)
        assert_trees_equal(rows_of(together, rows), alone)


def test_eight_devices_count_what_one_counts_and_exchange_nothing():
    labels = tuple(random_labels(4))
    mesh = jax.make_mesh((8,), ("data",))
    sharded = jax.device_put(labels, NamedSharding(mesh, PartitionSpec("data")))
    program = count_on_device.lower(*sharded, num_classes=4).compile()
    text = program.as_text() or ""
    assert "ENTRY" in text
    assert not any(word in text for word in ("all-gather", "all-reduce", "all-to-all"))
    counts = program(*sharded)
    assert len(counts.tp.sharding.device_set) == 8
    assert_trees_equal(counts, count(*labels, num_classes=4))


@pytest.mark.parametrize(
    ("dtype", "num_classes"), [(np.uint8, 4), (np.int8, 4), (np.uint32, 4), (bool, 1)]
)
def test_the_dtype_of_labels_does_not_matter(dtype, num_classes):
    predicted, actual = random_labels(num_classes)
    assert_trees_equal(
        count(predicted.astype(dtype), actual, num_classes=num_classes),
        count(predicted, actual, num_classes=num_classes),
    )


@pytest.mark.parametrize("shape", [(8, 256), (8, 2, 4, 4, 8)])
def test_any_number_of_spatial_axes_counts_as_two(shape):
    predicted, actual = random_labels(3)
    where = np.random.default_rng(1).random(actual.shape) < 0.7
    arrays = predicted, actual, where
    for function in (count, confusion_matrix):
        two, other = (
            function(p, a, num_classes=3, where=w)
            for p, a, w in (arrays, (x.reshape(shape) for x in arrays))
        )
        assert_trees_equal(two, other)


def test_more_classes_than_the_label_dtype_holds_are_counted():
    labels = np.full((1, 2, 2), 255, np.uint8)
    counts = count(labels, labels, num_classes=300)
    assert counts.tp.shape == (1, 300)
    assert np.flatnonzero(counts.tp[0]).tolist() == [255]


def test_64_bit_labels_outside_do_not_wrap_into_a_class():
    with jax.enable_x64(True):
        actual = np.zeros((1, 2, 2), np.int64)
        actual[0, 0, 0] = 2**32 + 1
        counts = count(np.ones_like(actual), actual, num_classes=2)
        assert counts.outside.tolist() == [[1, 1]]
        assert counts.tp.dtype == jnp.int32


@pytest.mark.slow
def test_a_large_mask_loses_no_pixel():
    side = 4096
    actual = np.zeros((1, side, side), np.uint8)
    actual[:, ::2] = 1
    predicted = np.ones_like(actual)
    predicted[0, 0, 0] = 0
    counts = count(predicted, actual, num_classes=1)
    half = side * side // 2
    found = [int(x[0, 0]) for x in (counts.tp, counts.fp, counts.fn, counts.tn)]
    assert found == [half - 1, half, 1, 0]
    np.testing.assert_allclose(metrics.dice(counts), [[2 * (half - 1) / (3 * half - 1)]], rtol=2e-7)


@pytest.mark.parametrize("which", ["predicted", "actual"])
@pytest.mark.parametrize(("num_classes", "stray"), [(1, 2), (1, -1), (3, 3), (3, 255), (3, -1)])
def test_a_label_outside_the_classes_makes_that_image_nan_and_no_other(which, num_classes, stray):
    labels = dict(zip(("predicted", "actual"), random_labels(num_classes), strict=True))
    before = count(**labels, num_classes=num_classes)
    labels[which][5, 2, 3] = stray
    counts = count(**labels, num_classes=num_classes)
    assert np.isnan(ratios_on_device(counts)["dice"][5]).all()
    np.testing.assert_array_equal(counts.outside[:, 0], np.arange(8) == 5)
    np.testing.assert_array_equal(
        counts.tp + counts.fp + counts.fn + counts.tn + counts.outside, 256
    )
    where = np.ones((8, 16, 16), bool)
    where[5, 2, 3] = False
    known = count(**labels, num_classes=num_classes, where=where)
    for cell in ("tp", "fp", "fn", "tn"):
        np.testing.assert_array_equal(getattr(counts, cell), getattr(known, cell))
    others = np.arange(8) != 5
    for ratio in RATIOS.values():
        assert np.isnan(ratio(counts, undefined=0.0)[5]).all()
        np.testing.assert_array_equal(ratio(counts)[others], ratio(before)[others])
        assert np.isnan(ratio(metrics.pooled(counts), undefined=0.0)).all()


UNDEFINED = {  # by (tp, fp, fn, tn): the ratios without a denominator
    (0, 0, 0, 9): {"dice", "iou", "precision", "recall", "f_beta"} | SIGNED,
    (0, 0, 4, 5): {"precision", "matthews", "multiclass_matthews"},
    (0, 4, 0, 5): {"recall", "matthews", "multiclass_matthews"},
    (9, 0, 0, 0): {"specificity", "negative_predictive_value"} | SIGNED,
    (0, 0, 0, 0): set(RATIOS),
}


@pytest.mark.parametrize("cells", UNDEFINED, ids=str)
def test_a_ratio_without_a_denominator_is_what_is_asked_for(cells):
    counts = as_counts(*cells)
    on_device = ratios_on_device(counts)
    for name, ratio in RATIOS.items():
        undefined = name in UNDEFINED[cells]
        assert np.isnan(on_device[name]).all() == undefined
        for where in (counts, metrics.pooled(counts)):
            assert np.isnan(ratio(where)).all() == undefined
            assert (np.asarray(ratio(where, undefined=-3.0)) == -3.0).all() == undefined
    dice = metrics.dice(jax.tree.map(jnp.asarray, counts), undefined=-3.0)
    assert (dice == -3.0).all() == ("dice" in UNDEFINED[cells])


def test_binary_counts_have_the_agreement_of_two_classes():
    predicted, actual = random_labels(1)
    one, two = (count(predicted, actual, num_classes=k) for k in (1, 2))
    for name in ("balanced_accuracy", "mean_iou", "cohen_kappa", "generalized_dice"):
        np.testing.assert_allclose(RATIOS[name](one), RATIOS[name](two), rtol=1e-6)
    np.testing.assert_allclose(metrics.matthews(two)[:, 1], metrics.multiclass_matthews(one), 1e-5)


def test_generalized_dice_of_multilabel_counts_is_of_the_foregrounds_only():
    """An empty channel has the weight of the smallest other one; all empty is undefined."""
    actual = np.zeros((3, 4, 4, 3), np.int32)
    actual[:2, :2, :, 0], actual[:2, 0, :2, 1] = 1, 1
    predicted = actual.copy()
    predicted[1, 3, 3, 2] = predicted[1, 2, 3, 0] = 1
    counts = count(predicted, actual, num_classes=3, multilabel=True)
    right = 2 * (8 / 8**2 + 2 / 2**2)
    expected = [1, right / (right + 1 / 8**2 + 1 / 2**2), np.nan]
    np.testing.assert_allclose(metrics.generalized_dice(counts), expected, rtol=1e-6)


def test_scores_of_nearly_perfect_masks_keep_their_digits():
    """Of four million pixels 100 are foreground, and one of those is missed."""
    n = 2**22
    counts = as_counts(99, 0, 1, n - 100)
    exact, on_device = metrics.pooled(counts), ratios_on_device(counts)
    for name in ("cohen_kappa", "multiclass_matthews", "generalized_dice", "mean_iou"):
        np.testing.assert_allclose(on_device[name], [RATIOS[name](exact)], rtol=1e-6)
    observed, chance = 1 / n, 2 * 99.5 / n  # up to a part in a million
    np.testing.assert_allclose(metrics.cohen_kappa(exact), 1 - observed / chance, rtol=1e-4)


def line_masks(seed, shape):
    """Rows of pixels that touch no other row, so that each mask is its own skeleton."""
    mask, apart = np.zeros(shape, bool), (np.s_[:], *[np.s_[::2]] * (len(shape) - 2))
    mask[apart] = np.random.default_rng(seed).random((*mask[apart].shape[:-1], 1)) < 0.7
    return mask


@pytest.mark.parametrize("shape", [(4, 20, 24), (2, 5, 20, 24)])
def test_the_cl_dice_of_lines_is_their_dice(shape):
    predicted, actual = line_masks(0, shape), line_masks(1, shape)
    predicted[..., 15:] = actual[..., :3] = False
    found = metrics.cl_dice(jnp.asarray(predicted), actual)
    dice = metrics.dice(count(predicted, actual, num_classes=1))
    np.testing.assert_allclose(found, dice[:, 0], rtol=1e-6)
    assert found.dtype == np.float64


def test_cl_dice_forgives_width_but_not_gaps():
    thin, thick = np.zeros((2, 2, 15, 30), bool)
    thick[:, 6:9, 1:-1], thin[:, 7, 3:-3] = True, True
    np.testing.assert_array_equal(metrics.cl_dice(thin, thick)[:1] > 0.9, True)
    thin[1, :, 10:20] = False
    assert metrics.cl_dice(thin, thick)[1] < 0.8
    shifted = np.roll(thin, 4, axis=1)
    np.testing.assert_array_equal(metrics.cl_dice(shifted, thick), 0)


def test_cl_dice_of_empty_masks_and_of_invalid_pixels():
    line, empty = np.zeros((2, 1, 8, 12), bool)
    line[:, 3] = True
    assert np.isnan(metrics.cl_dice(empty, empty)).all()
    for masks in ((line, empty), (empty, line)):
        np.testing.assert_array_equal(metrics.cl_dice(*masks), 0)
    left = np.broadcast_to(np.arange(12) < 6, line.shape)
    half = line & left
    assert metrics.cl_dice(half, line)[0] < 1
    np.testing.assert_array_equal(metrics.cl_dice(half, line, where=left), 1)
    assert np.isnan(metrics.cl_dice(half, line, where=~left & ~line)).all()


def test_an_image_that_is_masked_out_counts_nothing():
    predicted, actual = random_labels(1)
    counts = count(predicted, actual, num_classes=1, where=np.zeros(predicted.shape, bool))
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(counts))


def test_pooling_is_exact_where_int32_and_float32_would_not_be():
    tp, fp, fn, tn = (np.full((4, 1), 2**30 + cell, np.int32) for cell in range(4))
    counts = metrics.Counts(tp, fp, fn, tn, outside=np.zeros((4, 1), np.int32))
    total = metrics.pooled(counts)
    assert total.tp.dtype == np.int64
    assert total.tn.tolist() == [2**32 + 12]
    exact = 2 * 2**32 / (2 * 2**32 + (2**32 + 4) + (2**32 + 8))
    assert metrics.dice(total)[0] == exact
    assert -1 <= metrics.matthews(total)[0] <= 1
    on_device = jax.tree.map(jnp.asarray, counts)
    np.testing.assert_allclose(metrics.dice(on_device), exact, rtol=1e-6)
    np.testing.assert_allclose(metrics.matthews(on_device)[0], metrics.matthews(total), atol=1e-6)


def test_pooled_batches_add_up_to_the_pooled_set_and_padding_is_dropped():
    predicted, actual = random_labels(3)
    counts = count(predicted, actual, num_classes=3)
    valid = np.array([True] * 5 + [False] * 3)
    first = metrics.pooled(counts, valid=valid)
    both = jax.tree.map(np.add, first, metrics.pooled(counts, valid=~valid))
    assert_trees_equal(both, metrics.pooled(counts))
    assert_trees_equal(first, metrics.pooled(rows_of(counts, slice(5))))


def test_a_pooled_ratio_is_that_of_one_image_made_of_all_images():
    predicted, actual = random_labels(3)
    counts = metrics.pooled(count(predicted, actual, num_classes=3))
    one = count(predicted.reshape(1, -1, 16), actual.reshape(1, -1, 16), num_classes=3)
    for ratio in RATIOS.values():
        np.testing.assert_allclose(ratio(counts), ratio(one)[0], rtol=1e-6, atol=1e-7)


@given(data=st.data())
@few
def test_a_confusion_matrix_counts_pairs_of_labels_and_leaves_out_labels_outside(data):
    predicted, actual = (data.draw(label_arrays(4)) for _ in range(2))  # 3 is no class.
    where = data.draw(masks)
    matrix = confusion_matrix(predicted, actual, num_classes=3, where=where)
    expected = np.zeros((3, 4, 4), int)
    for pixel in zip(*np.nonzero(where), strict=True):
        expected[pixel[0], actual[pixel], predicted[pixel]] += 1
    np.testing.assert_array_equal(matrix, expected[:, :3, :3])
    assert matrix.dtype == jnp.int32
    counts = count(predicted, actual, num_classes=3, where=where)
    np.testing.assert_array_equal(counts.tp, np.diagonal(matrix, axis1=1, axis2=2))
    np.testing.assert_array_equal(counts.fp + counts.tp, matrix.sum(axis=1))
    np.testing.assert_array_equal(counts.fn + counts.tp, matrix.sum(axis=2))
    np.testing.assert_array_equal(matrix.sum((1, 2)) + counts.outside[:, 0], where.sum((1, 2)))


def test_the_confusion_matrix_of_binary_labels_has_two_classes():
    predicted, actual = random_labels(1)
    matrix = confusion_matrix(predicted, actual, num_classes=1)
    counts = count(predicted, actual, num_classes=1)
    cells = np.concatenate([counts.tn, counts.fp, counts.fn, counts.tp], axis=-1)
    np.testing.assert_array_equal(matrix, cells.reshape(-1, 2, 2))
    for labels in ((predicted, actual), (predicted == 1, actual == 1)):
        two = confusion_matrix(*labels, num_classes=2)
        np.testing.assert_array_equal(matrix, two)


def test_a_pooled_confusion_matrix_is_exact_beyond_int32():
    rows = np.full((4, 2, 2), 2**30, np.int32)
    pooled = metrics.pooled(rows, valid=np.array([True, True, True, False]))
    assert pooled.dtype == np.int64
    assert pooled.tolist() == [[3 * 2**30] * 2] * 2


def test_the_mean_leaves_out_the_undefined_and_the_padding_and_reports_how_many():
    values = np.array([[0.5, np.nan], [np.nan, np.nan], [1.0, np.nan], [np.nan, 0.25]], np.float32)
    mean = metrics.mean_over_images(jnp.asarray(values), valid=np.array([True, True, True, False]))
    np.testing.assert_array_equal(mean.mean, [0.75, np.nan])
    assert mean.images.tolist() == [2, 0]
    assert mean.undefined.tolist() == [1, 3]
    flat = metrics.mean_over_images(values[:, 0])
    assert (float(flat.mean), int(flat.images), int(flat.undefined)) == (0.75, 2, 2)
    nothing = metrics.mean_over_images(np.zeros(0))
    assert math.isnan(nothing.mean)
    assert (nothing.images, nothing.undefined) == (0, 0)


@pytest.mark.parametrize("array", [np.asarray, jnp.asarray])
def test_the_mean_over_classes_leaves_out_undefined_classes(array):
    values = np.array([[0.5, np.nan, 1.0], [np.nan] * 3, [0.0, 0.25, 0.5]], np.float32)
    mean = metrics.mean_over_classes(array(values))
    assert isinstance(mean, type(array(values)))
    assert mean.dtype == np.float32
    np.testing.assert_array_equal(mean, np.array([0.75, np.nan, 0.25], np.float32))
    np.testing.assert_array_equal(metrics.mean_over_classes(array(values[2])), 0.25)


INFINITE = {"keep": [np.inf, 3.0], "exclude": [2.0, 3.0], 30.0: [16.0, 3.0]}


@pytest.mark.parametrize("infinite", INFINITE)
@pytest.mark.parametrize("array", [np.asarray, jnp.asarray])
def test_infinite_values_are_kept_left_out_or_replaced(array, infinite):
    values = np.array([[2.0, np.nan], [np.inf, 3.0]], np.float32)
    mean = metrics.mean_over_images(array(values), infinite=infinite)
    np.testing.assert_array_equal(mean.mean, INFINITE[infinite])
    left_out = int(infinite == "exclude")
    assert mean.images.tolist() == [2 - left_out, 1]
    assert mean.undefined.tolist() == [left_out, 1]
    over_classes = metrics.mean_over_classes(array(values.T), infinite=infinite)
    np.testing.assert_array_equal(over_classes, INFINITE[infinite])


def test_the_mean_of_both_infinities_is_undefined():
    values = np.array([np.inf, -np.inf, 1.0])
    assert math.isnan(metrics.mean_over_images(values).mean)
    assert math.isnan(metrics.mean_over_classes(values))
    assert metrics.mean_over_images(values, infinite="exclude").mean == 1.0


def test_counts_pass_through_transformations_as_a_pytree():
    counts = as_counts(1, 2, 3, 4)
    assert jax.tree.map(str, counts).tp == "[[1]]"
    doubled = jax.jit(lambda c: jax.tree.map(lambda x: 2 * x, c))(counts)
    assert doubled.fn.tolist() == [[6]]
