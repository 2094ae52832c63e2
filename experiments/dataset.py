"""The images of a run as arrays, and the indices of its splits."""

import dataclasses
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from experiments.command import bar, say, say_skipped
from experiments.configuration import Configuration
from experiments.options import FOLD, SOURCE, Data
from jaxseg.data import phantom
from jaxseg.data.archive import RELEASE_COUNTS, PartialReleaseWarning
from jaxseg.data.arrays import ImageArrays, load_arrays
from jaxseg.data.folders import load_folders
from jaxseg.data.splits import (
    SPLITS,
    fold_split,
    held_out_split,
    model_selection_split,
    random_split,
)
from jaxseg.data.tables import read_table
from jaxseg.errors import InputError

if TYPE_CHECKING:
    from jaxseg.data.covid_radiography import Builder

PHANTOM_SEED = 0


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images and the indices of the splits.

    Attributes:
        arrays: Every image once.
        train: Indices of the training images.
        validation: Indices of the validation images; empty if the split has none.
        test: Indices of the test images.
        fingerprint: Hash of the images, masks, groups and given splits.
        builder: The prepared database that the images are from; None for folders.
    """

    arrays: ImageArrays
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    fingerprint: str
    builder: "Builder | None" = None

    def counts(self) -> dict[str, int]:
        """Returns the number of images of every split."""
        return {name: len(getattr(self, name)) for name in SPLITS}


@dataclass(frozen=True)
class Moved:
    """Where the run's data is now, if it has moved since training."""

    manual_dir: Path | None = None
    """Folder of the COVID-19 Radiography Database."""
    data_dir: Path | None = None
    """Folder of prepared data and caches."""
    dataset_images: Path | None = None
    """Folder of the run's images."""
    dataset_masks: Path | None = None
    """Folder of the run's masks."""
    dataset_table: Path | None = None
    """The run's table."""

    def applied_to(self, configuration: Configuration) -> Configuration:
        """Returns the configuration with these paths."""
        paths = {name.removeprefix("dataset_"): path for name, path in vars(self).items() if path}
        return configuration.with_data(**paths)


def load(configuration: Configuration) -> Dataset:
    """Loads the images of a configuration. The database is prepared on first use.

    Raises:
        InputError: The data or an option is invalid, or a split has no images.
    """
    data = configuration.data
    if data.images is not None and data.masks is not None:
        dataset, source = _load_folders(data, data.images, data.masks), data.images
    else:
        source = database_dir(configuration)
        dataset = of_database(data, prepared(data, source))
    for name in ("train", "test"):
        if not dataset.counts()[name]:
            count, groups = len(dataset.arrays.ids), len(set(dataset.arrays.groups))
            raise InputError(
                f"{source}: the {name} split is empty ({count} images in {groups} groups). Add "
                "images, or lower --near-duplicate-bits if unrelated images are grouped"
            )
    if configuration.optimization.patience and not len(dataset.validation):
        raise InputError(f"--patience: the split {data.split} has no validation images")
    return dataset


def of_database(data: Data, builder: "Builder") -> Dataset:
    """Returns the images of the prepared database."""
    arrays = load_arrays(builder, **vars(data.sampling()), progress=bar("decoding images"))
    dataset = split(arrays, data.split, fingerprint=builder.fingerprint)
    return dataclasses.replace(dataset, builder=builder)


def split(arrays: ImageArrays, rule: str, *, fingerprint: str) -> Dataset:
    """Splits images by a rule of ``--split``.

    Raises:
        InputError: There is no such fold; or no image, or every image, is of the held-out source.
    """
    validation = np.empty(0, np.int64)
    if rule == "random":
        train, test = random_split(arrays.ids)
    elif rule == "model-selection":
        train, test = model_selection_split(arrays.ids, arrays.groups, arrays.split)
    elif fold := FOLD.fullmatch(rule):
        train, validation, test = fold_split(arrays.groups, *map(int, fold.groups()))
    elif rule.startswith(SOURCE):
        train, validation, test = held_out_split(
            arrays.sources, arrays.groups, arrays.split, held_out=rule.removeprefix(SOURCE)
        )
    else:
        names = np.asarray(arrays.split)
        train, validation, test = (np.flatnonzero(names == name) for name in SPLITS)
    return Dataset(arrays, train, validation, test, fingerprint)


def database_dir(configuration: Configuration) -> Path:
    """Returns the folder of the database; that of phantoms is written on first use.

    Raises:
        InputError: The configuration needs data and names none.
    """
    data = configuration.data
    if data.manual_dir is not None:
        return data.manual_dir
    if data.phantoms is None:
        raise InputError(
            "--images: the configuration custom needs --images DIR and --masks DIR"
            if configuration.name == "custom"
            else f"--manual-dir: the configuration {configuration.name} needs the folder of the "
            "COVID-19 Radiography Database"
        )
    # This imports TFDS, which takes a second: a command checks its options first.
    from jaxseg.data.covid_radiography import default_data_dir

    folder = (data.data_dir or default_data_dir()) / f"phantoms-{data.phantoms}-{PHANTOM_SEED}"
    if not (folder / "archive.zip").exists():
        folder.mkdir(parents=True, exist_ok=True)
        each = data.phantoms // len(RELEASE_COUNTS)
        phantom.write_archive(
            folder,
            images=dict.fromkeys(RELEASE_COUNTS, each),
            seed=PHANTOM_SEED,
            progress=bar("generating synthetic images"),
        )
    return folder


def prepared(data: Data, manual_dir: Path) -> "Builder":
    """Returns the prepared database.

    Raises:
        InputError: The database is invalid.
    """
    from jaxseg.data.covid_radiography import prepare

    with warnings.catch_warnings():
        if data.manual_dir is None:
            warnings.simplefilter("ignore", PartialReleaseWarning)
        builder = prepare(
            manual_dir,
            data.data_dir,
            data.data_config,
            skip_bad=data.skip_bad,
            progress=bar("preparing the dataset"),
        )
    if skipped := builder.report["skipped"]:
        report = Path(builder.data_dir, "report.md")
        say(f"skipped {len(skipped)} files that cannot be used: see {report}")
    return builder


def _load_folders(data: Data, images: Path, masks: Path) -> Dataset:
    table = None if data.table is None else read_table(data.table)
    folders = load_folders(
        images,
        masks,
        **vars(data.sampling()),
        classes=tuple(data.mask_values().values()) or None,
        background=data.background,
        ignore=data.ignore,
        mask_suffix=data.mask_suffix,
        table=table,
        near_duplicate_bits=data.near_duplicate_bits,
        skip_bad=data.skip_bad,
        progress=bar("reading images"),
    )
    say_skipped(folders.skipped)
    arrays = folders.arrays
    if not arrays.labels.any():
        raise InputError(f"{masks}: every mask is empty; there is nothing to train on")
    groups = Counter(arrays.groups)
    if len(groups) < len(arrays.ids):
        say(
            f"{len(arrays.ids)} images in {len(groups)} groups of patients and near-duplicates; "
            f"the largest group has {max(groups.values())} images"
        )
    return split(arrays, data.split, fingerprint=folders.fingerprint)
