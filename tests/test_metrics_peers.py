"""Counts, ratios, means and calibration against torchmetrics, MONAI, scikit-learn and SMP."""

import functools
import importlib
import warnings
from typing import Any

import jax
import numpy as np
import pytest

from jaxseg import metrics

assert_close = functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-6)
BINARY_RATIOS = {
    "dice": metrics.dice,
    "iou": metrics.iou,
    "precision": metrics.precision,
    "recall": metrics.recall,
    "specificity": metrics.specificity,
    "accuracy": metrics.accuracy,
    "f_beta": functools.partial(metrics.f_beta, beta=0.5),
    "matthews": metrics.matthews,
    "negative_predictive_value": metrics.negative_predictive_value,
}


def compiled(function, *static):
    """Returns NumPy arrays, which spares compiling every score."""
    jitted = jax.jit(function, static_argnames=static)
    return lambda *arrays, **options: jax.device_get(jitted(*arrays, **options))


count = compiled(metrics.count, "num_classes", "multilabel")
confusion_matrix = compiled(metrics.confusion_matrix, "num_classes")
calibration_sums = compiled(metrics.calibration_sums, "bins")


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="it is not installed")


@pytest.fixture(scope="module")
def torchmetrics():
    return pytest.importorskip("torchmetrics.functional", reason="it is not installed")


@pytest.fixture(scope="module")
def monai():
    return pytest.importorskip("monai.metrics", reason="it is not installed")


@pytest.fixture(scope="module")
def sklearn():
    return pytest.importorskip("sklearn.metrics", reason="it is not installed")


def labels_of(num_classes, shape=(6, 24, 20)):
    """Predicted and actual labels that agree on about half of the pixels."""
    random = np.random.default_rng(3)
    actual = random.integers(0, max(num_classes, 2), shape)
    noise = random.integers(0, max(num_classes, 2), shape)
    return np.where(random.random(shape) < 0.5, actual, noise), actual


def masks_of_every_kind():
    """Two partly right, one perfect, one missed, one invented, one with both masks empty."""
    predicted, actual = (np.array(labels[:6]) for labels in labels_of(1))
    predicted[2] = actual[2]
    predicted[3] = 0
    actual[4] = 0
    predicted[5] = actual[5] = 0
    return predicted, actual


def one_channel(torch, labels):
    return torch.tensor(labels[:, None].astype(np.float32))


def one_hot(torch, labels, num_classes):
    channels = np.moveaxis(labels[..., None] == np.arange(num_classes), -1, 1)
    return torch.tensor(channels.astype(np.float32))


@pytest.mark.parametrize("num_classes", [1, 4])
def test_counts_are_those_of_torchmetrics_and_monai(torch, torchmetrics, monai, num_classes):
    predicted, actual = labels_of(num_classes)
    counts = count(predicted, actual, num_classes=num_classes)
    found = np.stack([counts.tp, counts.fp, counts.tn, counts.fn], axis=-1)
    both = torch.tensor(predicted), torch.tensor(actual)
    if num_classes == 1:
        theirs = torchmetrics.classification.binary_stat_scores(
            *both, multidim_average="samplewise"
        )[:, None]
        channels = [
            torch.tensor(labels[:, None].astype(np.float32)) for labels in (predicted, actual)
        ]
    else:
        theirs = torchmetrics.classification.multiclass_stat_scores(
            *both, num_classes=num_classes, average="none", multidim_average="samplewise"
        )
        channels = [one_hot(torch, labels, num_classes) for labels in (predicted, actual)]
    np.testing.assert_array_equal(found, theirs[..., :4])
    np.testing.assert_array_equal(found, monai.get_confusion_matrix(*channels))


def test_where_is_torchmetrics_ignore_index(torch, torchmetrics):
    predicted, actual = labels_of(4)
    actual[:, 5:9] = 255
    counts = count(predicted, actual, num_classes=4, where=actual != 255)
    theirs = torchmetrics.classification.multiclass_stat_scores(
        torch.tensor(predicted),
        torch.tensor(actual),
        num_classes=4,
        average="none",
        multidim_average="samplewise",
        ignore_index=255,
    )
    found = np.stack([counts.tp, counts.fp, counts.tn, counts.fn], axis=-1)
    np.testing.assert_array_equal(found, theirs[..., :4])


