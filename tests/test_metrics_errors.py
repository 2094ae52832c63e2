"""Errors of the metrics for wrong arguments, while tracing and on the host."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import metrics

pytestmark = pytest.mark.usefixtures("unchecked_types")


def zeros(shape, dtype: type = np.int32):
    return np.zeros(shape, dtype)


def one_row():
    return metrics.count(zeros((1, 4, 4)), zeros((1, 4, 4)), num_classes=1)


A_FLOAT: Any = 2.5
A_WORD: Any = "drop"

ERRORS = {
    "shapes differ": (
        lambda: metrics.count(zeros((2, 4, 4)), zeros((2, 4, 5)), num_classes=1),
        ValueError,
        r"actual has shape \(2, 4, 5\), expected \(2, 4, 4\)",
    ),
    "no spatial axis": (
        lambda: metrics.count(zeros((4,)), zeros((4,)), num_classes=1),
        ValueError,
        r"predicted must have shape \[B, \*spatial\], got \(4,\)",
    ),
    "multilabel labels without channels": (
        lambda: metrics.count(zeros((1, 4, 4)), zeros((1, 4, 4)), num_classes=2, multilabel=True),
        ValueError,
        r"predicted must have shape \[B, \*spatial, 2\], got \(1, 4, 4\)",
    ),
    "matrices of different shapes": (
        lambda: metrics.confusion_matrix(zeros((2, 4, 4)), zeros((2, 4, 5)), num_classes=2),
        ValueError,
        r"actual has shape \(2, 4, 5\), expected \(2, 4, 4\)",
    ),
    "a matrix of no class": (
        lambda: metrics.confusion_matrix(zeros((2, 4, 4)), zeros((2, 4, 4)), num_classes=0),
        ValueError,
        "num_classes must be at least 1, got 0",
    ),
    "floats for labels": (
        lambda: metrics.count(zeros((1, 4, 4), np.float32), zeros((1, 4, 4)), num_classes=1),
        TypeError,
        "predicted must be integer class ids, got float32",
    ),
    "bool for three classes": (
        lambda: metrics.count(zeros((1, 4, 4)), zeros((1, 4, 4), bool), num_classes=3),
        TypeError,
        "actual is bool; for num_classes=3 it must be integer",
    ),
    "where of another shape": (
        lambda: metrics.count(
            zeros((1, 4, 4)), zeros((1, 4, 4)), num_classes=1, where=zeros((1, 4), bool)
        ),
        ValueError,
        r"where has shape \(1, 4\), expected \(1, 4, 4\)",
    ),
    "weights": (
        lambda: metrics.count(
            zeros((1, 4, 4)), zeros((1, 4, 4)), num_classes=1, where=zeros((1, 4, 4), np.float32)
        ),
        TypeError,
        "where must be bool, got float32; only losses take weights",
    ),
    "no class": (
        lambda: metrics.count(zeros((1, 4, 4)), zeros((1, 4, 4)), num_classes=0),
        ValueError,
        "num_classes must be at least 1, got 0",
    ),
    "classes as a float": (
        lambda: metrics.count(zeros((1, 4, 4)), zeros((1, 4, 4)), num_classes=A_FLOAT),
        TypeError,
        "'float' object cannot be interpreted as an integer",
    ),
    "integer logits": (
        lambda: metrics.predicted_labels(zeros((1, 4, 4, 1))),
        TypeError,
        "logits must be floating, got int32",
    ),
    "logits without channels": (
        lambda: metrics.predicted_labels(zeros((4, 4), np.float32)),
        ValueError,
        r"logits must have shape \[B, \*spatial, K\], got \(4, 4\)",
    ),
    "labels of another size than the logits": (
        lambda: metrics.soft_dice_sums(zeros((1, 4, 4, 1), np.float32), zeros((1, 8, 8))),
        ValueError,
        r"labels has shape \(1, 8, 8\), expected \(1, 4, 4\)",
    ),
    "pooled twice": (
        lambda: metrics.pooled(metrics.pooled(one_row())),
        ValueError,
        r"sums must have one row per image, \[B, ...\], got shape \(1,\)",
    ),
    "valid of another length": (
        lambda: metrics.pooled(one_row(), valid=np.ones(3, bool)),
        ValueError,
        r"valid has shape \(3,\), sums has 1 rows",
    ),
    "valid of numbers": (
        lambda: metrics.mean_over_images(np.zeros(3), valid=np.ones(3)),
        TypeError,
        "valid must be bool, got float64",
    ),
    "values of three axes": (
        lambda: metrics.mean_over_images(np.zeros((3, 3, 3))),
        ValueError,
        r"values must have shape \[N\] or \[N, K\], got \(3, 3, 3\)",
    ),
    "an unknown policy": (
        lambda: metrics.mean_over_images(np.zeros(3), infinite=A_WORD),
        ValueError,
        'infinite must be "keep", "exclude" or a number, got \'drop\'',
    ),
    "beta of 0": (
        lambda: metrics.f_beta(one_row(), beta=0.0),
        ValueError,
        "beta must be finite and above 0, got 0.0",
    ),
    "clDice of integers": (
        lambda: metrics.cl_dice(zeros((1, 4, 4), bool), zeros((1, 4, 4))),
        TypeError,
        "actual must be bool, got int32",
    ),
    "clDice of another shape": (
        lambda: metrics.cl_dice(zeros((1, 4, 4), bool), zeros((1, 4, 5), bool)),
        ValueError,
        r"actual has shape \(1, 4, 5\), expected \(1, 4, 4\)",
    ),
    "clDice of one spatial axis": (
        lambda: metrics.cl_dice(zeros((1, 4), bool), zeros((1, 4), bool)),
        ValueError,
        r"predicted must be \[B, H, W\] or \[B, D, H, W\], got \(1, 4\)",
    ),
    "negative smoothing": (
        lambda: metrics.soft_dice_score(
            metrics.soft_dice_sums(zeros((1, 4, 4, 1), np.float32), zeros((1, 4, 4))), smooth=-1.0
        ),
        ValueError,
        "smooth must be at least 0, got -1.0",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_a_wrong_argument_is_named_with_what_was_wanted(case):
    call, error, message = ERRORS[case]
    with pytest.raises(error, match=message):
        call()


def test_errors_come_while_tracing():
    with pytest.raises(ValueError, match="actual has shape"):
        jax.eval_shape(
            lambda p, a: metrics.count(p, a, num_classes=1), zeros((2, 4, 4)), zeros((2, 4, 5))
        )


def test_an_image_of_more_pixels_than_int32_counts_is_refused():
    huge = jax.ShapeDtypeStruct((1, 2**16, 2**15), jnp.uint8)
    with pytest.raises(ValueError, match="an image must have under"):
        jax.eval_shape(lambda p, a: metrics.count(p, a, num_classes=1), huge, huge)
