"""The pictures of a run: curves, and films beside truth and prediction."""

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
"""Blue and vermilion, which colour-blind readers tell apart (Okabe and Ito)."""

LINES = (
    ("#0072b2", "solid"),
    ("#d55e00", "dashed"),
    ("#009e73", "dashdot"),
    ("#cc79a7", "dotted"),
    ("#56b4e9", (0, (6, 1, 1, 1, 1, 1))),
    ("#000000", (0, (1, 3))),
)
"""Colours of the same, each with a stroke of its own, so that print in grey tells them apart."""

OBJECTS = ((213, 94, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (204, 121, 167))
"""Vermilion, sky blue, bluish green, yellow and purple of the same, for classes 1, 2 and so on."""


def literal(text: str) -> str:
    """Returns text in which Matplotlib takes no dollar sign for mathematics."""
    return text.replace("$", r"\$")


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
        _plain(panel)
    return _png(figure)


def examples(
    films: Sequence[np.ndarray],
    truths: Sequence[np.ndarray],
    predictions: Sequence[np.ndarray],
    captions: Sequence[str],
    *,
    names: Sequence[str] = (),
) -> bytes:
    """Film, truth, prediction and both contours on the film, a row each; a PNG.

    Of several classes each has a colour of its own.

    Args:
        films: uint8 ``[H, W]``.
        truths: Class ids ``[Hm, Wm]`` each, 0 the background.
        predictions: The same, each of its truth's shape.
        captions: What stands beside each row.
        names: Of the classes but the background, for the legend.
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
        shown = (mask(labels, classes=classes).convert("RGB") for labels in (truth, predicted))
        for panel, picture in zip(panels, (film, *shown, film), strict=True):
            panel.imshow(picture, cmap="gray", vmin=0, vmax=255)
            panel.set(xticks=[], yticks=[])
        panels[0].set_ylabel(caption, fontsize=8, parse_math=False)
        for label in range(1, classes + 1):
            of_class = None if classes == 1 else _hex(label)
            draw_contour(panels[3], truth == label, of_class or TRUTH, "solid")
            draw_contour(panels[3], predicted == label, of_class or PREDICTION, "dashed")
    lines = [("truth", TRUTH, "-"), ("prediction", PREDICTION, "--")]
    if classes > 1:
        lines = [(name, "black", style) for name, _, style in lines]
        lines += [(name, _hex(label), "-") for label, name in enumerate(names, 1)]
    _legend(figure, axes[0, 3], lines)
    return _png(figure)


def distributions(
    named: Mapping[str, Mapping[str, np.ndarray]], columns: Mapping[str, str]
) -> bytes:
    """The share of films that score at most so much, a line for each set of scores; a PNG.

    Args:
        named: By what the legend calls it, a value per film for each column; NaN is left out.
        columns: What each panel shows, and how its axis is called.
    """
    height = 3.2 + _legend_height(named)
    figure = Figure(figsize=(4.6 * len(columns), height), layout="constrained")
    panels = figure.subplots(1, len(columns), squeeze=False)[0]
    for panel, (column, title) in zip(panels, columns.items(), strict=True):
        for (name, scores), (color, stroke) in zip(named.items(), itertools.cycle(LINES)):
            values = np.sort(scores[column][~np.isnan(scores[column])])
            shares = np.arange(1, len(values) + 1) / max(1, len(values))
            panel.step(values, shares, where="post", color=color, ls=stroke, label=literal(name))
        panel.set(xlabel=title, ylabel="share of films at or below", ylim=(0, 1.02))
        _plain(panel)
    _legend_above(figure, panels[0])
    return _png(figure)


def reliability(named: Mapping[str, Mapping[str, Sequence[float | None]]]) -> bytes:
    """How often pixels are what the network says, over how sure it is; a PNG.

    Args:
        named: By what the legend calls it, ``confidence``, ``frequency`` and ``share`` of every
            bin, None in empty ones.
    """
    figure = Figure(figsize=(4.6, 4.4 + _legend_height(named)), layout="constrained")
    upper, lower = figure.subplots(2, 1, height_ratios=(3, 1), sharex=True)
    upper.plot([0, 1], [0, 1], color="#999999", lw=0.8)
    for (name, bins), (color, stroke) in zip(named.items(), itertools.cycle(LINES)):
        confidence, frequency, share = (
            np.array(bins[part], np.float64) for part in ("confidence", "frequency", "fraction")
        )
        some = ~np.isnan(confidence)
        upper.plot(
            confidence[some],
            frequency[some],
            color=color,
            ls=stroke,
            marker="o",
            ms=3,
            label=literal(name),
        )
        lower.plot(confidence[some], share[some], color=color, ls=stroke, marker="o", ms=3)
    upper.set(ylabel="share that is so", xlim=(0, 1), ylim=(0, 1))
    lower.set(xlabel="probability", ylabel="share of pixels", yscale="log")
    for panel in (upper, lower):
        _plain(panel)
    _legend_above(figure, upper)
    return _png(figure)


def uncertainty(
    films: np.ndarray,
    masks: np.ndarray,
    maps: np.ndarray,
    captions: Sequence[str],
    names: Sequence[str],
) -> bytes:
    """Film, the members' outlines on it, and where they disagree, a row each; a PNG.

    Args:
        films: uint8 ``[films, H, W]``.
        masks: Class ids ``[members, films, H, W]``, 0 the background.
        maps: Mutual information ``[films, H, W]`` in nats.
        captions: What stands beside each row.
        names: Of the members.
    """
    figure = Figure(figsize=(8.4, 2.55 * len(films) + 0.35), layout="constrained")
    axes = figure.subplots(len(films), 3, squeeze=False)
    titles = ("film", "every network's outlines", "mutual information, nats")
    for panel, title in zip(axes[0], titles, strict=True):
        panel.set_title(title, fontsize=10)
    shades = Normalize(0, max(float(maps.max()), 1e-6))
    for number, (panels, caption) in enumerate(zip(axes, captions, strict=True)):
        for panel in panels[:2]:
            panel.imshow(films[number], cmap="gray", vmin=0, vmax=255)
        for own, (color, _) in zip(masks[:, number], itertools.cycle(LINES)):
            for label in range(1, int(own.max()) + 1):
                draw_contour(panels[1], own == label, color, "solid")
        panels[2].imshow(maps[number], cmap="cividis", norm=shades)
        for panel in panels:
            panel.set(xticks=[], yticks=[])
        panels[0].set_ylabel(caption, fontsize=8, parse_math=False)
    figure.colorbar(ScalarMappable(shades, "cividis"), ax=axes[:, 2], shrink=0.6)
    lines = zip(names, itertools.cycle(LINES))
    _legend(figure, axes[0, 1], [(name, color, "-") for name, (color, _) in lines])
    return _png(figure)


def _legend(figure: Figure, panel: Any, lines: Sequence[tuple[str, str, str]]) -> None:
    """Says below the picture what lines of a name, colour and style mean."""
    handles = [panel.plot([], [], color=color, ls=style, lw=1.4)[0] for _, color, style in lines]
    figure.legend(
        handles, [name for name, *_ in lines], loc="outside lower right", ncols=len(lines),
        frameon=False, fontsize=9,
    )  # fmt: skip


def _legend_height(named: Mapping[str, Any]) -> float:
    """Inches that `_legend_above` takes."""
    return 0.2 * len(named) if len(named) > 1 else 0.0


def _legend_above(figure: Figure, panel: Any) -> None:
    """Names a panel's labelled lines above the picture, a row each; nothing of a single one."""
    handles, names = panel.get_legend_handles_labels()
    if len(names) > 1:
        figure.legend(handles, names, loc="outside upper left", frameon=False, fontsize=8)


def _plain(panel: Any) -> None:
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(axis="y", alpha=0.3)


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


def _hex(number: int) -> str:
    """A class's colour as Matplotlib takes it."""
    return "#" + bytes(_colour(number)).hex()
