"""Writes masks of images of any size, thousands of them.

    python -m experiments.predict RUN IMAGE_OR_FOLDER ... --out DIR

Images are PNG, JPEG, TIFF, BMP or DICOM. For each it writes ``<stem>_mask.png`` at the image's own
size and ``<stem>_overlay.png``. ``predictions.csv`` has a row per image and class, and
``predictions.json`` has the settings. Images that are done already are skipped, so that you can
repeat a command that was killed. An image that cannot be read is listed; the exit status is then 2.
"""

import dataclasses
import errno
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import OmitArgPrefixes, Positional, arg

from experiments import command
from experiments.predictions import Predictions, Row
from experiments.runs import find_run, load_trained
from experiments.segmenter import Loaded, Segmenter, Settings
from jaxseg.data import dicom
from jaxseg.data.images import find_images, image_stem, printable
from jaxseg.data.splits import natural_key
from jaxseg.errors import InputError
from jaxseg.types import Array

THREADS = min(8, max(2, (os.cpu_count() or 2) // 2))
"""Threads that read images, and as many that write masks."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Write masks of images of any size. Repeat the command to continue after a stop."""

    #: Run directory created by experiments.train, or lungs, the pretrained network.
    run: Annotated[Positional[Path], arg(metavar="RUN")]
    #: PNG, JPEG, TIFF, BMP or DICOM images, or folders of them.
    images: Annotated[Positional[tuple[Path, ...]], arg(metavar="IMAGE_OR_FOLDER ...")]
    #: Folder to write to, another one than that of the images.
    out: Path
    #: Write each image with its mask drawn on it.
    overlay: bool = True
    #: Write the mask values of the run's --classes, the smallest of each. Default: 255 for one
    #: class, else 1, 2 and so on.
    mask_values_out: bool = False
    settings: OmitArgPrefixes[Settings] = Settings()


def predict(options: Options) -> None:
    """Segments the images, reading and writing in threads while the network works.

    Raises:
        InputError: The run or an option is invalid; or, at the end, images could not be read.
    """
    options.settings.check()
    paths = _find(options.images, options.out)
    trained = load_trained(find_run(options.run))
    values = [min(own) for own in trained.configuration.data.mask_values().values()]
    if options.mask_values_out and not (values and min(values) > 0 and max(values) < 256):
        raise InputError("--mask-values-out: needs a run with --classes, with values from 1 to 255")
    segmenter = Segmenter(
        trained, options.settings, mask_values=values if options.mask_values_out else None
    )
    made_with = {"run": options.run.name, **segmenter.made_with()}
    classes = len(segmenter.class_names)
    with Predictions(
        options.out, made_with, classes=classes, overlays=options.overlay
    ) as predictions:
        _predict(segmenter, paths, predictions)


def _predict(segmenter: Segmenter, paths: dict[str, Path], predictions: Predictions) -> None:
    todo = {stem: path for stem, path in paths.items() if not predictions.has(path, stem)}
    predictions.forget(todo)
    done = len(paths) - len(todo)
    if done:
        command.say(f"{done} of {len(paths)} images are done already")
    if todo:
        command.say("compiling the network")
    unreadable: list[Row] = []
    with command.progress_bar("segmenting", len(paths), done=done) as bar:
        for rows in _segmented(segmenter, todo, predictions):
            predictions.add(rows)
            unreadable += (row for row in rows if row.error is not None)
            bar.update()
    counts = {"images": len(paths), "unreadable": len(unreadable)}
    predictions.finish({**counts, **command.machine()})
    command.say(f"{len(paths) - len(unreadable)} images segmented, see {predictions.csv}")
    if unreadable:
        _report_unreadable(unreadable, predictions)


def _segmented(
    segmenter: Segmenter, paths: dict[str, Path], predictions: Predictions
) -> Iterator[list[Row]]:
    """Yields each image's rows once its masks are written.

    While the network computes a batch, the next one is read and the one before is written.
    """

    def read(stem: str) -> Loaded | Row:
        try:
            return segmenter.read(paths[stem], stem)
        except InputError as error:
            message = str(error).removeprefix(f"{paths[stem]}: ")
            return Row(image=printable(paths[stem].name), error=" ".join(message.split()))

    def write(image: Loaded, logits: Array, index: int) -> list[Row]:
        try:
            return segmenter.write(image, logits, index, predictions)
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            too_long = "its name is too long for the file of its mask. Rename it"
            return [Row(image=printable(image.path.name), error=too_long)]

    stems, size = list(paths), segmenter.images_per_batch
    batches = [stems[start : start + size] for start in range(0, len(stems), size)]
    reading: list[Future[Loaded | Row]] = []
    writing: list[Future[list[Row]]] = []
    with ThreadPoolExecutor(THREADS) as readers, ThreadPoolExecutor(THREADS) as writers:
        for batch in [*batches, []]:
            loaded = [future.result() for future in reading]
            reading = [readers.submit(read, stem) for stem in batch]
            yield from ([row] for row in loaded if isinstance(row, Row))
            written, writing = writing, []
            if images := [image for image in loaded if isinstance(image, Loaded)]:
                logits = segmenter.logits(images)
                writing = [
                    writers.submit(write, image, logits, i) for i, image in enumerate(images)
                ]
            yield from (future.result() for future in written)
        yield from (future.result() for future in writing)


def _find(given: tuple[Path, ...], out: Path) -> dict[str, Path]:
    """The images by stem. Two of one stem would overwrite each other's masks."""
    if not given:
        raise InputError("IMAGE: name one or more images, or folders of them")
    paths: list[Path] = []
    for path in given:
        if path.is_dir():
            paths += sorted(find_images(path).values(), key=lambda inner: natural_key(inner.name))
        elif path.exists():
            paths.append(path)
        else:
            raise InputError(f"{path}: there is no such image")
    # A mask could replace an image, or a file next to it.
    if out.exists() and any(folder.samefile(out) for folder in {path.parent for path in paths}):
        raise InputError(f"--out: {out} is the folder of the images. Use another folder")
    stems: dict[str, Path] = {}
    for path in paths:
        other = stems.setdefault(image_stem(path.name), path)
        if other != path:
            raise InputError(f"{path}: has the same name as {other}. Rename one of them")
    if any(dicom.is_dicom(path) for path in paths):
        dicom.check_installed()
    return stems


def _report_unreadable(unreadable: list[Row], predictions: Predictions) -> None:
    """Lists the images that could not be read and ends the command."""
    first = unreadable[0]
    if len(unreadable) == 1:
        raise InputError(f"{first.image}: {first.error}")
    command.say_skipped([f"{row.image}: {row.error}" for row in unreadable])
    raise InputError(
        f"{len(unreadable)} images could not be read and were skipped, {first.image} the first. "
        f"See the column error of {predictions.csv}"
    )


def main() -> None:
    """Reads the command line and predicts."""
    predict(tyro.cli(Options, prog="python -m experiments.predict", description=Options.__doc__))


if __name__ == "__main__":
    command.run(main)
