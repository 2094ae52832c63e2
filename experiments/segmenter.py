"""One image's way through predict: read, resized, segmented, post-processed and written."""

import dataclasses
import hashlib
import math
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments import figures
from experiments.postprocessing import Postprocessing
from experiments.predictions import Predictions, Row, digest, save_png
from experiments.runs import Trained
from jaxseg import inference, parallel
from jaxseg.data.images import printable, read_image_and_spacing
from jaxseg.data.preprocessing import preprocess
from jaxseg.errors import InputError
from jaxseg.types import Array


@dataclasses.dataclass(frozen=True)
class Settings(Postprocessing):
    """How masks are made. The defaults are those of the scores in a run."""

    #: Predict at full resolution in overlapping tiles of this side, instead of resizing the image.
    #: Use it for networks trained at native resolution.
    tile: int | None = None
    #: Pixels that neighboring tiles share. Default: about a quarter of --tile.
    overlap: int | None = None
    #: Images, or tiles, per batch over all devices. Default: the run's batch size.
    batch_size: int | None = None

    def check(self) -> None:
        """Raises InputError that names an invalid option."""
        super().check()
        if self.overlap is not None and self.tile is None:
            raise InputError("--overlap: needs --tile")
        if self.batch_size is not None and self.batch_size < 1:
            raise InputError(f"--batch-size: must be at least 1, got {self.batch_size}")


@dataclasses.dataclass(frozen=True, eq=False)
class Loaded:
    """An image that was read.

    Attributes:
        path: Its file.
        stem: Prefix of its masks' names.
        digest: Hash of its content.
        pixels: uint8 ``[H, W, C]`` at its own size.
        network_input: uint8 ``[S, S, C]``; in tiles ``[H, W, C]``.
        spacing_mm: Pixel spacing along height and width, if known.
    """

    path: Path
    stem: str
    digest: str
    pixels: np.ndarray
    network_input: np.ndarray
    spacing_mm: tuple[float, float] | None


class Segmenter:
    """A trained network on all devices, with its preprocessing and post-processing."""

    def __init__(
        self, trained: Trained, settings: Settings, *, mask_values: Sequence[int] | None = None
    ):
        """Compiles nothing yet.

        Args:
            trained: The network.
            settings: How masks are made.
            mask_values: The value of each class in masks. Default: 255 for one class, else 1, 2
                and so on.

        Raises:
            InputError: A setting does not fit the network.
        """
        data = trained.configuration.data
        settings.check_fits(trained.configuration)
        self.settings, self.sampling = settings, data.sampling()
        self.class_names = data.class_names()
        count = len(self.class_names)
        self.mask_values = list(mask_values or ([255] if count == 1 else range(1, count + 1)))
        mesh = parallel.make_mesh()
        batch_size = settings.batch_size or trained.configuration.optimization.batch_size
        self.rows = parallel.padded_size(batch_size, mesh)
        multiple = 2 ** (len(trained.configuration.network.widths) - 1)
        self.tiling = _tiling(settings, multiple=multiple)
        self.images_per_batch = 1 if self.tiling else self.rows
        predict = settings.augmented(inference.make_predict(trained.model))
        self._forward = parallel.jit_batched(predict, mesh)
        self._state = parallel.replicate(trained.state, mesh)
        self._weights = _weights_digest(trained.state.variables())
        self._copying = threading.Lock()

    def made_with(self) -> dict[str, Any]:
        """Returns all that decides what an image's masks are, as JSON values."""
        settings = dataclasses.asdict(self.settings)
        del settings["batch_size"]  # It changes no mask.
        return {
            "weights": self._weights,
            "mask_values": dict(zip(self.class_names, self.mask_values, strict=True)),
            "size": self.sampling.size,
            "channels": self.sampling.channels,
            "image_resize": self.sampling.resize,
            "preprocessing": self.sampling.preprocessing,
            **{k: list(v) if isinstance(v, tuple) else v for k, v in settings.items()},
            "overlap": self.tiling.overlap if self.tiling else None,
        }

    def read(self, path: Path, stem: str) -> Loaded:
        """Reads an image and resizes it for the network.

        Raises:
            InputError: It cannot be read.
        """
        pixels, spacing = read_image_and_spacing(path, channels=self.sampling.channels)
        if self.tiling is None:
            network_input = self.sampling.image(pixels)
        else:
            network_input = preprocess(pixels, self.sampling.preprocessing)
        return Loaded(path, stem, digest(path), pixels, network_input, spacing)

    def logits(self, images: Sequence[Loaded]) -> Array:
        """Returns logits ``[B, ...]`` of at most `images_per_batch` images, perhaps not ready."""
        if self.tiling is not None:
            logits = inference.predict_tiles(
                self.predict, images[0].network_input, self.tiling, batch_size=self.rows
            )
            return logits[None]
        batch = np.zeros((self.rows, *images[0].network_input.shape), np.uint8)
        for i, image in enumerate(images):
            batch[i] = image.network_input
        return self.predict(batch)

    def predict(self, images: Array) -> jax.Array:
        """Returns the logits of `rows` images."""
        return self._forward(self._state, images)

    def write(
        self, image: Loaded, logits: Array, index: int, predictions: Predictions
    ) -> list[Row]:
        """Writes an image's mask and overlay and returns a row per class.

        Args:
            image: The image.
            logits: The logits of its batch.
            index: The image's row in the batch.
            predictions: The folder to write to.
        """
        # JAX copies a sharded array to the host in parts, which threads must not do at once.
        with self._copying:
            logits = np.asarray(logits)
        height, width, _ = image.pixels.shape
        resized = inference.resize_logits_on_host(logits[index], (height, width))
        labels = self.settings.labels(resized)
        save_png(figures.mask(labels, self.mask_values), predictions.mask(image.stem))
        if predictions.overlays:
            save_png(figures.overlay(image.pixels, labels), predictions.overlay(image.stem))
        confidence = inference.confidence(resized, labels)
        rows = []
        for label, (name, value) in enumerate(
            zip(self.class_names, self.mask_values, strict=True), 1
        ):
            areas = inference.component_areas(labels == label)
            area = int(areas.sum())
            rows.append(
                Row(
                    image=printable(image.path.name),
                    sha256=image.digest,
                    object=name,
                    mask_value=value,
                    height=height,
                    width=width,
                    area_px=area,
                    area_mm2=image.spacing_mm and area * math.prod(image.spacing_mm),
                    area_fraction=area / labels.size,
                    confidence=confidence,
                    components=len(areas),
                )
            )
        return rows


def _tiling(settings: Settings, *, multiple: int) -> inference.Tiling | None:
    if settings.tile is None:
        return None
    overlap = settings.overlap
    if overlap is None:
        overlap = settings.tile // 4 // multiple * multiple
    return inference.Tiling(settings.tile, overlap, multiple=multiple)


def _weights_digest(variables: Any) -> str:
    """A hash of a network's parameters."""
    hashed = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        hashed.update(f"{jax.tree_util.keystr(path)} {leaf.shape} {leaf.dtype}".encode())
        hashed.update(np.asarray(leaf).tobytes())
    return hashed.hexdigest()[:16]
