"""Writes the report of a finished run, or prints a comparison of several runs.

    python -m experiments.report RUN [RUN ...]

A report is one HTML file that fetches nothing. A comparison is a Markdown table.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import tyro
from jax.sharding import Mesh
from tyro.conf import Positional

from experiments import command, comparison_table, figures, files, html_page, scores
from experiments.command import say
from experiments.configuration import Configuration
from experiments.dataset import Dataset
from experiments.examples import draw_examples
from experiments.html_page import picture, table
from experiments.progress import Progress
from experiments.runs import RunDirectory, flat
from experiments.scores import ScoreTable, number
from experiments.scoring import score
from jaxseg import parallel
from jaxseg.errors import InputError
from jaxseg.inference import make_predict
from jaxseg.training import TrainState

HEADERS = (
    "", "Dice", "95 % interval", "IoU", "HD95, px", "ASSD, px", "precision", "recall",
    "undefined Dice", "undefined distances",
)  # fmt: skip


def write_results(
    configuration: Configuration,
    images: Dataset,
    state: TrainState,
    progress: Progress,
    run: RunDirectory,
    mesh: Mesh,
    preemption: parallel.Preemption,
    *,
    input_path: str,
) -> None:
    """Scores the test images and writes scores, examples and the report."""
    predict = make_predict(configuration.model())
    scored = score(
        predict,
        state,
        images.arrays,
        images.test,
        mesh,
        rows=parallel.padded_size(configuration.optimization.batch_size, mesh),
        class_names=configuration.data.class_names(),
        stop=preemption,
    )
    if jax.process_index() != 0:
        return
    scored.write(run.test_scores)
    files.write_json(
        run.summary,
        {
            "configuration": configuration.name,
            "test": scored.summary(),
            "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
            **progress.rates(),
            "images": images.counts(),
            "input_path": input_path,
            "checkpoint_step": int(state.step),
            "devices": mesh.size,
            "processes": jax.process_count(),
            **command.machine(),
        },
    )
    draw_examples(run.examples, predict, state, images.arrays, images.test, scored)
    write(run)


def write(run: RunDirectory) -> None:
    """Writes ``curves.png`` and ``report.html`` of a finished run.

    Raises:
        InputError: There is no run, or it has not finished.
    """
    configuration, summary = run.configuration(), run.finished_summary()
    test, counts, epochs = summary["test"], summary["images"], run.read_metrics()
    if missing := {"groups", "confusion_matrix"} - test.keys():
        raise InputError(
            f"{run.summary}: was written by an older version (no {', '.join(sorted(missing))}). "
            "Only a comparison of several runs can use it"
        )
    files.write_bytes(run.curves, figures.curves(epochs))
    data, calibration = configuration.data, test["calibration"]
    classes = data.class_names()
    synthetic = "synthetic " if data.manual_dir is None and data.images is None else ""
    body = [
        f"<h1>Segmentation of {escape(', '.join(classes))}</h1>",
        f"<p>A U-Net with {summary['parameters']:,} parameters, trained on {counts['train']:,} "
        f"{synthetic}images at {data.size} x {data.size} pixels and scored on {test['images']:,} "
        "test images.</p>",
        '<p class="warning">For research, not for diagnosis.</p>',
        "<h2>Scores on the test images</h2>",
        table(_score_rows(classes, test, scores.read(run.test_scores)), HEADERS),
        '<p class="note">Means over images, at the size of the ground-truth masks. Distances are '
        "in pixels of the mask. Intervals are 95 % percentile bootstraps over images; images of "
        "one group are resampled together. Undefined scores are left out of means. A distance is "
        "undefined if an object is in one of the masks only. The mean over classes leaves out the "
        "classes of an image without a distance; the rows of the classes count them.</p>",
        "<h2>Confusion matrix</h2>",
        _confusion(classes, test["confusion_matrix"]),
        '<p class="note">Fraction of the pixels of each true class, over all test images.</p>',
        "<h2>Calibration</h2>",
        picture(figures.reliability(calibration), "Reliability diagram"),
        '<p class="note">On the diagonal, predicted probabilities match observed frequencies, over '
        "all pixels of all test images. Expected calibration error "
        f"{number(calibration['expected_error'])}, Brier score {number(calibration['brier'])}.</p>",
        "<h2>Training</h2>",
        picture(run.curves.read_bytes(), "Loss and validation Dice over the epochs"),
        table(_details(summary, epochs)),
        "<h2>Worst, median and best test images</h2>",
        picture(run.examples.read_bytes(), "Images, ground truth and predictions")
        if run.examples.exists()
        else '<p class="note">No test image has a defined Dice.</p>',
        "<h2>Configuration and software</h2>",
        table(
            (name, _text(value))
            for name, value in (flat(configuration.as_json()) | summary["versions"]).items()
        ),
    ]
    html_page.write(run.report, f"jaxseg: {configuration.name}", body)
    say(scores.one_line(test))
    say(f"report: {run.report}")


def _score_rows(
    classes: Sequence[str], test: Mapping[str, Any], images: ScoreTable
) -> list[tuple[str, ...]]:
    """A row per class, of several classes their mean first; then a row per class of images."""
    rows = {
        "mean over classes" if len(classes) > 1 else classes[0]: test,
        **test.get("classes", {}),
    }
    kinds = sorted(set(images.classes))
    for kind in kinds if len(kinds) > 1 else ():
        chosen = [i for i, name in enumerate(images.classes) if name == kind]
        columns = {name: values[chosen] for name, values in images.columns.items()}
        title = f"images of {kind or 'unknown class'} ({len(chosen)})"
        rows[title] = scores.means(columns, [images.groups[i] for i in chosen])
    return [
        (
            name,
            number(means["dice_mean"]),
            " to ".join(map(number, means["dice_ci95"])),
            number(means["iou_mean"]),
            number(means["hd95_mean"], 2),
            number(means["assd_mean"], 2),
            number(means["precision_mean"]),
            number(means["recall_mean"]),
            str(means["undefined"]),
            str(means["undefined_distances"]),
        )
        for name, means in rows.items()
    ]


def _confusion(classes: Sequence[str], matrix: Sequence[Sequence[int]]) -> str:
    names = ["background", *classes]
    pixels = np.array(matrix, np.float64)
    with np.errstate(invalid="ignore"):
        fractions = pixels / pixels.sum(axis=1, keepdims=True)
    rows = [(name, *map(number, row)) for name, row in zip(names, fractions, strict=True)]
    return table(rows, ("true class", *(f"predicted {name}" for name in names)))


def _details(
    summary: Mapping[str, Any], epochs: Sequence[Mapping[str, Any]]
) -> list[tuple[str, str]]:
    test, rate, last = summary["test"], summary["images_per_second"], epochs[-1]
    chosen = "best validation Dice" if "validation_dice" in last else "the last one"
    return [
        ("Images", ", ".join(f"{count:,} {name}" for name, count in summary["images"].items())),
        ("Groups of test images", f"{test['groups']:,}"),
        ("Lowest Dice of a test image", number(test["dice_worst"])),
        ("Dice at training resolution", number(test["dice_mean_network_size"])),
        ("Pixel accuracy", number(test["pixel_accuracy"])),
        ("Soft Dice, pooled over all pixels", number(test["soft_dice_pooled"])),
        ("Epochs", str(last["epoch"])),
        (
            "Checkpoint scored",
            f"step {summary['checkpoint_step']:,} of {last['step']:,} ({chosen})",
        ),
        ("Steps skipped (loss or gradient not finite)", str(summary["skipped"])),
        ("Time in train steps", f"{summary['train_seconds']:,.0f} s"),
        ("Rate", "-" if rate is None else f"{rate:.1f} images per second, without compilation"),
        ("Device", summary["device"]),
    ]


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "-" if value is None else str(value)


@dataclasses.dataclass(frozen=True)
class Options:
    """Write the report of a finished run again, or print a comparison of several runs."""

    #: Run directories created by experiments.train. Runs that differ only in --seed are averaged.
    runs: Annotated[Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN [RUN ...]")]


def main() -> None:
    """Reads the command line and writes the report."""
    options = tyro.cli(Options, prog="python -m experiments.report", description=Options.__doc__)
    runs = [RunDirectory(path) for path in options.runs]
    if not runs:
        raise InputError("RUN: name one or more run directories")
    if len(runs) == 1:
        write(runs[0])
    else:
        comparison_table.show(runs)


if __name__ == "__main__":
    command.run(main)
