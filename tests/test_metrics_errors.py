"""Errors of the metrics for wrong arguments, while tracing and on the host."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import metrics

pytestmark = pytest.mark.usefixtures("unchecked_types")

LABELS, LOGITS = np.zeros((1, 4, 4), np.int32), np.zeros((1, 4, 4, 1), np.float32)
MASK, WIDE = LABELS > 0, np.zeros((1, 4, 5), np.int32)
A_WORD: Any = "drop"
binary = partial(metrics.count, num_classes=1)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: binary(LABELS, WIDE),
            ValueError,
            r"actual has shape \(1, 4, 5\), expected \(1, 4, 4\)",
        ),
        (
            lambda: binary(LABELS[0, 0], LABELS[0, 0]),
            ValueError,
            r"predicted must have shape \[B, \*spatial\], got \(4,\)",
        ),
        (
            lambda: metrics.count(LABELS, LABELS, num_classes=2, multilabel=True),
            ValueError,
            r"predicted must have shape \[B, \*spatial, 2\], got \(1, 4, 4\)",
        ),
        (
            lambda: metrics.confusion_matrix(LABELS, WIDE, num_classes=2),
            ValueError,
            r"actual has shape \(1, 4, 5\), expected \(1, 4, 4\)",
        ),
        (
            lambda: binary(LOGITS[..., 0], LABELS),
            TypeError,
            "predicted must be integer class ids, got float32",
        ),
        (
            lambda: metrics.count(LABELS, MASK, num_classes=3),
            TypeError,
            "actual is bool; for num_classes=3 it must be integer",
        ),
        (
            lambda: binary(LABELS, LABELS, where=MASK[0]),
            ValueError,
            r"where has shape \(4, 4\), expected \(1, 4, 4\)",
        ),
        (
            lambda: binary(LABELS, LABELS, where=LOGITS[..., 0]),
            TypeError,
            "where must be bool, got float32; only losses take weights",
        ),
        (
            lambda: metrics.count(LABELS, LABELS, num_classes=0),
            ValueError,
            "num_classes must be at least 1, got 0",
        ),
        (
            lambda: metrics.predicted_labels(LABELS),
            TypeError,
            "logits must be floating, got int32",
        ),
        (
            lambda: metrics.predicted_labels(LOGITS[0, ..., 0]),
            ValueError,
            r"logits must have shape \[B, \*spatial, K\], got \(4, 4\)",
        ),
        (
            lambda: metrics.soft_dice_sums(LOGITS, WIDE),
            ValueError,
            r"labels has shape \(1, 4, 5\), expected \(1, 4, 4\)",
        ),
        (
            lambda: metrics.calibration_sums(LOGITS, LABELS, bins=0),
            ValueError,
            "bins must be at least 1, got 0",
        ),
        (
            lambda: metrics.pooled(metrics.pooled(binary(LABELS, LABELS))),
            ValueError,
            r"sums must have one row per image, \[B, ...\], got shape \(1,\)",
        ),
        (
            lambda: metrics.pooled(binary(LABELS, LABELS), valid=np.ones(3, bool)),
            ValueError,
            r"valid has shape \(3,\), sums has 1 rows",
        ),
        (
            lambda: metrics.mean_over_images(np.zeros(3), valid=np.ones(3)),
            TypeError,
            "valid must be bool, got float64",
        ),
        (
            lambda: metrics.mean_over_images(np.zeros(3), infinite=A_WORD),
            ValueError,
            'infinite must be "keep", "exclude" or a number, got \'drop\'',
        ),
        (
            lambda: metrics.f_beta(binary(LABELS, LABELS), beta=0.0),
            ValueError,
            "beta must be finite and above 0, got 0.0",
        ),
        (lambda: metrics.cl_dice(MASK, LABELS), TypeError, "actual must be bool, got int32"),
        (
            lambda: metrics.cl_dice(MASK[0], MASK[0]),
            ValueError,
            r"predicted must be \[B, H, W\] or \[B, D, H, W\], got \(4, 4\)",
        ),
        (
            lambda: metrics.soft_dice_score(metrics.soft_dice_sums(LOGITS, LABELS), smooth=-1.0),
            ValueError,
            "smooth must be at least 0, got -1.0",
        ),
    ],
)
def test_a_wrong_argument_is_named_with_what_was_wanted(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_an_image_of_more_pixels_than_int32_counts_is_refused_while_tracing():
    huge = jax.ShapeDtypeStruct((1, 2**16, 2**15), jnp.uint8)
    with pytest.raises(ValueError, match="an image must have under"):
        jax.eval_shape(binary, huge, huge)
