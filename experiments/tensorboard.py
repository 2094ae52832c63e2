"""Scalars and example pictures for TensorBoard."""

import importlib.util
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jaxseg.errors import InputError


def check_installed() -> None:
    """Raises InputError if tensorboardX is not installed."""
    if importlib.util.find_spec("tensorboardX") is None:
        raise InputError(
            "--tensorboard: needs tensorboardX. In the jaxseg clone run: "
            "pip install -e '.[tensorboard]'"
        )


class TensorBoard:
    """Writes to a directory that ``tensorboard --logdir`` opens; does nothing without one."""

    def __init__(self, directory: Path | None):
        self._directory, self._writer = directory, None

    @property
    def is_open(self) -> bool:
        """Whether anything is written."""
        return self._directory is not None

    def scalars(self, step: int, values: Mapping[str, Any]) -> None:
        """Writes the values that are numbers."""
        if self.is_open:
            for name, value in values.items():
                if isinstance(value, int | float):
                    self._opened(step).add_scalar(name, value, step)
            self._opened(step).flush()

    def picture(self, step: int, name: str, png: bytes) -> None:
        """Writes a picture."""
        if self.is_open:
            with Image.open(io.BytesIO(png)) as image:
                pixels = np.asarray(image.convert("RGB"))
            self._opened(step).add_image(name, pixels, step, dataformats="HWC")
            self._opened(step).flush()

    def close(self) -> None:
        """Ends writing."""
        if self._writer is not None:
            self._writer.close()

    def _opened(self, step: int) -> Any:
        if self._writer is None:
            from tensorboardX import SummaryWriter

            # What a killed run wrote from this step on is hidden.
            self._writer = SummaryWriter(str(self._directory), purge_step=step)
        return self._writer
