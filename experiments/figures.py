"""The figures of runs: curves, calibration, and images with masks."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageColor
from scipy import ndimage

TRUTH = "#0072b2"
PREDICTION = "#d55e00"
"""Blue and vermilion, which color-blind readers can tell apart (Okabe and Ito)."""

CLASS_COLORS = ("#d55e00", "#56b4e9", "#009e73", "#f0e442", "#cc79a7")
"""Colors of the same palette for class 1, 2, ..."""


def curves(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Draws loss and validation Dice over the epochs; returns a PNG."""
    validated = [row for row in rows if row.get("validation_dice") is not None]
    figure = Figure(figsize=(9 if validated else 5, 3.2), layout="constrained")
    panels = figure.subplots(1, 2 if validated else 1, squeeze=False)[0]
    style: dict[str, Any] = {"marker": "o" if len(rows) < 40 else None, "ms": 3}
    dashed = style | {"color": PREDICTION, "ls": "--"}

    epochs, loss = zip(*((row["epoch"], row["loss"]) for row in rows), strict=True)
    panels[0].plot(epochs, loss, color=TRUTH, label="training", **style)
    if validated:
        names = ("epoch", "validation_loss", "validation_dice")
        epochs, loss, dice = zip(*([row[name] for name in names] for row in validated), strict=True)
        panels[0].plot(epochs, loss, label="validation", **dashed)
        panels[0].legend(frameon=False)
        panels[1].plot(epochs, dice, **dashed)
        panels[1].set(xlabel="epoch", ylabel="mean Dice, validation images")
    panels[0].set(xlabel="epoch", ylabel="loss", ylim=(0, None))
    return _png(figure, panels)


def examples(
    images: Sequence[np.ndarray],
    truths: Sequence[np.ndarray],
    predictions: Sequence[np.ndarray],
    captions: Sequence[str],
    *,
    names: Sequence[str] = (),
) -> bytes:
    """Draws image, ground truth, prediction and both contours, a row per image; returns a PNG.

    Args:
        images: uint8 ``[H, W, C]``, gray or RGB.
        truths: Class ids ``[Hm, Wm]``, 0 is background; other values than classes are not drawn.
        predictions: Class ids of the same shape as the image's ground truth.
        captions: Text next to each row.
        names: Names of several classes without the background, for the legend.
    """
    classes = max(1, len(names))
    values = [255] if classes == 1 else range(1, classes + 1)
    figure = Figure(figsize=(10.6, 2.55 * len(images) + 0.35), layout="constrained")
    axes = figure.subplots(len(images), 4, squeeze=False)
    titles = ("image", "ground truth", "prediction", "both contours")
    for panel, title in zip(axes[0], titles, strict=True):
        panel.set_title(title, fontsize=10)
    for panels, image, truth, predicted, caption in zip(
        axes, images, truths, predictions, captions, strict=True
    ):
        shown = rgb(image).resize(truth.shape[::-1], Image.Resampling.BILINEAR)
        masks = (
            mask(np.where(labels <= classes, labels, 0), values).convert("RGB")
            for labels in (truth, predicted)
        )
        for panel, picture in zip(panels, (shown, *masks, shown), strict=True):
            panel.imshow(picture)
            panel.set(xticks=[], yticks=[])
        panels[0].set_ylabel(caption, fontsize=8, parse_math=False)
        for label in range(1, classes + 1):
            color = None if classes == 1 else _color(label)
            draw_contour(panels[3], truth == label, color or TRUTH, "solid")
            draw_contour(panels[3], predicted == label, color or PREDICTION, "dashed")
    lines = [("ground truth", TRUTH, "-"), ("prediction", PREDICTION, "--")]
    if classes > 1:
        lines = [(name, "black", style) for name, _, style in lines]
        lines += [(name, _color(label), "-") for label, name in enumerate(names, 1)]
    for name, color, style in lines:
        label = name.replace("$", r"\$")  # Else Matplotlib reads mathematics.
        axes[0, 3].plot([], [], color=color, ls=style, lw=1.4, label=label)
    figure.legend(loc="outside lower right", ncols=9, frameon=False, fontsize=9)
    return _png(figure)


