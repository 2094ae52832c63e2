"""Preparing an archive once, in a folder named by its content."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from jaxseg.data.archive import Archive, open_archive
from jaxseg.data.covid_radiography.covid_radiography_dataset_builder import (
    CONFIG_CLASSES,
    Builder,
)
from jaxseg.data.listing import Fault, check
from jaxseg.errors import InputError


def default_data_dir() -> Path:
    """The user's cache: ``jaxseg`` under ``XDG_CACHE_HOME``, or under ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxseg"


def prepare(
    manual_dir: Path | str,
    data_dir: Path | str | None = None,
    config: str = "all",
    *,
    skip_bad: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Builder:
    """Prepares the archive, or finds it prepared, and gives the builder to read it with.

    Lies in ``data_dir/<start of the archive's fingerprint>/covid_radiography/<config>/<version>``:
    phantoms, a part and the full release never pass for one another. The folder appears once it
    is whole; one damaged since is prepared again. Several processes may prepare at the same time.

    Args:
        manual_dir: where the archive is; see ``jaxseg.data.archive.open_archive``.
        data_dir: where to prepare; None: ``default_data_dir()``.
        config: ``all``, ``covid``, ``normal``, ``lung_opacity`` or ``viral_pneumonia``.
        skip_bad: leave out the films that will not do, in place of an error; the report lists them.
        progress: called with the steps done and the steps in all: each film of the archive is
            looked at, each of the config written. Not called where nothing needs to be written.

    Returns:
        The builder, prepared: ``builder.as_data_source("train")`` reads it, ``builder.report``
        tells what was found. ``report.md`` in its folder says the same as text.

    Raises:
        InputError: no such config, no archive, an archive that lacks a class, or a ``data_dir``
            that is full or cannot be written to; unless ``skip_bad``, a file that will not do.

    Warns:
        PartialReleaseWarning: the archive holds fewer films than the release.
    """
    if config not in CONFIG_CLASSES:
        raise InputError(f"{config}: no such data config; there are {', '.join(CONFIG_CLASSES)}")
    with open_archive(manual_dir) as archive:
        films, faults = archive.survey(CONFIG_CLASSES[config])
        if not skip_bad:
            check(faults, archive.path)
        archive.warn_if_partial(CONFIG_CLASSES[config])
        root = Path(data_dir or default_data_dir()).expanduser() / archive.fingerprint[:16]
        directory = root / Builder.name / config / str(Builder.VERSION)
        try:
            if not _is_whole(directory):
                needed = sum(archive.size(film.image) + archive.size(film.mask) for film in films)
                _clear(root, directory, needed)
                _build(archive, root, config, progress, skip_bad=skip_bad)
        # The record writer raises RuntimeError where a file cannot be written.
        except (OSError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and "write() failed" not in str(error):
                raise
            # Another process may have finished first and hold the folder's name.
            if not _is_whole(directory):
                raise InputError(f"{root}: cannot be written to ({error})") from error
        builder = Builder(config=config, data_dir=root)
        if not skip_bad:
            # They may have been left out when the data set was prepared.
            check([Fault(**fault) for fault in builder.report["faults"]], archive.path)
    return builder


def _build(
    archive: Archive,
    root: Path,
    config: str,
    progress: Callable[[int, int], None] | None,
    *,
    skip_bad: bool,
) -> None:
    builder = Builder(config=config, data_dir=root, skip_bad=skip_bad)
    builder.archive, builder.progress = archive, progress
    # TFDS makes its download folders though nothing is downloaded.
    with tempfile.TemporaryDirectory() as unused:
        builder.download_and_prepare(download_dir=unused)


def _is_whole(directory: Path) -> bool:
    """Whether TFDS finished the folder and every record file still has its size."""
    try:
        splits = json.loads((directory / "dataset_info.json").read_text())["splits"]
    except (OSError, ValueError, KeyError):
        return False
    expected = sum(int(split.get("numBytes", 0)) for split in splits)
    return expected == sum(file.stat().st_size for file in directory.glob(f"{Builder.name}-*"))


def _clear(root: Path, directory: Path, needed: int) -> None:
    """Removes what is no longer whole and makes sure of the space."""
    if directory.exists():
        shutil.rmtree(directory)
    root.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(root).free
    if free < needed:
        raise InputError(
            f"{root}: {needed / 1e6:.0f} MB are needed there and {free / 1e6:.0f} MB are free"
        )
