"""The page that compares several runs, and the lines that a terminal gets of it."""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments import page, pictures
from experiments.comparison import (
    DISTRIBUTIONS,
    SCORES,
    Difference,
    Recipe,
    Scored,
    differences,
    film_sets,
    gather,
    pooled_calibration,
    spread,
)
from experiments.run_directory import RunDirectory, write_text
from jaxseg import metrics

HEADERS = (
    "", "seeds", "films", "Dice", "95 % interval", "spread of seeds", "worst film",
    *(title for title, _ in list(SCORES.values())[1:]), "calibration error",
)  # fmt: skip

REACHED = 0.95
"""The validation Dice that recipes are timed to."""


def write(runs: Sequence[RunDirectory], out: Path) -> None:
    """Writes one page that compares finished runs, and says the scores and their differences.

    Raises:
        InputError: A run is none, is not finished, or is named twice; seeds of one recipe were
            scored on different films; or what lies under one name was evaluated in different ways.
    """
    recipes = gather(runs)
    sets = film_sets(recipes)
    speed = _speed(recipes)
    body = [
        f"<h1>Recipes: {len(recipes)}, runs: {len(runs)}</h1>",
        '<p class="warning">For research, not for diagnosis.</p>',
        page.table(
            ("", "seeds", "parameters", "films learnt from", "epochs", "seconds of training"),
            [_cost(recipe) for recipe in recipes],
        ),
        *_speed_table(speed),
    ]
    for name, scored in sets.items():
        rows = [_row(label, own) for label, own in scored.items()]
        differing = _differences(scored)
        body += _film_set(name, scored, rows, differing)
        for label, *scores in rows:
            told = zip(HEADERS[1:], scores, strict=True)
            print(f"{name}: {label}: " + ", ".join(f"{title} {score}" for title, score in told))
        for title, scores in differing.items():
            for over, cell in (("", 2), (", over seeds", 3)):
                told = [f"{row[0]} {row[1]} ({row[cell]})" for row in scores if row[cell] != "-"]
                if told or not over:
                    print(f"{name}: {title}{over}: " + (", ".join(told) or "no film in common"))
    for title, cells in speed:
        print(f"validation Dice {REACHED:g}: {title} {cells}")
    body += ["<h2>Configurations</h2>", *_configurations(recipes)]
    write_text(out, page.document("jaxseg: " + ", ".join(r.label for r in recipes), body))
    print(f"comparison: {out}")


def _cost(recipe: Recipe) -> tuple[str, ...]:
    summaries = [run.read_summary() or {} for run in recipe.runs]
    seconds = [summary["train_seconds"] for summary in summaries]
    return (
        recipe.label,
        str(len(recipe.runs)),
        f"{summaries[0]['parameters']:,}",
        f"{summaries[0]['films']['train']:,}",
        str(recipe.configuration["epochs"]),
        f"{np.mean(seconds):,.0f}",
    )


def _speed(recipes: Sequence[Recipe]) -> list[tuple[str, str]]:
    """How long recipes with validation films took to a Dice of `REACHED`, a number a seed."""
    rows = []
    for recipe in recipes:
        logs = [run.read_metrics() for run in recipe.runs]
        if not any("validation_dice" in row for row in logs[0]):
            continue
        reached = [next(filter(_reached, log), {}) for log in logs]
        for title, name in (("epochs", "epoch"), ("seconds", "train_seconds")):
            cells = [f"{row[name]:,.0f}" if row.get(name) else "never" for row in reached]
            rows.append((f"{recipe.label}: {title}", ", ".join(cells)))
    return rows


def _speed_table(rows: Sequence[tuple[str, str]]) -> list[str]:
    if not rows:
        return []
    title = f"Training until the validation films' mean Dice is {REACHED:g}, a number a seed"
    return [f"<h2>{title}</h2>", page.table(("", ""), rows)]


def _reached(row: Mapping[str, Any]) -> bool:
    return (row["validation_dice"] or 0) >= REACHED


