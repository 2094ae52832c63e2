"""Every score of a run's test images as jaxseg, MONAI and torchmetrics give it, side by side.

    python -m benchmarks.agreement RUN

Needs the extra ``peers``. The masks compared are the run's predictions on the reference masks' own
grid; each library gets the same two boolean arrays.
"""

import dataclasses
import importlib.util
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro
from tyro.conf import Positional

from experiments import command, dataset
from experiments.runs import RunDirectory, load_trained
from jaxseg import metrics, surface
from jaxseg.errors import InputError
from jaxseg.inference import make_predict, resize_logits
from jaxseg.types import Array

TOLERANCE = 2.0
"""Pixels, of the normalized surface Dice."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Compares three libraries on the test images of a run."""

    run: Positional[Path]
    """Run directory."""


def masks(run: RunDirectory) -> tuple[np.ndarray, np.ndarray]:
    """Predicted and actual masks of the run's test images, bool ``[N, Hm, Wm]``."""
    trained = load_trained(run)
    images = dataset.load(trained.configuration)
    predict = jax.jit(make_predict(trained.model))
    actual = np.stack([np.asarray(images.arrays.masks[int(i)]) == 1 for i in images.test])
    predicted = []
    for start in range(0, len(images.test), 16):
        batch = images.arrays.images[images.test[start : start + 16]]
        logits = predict(trained.state, batch)
        resized = resize_logits(logits, (actual.shape[1], actual.shape[2]))
        predicted.append(np.asarray(resized[..., 0] > 0))
    return np.concatenate(predicted), actual


def by_jaxseg(predicted: np.ndarray, actual: np.ndarray) -> dict[str, np.ndarray]:
    """Each score per image."""
    counts = metrics.count(predicted, actual, num_classes=1)
    parts = [
        surface.measure(_distances, predicted[start : start + 16], actual[start : start + 16])
        for start in range(0, len(predicted), 16)
    ]
    hd95, assd, nsd = (np.concatenate([np.asarray(p[i]) for p in parts]) for i in range(3))
    ratios = {
        "Dice": metrics.dice,
        "IoU": metrics.iou,
        "precision": metrics.precision,
        "recall": metrics.recall,
        "specificity": metrics.specificity,
        "accuracy": metrics.accuracy,
        "Matthews": metrics.matthews,
    }
    scores = {name: np.asarray(ratio(counts))[:, 0] for name, ratio in ratios.items()}
    return scores | {"HD95": hd95, "ASSD": assd, "NSD at 2 px": nsd}


def _distances(found: surface.SurfaceDistances) -> tuple[Array, Array, Array]:
    return found.hausdorff(95.0), found.average(), found.normalized_dice(TOLERANCE)


def by_monai(predicted: np.ndarray, actual: np.ndarray) -> dict[str, np.ndarray]:
    """Each score per image."""
    import torch
    from monai.metrics.confusion_matrix import (
        compute_confusion_matrix_metric,
        get_confusion_matrix,
    )
    from monai.metrics.hausdorff_distance import compute_hausdorff_distance
    from monai.metrics.meandice import compute_dice
    from monai.metrics.meaniou import compute_iou
    from monai.metrics.surface_dice import compute_surface_dice
    from monai.metrics.surface_distance import compute_average_surface_distance

    p, t = (torch.from_numpy(mask[:, None].astype(np.uint8)) for mask in (predicted, actual))
    matrix = get_confusion_matrix(p, t)
    names = {
        "precision": "precision",
        "recall": "sensitivity",
        "specificity": "specificity",
        "accuracy": "accuracy",
        "Matthews": "matthews correlation coefficient",
    }
    scores = {
        name: compute_confusion_matrix_metric(theirs, matrix) for name, theirs in names.items()
    }
    scores |= {
        "Dice": compute_dice(p, t),
        "IoU": compute_iou(p, t),
        "HD95": compute_hausdorff_distance(p, t, percentile=95),
        "ASSD": compute_average_surface_distance(p, t, symmetric=True),
        "NSD at 2 px": compute_surface_dice(p, t, class_thresholds=[TOLERANCE]),
    }
    return {name: values.numpy().reshape(-1) for name, values in scores.items()}


def by_torchmetrics(predicted: np.ndarray, actual: np.ndarray) -> dict[str, np.ndarray]:
    """Each score per image, of those that torchmetrics has per image in two dimensions."""
    import torch
    from torchmetrics.functional import classification

    p, t = (torch.from_numpy(mask.astype(np.int64)) for mask in (predicted, actual))
    by_image: dict[str, Any] = {"multidim_average": "samplewise"}
    scores = {
        "Dice": classification.binary_f1_score(p, t, **by_image),
        "precision": classification.binary_precision(p, t, **by_image),
        "recall": classification.binary_recall(p, t, **by_image),
        "specificity": classification.binary_specificity(p, t, **by_image),
        "accuracy": classification.binary_accuracy(p, t, **by_image),
        "IoU": torch.stack(
            [classification.binary_jaccard_index(a, b) for a, b in zip(p, t, strict=True)]
        ),
        "Matthews": torch.stack(
            [classification.binary_matthews_corrcoef(a, b) for a, b in zip(p, t, strict=True)]
        ),
    }
    return {name: values.numpy() for name, values in scores.items()}


def main() -> None:
    """Prints the table as Markdown.

    Raises:
        InputError: A library is not installed, or the run is invalid.
    """
    options = tyro.cli(Options, prog="python -m benchmarks.agreement", description=Options.__doc__)
    for library in ("torch", "monai", "torchmetrics"):
        if importlib.util.find_spec(library) is None:
            raise InputError(f"{library} is not installed (extra: peers)")
    predicted, actual = masks(RunDirectory(options.run))
    ours = by_jaxseg(predicted, actual)
    theirs = {
        "MONAI": by_monai(predicted, actual),
        "torchmetrics": by_torchmetrics(predicted, actual),
    }
    print(
        f"{len(actual)} images, masks of {actual.shape[1]} x {actual.shape[2]}, mean over images\n"
    )
    print("| | jaxseg | MONAI | torchmetrics | largest difference on an image |")
    print("|---|---|---|---|---|")
    for name, values in ours.items():
        cells, worst = [f"{np.nanmean(values):.6f}"], 0.0
        for scores in theirs.values():
            if name not in scores:
                cells.append("-")
                continue
            cells.append(f"{np.nanmean(scores[name]):.6f}")
            worst = max(worst, float(np.nanmax(np.abs(values - scores[name]))))
        print(f"| {name} | {' | '.join(cells)} | {worst:.1e} |")


if __name__ == "__main__":
    command.run(main)
