"""The films of a run: archive or phantoms, prepared, as arrays, and which are for what."""

import dataclasses
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from experiments.command import bar, say
from experiments.configuration import SOURCE, Configuration
from jaxseg.data import phantom
from jaxseg.data.archive import RELEASE_COUNTS, PartialReleaseWarning
from jaxseg.data.arrays import ImageArrays, load_arrays
from jaxseg.data.folders import load_folders
from jaxseg.data.splits import SPLITS, held_out_split, model_selection_split, random_split
from jaxseg.data.tables import read_table
from jaxseg.errors import InputError

if TYPE_CHECKING:
    import jaxseg.data.covid_radiography

PHANTOM_SEED = 0


@dataclass(frozen=True)
class OwnPlaces:
    """Where a run's own films lie now, each unless given where it found them when it trained."""

    manual_dir: Path | None = None
    """Folder that holds Kaggle's archive, if no more where the run found it."""
    data_dir: Path | None = None
    """Where prepared data and arrays are kept, likewise."""
    own_images: Path | None = None
    """The run's own --images, likewise."""
    own_masks: Path | None = None
    """The run's own --masks, likewise."""
    own_groups: Path | None = None
    """The run's own --groups, likewise."""

    def of(self, configuration: Configuration) -> Configuration:
        """The configuration with these places in place of its own."""
        given = {name.removeprefix("own_"): place for name, place in vars(self).items() if place}
        return dataclasses.replace(configuration, **given)


AS_FOUND = OwnPlaces()


@dataclass(frozen=True, eq=False)
class Films:
    """The films' arrays, and indices into them.

    Attributes:
        arrays: Every film of the data set once.
        train: Films to learn from.
        validation: Films to choose by; empty where the split has none.
        test: Films to score.
        fingerprint: Of the archive's content.
        builder: Of the prepared data set that the arrays were made from; None where only the arrays
            matter.
    """

    arrays: ImageArrays
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    fingerprint: str
    builder: "jaxseg.data.covid_radiography.Builder | None" = None


def load(configuration: Configuration) -> Films:
    """Prepares what the configuration names, or finds it prepared.

    Raises:
        InputError: The archive, or an option about it, will not do.
    """
    if configuration.images is not None and configuration.masks is not None:
        films = _own(configuration, configuration.images, configuration.masks)
        return _enough(films, configuration.images)
    manual_dir = archive_dir(configuration)
    return _enough(of_builder(configuration, prepared(configuration, manual_dir)), manual_dir)


def of_builder(
    configuration: Configuration, builder: "jaxseg.data.covid_radiography.Builder"
) -> Films:
    """The films of a prepared data set, at the configuration's sizes and by its split.

    Raises:
        InputError: An option about the films will not do.
    """
    arrays = load_arrays(
        builder,
        **vars(configuration.sampling()),
        progress=bar("decoding films"),
    )
    films = split(arrays, configuration.split, fingerprint=builder.fingerprint)
    return dataclasses.replace(films, builder=builder)


def split(arrays: ImageArrays, rule: str, *, fingerprint: str) -> Films:
    """Says which films are for what.

    Args:
        arrays: The films.
        rule: "seed" permutes them all, "grouped" is the builder's, "choosing" tests on the films
            that grouped validates with and leaves out all that either rule tests on,
            "source:TEXT" holds the films of the sources with that text out.
        fingerprint: Of the archive's content.

    Raises:
        InputError: No source holds the text, or all do.
    """
    if rule == "seed":
        train, test = random_split(arrays.ids)
        return Films(arrays, train, np.empty(0, np.int64), test, fingerprint)
    if rule.startswith(SOURCE):
        text = rule.removeprefix(SOURCE)
        indices = held_out_split(arrays.sources, arrays.groups, arrays.split, held_out=text)
        return Films(arrays, *indices, fingerprint)
    names = np.asarray(arrays.split)
    if rule == "choosing":
        train, test = model_selection_split(arrays.ids, arrays.groups, arrays.split)
        return Films(arrays, train, np.empty(0, np.int64), test, fingerprint)
    train, validation, test = (np.flatnonzero(names == name) for name in SPLITS)
    return Films(arrays, train, validation, test, fingerprint)


def archive_dir(configuration: Configuration) -> Path:
    """Where the configuration's archive lies; phantoms are drawn unless they are drawn already.

    Raises:
        InputError: The configuration needs an archive and names none.
    """
    # This loads TFDS, which takes a second: not before a command has checked its options.
    from jaxseg.data.covid_radiography import default_data_dir

    if configuration.manual_dir is not None:
        return configuration.manual_dir
    return _phantoms(configuration, configuration.data_dir or default_data_dir())


def prepared(
    configuration: Configuration, manual_dir: Path
) -> "jaxseg.data.covid_radiography.Builder":
    """Prepares an archive as the configuration says, or finds it prepared.

    Raises:
        InputError: The archive, or an option about it, will not do.
    """
    from jaxseg.data.covid_radiography import prepare

    with warnings.catch_warnings():
        if configuration.manual_dir is None:
            warnings.simplefilter("ignore", PartialReleaseWarning)
        builder = prepare(
            manual_dir,
            configuration.data_dir,
            configuration.data_config,
            skip_bad=configuration.skip_bad,
            progress=bar("building the data set"),
        )
    if skipped := builder.report["skipped"]:
        report = Path(builder.data_dir, "report.md")
        say(f"skipped {len(skipped)} files that cannot be used: see {report}")
    return builder


def _own(configuration: Configuration, images: Path, masks: Path) -> Films:
    """Films and masks from two folders."""
    values = configuration.mask_values()
    table = None if configuration.groups is None else read_table(configuration.groups)
    own = load_folders(
        images,
        masks,
        **vars(configuration.sampling()),
        classes=tuple(values.values()) if values else None,
        background=configuration.background,
        ignore=configuration.ignore,
        mask_suffix=configuration.mask_suffix,
        table=table,
        near_duplicate_bits=configuration.near,
        skip_bad=configuration.skip_bad,
        progress=bar("reading images"),
    )
    for message in own.skipped[:20]:
        say(f"skipped {message}")
    if len(own.skipped) > 20:
        say(f"and {len(own.skipped) - 20} more")
    if not own.arrays.labels.any():
        raise InputError(f"{masks}: every mask is empty; there is nothing to train on")
    ids = own.arrays.ids
    groups = table.groups if table else {}
    if groups:
        say(f"{len(ids)} images in {len({groups[image] for image in ids})} groups")
    if together := len(ids) - len(set(own.arrays.groups)):
        why = "belong to another" if groups else "look like another"
        largest = max(Counter(own.arrays.groups).values())
        say(
            f"{together} of {len(ids)} films {why} and share its split; "
            f"the largest group has {largest} films"
        )
    return split(own.arrays, configuration.split, fingerprint=own.fingerprint)


def _enough(films: Films, folder: Path) -> Films:
    for name in ("train", "test"):
        if not len(getattr(films, name)):
            count, groups = len(films.arrays.ids), len(set(films.arrays.groups))
            alike = f" in {groups} groups (--near, --groups)" if groups < count else ""
            raise InputError(
                f"{folder}: {count} films{alike} leave none for {name}; more are needed"
            )
    return films


def _phantoms(configuration: Configuration, data_dir: Path) -> Path:
    """Draws the phantoms' archive, or finds it drawn."""
    if configuration.phantom_films is None and configuration.name == "own":
        raise InputError("--images: own trains on films of one's own; name their folder")
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
            images=dict.fromkeys(RELEASE_COUNTS, each),
            seed=PHANTOM_SEED,
            progress=bar("drawing phantom films"),
        )
    return directory
