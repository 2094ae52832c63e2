"""The report of a run: one HTML file with scores, curves, films and configuration.

    python -m experiments.report RUN ... [--out FILE]

Of several runs there is another one, which compares them (`experiments.comparison_page`). Nothing
is fetched from elsewhere; they print on paper as they stand.
"""

import dataclasses
import html
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import jax
import tyro
from tyro.conf import Positional

from experiments import command, comparison, comparison_page, page, pictures, score_table
from experiments.page import number
from experiments.run_directory import RunDirectory, write_bytes, write_text
from experiments.score_table import ScoreTable
from jaxseg import metrics
from jaxseg.errors import InputError


def machine() -> dict[str, Any]:
    """The device and the versions that a run's figures come from."""
    devices = jax.devices()
    name = platform.machine() if devices[0].platform == "cpu" else devices[0].device_kind
    packages = ("jaxseg", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    return {
        "device": f"{len(devices)} x {devices[0].platform} ({name})",
        "versions": {"python": platform.python_version()}
        | {package: version(package) for package in packages},
    }


def write(run: RunDirectory) -> None:
    """Writes ``curves.png`` and ``report.html`` of a finished run.

    Raises:
        InputError: There is no run, or it is not finished.
    """
    configuration = run.configuration()
    summary = run.read_summary()
    if summary is None:
        raise InputError(f"{run.path}: is not finished; go on with it by train --resume")
    rows = run.read_metrics()
    write_bytes(run.curves, pictures.curves(rows))
    test, films = summary["test"], summary["films"]
    scores = score_table.read(run.test_scores)
    what = ", ".join(configuration.mask_values())
    what = what or ("lungs" if configuration.images is None else "objects")
    drawn = configuration.manual_dir is None and configuration.images is None
    kinds = "drawn phantom films" if drawn else "films"
    body = [
        f"<h1>Segmentation of {html.escape(what)}: {html.escape(configuration.name)}</h1>",
        f"<p>A U-Net of {summary['parameters']:,} parameters, trained on {films['train']:,} "
        f"{kinds} at {configuration.size} x {configuration.size} pixels and scored on "
        f"{test['images']:,} that it never saw.</p>",
        '<p class="warning">For research, not for diagnosis.</p>',
        "<h2>Scores on the test films</h2>",
        page.facts(_score_rows(test), numbers=True),
        '<p class="note">Taken per film on the reference mask\'s own grid, each pixel of the '
        "class that is the most probable; "
        "distances are pixels of that grid. The interval is a 95 % percentile bootstrap over "
        f"films{_in_groups(test)}. Left out because undefined: {_undefined(test)}.</p>",
        *_class_scores(test.get("classes", {})),
        *_film_classes(scores),
        "<h2>Distribution over the test films</h2>",
        page.picture(
            pictures.distributions({"films": scores.columns}, comparison.DISTRIBUTIONS),
            "Share of films at or below each Dice, and each HD95",
        ),
        *_calibration(test.get("calibration")),
        "<h2>Training</h2>",
        page.picture(run.curves.read_bytes(), "Loss and validation Dice over the epochs"),
        page.facts(_training_rows(summary, rows)),
        "<h2>Worst, median and best test films</h2>",
        page.picture(
            run.examples.read_bytes(),
            "Film, truth, prediction and both contours, worst films first",
        )
        if run.examples.exists()
        else "<p>No film has a defined Dice.</p>",
        "<h2>Configuration</h2>",
        page.facts(run.read_config()["configuration"].items()),
        "<h2>Software</h2>",
        page.facts(summary["versions"].items()),
    ]
    write_text(run.report, page.document(f"jaxseg: {configuration.name}", body))
    command.say(one_line(test))
    command.say(f"report: {run.report}")


def one_line(test: Mapping[str, Any]) -> str:
    """The scores that matter most."""
    low, high = map(number, test["dice_ci95"])
    missed = test.get("undefined_distances", 0)
    left_out = f" (undefined on {missed} films)" if missed else ""
    of_classes = "".join(
        f"; {name} Dice {number(own['dice_mean'])} ({' to '.join(map(number, own['dice_ci95']))})"
        for name, own in test.get("classes", {}).items()
    )
    return (
        f"Dice {number(test['dice_mean'])} (95 % interval {low} to {high}, "
        f"{test['images']} films), IoU {number(test['iou_mean'])}, "
        f"HD95 {number(test['hd95_mean'], 2)} px{left_out}, "
        f"pixel accuracy {number(test['pixel_accuracy'])}{of_classes}"
    )


def _class_scores(classes: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A table for each of several classes."""
    parts = []
    for name, own in classes.items():
        low, high = map(number, own["dice_ci95"])
        rows = [
            ("Dice, mean over films", number(own["dice_mean"])),
            ("95 % interval", f"{low} to {high}"),
            ("IoU, mean over films", number(own["iou_mean"])),
            ("HD95, px", number(own["hd95_mean"], 2)),
            ("ASSD, px", number(own["assd_mean"], 2)),
            ("Precision", number(own["precision_mean"])),
            ("Recall", number(own["recall_mean"])),
        ]
        parts += [
            f"<h2>Scores of {html.escape(name)}</h2>",
            page.facts(rows, numbers=True),
            f'<p class="note">Left out because undefined: {_undefined(own)}.</p>',
        ]
    return parts


def _in_groups(test: Mapping[str, Any]) -> str:
    groups = test.get("groups", test["images"])
    return "" if groups == test["images"] else f" in {groups} groups, which are drawn whole"


def _undefined(scores: Mapping[str, Any]) -> str:
    """Of how many films a score is undefined; runs from before not all were counted tell some."""
    counted = {
        "Dice": "undefined",
        "distances": "undefined_distances",
        "precision": "undefined_precision",
        "recall": "undefined_recall",
    }
    told = [f"{what} of {scores[name]} films" for what, name in counted.items() if name in scores]
    return ", ".join(told)


def _film_classes(scores: ScoreTable) -> list[str]:
    """A line for each class of films, where there are several."""
    kinds = sorted(set(scores.classes))
    if len(kinds) < 2:
        return []
    rows = []
    for kind in kinds:
        own = [place for place, name in enumerate(scores.classes) if name == kind]
        dice, groups = scores.columns["dice"][own], [scores.groups[place] for place in own]
        interval = metrics.bootstrap_mean(jax.random.key(0), dice, groups=groups)
        others = (scores.columns[name][own] for name in ("iou", "hd95", "assd"))
        iou, hd95, assd = (float(metrics.mean_over_images(values).mean) for values in others)
        rows.append(
            (
                kind or "unknown",
                str(len(own)),
                number(interval.mean),
                f"{number(interval.low)} to {number(interval.high)}",
                number(iou),
                number(hd95, 2),
                number(assd, 2),
            )
        )
    headers = ("", "films", "Dice", "95 % interval", "IoU", "HD95, px", "ASSD, px")
    return ["<h2>Scores by class of film</h2>", page.table(headers, rows)]


def _calibration(calibration: Mapping[str, Any] | None) -> list[str]:
    """The reliability diagram; nothing for a run that was scored before there was one."""
    if calibration is None:
        return []
    return [
        "<h2>How far the probabilities can be believed</h2>",
        page.picture(
            pictures.reliability({"test films": calibration}),
            "Share of pixels that are what the network says, over its probability",
        ),
        f'<p class="note">All pixels of all test films. Expected calibration error '
        f"{number(calibration['expected_error'])}, Brier score "
        f"{number(calibration['brier'])}. On the line a probability means what it says.</p>",
    ]


def _score_rows(test: Mapping[str, Any]) -> list[tuple[str, str]]:
    low, high = test["dice_ci95"]
    return [
        ("Dice, mean over films", number(test["dice_mean"])),
        ("95 % interval", f"{number(low)} to {number(high)}"),
        ("Dice of the worst film", number(test["dice_worst"])),
        ("Dice at the size learnt from", number(test["dice_mean_network_size"])),
        ("IoU, mean over films", number(test["iou_mean"])),
        ("Hausdorff distance, 95th percentile (HD95), px", number(test["hd95_mean"], 2)),
        ("Average symmetric surface distance (ASSD), px", number(test["assd_mean"], 2)),
        ("Pixel accuracy", number(test["pixel_accuracy"])),
        ("Precision", number(test["precision_mean"])),
        ("Recall", number(test["recall_mean"])),
        ("Soft Dice, pooled over all pixels", number(test["soft_dice_pooled"])),
    ]


def _training_rows(
    summary: dict[str, Any], rows: Sequence[dict[str, Any]]
) -> list[tuple[str, str]]:
    films = summary["films"]
    rate = summary["images_per_second"]
    return [
        ("Films", ", ".join(f"{count:,} {name}" for name, count in films.items())),
        ("Epochs", str(rows[-1]["epoch"])),
        ("Weights scored", f"step {summary['checkpoint_step']:,} of {rows[-1]['step']:,}"),
        ("Updates skipped, not finite", str(summary["skipped"])),
        ("Time in training steps", f"{summary['train_seconds']:,.0f} s"),
        ("Rate", "-" if rate is None else f"{rate:.1f} films a second, compilation left out"),
        ("Device", summary["device"]),
    ]


@dataclasses.dataclass(frozen=True)
class Options:
    """Writes the report of a finished run anew, or of several one that compares them."""

    runs: Annotated[Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN [RUN ...]")]
    """Run directories; those that differ in their seed alone are taken as one recipe."""
    out: Path = Path("comparison.html")
    """Where a comparison goes."""


def main() -> None:
    """Reads the command line and writes the reports."""
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
