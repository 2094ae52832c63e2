"""Pictures of images with their ground truth and prediction."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments import figures, files
from experiments.postprocessing import Postprocessing
from experiments.scores import Scores
from experiments.scoring import Postprocess, Predict
from jaxseg import parallel
from jaxseg.data.arrays import ImageArrays
from jaxseg.resizing import resize_logits_on_host


def draw_examples(
    path: Path,
    predict: Predict,
    state: Any,
    arrays: ImageArrays,
    indices: np.ndarray,
    scores: Scores,
    *,
    postprocess: Postprocess | None = None,
) -> None:
    """Draws the images with the lowest Dice, the median image and the best ones."""
    order = scores.worst_first()
    ranks: dict[int, str] = dict.fromkeys(order[-2:], "best")
    if len(order):
        ranks[order[len(order) // 2]] = "median"
    ranks |= dict(zip(order, ("worst", "2nd worst", "3rd worst"), strict=False))
    chosen = [row for row in order if row in ranks]
    if not chosen:
        path.unlink(missing_ok=True)  # An older picture would pass for this one.
        return
    captions = [
        f"{ranks[row]}: {scores.ids[row]}\nDice {scores.columns['dice'][row]:.3f}\n"
        f"HD95 {scores.columns['hd95'][row]:.1f} px"
        for row in chosen
    ]
    drawn = draw_predictions(
        predict, state, arrays, indices[chosen], captions, names=scores.by_class,
        postprocess=postprocess,
    )  # fmt: skip
    files.write_bytes(path, drawn)


def draw_predictions(
    predict: Predict,
    state: Any,
    arrays: ImageArrays,
    indices: np.ndarray,
    captions: Sequence[str],
    *,
    names: Sequence[str] = (),
    postprocess: Postprocess | None = None,
) -> bytes:
    """Returns a picture with image, ground truth, prediction and contours, a row per image."""
    images = np.stack([arrays.images[i] for i in indices])
    logits = np.asarray(jax.jit(predict)(parallel.local_copy(state), images))
    truths = [np.asarray(arrays.masks[int(i)]) for i in indices]
    # On the host: JAX would compile a program for every size.
    resized = [
        resize_logits_on_host(own, truth.shape) for own, truth in zip(logits, truths, strict=True)
    ]
    predicted = [(postprocess or Postprocessing().labels)(own) for own in resized]
    return figures.examples(list(images), truths, predicted, captions, names=names)
