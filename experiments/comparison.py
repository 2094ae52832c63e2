"""Several runs side by side: scores, their spread over seeds, and paired differences.

Runs that differ in nothing but their seed are one recipe. A film's score by a recipe is the mean
over its seeds; intervals are over films. Differences are taken film by film, on films that both
recipes were scored on and neither learnt from.
"""

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments import page, pictures, score_table
from experiments.configuration import PLACES
from experiments.run_directory import RunDirectory, write_text
from experiments.score_table import ScoreTable
from jaxseg import metrics
from jaxseg.types import InputError

SCORES = {"dice": ("Dice", 4), "iou": ("IoU", 4), "hd95": ("HD95, px", 2), "assd": ("ASSD, px", 2)}
"""What is compared: how it is called, and to how many digits it is given."""

HEADERS = (
    "", "seeds", "films", "Dice", "95 % interval", "spread of seeds", "worst film",
    *(title for title, _ in list(SCORES.values())[1:]),
)  # fmt: skip

DISTRIBUTIONS = {column: SCORES[column][0] for column in ("dice", "hd95")}
"""Columns whose distribution over films is drawn, and how the axis is called."""

REACHED = 0.95
"""The validation Dice that recipes are timed to."""

Calibration = dict[str, list[float]]


@dataclass(frozen=True, eq=False)
class Recipe:
    """Runs of one configuration, a seed each.

    Attributes:
        label: What tells it from the other recipes.
        runs: Its runs, in the order of their seeds.
        configuration: What they share, as ``config.json`` has it.
    """

    label: str
    runs: list[RunDirectory]
    configuration: dict[str, Any]


@dataclass(frozen=True, eq=False)
class Scored:
    """A recipe's scores on a set of films.

    Attributes:
        ids: The films.
        by_seed: float64 ``[seeds, films]`` by column.
        calibrations: Of every seed; none of runs that were scored before there was one.
    """

    ids: list[str]
    by_seed: dict[str, np.ndarray]
    calibrations: list[Mapping[str, Any]]

    def mean(self, column: str) -> np.ndarray:
        """Of every film, over the seeds; NaN where a seed has none."""
        return self.by_seed[column].mean(axis=0)


def write(runs: Sequence[RunDirectory], out: Path) -> None:
    """Writes one page that compares finished runs, and says the scores.

    Raises:
        InputError: A run is none, is not finished, or is named twice; or seeds of one recipe were
            scored on different films.
    """
    recipes = gather(runs)
    sets = film_sets(recipes)
    body = [
        f"<h1>Recipes: {len(recipes)}, runs: {len(runs)}</h1>",
        '<p class="warning">For research, not for diagnosis.</p>',
        page.table(
            ("", "seeds", "parameters", "films learnt from", "epochs", "seconds of training"),
            [_cost(recipe) for recipe in recipes],
        ),
        *_speed(recipes),
    ]
    for name, scored in sets.items():
        rows = [_row(label, own) for label, own in scored.items()]
        body += _film_set(name, scored, rows)
        for label, *scores in rows:
            told = zip(HEADERS[1:], scores, strict=True)
            print(f"{name}: {label}: " + ", ".join(f"{title} {score}" for title, score in told))
    body += ["<h2>Configurations</h2>", *_configurations(recipes)]
    write_text(out, page.document("jaxseg: " + ", ".join(r.label for r in recipes), body))
    print(f"comparison: {out}")


def over_seeds(runs: Sequence[RunDirectory]) -> dict[str, Any]:
    """What ``summary.json`` says of several seeds of one configuration.

    Returns:
        ``seeds``, and under ``test`` for every score of the runs' summaries that is one number its
        ``mean``, its ``spread`` (the standard deviation over seeds, n - 1; None of one) and the
        ``values``; of several classes under ``classes`` the same for each.
    """
    tests = [(run.read_summary() or {})["test"] for run in runs]
    scores = _over_seeds(tests)
    if classes := tests[0].get("classes"):
        scores["classes"] = {
            name: _over_seeds([test["classes"][name] for test in tests]) for name in classes
        }
    seeds = [run.read_config()["configuration"]["seed"] for run in runs]
    return {"seeds": seeds, "images": tests[0]["images"], "test": scores}


