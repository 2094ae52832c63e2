"""Writes the report of a finished run, or a comparison of several runs.

    python -m experiments.report RUN [RUN ...] [--out FILE]

A report is one HTML file that fetches nothing.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import tyro
from jax.sharding import Mesh
from tyro.conf import Positional

from experiments import command, comparison, comparison_page, figures, files, html_page, scores
from experiments.command import say
from experiments.configuration import Configuration
from experiments.dataset import Dataset
from experiments.examples import draw_examples
from experiments.progress import Progress
from experiments.runs import RunDirectory, flat
from experiments.scores import ScoreTable, bootstrap_interval, mean, number
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
    model = configuration.model()
    predict = make_predict(model)
    rows = parallel.padded_size(configuration.optimization.batch_size, mesh)
    names = configuration.data.class_names()
    scored = score(
        predict,
        state,
        images.arrays,
        images.test,
        mesh,
        rows=rows,
        class_names=names,
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
            "train_seconds": progress.train_seconds,
            "images_per_second": progress.images_per_second(),
            "skipped": progress.skipped,
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
    test, counts, rows = summary["test"], summary["images"], run.read_metrics()
    if missing := {"groups", "confusion_matrix"} - test.keys():
        raise InputError(
            f"{run.summary}: was written by an older version (no {', '.join(sorted(missing))}). "
            "Only a comparison of several runs can use it"
        )
    table = scores.read(run.test_scores)
    files.write_bytes(run.curves, figures.curves(rows))
    distribution = figures.distributions({"test images": table.columns})
    data = configuration.data
    synthetic = "synthetic " if data.manual_dir is None and data.images is None else ""
    body = [
        html_page.heading(f"Segmentation of {', '.join(data.class_names())}", 1),
        f"<p>A U-Net with {summary['parameters']:,} parameters, trained on {counts['train']:,} "
        f"{synthetic}images at {data.size} x {data.size} pixels and scored on {test['images']:,} "
        "test images.</p>",
        '<p class="warning">For research, not for diagnosis.</p>',
        html_page.heading("Scores on the test images"),
        html_page.table(HEADERS, _score_rows(configuration, test)),
        html_page.note(
            "Means over images, at the size of the ground-truth masks. Distances are in pixels of "
            "the mask. Intervals are 95 % percentile bootstraps over images; images of one group "
            "are resampled together. Undefined scores are left out of means. A distance is "
            "undefined if an object is in one of the masks only. The mean over classes leaves out "
            "the classes of an image without a distance; the rows of the classes count them."
        ),
        html_page.properties(_other_scores(test)),
        *_confusion(configuration, test["confusion_matrix"]),
        *_by_image_class(table),
        *([] if distribution is None else [
            html_page.heading("Distribution over the test images"),
            html_page.picture(distribution, "Cumulative distributions of Dice and HD95"),
        ]),
        html_page.heading("Calibration"),
        html_page.picture(
            figures.reliability(test["calibration"]), "Reliability diagram"
        ),
        html_page.note(
            "On the diagonal, predicted probabilities match observed frequencies, over all pixels "
            f"of all test images. Expected calibration error "
            f"{number(test['calibration']['expected_error'])}, Brier score "
            f"{number(test['calibration']['brier'])}."
        ),
        html_page.heading("Training"),
        html_page.picture(run.curves.read_bytes(), "Loss and validation Dice over the epochs"),
        html_page.properties(_training_rows(summary, rows)),
        html_page.heading("Worst, median and best test images"),
        html_page.picture(run.examples.read_bytes(), "Images, ground truth and predictions")
        if run.examples.exists()
        else html_page.note("No test image has a defined Dice."),
        html_page.heading("Configuration"),
        html_page.properties(flat(configuration.as_json()).items()),
        html_page.heading("Software"),
        html_page.properties(summary["versions"].items()),
    ]  # fmt: skip
    html_page.write(run.report, f"jaxseg: {configuration.name}", body)
    say(scores.one_line(test))
    say(f"report: {run.report}")


def _score_rows(configuration: Configuration, test: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """A row per class; of several classes their mean first."""
    names = configuration.data.class_names()
    rows = {"mean over classes" if len(names) > 1 else names[0]: test, **test.get("classes", {})}
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


def _other_scores(test: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        ("Lowest Dice of an image", number(test["dice_worst"])),
        ("Dice at training resolution", number(test["dice_mean_network_size"])),
        ("Pixel accuracy", number(test["pixel_accuracy"])),
        ("Soft Dice, pooled over all pixels", number(test["soft_dice_pooled"])),
        ("Images", f"{test['images']:,} in {test['groups']:,} groups"),
    ]


def _confusion(configuration: Configuration, matrix: Sequence[Sequence[int]]) -> list[str]:
    names = ["background", *configuration.data.class_names()]
    pixels = np.array(matrix, np.float64)
    with np.errstate(invalid="ignore"):
        fractions = pixels / pixels.sum(axis=1, keepdims=True)
    rows = [
        (name, *(number(fraction) for fraction in row))
        for name, row in zip(names, fractions, strict=True)
    ]
    return [
        html_page.heading("Confusion matrix"),
        html_page.table(("true class", *(f"predicted {name}" for name in names)), rows),
        html_page.note("Fraction of the pixels of each true class, over all test images."),
    ]


def _by_image_class(table: ScoreTable) -> list[str]:
    """A row per class of images, if there are several."""
    kinds = sorted(set(table.classes))
    if len(kinds) < 2:
        return []
    rows = []
    for kind in kinds:
        chosen = [i for i, name in enumerate(table.classes) if name == kind]
        groups = [table.groups[i] for i in chosen]
        dice = bootstrap_interval(table.columns["dice"][chosen], groups)
        means = (
            number(mean(table.columns[name][chosen]), digits)
            for name, (_, digits) in list(comparison.SCORES.items())[1:]
        )
        interval = f"{number(dice.low)} to {number(dice.high)}"
        rows.append((kind or "unknown", str(len(chosen)), number(dice.mean), interval, *means))
    headers = ("class of the image", "images", *HEADERS[1:6])
    return [html_page.heading("Scores by class of the image"), html_page.table(headers, rows)]


def _training_rows(
    summary: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]
) -> list[tuple[str, str]]:
    rate, scored, last = summary["images_per_second"], summary["checkpoint_step"], rows[-1]["step"]
    chosen = "best validation Dice" if "validation_dice" in rows[-1] else "the last one"
    return [
        ("Images", ", ".join(f"{count:,} {name}" for name, count in summary["images"].items())),
        ("Epochs", str(rows[-1]["epoch"])),
        ("Checkpoint scored", f"step {scored:,} of {last:,} ({chosen})"),
        ("Steps skipped (loss or gradient not finite)", str(summary["skipped"])),
        ("Time in train steps", f"{summary['train_seconds']:,.0f} s"),
        ("Rate", "-" if rate is None else f"{rate:.1f} images per second, without compilation"),
        ("Device", summary["device"]),
    ]


@dataclasses.dataclass(frozen=True)
class Options:
    """Write the report of a finished run again, or a comparison of several runs."""

    runs: Annotated[Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN [RUN ...]")]
    """Run directories created by experiments.train. Runs that differ only in --seed are
    averaged."""
    out: Path = Path("comparison.html")
    """File of the comparison."""


def main() -> None:
    """Reads the command line and writes the report."""
    options = tyro.cli(Options, prog="python -m experiments.report", description=Options.__doc__)
    runs = [RunDirectory(path) for path in options.runs]
    if not runs:
        raise InputError("RUN: name one or more run directories")
    if len(runs) == 1:
        write(runs[0])
    else:
        comparison_page.write(runs, options.out)


if __name__ == "__main__":
    command.run(main)
