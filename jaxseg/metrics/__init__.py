"""Overlap ratios from integer counts, calibration, and intervals for what is reported.

Counts first, ratios last: `count` gives integers per image; `pooled` adds images on the host; each
ratio is a function of counts, so of rows it is a value per image, of pooled counts one over the
whole set. A ratio without a denominator is NaN, which `mean_over_images` leaves out and counts.
"""

from jaxseg.metrics.bootstrap import Interval, PairedInterval, bootstrap_mean, paired_bootstrap
from jaxseg.metrics.calibration import (
    CalibrationSums,
    Reliability,
    brier_score,
    calibration_sums,
    expected_calibration_error,
    maximum_calibration_error,
    reliability,
)
from jaxseg.metrics.counts import Counts, count
from jaxseg.metrics.logits import predicted_labels
from jaxseg.metrics.pooling import ImageMean, mean_over_images, pooled
from jaxseg.metrics.ratios import (
    accuracy,
    dice,
    f_beta,
    iou,
    matthews,
    pixel_accuracy,
    precision,
    recall,
    specificity,
)
from jaxseg.metrics.soft import SoftDiceSums, soft_dice_score, soft_dice_sums

__all__ = [
    "CalibrationSums",
    "Counts",
    "ImageMean",
    "Interval",
    "PairedInterval",
    "Reliability",
    "SoftDiceSums",
    "accuracy",
    "bootstrap_mean",
    "brier_score",
    "calibration_sums",
    "count",
    "dice",
    "expected_calibration_error",
    "f_beta",
    "iou",
    "matthews",
    "maximum_calibration_error",
    "mean_over_images",
    "paired_bootstrap",
    "pixel_accuracy",
    "pooled",
    "precision",
    "predicted_labels",
    "recall",
    "reliability",
    "soft_dice_score",
    "soft_dice_sums",
    "specificity",
]
