"""Compiled forms of a step: jit over a mesh, many steps as one program, and pmap."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jaxseg.parallel.mesh import DATA, over_batch, over_rows, replicated
from jaxseg.training import Step, StepMetrics, TrainState, gather_batch, make_many_steps
from jaxseg.types import Array, Batch


def unrolls(mesh: Mesh) -> bool:
    """Whether loops of steps or of parts of a batch are unrolled on the mesh's devices.

    On a CPU the gradient of a convolution is many times slower inside a loop; elsewhere the loop
    compiles sooner and needs less memory.
    """
    return mesh.devices.flat[0].platform == "cpu"


def jit_step(step: Step, mesh: Mesh) -> Any:
    """Compiles ``step(state, batch)`` over a mesh.

    The state is donated: after a call only the returned one may be used. The batch's rows must be
    an even share for every device (`shard_batch` sees to it).

    Args:
        step: From `jaxseg.training.make_train_step`, with no ``axis_name``.
        mesh: The devices.

    Returns:
        The compiled step, with the numbers that one device gives. Like a `jax.jit` function it has
        a ``lower``, so that it can be compiled for devices that are not there. On several CPU
        devices of one process a call returns when its results are there, elsewhere at once.

    Raises:
        ValueError: By the step, when the mesh does not divide a batch's rows or height.

    Examples:
        >>> import jax
        >>> import numpy as np
        >>> import optax
        >>> import jaxseg
        >>> from jaxseg import losses, parallel
        >>> model, tx, mesh = jaxseg.UNet(widths=(4, 8)), optax.adam(1e-3), parallel.make_mesh()
        >>> films = np.zeros((jax.device_count(), 8, 8, 1), np.uint8)
        >>> state = jaxseg.TrainState.create(model, tx, jax.random.key(0), films)
        >>> step = parallel.jit_step(jaxseg.make_train_step(model, tx, losses.cross_entropy), mesh)
        >>> batch = {"images": films, "labels": np.zeros(films.shape[:3], np.int32)}
        >>> state = parallel.replicate(state, mesh)
        >>> state, measured = step(state, parallel.shard_batch(batch, mesh))
        >>> int(state.step)
        1
    """
    whole = replicated(mesh)
    compiled = jax.jit(
        _on_mesh(step, mesh),
        in_shardings=(whole, None),
        out_shardings=(whole, whole),
        donate_argnums=0,
    )
    return _without_queue(compiled, mesh.local_devices)


def jit_many_steps(step: Step, mesh: Mesh) -> Any:
    """Compiles several steps over films that lie on the devices as one program.

    Args:
        step: From `jaxseg.training.make_train_step`, with no ``axis_name``.
        mesh: The devices; where they are CPUs the steps' code is repeated, elsewhere looped over.

    Returns:
        ``many_steps(state, films, indices) -> (state, metrics)``, see
        `jaxseg.training.make_many_steps`. State and films are whole on every device, each step's
        indices are shared out, and the state is donated.
    """
    whole = replicated(mesh)
    compiled = jax.jit(
        make_many_steps(_on_mesh(step, mesh), unroll=unrolls(mesh)),
        in_shardings=(whole, whole, over_rows(mesh, axis=1)),
        out_shardings=(whole, whole),
        donate_argnums=0,
    )
    return _without_queue(compiled, mesh.local_devices)


def jit_many_steps_on_shards(step: Step, mesh: Mesh) -> Any:
    """`jit_many_steps` over films of which each device holds a share, so that none move.

    Args:
        step: From `jaxseg.training.make_train_step`, with no ``axis_name``.
        mesh: The devices; where they are CPUs the steps' code is repeated, elsewhere looped over.

    Returns:
        ``many_steps(state, films, indices) -> (state, metrics)``: the films lie as `over_batch`
        has it, and each device's indices, its share of a step's ``B``, count from the first film
        of its own shard.
    """

    def gather(films: Mapping[str, Array], indices: jax.Array) -> Batch:
        specs = {name: over_batch(mesh, array.ndim).spec for name, array in films.items()}
        rows = over_rows(mesh).spec
        own = jax.shard_map(
            gather_batch, mesh=mesh, in_specs=(specs, rows), out_specs={**specs, "valid": rows}
        )
        return own(films, indices)

    whole = replicated(mesh)
    compiled = jax.jit(
        make_many_steps(_on_mesh(step, mesh), unroll=unrolls(mesh), gather=gather),
        in_shardings=(whole, None, over_rows(mesh, axis=1)),
        out_shardings=(whole, whole),
        donate_argnums=0,
    )
    return _without_queue(compiled, mesh.local_devices)


def jit_rows(function: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    """Compiles ``function(state, *arrays)`` that treats each row alike, such as a prediction.

    The first argument is whole on every device; the others, and the result, are shared out by
    rows. Each argument may be a pytree of arrays.
    """

    def on_rows(state: Any, arrays: tuple[Any, ...]) -> Any:
        return function(state, *jax.tree.map(lambda array: _constrained(array, mesh), arrays))

    compiled = jax.jit(
        on_rows, in_shardings=(replicated(mesh), None), out_shardings=over_rows(mesh)
    )
    compiled = _without_queue(compiled, mesh.local_devices)
    return lambda state, *arrays: compiled(state, arrays)


def pmap_step(step: Step, *, devices: Sequence[Any] | None = None) -> Step:
    """Maps a step over devices with `jax.pmap`, for code that is built on it.

    Args:
        step: From `jaxseg.training.make_train_step` with ``axis_name="data"``.
        devices: This process's devices unless given.

    Returns:
        ``mapped(state, batch) -> (state, metrics)``: the state as everywhere else, with no axis of
        devices, and on one process donated; every array of the batch as ``[devices, rows, ...]``.
        It gives the numbers that `jit_step` gives.
    """
    # On several processes pmap hands out views of the arrays it goes on with: a donated one would
    # take the next call's state with it.
    donated = () if jax.process_count() > 1 else (0,)
    mapped = jax.pmap(
        step,
        axis_name=DATA,
        in_axes=(None, 0),
        out_axes=None,
        devices=devices,
        donate_argnums=donated,
    )
    return _without_queue(mapped, jax.local_devices() if devices is None else devices)


def _without_queue(compiled: Any, local_devices: Sequence[Any]) -> Any:
    """The compiled function, waited for where a queue of calls can stop for ever.

    A process launches its CPU devices' programs on one pool of threads, and no more than 32 calls
    a device. A thread that would launch the next waits, so that where calls wait in line for each
    other on several devices no thread may be left for the call that all wait for (jax 0.10).
    """
    on_several = len(local_devices) > 1 and local_devices[0].platform == "cpu"
    return _WaitedFor(compiled) if on_several else compiled


class _WaitedFor:
    """A compiled function whose calls return when their results are there."""

    def __init__(self, compiled: Any):
        self._compiled = compiled
        self.lower = compiled.lower

    def __call__(self, *args: Any) -> Any:
        return jax.block_until_ready(self._compiled(*args))


def _on_mesh(step: Step, mesh: Mesh) -> Step:
    """The step, told how its batch lies."""

    def on_mesh(state: TrainState, batch: Batch) -> tuple[TrainState, StepMetrics]:
        return step(state, {name: _constrained(array, mesh) for name, array in batch.items()})

    return on_mesh


def _constrained(array: Array, mesh: Mesh) -> jax.Array:
    sharding = over_batch(mesh, array.ndim)
    for axis, size in enumerate(array.shape[: len(sharding.spec)]):
        shards = mesh.shape[sharding.spec[axis]]
        if size % shards:
            what = "rows" if axis == 0 else "pixels of height"
            raise ValueError(f"{size} {what} cannot be shared out evenly over {shards} devices")
    return jax.lax.with_sharding_constraint(jnp.asarray(array), sharding)
