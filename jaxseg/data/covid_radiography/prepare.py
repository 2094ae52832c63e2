"""Prepares an archive once, in a folder named by its content."""

import json
import os
import shutil
import tempfile
from pathlib import Path

from jaxseg.data.archive import open_archive
from jaxseg.data.covid_radiography.covid_radiography_dataset_builder import (
    CONFIG_CLASSES,
    Builder,
)
from jaxseg.data.threads import Progress
from jaxseg.errors import InputError, refuse_files


def default_data_dir() -> Path:
    """The user's cache: ``jaxseg`` in ``XDG_CACHE_HOME``, or in ``~/.cache``.

    Raises:
        InputError: There is no home directory.
    """
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxseg"
    except RuntimeError as error:
        raise InputError(
            "there is no home directory for the prepared data. Name a data directory or set "
            "XDG_CACHE_HOME"
        ) from error


def prepare(
    manual_dir: Path | str,
    data_dir: Path | str | None = None,
    config: str = "all",
    *,
    skip_bad: bool = False,
    progress: Progress | None = None,
) -> Builder:
    """Prepares the archive, or finds it prepared, and returns the builder to read it with.

    The folder is ``data_dir/<start of the archive's fingerprint>/covid_radiography/...``, so that
    phantoms, a part of the release and all of it are never confused. It appears when it is
    complete. A damaged folder is prepared again. Several processes may prepare at the same time.

    Args:
        manual_dir: The directory of the archive, see `jaxseg.data.archive.open_archive`.
        data_dir: The directory of prepared data. Default: `default_data_dir`.
        config: ``all``, ``covid``, ``normal``, ``lung_opacity`` or ``viral_pneumonia``.
        skip_bad: Skip files that cannot be used and list them in the report, instead of raising an
            error.
        progress: Called with the number of steps done and of all steps. Each image of the archive
            is inspected, and each of the config is written.

    Returns:
        The prepared builder: ``builder.as_data_source("train")`` reads it, ``builder.report`` says
        what was found. ``report.md`` in its folder says the same as text.

    Raises:
        InputError: There is no such config or no archive, the archive lacks a class, or
            ``data_dir`` is full or cannot be written to; unless ``skip_bad``, a file that cannot be
            used.

    Warns:
        jaxseg.data.archive.PartialReleaseWarning: The archive holds fewer images than the release.
    """
    if config not in CONFIG_CLASSES:
        raise InputError(f"{config}: no such config. There are {', '.join(CONFIG_CLASSES)}")
    with open_archive(manual_dir) as archive:
        archive.warn_if_partial(CONFIG_CLASSES[config])
        root = Path(data_dir or default_data_dir()).expanduser() / archive.fingerprint[:16]
        directory = root / Builder.name / config / str(Builder.VERSION)
        try:
            if not _is_whole(directory):
                shutil.rmtree(directory, ignore_errors=True)
                builder = Builder(config=config, data_dir=root, skip_bad=skip_bad)
                builder.archive, builder.progress = archive, progress
                # TFDS makes its download folders although nothing is downloaded.
                with tempfile.TemporaryDirectory() as unused:
                    builder.download_and_prepare(download_dir=unused)
        # The record writer raises RuntimeError if a file cannot be written.
        except (OSError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and "write() failed" not in str(error):
                raise
            # Another process may have finished first.
            if not _is_whole(directory):
                raise InputError(f"{root}: cannot be written to ({error})") from error
        builder = Builder(config=config, data_dir=root)
        if not skip_bad:
            # They may have been skipped when the dataset was prepared.
            refuse_files(archive.path, builder.report["skipped"])
    return builder


def _is_whole(directory: Path) -> bool:
    """Whether TFDS finished the folder and every record file still has its size."""
    try:
        splits = json.loads((directory / "dataset_info.json").read_text())["splits"]
    except (OSError, ValueError, KeyError):
        return False
    expected = sum(int(split.get("numBytes", 0)) for split in splits)
    return expected == sum(file.stat().st_size for file in directory.glob(f"{Builder.name}-*"))
