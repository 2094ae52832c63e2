"""How films reach the compiled steps: all of them on the devices, or streamed batch by batch.

Either way a step sees the same films, the same bytes; only what lies where differs.
"""

import collections
import contextlib
import functools
import itertools
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import Mesh

from experiments import command
from experiments.configuration import Configuration
from experiments.films import Films
from jaxseg import parallel
from jaxseg.data.records import StoredFilms
from jaxseg.data.streaming import FilmStream
from jaxseg.training import Step, TrainState
from jaxseg.types import InputError

SHARE = 0.5
"""Of the memory that is free, what films may take; the rest is for training."""

BATCHES_AHEAD = 2
"""So many batches lie on the devices before the steps that learn from them."""

Measured = Mapping[str, np.ndarray]
"""What each of some steps measured, ``[count]`` by name."""

Steps = Callable[[TrainState, int], tuple[TrainState, Callable[[], Measured]]]
"""``steps(state, count)`` has the devices do the next ``count`` steps of an epoch; it gives the
state to be, and a function that waits for the steps and gives what they measured."""


class InputPath(Protocol):
    """Gives films to the compiled steps."""

    name: str

    def epoch(self, order: np.ndarray, first: int) -> contextlib.AbstractContextManager[Steps]:
        """Opens an epoch.

        Args:
            order: The films of every step, int32 ``[steps, rows]``, -1 for rows that pad.
            first: The step to begin with; no film of those before is read.
        """
        ...


class DeviceResident:
    """All films on every device: indices go in, films are gathered inside the compiled steps."""

    name = "device"

    def __init__(self, step: Step, films: Mapping[str, np.ndarray], mesh: Mesh):
        self._films = parallel.replicate(films, mesh)
        self._over_rows = parallel.over_rows(mesh, axis=1)
        self._many_steps = parallel.jit_many_steps(step, mesh)

    @contextlib.contextmanager
    def epoch(self, order: np.ndarray, first: int) -> Iterator[Steps]:
        """See `InputPath`."""
        indices = iter(order[first:])

        def steps(state: TrainState, count: int) -> tuple[TrainState, Callable[[], Measured]]:
            next_indices = np.stack(list(itertools.islice(indices, count)))
            placed = parallel.place(next_indices, self._over_rows)
            state, measured = self._many_steps(state, self._films, placed)
            return state, functools.partial(jax.device_get, measured)

        yield steps


