"""The TFDS builder: images and lung masks of the archive, split by group of near-duplicates."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from jaxseg.data.archive import CLASSES, WHERE_TO_GET_IT, Archive, open_archive
from jaxseg.data.covid_radiography import report
from jaxseg.data.covid_radiography.report import Inspected
from jaxseg.data.images import gray_png, png_bytes, read_mask
from jaxseg.data.splits import SPLITS
from jaxseg.data.threads import Progress, in_threads

CONFIG_CLASSES: Mapping[str, tuple[str, ...]] = {
    "all": CLASSES,
    **{name.lower().replace(" ", "_"): (name,) for name in CLASSES},
}
"""The classes of every config."""

_IMAGES_PER_SHARD = 1024

Example = tuple[str, dict[str, Any]]


class Builder(tfds.core.ShardBasedBuilder):
    """Chest X-rays with lung masks from the COVID-19 Radiography Database.

    It writes shard by shard: TFDS's shuffling writer holds a split in memory, and needs TensorFlow
    above 1 GB. Within a split the images are in the order of their hashes, so that a slice such as
    ``train[:10%]`` is a random sample. A slice may separate near-duplicates.

    Attributes:
        archive: The archive to build from; None for the one in TFDS's manual directory.
        progress: Called with the number of steps done and of all steps, or None. Each image of the
            archive is a step when it is inspected, and each of the config when it is written.
        skip_bad: Skip files that cannot be used and list them in the report, instead of raising an
            error.
    """

    VERSION = tfds.core.Version("3.0.0")
    RELEASE_NOTES: ClassVar = {"3.0.0": "Groups of near-duplicates. Masks are 0 and 255."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = f"To prepare this dataset, {WHERE_TO_GET_IT}."
    BUILDER_CONFIGS: ClassVar = [
        tfds.core.BuilderConfig(name=name, description=f"Images of {', '.join(classes)}.")
        for name, classes in CONFIG_CLASSES.items()
    ]
    DEFAULT_BUILDER_CONFIG_NAME = "all"

    archive: Archive | None = None
    progress: Progress | None = None

    def __init__(
        self,
        *,
        file_format: str | tfds.core.FileFormat | None = None,
        skip_bad: bool = False,
        **kwargs: Any,
    ):
        """As in TFDS, but the default file format is array_record, which needs no TensorFlow."""
        super().__init__(file_format=file_format, **kwargs)
        self.skip_bad = skip_bad
        if file_format is None and not self.info.initialized:
            self.info.set_file_format("array_record", override=True)

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the archive that the dataset was prepared from."""
        return self.report["fingerprint"]

    @property
    def report(self) -> tfds.core.MetadataDict:
        """What was found and built, see `jaxseg.data.covid_radiography.report.inspect`."""
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
        steps = count(1)
        total = sum(len(archive.pairs(names)[0]) for names in (archive.classes, classes))

        def step(*_: int) -> None:
            if self.progress is not None:
                self.progress(next(steps), total)

        images, metadata = report.inspect(archive, classes, skip_bad=self.skip_bad, progress=step)
        self.report.update(fingerprint=archive.fingerprint, **metadata)
        images.sort(key=lambda image: (image.content, image.pair.id))
        shards = {}
        for split in SPLITS:
            members = [image for image in images if image.split == split]
            shards[split] = [
                partial(_examples, archive, members[start : start + _IMAGES_PER_SHARD], step)
                for start in range(0, len(members), _IMAGES_PER_SHARD)
            ]
        return shards

    def _download_and_prepare(self, *args: Any, **kwargs: Any) -> None:
        """Also writes the report into the folder, which appears when it is complete."""
        super()._download_and_prepare(*args, **kwargs)
        text = report.markdown(self.info.full_name, self.report)
        Path(self.data_dir, "report.md").write_text(text)

    def _log_download_bytes(self) -> None:
        """Nothing is downloaded. TFDS would print an unknown size."""

    def _log_download_done(self) -> None:
        """As ``_log_download_bytes``."""


def _examples(
    archive: Archive, images: Sequence[Inspected], progress: Progress
) -> Iterator[Example]:
    """The examples of one shard."""

    def example(image: Inspected) -> Example:
        pair = image.pair
        labels = read_mask(archive.read(pair.mask), name=pair.mask).labels
        return pair.id, {
            "image": gray_png(archive.read(pair.image), pair.image),
            "mask": png_bytes(255 * labels),
            "class": pair.class_name,
            "id": pair.id,
            "source": image.source,
        }

    return in_threads(example, images, progress)
