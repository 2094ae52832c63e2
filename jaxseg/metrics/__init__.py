"""Overlap ratios from integer counts, scores of objects, calibration, means and bootstrap.

Counts come first, ratios last. `count` gives integers per image, `pooled` adds images, and each
ratio is a function of counts: ``[B, K]`` counts give one value per image, pooled counts one value
over the whole set. A ratio whose denominator is 0 is NaN. So is every ratio of an image with a
label outside the classes. `mean_over_images` leaves NaN out and counts what it leaves out.

Labels are ``[B, *spatial]``, logits ``[B, *spatial, K]`` and ``where`` ``[B, *spatial]`` bool, with
one or more spatial axes. With ``multilabel=True`` labels are ``[B, *spatial, K]`` of 0 and 1.

Surface distances are infinite where one mask is empty and the other is not, and one such image
makes a mean infinite. The argument ``infinite`` of the means and the bootstrap says what to do:

- ``"keep"`` (default): the mean is infinite.
- ``"exclude"``: infinite values are left out, like NaN, and counted as undefined. A missed object
  then does not change the mean, so report the number.
- a number: replaces infinite values. Metrics Reloaded (Maier-Hein et al. 2024) and challenges such
  as BraTS use the worst possible value, the length of the image's diagonal.

MONAI 1.6 keeps infinite values in its means, except that its Hausdorff distance at a percentile
(HD95) is NaN where one mask is empty, which its means leave out.
"""

from jaxseg.metrics.aggregation import ImageMean, mean_over_classes, mean_over_images, pooled
from jaxseg.metrics.agreement import (
    balanced_accuracy,
    cohen_kappa,
    generalized_dice,
    mean_iou,
    multiclass_matthews,
)
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
from jaxseg.metrics.centerline import cl_dice
from jaxseg.metrics.counts import Counts, confusion_matrix, count, predicted_labels
from jaxseg.metrics.objects import (
    ObjectCounts,
    ObjectMatches,
    count_objects,
    match_objects,
    object_dice,
    object_f1,
    object_precision,
    object_recall,
    panoptic_quality,
    segmentation_quality,
)
from jaxseg.metrics.ratios import (
    accuracy,
    dice,
    f_beta,
    iou,
    matthews,
    negative_predictive_value,
    pixel_accuracy,
    precision,
    recall,
    specificity,
)
from jaxseg.metrics.soft_dice import SoftDiceSums, soft_dice_score, soft_dice_sums

__all__ = [
    "CalibrationSums",
    "Counts",
    "ImageMean",
    "Interval",
    "ObjectCounts",
    "ObjectMatches",
    "PairedInterval",
    "Reliability",
    "SoftDiceSums",
    "accuracy",
    "balanced_accuracy",
    "bootstrap_mean",
    "brier_score",
    "calibration_sums",
    "cl_dice",
    "cohen_kappa",
    "confusion_matrix",
    "count",
    "count_objects",
    "dice",
    "expected_calibration_error",
    "f_beta",
    "generalized_dice",
    "iou",
    "match_objects",
    "matthews",
    "maximum_calibration_error",
    "mean_iou",
    "mean_over_classes",
    "mean_over_images",
    "multiclass_matthews",
    "negative_predictive_value",
    "object_dice",
    "object_f1",
    "object_precision",
    "object_recall",
    "paired_bootstrap",
    "panoptic_quality",
    "pixel_accuracy",
    "pooled",
    "precision",
    "predicted_labels",
    "recall",
    "reliability",
    "segmentation_quality",
    "soft_dice_score",
    "soft_dice_sums",
    "specificity",
]
