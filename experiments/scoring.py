"""Scores of a set of films: per film on the reference mask's own grid, and the table of means."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from experiments import pictures
from experiments.command import Preempted, progress_bar
from experiments.run_directory import write_bytes
from experiments.score_table import ScoreTable
from jaxseg import metrics, parallel, surface
from jaxseg.data.arrays import ImageArrays
from jaxseg.data.images import IGNORED
from jaxseg.parallel import Preemption
from jaxseg.resizing import resize_logits, resize_logits_on_host
from jaxseg.types import Array, Images, Logits

COLUMNS = ("dice", "iou", "hd95", "assd", "pixel_accuracy", "precision", "recall")
"""Scores of a film, in the order of the table. Distances are pixels of the mask's grid."""

BOOTSTRAP_SEED = 0

PER_FILM = "pixel_accuracy"
"""The one score that is of all classes at once."""

Predict = Callable[[Any, Images], Logits]
"""Logits of a batch, of whatever state its maker learnt."""

Measure = Callable[[Any, Images], jax.Array]
"""One number for each film of a batch, float ``[B]``, by what was learnt."""


class Scores:
    """The scores of some films.

    Attributes:
        ids: The films.
        classes: Their classes, empty text where unknown.
        groups: What films share that are not independent, see `ImageArrays`; intervals draw groups.
        columns: For each of `COLUMNS`, and ``dice_network_size``, a float64 value per film, NaN
            where undefined: of several classes the mean over those that are defined. A distance is
            undefined too where an object has no boundary in one of the masks only, one missed or
            made up; of several classes it is so as soon as one of them is. Then what was asked
            for besides.
        soft_dice_pooled: The unthresholded Dice over all pixels of all films, at the labels'
            size; of several classes their mean.
        by_class: `COLUMNS` but the pixel accuracy for each class by its name, background left
            out; empty where there is but one class.
        calibration: Of all pixels of all films, on the masks' own grids.
    """

    def __init__(
        self,
        ids: Sequence[str],
        classes: Sequence[str],
        groups: Sequence[str],
        columns: dict[str, np.ndarray],
        soft_dice_pooled: float,
        by_class: dict[str, dict[str, np.ndarray]],
        calibration: metrics.CalibrationSums,
    ):
        self.ids = list(ids)
        self.classes = list(classes)
        self.groups = list(groups)
        self.columns = columns
        self.soft_dice_pooled = soft_dice_pooled
        self.by_class = by_class
        self.calibration = calibration

    def summary(self) -> dict[str, Any]:
        """The means over films that ``summary.json`` holds under ``test``."""
        defined = self.columns["dice"][~np.isnan(self.columns["dice"])]
        means = _means(self.columns, self.groups)
        network_size = metrics.mean_over_images(self.columns["dice_network_size"])
        summary = {
            **means,
            "dice_mean_network_size": float(network_size.mean),
            "dice_worst": float(defined.min()) if len(defined) else None,
            "pixel_accuracy": float(metrics.mean_over_images(self.columns[PER_FILM]).mean),
            "soft_dice_pooled": self.soft_dice_pooled,
            "images": len(self.ids),
            "groups": len(set(self.groups)),
            "calibration": self._calibration(),
        }
        if self.by_class:
            summary["classes"] = {
                name: _means(own, self.groups) for name, own in self.by_class.items()
            }
        return summary

    def worst_first(self) -> np.ndarray:
        """Places of the films, from the lowest Dice to the highest; undefined ones are left out."""
        order = np.argsort(self.columns["dice"], kind="stable")
        return order[~np.isnan(self.columns["dice"][order])]

    def _calibration(self) -> dict[str, Any]:
        """Of the probabilities; the reliability diagram's points go from sure no to sure yes."""
        diagram = metrics.reliability(self.calibration)
        return {
            "expected_error": float(metrics.expected_calibration_error(self.calibration)),
            "brier": float(metrics.brier_score(self.calibration)),
            **{name: np.asarray(own).tolist() for name, own in diagram._asdict().items()},
        }

    def table(self) -> ScoreTable:
        """A line per film."""
        first = (*COLUMNS, "dice_network_size")
        columns = {name: self.columns[name] for name in dict.fromkeys((*first, *self.columns))}
        for label, own in self.by_class.items():
            columns |= {f"{name}_{label}": own[name] for name in COLUMNS if name != PER_FILM}
        return ScoreTable(self.ids, self.classes, self.groups, columns)