@pytest.mark.parametrize("shape", [(6, 24, 20), (6, 4, 5, 6)])
def test_multilabel_counts_are_those_of_torchmetrics_and_monai(torch, torchmetrics, monai, shape):
    predicted, actual = labels_of(1, shape=(*shape, 3))
    where = np.random.default_rng(0).random(shape) < 0.8
    actual[~where] = 255
    counts = count(predicted, actual, num_classes=3, multilabel=True, where=where)
    found = np.stack([counts.tp, counts.fp, counts.tn, counts.fn], axis=-1)
    both = [torch.tensor(np.moveaxis(labels, -1, 1).copy()) for labels in (predicted, actual)]
    theirs = torchmetrics.classification.multilabel_stat_scores(
        *both, num_labels=3, average="none", multidim_average="samplewise", ignore_index=255
    )
    np.testing.assert_array_equal(found, theirs[..., :4])
    counts = count(predicted, predicted[::-1], num_classes=3, multilabel=True)
    found = np.stack([counts.tp, counts.fp, counts.tn, counts.fn], axis=-1)
    theirs = monai.get_confusion_matrix(both[0].float(), both[0].flip(0).float())
    np.testing.assert_array_equal(found, theirs)


@pytest.mark.parametrize("num_classes", [1, 2, 5])
def test_confusion_matrices_are_those_of_sklearn(sklearn, num_classes):
    predicted, actual = labels_of(num_classes)
    actual[:, 5:9] = 255
    found = confusion_matrix(predicted, actual, num_classes=num_classes, where=actual != 255)
    classes = range(max(num_classes, 2))
    images = zip(actual, predicted, strict=True)
    theirs = [sklearn.confusion_matrix(a.ravel(), p.ravel(), labels=classes) for a, p in images]
    np.testing.assert_array_equal(found, theirs)
    whole = sklearn.confusion_matrix(actual.ravel(), predicted.ravel(), labels=classes)
    np.testing.assert_array_equal(metrics.pooled(found), whole)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:.*may result in nan/inf distance")
def test_monai_keeps_infinite_distances_in_its_mean_but_leaves_out_those_of_hd95(torch, monai):
    predicted, actual = np.zeros((2, 4, 1, 8, 8), np.float32)
    predicted[0, 0, 2:5, 2:5] = actual[0, 0, 3:6, 2:5] = 1
    actual[1, 0, 3:6, 2:5] = 1  # missed
    predicted[2, 0, 3:6, 2:5] = 1  # invented; the fourth has two empty masks
    masks = torch.tensor(predicted), torch.tensor(actual)
    cases: list[tuple[Any, Any]] = [
        (functools.partial(monai.SurfaceDistanceMetric, symmetric=True), "keep"),
        (monai.HausdorffDistanceMetric, "keep"),
        (functools.partial(monai.HausdorffDistanceMetric, percentile=95), "exclude"),
    ]
    for make, infinite in cases:
        metric = make(include_background=True, reduction="mean_batch")
        values = metric(*masks).numpy().copy()
        if infinite == "exclude":
            assert np.isnan(values[1:3]).all()
            values[1:3] = np.inf
        mean = metrics.mean_over_images(values, infinite=infinite)
        np.testing.assert_array_equal(mean.mean, metric.aggregate().numpy())


