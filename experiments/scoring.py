"""Scores images against their masks, at the masks' own sizes, with few compiled programs."""

import functools
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from experiments.command import Stopped, progress_bar, say
from experiments.scores import COLUMNS, NETWORK_SIZE, PER_IMAGE, Scores, foreground
from jaxseg import metrics, parallel, surface
from jaxseg.data.arrays import ImageArrays
from jaxseg.data.images import IGNORED
from jaxseg.resizing import resize_logits
from jaxseg.types import Array, Images, Logits

Predict = Callable[[Any, Images], Logits]
"""``predict(state, images)``: the logits of a batch."""

Measure = Callable[[Any, Images], jax.Array]
"""``measure(state, images)``: a number for each image, float ``[B]``."""

Postprocess = Callable[[np.ndarray], np.ndarray]
"""Labels int32 ``[H, W]`` of one image's logits ``[H, W, K]``, on the host."""


def score(
    predict: Predict,
    state: Any,
    arrays: ImageArrays,
    indices: np.ndarray,
    mesh: Mesh,
    *,
    rows: int,
    class_names: Sequence[str] = (),
    measures: Mapping[str, Measure] | None = None,
    postprocess: Postprocess | None = None,
    stop: parallel.Preemption | None = None,
) -> Scores:
    """Scores images against their masks.

    Logits are resized bilinearly to each mask's own size. There the label is sigmoid above 0.5, or
    the largest logit. Masks are padded to a few common sizes (canvases), so that few programs
    compile.

    Args:
        predict: One network, or several as one.
        state: Its state, on every device of the mesh.
        arrays: The images.
        indices: Which of them to score.
        mesh: The devices.
        rows: Images per batch, which the devices divide.
        class_names: Names of the classes without the background.
        measures: More columns of the table.
        postprocess: Decides the labels instead. Calibration and the scores at the training
            resolution do not use it.
        stop: Notices a preemption between batches.

    Returns:
        The scores, in the order of ``indices``; the same in every process.

    Raises:
        Stopped: The job was preempted.
    """
    say("compiling the evaluation")
    score_batch = _compiled(predict, mesh, measures or {}, postprocess)
    batches: list[np.ndarray] = []
    results: list[Any] = []
    with progress_bar("scoring", len(indices)) as bar:
        for batch, canvas in _batches(arrays, indices, rows):
            if stop is not None and stop.noticed():
                raise Stopped(None, "scoring was not finished")
            images = {name: array[batch] for name, array in arrays.trained_on().items()}
            images |= _on_canvas([np.asarray(arrays.masks[int(i)]) for i in batch], canvas)
            positions = np.pad(np.arange(len(batch)), (0, rows - len(batch)), constant_values=-1)
            taken = parallel.take_batch(images, positions, mesh, padded=True)
            result = parallel.gather_to_host(score_batch(state, taken))
            without_padding = operator.itemgetter(slice(len(batch)))
            results.append(jax.tree.map(without_padding, result))
            batches.append(batch)
            bar.update(len(batch))

    columns, soft_dice, calibration, confusion = jax.tree.map(
        lambda *leaves: np.concatenate(leaves), *results
    )
    position = {image: row for row, image in enumerate(np.concatenate(batches).tolist())}
    order = np.array([position[image] for image in indices.tolist()])
    # A distance is infinite if an object is in one of the masks only: then it is undefined here.
    columns = {
        name: np.where(np.isinf(values), np.nan, values)[order].astype(np.float64)
        for name, values in columns.items()
    }
    names = class_names if len(class_names) > 1 else ()
    return Scores(
        ids=[arrays.ids[i] for i in indices],
        classes=[arrays.classes[i] for i in indices],
        groups=[arrays.groups[i] for i in indices],
        columns={
            name: np.asarray(metrics.mean_over_classes(values)) for name, values in columns.items()
        }
        | {
            f"{column}_{name}": columns[column][:, i]
            for i, name in enumerate(names)
            for column in COLUMNS
            if column != PER_IMAGE
        },
        soft_dice_pooled=float(
            foreground(metrics.soft_dice_score(metrics.pooled(soft_dice))).mean()
        ),
        calibration=metrics.pooled(calibration),
        confusion=confusion.astype(np.int64).sum(axis=0),
        by_class=names,
    )


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
    shape = (*canvas, logits.shape[-1])

    def resize(logits: jax.Array, size: jax.Array) -> jax.Array:
        scale = size.astype(jnp.float32) / jnp.array(logits.shape[:2], jnp.float32)
        return jax.image.scale_and_translate(
            logits, shape, (0, 1), scale, jnp.zeros(2), "linear", antialias=False
        )

    return jax.vmap(resize)(jnp.asarray(logits), jnp.asarray(sizes))


