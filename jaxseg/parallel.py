"""Data-parallel training: the mesh, sharding, compiled steps, and several processes.

One device is a mesh of size one, so the same program runs on one device and on many. The state is
replicated on every device; the rows of a batch are sharded along the mesh axis ``data``.
"""

import contextlib
import itertools
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxseg.errors import InputError
from jaxseg.training import Step, nearest_sizes
from jaxseg.types import Array, narrowed

DATA = "data"
"""Name of the mesh axis."""

PROCESSES_MISSING = 2
"""Exit status if the other processes of a job do not start in time."""

Tree = TypeVar("Tree")
_BARRIERS = itertools.count()


def make_mesh(devices: Sequence[Any] | None = None) -> Mesh:
    """Makes a mesh with the single axis ``data``.

    Args:
        devices: In the order given; by default all devices of all processes, process 0's first.

    Examples:
        >>> import jax
        >>> from jaxseg import parallel
        >>> dict(parallel.make_mesh(jax.devices()[:1]).shape)
        {'data': 1}
    """
    if devices is None:
        devices = sorted(jax.devices(), key=lambda device: device.process_index)
    return Mesh(np.asarray(devices), (DATA,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding with the whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def sharded(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that splits the rows (axis 0) evenly over the devices."""
    return NamedSharding(mesh, PartitionSpec(DATA))


def replicate(tree: Tree, mesh: Mesh) -> Tree:
    """Copies every array of a pytree to every device. All processes pass the same tree."""
    return jax.tree.map(lambda array: _put(array, replicated(mesh)), tree)


def padded_size(rows: int, mesh: Mesh) -> int:
    """Returns the smallest batch size of ``rows`` or more that the devices divide."""
    return -(-rows // mesh.size) * mesh.size


def local_rows(rows: int, mesh: Mesh) -> slice:
    """Returns which rows of a global batch this process's devices hold.

    Args:
        rows: Size of the global batch, a multiple of the number of devices.
        mesh: From `make_mesh()`, with each process's devices next to each other.
    """
    mine = [i for i, d in enumerate(mesh.devices) if d.process_index == jax.process_index()]
    share = rows // mesh.size
    return slice(share * mine[0], share * (mine[-1] + 1))


def shard_batch(
    batch: Mapping[str, Array], mesh: Mesh, *, pad_to: int | None = None
) -> dict[str, jax.Array]:
    """Makes the global batch from the rows of each process.

    Args:
        batch: Arrays with this process's rows on axis 0: ``images``, ``labels`` and so on. Process
            0 has the first rows of the global batch, process 1 the next, and so on.
        mesh: The devices.
        pad_to: Size of the global batch after padding, the same in every process; see
            `padded_size`. For evaluation only: it adds ``valid``, False on padding rows.

    Returns:
        The batch on the devices. Padding rows are zeros.

    Raises:
        ValueError: The arrays differ in their number of rows, the devices do not divide the batch,
            or there are more rows than ``pad_to``.

    Examples:
        >>> import jax
        >>> import numpy as np
        >>> from jaxseg import parallel
        >>> mesh = parallel.make_mesh(jax.devices()[:1])
        >>> images = np.zeros((3, 8, 8, 1), np.uint8)
        >>> batch = parallel.shard_batch({"images": images}, mesh, pad_to=4)
        >>> batch["images"].shape, batch["valid"].tolist()
        ((4, 8, 8, 1), [True, True, True, False])
    """
    counts = {name: array.shape[0] for name, array in batch.items()}
    if len(set(counts.values())) != 1:
        raise ValueError(f"the batch's arrays differ in rows: {counts}")
    rows = next(iter(counts.values()))
    processes = len({device.process_index for device in mesh.devices})
    total = rows * processes if pad_to is None else pad_to
    if total % mesh.size:
        raise ValueError(f"{mesh.size} devices do not divide {nearest_sizes(total, mesh.size)}")
    padding = total // processes - rows
    if padding < 0:
        raise ValueError(f"the batch has {rows} rows per process, more than pad_to={pad_to}")
    if pad_to is not None:
        batch = {"valid": np.ones(rows, bool), **batch}

    def put(array: Array) -> jax.Array:
        array = narrowed(np.asarray(array))
        array = np.pad(array, ((0, padding), *((0, 0),) * (array.ndim - 1)))
        shape = (total, *array.shape[1:])
        return jax.make_array_from_process_local_data(sharded(mesh), array, shape)

    return {name: put(array) for name, array in batch.items()}


def take_batch(
    arrays: Mapping[str, np.ndarray], indices: np.ndarray, mesh: Mesh, *, padded: bool = False
) -> dict[str, jax.Array]:
    """Makes the global batch from arrays that every process can read, such as mapped files.

    Each process reads only the rows of its own devices.

    Args:
        arrays: Arrays with one row per image.
        indices: int ``[B]``, rows of the global batch; the same in every process.
        mesh: The devices, which must divide B.
        padded: For evaluation: index -1 is a padding row, and the batch has ``valid``, False on
            these rows. They hold the first image.

    Raises:
        ValueError: An index is negative without ``padded``, or the devices do not divide B.
    """
    if (indices < 0).any() and not padded:
        raise ValueError("negative indices are padding rows, which need padded=True")
    if len(indices) % mesh.size:
        sizes = nearest_sizes(len(indices), mesh.size)
        raise ValueError(f"{mesh.size} devices do not divide {sizes}")
    rows = np.maximum(indices, 0)

    def put(array: np.ndarray) -> jax.Array:
        def read(index: Any) -> Array:
            return narrowed(array[rows[index[0]]])

        shape = (len(rows), *array.shape[1:])
        return jax.make_array_from_callback(shape, sharded(mesh), read)

    batch = {name: put(array) for name, array in arrays.items()}
    if padded:
        batch["valid"] = _put(indices >= 0, sharded(mesh))
    return batch


def jit_step(step: Step, mesh: Mesh) -> Any:
    """Compiles a train step for a mesh.

    The state is donated: after a call, use only the state that it returned. The result equals that
    of one device to float rounding. The call returns before the devices have finished, except on
    several CPU devices.

    Args:
        step: From `jaxseg.make_train_step` without ``axis_name``.
        mesh: The devices. They must divide the batch.

    Returns:
        ``step(state, batch) -> (state, metrics)``. It has ``lower`` like any jitted function.

    Raises:
        ValueError: The step was made with ``axis_name``. By the call: the devices do not divide
            the batch, or the state was donated to an earlier call.

    Examples:
        >>> import jax
        >>> import numpy as np
        >>> import optax
        >>> import jaxseg
        >>> from jaxseg import losses, parallel
        >>> model, tx, mesh = jaxseg.UNet(widths=(4, 8)), optax.adam(1e-3), parallel.make_mesh()
        >>> images = np.zeros((jax.device_count(), 8, 8, 1), np.uint8)
        >>> state = jaxseg.TrainState.create(model, tx, jax.random.key(0), images)
        >>> step = parallel.jit_step(jaxseg.make_train_step(model, tx, losses.cross_entropy), mesh)
        >>> batch = {"images": images, "labels": np.zeros(images.shape[:3], np.int32)}
        >>> state = parallel.replicate(state, mesh)
        >>> state, measured = step(state, parallel.shard_batch(batch, mesh))
        >>> int(state.step)
        1
    """
    if axis_name := getattr(step, "axis_name", None):
        raise ValueError(f"jit_step needs a step made without axis_name, not {axis_name!r}")
    return _compile(step, mesh, replicated(mesh), donates=True)


def jit_batched(function: Callable[..., Any], mesh: Mesh) -> Any:
    """Compiles ``function(state, batch)`` that treats all rows independently, such as a prediction.

    The state is replicated; the batch, any pytree of arrays with rows on axis 0, and the result
    are sharded by rows.

    Raises:
        ValueError: By the call: the devices do not divide the batch.
    """
    return _compile(function, mesh, sharded(mesh))


def pmap_step(step: Step, *, devices: Sequence[Any] | None = None) -> Any:
    """Maps a train step over devices with `jax.pmap`, for code that is built on it.

    Without dropout and augmentation, which sample on each device, it gives the result of
    `jit_step`.

    Args:
        step: From `jaxseg.make_train_step` with ``axis_name="data"``.
        devices: By default all devices of this process.

    Returns:
        ``step(state, batch) -> (state, metrics)``. The state has no device axis and, with one
        process, is donated. Arrays of the batch are ``[devices, rows, ...]``.

    Raises:
        ValueError: The step was made without ``axis_name="data"``; it would train every device on
            its own rows only.
    """
    if getattr(step, "axis_name", None) != DATA:
        raise ValueError(f'pmap_step needs a step made with axis_name="{DATA}"')
    # With several processes pmap returns views of the arrays that it continues with. Donating one
    # would free the next call's state.
    donates = jax.process_count() == 1
    mapped = jax.pmap(
        step,
        axis_name=DATA,
        in_axes=(None, 0),
        out_axes=None,
        devices=devices,
        donate_argnums=(0,) if donates else (),
    )
    local = jax.local_devices() if devices is None else devices
    return _Checked(mapped, local, divisor=1, donates=donates)


def _compile(
    function: Callable[..., Any], mesh: Mesh, out: NamedSharding, *, donates: bool = False
) -> "_Checked":
    """Compiles ``function(state, batch)`` with the state replicated and the batch sharded."""

    def on_mesh(state: Any, batch: Any) -> Any:
        return function(state, jax.lax.with_sharding_constraint(batch, sharded(mesh)))

    compiled = jax.jit(
        on_mesh,
        in_shardings=(replicated(mesh), None),
        out_shardings=out,
        donate_argnums=(0,) if donates else (),
    )
    return _Checked(compiled, mesh.local_devices, divisor=mesh.size, donates=donates)


class _Checked:
    """A compiled function of ``(state, batch)`` with checks that JAX does not make.

    On several CPU devices of one process a call waits for its result. These devices share a pool of
    threads, and more than 32 queued calls can block it forever (jax 0.10).
    """

    def __init__(
        self, compiled: Any, devices: Sequence[Any], *, divisor: int, donates: bool = False
    ):
        self._compiled = compiled
        self._waits = len(devices) > 1 and devices[0].platform == "cpu"
        self._divisor = divisor
        self._donates = donates
        self.lower = compiled.lower

    def __call__(self, state: Any, batch: Any) -> Any:
        for array in jax.tree.leaves(batch):
            if array.shape[0] % self._divisor:
                sizes = nearest_sizes(array.shape[0], self._divisor)
                raise ValueError(f"{self._divisor} devices do not divide {sizes}")
        # Using a donated array on several CPU devices would crash the process (jax 0.10).
        if self._donates and any(
            isinstance(leaf, jax.Array) and leaf.is_deleted() for leaf in jax.tree.leaves(state)
        ):
            raise ValueError("the state was donated to an earlier step; use the one it returned")
        result = self._compiled(state, batch)
        return jax.block_until_ready(result) if self._waits else result


def gather_to_host(tree: Any) -> Any:
    """Copies global arrays whole to NumPy arrays in every process. All processes must call it."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)


def broadcast(array: np.ndarray) -> np.ndarray:
    """Returns process 0's array in every process. All processes must call it."""
    return array if jax.process_count() == 1 else multihost_utils.broadcast_one_to_all(array)


def local_copy(tree: Any) -> Any:
    """Returns replicated arrays as arrays of this process's first device."""
    return jax.tree.map(lambda array: array.addressable_data(0), tree)


def initialize(
    coordinator: str | None = None,
    *,
    num_processes: int | None = None,
    process_id: int | None = None,
    timeout_seconds: int = 300,
) -> None:
    """Joins the processes of a job. Call it before anything else uses JAX.

    Without arguments JAX finds the other processes on TPU VMs and under SLURM, Open MPI and
    Kubernetes. Elsewhere, in a job of one process, and on a second call it does nothing.

    Args:
        coordinator: ``host:port`` of process 0; needs the next two.
        num_processes: Number of processes.
        process_id: Index of this process, from 0.
        timeout_seconds: How long to wait for the others. After that, the process prints one line
            and exits with status `PROCESSES_MISSING`. (JAX would abort it, which no code can
            catch.)

    Raises:
        InputError: The three arguments are incomplete or do not fit each other.
    """
    if jax.distributed.is_initialized():
        return
    given = (coordinator, num_processes, process_id)
    if given == (None, None, None):
        if _launched_counts() == {"1"}:
            return  # JAX would hide all devices but one from the only process of a job.
        waiting_for = "the job's other processes"
    elif None in given:
        raise InputError("coordinator, num_processes and process_id must be given together")
    else:
        _check_address(*given)
        if num_processes == 1:
            return
        waiting_for = f"all {num_processes} processes at the coordinator {coordinator}"
    with _time_limit(timeout_seconds, waiting_for):
        try:
            jax.distributed.initialize(
                coordinator, num_processes, process_id, initialization_timeout=timeout_seconds + 60
            )
        except ValueError as error:
            # JAX says this if it finds no cluster.
            if coordinator is not None or "coordinator_address should be defined" not in str(error):
                raise
        except RuntimeError:
            # JAX is already in use, which matters only if there may be other processes.
            if coordinator is not None or _launched_counts() or jax.default_backend() != "cpu":
                raise


@contextlib.contextmanager
def all_or_none(what: str) -> Iterator[None]:
    """Runs a block in every process; if it fails in one, it fails in all.

    No process leaves the block before all have reached its end, however long that takes.

    Args:
        what: What the block does, for the message.

    Raises:
        InputError: The block's own error, or one that names the process that failed.
    """
    failure: InputError | OSError | None = None
    try:
        yield
    except (InputError, OSError) as error:
        failure = error
    failed = np.array([failure is not None])
    if jax.process_count() > 1:
        # Orbax waits on JAX's coordinator. A collective of CPU devices gives up after 30 s.
        from orbax.checkpoint import multihost

        day = 24 * 3600 * 1000
        multihost.get_barrier_sync_fn()(key=f"jaxseg-{next(_BARRIERS)}", timeout_ms=day)
        failed = multihost_utils.process_allgather(failed[0])
    if failure is not None:
        raise failure
    if failed.any():
        raise InputError(f"{what}: process {int(failed.argmax())} failed; see its error")


class Preemption:
    """Notices SIGTERM, the signal before a machine is taken away, at the same step everywhere.

    With one process, a signal handler sets a flag while the ``with`` block lasts. With several,
    JAX's preemption service is used: once any process has the signal, `noticed` turns True in all
    of them at the same call, and stays True.
    """

    def __init__(self) -> None:
        self._calls = 0
        self._signalled = False
        self._previous: Any = None

    def noticed(self) -> bool:
        """Returns whether to save and exit now. All processes must call it equally many times."""
        self._calls += 1
        if jax.process_count() > 1 and not self._signalled:
            self._signalled = multihost_utils.reached_preemption_sync_point(self._calls)
        return self._signalled

    def __enter__(self) -> "Preemption":
        in_main_thread = threading.current_thread() is threading.main_thread()
        if jax.process_count() == 1 and in_main_thread:
            self._previous = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)
            self._previous = None

    def _note(self, *_: object) -> None:
        self._signalled = True


def _put(array: Any, sharding: NamedSharding) -> jax.Array:
    """Places an array that every process has whole."""
    if sharding.is_fully_addressable:
        return jax.device_put(array, sharding)
    if jax.numpy.issubdtype(array.dtype, jax.dtypes.prng_key):
        data = _put(jax.random.key_data(array), sharding)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(array))
    array = np.asarray(array)
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def _launched_counts() -> set[str]:
    """Returns the numbers of processes that launchers report."""
    names = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
    return {os.environ[name] for name in names if name in os.environ}


def _check_address(coordinator: Any, num_processes: Any, process_id: Any) -> None:
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal():
        raise InputError(f"coordinator is {coordinator!r}; it must be HOST:PORT")
    if not 0 <= process_id < num_processes:
        raise InputError(f"process_id is {process_id}; it must be 0 to {num_processes - 1}")


@contextlib.contextmanager
def _time_limit(seconds: int, waiting_for: str) -> Iterator[None]:
    def give_up() -> None:
        line = f"error: waited {seconds} s for {waiting_for}, which did not come"
        print(line, file=sys.stderr, flush=True)
        os._exit(PROCESSES_MISSING)

    timer = threading.Timer(seconds, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
