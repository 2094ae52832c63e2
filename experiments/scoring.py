"""Scores of a set of films: per film on the reference mask's own grid, and the table of means."""

import csv
import functools
import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh

from experiments import pictures
from experiments.command import Preempted, progress_bar
from experiments.run_directory import write_bytes
from jaxseg import metrics, parallel, surface
from jaxseg.data.arrays import FilmArrays
from jaxseg.inference import make_predict, resize_logits
from jaxseg.parallel import Preemption
from jaxseg.training import TrainState
from jaxseg.types import Array

COLUMNS = ("dice", "iou", "hd95", "assd", "pixel_accuracy", "precision", "recall")
"""Scores of a film, in the order of the table. Distances are pixels of the mask's grid."""

BOOTSTRAP_SEED = 0

PER_FILM = "pixel_accuracy"
"""The one score that is of all classes at once."""


class Scores:
    """The scores of some films.

    Attributes:
        ids: The films.
        classes: Their classes, empty text where unknown.
        columns: For each of `COLUMNS`, and ``dice_network_size``, a float64 value per film, NaN
            where undefined: of several classes the mean over those that are defined.
        soft_dice_pooled: The unthresholded Dice over all pixels of all films, at the network's
            size; of several classes their mean.
        by_class: The same columns for each class by its name, background and pixel accuracy left
            out; empty where there is but one class.
    """

    def __init__(
        self,
        ids: Sequence[str],
        classes: Sequence[str],
        columns: dict[str, np.ndarray],
        soft_dice_pooled: float,
        by_class: dict[str, dict[str, np.ndarray]],
    ):
        self.ids = list(ids)
        self.classes = list(classes)
        self.columns = columns
        self.soft_dice_pooled = soft_dice_pooled
        self.by_class = by_class

    def summary(self) -> dict[str, Any]:
        """The means over films that ``summary.json`` holds under ``test``."""
        defined = self.columns["dice"][~np.isnan(self.columns["dice"])]
        means = _means(self.columns)
        network_size = metrics.mean_over_images(self.columns["dice_network_size"])
        summary = {
            **means,
            "dice_mean_network_size": float(network_size.mean),
            "dice_worst": float(defined.min()) if len(defined) else None,
            "pixel_accuracy": float(metrics.mean_over_images(self.columns[PER_FILM]).mean),
            "soft_dice_pooled": self.soft_dice_pooled,
            "images": len(self.ids),
        }
        if self.by_class:
            summary["classes"] = {name: _means(own) for name, own in self.by_class.items()}
        return summary

    def worst_first(self) -> np.ndarray:
        """Places of the films, from the lowest Dice to the highest; undefined ones are left out."""
        order = np.argsort(self.columns["dice"], kind="stable")
        return order[~np.isnan(self.columns["dice"][order])]

    def as_csv(self) -> str:
        """One line per film; empty where undefined."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        columns = {name: self.columns[name] for name in (*COLUMNS, "dice_network_size")}
        for label, own in self.by_class.items():
            columns |= {f"{name}_{label}": own[name] for name in COLUMNS if name != PER_FILM}
        writer.writerow(["id", "class", *columns])
        for row, (name, label) in enumerate(zip(self.ids, self.classes, strict=True)):
            values = (column[row] for column in columns.values())
            writer.writerow([name, label, *("" if np.isnan(v) else f"{v:.6g}" for v in values)])
        return text.getvalue()


def score(
    model: nn.Module,
    state: TrainState,
    arrays: FilmArrays,
    indices: np.ndarray,
    mesh: Mesh,
    *,
    rows: int,
    class_names: Sequence[str] = (),
    stop: Preemption | None = None,
) -> Scores:
    """Scores films against their masks.

    Logits are resized bilinearly to the reference mask's own grid and there cut at sigmoid 0.5, or
    decided by the largest.

    Args:
        model: The network.
        state: What it learnt.
        arrays: The films.
        indices: Which of them.
        mesh: The devices.
        rows: Films at once, an even share for every device.
        class_names: Of several classes, background left out; none for one class.
        stop: Notices a preemption between batches.

    Returns:
        The scores, in the order of ``indices``; every process has them all.

    Raises:
        Preempted: SIGTERM came.
    """
    score_rows = _compiled(model, mesh)
    parts: list[tuple[np.ndarray, Any]] = []
    with progress_bar("scoring", len(indices)) as bar:
        for batch in _batches_of_one_grid(arrays, indices, rows):
            if stop is not None and stop.noticed():
                raise Preempted("while scoring; add --resume to score again")
            films = {
                "images": arrays.images[batch],
                "labels": arrays.labels[batch],
                "masks": np.stack([arrays.masks[i] for i in batch]),
            }
            places = np.pad(np.arange(len(batch)), (0, rows - len(batch)), constant_values=-1)
            taken = parallel.take_batch(films, places, mesh)
            result = parallel.to_host(score_rows(state, taken))
            parts.append((batch, result))
            bar.update(len(batch))

    def joined(*leaves: np.ndarray) -> np.ndarray:
        real = (leaf[: len(batch)] for leaf, (batch, _) in zip(leaves, parts, strict=True))
        return np.concatenate(list(real))

    columns, soft = jax.tree.map(joined, *(result for _, result in parts))
    done = np.concatenate([batch for batch, _ in parts])
    place = {film: row for row, film in enumerate(done)}
    order = np.array([place[film] for film in indices])
    columns = {name: values[order].astype(np.float64) for name, values in columns.items()}
    return Scores(
        ids=[arrays.ids[i] for i in indices],
        classes=[arrays.classes[i] for i in indices],
        columns={name: mean_over_classes(values) for name, values in columns.items()},
        soft_dice_pooled=float(foreground(metrics.soft_dice_score(metrics.pooled(soft))).mean()),
        by_class={
            label: {name: values[:, i] for name, values in columns.items() if name != PER_FILM}
            for i, label in enumerate(class_names if len(class_names) > 1 else ())
        },
    )


def foreground(values: Any) -> Any:
    """Of values with classes last those of the objects: all of one class, else all but the first.

    Args:
        values: An array ``[..., K]``, or a pytree of such.
    """
    return jax.tree.map(lambda leaf: leaf[..., 1:] if leaf.shape[-1] > 1 else leaf, values)


def _means(columns: dict[str, np.ndarray]) -> dict[str, Any]:
    """Means over films, the Dice's with its interval, and how many films were left out."""
    interval = metrics.bootstrap_mean(jax.random.key(BOOTSTRAP_SEED), columns["dice"])
    averaged = ("iou", "hd95", "assd", "precision", "recall")
    means = {name: metrics.mean_over_images(columns[name]) for name in ("dice", *averaged)}
    return {
        "dice_mean": interval.mean,
        "dice_ci95": [interval.low, interval.high],
        **{f"{name}_mean": float(means[name].mean) for name in averaged},
        "undefined": int(means["dice"].undefined),
        "undefined_distances": int(means["hd95"].undefined),
    }


