"""A picture of pairs of films side by side, to judge by eye whether two are one."""

import io
from collections.abc import Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

_PAIRS_A_ROW = 2


def draw(pairs: Sequence[tuple[np.ndarray, np.ndarray, str]], title: str) -> bytes:
    """Draws each pair with its difference; a PNG.

    Args:
        pairs: two films, uint8 ``[H, W]`` of one size, and what to write above them; one or more.
        title: what stands on top.
    """
    rows = -(-len(pairs) // _PAIRS_A_ROW)
    figure = Figure(figsize=(7.2 * _PAIRS_A_ROW, 2.55 * rows + 0.5), layout="constrained")
    figure.suptitle(f"{title}; right: their difference, grey where they agree", fontsize=11)
    axes = figure.subplots(rows, 3 * _PAIRS_A_ROW, squeeze=False).reshape(-1, 3)
    for panels in axes:
        for panel in panels:
            panel.set_axis_off()
    for panels, (one, other, caption) in zip(axes, pairs, strict=False):
        # Grey where the two are alike.
        difference = 127.5 + (one.astype(np.float32) - other) / 2
        for panel, picture in zip(panels, (one, other, difference), strict=True):
            panel.imshow(picture, cmap="gray", vmin=0, vmax=255)
        panels[0].set_title(caption, fontsize=8, loc="left", parse_math=False)
    FigureCanvasAgg(figure)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=80)
    return content.getvalue()
