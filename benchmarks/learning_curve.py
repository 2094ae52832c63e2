"""How many labeled images does fine-tuning need? Dice by number of training images.

    python -m benchmarks.learning_curve --images DIR --masks DIR --out DIR

It trains the configuration ``custom`` from the pretrained weights and from random ones, on draws of
10, 20, 50 and 150 images, and scores all runs on the same other images. A repeated command skips
runs that are done. It writes ``curve.csv`` and ``curve.png``.
"""

import dataclasses
import itertools
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from matplotlib.figure import Figure

from experiments import command, files, scores
from experiments.runs import RunDirectory
from jaxseg.data.images import find_images
from jaxseg.data.splits import natural_key

STARTS = {"pretrained": ["--init", "lungs"], "random": []}


@dataclasses.dataclass(frozen=True)
class Options:
    """Train on few images, from pretrained and from random weights."""

    images: Path
    """Folder of images."""
    masks: Path
    """Folder of their masks."""
    out: Path
    """Folder of the runs and the results."""
    classes: tuple[str, ...] = ("lungs=150,200",)
    """As in experiments.train. The defaults are for JSRT."""
    background: tuple[int, ...] = (0, 250)
    """Mask values of the background."""
    counts: tuple[int, ...] = (10, 20, 50, 150)
    """Numbers of training images."""
    draws: int = 3
    """Draws of training images for each number."""
    size: int = 128
    """Height and width of the network's images."""
    steps: int = 400
    """Training steps of each run, of four images."""


def draw_images(options: Options) -> tuple[list[str], list[list[str]]]:
    """Returns the test images, and the order in which each draw takes training images."""
    names = sorted(find_images(options.images), key=natural_key)
    order = np.random.default_rng(0).permutation(len(names))
    drawn, tested = order[: max(options.counts)], order[max(options.counts) :]
    draws = [np.random.default_rng(1 + draw).permutation(drawn) for draw in range(options.draws)]
    return [names[i] for i in tested], [[names[i] for i in draw] for draw in draws]


def train(options: Options, run: RunDirectory, split: dict[str, str], start: str) -> None:
    """Trains on the images that have a split, unless the run is finished."""
    if run.read_summary() is not None:
        return
    folder = run.path.with_name(run.path.name + "-data")
    for kind in ("images", "masks"):
        found = find_images(getattr(options, kind))
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for name in split:
            link = folder / kind / found[name].name
            link.unlink(missing_ok=True)
            link.symlink_to(found[name].absolute())
    rows = [{"image": name, "split": part} for name, part in split.items()]
    table = folder / "table.csv"
    files.write_text(table, files.as_csv(rows))
    count = sum(part == "train" for part in split.values())
    arguments = [
        *("custom", "--images", folder / "images", "--masks", folder / "masks", "--table", table),
        *("--classes", *options.classes, "--background", *options.background),
        *("--size", options.size, "--batch-size", 4, "--workdir", run.path, "--resume"),
        *("--epochs", math.ceil(options.steps / (count // 4)), *STARTS[start]),
    ]
    subprocess.run(
        [sys.executable, "-m", "experiments.train", *map(str, arguments)],
        check=True,
        # One program for all runs of a kind.
        env={"JAX_COMPILATION_CACHE_DIR": str(options.out.absolute() / "programs"), **os.environ},
    )


def curve(options: Options) -> list[dict[str, Any]]:
    """Trains all runs; returns a row for each start, number of images and class."""
    tested, draws = draw_images(options)
    names = [name.partition("=")[0] for name in options.classes]
    rows = []
    for count, start in itertools.product(options.counts, STARTS):
        tables = []
        for number, order in enumerate(draws):
            run = RunDirectory(options.out / f"{start}-{count}-{number}")
            split = dict.fromkeys(tested, "test") | dict.fromkeys(order[:count], "train")
            train(options, run, split, start)
            tables.append(scores.read(run.test_scores))
        for name in names:
            column = "dice" if len(names) == 1 else f"dice_{name}"
            by_draw = np.stack([table.columns[column] for table in tables])
            interval = scores.bootstrap_interval(by_draw.mean(axis=0), tables[0].groups)
            means = by_draw.mean(axis=1)
            row = {"class": name, "start": start, "training_images": count, "dice": interval.mean}
            row |= {"low": interval.low, "high": interval.high, "test_images": by_draw.shape[1]}
            rows.append(row | {"lowest_draw": means.min(), "highest_draw": means.max()})
            print(", ".join(f"{key} {scores.short(value)}" for key, value in rows[-1].items()))
    return rows


def draw_curve(rows: list[dict], path: Path) -> None:
    """Draws Dice with its interval by number of training images, a panel for each class."""
    names = list(dict.fromkeys(row["class"] for row in rows))
    figure = Figure(figsize=(4.2 * len(names), 3.2), layout="constrained")
    for panel, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        for start in STARTS:
            points = [row for row in rows if row["class"] == name and row["start"] == start]
            x, dice, low, high = (
                np.array([row[key] for row in points])
                for key in ("training_images", "dice", "low", "high")
            )
            panel.errorbar(x, dice, [dice - low, high - dice], label=f"{start} weights", capsize=3)
        panel.set(xscale="log", xlabel="training images", ylabel="Dice", title=name)
        counts = sorted({row["training_images"] for row in rows})
        panel.set_xticks(counts, map(str, counts))
        panel.minorticks_off()
        panel.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Reads the command line, trains and draws."""
    options = tyro.cli(Options, prog="python -m benchmarks.learning_curve")
    rows = curve(options)
    files.write_text(options.out / "curve.csv", files.as_csv(rows))
    draw_curve(rows, options.out / "curve.png")


if __name__ == "__main__":
    command.run(main)
