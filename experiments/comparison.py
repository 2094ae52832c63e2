"""Compares runs: scores, standard deviations over seeds, and paired differences.

Runs that differ only in their seed form one recipe, and so do the folds of a cross-validation,
whose test images are joined. An image's score by a recipe is the mean over its seeds. Recipes are
compared on the images that both were scored on.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments import files, scores
from experiments.options import FOLD, PATHS
from experiments.runs import RunDirectory, flat
from jaxseg import metrics
from jaxseg.errors import InputError

SCORES = {"dice": ("Dice", 4), "iou": ("IoU", 4), "hd95": ("HD95, px", 2), "assd": ("ASSD, px", 2)}
"""The compared scores: name and digits."""

DATA = "data_fingerprint"


class Difference(NamedTuple):
    """The difference of two recipes' mean scores.

    Attributes:
        over_images: With a bootstrap interval over images, for these seeds.
        across_seeds: Ends of Welch's 95 % t interval of the seeds' means, for these images; None if
            a recipe has one seed, or if no seed differs from another.
    """

    over_images: metrics.PairedInterval
    across_seeds: tuple[float, float] | None


@dataclass(frozen=True, eq=False)
class Recipe:
    """Runs of one configuration with different seeds, and with every fold of a cross-validation.

    Attributes:
        label: Name of the configuration, and the options that differ between recipes of that name.
        runs: The runs, in the order of their seeds and then of their folds.
        folds: Number of folds; 1 without cross-validation.
        options: What the runs share.
    """

    label: str
    runs: list[RunDirectory]
    folds: int
    options: dict[str, Any]


@dataclass(frozen=True, eq=False)
class Scored:
    """A recipe's scores on a set of images.

    Attributes:
        ids: The images.
        groups: The group of every image, see `ScoreTable`.
        by_seed: float64 ``[seeds, images]`` by column.
        calibrations: The calibration of every seed.
    """

    ids: list[str]
    groups: list[str]
    by_seed: dict[str, np.ndarray]
    calibrations: list[Mapping[str, Any]]

    def mean(self, column: str) -> np.ndarray:
        """Returns every image's mean over the seeds; NaN if one seed has no score."""
        return self.by_seed[column].mean(axis=0)


def across_seeds(runs: Sequence[RunDirectory]) -> dict[str, Any]:
    """Returns what ``summary.json`` holds for several seeds of one configuration.

    Returns:
        ``seeds``, and under ``test``, for every score that is a number, ``mean``, ``std`` (over
        seeds, n - 1; None for one) and ``values``; the same for each class under ``classes``.
    """
    tests = [run.finished_summary()["test"] for run in runs]
    together = _across_seeds(tests)
    if classes := tests[0].get("classes"):
        together["classes"] = {
            name: _across_seeds([test["classes"][name] for test in tests]) for name in classes
        }
    seeds = [run.configuration().optimization.seed for run in runs]
    return {"seeds": seeds, "images": tests[0]["images"], "test": together}


def gather(runs: Sequence[RunDirectory]) -> list[Recipe]:
    """Returns the runs by recipe, in the order of each recipe's first run.

    Raises:
        InputError: A run is absent, unfinished or there twice, or a fold is missing.
    """
    by_options: dict[str, dict[tuple[int, int], RunDirectory]] = {}
    for run in runs:
        run.finished_summary()
        options = {DATA: run.read_config()[DATA][:8], **flat(run.configuration().as_json())}
        seed, fold = options.pop("seed"), FOLD.fullmatch(options["split"])
        if fold:
            options["split"] = f"{fold[2]} folds"
        key = json.dumps({k: v for k, v in options.items() if k not in PATHS}, sort_keys=True)
        numbered = by_options.setdefault(key, {})
        number = (seed, int(fold[1]) if fold else 1)
        if number in numbered:
            same = "same configuration and same --seed" + (" and fold" if fold else "")
            raise InputError(f"{numbered[number].path}, {run.path}: {same}. Pass only one of them")
        numbered[number] = run
    every = [json.loads(key) for key in by_options]
    return [
        Recipe(
            _label(options, every),
            [run for _, run in sorted(numbered.items())],
            _folds(numbered),
            options,
        )
        for options, numbered in zip(every, by_options.values(), strict=True)
    ]


