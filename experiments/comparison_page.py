"""The page that compares runs, and the same tables as lines on the terminal."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from experiments import figures, html_page
from experiments.command import say
from experiments.comparison import (
    SCORES,
    Difference,
    Recipe,
    Scored,
    differences,
    gather,
    image_sets,
    std,
)
from experiments.runs import RunDirectory
from experiments.scores import bootstrap_interval, mean, number

HEADERS = (
    "", "seeds", "images", "Dice", "95 % interval", "std over seeds", "lowest Dice",
    *(title for title, _ in list(SCORES.values())[1:]), "calibration error",
)  # fmt: skip


def write(runs: Sequence[RunDirectory], out: Path) -> None:
    """Writes a page that compares finished runs, and prints the scores and their differences.

    Raises:
        InputError: A run is absent, unfinished or there twice; seeds of one recipe were scored on
            different images; or evaluations of one name made masks in different ways.
    """
    recipes = gather(runs)
    body = [
        html_page.heading(f"{len(runs)} runs of {len(recipes)} recipes", 1),
        '<p class="warning">For research, not for diagnosis.</p>',
        html_page.table(
            ("", "seeds", "parameters", "training images", "epochs", "training time, s"),
            [_cost(recipe) for recipe in recipes],
        ),
    ]
    for name, by_recipe in image_sets(recipes).items():
        rows = [_row(label, scored) for label, scored in by_recipe.items()]
        differences_of = _difference_tables(by_recipe)
        body += _section(name, by_recipe, rows, differences_of)
        for label, *cells in rows:
            named = zip(HEADERS[1:], cells, strict=True)
            say(f"{name}: {label}: " + ", ".join(f"{title} {cell}" for title, cell in named))
        for title, table in differences_of.items():
            for where, column in (("over images", 2), ("across seeds", 3)):
                cells = [
                    f"{row[0]} {row[1]} ({row[column]})" for row in table if row[column] != "-"
                ]
                if cells:
                    say(f"{name}: {title}, {where}: {', '.join(cells)}")
            if not table:
                say(f"{name}: {title}: no image in common")
    out.parent.mkdir(parents=True, exist_ok=True)
    html_page.write(out, "jaxseg: " + ", ".join(recipe.label for recipe in recipes), body)
    say(f"comparison: {out}")


def _cost(recipe: Recipe) -> tuple[str, ...]:
    summaries = [run.finished_summary() for run in recipe.runs]
    return (
        recipe.label,
        str(len(recipe.runs) // recipe.folds),
        f"{summaries[0]['parameters']:,}",
        f"{summaries[0]['images']['train']:,}",
        str(recipe.options["epochs"]),
        f"{np.mean([summary['train_seconds'] for summary in summaries]):,.0f}",
    )


def _row(label: str, scored: Scored) -> tuple[str, ...]:
    dice = bootstrap_interval(scored.mean("dice"), scored.groups)
    by_seed = [mean(values) for values in scored.by_seed["dice"]]
    defined = scored.mean("dice")[~np.isnan(scored.mean("dice"))]
    means = [
        number(mean(scored.mean(name)), digits) for name, (_, digits) in list(SCORES.items())[1:]
    ]
    return (
        label,
        str(len(by_seed)),
        str(len(scored.ids)),
        number(dice.mean),
        f"{number(dice.low)} to {number(dice.high)}",
        "-" if len(by_seed) == 1 else number(std(by_seed)),
        number(float(defined.min()) if len(defined) else None),
        *means,
        number(float(np.mean([own["expected_error"] for own in scored.calibrations]))),
    )


def _difference_tables(
    by_recipe: Mapping[str, Scored],
) -> dict[str, list[tuple[str, ...]]]:
    """By title, the differences of every recipe to the first; no rows without a common image."""
    (first, reference), *others = by_recipe.items()
    tables = {}
    for label, scored in others:
        has_common = not set(scored.ids).isdisjoint(reference.ids)
        found = differences(scored, reference) if has_common else {}
        tables[f"{label} - {first}"] = [_difference_row(name, own) for name, own in found.items()]
    return tables


def _difference_row(column: str, difference: Difference) -> tuple[str, ...]:
    title, digits = SCORES[column]
    paired = difference.over_images

    def interval(ends: tuple[float, float]) -> str:
        return " to ".join(number(end, digits) for end in ends)

    return (
        title,
        "undefined" if np.isnan(paired.difference) else f"{paired.difference:+.{digits}f}",
        interval((paired.low, paired.high)),
        "-" if difference.across_seeds is None else interval(difference.across_seeds),
        number(paired.p_value),
        str(paired.images),
    )


def _section(
    name: str,
    by_recipe: Mapping[str, Scored],
    rows: Sequence[Sequence[str]],
    difference_tables: Mapping[str, Sequence[Sequence[str]]],
) -> list[str]:
    left_out = ", ".join(
        f"{title.split(',')[0]} of {label} for {count} images"
        for label, scored in by_recipe.items()
        for column, (title, _) in SCORES.items()
        if (count := int(np.isnan(scored.mean(column)).sum()))
    )
    body = [
        html_page.heading(name[0].upper() + name[1:]),
        html_page.table(HEADERS, rows),
        html_page.note(
            "Means over images of the mean over seeds, at the masks' own sizes. The interval is a "
            "95 % percentile bootstrap over images; images of one group are resampled together."
            + (f" Undefined and left out: {left_out}." if left_out else "")
        ),
    ]
    for title, table in difference_tables.items():
        body.append(html_page.heading(f"{title}, paired by image", 3))
        if table:
            headers = ("", "difference", "95 % over images", "95 % across seeds", "p", "images")
            body.append(html_page.table(headers, table))
        else:
            body.append(html_page.note("There is no image that both were scored on."))
    if difference_tables:
        body.append(
            html_page.note(
                "Over images: uncertainty from the choice of test images (paired bootstrap, also "
                "for p). Across seeds: uncertainty from training (Welch's t; needs two seeds per "
                "recipe)."
            )
        )
    columns = {
        label: {column: scored.mean(column) for column in SCORES}
        for label, scored in by_recipe.items()
    }
    if (drawn := figures.distributions(columns)) is not None:
        body.append(html_page.picture(drawn, "Cumulative distributions over images"))
    return body
