"""The TFDS builder: films and masks of the archive as records, split by group of like films."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from jaxseg.data.archive import RELEASE_COUNTS, WHERE_TO_GET_IT, Archive, open_archive
from jaxseg.data.covid_radiography import report
from jaxseg.data.films import grey_film_png, grey_mask_png
from jaxseg.data.inspection import Inspected, inspect
from jaxseg.data.listing import Film
from jaxseg.data.splits import SPLITS
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
    that a slice such as ``train[:10%]`` is a fair sample; films that look alike it may part.

    Attributes:
        archive: the archive to build from; None: the one in TFDS's manual directory.
        progress: called with the steps done and the steps in all, or None. Each film of the archive
            is a step when it is looked at, and each film of the config one when it is written.
        skip_bad: leave out what will not do, and say so in the report, in place of an error.
    """

    VERSION = tfds.core.Version("2.0.0")
    RELEASE_NOTES: ClassVar = {
        "2.0.0": "Near duplicates belong to a group; groups are the same in every config.",
        "1.0.0": "Split 70/10/20 by group; a group is the films with the same bytes.",
    }
    MANUAL_DOWNLOAD_INSTRUCTIONS = f"To prepare this data set, {WHERE_TO_GET_IT}."
    BUILDER_CONFIGS: ClassVar = [
        tfds.core.BuilderConfig(name=name, description=f"Films of {', '.join(classes)}.")
        for name, classes in CONFIG_CLASSES.items()
    ]
    DEFAULT_BUILDER_CONFIG_NAME = "all"

    archive: Archive | None = None
    progress: Callable[[int, int], None] | None = None

    def __init__(
        self,
        *,
        file_format: str | tfds.core.FileFormat | None = None,
        skip_bad: bool = False,
        **kwargs: Any,
    ):
        """As TFDS has it, but for the default file format: array_record needs no TensorFlow."""
        super().__init__(file_format=file_format, **kwargs)
        self.skip_bad = skip_bad
        if file_format is None and not self.info.initialized:
            self.info.set_file_format("array_record", override=True)

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the archive that the data set was prepared from."""
        return self._facts["fingerprint"]

    @property
    def duplicates(self) -> list[list[str]]:
        """The films with the same bytes, each a list of two or more ids."""
        return self._facts["duplicates"]

    @property
    def report(self) -> Mapping[str, Any]:
        """What was built and what was found, as `jaxseg.data.covid_radiography.report` has it."""
        return self._facts

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
        steps = Steps(archive, classes, self.progress)
        inspection = inspect(archive, classes, skip_bad=self.skip_bad, looked_at=steps.one_more)
        self._facts.update(fingerprint=archive.fingerprint, **report.facts(inspection, classes))
        by_split: dict[str, list[Inspected]] = {name: [] for name in SPLITS}
        for index, inspected in enumerate(inspection.films):
            if inspected.film.class_name in classes:
                by_split[inspection.split(index)].append(inspected)
        steps.to_write = sum(map(len, by_split.values()))
        shards = {}
        for split, members in by_split.items():
            members.sort(key=lambda member: (member.content, member.film.id))
            films = [member.film for member in members]
            shards[split] = [
                partial(
                    _examples,
                    archive,
                    films[start : start + _FILMS_PER_SHARD],
                    inspection.sources,
                    steps,
                )
                for start in range(0, len(films), _FILMS_PER_SHARD)
            ]
        return shards

    def _download_and_prepare(self, *args: Any, **kwargs: Any) -> None:
        """Writes the report beside the records, into the folder that appears once it is whole."""
        super()._download_and_prepare(*args, **kwargs)
        text = report.markdown(self.info.full_name, self._facts)
        Path(self.data_dir, report.FILE).write_text(text)

    def _log_download_bytes(self) -> None:
        """Nothing is downloaded; TFDS would announce an unknown size on standard output."""

    def _log_download_done(self) -> None:
        """As ``_log_download_bytes``."""


class Steps:
    """Counts what is done and tells."""

    def __init__(
        self, archive: Archive, classes: Sequence[str], tell: Callable[[int, int], None] | None
    ):
        self.to_look_at = len(archive.survey(archive.classes)[0])
        self.to_write = len(archive.survey(classes)[0])
        self.tell, self.done = tell, 0

    def one_more(self) -> None:
        """One film was looked at or written."""
        self.done += 1
        if self.tell is not None:
            self.tell(self.done, self.to_look_at + self.to_write)


def _examples(
    archive: Archive, films: Sequence[Film], sources: Mapping[str, str], steps: Steps
) -> Iterator[Example]:
    """One shard's films."""

    def example(film: Film) -> Example:
        return film.id, {
            "image": grey_film_png(archive.read(film.image), f"{archive.path}: {film.image}"),
            "mask": grey_mask_png(archive.read(film.mask), f"{archive.path}: {film.mask}"),
            "class": film.class_name,
            "id": film.id,
            "source": sources.get(film.id, ""),
        }

    for key_and_example in in_threads(example, films):
        yield key_and_example
        steps.one_more()
