"""What lies where on a mesh, and how processes join."""

import contextlib
import signal
import socket
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import mesh_utils

from jaxseg import parallel
from jaxseg.parallel import compiled
from jaxseg.types import InputError


@pytest.mark.parametrize(
    ("rows", "devices", "expected"), [(16, 1, 16), (5, 8, 8), (17, 8, 24), (8, 8, 8)]
)
def test_rows_are_rounded_up_to_an_even_share(rows, devices, expected):
    assert parallel.rows_for(rows, parallel.make_mesh(jax.devices()[:devices])) == expected


def test_a_batch_is_shared_out_by_rows_and_padded_with_invalid_ones():
    mesh = parallel.make_mesh()
    images = np.arange(6, dtype=np.float32).reshape(6, 1, 1, 1)
    batch = parallel.shard_batch({"images": images}, mesh)
    assert [shard.data.shape[0] for shard in batch["images"].addressable_shards] == [1] * 8
    np.testing.assert_array_equal(np.asarray(batch["images"])[:6], images)
    np.testing.assert_array_equal(batch["valid"], [True] * 6 + [False] * 2)


def test_replicated_arrays_are_whole_on_every_device():
    values = np.arange(5.0, dtype=np.float32)
    array = parallel.replicate({"a": jnp.asarray(values)}, parallel.make_mesh())["a"]
    for shard in array.addressable_shards:
        np.testing.assert_array_equal(shard.data, values)


def test_jit_rows_treats_rows_alike_on_every_device():
    mesh = parallel.make_mesh()
    doubled = parallel.jit_rows(lambda scale, rows: scale * rows, mesh)
    rows = np.arange(16.0, dtype=np.float32)
    result = doubled(np.float32(2), rows)
    np.testing.assert_array_equal(result, 2 * rows)
    assert len({shard.device for shard in result.addressable_shards}) == 8


def test_calls_of_jit_rows_on_several_cpu_devices_do_not_queue():
    def slow(scale, rows):
        return scale * jax.lax.fori_loop(0, 5000, lambda _, x: jnp.sin(x), rows)

    rows = np.ones((8, 64, 64), np.float32)
    assert parallel.jit_rows(slow, parallel.make_mesh())(np.float32(2), rows).is_ready()


def test_spatial_shards_split_the_height_and_leave_what_has_none():
    mesh = parallel.make_mesh(spatial=2)
    assert dict(mesh.shape) == {"data": 4, "spatial": 2}
    batch = {"images": np.zeros((4, 6, 5, 1)), "labels": np.zeros((4, 6, 5), np.int32)}
    placed = parallel.shard_batch(batch, mesh)
    shapes = {
        name: {shard.data.shape for shard in array.addressable_shards}
        for name, array in placed.items()
    }
    assert shapes == {"images": {(1, 3, 5, 1)}, "labels": {(1, 3, 5)}, "valid": {(1,)}}


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ({"data": 16}, "needs 16 devices, there are 8"),
        ({"data": 3, "spatial": 2}, "leaves 2 of 8 devices unused"),
        ({"spatial": 3}, "leaves 2 of 8"),
        ({"spatial": 9}, "needs 9 devices, there are 8"),
        ({"data": 0}, "at least 1"),
    ],
)
def test_a_mesh_that_does_not_fit_the_devices_is_refused(shape, words):
    with pytest.raises(InputError, match=words):
        parallel.make_mesh(**shape)


@pytest.mark.parametrize(
    ("spatial", "parts", "shape"), [(1, 3, (2, 1)), (1, 8, (1, 1)), (2, 2, (2, 2)), (2, 4, (1, 2))]
)
def test_parts_of_a_mesh_share_no_device(spatial, parts, shape):
    mesh = parallel.make_mesh(spatial=spatial)
    assert parallel.most_parts(mesh) == 8 // spatial
    found = parallel.split(mesh, parts)
    assert [part.devices.shape for part in found] == [shape] * parts
    assert all(part.axis_names == mesh.axis_names for part in found)
    used = [device for part in found for device in part.devices.flat]
    assert len(set(used)) == len(used)
    rows = set(map(tuple, mesh.devices.tolist()))
    assert {row for part in found for row in map(tuple, part.devices.tolist())} <= rows


class OfProcess:
    """Stands for a device of another process."""

    def __init__(self, process_index):
        self.process_index = process_index


def owners_of(mesh):
    return [device.process_index for device in mesh.devices.flat]


@pytest.mark.parametrize("owners", [[0, 0, 0, 1, 1, 1], [1, 0, 1, 0, 0, 1]])
def test_every_part_has_devices_of_every_process(owners):
    mesh = parallel.make_mesh(list(map(OfProcess, owners)))
    assert parallel.most_parts(mesh) == 3
    parts = parallel.split(mesh, 3)
    assert list(map(owners_of, parts)) == [[0, 1]] * 3
    assert {device for part in parts for device in part.devices.flat} == set(mesh.devices.flat)