def _film_set(
    name: str,
    scored: Mapping[str, Scored],
    rows: Sequence[Sequence[str]],
    differing: Mapping[str, Sequence[Sequence[str]]],
) -> list[str]:
    parts = [
        f"<h2>{html.escape(name[0].upper() + name[1:])}</h2>",
        page.table(HEADERS, rows),
        '<p class="note">Means over films of the mean over seeds, on the masks\' own grids, and '
        "the lowest of these as the worst film. The interval is a 95 % percentile bootstrap over "
        "films, those of one group drawn together, of these seeds; the spread is the standard "
        "deviation of the seeds' means. The calibration error, the mean of the seeds', is that of "
        "the probabilities, whatever is done to the masks. Distances are undefined where an object "
        "is missed or made up. Left out as undefined, films: "
        + "; ".join(html.escape(f"{label}: {_undefined(own)}") for label, own in scored.items())
        + ".</p>",
    ]
    for title, scores in differing.items():
        parts.append(f"<h3>{html.escape(title)}, film by film</h3>")
        if scores:
            header = ("", "difference", "95 % over films", "95 % over seeds", "p", "films")
            parts.append(page.table(header, scores))
        else:
            parts.append('<p class="note">There is no film that both were scored on.</p>')
    if differing:
        parts.append(
            '<p class="note">Over films: what these networks would do on other films of the kind, '
            "a bootstrap of pairs, from which also p. Over seeds: what other seeds would do on "
            "these films, Welch's t interval of the seeds' means; none where a recipe has one "
            "seed.</p>"
        )
    columns = {label: {c: own.mean(c) for c in SCORES} for label, own in scored.items()}
    drawn = pictures.distributions(columns, DISTRIBUTIONS)
    parts.append(page.picture(drawn, "Distribution over films"))
    diagrams = {
        label: pooled_calibration(own.calibrations)
        for label, own in scored.items()
        if own.calibrations
    }
    if diagrams:
        parts += [
            "<h3>Reliability</h3>",
            page.picture(pictures.reliability(diagrams), "Reliability diagram"),
            '<p class="note">Of the pixels that were given a probability, the share that is so; on '
            "the grey line as many as were promised. Below, how many pixels there are.</p>",
        ]
    return parts


def _row(label: str, own: Scored) -> tuple[str, ...]:
    dice = metrics.bootstrap_mean(jax.random.key(0), own.mean("dice"), groups=own.groups)
    by_seed = [float(metrics.mean_over_images(values).mean) for values in own.by_seed["dice"]]
    defined = own.mean("dice")[~np.isnan(own.mean("dice"))]
    errors = [calibration["expected_error"] for calibration in own.calibrations]
    others = [
        page.number(float(metrics.mean_over_images(own.mean(name)).mean), digits)
        for name, (_, digits) in list(SCORES.items())[1:]
    ]
    return (
        label,
        str(len(by_seed)),
        str(len(own.ids)),
        page.number(dice.mean),
        f"{page.number(dice.low)} to {page.number(dice.high)}",
        "-" if (seeds := spread(by_seed)) is None else page.number(seeds),
        page.number(float(defined.min()) if len(defined) else None),
        *others,
        page.number(float(np.mean(errors)) if errors else None),
    )


def _undefined(own: Scored) -> str:
    counts = {SCORES[name][0].split(",")[0]: int(np.isnan(own.mean(name)).sum()) for name in SCORES}
    return ", ".join(f"{name} {count}" for name, count in counts.items() if count) or "none"


def _differences(scored: Mapping[str, Scored]) -> dict[str, list[tuple[str, ...]]]:
    """Of every recipe to the first by title, a row a score; none where they share no film."""
    (first, reference), *others = scored.items()
    return {
        f"{label} less {first}": [
            _difference_row(column, found) for column, found in differences(own, reference).items()
        ]
        if set(own.ids) & set(reference.ids)
        else []
        for label, own in others
    }


def _difference_row(column: str, found: Difference) -> tuple[str, ...]:
    title, digits = SCORES[column]
    films = found.over_films

    def interval(ends: tuple[float, float]) -> str:
        return " to ".join(page.number(end, digits) for end in ends)

    return (
        title,
        "undefined" if np.isnan(films.difference) else f"{films.difference:+.{digits}f}",
        interval((films.low, films.high)),
        "-" if found.over_seeds is None else interval(found.over_seeds),
        page.number(films.p_value),
        str(films.images),
    )


def _configurations(recipes: Sequence[Recipe]) -> list[str]:
    """What all share, then what tells each."""
    shared = {
        name: value
        for name, value in recipes[0].configuration.items()
        if all(other.configuration.get(name) == value for other in recipes)
    }
    parts = [page.facts(shared.items())]
    for recipe in recipes:
        own = {k: v for k, v in recipe.configuration.items() if k not in shared}
        parts += [f"<h3>{html.escape(recipe.label)}</h3>", page.facts(own.items())]
    return parts
