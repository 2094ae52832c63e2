"""The TFDS builder: films and masks of the archive as records, split by group of like films."""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from jaxseg.data.archive import RELEASE_COUNTS, WHERE_TO_GET_IT, Archive, Film, open_archive
from jaxseg.data.films import grey_film_png, grey_mask_png
from jaxseg.data.splits import SPLITS, group_films, grouped_split
from jaxseg.data.threads import in_threads

CLASSES = tuple(RELEASE_COUNTS)
CONFIG_CLASSES: Mapping[str, tuple[str, ...]] = {
    "all": CLASSES,
    **{name.lower().replace(" ", "_"): (name,) for name in CLASSES},
}
"""The classes that each config takes."""

_FILMS_PER_SHARD = 1024

Example = tuple[str, dict[str, Any]]


class Builder(tfds.core.ShardBasedBuilder):
    """Films with lung masks from the COVID-19 Radiography Database.

    Writes shard by shard: TFDS's shuffling writer holds a split in memory, and needs TensorFlow
    where that passes 1 GB. Within a split the films lie in the order of their contents' hashes, so
    that a slice such as ``train[:10%]`` is a fair sample.

    Attributes:
        archive: the archive to build from; None: the one in TFDS's manual directory.
        progress: called with the films written and the films in all, or None.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar = {
        "1.0.0": "Split 70/10/20 by group; a group is the films with the same bytes."
    }
    MANUAL_DOWNLOAD_INSTRUCTIONS = f"To prepare this data set, {WHERE_TO_GET_IT}."
    BUILDER_CONFIGS: ClassVar = [
        tfds.core.BuilderConfig(name=name, description=f"Films of {', '.join(classes)}.")
        for name, classes in CONFIG_CLASSES.items()
    ]
    DEFAULT_BUILDER_CONFIG_NAME = "all"

    archive: Archive | None = None
    progress: Callable[[int, int], None] | None = None

    def __init__(self, *, file_format: str | tfds.core.FileFormat | None = None, **kwargs: Any):
        """As TFDS has it, but for the default file format: array_record needs no TensorFlow."""
        super().__init__(file_format=file_format, **kwargs)
        if file_format is None and not self.info.initialized:
            self.info.set_file_format("array_record", override=True)

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the archive that the data set was prepared from."""
        return self._facts["fingerprint"]

    @property
    def duplicates(self) -> list[list[str]]:
        """The groups of films with the same bytes, each a list of two or more ids."""
        return self._facts["duplicates"]

    @property
    def _facts(self) -> tfds.core.MetadataDict:
        assert isinstance(self.info.metadata, tfds.core.MetadataDict)
        return self.info.metadata

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(None, None, 1), encoding_format="png"),
                    "mask": tfds.features.Image(shape=(None, None, 1), encoding_format="png"),
                    "class": tfds.features.ClassLabel(names=CLASSES),
                    "id": tfds.features.Text(),
                    "source": tfds.features.Text(),
                }
            ),
            supervised_keys=("image", "mask"),
            homepage="https://www.kaggle.com/datasets/tawsifurrahman/covid19-radiography-database",
            metadata=tfds.core.MetadataDict(),
        )

    def _shard_iterators_per_split(
        self, dl_manager: tfds.download.DownloadManager
    ) -> Mapping[str, Sequence[Callable[[], Iterator[Example]]]]:
        archive, classes = self.archive, CONFIG_CLASSES[str(self.builder_config_name)]
        if archive is None:
            archive = open_archive(os.fspath(dl_manager.manual_dir))
            archive.warn_if_partial(classes)
        films = archive.films(classes)
        sources = {film: url for name in classes for film, url in archive.sources(name).items()}
        contents = list(in_threads(partial(_content, archive), films))
        self._facts.update(
            fingerprint=archive.fingerprint,
            duplicates=[
                [films[i].id for i in group] for group in _groups(contents) if len(group) > 1
            ],
        )
        by_split: dict[str, list[tuple[str, Film]]] = {name: [] for name in SPLITS}
        for film, content, split in zip(films, contents, grouped_split(contents), strict=True):
            by_split[split].append((content, film))
        written = Written(len(films), self.progress)
        shards = {}
        for split, members in by_split.items():
            ordered = [film for _, film in sorted(members, key=lambda m: (m[0], m[1].id))]
            shards[split] = [
                partial(
                    _examples, archive, ordered[start : start + _FILMS_PER_SHARD], sources, written
                )
                for start in range(0, len(ordered), _FILMS_PER_SHARD)
            ]
        return shards

    def _log_download_bytes(self) -> None:
        """Nothing is downloaded; TFDS would announce an unknown size on standard output."""

    def _log_download_done(self) -> None:
        """As ``_log_download_bytes``."""


class Written:
    """Counts films written and tells."""

    def __init__(self, total: int, progress: Callable[[int, int], None] | None):
        self.total, self.progress, self.done = total, progress, 0

    def one_more(self) -> None:
        """Tells of one film."""
        self.done += 1
        if self.progress is not None:
            self.progress(self.done, self.total)


def _groups(contents: Sequence[str]) -> list[list[int]]:
    """The members of every group, groups and members in order."""
    members: dict[int, list[int]] = {}
    for index, first in enumerate(group_films(contents)):
        members.setdefault(first, []).append(index)
    return list(members.values())


def _content(archive: Archive, film: Film) -> str:
    return hashlib.sha256(archive.read(film.image)).hexdigest()


def _examples(
    archive: Archive, films: Sequence[Film], sources: Mapping[str, str], written: Written
) -> Iterator[Example]:
    """One shard's films."""

    def example(film: Film) -> Example:
        return film.id, {
            "image": grey_film_png(archive.read(film.image), f"{archive.path}: {film.image}"),
            "mask": grey_mask_png(archive.read(film.mask), f"{archive.path}: {film.mask}"),
            "class": film.class_name,
            "id": film.id,
            "source": sources.get(film.id.lower(), ""),
        }

    for key_and_example in in_threads(example, films):
        yield key_and_example
        written.one_more()
