"""The mesh of devices, and what lies where on it.

One device is a mesh of one, so the same program runs on a laptop and on many chips. State is the
same on every device; the rows of a batch are shared out along the axis ``data``, the height of its
images along the axis ``spatial``.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxseg.types import Array, InputError, narrowed

DATA = "data"
SPATIAL = "spatial"
Tree = TypeVar("Tree")


def make_mesh(
    devices: Sequence[Any] | None = None, *, data: int | None = None, spatial: int = 1
) -> Mesh:
    """Lays devices out along the axes ``data`` and ``spatial``.

    Args:
        devices: In the order given; unless given, all that JAX finds, in all processes.
        data: Shards of a batch's rows; as many as the devices allow unless given.
        spatial: Shards of the images' height, for images too large for one device. Neighbours
            exchange the rows at their borders in every convolution.

    Returns:
        A mesh of ``data`` x ``spatial`` devices. Unless they were given, the devices of a row of
        ``data`` are neighbours in a TPU slice, and rows come by process: process 0's first.

    Raises:
        InputError: A number is below 1, or their product is not the number of devices.

    Examples:
        >>> import jax
        >>> from jaxseg import parallel
        >>> dict(parallel.make_mesh(jax.devices()[:1]).shape)
        {'data': 1, 'spatial': 1}
    """
    given, devices = devices is not None, list(jax.devices() if devices is None else devices)
    if min(spatial, spatial if data is None else data) < 1:
        raise InputError(f"mesh: data={data} and spatial={spatial} must be at least 1")
    if data is None:
        data = max(len(devices) // spatial, 1)
    if data * spatial > len(devices):
        raise InputError(
            f"mesh: data={data} x spatial={spatial} needs {data * spatial} devices, "
            f"there are {len(devices)}"
        )
    if data * spatial < len(devices):
        raise InputError(
            f"mesh: data={data} x spatial={spatial} leaves {len(devices) - data * spatial} of "
            f"{len(devices)} devices unused; name the devices to use fewer"
        )
    if given:
        return Mesh(np.asarray(devices).reshape(data, spatial), (DATA, SPATIAL))
    return Mesh(_near_together(devices, data, spatial), (DATA, SPATIAL))


def most_parts(mesh: Mesh) -> int:
    """The most parts that `split` can make of a mesh."""
    return min(map(len, _rows_by_process(mesh)))


def split(mesh: Mesh, parts: int) -> list[Mesh]:
    """Parts a mesh's devices, so that several programs can run side by side.

    Every part has devices of every process, which thus all run all programs; those of a row of the
    axis ``data`` stay together. Devices that are no even share are left out.

    Args:
        mesh: The devices.
        parts: How many.

    Returns:
        Meshes of equal shape without a device in common; the mesh itself for one part.

    Raises:
        InputError: There are fewer rows of devices in a process than parts, or no parts.

    Examples:
        >>> import jax
        >>> from jaxseg import parallel
        >>> mesh = parallel.make_mesh(jax.devices()[:1])
        >>> parallel.split(mesh, 1) == [mesh]
        True
    """
    most = most_parts(mesh)
    if not 1 <= parts <= most:
        raise InputError(f"mesh: cannot be split into {parts} parts, only into 1 to {most}")
    if parts == 1:
        return [mesh]
    share = most // parts
    groups = _rows_by_process(mesh)
    return [
        Mesh(
            np.concatenate([rows[part * share : (part + 1) * share] for rows in groups]),
            mesh.axis_names,
        )
        for part in range(parts)
    ]


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def over_rows(mesh: Mesh, *, axis: int = 0) -> NamedSharding:
    """An array's ``axis``-th axis shared out along ``data``, an equal part each."""
    return NamedSharding(mesh, PartitionSpec(*(None,) * axis, DATA))


