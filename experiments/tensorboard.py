"""Scalars and example pictures for TensorBoard."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jaxseg.errors import InputError


class TensorBoard:
    """Writes to a directory that ``tensorboard --logdir`` opens; does nothing without one.

    Raises:
        InputError: tensorboardX is not installed.
    """

    def __init__(self, directory: Path | None, *, step: int):
        self._writer: Any = None
        if directory is None:
            return
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise InputError(
                "--tensorboard: needs tensorboardX. In the jaxseg clone run: "
                "pip install -e '.[tensorboard]'"
            ) from error
        # What an interrupted run wrote after its last checkpoint is hidden.
        self._writer = SummaryWriter(str(directory), purge_step=step + 1)

    def scalars(self, step: int, values: Mapping[str, Any]) -> None:
        """Writes the values that are numbers."""
        if self._writer is not None:
            for name, value in values.items():
                if isinstance(value, int | float):
                    self._writer.add_scalar(name, value, step)
            self._writer.flush()

    def picture(self, step: int, name: str, png: bytes) -> None:
        """Writes a picture."""
        if self._writer is not None:
            with Image.open(io.BytesIO(png)) as image:
                pixels = np.asarray(image.convert("RGB"))
            self._writer.add_image(name, pixels, step, dataformats="HWC")

    @property
    def is_open(self) -> bool:
        """Whether anything is written."""
        return self._writer is not None

    def close(self) -> None:
        """Ends writing."""
        if self._writer is not None:
            self._writer.close()
