"""Segments films of any size, thousands of them.

    python -m experiments.predict RUN IMAGE ... --out DIR

Films are PNG, JPEG or DICOM files, or folders of them. Writes ``<stem>_mask.png`` at the film's own
size, 0 and 255 (of a run of several classes a palette picture of their numbers),
``<stem>_overlay.png``, ``predictions.csv`` with a line for each film and class, and
``predictions.json`` with all that the masks were made with. Films that are there already are left
as they are, so that a killed command goes on when it is given again. A film that cannot be read is
left out and listed; the exit status is then 2.
"""

import collections
import dataclasses
import errno
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, TypeVar

import tyro
from tyro.conf import OmitArgPrefixes, Positional

from experiments import command, report, trained
from experiments.predictions import Predictions, Row
from experiments.run_directory import RunDirectory
from experiments.segmenter import AS_THE_RUN_SCORES, Film, Segmenter, Settings
from jaxseg.data import dicom
from jaxseg.data.images import find_images, image_stem, printable
from jaxseg.data.splits import natural_key
from jaxseg.errors import InputError

THREADS = min(8, max(2, (os.cpu_count() or 2) // 2))
"""That read films, and as many that write masks; they work outside the interpreter's lock."""

LISTED = 20
"""So many unreadable films are named on the terminal; the table names all."""

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True)
class Options:
    """Segments films of any size and mode, and goes on where it was stopped."""

    run: Positional[Path]
    """Run directory."""
    images: Annotated[Positional[tuple[Path, ...]], tyro.conf.arg(metavar="IMAGE [IMAGE ...]")]
    """PNG, JPEG or DICOM films, or folders of them."""
    out: Path
    """Folder to write to, another than the films'."""
    masks: Annotated[OmitArgPrefixes[Settings], tyro.conf.arg(name="")] = AS_THE_RUN_SCORES
    overlay: bool = True
    """Write each film with its mask drawn on it."""


def predict(options: Options) -> None:
    """Segments the films, reading and writing in threads while the network works.

    Raises:
        InputError: The run or an option will not do; or, at the end, films could not be read.
    """
    paths = _films(options.images, options.out)
    segmenter = Segmenter(trained.load(RunDirectory(options.run)), options.masks)
    made_with = {"run": options.run.name, **segmenter.made_with()}
    with Predictions(
        options.out, made_with, objects=len(segmenter.objects), overlays=options.overlay
    ) as predictions:
        _predict(segmenter, paths, predictions)


def _predict(segmenter: Segmenter, paths: dict[str, Path], predictions: Predictions) -> None:
    todo = {stem: path for stem, path in paths.items() if not predictions.has(path, stem)}
    predictions.forget(todo)
    there = len(paths) - len(todo)
    if there:
        command.say(f"{there} of {len(paths)} films are there already")
    unreadable: list[Row] = []
    with command.progress_bar("segmenting", len(paths), done=there) as bar:
        for rows in _segmented(segmenter, todo, predictions):
            predictions.add(rows)
            unreadable += (row for row in rows if row.error is not None)
            bar.update()
    counts = {"films": len(paths), "unreadable": len(unreadable)}
    predictions.finish({**counts, **report.machine()})
    command.say(f"{len(paths) - len(unreadable)} films segmented, see {predictions.csv}")
    if unreadable:
        _tell(unreadable, predictions)


def _segmented(
    segmenter: Segmenter, paths: dict[str, Path], predictions: Predictions
) -> Iterator[list[Row]]:
    """Each film's rows as their pictures are written; at most two batches are being written."""

    def read(stem: str) -> Film | Row:
        try:
            return segmenter.read(paths[stem], stem)
        except InputError as error:
            told = str(error).removeprefix(f"{paths[stem]}: ")
            return Row(film=printable(paths[stem].name), error=" ".join(told.split()))

    readers, writers = ThreadPoolExecutor(THREADS), ThreadPoolExecutor(THREADS)
    writing: collections.deque[list[Future[list[Row]]]] = collections.deque()
    try:
        films: list[Film] = []
        for read_one in _ahead(readers, read, list(paths), 2 * segmenter.films_at_once):
            if isinstance(read_one, Row):
                yield [read_one]
                continue
            films.append(read_one)
            if len(films) == segmenter.films_at_once:
                writing.append(_written(segmenter, films, writers, predictions))
                films = []
            if len(writing) == 2:
                yield from (future.result() for future in writing.popleft())
        if films:
            writing.append(_written(segmenter, films, writers, predictions))
        for future in itertools.chain.from_iterable(writing):
            yield future.result()
    finally:
        readers.shutdown(cancel_futures=True)
        writers.shutdown(cancel_futures=True)


def _written(
    segmenter: Segmenter, films: list[Film], writers: ThreadPoolExecutor, predictions: Predictions
) -> list[Future[list[Row]]]:
    """Sets the network to work; writers wait for it."""
    logits = segmenter.logits(films)

    def write(film: Film, place: int) -> list[Row]:
        try:
            return segmenter.write(film, logits, place, predictions)
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            too_long = "its name is too long for the file of its mask. Rename it"
            return [Row(film=printable(film.path.name), error=too_long)]

    return [writers.submit(write, film, place) for place, film in enumerate(films)]


def _ahead(
    pool: ThreadPoolExecutor, function: Callable[[Item], Result], items: Sequence[Item], count: int
) -> Iterator[Result]:
    """Maps in order; never more than ``count`` results are ready or under way."""
    waiting: collections.deque[Future[Result]] = collections.deque()
    for item in items:
        if len(waiting) == count:
            yield waiting.popleft().result()
        waiting.append(pool.submit(function, item))
    while waiting:
        yield waiting.popleft().result()


def _films(given: tuple[Path, ...], out: Path) -> dict[str, Path]:
    """The films by stem, folders opened; two of one stem would overwrite each other."""
    if not given:
        raise InputError("IMAGE: name one or more films, or folders of them")
    paths: list[Path] = []
    for path in given:
        if path.is_dir():
            paths += sorted(find_images(path).values(), key=lambda inner: natural_key(inner.name))
        elif path.exists():
            paths.append(path)
        else:
            raise InputError(f"{path}: there is no such film")
    # Masks could take the place of films or of what lies beside them.
    if out.exists() and any(folder.samefile(out) for folder in {path.parent for path in paths}):
        raise InputError(f"--out: {out} holds the films; masks need another folder")
    stems: dict[str, Path] = {}
    for path in paths:
        other = stems.setdefault(image_stem(path.name), path)
        if other != path:
            raise InputError(f"{path}: has the same name as {other}; name them apart")
    if any(dicom.is_dicom(path) for path in paths):
        dicom.check_installed()
    return stems


def _tell(unreadable: list[Row], predictions: Predictions) -> None:
    """Lists the films that could not be read and ends the command."""
    first = unreadable[0]
    if len(unreadable) == 1:
        raise InputError(f"{first.film}: {first.error}")
    for row in unreadable[:LISTED]:
        command.say(f"left out {row.film}: {row.error}")
    if len(unreadable) > LISTED:
        command.say(f"and {len(unreadable) - LISTED} more, see {predictions.csv}")
    raise InputError(
        f"{len(unreadable)} films could not be read and were left out, {first.film} the first; "
        f"see the column error of {predictions.csv}"
    )


def main() -> None:
    """Reads the command line and predicts."""
    predict(tyro.cli(Options, prog="python -m experiments.predict", description=Options.__doc__))


if __name__ == "__main__":
    command.run(main)
