"""Scores of objects against MONAI, a search over all matchings, and cases computed by hand."""

import itertools

import jax
import numpy as np
import pytest

from jaxseg import metrics

THRESHOLDS = [0.0, 0.1, 0.3, 0.5, 0.7]
SCORES = [
    metrics.panoptic_quality,
    metrics.segmentation_quality,
    metrics.object_f1,
    metrics.object_precision,
    metrics.object_recall,
    metrics.object_dice,
]


def random_ids(seed, size=(14, 15), objects=5):
    """Overlapping rectangles with ids that have gaps, and the same moved a little."""
    random = np.random.default_rng(seed)
    predicted, actual = (np.zeros(size, np.int32) for _ in range(2))
    for n in range(objects):
        top, left, height, width = random.integers([0, 0, 2, 2], [9, 9, 8, 8])
        actual[top : top + height, left : left + width] = 3 * n + 2
        down, right = random.integers(0, 3, 2)
        predicted[top + down : top + height, left + right : left + width + 1] = 40 - 2 * n
    return predicted, actual


def sets_of_pixels(ids):
    return [{*map(tuple, np.argwhere(ids == i).tolist())} for i in np.unique(ids) if i]


def ious_of_sets(predicted, actual):
    """IoU of every actual with every predicted object, from Python sets of pixels."""
    p, a = sets_of_pixels(predicted), sets_of_pixels(actual)
    return np.array([[len(x & y) / len(x | y) for y in p] for x in a]).reshape(len(a), len(p))


def largest_sum(ious, threshold):
    """The largest sum of IoU above the threshold over all one-to-one matchings."""
    gain = np.where(ious > threshold, ious, 0.0)
    gain = gain if gain.shape[0] <= gain.shape[1] else gain.T
    columns = itertools.permutations(range(gain.shape[1]), gain.shape[0])
    return max(sum(gain[i, j] for i, j in enumerate(order)) for order in columns)


@pytest.mark.parametrize("threshold", THRESHOLDS)
@pytest.mark.parametrize("seed", range(8))
def test_matches_have_the_largest_sum_of_iou_of_all_matchings(seed, threshold):
    predicted, actual = random_ids(seed)
    ious = ious_of_sets(predicted, actual)
    found = metrics.match_objects(predicted, actual, iou_threshold=threshold)
    assert (len(found.match), found.num_predicted) == ious.shape
    matched = found.match >= 0
    assert len({*found.match[matched]}) == matched.sum(), "each predicted object at most once"
    np.testing.assert_allclose(found.iou[matched], ious[matched, found.match[matched]])
    assert (found.iou[matched] > threshold).all()
    assert not found.iou[~matched].any()
    np.testing.assert_allclose(found.iou.sum(), largest_sum(ious, threshold))
    pairs = zip(np.flatnonzero(matched), found.match[matched], strict=True)
    p, a = sets_of_pixels(predicted), sets_of_pixels(actual)
    dice = [2 * len(a[i] & p[j]) / (len(a[i]) + len(p[j])) for i, j in pairs]
    np.testing.assert_allclose(found.dice[matched], dice)


def test_random_objects_match_in_part():
    matched = [metrics.match_objects(*random_ids(seed)).match >= 0 for seed in range(8)]
    assert 0.2 < np.concatenate(matched).mean() < 0.8


