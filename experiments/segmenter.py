"""One film's way through predict: read, made ready for the network, masked, mended and written."""

import dataclasses
import hashlib
import math
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments import pictures
from experiments.mask_settings import MaskSettings
from experiments.predictions import Predictions, Row, digest_of, save_png
from experiments.trained import Trained
from jaxseg import inference, parallel
from jaxseg.data.images import printable, read_image_and_spacing, resize_image
from jaxseg.data.preprocessing import preprocess
from jaxseg.errors import InputError
from jaxseg.types import Array


@dataclasses.dataclass(frozen=True)
class Settings(MaskSettings):
    """What of the command line decides what masks are; the defaults are how runs are scored."""

    tile: int | None = None
    """Cut films at their own size into blended tiles of so many pixels, in place of resizing each
    to the network's size: for networks trained at the films' own scale."""
    overlap: int | None = None
    """Pixels that neighbouring tiles share; about a quarter of a tile unless given."""
    batch_size: int | None = None
    """Films, or tiles, at once over all devices; the run's unless given."""

    def __post_init__(self) -> None:
        """Refuses what will not do.

        Raises:
            InputError: Naming the option.
        """
        super().__post_init__()
        if self.overlap is not None and self.tile is None:
            raise InputError("--overlap: goes with --tile")
        if self.batch_size is not None and self.batch_size < 1:
            raise InputError("--batch-size: should be 1 or more")


AS_THE_RUN_SCORES = Settings()


@dataclasses.dataclass(frozen=True, eq=False)
class Film:
    """A film that was read.

    Attributes:
        path: Its file.
        stem: What its masks are called after.
        digest: Of its content.
        pixels: uint8 ``[H, W]``, as it is shown.
        seen: uint8 ``[S, S]`` or, in tiles, ``[H, W]``: what the network sees.
        spacing_mm: Distance of pixel centres along height and width, where known.
    """

    path: Path
    stem: str
    digest: str
    pixels: np.ndarray
    seen: np.ndarray
    spacing_mm: tuple[float, float] | None


class Segmenter:
    """A trained network on all devices, and what is done before and after it."""

    def __init__(self, learnt: Trained, settings: Settings):
        """Compiles nothing yet.

        Raises:
            InputError: A setting does not fit the network.
        """
        self.settings, self.configuration = settings, learnt.configuration
        self.objects = _objects(learnt)
        settings.check_run(self.configuration)
        mesh = parallel.make_mesh()
        batch_size = settings.batch_size or learnt.configuration.batch_size
        self.rows = parallel.padded_size(batch_size, mesh)
        self.tiling = _tiling(settings, multiple=2 ** (len(learnt.configuration.widths) - 1))
        self.films_at_once = 1 if self.tiling else self.rows
        views = settings.averaged(inference.make_predict(learnt.model))
        self._forward = parallel.jit_batched(views, mesh)
        self._state = parallel.replicate(learnt.state, mesh)
        self._weights = _digest(learnt.state.variables())
        self._copying = threading.Lock()

    def made_with(self) -> dict[str, Any]:
        """All that decides what a film's mask is, in plain values."""
        seen = ("size", "film_resize", "preprocessing")
        settings = dataclasses.asdict(self.settings)
        # Films at once change no mask.
        del settings["batch_size"]
        return {
            "weights": self._weights,
            "objects": self.objects,
            **{name: getattr(self.configuration, name) for name in seen},
            **{k: list(v) if isinstance(v, tuple) else v for k, v in settings.items()},
            "overlap": self.tiling.overlap if self.tiling else None,
        }

    def read(self, path: Path, stem: str) -> Film:
        """Reads a film and makes it ready for the network.

        Raises:
            InputError: It cannot be read.
        """
        image, spacing = read_image_and_spacing(path)
        pixels = image[..., 0]
        seen = preprocess(image, self.configuration.preprocessing)[..., 0]
        if self.tiling is None:
            seen = resize_image(seen, self.configuration.size, self.configuration.film_resize)
        return Film(path, stem, digest_of(path), pixels, seen, spacing)

    def logits(self, films: Sequence[Film]) -> Array:
        """Logits ``[B, ...]`` of `films_at_once` films or fewer; on devices perhaps under way."""
        if self.tiling is not None:
            logits = inference.predict_tiles(
                self.predict, films[0].seen[..., None], self.tiling, batch_size=self.rows
            )
            return logits[None]
        side = self.configuration.size
        images = np.zeros((self.rows, side, side, 1), np.uint8)
        for image, film in zip(images, films, strict=False):
            image[..., 0] = film.seen
        return self.predict(images)

    def predict(self, images: Array) -> jax.Array:
        """Logits of `rows` images, shared out over the devices."""
        return self._forward(self._state, images)

    def write(self, film: Film, logits: Array, place: int, predictions: Predictions) -> list[Row]:
        """Writes a film's mask and overlay, its logits being row ``place``; a row an object."""
        # JAX copies a sharded array to the host piece by piece, which threads must not do at once.
        with self._copying:
            logits = np.asarray(logits)
        own = inference.resize_logits_on_host(logits[place], film.pixels.shape)
        labels = self.settings.labels(own)
        save_png(pictures.mask(labels, classes=len(self.objects)), predictions.mask(film.stem))
        if predictions.overlays:
            save_png(pictures.overlay(film.pixels, labels), predictions.overlay(film.stem))
        confidence = inference.confidence(own, labels)
        rows = []
        for number, name in enumerate(self.objects, 1):
            areas = inference.component_areas(labels == number)
            area = int(areas.sum())
            rows.append(
                Row(
                    film=printable(film.path.name),
                    sha256=film.digest,
                    object=name,
                    height=labels.shape[0],
                    width=labels.shape[1],
                    area_px=area,
                    area_mm2=film.spacing_mm and area * math.prod(film.spacing_mm),
                    share=area / labels.size,
                    confidence=confidence,
                    components=len(areas),
                )
            )
        return rows


def _objects(learnt: Trained) -> list[str]:
    """Names of the classes from 1 on: the run's own, else the one that its films are of."""
    named = list(learnt.configuration.mask_values())
    return named or ["lung" if learnt.configuration.images is None else "object"]


def _tiling(settings: Settings, *, multiple: int) -> inference.Tiling | None:
    if settings.tile is None:
        return None
    overlap = settings.overlap
    if overlap is None:
        overlap = settings.tile // 4 // multiple * multiple
    return inference.Tiling(settings.tile, overlap, multiple=multiple)


def _digest(variables: Any) -> str:
    """What tells a network's parameters from any other's."""
    hashed = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        hashed.update(f"{jax.tree_util.keystr(path)} {leaf.shape} {leaf.dtype}".encode())
        hashed.update(np.asarray(leaf).tobytes())
    return hashed.hexdigest()[:16]
