"""The figures of runs: curves, distributions, and images with masks."""

import io
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from PIL import Image

TRUTH = "#0072b2"
PREDICTION = "#d55e00"
"""Blue and vermilion, which color-blind readers can tell apart (Okabe and Ito)."""

LINES = (
    (TRUTH, "-"), (PREDICTION, "--"), ("#009e73", "-."), ("#cc79a7", ":"), ("#56b4e9", (0, (6, 2))),
)  # fmt: skip
"""Colors of the same palette, each with its own dashes for print in gray."""

CLASS_COLORS = ((213, 94, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (204, 121, 167))
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
            color = None if classes == 1 else _hex(label)
            draw_contour(panels[3], truth == label, color or TRUTH, "solid")
            draw_contour(panels[3], predicted == label, color or PREDICTION, "dashed")
    lines = [("ground truth", TRUTH, "-"), ("prediction", PREDICTION, "--")]
    if classes > 1:
        lines = [(name, "black", style) for name, _, style in lines]
        lines += [(name, _hex(label), "-") for label, name in enumerate(names, 1)]
    _legend(figure, axes[0, 3], lines)
    return _png(figure)


def distributions(named: Mapping[str, Mapping[str, np.ndarray]]) -> bytes | None:
    """Draws the cumulative distributions of Dice and HD95 over images; returns a PNG.

    Args:
        named: For each name in the legend, the columns ``dice`` and ``hd95``. NaN is left out.

    Returns:
        The PNG, or None if all columns have fewer than two values.
    """
    columns = {
        column: title
        for column, title in (("dice", "Dice"), ("hd95", "HD95, px"))
        if any(np.isfinite(scores[column]).sum() > 1 for scores in named.values())
    }
    if not columns:
        return None
    height = 3.2 + _legend_height(named)
    figure = Figure(figsize=(4.6 * len(columns), height), layout="constrained")
    panels = figure.subplots(1, len(columns), squeeze=False)[0]
    for panel, (column, title) in zip(panels, columns.items(), strict=True):
        for (name, scores), (color, dashes) in zip(named.items(), itertools.cycle(LINES)):
            values = np.sort(scores[column][np.isfinite(scores[column])])
            fractions = np.arange(1, len(values) + 1) / max(1, len(values))
            label = literal(name)
            panel.step(values, fractions, where="post", color=color, ls=dashes, label=label)
        panel.set(xlabel=title, ylabel="fraction of images at or below", ylim=(0, 1.02))
    _legend_above(figure, panels[0])
    return _png(figure, panels)


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


def uncertainty(
    images: Sequence[np.ndarray],
    masks: np.ndarray,
    maps: np.ndarray,
    captions: Sequence[str],
    names: Sequence[str],
) -> bytes:
    """Draws image, contours of all networks and mutual information; returns a PNG.

    Args:
        images: uint8 ``[H, W, C]``.
        masks: Class ids ``[networks, images, H, W]``, 0 is background.
        maps: Mutual information ``[images, H, W]`` in nats.
        captions: Text next to each row.
        names: Names of the networks.
    """
    figure = Figure(figsize=(8.4, 2.55 * len(images) + 0.35), layout="constrained")
    axes = figure.subplots(len(images), 3, squeeze=False)
    titles = ("image", "contours of all networks", "mutual information (nats)")
    for panel, title in zip(axes[0], titles, strict=True):
        panel.set_title(title, fontsize=10)
    shades = Normalize(0, max(float(maps.max()), 1e-6))
    for i, (panels, caption) in enumerate(zip(axes, captions, strict=True)):
        for panel in panels[:2]:
            panel.imshow(rgb(images[i]))
        for labels, (color, _) in zip(masks[:, i], itertools.cycle(LINES)):
            for label in range(1, int(labels.max()) + 1):
                draw_contour(panels[1], labels == label, color, "solid")
        panels[2].imshow(maps[i], cmap="cividis", norm=shades)
        for panel in panels:
            panel.set(xticks=[], yticks=[])
        panels[0].set_ylabel(caption, fontsize=8, parse_math=False)
    figure.colorbar(ScalarMappable(shades, "cividis"), ax=axes[:, 2], shrink=0.6)
    lines = zip(names, itertools.cycle(LINES))
    _legend(figure, axes[0, 1], [(name, color, "-") for name, (color, _) in lines])
    return _png(figure)


def contact_sheet(pairs: Sequence[tuple[np.ndarray, np.ndarray, str]], title: str) -> bytes:
    """Draws pairs of images, uint8 ``[H, W]``, with difference and caption; returns a PNG."""
    rows = -(-len(pairs) // 2)
    figure = Figure(figsize=(14.4, 2.55 * rows + 0.5), layout="constrained")
    figure.suptitle(f"{title}; right: their difference, gray where they agree", fontsize=11)
    axes = figure.subplots(rows, 6, squeeze=False).reshape(-1, 3)
    for panel in axes.flat:
        panel.set_axis_off()
    for panels, (first, second, caption) in zip(axes, pairs, strict=False):
        difference = 127.5 + (first.astype(np.float32) - second) / 2
        for panel, picture in zip(panels, (first, second, difference), strict=True):
            panel.imshow(picture, cmap="gray", vmin=0, vmax=255)
        panels[0].set_title(caption, fontsize=8, loc="left", parse_math=False)
    return _png(figure)


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
        mask, color = labels == label, np.array(_color(label), np.float32)
        picture[mask] = 0.8 * picture[mask] + 0.2 * color
        picture[_edge(mask, width)] = color
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
    palette[list(values)] = [_color(label) for label in range(1, len(values) + 1)]
    picture.putpalette(palette.tobytes())
    return picture


def rgb(image: np.ndarray) -> Image.Image:
    """Returns a gray or RGB image, uint8 ``[H, W, C]``, as RGB."""
    return Image.fromarray(np.broadcast_to(image, (*image.shape[:2], 3)))


def literal(text: str) -> str:
    """Returns text in which Matplotlib finds no mathematics."""
    return text.replace("$", r"\$")


def _legend(figure: Figure, panel: Any, lines: Sequence[tuple[str, str, str]]) -> None:
    """Explains lines by name, color and style."""
    handles = [panel.plot([], [], color=color, ls=style, lw=1.4)[0] for _, color, style in lines]
    names = [literal(name) for name, *_ in lines]
    figure.legend(handles, names, loc="outside lower right", ncols=9, frameon=False, fontsize=9)


def _legend_height(named: Mapping[str, Any]) -> float:
    """Inches that `_legend_above` takes."""
    return 0.2 * len(named) if len(named) > 1 else 0.0


def _legend_above(figure: Figure, panel: Any) -> None:
    """Names a panel's lines above the figure; a single line needs no name."""
    handles, names = panel.get_legend_handles_labels()
    if len(names) > 1:
        figure.legend(handles, names, loc="outside upper left", frameon=False, fontsize=8)


def _color(label: int) -> tuple[int, int, int]:
    return CLASS_COLORS[(label - 1) % len(CLASS_COLORS)]


def _hex(label: int) -> str:
    return "#" + bytes(_color(label)).hex()


def _edge(mask: np.ndarray, width: int) -> np.ndarray:
    padded = np.pad(mask, width, mode="edge")
    eroded = mask.copy()
    rows, columns = mask.shape
    for shift in range(2 * width + 1):
        eroded &= padded[shift : shift + rows, width : width + columns]
        eroded &= padded[width : width + rows, shift : shift + columns]
    return mask & ~eroded


def _png(figure: Figure, plots: Sequence[Any] = ()) -> bytes:
    for panel in plots:
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(axis="y", alpha=0.3)
    FigureCanvasAgg(figure)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110)
    return content.getvalue()