def reliability(bins: Mapping[str, Sequence[float | None]]) -> bytes:
    """Draws a reliability diagram and the fraction of pixels in each bin; returns a PNG.

    Args:
        bins: ``confidence``, ``frequency`` and ``fraction`` of every bin, None in empty ones.
    """
    figure = Figure(figsize=(4.6, 4.4), layout="constrained")
    upper, lower = figure.subplots(2, 1, height_ratios=(3, 1), sharex=True)
    confidence, frequency, fraction = (
        np.array(bins[column], np.float64) for column in ("confidence", "frequency", "fraction")
    )
    filled = ~np.isnan(confidence)
    upper.plot([0, 1], [0, 1], color="#999999", lw=0.8)
    upper.plot(confidence[filled], frequency[filled], color=TRUTH, marker="o", ms=3)
    lower.plot(confidence[filled], fraction[filled], color=TRUTH, marker="o", ms=3)
    upper.set(ylabel="observed frequency", xlim=(0, 1), ylim=(0, 1))
    lower.set(xlabel="predicted probability", ylabel="fraction of pixels", yscale="log")
    return _png(figure, (upper, lower))


def draw_contour(panel: Any, mask: np.ndarray, color: str, style: str) -> None:
    """Draws a mask's contour, also where it touches the border."""
    if mask.any():
        framed = np.pad(mask.astype(np.float32), 1)
        rows, columns = (np.arange(-1, side + 1) for side in mask.shape)
        panel.contour(columns, rows, framed, [0.5], colors=color, linewidths=1.2, linestyles=style)
    panel.set(xlim=(-0.5, mask.shape[1] - 0.5), ylim=(mask.shape[0] - 0.5, -0.5))


def overlay(image: np.ndarray, labels: np.ndarray) -> Image.Image:
    """Returns the image with each class tinted and its edge drawn.

    Args:
        image: uint8 ``[H, W, C]``, gray or RGB.
        labels: Class ids ``[H, W]``, 0 is background.
    """
    picture = np.asarray(rgb(image)).astype(np.float32)
    width = max(1, round(min(labels.shape) / 256))
    for label in range(1, int(labels.max(initial=0)) + 1):
        mask = labels == label
        color = np.array(ImageColor.getrgb(_color(label)), np.float32)
        picture[mask] = 0.8 * picture[mask] + 0.2 * color
        inside = ndimage.minimum_filter(mask, 2 * width + 1, mode="nearest")
        picture[mask != inside] = color
    return Image.fromarray(picture.astype(np.uint8))


def mask(labels: np.ndarray, values: Sequence[int]) -> Image.Image:
    """Returns a mask with a value per class: gray for one class, else with a palette of colors.

    Args:
        labels: Class ids ``[H, W]``, 0 is background.
        values: The value of class 1, of class 2 and so on, 1 to 255. Background is 0.
    """
    pixels = np.array([0, *values], np.uint8)[labels]
    if len(values) == 1:
        return Image.fromarray(pixels)
    picture = Image.fromarray(pixels).convert("P")
    palette = np.zeros((256, 3), np.uint8)
    colors = [ImageColor.getrgb(_color(label)) for label in range(1, len(values) + 1)]
    palette[list(values)] = colors
    picture.putpalette(palette.tobytes())
    return picture


def rgb(image: np.ndarray) -> Image.Image:
    """Returns a gray or RGB image, uint8 ``[H, W, C]``, as RGB."""
    return Image.fromarray(np.broadcast_to(image, (*image.shape[:2], 3)))


def _color(label: int) -> str:
    return CLASS_COLORS[(label - 1) % len(CLASS_COLORS)]


def _png(figure: Figure, plots: Sequence[Any] = ()) -> bytes:
    for panel in plots:
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(axis="y", alpha=0.3)
    FigureCanvasAgg(figure)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110)
    return content.getvalue()
