"""The scores of a set of images: a table with a row per image, and its means."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments import files
from jaxseg import metrics
from jaxseg.errors import InputError

COLUMNS = ("dice", "iou", "hd95", "assd", "pixel_accuracy", "precision", "recall")
"""Scores of an image. Distances are in pixels of the mask."""

MEANS = ("iou", "hd95", "assd", "precision", "recall")
"""Scores of which a summary has the means, besides Dice."""

PER_IMAGE = "pixel_accuracy"
"""The one score that covers all classes at once."""

NETWORK_SIZE = "dice_network_size"
"""Dice at the training resolution."""

BOOTSTRAP_SEED = 0


@dataclass(frozen=True, eq=False)
class ScoreTable:
    """Scores of each image, as ``per_image.csv`` holds them.

    Attributes:
        ids: The images.
        classes: The class of every image, empty text if unknown.
        groups: Images of one group are not independent. Intervals resample groups.
        columns: float64 ``[images]`` by name, NaN where undefined. With several classes, the mean
            over those that are defined. A distance is undefined unless the object is in both masks.
    """

    ids: Sequence[str]
    classes: Sequence[str]
    groups: Sequence[str]
    columns: dict[str, np.ndarray]

    def write(self, path: Path) -> None:
        """Writes a row per image. Undefined scores are empty cells."""
        columns = {"id": self.ids, "class": self.classes, "group": self.groups} | {
            name: ["" if np.isnan(value) else f"{value:.6g}" for value in values]
            for name, values in self.columns.items()
        }
        rows = (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))
        files.write_text(path, files.as_csv(rows, columns))


@dataclass(frozen=True, eq=False)
class Scores(ScoreTable):
    """Scores of each image and of all pixels together.

    Attributes:
        soft_dice_pooled: The unthresholded Dice over all pixels of all images, at the labels' size;
            with several classes their mean.
        calibration: Of all pixels, at the masks' own sizes.
        confusion: int64 ``[classes, classes]``, pixels of all images by true and predicted class.
        by_class: Names of several classes; ``columns`` has the scores of class NAME as
            ``dice_NAME`` and so on.
    """

    soft_dice_pooled: float
    calibration: metrics.CalibrationSums
    confusion: np.ndarray
    by_class: Sequence[str] = ()

    def summary(self) -> dict[str, Any]:
        """Returns the means over images that ``summary.json`` holds under ``test``."""
        defined = self.columns["dice"][~np.isnan(self.columns["dice"])]
        summary = {
            **means(self.columns, self.groups),
            "dice_mean_network_size": mean(self.columns[NETWORK_SIZE]),
            "dice_worst": float(defined.min()) if len(defined) else None,
            "pixel_accuracy": mean(self.columns[PER_IMAGE]),
            "soft_dice_pooled": self.soft_dice_pooled,
            "images": len(self.ids),
            "groups": len(set(self.groups)),
            "confusion_matrix": self.confusion.tolist(),
            "calibration": self._calibration(),
        }
        if self.by_class:
            summary["classes"] = {
                name: means(
                    {c: self.columns[f"{c}_{name}"] for c in COLUMNS if c != PER_IMAGE}, self.groups
                )
                for name in self.by_class
            }
        return summary

    def worst_first(self) -> np.ndarray:
        """Returns indices of the images by Dice, lowest first, without undefined ones."""
        order = np.argsort(self.columns["dice"], kind="stable")
        return order[~np.isnan(self.columns["dice"][order])]

    def _calibration(self) -> dict[str, Any]:
        diagram = metrics.reliability(self.calibration)
        return {
            "expected_error": float(metrics.expected_calibration_error(self.calibration)),
            "brier": float(metrics.brier_score(self.calibration)),
            **{name: np.asarray(values).tolist() for name, values in diagram._asdict().items()},
        }


def read(path: Path) -> ScoreTable:
    """Reads what `ScoreTable.write` wrote.

    Raises:
        InputError: The file is absent or is not such a table.
    """
    try:
        names, *rows = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8"))))
        values = np.array([[float(cell or "nan") for cell in row[3:]] for row in rows])
        if names[:3] != ["id", "class", "group"]:
            raise ValueError("the first columns are not id, class, group")
        values = values.reshape(len(rows), len(names) - 3)
    except FileNotFoundError:
        raise InputError(f"{path}: the table of scores does not exist") from None
    except ValueError as error:
        raise InputError(f"{path}: not a table of scores ({error})") from None
    return ScoreTable(
        ids=[row[0] for row in rows],
        classes=[row[1] for row in rows],
        groups=[row[2] for row in rows],
        columns={name: values[:, i] for i, name in enumerate(names[3:])},
    )


def foreground(values: Any) -> Any:
    """Returns per-class values without the background: all of one class, else all but the first.

    Args:
        values: An array ``[..., K]``, or a pytree of such.
    """
    return jax.tree.map(lambda leaf: leaf[..., 1:] if leaf.shape[-1] > 1 else leaf, values)


def mean(values: np.ndarray) -> float:
    """Returns the mean over the images where a score is defined; NaN if there is none."""
    return float(metrics.mean_over_images(values).mean)


def bootstrap_interval(values: np.ndarray, groups: Sequence[str]) -> metrics.Interval:
    """Returns the mean of a score with its 95 % interval over images, resampled by group."""
    return metrics.bootstrap_mean(jax.random.key(BOOTSTRAP_SEED), values, groups=groups)


def one_line(test: Mapping[str, Any]) -> str:
    """Returns the most important scores of a summary."""
    low, high = map(number, test["dice_ci95"])
    missed = test["undefined_distances"]
    undefined = f" (undefined for {missed} images)" if missed else ""
    per_class = "".join(
        f"; {name} Dice {number(own['dice_mean'])} ({' to '.join(map(number, own['dice_ci95']))})"
        for name, own in test.get("classes", {}).items()
    )
    return (
        f"Dice {number(test['dice_mean'])} (95 % interval {low} to {high}, {test['images']} "
        f"images), IoU {number(test['iou_mean'])}, HD95 {number(test['hd95_mean'], 2)} px"
        f"{undefined}, pixel accuracy {number(test['pixel_accuracy'])}{per_class}"
    )


def number(value: float | None, digits: int = 4) -> str:
    """Returns a number with this many digits after the point, or "undefined"."""
    return "undefined" if value is None or value != value else f"{value:.{digits}f}"


def short(value: float | int | None) -> str:
    """Returns a value for a line on the terminal."""
    return "-" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)


def means(columns: Mapping[str, np.ndarray], groups: Sequence[str]) -> dict[str, Any]:
    """Returns means over images, the interval of Dice, and the numbers of undefined images."""
    interval = bootstrap_interval(columns["dice"], groups)
    counted = {"": "dice", "_distances": "hd95", "_precision": "precision", "_recall": "recall"}
    return {
        "dice_mean": interval.mean,
        "dice_ci95": [interval.low, interval.high],
        **{f"{name}_mean": mean(columns[name]) for name in MEANS},
        **{f"undefined{of}": int(np.isnan(columns[c]).sum()) for of, c in counted.items()},
    }