def test_rows_of_devices_come_by_process_however_a_ring_goes_through_them(monkeypatch):
    devices = [OfProcess(process) for process in (0, 0, 1, 1, 1, 1, 0, 0)]
    ring = np.array(devices).reshape(4, 2)
    monkeypatch.setattr(mesh_utils, "create_device_mesh", lambda *_, **__: ring)
    monkeypatch.setattr(jax, "devices", lambda: devices)
    mesh = parallel.make_mesh(spatial=2)
    assert owners_of(mesh) == [0, 0, 0, 0, 1, 1, 1, 1]
    assert mesh.devices.tolist() == [devices[:2], devices[6:], devices[2:4], devices[4:6]]


def test_processes_that_share_a_row_all_have_all_devices():
    mesh = parallel.make_mesh(list(map(OfProcess, [0, 1, 0, 1])), spatial=2)
    assert parallel.most_parts(mesh) == 1
    assert parallel.split(mesh, 1) == [mesh]


@pytest.mark.parametrize("parts", [0, 9])
def test_more_parts_than_there_are_rows_are_refused(parts):
    with pytest.raises(InputError, match="only into 1 to 8"):
        parallel.split(parallel.make_mesh(), parts)


@pytest.mark.parametrize(
    ("shape", "words"),
    [((10, 8), "10 rows cannot be shared out evenly over 4"), ((4, 7), "7 pixels of height")],
)
def test_a_batch_that_the_mesh_does_not_divide_is_refused(shape, words):
    mesh = parallel.make_mesh(spatial=2)
    # Rows laid out by hand; shard_batch pads them.
    step = parallel.jit_rows(lambda _, images: images, mesh)
    with pytest.raises(ValueError, match=words):
        step(np.float32(0), np.zeros((*shape, 4, 1), np.float32))


def test_rows_of_the_global_batch_may_be_named():
    mesh = parallel.make_mesh()
    batch = parallel.shard_batch({"images": np.ones((3, 1, 1, 1))}, mesh, rows=16)
    assert batch["images"].shape[0] == 16
    np.testing.assert_array_equal(batch["valid"], np.arange(16) < 3)
    for rows, words in ((12, "no even share for 8 shards"), (0, "more than")):
        with pytest.raises(ValueError, match=words):
            parallel.shard_batch({"images": np.ones((3, 1, 1, 1))}, mesh, rows=rows)


@pytest.mark.parametrize("spatial", [1, 2])
def test_taking_a_batch_reads_the_rows_named_and_marks_padding(spatial):
    mesh = parallel.make_mesh(spatial=spatial)
    rng = np.random.default_rng(0)
    films = {
        "images": rng.random((5, 4, 3, 1), np.float32),
        "labels": rng.integers(0, 9, (5, 4, 3)),
    }
    indices = np.array([4, 2, 2, 0, 1, -1, -1, -1])
    batch = parallel.take_batch(films, indices, mesh)
    for name, array in films.items():
        np.testing.assert_array_equal(np.asarray(batch[name])[:5], array[indices[:5]])
    np.testing.assert_array_equal(batch["valid"], indices >= 0)


def test_one_process_needs_no_coordinator():
    parallel.initialize()
    parallel.initialize("127.0.0.1:1", num_processes=1, process_id=0)
    assert parallel.is_lead()
    tree = {"a": np.arange(3)}
    assert parallel.from_lead(tree, parallel.make_mesh()) is tree
    np.testing.assert_array_equal(parallel.to_host(jnp.arange(3)), np.arange(3))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("127.0.0.1:1", None, None), "go together"),
        ((None, 2, 0), "go together"),
        (("nowhere", 2, 0), "nowhere should be HOST:PORT"),
        (("127.0.0.1:1", 2, 2), "process id 2 is not one of 2"),
    ],
)
def test_a_job_that_is_half_described_is_refused(options, words):
    coordinator, num_processes, process_id = options
    with pytest.raises(InputError, match=words):
        parallel.initialize(coordinator, num_processes=num_processes, process_id=process_id)


def test_a_coordinator_that_does_not_answer_ends_in_one_line():
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        began = time.monotonic()
        code = (
            "from jaxseg import parallel; parallel.initialize("
            f"{address!r}, num_processes=2, process_id=1, timeout_seconds=2)"
        )
        ended = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
        )
    assert ended.returncode == 2
    lines = [line for line in ended.stderr.splitlines() if line.startswith("error:")]
    assert lines == [
        f"error: waited 2 s for all 2 processes at the coordinator {address}, which did not come"
    ]
    assert time.monotonic() - began < 100


def test_what_fails_while_all_work_together_is_raised():
    with pytest.raises(InputError, match="no such film"), parallel.together("loading"):
        raise InputError("no such film")


def test_sigterm_is_noticed_between_steps_and_the_handler_is_put_back():
    before = signal.getsignal(signal.SIGTERM)
    with parallel.Preemption() as preemption:
        assert not preemption.noticed()
        signal.raise_signal(signal.SIGTERM)
        assert preemption.noticed()
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_handler_stays_until_the_last_of_several_blocks_ends():
    before = signal.getsignal(signal.SIGTERM)
    preemption = parallel.Preemption()
    first, second = contextlib.ExitStack(), contextlib.ExitStack()
    first.enter_context(preemption)
    second.enter_context(preemption)
    first.close()
    signal.raise_signal(signal.SIGTERM)
    assert preemption.noticed()
    second.close()
    assert signal.getsignal(signal.SIGTERM) is before


def test_loops_are_unrolled_on_cpus_only():
    assert compiled.unrolls(parallel.make_mesh())