@pytest.mark.parametrize("name", BINARY_RATIOS)
def test_ratios_per_image_are_those_of_sklearn(sklearn, name):
    predicted, actual = masks_of_every_kind()
    counts = count(predicted, actual, num_classes=1)
    score = {
        "dice": functools.partial(sklearn.f1_score, zero_division=np.nan),
        "iou": functools.partial(sklearn.jaccard_score, zero_division=0.0),
        "precision": functools.partial(sklearn.precision_score, zero_division=np.nan),
        "recall": functools.partial(sklearn.recall_score, zero_division=np.nan),
        "specificity": functools.partial(sklearn.recall_score, pos_label=0, zero_division=np.nan),
        "accuracy": sklearn.accuracy_score,
        "f_beta": functools.partial(sklearn.fbeta_score, beta=0.5, zero_division=np.nan),
        "matthews": sklearn.matthews_corrcoef,
        "negative_predictive_value": functools.partial(
            sklearn.precision_score, pos_label=0, zero_division=np.nan
        ),
    }[name]
    # jaccard_score cannot return NaN. matthews_corrcoef is 0 without a denominator, and warns about
    # an image with one label only.
    undefined = 0.0 if name in ("iou", "matthews") else np.nan
    rows = slice(5 if name == "matthews" else 6)
    found = BINARY_RATIOS[name](counts, undefined=undefined)[rows, 0]
    images = zip(predicted[rows], actual[rows], strict=True)
    theirs = [score(a.ravel(), p.ravel()) for p, a in images]
    assert_close(found, theirs)


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("dice", "f1 score"),
        ("iou", "threat score"),
        ("precision", "precision"),
        ("recall", "recall"),
        ("specificity", "specificity"),
        ("accuracy", "accuracy"),
        ("matthews", "matthews correlation coefficient"),
        ("negative_predictive_value", "negative predictive value"),
    ],
)
@pytest.mark.parametrize("num_classes", [1, 4])
def test_ratios_are_those_of_monais_confusion_matrix(torch, monai, num_classes, name, theirs):
    predicted, actual = masks_of_every_kind() if num_classes == 1 else labels_of(num_classes)
    counts = count(predicted, actual, num_classes=num_classes)
    channels = [
        one_channel(torch, labels) if num_classes == 1 else one_hot(torch, labels, num_classes)
        for labels in (predicted, actual)
    ]
    matrix = monai.get_confusion_matrix(*channels)
    expected = monai.compute_confusion_matrix_metric(theirs, matrix)
    assert_close(BINARY_RATIOS[name](counts), expected)


@pytest.mark.parametrize(("name", "ratio"), [("dice", metrics.dice), ("iou", metrics.iou)])
def test_monai_differs_on_an_empty_actual_mask(torch, monai, name, ratio):
    predicted, actual = masks_of_every_kind()
    counts = count(predicted, actual, num_classes=1)
    channels = [one_channel(torch, labels) for labels in (predicted, actual)]
    score = {"dice": monai.compute_dice, "iou": monai.compute_iou}[name]
    kept = score(*channels, ignore_empty=False)
    assert_close(ratio(counts, undefined=1.0), kept)
    # MONAI's default leaves out every image whose actual mask is empty, also the one with an
    # invented object. Here that one scores 0, and only the image with two empty masks is left out.
    left_out = score(*channels, ignore_empty=True).numpy()[:, 0]
    assert np.isnan(left_out).tolist() == [False] * 4 + [True] * 2
    assert_close(ratio(counts)[:4, 0], left_out[:4])
    assert ratio(counts)[4, 0] == 0
    assert np.isnan(ratio(counts)[5, 0])


@pytest.mark.parametrize("num_classes", [1, 4])
def test_pooled_ratios_are_those_of_torchmetrics(torch, torchmetrics, num_classes):
    predicted, actual = labels_of(num_classes)
    counts = metrics.pooled(count(predicted, actual, num_classes=num_classes))
    both = torch.tensor(predicted), torch.tensor(actual)
    kinds = torchmetrics.classification
    if num_classes == 1:
        theirs = {
            "dice": kinds.binary_f1_score(*both),
            "iou": kinds.binary_jaccard_index(*both),
            "precision": kinds.binary_precision(*both),
            "recall": kinds.binary_recall(*both),
            "specificity": kinds.binary_specificity(*both),
            "accuracy": kinds.binary_accuracy(*both),
            "f_beta": kinds.binary_fbeta_score(*both, beta=0.5),
            "matthews": kinds.binary_matthews_corrcoef(*both),
            "negative_predictive_value": kinds.binary_negative_predictive_value(*both),
        }
    else:
        each = {"num_classes": num_classes, "average": "none"}
        theirs = {
            "dice": kinds.multiclass_f1_score(*both, **each),
            "iou": kinds.multiclass_jaccard_index(*both, **each),
            "precision": kinds.multiclass_precision(*both, **each),
            "recall": kinds.multiclass_recall(*both, **each),
            "specificity": kinds.multiclass_specificity(*both, **each),
            "f_beta": kinds.multiclass_fbeta_score(*both, beta=0.5, **each),
        }
        # torchmetrics' accuracy of a class is its recall; `accuracy` is the class against the rest.
        recall = kinds.multiclass_accuracy(*both, **each)
        assert_close(metrics.recall(counts), recall)
        right = kinds.multiclass_accuracy(*both, num_classes=num_classes, average="micro")
        assert_close(metrics.pixel_accuracy(counts), right)
    for name, expected in theirs.items():
        assert_close(BINARY_RATIOS[name](counts), expected.reshape(num_classes))


