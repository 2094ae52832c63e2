"""Several runs side by side: scores, their spread over seeds, and paired differences.

Runs that differ in nothing but their seed are one recipe. A film's score by a recipe is the mean
over its seeds; intervals are over films. Differences are taken film by film, on films that both
recipes were scored on and neither learnt from.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments import score_table
from experiments.configuration import PLACES, with_defaults
from experiments.run_directory import RunDirectory
from experiments.score_table import ScoreTable
from jaxseg import metrics
from jaxseg.types import InputError

SCORES = {"dice": ("Dice", 4), "iou": ("IoU", 4), "hd95": ("HD95, px", 2), "assd": ("ASSD, px", 2)}
"""What is compared: how it is called, and to how many digits it is given."""

DISTRIBUTIONS = {column: SCORES[column][0] for column in ("dice", "hd95")}
"""Columns whose distribution over films is drawn, and how the axis is called."""

Calibration = dict[str, list[float]]


@dataclass(frozen=True, eq=False)
class Recipe:
    """Runs of one configuration, a seed each.

    Attributes:
        label: What tells it from the other recipes.
        runs: Its runs, in the order of their seeds.
        configuration: What they share, by option.
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
            scores[name] = {"mean": mean, "spread": spread(values), "values": values}
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
    """What seeds of a recipe share; options within options as the command line spells them."""
    shared: dict[str, Any] = {}
    for name, value in with_defaults(run.read_config()["configuration"]).items():
        if isinstance(value, dict):
            shared |= {f"{name}.{part}": own for part, own in value.items()}
        elif name not in (*PLACES, "seed"):
            shared[name] = value
    return shared


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
    found = run.path.glob("*/evaluation.json")
    return [f.parent.name for f in found if json.loads(f.read_text()).get("part") != "train"]


def _scored(files: Sequence[tuple[Path, Mapping[str, Any]]]) -> Scored:
    tables: list[ScoreTable] = [score_table.read(path) for path, _ in files]
    ids = list(tables[0].ids)
    for (path, _), table in zip(files, tables, strict=True):
        if list(table.ids) != ids:
            raise InputError(f"{path}: holds other films than {files[0][0]}, of the same recipe")
    columns = {name: np.stack([table.columns[name] for table in tables]) for name in SCORES}
    calibrations = [test["calibration"] for _, test in files if "calibration" in test]
    return Scored(ids, columns, calibrations)


def spread(values: Sequence[float]) -> float | None:
    """Standard deviation over seeds, n - 1; None of one."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None
