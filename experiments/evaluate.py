"""Scores a run on its own test films, or on any folder of films with masks.

    python -m experiments.evaluate RUN [--images DIR --masks DIR] [--mask-values V ...] [more]

Writes ``evaluation.json`` and ``per_image.csv``.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro
from tyro.conf import OmitArgPrefixes, Positional, arg

from experiments import command, films, report, trained
from experiments.mask_settings import MaskSettings
from experiments.run_directory import RunDirectory, write_json
from experiments.scoring import draw_examples, score
from jaxseg.data.arrays import ImageArrays
from jaxseg.data.folders import load_folders
from jaxseg.data.tables import read_table
from jaxseg.errors import InputError
from jaxseg.inference import make_predict
from jaxseg.parallel import make_mesh, padded_size, replicate

Part = Literal["test", "validation", "train"]

AS_TRAINED = MaskSettings()


@dataclasses.dataclass(frozen=True)
class Elsewhere:
    """Films from two folders in place of a run's own."""

    images: Path | None = None
    """Folder of PNG or JPEG films, of any size and mode; the run's own test films unless given, of
    several runs the first's."""
    masks: Path | None = None
    """Folder of their masks, each named as its film."""
    mask_values: tuple[int, ...] | None = None
    """Grey values that are lung; above 127 unless given. A run with --classes takes its own."""
    groups: Path | None = None
    """CSV file with the columns image and group: which of --images are of one patient."""


NOWHERE = Elsewhere()


@dataclasses.dataclass(frozen=True)
class Options:
    """Scores a run on its own test films, or on a folder of films with their masks."""

    run: Positional[Path]
    """Run directory."""
    elsewhere: Annotated[OmitArgPrefixes[Elsewhere], arg(name="")] = NOWHERE
    part: Part = "test"
    """Which of the run's own films; those it learnt from show whether it could have learnt more."""
    out: Path | None = None
    """Where to write; unless given the run directory, or there a folder named as --part."""
    made: Annotated[OmitArgPrefixes[MaskSettings], arg(name="")] = AS_TRAINED
    own: Annotated[OmitArgPrefixes[films.OwnPlaces], arg(name="")] = films.AS_FOUND


def evaluate(options: Options) -> None:
    """Scores the films and writes the results.

    Raises:
        InputError: The run, a film or an option will not do.
    """
    run = RunDirectory(options.run)
    learnt = trained.load(run)
    classes = learnt.configuration.mask_values()
    options.made.check_run(learnt.configuration)
    elsewhere = options.elsewhere
    arrays, indices = films_to_score(run, elsewhere, part=options.part, own_places=options.own)
    mesh = make_mesh()
    state = replicate(learnt.state, mesh)
    rows = padded_size(learnt.configuration.batch_size, mesh)
    predict = options.made.averaged(make_predict(learnt.model))
    mend = options.made.labels if options.made.mends() else None
    scores = score(
        predict, state, arrays, indices, mesh, rows=rows, class_names=tuple(classes), mend=mend
    )
    out = options.out or (options.run if options.part == "test" else options.run / options.part)
    out.mkdir(parents=True, exist_ok=True)
    summary = scores.summary()
    scores.table().write(out / "per_image.csv")
    write_json(
        out / "evaluation.json",
        {
            "run": options.run.name,
            "films": str(elsewhere.images or f"the run's {options.part} films"),
            "part": None if elsewhere.images else options.part,
            "mask_values": elsewhere.mask_values,
            "masks_made": dataclasses.asdict(options.made),
            "test": summary,
            **report.machine(),
        },
    )
    draw_examples(out / "evaluation.png", predict, state, arrays, indices, scores, mend=mend)
    print(report.one_line(summary))
    drawn = ", evaluation.png" if (out / "evaluation.png").exists() else ""
    print(f"written: {out / 'evaluation.json'}, per_image.csv{drawn}")


def films_to_score(
    run: RunDirectory,
    elsewhere: Elsewhere = NOWHERE,
    *,
    part: Part = "test",
    own_places: films.OwnPlaces = films.AS_FOUND,
) -> tuple[ImageArrays, np.ndarray]:
    """The films of two folders as the run sees films, or a part of the run's own.

    Returns:
        Films, and indices of those to score.

    Raises:
        InputError: The run, a film or an option will not do.
    """
    configuration = run.configuration()
    images, masks, mask_values = elsewhere.images, elsewhere.masks, elsewhere.mask_values
    if (images is None) != (masks is None):
        raise InputError(
            f"{'--masks' if masks is None else '--images'}: --images and --masks go together"
        )
    for option, given in (("--mask-values", mask_values), ("--groups", elsewhere.groups)):
        if given is not None and masks is None:
            raise InputError(f"{option}: goes with --images and --masks")
    classes = configuration.mask_values()
    if mask_values is not None and classes:
        raise InputError(f"--mask-values: the run has classes of its own: {', '.join(classes)}")
    if images is None or masks is None:
        own = films.load(own_places.of(configuration))
        run.check_same_films(own.fingerprint)
        indices = getattr(own, part)
        if not len(indices):
            raise InputError(f"--part: the split {configuration.split} has no {part} films")
        return own.arrays, indices
    if part != "test":
        raise InputError("--part: is of the run's own films, not of --images")
    values: tuple[tuple[int, ...], ...] | None = tuple(classes.values()) or None
    if mask_values is not None:
        values = (mask_values,)
    arrays = load_folders(
        images,
        masks,
        size=configuration.size,
        label_size=configuration.size_of_labels(),
        classes=values,
        background=configuration.background if mask_values is None else None,
        ignore=configuration.ignore,
        mask_suffix=configuration.mask_suffix,
        table=None if elsewhere.groups is None else read_table(elsewhere.groups),
        test_only=True,
        resize=configuration.film_resize,
        preprocessing=configuration.preprocessing,
        progress=command.bar("reading films"),
    ).arrays
    return arrays, np.arange(len(arrays.ids))


def main() -> None:
    """Reads the command line and evaluates."""
    evaluate(tyro.cli(Options, prog="python -m experiments.evaluate", description=Options.__doc__))


if __name__ == "__main__":
    command.run(main)