def score(
    predict: Predict,
    state: Any,
    arrays: ImageArrays,
    indices: np.ndarray,
    mesh: Mesh,
    *,
    rows: int,
    class_names: Sequence[str] = (),
    also: Mapping[str, Measure] | None = None,
    mend: Callable[[np.ndarray], np.ndarray] | None = None,
    stop: Preemption | None = None,
) -> Scores:
    """Scores films against their masks.

    Logits are resized bilinearly to the reference mask's own grid and there cut at sigmoid 0.5, or
    decided by the largest. Masks of several sizes share a canvas, so that few programs compile.

    Args:
        predict: The network, or several as one.
        state: What it learnt; lies on every device of the mesh.
        arrays: The films.
        indices: Which of them.
        mesh: The devices.
        rows: Films at once, an even share for every device.
        class_names: Of several classes, background left out; none for one class.
        also: What else to measure of each film, by the name of its column.
        mend: Decides on the host, of one film's logits ``[H, W, K]`` on its mask's grid, the labels
            int32 ``[H, W]`` that are scored, in place of the above. Neither the scores at the
            labels' size nor the calibration see it.
        stop: Notices a preemption between batches.

    Returns:
        The scores, in the order of ``indices``; every process has them all.

    Raises:
        Preempted: SIGTERM came.
    """
    score_rows = _compiled(predict, mesh, also or {}, mend)
    parts: list[tuple[np.ndarray, Any]] = []
    with progress_bar("scoring", len(indices)) as bar:
        for batch, canvas in _batches(arrays, indices, rows):
            if stop is not None and stop.noticed():
                raise Preempted("while scoring; add --resume to score again")
            films = {name: array[batch] for name, array in arrays.trained_on().items()}
            films |= _on_canvas([np.asarray(arrays.masks[int(i)]) for i in batch], canvas)
            places = np.pad(np.arange(len(batch)), (0, rows - len(batch)), constant_values=-1)
            taken = parallel.take_batch(films, places, mesh, padded=True)
            result = parallel.gather_to_host(score_rows(state, taken))
            parts.append((batch, result))
            bar.update(len(batch))

    def joined(*leaves: np.ndarray) -> np.ndarray:
        real = (leaf[: len(batch)] for leaf, (batch, _) in zip(leaves, parts, strict=True))
        return np.concatenate(list(real))

    columns, soft, calibration = jax.tree.map(joined, *(result for _, result in parts))
    done = np.concatenate([batch for batch, _ in parts])
    place = {film: row for row, film in enumerate(done)}
    order = np.array([place[film] for film in indices])
    columns = {name: values[order].astype(np.float64) for name, values in columns.items()}
    return Scores(
        ids=[arrays.ids[i] for i in indices],
        classes=[arrays.classes[i] for i in indices],
        groups=[arrays.groups[i] for i in indices],
        columns={
            name: _finite(np.asarray(metrics.mean_over_classes(own)))
            for name, own in columns.items()
        },
        soft_dice_pooled=float(foreground(metrics.soft_dice_score(metrics.pooled(soft))).mean()),
        by_class={
            label: {name: _finite(columns[name][:, i]) for name in COLUMNS if name != PER_FILM}
            for i, label in enumerate(class_names if len(class_names) > 1 else ())
        },
        calibration=metrics.pooled(calibration),
    )


def foreground(values: Any) -> Any:
    """Of values with classes last those of the objects: all of one class, else all but the first.

    Args:
        values: An array ``[..., K]``, or a pytree of such.
    """
    return jax.tree.map(lambda leaf: leaf[..., 1:] if leaf.shape[-1] > 1 else leaf, values)


def _means(columns: dict[str, np.ndarray], groups: Sequence[str]) -> dict[str, Any]:
    """Means over films, the Dice's with its interval, and how many films were left out."""
    key = jax.random.key(BOOTSTRAP_SEED)
    interval = metrics.bootstrap_mean(key, columns["dice"], groups=groups)
    averaged = ("iou", "hd95", "assd", "precision", "recall")
    means = {name: metrics.mean_over_images(columns[name]) for name in ("dice", *averaged)}
    return {
        "dice_mean": interval.mean,
        "dice_ci95": [interval.low, interval.high],
        **{f"{name}_mean": float(means[name].mean) for name in averaged},
        "undefined": int(means["dice"].undefined),
        "undefined_distances": int(means["hd95"].undefined),
        "undefined_precision": int(means["precision"].undefined),
        "undefined_recall": int(means["recall"].undefined),
    }


