"""Scores a run on its test images, or on any folder of images with masks.

    python -m experiments.evaluate RUN [--images DIR --masks DIR] [options]

Writes ``evaluation.json``, ``per_image.csv`` and ``evaluation.png``.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from tyro.conf import OmitArgPrefixes, Positional, arg

from experiments import command, dataset, files, scores
from experiments.configuration import Configuration
from experiments.examples import draw_examples
from experiments.options import check_both_folders
from experiments.postprocessing import Postprocessing
from experiments.runs import RunDirectory, find_run, load_trained
from experiments.scores import Scores
from experiments.scoring import score
from jaxseg.data.arrays import ImageArrays
from jaxseg.data.folders import load_folders
from jaxseg.data.tables import read_table
from jaxseg.errors import InputError
from jaxseg.inference import make_predict
from jaxseg.parallel import make_mesh, padded_size, replicate

Subset = Literal["test", "validation", "train"]


@dataclasses.dataclass(frozen=True)
class ExternalImages:
    """An external test set, instead of the run's own images."""

    #: Folder of images of any size: PNG, JPEG, TIFF, BMP or DICOM.
    images: Path | None = None
    #: Folder of their masks. A mask has the name of its image.
    masks: Path | None = None
    #: Text at the end of the masks' names, such as _mask.
    mask_suffix: str = ""
    #: Gray levels of the object. Default: above 127, or the run's --classes.
    mask_values: tuple[int, ...] | None = None
    #: CSV file with columns image and group: images of one group, such as a patient, are resampled
    #: together for intervals.
    table: Path | None = None

    def check(self) -> None:
        """Raises InputError if options do not go together."""
        check_both_folders(self.images, self.masks)
        for option, given in (("--mask-values", self.mask_values), ("--table", self.table)):
            if given is not None and self.images is None:
                raise InputError(f"{option}: needs --images and --masks")


@dataclasses.dataclass(frozen=True)
class Options:
    """Score a run on its test images, or on a folder of images with masks."""

    #: Run directory created by experiments.train, or lungs, the pretrained network.
    run: Annotated[Positional[Path], arg(metavar="RUN")]
    #: Split to score. The train split shows whether the network underfits.
    subset: Subset = "test"
    #: Folder to write to. Default: RUN, or RUN/SUBSET for another subset than test. Needed for the
    #: pretrained network.
    out: Path | None = None
    external: OmitArgPrefixes[ExternalImages] = ExternalImages()
    postprocessing: OmitArgPrefixes[Postprocessing] = Postprocessing()
    moved: OmitArgPrefixes[dataset.Moved] = dataset.Moved()


def evaluate(options: Options) -> None:
    """Scores the images and writes the results.

    Raises:
        InputError: The run, an image or an option is invalid.
    """
    external, postprocessing = options.external, options.postprocessing
    external.check()
    postprocessing.check()
    run = find_run(options.run)
    out = options.out or run.evaluation(options.subset)
    trained = load_trained(run)
    configuration = trained.configuration
    postprocessing.check_fits(configuration)
    arrays, indices = images_to_score(run, external, subset=options.subset, moved=options.moved)
    mesh = make_mesh()
    state = replicate(trained.state, mesh)
    predict = postprocessing.augmented(make_predict(trained.model))
    postprocess = postprocessing.labels if postprocessing.changes_labels else None
    scored = score(
        predict,
        state,
        arrays,
        indices,
        mesh,
        rows=padded_size(configuration.optimization.batch_size, mesh),
        class_names=configuration.data.class_names(),
        postprocess=postprocess,
    )
    made = {
        "run": options.run.name,
        "images": str(external.images or f"{options.subset} images of the run"),
        "subset": None if external.images else options.subset,
        "mask_values": external.mask_values,
        "postprocessing": dataclasses.asdict(postprocessing)
        | {"tta_flips": sorted(postprocessing.tta_flips)},
    }
    write_scores(out / "evaluation.json", scored, made)
    picture = out / "evaluation.png"
    draw_examples(picture, predict, state, arrays, indices, scored, postprocess=postprocess)


def write_scores(path: Path, scored: Scores, made: Mapping[str, Any]) -> None:
    """Writes the means and, in the same folder, ``per_image.csv``; prints the means.

    Args:
        path: The JSON file.
        scored: The scores.
        made: What else the file says.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    scored.write(path.with_name("per_image.csv"))
    summary = scored.summary()
    files.write_json(path, {**made, "test": summary, **command.machine()})
    print(scores.one_line(summary))
    print(f"written: {path} and per_image.csv")


def images_to_score(
    run: RunDirectory, external: ExternalImages, *, subset: Subset, moved: dataset.Moved
) -> tuple[ImageArrays, np.ndarray]:
    """Returns images, resized as for the run's network, and the indices of those to score.

    Raises:
        InputError: The run, an image or an option is invalid.
    """
    configuration = run.configuration()
    if external.images is None:
        images = dataset.load(moved.applied_to(configuration))
        run.check_same_images(images.fingerprint)
        indices = getattr(images, subset)
        if not len(indices):
            split = configuration.data.split
            raise InputError(f"--subset: the split {split} has no {subset} images")
        return images.arrays, indices
    if subset != "test":
        raise InputError("--subset: is for the run's own images. Leave it out with --images")
    arrays = _load_external(configuration, external)
    return arrays, np.arange(len(arrays.ids))


def _load_external(configuration: Configuration, external: ExternalImages) -> ImageArrays:
    assert external.images is not None
    assert external.masks is not None
    data, classes = configuration.data, configuration.data.mask_values()
    if external.mask_values is not None and classes:
        raise InputError(f"--mask-values: the run has the classes {', '.join(classes)} already")
    values = list(classes.values()) or None
    return load_folders(
        external.images,
        external.masks,
        **vars(data.sampling()),
        classes=[external.mask_values] if external.mask_values else values,
        background=None if external.mask_values else data.background,
        ignore=data.ignore,
        mask_suffix=external.mask_suffix or data.mask_suffix,
        table=None if external.table is None else read_table(external.table),
        test_only=True,
        progress=command.bar("reading images"),
    ).arrays


def main() -> None:
    """Reads the command line and evaluates."""
    evaluate(tyro.cli(Options, prog="python -m experiments.evaluate", description=Options.__doc__))


if __name__ == "__main__":
    command.run(main)
