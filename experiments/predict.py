"""Segments the lungs on films of any size.

    python -m experiments.predict RUN IMAGE ... --out DIR

Writes ``<stem>_mask.png`` at the film's own size, 0 and 255, and ``<stem>_overlay.png``.
"""

import dataclasses
import io
from pathlib import Path
from typing import Annotated

import jax
import numpy as np
import tyro
from PIL import Image
from tyro.conf import Positional

from experiments import command, pictures, trained
from experiments.run_directory import RunDirectory, write_bytes
from jaxseg.data.films import read_film, resize_film
from jaxseg.data.preprocessing import preprocess
from jaxseg.inference import make_predict, resize_logits
from jaxseg.types import InputError

SUFFIXES = (".png", ".jpg", ".jpeg")


@dataclasses.dataclass(frozen=True)
class Options:
    """Segments the lungs on films of any size and mode."""

    run: Positional[Path]
    """Run directory."""
    images: Annotated[Positional[tuple[Path, ...]], tyro.conf.arg(metavar="IMAGE [IMAGE ...]")]
    """PNG or JPEG films, or folders of them."""
    out: Path
    """Folder to write masks and overlays to."""


def predict(options: Options) -> None:
    """Segments the films one after another.

    Raises:
        InputError: The run or a film will not do; nothing is written of that film.
    """
    paths = _films(options.images)
    learnt = trained.load(RunDirectory(options.run))
    forward = jax.jit(make_predict(learnt.model))
    options.out.mkdir(parents=True, exist_ok=True)
    configuration = learnt.configuration
    with command.progress_bar("segmenting", len(paths)) as bar:
        for path in paths:
            film = read_film(path)
            seen = preprocess(film, configuration.preprocessing)
            small = resize_film(seen, configuration.size, configuration.film_resize)
            logits = forward(learnt.state, small[None, ..., None])
            mask = np.asarray(resize_logits(logits, film.shape))[0, ..., 0] > 0
            _save(Image.fromarray(mask), options.out / f"{path.stem}_mask.png")
            _save(pictures.overlay(film, mask), options.out / f"{path.stem}_overlay.png")
            bar.update()
    print(f"{len(paths)} films segmented, masks and overlays in {options.out}")


def _films(given: tuple[Path, ...]) -> list[Path]:
    """The films themselves, folders opened; two of one stem would overwrite each other."""
    paths: list[Path] = []
    for path in given:
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
            if not inside:
                raise InputError(f"{path}: holds no PNG or JPEG film")
            paths += inside
        elif path.exists():
            paths.append(path)
        else:
            raise InputError(f"{path}: there is no such film")
    stems: dict[str, Path] = {}
    for path in paths:
        other = stems.setdefault(path.stem, path)
        if other != path:
            raise InputError(f"{path}: has the same stem as {other}; name them apart")
    return list(stems.values())


def _save(picture: Image.Image, path: Path) -> None:
    content = io.BytesIO()
    picture.convert("L" if picture.mode == "1" else picture.mode).save(content, "png")
    write_bytes(path, content.getvalue())


def main() -> None:
    """Reads the command line and predicts."""
    predict(tyro.cli(Options, prog="python -m experiments.predict", description=Options.__doc__))


if __name__ == "__main__":
    command.run(main)