def over_batch(mesh: Mesh, ndim: int) -> NamedSharding:
    """How a batch's array of so many axes lies: rows along ``data``, height along ``spatial``."""
    if ndim < 3:
        return over_rows(mesh)
    return NamedSharding(mesh, PartitionSpec(DATA, SPATIAL))


def rows_for(rows: int, mesh: Mesh, *, microbatches: int = 1) -> int:
    """The least number of rows, ``rows`` or more, of which every device has an even share.

    Args:
        rows: How many there are.
        mesh: The devices.
        microbatches: Parts that a step cuts the batch into; each is shared out evenly then.
    """
    share = mesh.shape[DATA] * microbatches
    return -(-rows // share) * share


def replicate(tree: Tree, mesh: Mesh) -> Tree:
    """Puts every array of a pytree whole on every device; every process gives the same tree."""
    return place(tree, replicated(mesh))


def place(tree: Tree, sharding: NamedSharding) -> Tree:
    """Lays every array of a pytree out as the sharding says; every process gives the same tree."""
    return jax.tree.map(lambda array: _put(array, sharding), tree)


def shard_batch(
    batch: Mapping[str, Array], mesh: Mesh, *, rows: int | None = None
) -> dict[str, jax.Array]:
    """Makes the global batch from the rows that each process has.

    Args:
        batch: Arrays with this process's rows first: ``images``, ``labels`` and so on. In a mesh
            that `make_mesh` laid out itself process 0 has the first rows of the global batch, and
            so on; in another one a process has those that `rows_on` names.
        mesh: The devices.
        rows: Rows of the global batch, an even share for every device, padding included; every
            process names the same. So that processes may have different numbers of real rows, and
            some none. Unless given, each process pads what it has, and all must have equally many.

    Returns:
        The batch on the devices, with ``valid`` False on the rows added, which are zeros.

    Raises:
        ValueError: The arrays differ in their number of rows or have more than the process's
            share, ``rows`` is not an even share, or a spatial shard lies in another process.

    Examples:
        >>> import jax
        >>> import numpy as np
        >>> from jaxseg import parallel
        >>> mesh = parallel.make_mesh(jax.devices()[:1])
        >>> films = np.zeros((3, 8, 8, 1), np.uint8)
        >>> batch = parallel.shard_batch({"images": films}, mesh, rows=4)
        >>> batch["images"].shape, batch["valid"].tolist()
        ((4, 8, 8, 1), [True, True, True, False])
    """
    counts = {name: array.shape[0] for name, array in batch.items()}
    if len(set(counts.values())) != 1:
        raise ValueError(f"the batch's arrays differ in rows: {counts}")
    mine = next(iter(counts.values()))
    shards, processes = (
        mesh.shape[DATA],
        len({device.process_index for device in mesh.devices.flat}),
    )
    if any(len({device.process_index for device in row}) > 1 for row in mesh.devices):
        raise ValueError("mesh: a spatial shard lies in another process; use take_batch")
    share = shards // processes
    total = -(-mine // share) * shards if rows is None else rows
    if total % shards:
        raise ValueError(f"rows={rows} is no even share for {shards} shards; see rows_for")
    padding = total // processes - mine
    if padding < 0:
        raise ValueError(f"the batch has {mine} rows, more than this process's share of {rows}")
    batch = {"valid": np.ones(mine, bool), **batch}

    def put(array: Array) -> jax.Array:
        array = narrowed(np.asarray(array))
        padded = np.pad(array, ((0, padding), *((0, 0),) * (array.ndim - 1)))
        sharding = over_batch(mesh, array.ndim)
        return jax.make_array_from_process_local_data(sharding, padded, (total, *array.shape[1:]))

    return {name: put(array) for name, array in batch.items()}


def take_batch(
    films: Mapping[str, np.ndarray], indices: np.ndarray, mesh: Mesh
) -> dict[str, jax.Array]:
    """Makes the global batch from arrays that every process can read, such as mapped files.

    Each process reads only the rows of its own devices, and every film is somewhere once: so an
    evaluation that the processes do not divide evenly needs no more care than one process does.

    Args:
        films: Arrays with one row per film.
        indices: int ``[B]``, the films of the global batch, -1 for a row that only pads it; the
            same in every process, and an even share for every device (`rows_for`).
        mesh: The devices.

    Returns:
        The batch on the devices, with ``valid``. Rows that pad it hold the first film.
    """
    rows = np.maximum(indices, 0)

    def put(array: np.ndarray) -> jax.Array:
        def part(place: Any) -> Array:
            return narrowed(array[rows[place[0]]][:, *place[1:]])

        shape = (len(rows), *array.shape[1:])
        return jax.make_array_from_callback(shape, over_batch(mesh, array.ndim), part)

    batch = {name: put(array) for name, array in films.items()}
    return {**batch, "valid": _put(indices >= 0, over_rows(mesh))}


def rows_on(mesh: Mesh, rows: int, devices: Iterable[Any] | None = None) -> np.ndarray:
    """Which rows of a global batch some devices hold, so that a process reads no others.

    Args:
        mesh: The devices.
        rows: Rows of the global batch, an even share for every device.
        devices: Those of the mesh that are asked about; this process's unless given.

    Returns:
        Ascending; rows whose height is shared out are there once.
    """
    asked = set(jax.local_devices() if devices is None else devices)
    places = over_rows(mesh).devices_indices_map((rows,))
    held = [np.arange(rows)[place] for device, place in places.items() if device in asked]
    return np.unique(np.concatenate(held))


def join_rows(batch: Mapping[str, np.ndarray], mesh: Mesh, *, rows: int) -> dict[str, jax.Array]:
    """Makes the global batch from the rows that each process's devices hold.

    Args:
        batch: Arrays with the rows that `rows_on` names, in its order.
        mesh: The devices.
        rows: Rows of the global batch.
    """
    held = rows_on(mesh, rows)

    def put(array: np.ndarray) -> jax.Array:
        def part(place: Any) -> np.ndarray:
            first, beyond, _ = place[0].indices(rows)
            return array[np.searchsorted(held, first) :][: beyond - first, *place[1:]]

        shape = (rows, *array.shape[1:])
        return jax.make_array_from_callback(shape, over_batch(mesh, array.ndim), part)

    return {name: put(array) for name, array in batch.items()}


def _rows_by_process(mesh: Mesh) -> list[np.ndarray]:
    """Each process's rows of devices; of processes that share a row one for all."""
    owners = [{device.process_index for device in row} for row in mesh.devices]
    if any(len(row) > 1 for row in owners):
        return [mesh.devices[:1]]
    processes = sorted(set.union(*owners))
    return [mesh.devices[[row == {process} for row in owners]] for process in processes]


def _put(array: Any, sharding: NamedSharding) -> jax.Array:
    """An array that every process has whole, laid out as the sharding says."""
    if sharding.is_fully_addressable:
        return jax.device_put(array, sharding)
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        data = _put(jax.random.key_data(array), sharding)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(array))
    array = np.asarray(array)
    return jax.make_array_from_callback(array.shape, sharding, lambda place: array[place])


def _near_together(devices: list[Any], data: int, spatial: int) -> np.ndarray:
    """All devices as ``[data, spatial]``, near ones side by side, those of a process together."""
    slices: dict[int, list[Any]] = {}
    for device in devices:
        slices.setdefault(getattr(device, "slice_index", None) or 0, []).append(device)
    if data % len(slices):
        return np.asarray(devices).reshape(data, spatial)
    shape = (data // len(slices), spatial)
    rows = np.concatenate(
        [
            mesh_utils.create_device_mesh(shape, part, allow_split_physical_axes=True)
            for _, part in sorted(slices.items())
        ]
    )
    # A slice's rings go through its hosts back and forth. Along ``data`` all that is exchanged are
    # sums over all devices, for which their order does not matter.
    return rows[np.argsort([row[0].process_index for row in rows], kind="stable")]
