"""Several runs side by side: scores, their spread over seeds, and paired differences.

Runs that differ in nothing but their seed are one recipe. A film's score by a recipe is the mean
over its seeds. Differences are taken film by film, on films that both recipes were scored on and
neither learnt from. Intervals over films say what these networks do on other films of the kind;
those over seeds, what other seeds do on these films.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments import score_table
from experiments.configuration import PLACES, with_defaults
from experiments.run_directory import RunDirectory
from experiments.score_table import ScoreTable
from jaxseg import metrics
from jaxseg.errors import InputError

SCORES = {"dice": ("Dice", 4), "iou": ("IoU", 4), "hd95": ("HD95, px", 2), "assd": ("ASSD, px", 2)}
"""What is compared: how it is called, and to how many digits it is given."""

DATA = "data_fingerprint"
"""What tells the films that recipes learnt from, and were tested on, besides their options."""

DISTRIBUTIONS = {column: SCORES[column][0] for column in ("dice", "hd95")}
"""Columns whose distribution over films is drawn, and how the axis is called."""

Calibration = dict[str, list[float]]


class Difference(NamedTuple):
    """How far one recipe's mean score is from another's.

    Attributes:
        over_films: With its interval over films, the seeds being what they are.
        over_seeds: Ends of Welch's 95 % t interval over the seeds' means, the films being what they
            are; None where a recipe has but one seed, or no seed differs from another.
    """

    over_films: metrics.PairedInterval
    over_seeds: tuple[float, float] | None


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
        groups: Of every film, see `ScoreTable`.
        by_seed: float64 ``[seeds, films]`` by column.
        calibrations: Of every seed; none of runs that were scored before there was one.
    """

    ids: list[str]
    groups: list[str]
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

    The runs' own test films come by split, and by data where that is not one. Films from elsewhere
    are those that every seed was scored on by ``evaluate RUN --out RUN/NAME``, under that name.

    Raises:
        InputError: Seeds of one recipe were scored on different films, or under one name masks
            were made or read in different ways.
    """
    sets: dict[str, dict[str, Scored]] = {}
    several = len({recipe.configuration[DATA] for recipe in recipes}) > 1
    for recipe in recipes:
        own = [(run.test_scores, (run.read_summary() or {})["test"]) for run in recipe.runs]
        films = f"test films of split {recipe.configuration['split']}"
        films += f", data {recipe.configuration[DATA]}" if several else ""
        sets.setdefault(films, {})[recipe.label] = _scored(own)
    made: dict[str, tuple[Path, dict[str, Any]]] = {}
    for recipe in recipes:
        for first in sorted(recipe.runs[0].path.glob("*/evaluation.json")):
            name = first.parent.name
            files = [run.path / name / first.name for run in recipe.runs]
            if not all(file.exists() for file in files):
                continue
            told = [json.loads(file.read_text()) for file in files]
            if any(own.get("part") == "train" for own in told):
                continue
            for file, own in zip(files, told, strict=True):
                _check_made_alike(file, own, *made.setdefault(name, (file, own)))
            tables = [file.parent / "per_image.csv" for file in files]
            scored = _scored([(t, own["test"]) for t, own in zip(tables, told, strict=True)])
            sets.setdefault(name, {})[recipe.label] = scored
    return sets


def _check_made_alike(
    file: Path, own: Mapping[str, Any], other_file: Path, other: Mapping[str, Any]
) -> None:
    for name in ("masks_made", "mask_values"):
        # Not said by evaluations from before it was written, and by runs with classes of their own.
        ours, theirs = (_in_order(told.get(name)) for told in (own, other))
        if ours is not None and theirs is not None and ours != theirs:
            raise InputError(
                f"{file}: {name} is {ours}, in {other_file} {theirs}; "
                "evaluate both in one way, or with --out of another name"
            )


def _in_order(setting: Any) -> Any:
    return sorted(setting) if isinstance(setting, list) else setting


def differences(first: Scored, second: Scored) -> dict[str, Difference]:
    """The first's scores less the second's on the films that both have, by column."""
    common = [film for film in first.ids if film in set(second.ids)]
    place = ({film: i for i, film in enumerate(scored.ids)} for scored in (first, second))
    ours, theirs = ([index[film] for film in common] for index in place)
    groups = [first.groups[film] for film in ours]
    return {
        name: Difference(
            metrics.paired_bootstrap(
                jax.random.key(0),
                first.mean(name)[ours],
                second.mean(name)[theirs],
                groups=groups,
            ),
            _welch_interval(first.by_seed[name][:, ours], second.by_seed[name][:, theirs]),
        )
        for name in SCORES
    }


def _welch_interval(first: np.ndarray, second: np.ndarray) -> tuple[float, float] | None:
    """Of the difference of the means of seeds ``[seeds, films]``, over films defined in all."""
    from scipy import stats

    defined = ~np.isnan(np.concatenate([first, second])).any(axis=0)
    means = [scores[:, defined].mean(axis=1) for scores in (first, second)]
    if not defined.any() or min(map(len, means)) < 2 or not any(np.ptp(own) for own in means):
        return None
    found: Any = stats.ttest_ind(*means, equal_var=False)
    ends = found.confidence_interval(0.95)
    return float(ends.low), float(ends.high)


def pooled_calibration(calibrations: Sequence[Mapping[str, Any]]) -> Calibration:
    """The reliability diagram of several runs' pixels together, as many of each run.

    Args:
        calibrations: ``confidence``, ``frequency`` and ``share`` of every bin; None in empty ones.
    """
    parts = {
        part: np.array([own[part] for own in calibrations], np.float64)
        for part in ("confidence", "frequency", "fraction")
    }
    weight = np.nan_to_num(parts["fraction"])
    total = weight.sum(axis=0)
    means = {
        part: np.where(total > 0, (np.nan_to_num(parts[part]) * weight).sum(axis=0), np.nan)
        / np.where(total > 0, total, 1)
        for part in ("confidence", "frequency")
    }
    return {
        **{part: own.tolist() for part, own in means.items()},
        "fraction": weight.mean(axis=0).tolist(),
    }


def _shared(run: RunDirectory) -> dict[str, Any]:
    """What seeds of a recipe share; options within options as the command line spells them."""
    config = run.read_config()
    shared: dict[str, Any] = {DATA: config["data_fingerprint"][:8]}
    for name, value in with_defaults(config["configuration"]).items():
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


def _scored(files: Sequence[tuple[Path, Mapping[str, Any]]]) -> Scored:
    tables: list[ScoreTable] = [score_table.read(path) for path, _ in files]
    ids = list(tables[0].ids)
    for (path, _), table in zip(files, tables, strict=True):
        if list(table.ids) != ids:
            raise InputError(f"{path}: holds other films than {files[0][0]}, of the same recipe")
    columns = {name: np.stack([table.columns[name] for table in tables]) for name in SCORES}
    calibrations = [test["calibration"] for _, test in files if "calibration" in test]
    return Scored(ids, list(tables[0].groups), columns, calibrations)


def spread(values: Sequence[float]) -> float | None:
    """Standard deviation over seeds, n - 1; None of one."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None
