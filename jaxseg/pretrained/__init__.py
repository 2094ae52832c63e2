"""Networks that come with trained weights, and files of weights.

The weights are for research only, not for clinical use. ``docs/model_card.md`` says how they were
trained and where they fail. ``jaxseg/pretrained/lungs.json`` is the configuration and the scores of
their training run.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
from flax import serialization

from jaxseg.errors import InputError
from jaxseg.files import write_bytes
from jaxseg.models import UNet

FOLDER = Path(__file__).parent

SHA256 = {"lungs": "e3849ebc7c9fbc0d6bc1922a0e1fa46fbb501c1b5e924199380fd42ee581baef"}
"""Checksum of each file of weights."""


class Pretrained(NamedTuple):
    """A network and its weights.

    Attributes:
        model: The network.
        variables: What ``model.apply`` takes: ``params`` and ``batch_stats``, float32 NumPy arrays.
    """

    model: UNet
    variables: dict[str, Any]


def lungs() -> Pretrained:
    """Returns a U-Net that segments lungs in frontal chest X-rays.

    The images are gray, ``[B, 128, 128, 1]``, uint8 or float in [0, 1], resized with antialiasing
    (`jaxseg.data.images.resize_image`). Other sizes work, but the network was trained at 128. The
    logit is positive on lung. Resize logits, not masks, to the size of the image
    (`jaxseg.inference.resize_logits`). The network has 540,809 parameters.

    Raises:
        InputError: The file of weights is damaged.

    Examples:
        >>> import numpy as np
        >>> from jaxseg import pretrained
        >>> model, variables = pretrained.lungs()
        >>> images = np.zeros((2, 128, 128, 1), np.uint8)
        >>> logits = model.apply(variables, images)
        >>> logits.shape
        (2, 128, 128, 1)
    """
    variables = load(FOLDER / "lungs.msgpack", sha256=SHA256["lungs"])
    return Pretrained(UNet(widths=(8, 16, 32, 64, 128), norm="batch"), variables)


def save(path: Path | str, variables: Mapping[str, Any]) -> str:
    """Writes variables to a file in Flax's msgpack format and returns its SHA-256.

    The file is complete or absent, also after a power cut.

    Args:
        path: The file.
        variables: What ``model.apply`` takes, such as `jaxseg.TrainState.variables` returns.
    """
    written = serialization.msgpack_serialize(jax.device_get(dict(variables)))
    write_bytes(Path(path), written)
    return hashlib.sha256(written).hexdigest()


def load(path: Path | str, *, sha256: str | None = None) -> dict[str, Any]:
    """Reads variables that `save` wrote, as NumPy arrays.

    Args:
        path: The file.
        sha256: Its checksum, if it is to be verified.

    Raises:
        InputError: The file is absent, is no file of weights, or has another checksum.

    Examples:
        >>> import tempfile
        >>> import numpy as np
        >>> from jaxseg import pretrained
        >>> with tempfile.NamedTemporaryFile() as file:
        ...     checksum = pretrained.save(file.name, {"params": {"bias": np.ones(2)}})
        ...     pretrained.load(file.name, sha256=checksum)["params"]["bias"]
        array([1., 1.])
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise InputError(f"{path}: is damaged (its SHA-256 is not {sha256})")
    try:
        variables = serialization.msgpack_restore(content)
    except ValueError as error:
        raise InputError(f"{path}: not a file of weights ({error})") from error
    if not isinstance(variables, dict):
        raise InputError(f"{path}: not a file of weights")
    return variables
