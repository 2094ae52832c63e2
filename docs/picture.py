"""Draws the README's picture: ``PYTHONPATH=. python docs/picture.py``."""

from pathlib import Path

import jax
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from experiments import figures
from jaxseg import inference, metrics, pretrained
from jaxseg.data import phantom
from jaxseg.data.images import resize_image

SIDE = 256


def main() -> None:
    """Writes image.png next to this file."""
    sample = phantom.generate(2026, "Viral Pneumonia", 3, image_size=SIDE, mask_size=SIDE)
    model, variables = pretrained.lungs()
    logits = model.apply(variables, resize_image(sample.image[..., None], 128)[None])
    assert isinstance(logits, jax.Array)
    labels = metrics.predicted_labels(inference.resize_logits(logits, (SIDE, SIDE)))
    predicted = np.asarray(labels)[0] == 1
    figure = Figure(figsize=(7.5, 2.75), layout="constrained")
    panels = figure.subplots(1, 3)
    titles = ("image", "predicted mask", "prediction (line), truth (dashed)")
    for panel, picture, title in zip(
        panels, (sample.image, 255 * predicted, sample.image), titles, strict=True
    ):
        panel.imshow(picture, cmap="gray", vmin=0, vmax=255)
        panel.set_title(title, fontsize=9)
        panel.set(xticks=[], yticks=[])
    figures.draw_contour(panels[2], predicted, figures.PREDICTION, "solid")
    figures.draw_contour(panels[2], sample.mask > 0, figures.TRUTH, "dashed")
    FigureCanvasAgg(figure)
    figure.savefig(Path(__file__).with_name("image.png"), dpi=100)


if __name__ == "__main__":
    main()