def _finite(values: np.ndarray) -> np.ndarray:
    """NaN for the infinite distance between a boundary and none."""
    return np.where(np.isinf(values), np.nan, values)


def draw_examples(
    path: Path,
    predict: Predict,
    state: Any,
    arrays: ImageArrays,
    indices: np.ndarray,
    scores: Scores,
    *,
    mend: Callable[[np.ndarray], np.ndarray] | None = None,
) -> None:
    """Writes a picture of the films with the lowest Dice, the median film and the best ones."""
    order = scores.worst_first()
    ranks: dict[int, str] = dict.fromkeys(order[-2:], "best")
    if len(order):
        ranks[order[len(order) // 2]] = "median"
    ranks |= dict(zip(order, ("worst", "2nd worst", "3rd worst"), strict=False))
    chosen = [row for row in order if row in ranks]
    if not chosen:
        path.unlink(missing_ok=True)  # An older picture would pass for this one.
        return
    compiled, state = jax.jit(predict), parallel.local_copy(state)
    films = [arrays.images[indices[row]] for row in chosen]
    logits = compiled(state, np.stack(films))
    truths = [np.asarray(arrays.masks[int(indices[row])]) for row in chosen]
    # On the host: JAX would compile a program for every size.
    resized = [
        resize_logits_on_host(own, truth.shape)
        for own, truth in zip(np.asarray(logits), truths, strict=True)
    ]
    predictions = [(mend or _largest_logit)(own) for own in resized]
    captions = [
        f"{ranks[row]}: {scores.ids[row]}\nDice {scores.columns['dice'][row]:.3f}\n"
        f"HD95 {scores.columns['hd95'][row]:.1f} px"
        for row in chosen
    ]
    images = [film[..., 0] for film in films]
    names = list(scores.by_class)
    write_bytes(path, pictures.examples(images, truths, predictions, captions, names=names))


def _largest_logit(logits: np.ndarray) -> np.ndarray:
    """Labels ``[H, W]`` of one image's logits, 0 where a logit is NaN."""
    labels = logits[..., 0] > 0 if logits.shape[-1] == 1 else logits.argmax(axis=-1)
    return np.where(np.isnan(logits).any(axis=-1), 0, labels).astype(np.int32)


def _batches(
    arrays: ImageArrays, indices: np.ndarray, rows: int
) -> Iterator[tuple[np.ndarray, tuple[int, int]]]:
    """Batches of images, with a canvas that holds their masks.

    A program is compiled for each canvas: that of all masks, halved as often as a mask still fits.
    """
    sizes = np.array([arrays.mask_size(int(i)) for i in indices])
    largest = sizes.max(axis=0)
    halvings = np.log2(largest / sizes).min(axis=1).astype(int)
    for halving in np.unique(halvings):
        height, width = (-(-side // 2**halving) for side in largest.tolist())
        chosen = indices[halvings == halving]
        for start in range(0, len(chosen), rows):
            yield chosen[start : start + rows], (height, width)


def _on_canvas(masks: Sequence[np.ndarray], canvas: tuple[int, int]) -> dict[str, np.ndarray]:
    """Masks in the upper left corner of a canvas of background, and their sizes."""
    padded = np.zeros((len(masks), *canvas), np.uint8)
    for row, mask in zip(padded, masks, strict=True):
        row[: mask.shape[0], : mask.shape[1]] = mask
    return {"masks": padded, "sizes": np.array([mask.shape for mask in masks], np.int32)}


def _is_inside(sizes: Array, canvas: tuple[int, int]) -> jax.Array:
    """Which pixels of a canvas belong to each image, bool ``[B, *canvas]``."""
    rows, columns = (
        jnp.arange(length)[None] < sizes[:, i, None] for i, length in enumerate(canvas)
    )
    return rows[:, :, None] & columns[:, None, :]


def _resize_each(logits: Array, sizes: Array, canvas: tuple[int, int]) -> jax.Array:
    """Resizes each image's logits to its own size as `resize_logits`, on a canvas."""

    def resize(logits: jax.Array, size: jax.Array) -> jax.Array:
        for axis, length in enumerate(canvas):
            given = logits.shape[axis]
            scale = given / size[axis].astype(jnp.float32)
            position = (jnp.arange(length, dtype=jnp.float32) + 0.5) * scale - 0.5
            position = jnp.clip(position, 0.0, given - 1.0)
            before = position.astype(jnp.int32)
            after = jnp.minimum(before + 1, given - 1)
            weight = jnp.expand_dims(position - before.astype(jnp.float32), (1, 2))
            weight = weight.swapaxes(0, axis)
            first = jnp.take(logits, before, axis)
            logits = first + weight * (jnp.take(logits, after, axis) - first)
        return logits

    return jax.vmap(resize)(jnp.asarray(logits), jnp.asarray(sizes))


def _hd95_and_assd(distances: surface.SurfaceDistances) -> tuple[Array, Array]:
    return distances.hausdorff(95.0), distances.average()


def _distances(
    predicted: Array, actual: jax.Array, valid: Array | None, classes: int
) -> tuple[Array, Array]:
    """HD95 and ASSD ``[B, classes]`` of labels ``[B, H, W]``, for classes from 1 on.

    Infinite where an object is in one of the masks only, NaN where it is in none.
    """
    masks = [
        jnp.stack([labels == label for label in range(1, classes + 1)], axis=1).reshape(
            -1, *labels.shape[1:]
        )
        for labels in (predicted, actual)
    ]
    predicted, actual = masks
    where = None if valid is None else jnp.repeat(valid, classes, axis=0)
    hd95, assd = surface.measure(_hd95_and_assd, predicted, actual, where=where)
    return hd95.reshape(-1, classes), assd.reshape(-1, classes)


def _compiled(
    predict: Predict,
    mesh: Mesh,
    also: Mapping[str, Measure],
    mend: Callable[[np.ndarray], np.ndarray] | None,
) -> Callable[..., Any]:
    def decided(logits: jax.Array, sizes: jax.Array) -> Array:
        if mend is None:
            return metrics.predicted_labels(logits)
        shape = jax.ShapeDtypeStruct(logits.shape[:3], jnp.int32)
        return jax.pure_callback(functools.partial(_mended, mend), shape, logits, sizes)

    def score_rows(
        state: Any, films: dict[str, jax.Array]
    ) -> tuple[dict[str, Array], metrics.SoftDiceSums, metrics.CalibrationSums]:
        logits, masks = predict(state, films["images"]), films["masks"].astype(jnp.int32)
        labels, where = films["labels"].astype(jnp.int32), films.get("where")
        canvas, sizes = (masks.shape[1], masks.shape[2]), films["sizes"]
        # Beyond its mask the canvas is background, which a boundary may have next to it.
        is_inside = _is_inside(sizes, canvas)
        is_known = None if where is None else masks != IGNORED
        valid = is_inside if is_known is None else is_inside & is_known
        count = functools.partial(metrics.count, num_classes=logits.shape[-1])
        at_labels = resize_logits(logits, (labels.shape[1], labels.shape[2]))
        at_network_size = foreground(
            count(metrics.predicted_labels(at_labels), labels, where=where)
        )
        resized = _resize_each(logits, sizes, canvas)
        predicted = jnp.where(is_inside, decided(resized, sizes), 0)
        counts = count(predicted, masks, where=valid)
        objects = foreground(counts)
        # A film with pixels of no class has no distances either.
        hd95, assd = (
            jnp.where(objects.outside > 0, jnp.nan, values)
            for values in _distances(predicted, masks, is_known, objects.tp.shape[-1])
        )
        return (
            {
                "dice": metrics.dice(objects),
                "iou": metrics.iou(objects),
                "pixel_accuracy": metrics.pixel_accuracy(counts)[:, None],
                "precision": metrics.precision(objects),
                "recall": metrics.recall(objects),
                "dice_network_size": metrics.dice(at_network_size),
                "hd95": hd95,
                "assd": assd,
                **{
                    name: measure(state, films["images"])[:, None] for name, measure in also.items()
                },
            },
            metrics.soft_dice_sums(at_labels, labels, where=where),
            metrics.calibration_sums(resized, masks, where=valid),
        )

    return parallel.jit_batched(score_rows, mesh)


def _mended(mend: Callable[[np.ndarray], np.ndarray], logits: Array, sizes: Array) -> np.ndarray:
    """Labels of a batch's logits; no class where a logit is NaN, as `metrics.predicted_labels`."""
    logits = np.asarray(logits)
    labels = np.zeros(logits.shape[:3], np.int32)
    for row, image, (height, width) in zip(labels, logits, np.asarray(sizes), strict=True):
        row[:height, :width] = mend(image[:height, :width])
    return np.where(np.isnan(logits).any(axis=-1), np.int32(-1), labels)