@pytest.mark.parametrize("threshold", [0.5, 0.6, 0.8])
@pytest.mark.parametrize("seed", range(4))
def test_counts_and_qualities_are_monais(seed, threshold):
    torch = pytest.importorskip("torch", reason="it is not installed")
    monai = pytest.importorskip("monai.metrics.panoptic_quality", reason="it is not installed")
    predicted, actual = random_ids(seed, size=(40, 40), objects=9)
    counts = metrics.match_objects(predicted, actual, iou_threshold=threshold).counts
    tensors = torch.tensor(predicted), torch.tensor(actual)
    options = {"match_iou_threshold": threshold}
    theirs = monai.compute_panoptic_quality(*tensors, **options, output_confusion_matrix=True)
    np.testing.assert_allclose([counts.tp, counts.fp, counts.fn, counts.iou], theirs, rtol=1e-6)
    for name, score in (
        ("pq", metrics.panoptic_quality),
        ("sq", metrics.segmentation_quality),
        ("rq", metrics.object_f1),
    ):
        quality = monai.compute_panoptic_quality(*tensors, name, **options)
        np.testing.assert_allclose(score(counts, undefined=0.0), quality, atol=1e-5)


def test_below_one_half_monai_may_choose_a_smaller_sum():
    torch = pytest.importorskip("torch", reason="it is not installed")
    monai = pytest.importorskip("monai.metrics.panoptic_quality", reason="it is not installed")
    actual = np.array([[1] * 10 + [2] * 8 + [0] * 6])
    predicted = np.array([[1] * 6 + [2] * 4 + [1] * 5 + [0] * 3 + [2] * 6])
    np.testing.assert_allclose(ious_of_sets(predicted, actual), [[6 / 15, 4 / 16], [5 / 14, 0]])
    found = metrics.match_objects(predicted, actual, iou_threshold=0.3)
    assert found.iou.tolist() == [0.4, 0]
    theirs = monai.compute_panoptic_quality(
        torch.tensor(predicted), torch.tensor(actual),
        match_iou_threshold=0.3, output_confusion_matrix=True,
    )  # fmt: skip
    np.testing.assert_allclose(theirs[3], 5 / 14, rtol=1e-6)


def three_objects(touching=False):
    """IoU 3/4, and 1/2, which is not above one half; and one object more in each mask."""
    actual, predicted = (np.zeros((7, 9), bool) for _ in range(2))
    actual[0, :4], predicted[0, :3] = True, True
    actual[3, :2], predicted[3, :1] = True, True
    actual[6, 0] = predicted[6, 8] = True
    if touching:
        actual[1, 4], predicted[1, 4] = True, True  # Joined over a corner, actual only.
    return predicted, actual


def test_a_case_by_hand():
    found = metrics.match_objects(*three_objects())
    assert found.match.tolist() == [0, -1, -1]
    assert found.iou.tolist() == [0.75, 0, 0]
    np.testing.assert_allclose(found.dice, [6 / 7, 0, 0])
    counts = found.counts
    assert (counts.tp, counts.fp, counts.fn) == (1, 2, 2)
    values = [float(score(counts)) for score in SCORES]
    np.testing.assert_allclose(values, [0.25, 0.75, 1 / 3, 1 / 3, 1 / 3, 6 / 7 / 5])
    lower = metrics.match_objects(*three_objects(), iou_threshold=0.49).counts
    values = [float(score(lower)) for score in SCORES]
    np.testing.assert_allclose(
        values, [1.25 / 3, 0.625, 2 / 3, 2 / 3, 2 / 3, (6 / 7 + 2 / 3) / 4], rtol=1e-6
    )


def test_components_are_connected_over_corners():
    predicted, actual = three_objects(touching=True)
    found = metrics.match_objects(predicted, actual)
    assert (len(found.match), found.num_predicted) == (3, 4)
    np.testing.assert_allclose(found.iou, [3 / 5, 0, 0])


