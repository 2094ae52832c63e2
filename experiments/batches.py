"""The batches of an epoch: their size, their order, and how they reach the devices.

Images are all on the devices, or streamed batch by batch. Both give the same batches, byte for
byte, in the same order.
"""

import collections
import contextlib
import itertools
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from experiments import command
from experiments.dataset import Dataset
from experiments.options import Data, Optimization
from jaxseg import parallel
from jaxseg.data.sampling import Sampling
from jaxseg.data.stream import StoredImages, stream_batches
from jaxseg.errors import InputError
from jaxseg.training import nearest_sizes

MEMORY_FRACTION = 0.5
"""Fraction of the free memory that images may take; training needs the rest."""

BATCHES_AHEAD = 2
"""Batches that are on the devices before the steps that use them."""

Batches = Iterator[dict[str, jax.Array]]


def epoch_order(images: np.ndarray, seed: int, epoch: int, batch_size: int) -> np.ndarray:
    """Shuffles the training images, from the seed and the epoch's number alone.

    Returns:
        int32 ``[steps, batch_size]``. Images of the last partial batch are left out of the epoch.
    """
    shuffled = np.random.default_rng([seed, epoch]).permutation(images).astype(np.int32)
    steps = len(shuffled) // batch_size
    return shuffled[: steps * batch_size].reshape(steps, batch_size)


def check_batch_size(optimization: Optimization, mesh: Mesh) -> None:
    """Raises InputError if the devices and microbatches do not divide the batch size."""
    factors = {"devices": mesh.size, "microbatches": optimization.microbatches or 1}
    divisor = math.prod(factors.values())
    if optimization.batch_size % divisor:
        named = " and ".join(f"{count} {name}" for name, count in factors.items() if count > 1)
        sizes = nearest_sizes(optimization.batch_size, divisor)
        raise InputError(f"--batch-size: {named} do not divide {sizes}")


def fitting_batch_size(optimization: Optimization, images: int, mesh: Mesh) -> int:
    """Returns the batch size, which is smaller than configured if there are too few images.

    Raises:
        InputError: There are fewer images than devices times microbatches.
    """
    wanted, divisor = optimization.batch_size, mesh.size * (optimization.microbatches or 1)
    size = min(wanted, images // divisor * divisor)
    if size == 0:
        raise InputError(f"--batch-size: {images} training images are fewer than {divisor}")
    if size < wanted:
        command.say(f"--batch-size: {size} instead of {wanted}, for {images} training images")
    return size


class DeviceResident:
    """All images on every device; only indices are copied for each step."""

    name = "device"

    def __init__(self, arrays: Mapping[str, np.ndarray], mesh: Mesh):
        self._mesh = mesh
        self._arrays = parallel.replicate(arrays, mesh)
        self._take = parallel.jit_batched(
            lambda arrays, rows: {name: array[rows] for name, array in arrays.items()}, mesh
        )

    @contextlib.contextmanager
    def batches(self, order: np.ndarray) -> Iterator[Batches]:
        """Opens the batches of an epoch, see `epoch_order`."""
        yield (self._take(self._arrays, parallel.replicate(rows, self._mesh)) for rows in order)


class Streaming:
    """Images that are decoded batch by batch; each process decodes its own rows.

    The next batches are decoded and copied to the devices while a step runs.
    """

    name = "stream"

    def __init__(self, stored: StoredImages, sampling: Sampling, mesh: Mesh):
        self._stored, self._sampling, self._mesh = stored, sampling, mesh

    @contextlib.contextmanager
    def batches(self, order: np.ndarray) -> Iterator[Batches]:
        """Opens the batches of an epoch, see `epoch_order`."""
        local = parallel.local_rows(order.shape[1], self._mesh)
        with stream_batches(self._stored, order[:, local], self._sampling) as decoded:
            yield self._on_devices(decoded)

    def _on_devices(self, decoded: Iterator[Mapping[str, np.ndarray]]) -> Batches:
        placed = (parallel.shard_batch(batch, self._mesh) for batch in decoded)
        ahead = collections.deque(itertools.islice(placed, BATCHES_AHEAD))
        while ahead:
            yield ahead.popleft()
            ahead.extend(itertools.islice(placed, 1))


InputPath = DeviceResident | Streaming


def choose(data: Data, images: Dataset, mesh: Mesh) -> InputPath:
    """Opens the path that ``--input-path`` names, and prints which one and why.

    ``auto`` puts all images on every device if they take at most `MEMORY_FRACTION` of the memory
    that is free there: of each accelerator, or of the machine for CPU devices, each of which holds
    a copy. Otherwise they are streamed. The process with the least memory decides for all.

    Raises:
        InputError: The images are larger than the free memory and cannot be streamed, or a record
            to stream is damaged.
    """
    arrays = images.arrays.trained_on()
    asked = data.input_path
    needed = sum(array.nbytes for array in arrays.values()) / 1e6
    # float32, because JAX has no other floats by default.
    free = np.array([free_megabytes(jax.local_devices())], np.float32)
    free = float(parallel.gather_to_host(free).min())
    fits = needed <= MEMORY_FRACTION * free
    chosen = asked if asked != "auto" else "device" if fits or not images.builder else "stream"
    why = (
        f"the images need {needed:,.0f} MB a device, {MEMORY_FRACTION:.0%} of the free memory is "
        f"{MEMORY_FRACTION * free:,.0f} MB"
    )
    command.say(f"input path: {chosen}{' (chosen by you)' if asked != 'auto' else ''}; {why}")
    if chosen == "stream":
        assert images.builder is not None, "Data refuses streaming from folders"
        return Streaming(StoredImages(images.builder), data.sampling(), mesh)
    if needed > free:
        advice = "Use --input-path stream" if images.builder else "Use a smaller --size"
        raise InputError(
            f"--input-path device: the images need {needed:,.0f} MB but only {free:,.0f} MB are "
            f"free per device. {advice}"
        )
    return DeviceResident(arrays, mesh)


def free_megabytes(devices: Sequence[Any]) -> float:
    """Returns the memory that is free on each of a process's devices, in MB.

    It is the least that any device reports. CPU devices report nothing and share what Linux says
    is available (elsewhere all memory). The limit of a container is not seen.
    """
    reports = [device.memory_stats() for device in devices]
    if all(report and "bytes_limit" in report for report in reports):
        return min(report["bytes_limit"] - report["bytes_in_use"] for report in reports) / 1e6
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        available = 1024 * int(lines["MemAvailable"].split()[0])
    else:
        available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return available / len(devices) / 1e6
