"""Draws the README's picture: ``PYTHONPATH=. python docs/picture.py``."""

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from experiments import figures
from jaxseg.data import phantom

SIDE = 256


def main() -> None:
    """Writes image.png next to this file."""
    sample = phantom.generate(2026, "Viral Pneumonia", 3, image_size=SIDE, mask_size=SIDE)
    figure = Figure(figsize=(7.5, 2.75), layout="constrained")
    panels = figure.subplots(1, 3)
    titles = ("image", "mask", "contour")
    for panel, picture, title in zip(
        panels, (sample.image, sample.mask, sample.image), titles, strict=True
    ):
        panel.imshow(picture, cmap="gray", vmin=0, vmax=255)
        panel.set_title(title, fontsize=9)
        panel.set(xticks=[], yticks=[])
    figures.draw_contour(panels[2], sample.mask > 0, figures.PREDICTION, "solid")
    FigureCanvasAgg(figure)
    figure.savefig(Path(__file__).with_name("image.png"), dpi=100)


if __name__ == "__main__":
    main()
