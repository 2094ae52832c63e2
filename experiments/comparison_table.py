"""Prints a comparison of runs as a Markdown table, as experiments/README.md has it."""

from collections.abc import Sequence

import numpy as np

from experiments import comparison
from experiments.comparison import SCORES, Recipe, Scored
from experiments.runs import RunDirectory
from experiments.scores import bootstrap_interval, mean, number

HEADERS = (
    "recipe", "images", *(title for title, _ in SCORES.values()), "lowest Dice", "std over seeds",
    "calibration error",
)  # fmt: skip


def show(runs: Sequence[RunDirectory]) -> None:
    """Prints each recipe's scores on each set of images, and its differences to the first recipe.

    Raises:
        InputError: A run is absent, unfinished or there twice; seeds of one recipe were scored on
            different images; or evaluations of one name made masks in different ways.
    """
    recipes = comparison.gather(runs)
    for recipe in recipes:
        print(_cost(recipe))
    rows, notes = [], []
    for images, by_recipe in comparison.image_sets(recipes).items():
        (first, reference), *others = by_recipe.items()
        rows += [_scores_row(label, images, scored) for label, scored in by_recipe.items()]
        for label, scored in others:
            title = f"{label} - {first}"
            if set(scored.ids).isdisjoint(reference.ids):
                notes.append(f"{title}, {images}: no image in common")
            else:
                rows += _difference_rows(title, images, scored, reference)
        notes += [
            f"{label}, {images}: {name} is undefined and left out for {count} images"
            for label, scored in by_recipe.items()
            for column, (name, _) in SCORES.items()
            if (count := int(np.isnan(scored.mean(column)).sum()))
        ]
    print("", *map(_line, [HEADERS, ["---"] * len(HEADERS), *rows]), "", sep="\n")
    legend = (
        "Intervals are 95 %. Over images: bootstrap of the test images. Across seeds: Welch's t."
    )
    print(legend, *notes, sep="\n")


def _cost(recipe: Recipe) -> str:
    summaries = [run.finished_summary() for run in recipe.runs]
    seconds = np.mean([summary["train_seconds"] for summary in summaries])
    return (
        f"{recipe.label}: {len(recipe.runs) // recipe.folds} seeds, "
        f"{summaries[0]['parameters']:,} parameters, {summaries[0]['images']['train']:,} training "
        f"images, {recipe.options['epochs']} epochs, {seconds:,.0f} s in train steps"
    )


def _scores_row(label: str, images: str, scored: Scored) -> list[str]:
    dice = bootstrap_interval(scored.mean("dice"), scored.groups)
    by_seed = [mean(values) for values in scored.by_seed["dice"]]
    defined = scored.mean("dice")[~np.isnan(scored.mean("dice"))]
    calibration = np.mean([seed["expected_error"] for seed in scored.calibrations])
    return [
        label,
        f"{images} ({len(scored.ids)})",
        f"{number(dice.mean)} ({number(dice.low)} to {number(dice.high)})",
        *(number(mean(scored.mean(name)), SCORES[name][1]) for name in SCORES if name != "dice"),
        number(min(defined, default=None)),
        number(comparison.std(by_seed)) if len(by_seed) > 1 else "",
        number(float(calibration)),
    ]


def _difference_rows(title: str, images: str, scored: Scored, reference: Scored) -> list[list[str]]:
    """A row with intervals over images; if both have several seeds, one across seeds too."""
    found = comparison.differences(scored, reference)
    images = f"{images} ({found['dice'].over_images.images})"
    over_images, across_seeds = [], []
    for name, difference in found.items():
        paired, ends = difference.over_images, difference.across_seeds
        over_images.append(_with_interval(name, paired.difference, (paired.low, paired.high)))
        across_seeds.append(_with_interval(name, paired.difference, ends) if ends else "")
    rows = [[f"{title}, over images", images, *over_images, "", "", ""]]
    if any(across_seeds):
        rows.append([f"{title}, across seeds", images, *across_seeds, "", "", ""])
    return rows


def _with_interval(name: str, value: float, ends: tuple[float, float]) -> str:
    digits = SCORES[name][1]
    sign = "+" if value > 0 else ""
    return f"{sign}{number(value, digits)} ({' to '.join(number(end, digits) for end in ends)})"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
