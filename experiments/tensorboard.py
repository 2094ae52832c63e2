"""Scalars and example pictures for TensorBoard."""

import importlib.util
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from experiments.dataset import Dataset
from experiments.examples import draw_predictions
from experiments.scoring import Predict
from jaxseg.errors import InputError

DRAWN = 4
"""Validation images that are drawn after every epoch."""


def check_installed() -> None:
    """Raises InputError if tensorboardX is not installed."""
    if importlib.util.find_spec("tensorboardX") is None:
        raise InputError(
            "--tensorboard: needs tensorboardX. In the jaxseg clone run: "
            "pip install -e '.[tensorboard]'"
        )


class TensorBoard:
    """Writes to a directory that ``tensorboard --logdir`` opens; does nothing without one."""

    def __init__(
        self,
        directory: Path | None,
        predict: Predict,
        images: Dataset,
        class_names: Sequence[str],
    ):
        self._directory, self._predict, self._writer = directory, predict, None
        self._class_names = class_names
        self._arrays, self._drawn = images.arrays, images.validation[:DRAWN]

    def write(self, row: Mapping[str, Any], state: Any) -> None:
        """Writes an epoch's numbers, and a picture of a few validation images."""
        if self._directory is None:
            return
        step = row["step"]
        if self._writer is None:
            from tensorboardX import SummaryWriter

            # What a killed run wrote from this step on is hidden.
            self._writer = SummaryWriter(str(self._directory), purge_step=step)
        for name, value in row.items():
            if isinstance(value, int | float):
                self._writer.add_scalar(name, value, step)
        if len(self._drawn):
            captions = [self._arrays.ids[i] for i in self._drawn]
            png = draw_predictions(
                self._predict, state, self._arrays, self._drawn, captions, names=self._class_names
            )
            with Image.open(io.BytesIO(png)) as picture:
                pixels = np.asarray(picture.convert("RGB"))
            self._writer.add_image("validation", pixels, step, dataformats="HWC")
        self._writer.flush()

    def close(self) -> None:
        """Ends writing."""
        if self._writer is not None:
            self._writer.close()