class Sharded(DeviceResident):
    """Every device holds its share of the films to learn from, and only these are in its rows.

    This is another order than that of the other paths: an epoch has every film once here too, but
    a device's rows of a step are drawn from its own films, not from all.
    """

    name = "sharded"

    def __init__(
        self,
        step: Step,
        films: Mapping[str, np.ndarray],
        mesh: Mesh,
        *,
        train: np.ndarray,
        batch_size: int,
    ):
        """Gives every device its films.

        Args:
            step: The step.
            films: Arrays with one row per film.
            mesh: The devices.
            train: The films to learn from.
            batch_size: Films a step.

        Raises:
            InputError: They are no even share for every device.
        """
        shards = mesh.shape[parallel.DATA]
        if batch_size % shards:
            raise InputError(
                f"--batch-size: {batch_size} films a step are no even share for the {shards} "
                "devices of --input-path sharded"
            )
        self._shards, self._share = shards, batch_size // shards
        self._shard, self._place = np.full((2, int(train.max()) + 1), -1)
        self._shard[train] = np.arange(len(train)) % shards
        self._place[train] = np.arange(len(train)) // shards
        layout = np.full((shards, math.ceil(len(train) / shards)), -1)
        layout[self._shard[train], self._place[train]] = train
        batch = parallel.take_batch(films, layout.ravel(), mesh)
        self._films = {name: batch[name] for name in films}
        self._over_rows = parallel.over_rows(mesh, axis=1)
        self._many_steps = parallel.jit_many_steps_on_shards(step, mesh)

    @contextlib.contextmanager
    def epoch(self, order: np.ndarray, first: int) -> Iterator[Steps]:
        """See `InputPath`; each device takes its own films in the order in which they come."""
        films = order[order >= 0]
        own = np.full((len(order), self._shards, order.shape[1] // self._shards), -1, np.int32)
        for shard in range(self._shards):
            places = self._place[films[self._shard[films] == shard]]
            own[:, shard, : self._share].flat[: len(places)] = places
        with super().epoch(own.reshape(order.shape), first) as steps:
            yield steps


class Streaming:
    """Films decoded batch by batch, in each process those rows that its devices hold.

    While a step runs, the next batches are decoded and put on the devices.
    """

    name = "stream"

    def __init__(self, step: Step, stream: FilmStream, mesh: Mesh):
        self._step = parallel.jit_step(step, mesh)
        self._stream = stream
        self._mesh = mesh

    @contextlib.contextmanager
    def epoch(self, order: np.ndarray, first: int) -> Iterator[Steps]:
        """See `InputPath`."""
        rows = order.shape[1]
        held = parallel.rows_on(self._mesh, rows)
        with self._stream.batches(order[first:, held]) as batches:
            placed = (parallel.join_rows(batch, self._mesh, rows=rows) for batch in batches)
            ahead = collections.deque(itertools.islice(placed, BATCHES_AHEAD))

            def steps(state: TrainState, count: int) -> tuple[TrainState, Callable[[], Measured]]:
                measured = []
                for _ in range(count):
                    state, of_this_step = self._step(state, ahead.popleft())
                    # Else a fast decoder would fill the devices with batches.
                    jax.block_until_ready(measured[-1:])
                    measured.append(of_this_step)
                    ahead.extend(itertools.islice(placed, 1))
                return state, lambda: _stacked(jax.device_get(measured))

            yield steps


def choose(configuration: Configuration, films: Films, step: Step, mesh: Mesh) -> InputPath:
    """Opens the path that ``--input-path`` asks for; a line says which it is, and why.

    ``auto`` puts all films on every device where they take no more than `SHARE` of the memory that
    is free there: of each accelerator's own, or of the machine's where devices are CPUs, which
    hold a copy each. Else they are streamed. Of several processes the one with the least memory
    decides for all.

    Raises:
        InputError: The films, or a device's share of them, shall be on the devices and are larger
            than what is free there, or they shall be streamed and a record is damaged.
    """
    arrays = {"images": films.arrays.images, "labels": films.arrays.labels}
    asked = configuration.input_path
    needed = sum(array.nbytes for array in arrays.values()) / 1e6
    if asked == "sharded":
        needed /= mesh.devices.size
    # As 32 bits, because JAX has no others.
    of_each_process = parallel.to_host(np.array([free_megabytes(jax.local_devices())], np.float32))
    free = float(of_each_process.min())
    fit = needed <= SHARE * free
    fits_or_must = fit or films.builder is None
    chosen = asked if asked != "auto" else "device" if fits_or_must else "stream"
    why = (
        f"the films' {needed:,.0f} MB a device {'fit' if fit else 'do not fit'} into "
        f"{SHARE * free:,.0f} MB, {SHARE:.0%} of what is free on a device"
    )
    command.say(f"input path: {chosen}, {'' if asked == 'auto' else 'as asked; '}{why}")
    if chosen == "stream":
        if films.builder is None:
            raise ValueError("these films came without the data set to stream them from")
        stream = FilmStream(
            StoredFilms(films.builder),
            size=configuration.size,
            label_size=configuration.size_of_labels(),
            film_resize=configuration.film_resize,
            preprocessing=configuration.preprocessing,
        )
        return Streaming(step, stream, mesh)
    if needed > free:
        raise InputError(
            f"--input-path: the films' {needed:,.0f} MB are more than the {free:,.0f} MB that are "
            "free on a device; stream reads them as they are needed"
        )
    if chosen == "sharded":
        options = {"train": films.train, "batch_size": configuration.batch_size}
        return Sharded(step, arrays, mesh, **options)
    return DeviceResident(step, arrays, mesh)


def _stacked(measured: Sequence[Measured]) -> Measured:
    return jax.tree.map(lambda *values: np.stack(values), *measured)


def free_megabytes(devices: Sequence[Any]) -> float:
    """Memory that is free for a copy of the films on each of a process's devices.

    The least of what the devices say; where they say nothing, as CPUs do, what the machine has
    available by Linux's account (elsewhere all it has), shared out among them. A limit that a
    container sets is not seen.
    """
    told = [device.memory_stats() for device in devices]
    if all(stats and "bytes_limit" in stats for stats in told):
        return min(stats["bytes_limit"] - stats["bytes_in_use"] for stats in told) / 1e6
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        available = 1024 * int(lines["MemAvailable"].split()[0])
    else:
        available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return available / len(devices) / 1e6
