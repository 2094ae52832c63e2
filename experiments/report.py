"""The report of a run: one HTML file with scores, curves, films and configuration.

    python -m experiments.report RUN ...

Nothing in it is fetched from elsewhere; it prints on paper as it stands.
"""

import base64
import dataclasses
import html
import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import jax
import tyro
from tyro.conf import Positional

from experiments import command, pictures
from experiments.run_directory import RunDirectory, write_bytes, write_text
from jaxseg.types import InputError

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1a1a1a; max-width: 62rem; margin: 2rem auto;
       padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
table { border-collapse: collapse; } th { text-align: left; font-weight: 500; }
td, th { padding: .25rem 1.2rem .25rem 0; border-bottom: 1px solid #ddd; vertical-align: top; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
img { max-width: 100%; } .note { color: #555; } .warning { border-left: 4px solid #d55e00;
      padding-left: .8rem; }
@media print { body { margin: 0; max-width: none; } h2 { break-after: avoid; } }
"""


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
        _table(_score_rows(test), numbers=True),
        '<p class="note">Taken per film on the reference mask\'s own grid, at a threshold of 0.5; '
        "distances are pixels of that grid. The interval is a 95 % percentile bootstrap over "
        f"films. Left out because undefined: Dice of {test['undefined']} films, distances of "
        f"{test['undefined_distances']}.</p>",
        *_class_scores(test.get("classes", {})),
        "<h2>Training</h2>",
        _picture(run.curves, "Loss and validation Dice over the epochs"),
        _table(_training_rows(summary, rows)),
        "<h2>Worst and best test films</h2>",
        _picture(run.examples, "Film, truth, prediction and both contours, worst films first")
        if run.examples.exists()
        else "<p>No film has a defined Dice.</p>",
        "<h2>Configuration</h2>",
        _table(run.read_config()["configuration"].items()),
        "<h2>Software</h2>",
        _table(summary["versions"].items()),
    ]
    title = f"jaxseg: {configuration.name}"
    write_text(
        run.report,
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width"><title>{html.escape(title)}</title>'
        f"<style>{STYLE}</style></head><body>{''.join(body)}</body></html>\n",
    )
    print(one_line(test))
    print(f"report: {run.report}")


def one_line(test: Mapping[str, Any]) -> str:
    """The scores that matter most."""
    low, high = map(_number, test["dice_ci95"])
    of_classes = "".join(
        f"; {name} Dice {_number(own['dice_mean'])} ({' to '.join(map(_number, own['dice_ci95']))})"
        for name, own in test.get("classes", {}).items()
    )
    return (
        f"Dice {_number(test['dice_mean'])} (95 % interval {low} to {high}, "
        f"{test['images']} test films), IoU {_number(test['iou_mean'])}, "
        f"HD95 {_number(test['hd95_mean'], 2)} px, pixel accuracy {_number(test['pixel_accuracy'])}"
        f"{of_classes}"
    )


def _class_scores(classes: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A table for each of several classes."""
    parts = []
    for name, own in classes.items():
        low, high = map(_number, own["dice_ci95"])
        rows = [
            ("Dice, mean over films", _number(own["dice_mean"])),
            ("95 % interval", f"{low} to {high}"),
            ("IoU, mean over films", _number(own["iou_mean"])),
            ("HD95, px", _number(own["hd95_mean"], 2)),
            ("ASSD, px", _number(own["assd_mean"], 2)),
            ("Precision", _number(own["precision_mean"])),
            ("Recall", _number(own["recall_mean"])),
        ]
        parts += [f"<h2>Scores of {html.escape(name)}</h2>", _table(rows, numbers=True)]
    return parts


def _score_rows(test: Mapping[str, Any]) -> list[tuple[str, str]]:
    low, high = test["dice_ci95"]
    return [
        ("Dice, mean over films", _number(test["dice_mean"])),
        ("95 % interval", f"{_number(low)} to {_number(high)}"),
        ("Dice of the worst film", _number(test["dice_worst"])),
        ("Dice at the network's size", _number(test["dice_mean_network_size"])),
        ("IoU, mean over films", _number(test["iou_mean"])),
        ("Hausdorff distance, 95th percentile (HD95), px", _number(test["hd95_mean"], 2)),
        ("Average symmetric surface distance (ASSD), px", _number(test["assd_mean"], 2)),
        ("Pixel accuracy", _number(test["pixel_accuracy"])),
        ("Precision", _number(test["precision_mean"])),
        ("Recall", _number(test["recall_mean"])),
        ("Soft Dice, pooled over all pixels", _number(test["soft_dice_pooled"])),
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


def _number(value: float | None, digits: int = 4) -> str:
    return "undefined" if value is None else f"{value:.{digits}f}"


def _table(rows: Iterable[tuple[str, Any]], *, numbers: bool = False) -> str:
    kind = ' class="number"' if numbers else ""
    cells = (
        f"<tr><th>{html.escape(str(name))}</th><td{kind}>{html.escape(_text(value))}</td></tr>"
        for name, value in rows
    )
    return f"<table>{''.join(cells)}</table>"


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "-" if value is None else str(value)


def _picture(path: Path, alternative: str) -> str:
    content = base64.b64encode(path.read_bytes()).decode()
    return f'<img alt="{html.escape(alternative)}" src="data:image/png;base64,{content}">'


@dataclasses.dataclass(frozen=True)
class Options:
    """Writes the reports of finished runs anew."""

    runs: Annotated[tuple[Path, ...], Positional]
    """Run directories."""


def main() -> None:
    """Reads the command line and writes the reports."""
    options = tyro.cli(Options, prog="python -m experiments.report", description=Options.__doc__)
    for path in options.runs:
        write(RunDirectory(path))


if __name__ == "__main__":
    command.run(main)