def mean_over_classes(values: np.ndarray) -> np.ndarray:
    """``[N, classes]`` to ``[N]``, over the classes that are defined; NaN where none is."""
    defined = ~np.isnan(values)
    total = np.where(defined, values, 0.0).sum(axis=1)
    return np.where(defined.any(axis=1), total / np.maximum(defined.sum(axis=1), 1), np.nan)


def draw_examples(
    path: Path,
    model: nn.Module,
    state: TrainState,
    arrays: FilmArrays,
    indices: np.ndarray,
    scores: Scores,
    *,
    each: int = 3,
) -> None:
    """Writes a picture of the films with the lowest Dice and of those with the highest."""
    order = scores.worst_first()
    worst, best = order[:each], order[each:][-each:][::-1]
    chosen = np.concatenate([worst, best])
    if not len(chosen):
        return
    predict, state = jax.jit(make_predict(model)), parallel.local_copy(state)
    films = [arrays.images[indices[row]] for row in chosen]
    logits = predict(state, np.stack(films))
    truths = [np.asarray(arrays.masks[indices[row]]) for row in chosen]
    predictions = [
        np.asarray(metrics.predicted_labels(resize_logits(logits[i : i + 1], truth.shape)))[0]
        for i, truth in enumerate(truths)
    ]
    captions = [
        f"{rank}: {scores.ids[row]}\nDice {scores.columns['dice'][row]:.3f}\n"
        f"HD95 {scores.columns['hd95'][row]:.1f} px"
        for row, rank in zip(chosen, ["worst"] * len(worst) + ["best"] * len(best), strict=True)
    ]
    write_bytes(
        path, pictures.examples([film[..., 0] for film in films], truths, predictions, captions)
    )


def _batches_of_one_grid(
    arrays: FilmArrays, indices: np.ndarray, rows: int
) -> Iterator[np.ndarray]:
    """Batches of films whose masks have one size, so that each size is compiled once."""
    by_grid: dict[tuple[int, ...], list[int]] = {}
    for i in indices:
        by_grid.setdefault(arrays.masks[i].shape, []).append(i)
    for films in by_grid.values():
        for start in range(0, len(films), rows):
            yield np.asarray(films[start : start + rows])


def _hd95_and_assd(distances: surface.SurfaceDistances) -> tuple[jax.Array, jax.Array]:
    """A film without predicted lung has no boundary to measure to: undefined, not infinite."""
    hd95, assd = distances.hausdorff(95.0), distances.average()
    return jnp.where(jnp.isinf(hd95), jnp.nan, hd95), jnp.where(jnp.isinf(assd), jnp.nan, assd)


def _distances(predicted: Array, actual: jax.Array, classes: int) -> tuple[jax.Array, jax.Array]:
    """HD95 and ASSD ``[B, classes]`` of labels ``[B, H, W]``, for classes from 1 on."""
    masks = [
        jnp.stack([labels == label for label in range(1, classes + 1)], axis=1).reshape(
            -1, *labels.shape[1:]
        )
        for labels in (predicted, actual)
    ]
    hd95, assd = surface.measure(_hd95_and_assd, *masks)
    return hd95.reshape(-1, classes), assd.reshape(-1, classes)


def _compiled(model: nn.Module, mesh: Mesh) -> Callable[..., Any]:
    predict = make_predict(model)

    def score_rows(
        state: TrainState, films: dict[str, jax.Array]
    ) -> tuple[dict[str, Array], metrics.SoftDiceSums]:
        logits, masks = predict(state, films["images"]), films["masks"].astype(jnp.int32)
        labels = films["labels"].astype(jnp.int32)
        count = functools.partial(metrics.count, num_classes=logits.shape[-1])
        at_network_size = foreground(count(metrics.predicted_labels(logits), labels))
        height, width = masks.shape[1:]
        predicted = metrics.predicted_labels(resize_logits(logits, (height, width)))
        counts = count(predicted, masks)
        objects = foreground(counts)
        hd95, assd = _distances(predicted, masks, objects.tp.shape[-1])
        return {
            "dice": metrics.dice(objects),
            "iou": metrics.iou(objects),
            "pixel_accuracy": metrics.pixel_accuracy(counts)[:, None],
            "precision": metrics.precision(objects),
            "recall": metrics.recall(objects),
            "dice_network_size": metrics.dice(at_network_size),
            "hd95": hd95,
            "assd": assd,
        }, metrics.soft_dice_sums(logits, labels)

    return parallel.jit_rows(score_rows, mesh)