def test_counts_of_images_and_classes_are_those_of_their_masks():
    random = np.random.default_rng(0)
    predicted, actual = random.integers(0, 3, (2, 4, 3, 4, 2)).repeat(3, -1).repeat(2, -2)
    counts = metrics.count_objects(predicted, actual, num_classes=3, iou_threshold=0.2)
    assert counts.tp.shape == (4, 3)
    for b, k in np.ndindex(4, 3):
        single = metrics.match_objects(predicted[b] == k, actual[b] == k, iou_threshold=0.2)
        jax.tree.map(
            lambda many, one, at=(b, k): np.testing.assert_allclose(many[at], one),
            counts,
            single.counts,
        )
    binary = metrics.count_objects(predicted == 1, actual == 1, num_classes=1, iou_threshold=0.2)
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x, y[:, 1:2]), binary, counts)
    pooled = metrics.pooled(counts)
    assert pooled.tp.dtype == np.int64
    expected = counts.iou.sum(0) / (counts.tp + (counts.fp + counts.fn) / 2).sum(0)
    np.testing.assert_allclose(metrics.panoptic_quality(pooled), expected)
    assert ((expected > 0.05) & (expected < 0.9)).all()


def test_invalid_pixels_are_in_no_object_and_labels_outside_make_scores_nan():
    predicted, actual = (mask[None].astype(np.int32) for mask in three_objects())
    where = np.ones(actual.shape, bool)
    where[:, 0, 3], where[:, 6] = False, False
    counts = metrics.count_objects(predicted, actual, num_classes=1, where=where)
    assert (counts.tp, counts.fp, counts.fn, counts.iou, counts.outside) == (1, 1, 1, 1, 0)
    predicted[0, 6, 4] = -1
    clean = metrics.count_objects(predicted, actual, num_classes=1, where=where)
    jax.tree.map(np.testing.assert_array_equal, clean, counts)
    spoiled = metrics.count_objects(predicted, actual, num_classes=1)
    assert spoiled.outside == 1
    assert all(np.isnan(score(spoiled, undefined=1.0)) for score in SCORES)


def test_masks_without_an_object_are_undefined():
    empty, full = np.zeros((1, 5, 6), np.int32), np.ones((1, 5, 6), np.int32)
    cases = {
        "both empty": (empty, empty, [np.nan] * 6),
        "missed": (empty, full, [0, np.nan, 0, np.nan, 0, 0]),
        "false": (full, empty, [0, np.nan, 0, 0, np.nan, 0]),
        "perfect": (full, full, [1] * 6),
    }
    for name, (predicted, actual, expected) in cases.items():
        counts = metrics.count_objects(predicted, actual, num_classes=1, iou_threshold=0.1)
        values = [score(counts) for score in SCORES]
        np.testing.assert_array_equal(np.ravel(values), expected, err_msg=name)
        filled = np.ravel([score(counts, undefined=0.5) for score in SCORES])
        np.testing.assert_array_equal(filled, np.nan_to_num(np.array(expected, float), nan=0.5))
    none = metrics.count_objects(empty[:0], full[:0], num_classes=2)
    assert none.tp.shape == (0, 2)


def test_volumes_have_objects_too():
    predicted, actual = (np.zeros((4, 4, 4), bool) for _ in range(2))
    actual[0, 0, 0] = actual[1, 1, 1] = predicted[0, 0, 0] = predicted[1, 1, 1] = True
    actual[3, 3, 3] = True
    assert metrics.match_objects(predicted, actual).iou.tolist() == [1, 0]


@pytest.mark.usefixtures("unchecked_types")
def test_invalid_arguments_are_named():
    mask = np.zeros((3, 4), bool)
    for threshold in (-0.1, 1.0, np.nan):
        with pytest.raises(ValueError, match="iou_threshold must be in"):
            metrics.match_objects(mask, mask, iou_threshold=threshold)
    with pytest.raises(ValueError, match="actual has shape"):
        metrics.match_objects(mask, mask[:2])
    with pytest.raises(TypeError, match="predicted must be bool or integer"):
        metrics.match_objects(mask.astype(np.float32), mask)
    with pytest.raises(ValueError, match="actual has the id -1"):
        metrics.match_objects(mask, mask.astype(np.int32) - 1)
    with pytest.raises(ValueError, match="actual has shape"):
        metrics.count_objects(mask[None], mask[None, :2], num_classes=1)