def test_torchmetrics_differs_on_empty_masks_except_in_its_segmentation_dice(torch, torchmetrics):
    predicted, actual = masks_of_every_kind()
    counts = count(predicted, actual, num_classes=1)
    both = torch.tensor(predicted), torch.tensor(actual)
    zero = torchmetrics.classification.binary_f1_score(*both, multidim_average="samplewise")
    assert_close(metrics.dice(counts, undefined=0.0)[:, 0], zero)
    segmentation = importlib.import_module("torchmetrics.functional.segmentation")
    nan = segmentation.dice_score(
        *both, num_classes=2, include_background=False, average="none", input_format="index"
    )
    assert_close(metrics.dice(counts), nan.reshape(6, 1))


def test_ratios_are_those_of_segmentation_models_pytorch(torch):
    smp = pytest.importorskip("segmentation_models_pytorch", reason="it is not installed")
    predicted, actual = labels_of(1)
    counts = count(predicted, actual, num_classes=1)
    both = [torch.tensor(labels[:, None]) for labels in (predicted, actual)]
    theirs = smp.metrics.get_stats(*both, mode="binary")
    for ours, name in (
        (metrics.dice, "f1_score"),
        (metrics.iou, "iou_score"),
        (metrics.precision, "precision"),
        (metrics.recall, "recall"),
        (metrics.specificity, "specificity"),
        (metrics.accuracy, "accuracy"),
        (metrics.negative_predictive_value, "negative_predictive_value"),
    ):
        score = getattr(smp.metrics, name)
        assert_close(ours(counts), score(*theirs, reduction="none"))
        whole = float(score(*theirs, reduction="micro"))
        assert_close(ours(metrics.pooled(counts)), [whole])


def labels_with_absent_classes():
    """Images without class 3 in the labels, in both masks, and in the prediction; a perfect one."""
    predicted, actual = (np.array(labels[:5]) for labels in labels_of(4))
    actual[1] %= 3
    predicted[2], actual[2] = predicted[2] % 3, actual[2] % 3
    predicted[3] %= 3
    predicted[4] = actual[4]
    return predicted, actual


@pytest.mark.parametrize("num_classes", [1, 4])
def test_scores_of_all_classes_are_those_of_sklearn(sklearn, num_classes):
    predicted, actual = labels_of(1) if num_classes == 1 else labels_with_absent_classes()
    counts = count(predicted, actual, num_classes=num_classes)
    theirs = {
        metrics.balanced_accuracy: sklearn.balanced_accuracy_score,
        metrics.cohen_kappa: sklearn.cohen_kappa_score,
        metrics.multiclass_matthews: sklearn.matthews_corrcoef,
    }
    for ours, score in theirs.items():
        images = zip(actual, predicted, strict=True)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "y_pred contains classes not in y_true")
            expected = [score(a.ravel(), p.ravel()) for a, p in images]
        assert_close(ours(counts), expected)
        whole = score(actual.ravel(), predicted.ravel())
        np.testing.assert_allclose(ours(metrics.pooled(counts)), whole, rtol=1e-12)


