"""Exports a trained network as one file: StableHLO with its parameters, without model code.

The file is a zip archive. ``program.bin`` is what `jax.export.deserialize` reads, and
``metadata.json`` says in plain values what the program takes and what its output means.
"""

import io
import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxseg.errors import InputError
from jaxseg.files import write_bytes
from jaxseg.training import Model, TrainState

PLATFORMS = ("cpu", "cuda", "tpu")
"""Platforms that one file runs on."""

PROGRAM, METADATA = "program.bin", "metadata.json"


def export_prediction(
    model: Model,
    state: TrainState,
    *,
    multiple: int,
    channels: int = 1,
    dtype: DTypeLike = jnp.uint8,
) -> jax.export.Exported:
    """Exports ``images -> logits`` for CPU, CUDA and TPU as one program, with dropout off.

    The program contains the parameters, or their exponential moving average if the state has one.

    Args:
        model: The network.
        state: The trained state.
        multiple: Height and width of images must be multiples of it. For a U-Net use 2 to the
            power of the number of its poolings, because its padding cannot be exported for a
            variable size.
        channels: Number of image channels.
        dtype: dtype of the images: uint8 (0 to 255) or a float type ([0, 1]).

    Returns:
        The program. ``.call(images)`` takes ``[B, H, W, channels]`` of any batch size and returns
        float32 logits ``[B, H, W, K]``.

    Examples:
        >>> import tempfile
        >>> import jax
        >>> import numpy as np
        >>> import optax
        >>> import jaxseg
        >>> from jaxseg import export
        >>> model, images = jaxseg.UNet(widths=(4, 8)), np.zeros((3, 10, 6, 1), np.uint8)
        >>> state = jaxseg.TrainState.create(model, optax.adam(1e-3), jax.random.key(0), images)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     export.save(f"{folder}/net", export.export_prediction(model, state, multiple=2), {})
        ...     program, metadata = export.load(f"{folder}/net")
        >>> program.call(images).shape, program.platforms
        ((3, 10, 6, 1), ('cpu', 'cuda', 'tpu'))
    """
    # On the host, because parameters that are sharded would make it a program for many devices.
    variables = jax.device_get(state.variables())

    @jax.jit
    def predict(images: jax.Array) -> jax.Array:
        return jnp.asarray(model.apply(variables, images, train=False), jnp.float32)

    batch, height, width = jax.export.symbolic_shape(f"b, {multiple}*h, {multiple}*w")
    images = jax.ShapeDtypeStruct((batch, height, width, channels), dtype)
    return jax.export.export(predict, platforms=PLATFORMS)(images)


def save(path: Path | str, program: jax.export.Exported, metadata: Mapping[str, Any]) -> None:
    """Writes a program and its metadata as one file, which is complete or absent.

    Args:
        path: The file. An existing one is replaced.
        program: From `export_prediction`, or from `jax.export.export` of a function of one array.
        metadata: Plain JSON values. The key ``program`` is added: shapes, dtypes and platforms.

    Raises:
        InputError: flatbuffers is not installed, which `jax.export` needs.
    """
    metadata = {**metadata, "program": _signature(program)}
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        # A ZipInfo has a fixed date, so the same network gives the same file.
        archive.writestr(zipfile.ZipInfo(METADATA), json.dumps(metadata, indent=2) + "\n")
        archive.writestr(zipfile.ZipInfo(PROGRAM), _with_flatbuffers(program.serialize))
    write_bytes(Path(path), content.getvalue())


def load(path: Path | str) -> tuple[jax.export.Exported, dict[str, Any]]:
    """Reads a file written by `save`.

    Returns:
        The program, to call as ``jax.jit(program.call)(images)``, and the metadata.

    Raises:
        InputError: There is no such file, `save` did not write it, or flatbuffers is missing.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            metadata, content = json.loads(archive.read(METADATA)), archive.read(PROGRAM)
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such file") from error
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise InputError(f"{path}: not an exported network ({error})") from error
    return _with_flatbuffers(lambda: jax.export.deserialize(bytearray(content))), metadata


def _signature(program: jax.export.Exported) -> dict[str, Any]:
    (images,), (logits,) = program.in_avals, program.out_avals
    return {
        "images": {"shape": str(images.shape), "dtype": str(images.dtype)},
        "logits": {"shape": str(logits.shape), "dtype": str(logits.dtype)},
        "platforms": list(program.platforms),
        "calling_convention_version": program.calling_convention_version,
    }


def _with_flatbuffers(function: Callable[[], Any]) -> Any:
    try:
        return function()
    except ImportError as error:
        raise InputError(
            "export: flatbuffers is not installed. Run pip install -e '.[export]'."
        ) from error
