"""Shows what the COVID-19 Radiography Database holds, and what its splits leak.

    python -m experiments.inspect_data [RUN] [--manual-dir DIR] [options]

Prints the dataset's report, which lists near-duplicates, and how many test images have one among
the training images.
"""

import dataclasses
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from tyro.conf import Positional, arg

from experiments import command, dataset, scores
from experiments.configs import CONFIGURATIONS
from experiments.dataset import Dataset
from experiments.runs import RunDirectory
from jaxseg.data.arrays import ImageArrays
from jaxseg.data.splits import leaked
from jaxseg.errors import InputError


@dataclasses.dataclass(frozen=True)
class Options:
    """Show what the database holds, what looks alike in it, and what its splits leak."""

    #: Run directory: shows the run's data, and its Dice without leaked test images.
    run: Annotated[Positional[Path | None], arg(metavar="RUN")] = None
    #: Folder of the database: Kaggle's archive, or what it unpacks to. Default: synthetic images.
    manual_dir: Path | None = None
    #: Folder for prepared data and caches. Default: your cache directory.
    data_dir: Path | None = None
    #: Which classes, without RUN: all, covid, normal, lung_opacity or viral_pneumonia.
    data_config: str = "all"
    #: Split to inspect, without RUN: grouped, random, fold:I/K, model-selection or source:TEXT.
    split: str = "grouped"
    #: Skip invalid images and list them, instead of stopping with an error.
    skip_bad: bool = False


def inspect_data(options: Options) -> None:
    """Prints the report, the leaks of the splits, and what they change in a run's scores.

    Raises:
        InputError: The database, the run or an option is invalid.
    """
    run = None if options.run is None else RunDirectory(options.run)
    configuration = dataset.Moved(options.manual_dir, options.data_dir).applied_to(
        CONFIGURATIONS["phantom"] if run is None else run.configuration()
    )
    if run is None:
        configuration = configuration.with_data(
            data_config=options.data_config, split=options.split, skip_bad=options.skip_bad
        )
    if configuration.data.images is not None:
        raise InputError("--images: only the COVID-19 Radiography Database can be inspected")
    builder = dataset.prepared(configuration.data, dataset.database_dir(configuration))
    if run is not None:
        run.check_same_images(builder.fingerprint)
    images = dataset.of_database(configuration.data, builder)
    print(Path(builder.data_dir, "report.md").read_text())
    print(leaks(images.arrays, "random"))
    if configuration.data.split != "random":
        print(leaks(images.arrays, configuration.data.split))
    if run is not None:
        print(dice_without_leaks(run, images))


def leaks(arrays: ImageArrays, rule: str) -> str:
    """Returns how many test images share a group with a training image."""
    images = dataset.split(arrays, rule, fingerprint="")
    copies = images.test[leaked(arrays.groups, images.train, images.test)]
    names = ": " + ", ".join(arrays.ids[i] for i in copies) if len(copies) else ""
    return (
        f"split {rule}: {len(images.train)} training images, {len(images.test)} test images, of "
        f"which {len(copies)} have a near-duplicate among the training images{names}"
    )


def dice_without_leaks(run: RunDirectory, images: Dataset) -> str:
    """Returns the mean Dice of the run's test images, of all and of those that did not leak."""
    table = scores.read(run.test_scores)
    dice = dict(zip(table.ids, table.columns["dice"].tolist(), strict=True))
    values = np.array([dice[images.arrays.ids[i]] for i in images.test])
    is_leaked = leaked(images.arrays.groups, images.train, images.test)
    means = ", ".join(
        f"{name} ({len(part)}) {np.nanmean(part):.6f}"
        for name, part in (("all", values), ("without leaked", values[~is_leaked]))
        if len(part)
    )
    return f"Dice of {run.path}, test images: {means}"


def main() -> None:
    """Reads the command line and inspects."""
    inspect_data(
        tyro.cli(Options, prog="python -m experiments.inspect_data", description=Options.__doc__)
    )


if __name__ == "__main__":
    command.run(main)