@pytest.mark.parametrize("num_classes", [2, 4])
def test_pooled_scores_of_all_classes_are_those_of_torchmetrics(torch, torchmetrics, num_classes):
    predicted, actual = (x % num_classes for x in labels_with_absent_classes())
    counts = metrics.pooled(count(predicted, actual, num_classes=num_classes + 1))  # one is absent
    kinds = torchmetrics.classification
    both = torch.tensor(predicted), torch.tensor(actual)
    classes = {"num_classes": num_classes + 1}
    theirs = {
        metrics.cohen_kappa: kinds.multiclass_cohen_kappa(*both, **classes),
        metrics.multiclass_matthews: kinds.multiclass_matthews_corrcoef(*both, **classes),
        metrics.mean_iou: kinds.multiclass_jaccard_index(*both, **classes, average="macro"),
        metrics.balanced_accuracy: kinds.multiclass_accuracy(*both, **classes, average="macro"),
    }
    for ours, expected in theirs.items():
        assert_close(ours(counts), expected, rtol=1e-5)


def test_torchmetrics_balanced_accuracy_counts_a_class_as_0_that_is_only_predicted(
    torch, torchmetrics
):
    predicted, actual = (labels[1] for labels in labels_with_absent_classes())
    counts = count(predicted[None], actual[None], num_classes=4)
    theirs = torchmetrics.classification.multiclass_accuracy(
        torch.tensor(predicted), torch.tensor(actual), num_classes=4, average="macro"
    )
    assert_close(metrics.balanced_accuracy(counts), [float(theirs) * 4 / 3])


def test_balanced_accuracy_of_smp_and_monai_is_of_each_class_against_the_rest(torch, monai):
    predicted, actual = labels_of(4)
    counts = count(predicted, actual, num_classes=4)
    channels = [one_hot(torch, labels, 4) for labels in (predicted, actual)]
    theirs = monai.compute_confusion_matrix_metric(
        "balanced accuracy", monai.get_confusion_matrix(*channels)
    )
    assert_close((metrics.recall(counts) + metrics.specificity(counts)) / 2, theirs)
    smp = pytest.importorskip("segmentation_models_pytorch", reason="it is not installed")
    stats = smp.metrics.get_stats(*(c.long() for c in channels), mode="multilabel")
    assert_close(smp.metrics.balanced_accuracy(*stats, reduction="none"), theirs)
    binary = count(predicted % 2, actual % 2, num_classes=1)
    each = (metrics.recall(binary) + metrics.specificity(binary)) / 2
    assert_close(metrics.balanced_accuracy(binary), each[:, 0])


def test_mean_iou_leaves_out_the_absent_class_that_smp_counts_as_1(torch):
    smp = pytest.importorskip("segmentation_models_pytorch", reason="it is not installed")
    predicted, actual = labels_with_absent_classes()
    counts = count(predicted, actual, num_classes=4)
    both = torch.tensor(predicted), torch.tensor(actual)
    stats = smp.metrics.get_stats(*both, mode="multiclass", num_classes=4)
    theirs = smp.metrics.iou_score(*stats, reduction="none").numpy()
    present = np.array([[True] * 4] * 5)
    present[2, 3] = False
    assert theirs[2, 3] == 1
    assert_close(metrics.mean_iou(counts), theirs.mean(axis=1, where=present))


@pytest.mark.parametrize("num_classes", [1, 4])
def test_generalized_dice_is_monais(torch, monai, num_classes):
    predicted, actual = masks_of_every_kind() if num_classes == 1 else labels_with_absent_classes()
    counts = count(predicted, actual, num_classes=num_classes)
    channels = [one_hot(torch, labels, max(num_classes, 2)) for labels in (predicted, actual)]
    theirs = monai.compute_generalized_dice(*channels, sum_over_classes=True)
    assert_close(metrics.generalized_dice(counts), theirs[:, 0])


def test_generalized_dice_of_torchmetrics_differs_where_a_class_is_absent(torch):
    segmentation = importlib.import_module("torchmetrics.functional.segmentation")
    predicted, actual = labels_with_absent_classes()
    both = torch.tensor(predicted), torch.tensor(actual)
    options = {"num_classes": 4, "input_format": "index"}
    theirs = segmentation.generalized_dice_score(*both, **options).numpy()
    ours = metrics.generalized_dice(count(predicted, actual, num_classes=4))
    complete = [0, 3, 4]
    assert_close(ours[complete], theirs[complete])
    assert abs(ours[1] - theirs[1]) > 1e-4


