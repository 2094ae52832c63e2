"""The films of a run: archive or phantoms, prepared, as arrays, and which are for what."""

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from experiments.command import bar
from experiments.configuration import Configuration
from jaxseg.data import phantom
from jaxseg.data.archive import RELEASE_COUNTS, PartialReleaseWarning
from jaxseg.data.arrays import FilmArrays, load_arrays
from jaxseg.data.splits import SPLITS, seed_split
from jaxseg.types import InputError

PHANTOM_SEED = 0


@dataclass(frozen=True, eq=False)
class Films:
    """The films' arrays, and indices into them.

    Attributes:
        arrays: Every film of the data set once.
        train: Films to learn from.
        validation: Films to choose by; empty where the split has none.
        test: Films to score.
        fingerprint: Of the archive's content.
    """

    arrays: FilmArrays
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    fingerprint: str


def load(configuration: Configuration) -> Films:
    """Prepares what the configuration names, or finds it prepared.

    Raises:
        InputError: The archive, or an option about it, will not do.
    """
    # These load TFDS, which takes a second: not before a command has checked its options.
    from jaxseg.data.covid_radiography.preparation import default_data_dir, prepare

    data_dir = configuration.data_dir or default_data_dir()
    manual_dir = configuration.manual_dir
    with warnings.catch_warnings():
        if manual_dir is None:
            manual_dir = _phantoms(configuration, data_dir)
            warnings.simplefilter("ignore", PartialReleaseWarning)
        builder = prepare(
            manual_dir, data_dir, configuration.data_config, progress=bar("building the data set")
        )
    arrays = load_arrays(
        builder,
        size=configuration.size,
        film_resize=configuration.film_resize,
        progress=bar("decoding films"),
    )
    films = split(arrays, configuration.split, fingerprint=builder.fingerprint)
    for name in ("train", "test"):
        if not len(getattr(films, name)):
            raise InputError(
                f"{manual_dir}: {len(arrays.ids)} films leave none for {name}; more are needed"
            )
    return films


def split(arrays: FilmArrays, rule: str, *, fingerprint: str) -> Films:
    """Says which films are for what; "seed" permutes them all, "grouped" is the builder's."""
    if rule == "seed":
        train, test = seed_split(arrays.ids)
        return Films(arrays, train, np.empty(0, np.int64), test, fingerprint)
    names = np.asarray(arrays.split)
    train, validation, test = (np.flatnonzero(names == name) for name in SPLITS)
    return Films(arrays, train, validation, test, fingerprint)


def _phantoms(configuration: Configuration, data_dir: Path) -> Path:
    """Draws the phantoms' archive, or finds it drawn."""
    if configuration.phantom_films is None:
        raise InputError(
            f"--manual-dir: {configuration.name} trains on the COVID-19 Radiography Database; "
            "name the folder that holds Kaggle's archive"
        )
    directory = data_dir / f"phantoms-{configuration.phantom_films}-{PHANTOM_SEED}"
    if not (directory / "archive.zip").exists():
        directory.mkdir(parents=True, exist_ok=True)
        each = configuration.phantom_films // len(RELEASE_COUNTS)
        phantom.write_archive(
            directory,
            films=dict.fromkeys(RELEASE_COUNTS, each),
            seed=PHANTOM_SEED,
            progress=bar("drawing phantom films"),
        )
    return directory
