"""Several processes as one program: how they start, speak, agree, and end together.

JAX's own distributed runtime does the work; on a single process all of this is a matter of course.
"""

import contextlib
import functools
import itertools
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import numpy as np
from jax._src import distributed
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxseg.parallel.mesh import replicated
from jaxseg.types import InputError

Tree = TypeVar("Tree")
_BARRIERS = itertools.count()

GAVE_UP = 2
"""Exit status where the other processes did not come."""


def initialize(
    coordinator: str | None = None,
    *,
    num_processes: int | None = None,
    process_id: int | None = None,
    timeout_seconds: int = 300,
) -> None:
    """Joins the processes of a job; call it before anything else is asked of JAX.

    With no arguments JAX finds out for itself on TPU VMs, under SLURM, Open MPI and Kubernetes;
    elsewhere, where a job has one process, and a second time, nothing is done.

    Args:
        coordinator: ``host:port`` that process 0 can be reached at; with it go the other two.
        num_processes: How many processes there are.
        process_id: Which one this is, from 0.
        timeout_seconds: How long to wait for the others. Where they do not come the process ends
            with one line and exit status `GAVE_UP`: JAX would abort it, which cannot be caught.

    Raises:
        InputError: Some of the three are given and some not, or do not fit each other.
    """
    if jax.distributed.is_initialized():
        return
    given = (coordinator, num_processes, process_id)
    if given == (None, None, None):
        if _processes_launched() == {"1"}:
            return
        waiting_for = "the job's other processes"
    elif None in given:
        raise InputError("coordinator, number of processes and process id go together")
    else:
        _check_address(*given)
        if num_processes == 1:
            return
        waiting_for = f"all {num_processes} processes at the coordinator {coordinator}"
    with _limit(timeout_seconds, waiting_for):
        try:
            jax.distributed.initialize(
                coordinator, num_processes, process_id, initialization_timeout=timeout_seconds + 60
            )
        except ValueError as error:
            # What JAX says where it knows of no cluster.
            if coordinator is not None or "coordinator_address should be defined" not in str(error):
                raise
        except RuntimeError:
            # JAX is in use already, which matters only where there could be others to join.
            if coordinator is not None or _processes_launched() or jax.default_backend() != "cpu":
                raise


def is_lead() -> bool:
    """Whether this is process 0, the one that writes."""
    return jax.process_index() == 0


def from_lead(tree: Tree, mesh: Mesh) -> Tree:
    """The lead's values in every process, as NumPy arrays; all must call it, with like trees.

    They pass through the mesh's devices, so that no others need come to the end of their work.

    Args:
        tree: Arrays of 32 bits and less.
        mesh: Devices of every process.
    """
    if jax.process_count() == 1:
        return tree
    owners = [device.process_index for device in mesh.devices.flat]
    rows = NamedSharding(mesh, PartitionSpec(mesh.axis_names))

    def share(array: Any) -> np.ndarray:
        own = np.asarray(array)[None]
        shape = (len(owners), *own.shape[1:])
        of_each_device = jax.make_array_from_callback(shape, rows, lambda _: own)
        return np.asarray(_row(mesh, owners.index(0))(of_each_device).addressable_data(0))

    return jax.tree.map(share, tree)


def to_host(tree: Any) -> Any:
    """Global arrays as NumPy arrays, whole, in every process; all must call it."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)


def local_copy(tree: Any) -> Any:
    """Arrays that are whole on every device, as this process's first device has them."""
    return jax.tree.map(lambda array: array.addressable_data(0), tree)


@contextlib.contextmanager
def together(what: str) -> Iterator[None]:
    """Ends the block in no process before all have, and fails in all if it fails in one.

    Args:
        what: What the block does, for the message.

    Raises:
        InputError: The block's own, or one that names the process whose block failed.
    """
    failure: InputError | OSError | None = None
    try:
        yield
    except (InputError, OSError) as error:
        failure = error
    _wait_for_all()
    failed = _of_each_process(failure is not None)
    if failure is not None:
        raise failure
    if failed.any():
        raise InputError(f"{what}: failed in process {int(failed.argmax())}, which says why")


class Preemption:
    """Notices that the machine is about to be taken away (SIGTERM), at the same step everywhere.

    On one process a signal handler takes note while any ``with`` block of it lasts. On several
    JAX's preemption service does: once any process has the signal, `noticed` turns True in all of
    them in the same call, counted from the start, and stays so.
    """

    def __init__(self) -> None:
        self._calls = 0
        self._signalled = False
        self._blocks = 0
        self._before: Any = None

    def noticed(self) -> bool:
        """Whether to save and end now; every process calls it equally often."""
        self._calls += 1
        if jax.process_count() > 1 and not self._signalled:
            self._signalled = multihost_utils.reached_preemption_sync_point(self._calls)
        return self._signalled

    def __enter__(self) -> "Preemption":
        self._blocks += 1
        in_main_thread = threading.current_thread() is threading.main_thread()
        if self._blocks == 1 and jax.process_count() == 1 and in_main_thread:
            self._before = signal.signal(signal.SIGTERM, self._take_note)
        return self

    def __exit__(self, *_: object) -> None:
        self._blocks -= 1
        if self._blocks == 0 and self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _take_note(self, *_: object) -> None:
        self._signalled = True


@functools.cache
def _row(mesh: Mesh, number: int) -> Callable[[jax.Array], jax.Array]:
    """Compiles what takes one row of an array to all devices."""
    return jax.jit(lambda array: array[number], out_shardings=replicated(mesh))


def _processes_launched() -> set[str]:
    """Launchers' counts; from a job's only process JAX would hide all devices but one."""
    names = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
    return {os.environ[name] for name in names if name in os.environ}


def _wait_for_all() -> None:
    """Waits, however long it takes; a collective of CPU devices would give up after 30 s.

    JAX has no public name for its runtime's barrier. A process that dies ends the others.
    """
    if jax.process_count() > 1:
        client: Any = distributed.global_state.client
        client.wait_at_barrier(f"jaxseg-{next(_BARRIERS)}", timeout_in_ms=24 * 3600 * 1000)


def _of_each_process(value: bool) -> np.ndarray:
    """Every process's value, in their order."""
    if jax.process_count() == 1:
        return np.array([value])
    return multihost_utils.process_allgather(np.array(value))


def _check_address(coordinator: Any, num_processes: Any, process_id: Any) -> None:
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal():
        raise InputError(f"coordinator: {coordinator} should be HOST:PORT")
    if not 0 <= process_id < num_processes:
        raise InputError(f"process id {process_id} is not one of {num_processes} processes")


@contextlib.contextmanager
def _limit(seconds: int, waiting_for: str) -> Iterator[None]:
    def give_up() -> None:
        print(
            f"error: waited {seconds} s for {waiting_for}, which did not come", file=sys.stderr,
            flush=True,
        )  # fmt: skip
        os._exit(GAVE_UP)

    timer = threading.Timer(seconds, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
