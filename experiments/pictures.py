"""The pictures of a run: curves, and films beside truth and prediction."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

TRUTH = "#0072b2"
PREDICTION = "#d55e00"
"""Blue and vermilion, which colour-blind readers tell apart (Okabe and Ito)."""

OBJECTS = ((213, 94, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (204, 121, 167))
"""Vermilion, sky blue, bluish green, yellow and purple of the same, for classes 1, 2 and so on."""


def curves(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Loss, and Dice on validation films where there are any, over the epochs; a PNG."""
    epochs = [row["epoch"] for row in rows]
    validated = [row for row in rows if row.get("validation_dice") is not None]
    figure = Figure(figsize=(9 if validated else 5, 3.2), layout="constrained")
    panels = figure.subplots(1, 2 if validated else 1, squeeze=False)[0]
    marker = "o" if len(rows) < 40 else None
    panels[0].plot(
        epochs, [row["loss"] for row in rows], color=TRUTH, marker=marker, ms=3, label="training"
    )
    if validated:
        panels[0].plot(
            [row["epoch"] for row in validated],
            [row["validation_loss"] for row in validated],
            color=PREDICTION,
            marker=marker,
            ms=3,
            ls="--",
            label="validation",
        )
        panels[0].legend(frameon=False)
        panels[1].plot(
            [row["epoch"] for row in validated],
            [row["validation_dice"] for row in validated],
            color=PREDICTION,
            marker=marker,
            ms=3,
            ls="--",
        )
        panels[1].set(xlabel="epoch", ylabel="mean Dice on validation films")
    panels[0].set(xlabel="epoch", ylabel="loss", ylim=(0, None))
    for panel in panels:
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(axis="y", alpha=0.3)
    return _png(figure)


def examples(
    films: Sequence[np.ndarray],
    truths: Sequence[np.ndarray],
    predictions: Sequence[np.ndarray],
    captions: Sequence[str],
) -> bytes:
    """Film, truth, prediction and both contours on the film, a row each; a PNG.

    Args:
        films: uint8 ``[H, W]``.
        truths: Class ids ``[Hm, Wm]`` each, 0 the background.
        predictions: The same, each of its truth's shape.
        captions: What stands beside each row.
    """
    classes = max(1, *(int(labels.max()) for labels in (*truths, *predictions)))
    figure = Figure(figsize=(10.6, 2.55 * len(films) + 0.35), layout="constrained")
    axes = figure.subplots(len(films), 4, squeeze=False)
    for column, title in enumerate(("film", "truth", "prediction", "both on the film")):
        axes[0, column].set_title(title, fontsize=10)
    for panels, film, truth, predicted, caption in zip(
        axes, films, truths, predictions, captions, strict=True
    ):
        film = np.asarray(
            Image.fromarray(film).resize(truth.shape[::-1], Image.Resampling.BILINEAR)
        )
        brightest = (255, classes, classes, 255)
        for panel, picture, white in zip(
            panels, (film, truth, predicted, film), brightest, strict=True
        ):
            panel.imshow(picture, cmap="gray", vmin=0, vmax=white)
            panel.set(xticks=[], yticks=[])
        panels[0].set_ylabel(caption, fontsize=8)
        for label in range(1, classes + 1):
            draw_contour(panels[3], truth == label, TRUTH, "solid")
            draw_contour(panels[3], predicted == label, PREDICTION, "dashed")
    handles = [
        axes[0, 3].plot([], [], color=color, ls=style, lw=1.4)[0]
        for color, style in ((TRUTH, "solid"), (PREDICTION, "dashed"))
    ]
    figure.legend(
        handles, ["truth", "prediction"], loc="outside lower right", ncols=2, frameon=False,
        fontsize=9,
    )  # fmt: skip
    return _png(figure)


def draw_contour(panel: Any, mask: np.ndarray, color: str, style: str) -> None:
    """Draws a mask's outline, also where it touches the border."""
    framed = np.pad(mask.astype(np.float32), 1)
    if mask.any():
        rows, columns = (np.arange(-1, side + 1) for side in mask.shape)
        panel.contour(columns, rows, framed, [0.5], colors=color, linewidths=1.2, linestyles=style)
    panel.set(xlim=(-0.5, mask.shape[1] - 0.5), ylim=(mask.shape[0] - 0.5, -0.5))


def overlay(film: np.ndarray, labels: np.ndarray) -> Image.Image:
    """The film with each object's pixels tinted and its edge drawn, at the film's own size.

    Args:
        film: uint8 ``[H, W]``.
        labels: ``[H, W]`` class numbers, 0 the background; or bool.
    """
    picture = np.repeat(film[..., None], 3, axis=2).astype(np.float32)
    width = max(1, round(min(film.shape) / 256))
    for number in range(1, int(labels.max(initial=0)) + 1):
        mask, colour = labels == number, np.array(_colour(number), np.float32)
        picture[mask] = 0.8 * picture[mask] + 0.2 * colour
        picture[_edge(mask, width)] = colour
    return Image.fromarray(picture.astype(np.uint8))


def mask(labels: np.ndarray, *, classes: int) -> Image.Image:
    """A mask as a picture: 0 and 255 for one class, else class numbers with a palette of colours.

    Args:
        labels: ``[H, W]`` class numbers, 0 the background.
        classes: How many there are besides the background; at most 255.
    """
    if classes == 1:
        return Image.fromarray((labels == 1).astype(np.uint8) * 255)
    picture = Image.fromarray(labels.astype(np.uint8)).convert("P")
    colours = [(0, 0, 0), *(_colour(number) for number in range(1, classes + 1))]
    picture.putpalette([value for colour in colours for value in colour])
    return picture


def _colour(number: int) -> tuple[int, int, int]:
    return OBJECTS[(number - 1) % len(OBJECTS)]


def _edge(mask: np.ndarray, width: int) -> np.ndarray:
    inside = np.pad(mask, width, mode="edge")
    eroded = mask.copy()
    rows, columns = mask.shape
    for shift in range(2 * width + 1):
        eroded &= inside[shift : shift + rows, width : width + columns]
        eroded &= inside[width : width + rows, shift : shift + columns]
    return mask & ~eroded


def _png(figure: Figure) -> bytes:
    FigureCanvasAgg(figure)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110)
    return content.getvalue()
