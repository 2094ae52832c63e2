"""Devices in one place: the mesh, what lies where, and the compiled forms of a step.

One device is a mesh of one, so the same program runs on a laptop and on many chips. State is the
same on every device; the rows of a batch are shared out along the axis ``data``.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxseg.training import Step
from jaxseg.types import Array

DATA = "data"
Tree = TypeVar("Tree")


def make_mesh(devices: Sequence[Any] | None = None) -> Mesh:
    """Lays devices out along the axis ``data``; all that JAX finds unless some are given."""
    return Mesh(np.asarray(jax.devices() if devices is None else devices), (DATA,))


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def over_rows(mesh: Mesh, *, axis: int = 0) -> NamedSharding:
    """An array's ``axis``-th axis shared out over the devices, an equal part each."""
    return NamedSharding(mesh, PartitionSpec(*(None,) * axis, DATA))


def rows_for(rows: int, mesh: Mesh) -> int:
    """The least number of rows, ``rows`` or more, that the mesh's devices share out evenly."""
    return -(-rows // mesh.shape[DATA]) * mesh.shape[DATA]


def replicate(tree: Tree, mesh: Mesh) -> Tree:
    """Puts every array of a pytree whole on every device."""
    return jax.device_put(tree, replicated(mesh))


def shard_batch(batch: Mapping[str, Array], mesh: Mesh) -> dict[str, jax.Array]:
    """Pads a host batch to an even share for every device and puts it there.

    Args:
        batch: Arrays with the batch's rows first: ``images``, ``labels`` and so on.
        mesh: The devices.

    Returns:
        The batch on the devices, with ``valid`` False on the rows added, which are zeros.

    Raises:
        ValueError: If the arrays differ in their number of rows.
    """
    counts = {name: array.shape[0] for name, array in batch.items()}
    if len(set(counts.values())) != 1:
        raise ValueError(f"the batch's arrays differ in rows: {counts}")
    rows = next(iter(counts.values()))
    batch = {"valid": np.ones(rows, bool), **batch}
    padding = rows_for(rows, mesh) - rows

    def put(array: Array) -> jax.Array:
        array = np.asarray(array)
        padded = np.pad(array, ((0, padding), *((0, 0),) * (array.ndim - 1)))
        return jax.device_put(padded, over_rows(mesh))

    return {name: put(array) for name, array in batch.items()}


def jit_step(step: Step, mesh: Mesh) -> Step:
    """Compiles ``step(state, batch)`` over a mesh.

    The state is donated: after a call only the returned one may be used. The batch's rows must be
    an even share for every device (`shard_batch` sees to it).

    Args:
        step: From `jaxseg.training.make_train_step`, with no ``axis_name``.
        mesh: The devices.

    Returns:
        The compiled step, with the numbers that one device gives.
    """
    whole = replicated(mesh)
    return jax.jit(
        step,
        in_shardings=(whole, over_rows(mesh)),
        out_shardings=(whole, whole),
        donate_argnums=0,
    )


def jit_many_steps(many_steps: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    """Compiles ``many_steps(state, films, indices)`` (`jaxseg.training.make_many_steps`).

    State and films are whole on every device, each step's indices are shared out, and the state
    is donated.
    """
    whole = replicated(mesh)
    return jax.jit(
        many_steps,
        in_shardings=(whole, whole, over_rows(mesh, axis=1)),
        out_shardings=(whole, whole),
        donate_argnums=0,
    )


def jit_rows(function: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    """Compiles ``function(state, *arrays)`` that treats each row alike, such as a prediction.

    The first argument is whole on every device; the others, and the result, are shared out by
    rows.
    """
    rows = over_rows(mesh)

    def on_rows(state: Any, arrays: tuple[Any, ...]) -> Any:
        return function(state, *arrays)

    compiled = jax.jit(on_rows, in_shardings=(replicated(mesh), rows), out_shardings=rows)
    return lambda state, *arrays: compiled(state, arrays)
