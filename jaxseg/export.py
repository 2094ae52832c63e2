"""A trained network as one file that needs no model code: StableHLO with the parameters inside.

The file is a zip archive of ``program.bin``, which `jax.export.deserialize` reads, and
``facts.json``, which says in plain values what the program takes and what its numbers mean.
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
from flax import linen as nn
from jax.typing import DTypeLike

from jaxseg.training import TrainState
from jaxseg.types import InputError

PLATFORMS = ("cpu", "cuda", "tpu")
"""What one file runs on."""

PROGRAM, FACTS = "program.bin", "facts.json"


def export_prediction(
    model: nn.Module,
    state: TrainState,
    *,
    multiple: int,
    channels: int = 1,
    dtype: DTypeLike = jnp.uint8,
) -> jax.export.Exported:
    """Lowers ``images -> logits`` for CPU, CUDA and TPU at once, dropout off.

    The parameters, averaged ones where kept, are constants of the program. Where the model's
    ``layout`` is "auto", as a `jaxseg.UNet`'s is unless told otherwise, the program is lowered
    packed for TPUs and plain for the others, whatever this machine has; any other is kept.

    Args:
        model: A Linen module with ``__call__(images, *, train)``.
        state: What it learnt.
        multiple: What the images' height and width must be multiples of: for a U-Net 2 to the
            number of its pools, since padding to it has no fixed program.
        channels: Of the images.
        dtype: Of the images: uint8 (0 to 255), or a float type ([0, 1]).

    Returns:
        The program; ``.call(images)`` takes ``[B, H, W, channels]`` of any number of rows and any
        height and width that are multiples, and gives float32 logits ``[B, H, W, K]``.

    Examples:
        >>> import tempfile
        >>> import jax
        >>> import numpy as np
        >>> import optax
        >>> import jaxseg
        >>> from jaxseg import export
        >>> model, films = jaxseg.UNet(widths=(4, 8)), np.zeros((3, 10, 6, 1), np.uint8)
        >>> state = jaxseg.TrainState.create(model, optax.adam(1e-3), jax.random.key(0), films)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     export.save(f"{folder}/net", export.export_prediction(model, state, multiple=2), {})
        ...     program, facts = export.load(f"{folder}/net")
        >>> program.call(films).shape, program.platforms
        ((3, 10, 6, 1), ('cpu', 'cuda', 'tpu'))
    """
    # From the host, so that the program is one device's wherever the state lies.
    predict, variables = _by_platform(model), jax.device_get(state.variables())
    batch, height, width = jax.export.symbolic_shape(f"b, {multiple}*h, {multiple}*w")
    images = jax.ShapeDtypeStruct((batch, height, width, channels), dtype)
    compiled = jax.jit(lambda images: predict(variables, images))
    return jax.export.export(compiled, platforms=PLATFORMS)(images)


def save(path: Path | str, program: jax.export.Exported, facts: Mapping[str, Any]) -> None:
    """Writes a program and the facts about it as one file, which is there whole or not at all.

    Args:
        path: The file; one that is there is replaced.
        program: From `export_prediction`, or any of `jax.export.export` of one array.
        facts: Plain JSON values. ``program`` is added: shapes, dtypes and platforms.

    Raises:
        InputError: flatbuffers, which `jax.export` writes with, is not installed.
    """
    facts = {**facts, "program": _interface(program)}
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        # With a date of their own the same run would give another file every time.
        archive.writestr(zipfile.ZipInfo(FACTS), json.dumps(facts, indent=2) + "\n")
        archive.writestr(zipfile.ZipInfo(PROGRAM), _needing_flatbuffers(program.serialize))
    path = Path(path)
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        unfinished.write_bytes(content.getvalue())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def load(path: Path | str) -> tuple[jax.export.Exported, dict[str, Any]]:
    """Reads what `save` wrote.

    Returns:
        The program, to call as ``jax.jit(program.call)(images)``, and the facts.

    Raises:
        InputError: There is no such file, it is none of `save`'s, or flatbuffers is missing.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            facts, content = json.loads(archive.read(FACTS)), archive.read(PROGRAM)
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such file") from error
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise InputError(f"{path}: is no exported network ({error})") from error
    return _needing_flatbuffers(lambda: jax.export.deserialize(bytearray(content))), facts


def _by_platform(model: nn.Module) -> Callable[[Any, jax.Array], jax.Array]:
    """``(variables, images) -> float32 logits``, each platform with the layout that suits it."""

    def applying(model: nn.Module) -> Callable[[Any, jax.Array], jax.Array]:
        return lambda variables, images: jnp.asarray(
            model.apply(variables, images, train=False), jnp.float32
        )

    if getattr(model, "layout", None) != "auto":
        return applying(model)
    packed, plain = (applying(model.clone(layout=layout)) for layout in ("packed", "plain"))
    return lambda variables, images: jax.lax.platform_dependent(
        variables, images, tpu=packed, default=plain
    )


def _interface(program: jax.export.Exported) -> dict[str, Any]:
    (images,), (logits,) = program.in_avals, program.out_avals
    return {
        "images": {"shape": str(images.shape), "dtype": str(images.dtype)},
        "logits": {"shape": str(logits.shape), "dtype": str(logits.dtype)},
        "platforms": list(program.platforms),
        "calling_convention_version": program.calling_convention_version,
    }


def _needing_flatbuffers(function: Callable[[], Any]) -> Any:
    try:
        return function()
    except ImportError as error:
        raise InputError("exported networks need flatbuffers: pip install flatbuffers") from error
