"""Draws the README's picture from a finished run of ``python -m experiments.train``.

    PYTHONPATH=. python docs/picture.py RUN

The film is a phantom of a seed that no run draws; the run's network has not seen it.
"""

import sys
from pathlib import Path

import jax
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from experiments import pictures, trained
from experiments.run_directory import RunDirectory
from jaxseg import inference, metrics
from jaxseg.data import phantom
from jaxseg.data.films import resize_film

SIDE = 256


def main(run: Path) -> None:
    """Writes film.png beside this file."""
    learnt = trained.load(RunDirectory(run))
    film = phantom.draw(2026, "Viral Pneumonia", 3, image_size=SIDE, mask_size=SIDE)
    seen = resize_film(film.image, learnt.configuration.size)
    logits = jax.jit(inference.make_predict(learnt.model))(learnt.state, seen[None, ..., None])
    labels = metrics.predicted_labels(inference.resize_logits(logits, (SIDE, SIDE)))
    mask = np.asarray(labels)[0] == 1

    figure = Figure(figsize=(7.5, 2.75), layout="constrained")
    panels = figure.subplots(1, 3)
    titles = ("film", "the network's mask", "network (dashed) and truth")
    for panel, picture, title in zip(panels, (film.image, mask, film.image), titles, strict=True):
        panel.imshow(picture, cmap="gray")
        panel.set_title(title, fontsize=9)
        panel.set(xticks=[], yticks=[])
    pictures.draw_contour(panels[2], film.mask > 0, pictures.TRUTH, "solid")
    pictures.draw_contour(panels[2], mask, pictures.PREDICTION, "dashed")
    FigureCanvasAgg(figure)
    figure.savefig(Path(__file__).with_name("film.png"), dpi=100)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