def _hd95_and_assd(distances: surface.SurfaceDistances) -> tuple[Array, Array]:
    return distances.hausdorff(95.0), distances.average()


def _distances(
    predicted: Array, actual: Array, where: Array | None, classes: int
) -> tuple[Array, Array]:
    """HD95 and ASSD ``[B, classes]`` of labels ``[B, H, W]``, for classes from 1 on.

    Infinite where an object is in one of the masks only, NaN where it is in none.
    """

    def masks(labels: Array) -> jax.Array:
        stacked = jnp.stack([labels == label for label in range(1, classes + 1)], axis=1)
        return stacked.reshape(-1, *labels.shape[1:])

    where = None if where is None else jnp.repeat(where, classes, axis=0)
    both = surface.measure(_hd95_and_assd, masks(predicted), masks(actual), where=where)
    hd95, assd = (values.reshape(-1, classes) for values in both)
    return hd95, assd


def _compiled(
    predict: Predict, mesh: Mesh, measures: Mapping[str, Measure], postprocess: Postprocess | None
) -> Callable[..., Any]:
    def predicted_labels(logits: jax.Array, sizes: jax.Array) -> Array:
        if postprocess is None:
            return metrics.predicted_labels(logits)
        shape = jax.ShapeDtypeStruct(logits.shape[:3], jnp.int32)
        return jax.pure_callback(functools.partial(_apply, postprocess), shape, logits, sizes)

    def score_batch(
        state: Any, batch: dict[str, jax.Array]
    ) -> tuple[dict[str, Array], Any, Any, Any]:
        images, sizes, where = batch["images"], batch["sizes"], batch.get("where")
        masks, labels = batch["masks"].astype(jnp.int32), batch["labels"].astype(jnp.int32)
        logits = predict(state, images)
        count = functools.partial(metrics.count, num_classes=logits.shape[-1])

        at_labels = resize_logits(logits, (labels.shape[1], labels.shape[2]))
        labels_counts = count(metrics.predicted_labels(at_labels), labels, where=where)

        canvas = (masks.shape[1], masks.shape[2])
        resized = _resize_each(logits, sizes, canvas)
        # Beyond its mask the canvas is background, which a boundary may have next to it.
        is_inside = _is_inside(sizes, canvas)
        is_known = None if where is None else masks != IGNORED
        valid = is_inside if is_known is None else is_inside & is_known
        predicted = jnp.where(is_inside, predicted_labels(resized, sizes), 0)
        counts = count(predicted, masks, where=valid)
        objects = foreground(counts)
        # An image whose logits are NaN has no distances either.
        hd95, assd = (
            jnp.where(objects.outside > 0, jnp.nan, values)
            for values in _distances(predicted, masks, is_known, objects.tp.shape[-1])
        )
        columns = {
            "dice": metrics.dice(objects),
            "iou": metrics.iou(objects),
            "hd95": hd95,
            "assd": assd,
            "pixel_accuracy": metrics.pixel_accuracy(counts)[:, None],
            "precision": metrics.precision(objects),
            "recall": metrics.recall(objects),
            NETWORK_SIZE: metrics.dice(foreground(labels_counts)),
        }
        columns |= {name: measure(state, images)[:, None] for name, measure in measures.items()}
        soft_dice = metrics.soft_dice_sums(at_labels, labels, where=where)
        calibration = metrics.calibration_sums(resized, masks, where=valid)
        confusion = metrics.confusion_matrix(
            predicted, masks, num_classes=max(2, logits.shape[-1]), where=valid
        )
        return columns, soft_dice, calibration, confusion

    return parallel.jit_batched(score_batch, mesh)


def _apply(postprocess: Postprocess, logits: Array, sizes: Array) -> np.ndarray:
    """Labels of a batch's logits; -1 where a logit is NaN, as `metrics.predicted_labels`."""
    logits = np.asarray(logits)
    labels = np.zeros(logits.shape[:3], np.int32)
    for row, image, (height, width) in zip(labels, logits, np.asarray(sizes), strict=True):
        row[:height, :width] = postprocess(image[:height, :width])
    return np.where(np.isnan(logits).any(axis=-1), np.int32(-1), labels)