def _over_seeds(tests: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    scores = {}
    for name in tests[0]:
        values = [test[name] for test in tests]
        if all(isinstance(value, float) for value in values):
            mean = float(np.mean(values))
            scores[name] = {"mean": mean, "spread": _spread(values), "values": values}
    return scores


def gather(runs: Sequence[RunDirectory]) -> list[Recipe]:
    """The runs by recipe, in the order in which recipes first come.

    Raises:
        InputError: As `write`.
    """
    by_configuration: dict[str, list[RunDirectory]] = {}
    for run in runs:
        run.configuration()
        if run.read_summary() is None:
            raise InputError(f"{run.path}: is not finished; go on with it by train --resume")
        key = json.dumps(_shared(run), sort_keys=True)
        by_configuration.setdefault(key, []).append(run)
    configurations = [json.loads(key) for key in by_configuration]
    recipes = []
    for configuration, own in zip(configurations, by_configuration.values(), strict=True):
        seeds = [run.read_config()["configuration"]["seed"] for run in own]
        if len(set(seeds)) < len(seeds):
            raise InputError(
                f"{', '.join(str(run.path) for run in own)}: are of one recipe, and two have one "
                "seed; name each once"
            )
        order = np.argsort(seeds)
        label = _label(configuration, configurations)
        recipes.append(Recipe(label, [own[place] for place in order], configuration))
    return recipes


def film_sets(recipes: Sequence[Recipe]) -> dict[str, dict[str, Scored]]:
    """By the films' name and the recipe's label: its scores on the films, where it has any.

    The runs' own test films come by split. Films from elsewhere are those that every seed was
    scored on by ``evaluate RUN --out RUN/NAME``, under that name.

    Raises:
        InputError: Seeds of one recipe were scored on different films.
    """
    sets: dict[str, dict[str, Scored]] = {}
    for recipe in recipes:
        own = [(run.test_scores, (run.read_summary() or {})["test"]) for run in recipe.runs]
        split = recipe.configuration["split"]
        sets.setdefault(f"test films of split {split}", {})[recipe.label] = _scored(own)
    for recipe in recipes:
        for name in sorted(_elsewhere(recipe.runs[0])):
            folders = [run.path / name for run in recipe.runs]
            if all((folder / "evaluation.json").exists() for folder in folders):
                tests = [json.loads((f / "evaluation.json").read_text())["test"] for f in folders]
                tables = [folder / "per_image.csv" for folder in folders]
                scored = _scored(list(zip(tables, tests, strict=True)))
                sets.setdefault(name, {})[recipe.label] = scored
    return sets


def differences(first: Scored, second: Scored) -> dict[str, metrics.PairedInterval]:
    """The first's scores less the second's on the films that both have, by column."""
    common = [film for film in first.ids if film in set(second.ids)]
    place = ({film: i for i, film in enumerate(scored.ids)} for scored in (first, second))
    ours, theirs = ([index[film] for film in common] for index in place)
    return {
        name: metrics.paired_bootstrap(
            jax.random.key(0), first.mean(name)[ours], second.mean(name)[theirs]
        )
        for name in SCORES
    }


def pooled_calibration(calibrations: Sequence[Mapping[str, Any]]) -> Calibration:
    """The reliability diagram of several runs' pixels together, as many of each run.

    Args:
        calibrations: ``confidence``, ``frequency`` and ``share`` of every bin; None in empty ones.
    """
    parts = {
        part: np.array([own[part] for own in calibrations], np.float64)
        for part in ("confidence", "frequency", "share")
    }
    weight = np.nan_to_num(parts["share"])
    total = weight.sum(axis=0)
    means = {
        part: np.where(total > 0, (np.nan_to_num(parts[part]) * weight).sum(axis=0), np.nan)
        / np.where(total > 0, total, 1)
        for part in ("confidence", "frequency")
    }
    return {
        **{part: own.tolist() for part, own in means.items()},
        "share": weight.mean(axis=0).tolist(),
    }


def _shared(run: RunDirectory) -> dict[str, Any]:
    configuration = run.read_config()["configuration"]
    return {k: v for k, v in configuration.items() if k not in (*PLACES, "seed")}


def _label(own: Mapping[str, Any], configurations: Sequence[Mapping[str, Any]]) -> str:
    """The configuration's name, and what tells it from others of that name."""
    namesakes = [other for other in configurations if other["name"] == own["name"]]
    telling = [
        option
        for option in own
        if option != "name" and any(other.get(option) != own[option] for other in namesakes)
    ]
    return ", ".join([own["name"], *(f"{option} {_short(own[option])}" for option in telling)])


def _short(value: Any) -> str:
    return "-".join(map(str, value)) if isinstance(value, list) else str(value)


def _elsewhere(run: RunDirectory) -> list[str]:
    return [found.parent.name for found in run.path.glob("*/evaluation.json")]


def _scored(files: Sequence[tuple[Path, Mapping[str, Any]]]) -> Scored:
    tables: list[ScoreTable] = [score_table.read(path) for path, _ in files]
    ids = list(tables[0].ids)
    for (path, _), table in zip(files, tables, strict=True):
        if list(table.ids) != ids:
            raise InputError(f"{path}: holds other films than {files[0][0]}, of the same recipe")
    columns = {name: np.stack([table.columns[name] for table in tables]) for name in SCORES}
    calibrations = [test["calibration"] for _, test in files if "calibration" in test]
    return Scored(ids, columns, calibrations)


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


def _speed(recipes: Sequence[Recipe]) -> list[str]:
    """How long recipes with validation films took to a Dice of `REACHED` on them."""
    rows = []
    for recipe in recipes:
        logs = [run.read_metrics() for run in recipe.runs]
        if not any("validation_dice" in row for row in logs[0]):
            continue
        reached = [next(filter(_reached, log), {}) for log in logs]
        for title, name in (("epochs", "epoch"), ("seconds", "train_seconds")):
            cells = [f"{row[name]:,.0f}" if row.get(name) else "never" for row in reached]
            rows.append((f"{recipe.label}: {title}", ", ".join(cells)))
    if not rows:
        return []
    title = f"Training until the validation films' mean Dice is {REACHED:g}, a number a seed"
    return [f"<h2>{title}</h2>", page.table(("", ""), rows)]


def _reached(row: Mapping[str, Any]) -> bool:
    return (row["validation_dice"] or 0) >= REACHED


def _film_set(name: str, scored: Mapping[str, Scored], rows: Sequence[Sequence[str]]) -> list[str]:
    parts = [
        f"<h2>{html.escape(name[0].upper() + name[1:])}</h2>",
        page.table(HEADERS, rows),
        '<p class="note">Means over films of the mean over seeds, on the masks\' own grids; the '
        "interval is a 95 % percentile bootstrap over films, the spread the standard deviation of "
        "the seeds' means. Left out as undefined, films: "
        + "; ".join(html.escape(f"{label}: {_undefined(own)}") for label, own in scored.items())
        + ".</p>",
    ]
    reference, *others = scored.items()
    for label, own in others:
        if not set(own.ids) & set(reference[1].ids):
            note = f"{label} and {reference[0]} have no film in common to compare."
            parts.append(f'<p class="note">{html.escape(note)}</p>')
            continue
        parts += [
            f"<h3>{html.escape(f'{label} less {reference[0]}, film by film')}</h3>",
            page.table(
                ("", "difference", "95 % interval", "p", "films"),
                [
                    _difference_row(column, found)
                    for column, found in differences(own, reference[1]).items()
                ],
            ),
        ]
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
    dice = metrics.bootstrap_mean(jax.random.key(0), own.mean("dice"))
    by_seed = [float(metrics.mean_over_images(values).mean) for values in own.by_seed["dice"]]
    defined = own.by_seed["dice"][~np.isnan(own.by_seed["dice"])]
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
        "-" if (spread := _spread(by_seed)) is None else page.number(spread),
        page.number(float(defined.min()) if len(defined) else None),
        *others,
    )


def _spread(values: Sequence[float]) -> float | None:
    """Standard deviation over seeds, n - 1; None of one."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def _undefined(own: Scored) -> str:
    counts = {SCORES[name][0].split(",")[0]: int(np.isnan(own.mean(name)).sum()) for name in SCORES}
    return ", ".join(f"{name} {count}" for name, count in counts.items() if count) or "none"


def _difference_row(column: str, found: metrics.PairedInterval) -> tuple[str, ...]:
    title, digits = SCORES[column]
    low, high = page.number(found.low, digits), page.number(found.high, digits)
    return (
        title,
        f"{found.difference:+.{digits}f}",
        f"{low} to {high}",
        page.number(found.p_value),
        str(found.images),
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