def image_sets(recipes: Sequence[Recipe]) -> dict[str, dict[str, Scored]]:
    """Returns each recipe's scores on each set of images, by the set's and the recipe's name.

    The runs' test images are sets by split. Other sets are those of ``evaluate RUN --out RUN/NAME``
    if every seed has one, without images that a run was trained on.

    Raises:
        InputError: Seeds of one recipe were scored on different images, or evaluations of one name
            made masks in different ways.
    """
    sets: dict[str, dict[str, Scored]] = {}
    several = len({recipe.options[DATA] for recipe in recipes}) > 1
    for recipe in recipes:
        name = f"test images of split {recipe.options['split']}"
        name += f", data {recipe.options[DATA]}" if several else ""
        tests = [(run.test_scores, run.finished_summary()["test"]) for run in recipe.runs]
        seeds = [tests[i : i + recipe.folds] for i in range(0, len(tests), recipe.folds)]
        sets.setdefault(name, {})[recipe.label] = _scored(seeds)
    made: dict[str, tuple[Path, dict[str, Any]]] = {}
    for recipe in recipes:
        for first in sorted(recipe.runs[0].path.glob("*/evaluation.json")):
            name = first.parent.name
            paths = [run.path / name / first.name for run in recipe.runs]
            if not all(path.exists() for path in paths):
                continue
            evaluations = [files.read_json(path) for path in paths]
            if any(evaluation["subset"] == "train" for evaluation in evaluations):
                continue
            for path, evaluation in zip(paths, evaluations, strict=True):
                _check_made_alike(path, evaluation, *made.setdefault(name, (path, evaluation)))
            tests = [evaluation["test"] for evaluation in evaluations]
            tables = [path.parent / "per_image.csv" for path in paths]
            # Folds were all scored on these images: each counts as a seed of its own.
            by_run = [[test] for test in zip(tables, tests, strict=True)]
            sets.setdefault(name, {})[recipe.label] = _scored(by_run)
    return sets


def differences(first: Scored, second: Scored) -> dict[str, Difference]:
    """Returns the first's scores minus the second's on their common images, by column."""
    in_second = set(second.ids)
    common = [image for image in first.ids if image in in_second]
    index = ({image: i for i, image in enumerate(scored.ids)} for scored in (first, second))
    ours, theirs = ([positions[image] for image in common] for positions in index)
    groups = [first.groups[i] for i in ours]
    return {
        name: Difference(
            metrics.paired_bootstrap(
                jax.random.key(scores.BOOTSTRAP_SEED),
                first.mean(name)[ours],
                second.mean(name)[theirs],
                groups=groups,
            ),
            _welch_interval(first.by_seed[name][:, ours], second.by_seed[name][:, theirs]),
        )
        for name in SCORES
    }


def _across_seeds(tests: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    together = {}
    for name in tests[0]:
        values = [test[name] for test in tests]
        if all(isinstance(value, float) for value in values):
            mean = float(np.mean(values))
            together[name] = {"mean": mean, "std": std(values), "values": values}
    return together


def std(values: Sequence[float]) -> float | None:
    """Returns the standard deviation with n - 1; None for one value."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def _welch_interval(first: np.ndarray, second: np.ndarray) -> tuple[float, float] | None:
    """Interval of the difference of means ``[seeds, images]``, over images defined in all."""
    from scipy import stats

    defined = ~np.isnan(np.concatenate([first, second])).any(axis=0)
    means = [by_seed[:, defined].mean(axis=1) for by_seed in (first, second)]
    if not defined.any() or min(map(len, means)) < 2 or not any(np.ptp(own) for own in means):
        return None
    result: Any = stats.ttest_ind(*means, equal_var=False)
    ends = result.confidence_interval(0.95)
    return float(ends.low), float(ends.high)


def _check_made_alike(
    path: Path, ours: Mapping[str, Any], other_path: Path, theirs: Mapping[str, Any]
) -> None:
    for name in ("postprocessing", "mask_values"):
        # A run with classes has no mask values of its evaluation.
        if None not in (ours[name], theirs[name]) and ours[name] != theirs[name]:
            raise InputError(
                f"{path}: {name} is {ours[name]}, but {theirs[name]} in {other_path}. Evaluate "
                "both in the same way, or use another --out"
            )


def _label(options: Mapping[str, Any], every: Sequence[Mapping[str, Any]]) -> str:
    """The configuration's name, and options that differ between recipes of that name."""
    namesakes = [other for other in every if other["name"] == options["name"]]
    differing = [
        name
        for name in options
        if name != "name" and any(other[name] != options[name] for other in namesakes)
    ]
    return ", ".join([options["name"], *(f"{name} {_short(options[name])}" for name in differing)])


def _short(value: Any) -> str:
    return "-".join(map(str, value)) if isinstance(value, list) else str(value)


def _folds(numbered: Mapping[tuple[int, int], RunDirectory]) -> int:
    """The number of folds of a recipe, each of which every seed must have."""
    first = next(iter(numbered.values()))
    fold = FOLD.fullmatch(first.configuration().data.split)
    folds = int(fold[2]) if fold else 1
    for seed, _ in numbered:
        for fold in range(1, folds + 1):
            if (seed, fold) not in numbered:
                raise InputError(
                    f"{first.path}: fold {fold} of {folds} with --seed {seed} is missing"
                )
    return folds


def _scored(seeds: Sequence[Sequence[tuple[Path, Mapping[str, Any]]]]) -> Scored:
    """The scores of every seed, each on the images of all its folds."""
    tables = [[scores.read(path) for path, _ in folds] for folds in seeds]
    ids = [[image for table in folds for image in table.ids] for folds in tables]
    for own, folds in zip(ids, seeds, strict=True):
        if own != ids[0]:
            raise InputError(
                f"{folds[0][0]}: has other images than {seeds[0][0][0]}, of the same recipe"
            )
    columns = {
        name: np.stack([np.concatenate([table.columns[name] for table in own]) for own in tables])
        for name in SCORES
    }
    groups = [group for table in tables[0] for group in table.groups]
    return Scored(ids[0], groups, columns, [t["calibration"] for folds in seeds for _, t in folds])