def probabilities_of(num_classes, shape=(4, 24, 20)):
    """Overconfident logits, their probabilities, and labels."""
    random = np.random.default_rng(4)
    logits = random.normal(size=(*shape, num_classes)).astype(np.float32) * 1.5
    labels = random.integers(0, max(num_classes, 2), shape)
    if num_classes == 1:
        logits += (labels[..., None] - 0.5).astype(np.float32)
        return logits, np.array(jax.nn.sigmoid(logits))[..., 0], labels
    logits += (labels[..., None] == np.arange(num_classes)).astype(np.float32)
    return logits, np.array(jax.nn.softmax(logits)), labels


@pytest.mark.parametrize("bins", [1, 10, 15])
@pytest.mark.parametrize("num_classes", [1, 4])
def test_calibration_error_is_that_of_torchmetrics(torch, torchmetrics, num_classes, bins):
    logits, probabilities, labels = probabilities_of(num_classes)
    sums = metrics.pooled(calibration_sums(logits, labels, bins=bins))
    kinds = torchmetrics.classification
    for ours, norm in (
        (metrics.expected_calibration_error, "l1"),
        (metrics.maximum_calibration_error, "max"),
    ):
        if num_classes == 1:
            theirs = kinds.binary_calibration_error(
                torch.tensor(probabilities), torch.tensor(labels), n_bins=bins, norm=norm
            )
        else:
            theirs = kinds.multiclass_calibration_error(
                torch.tensor(np.moveaxis(probabilities, -1, 1)),
                torch.tensor(labels),
                num_classes=num_classes,
                n_bins=bins,
                norm=norm,
            )
        np.testing.assert_allclose(ours(sums), theirs, rtol=1e-5, atol=1e-6)


def test_torchmetrics_puts_probabilities_of_exactly_one_in_a_bin_of_their_own(torch, torchmetrics):
    logits = np.array([40.0, 40.0, 3.0, 3.0], np.float32).reshape(1, 1, 4, 1)
    labels = np.array([0, 0, 1, 1]).reshape(1, 1, 4)
    probabilities = np.array(jax.nn.sigmoid(logits)).ravel()
    assert probabilities.tolist()[:2] == [1.0, 1.0]
    sums = calibration_sums(logits, labels, bins=10)
    gap = abs(2 - probabilities.sum(dtype=np.float64)) / 4
    np.testing.assert_allclose(metrics.expected_calibration_error(sums), [gap], rtol=1e-6)
    theirs = torchmetrics.classification.binary_calibration_error(
        torch.tensor(probabilities), torch.tensor(labels.ravel()), n_bins=10
    )
    apart = (2 * 1.0 + 2 * (1 - float(probabilities[2]))) / 4
    np.testing.assert_allclose(theirs, apart, rtol=1e-6)


def test_reliability_is_sklearns_calibration_curve():
    calibration = pytest.importorskip("sklearn.calibration", reason="it is not installed")
    logits, probabilities, labels = probabilities_of(1)
    diagram = metrics.reliability(metrics.pooled(calibration_sums(logits, labels, bins=10)))
    frequency, confidence = calibration.calibration_curve(
        labels.ravel(), probabilities.ravel(), n_bins=10
    )
    filled = np.asarray(diagram.fraction) > 0
    assert_close(np.asarray(diagram.frequency)[filled], frequency)
    assert_close(np.asarray(diagram.confidence)[filled], confidence)


@pytest.mark.parametrize("num_classes", [1, 2, 4])
def test_brier_score_is_that_of_sklearn(sklearn, num_classes):
    logits, probabilities, labels = probabilities_of(num_classes)
    brier = metrics.brier_score(metrics.pooled(calibration_sums(logits, labels)))
    if num_classes == 1:
        theirs = sklearn.brier_score_loss(labels.ravel(), probabilities.ravel())
    else:
        exact = probabilities.reshape(-1, num_classes).astype(np.float64)
        theirs = sklearn.brier_score_loss(
            labels.ravel(),
            exact / exact.sum(axis=-1, keepdims=True),
            labels=range(num_classes),
            scale_by_half=False,
        )
    assert_close(brier, theirs)
