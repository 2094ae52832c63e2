"""What is on which device, and how processes join."""

import signal
import socket
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import parallel
from jaxseg.errors import InputError


def mesh_of(devices):
    return parallel.make_mesh(jax.devices()[:devices])


@pytest.mark.parametrize(
    ("rows", "devices", "expected"), [(16, 1, 16), (5, 8, 8), (17, 8, 24), (8, 8, 8), (0, 8, 0)]
)
def test_a_padded_size_is_the_next_multiple_of_the_devices(rows, devices, expected):
    assert parallel.padded_size(rows, mesh_of(devices)) == expected


def test_a_batch_is_sharded_by_rows():
    images = np.arange(8, dtype=np.float32).reshape(8, 1, 1, 1)
    batch = parallel.shard_batch({"images": images}, parallel.make_mesh())
    assert set(batch) == {"images"}
    shards = batch["images"].addressable_shards
    np.testing.assert_array_equal([shard.data.item() for shard in shards], images.ravel())


def test_padding_rows_are_zeros_that_are_not_valid():
    batch = parallel.shard_batch({"images": np.ones((3, 1, 1, 1))}, parallel.make_mesh(), pad_to=16)
    np.testing.assert_array_equal(np.asarray(batch["images"]).ravel(), np.arange(16) < 3)
    np.testing.assert_array_equal(batch["valid"], np.arange(16) < 3)


@pytest.mark.parametrize(
    ("arrays", "options", "words"),
    [
        ({"a": (3,)}, {}, "8 devices do not divide a batch of 3 images; .* that fit are 8"),
        ({"a": (12,)}, {}, "a batch of 12 images; .* that fit are 8 and 16"),
        ({"a": (3,)}, {"pad_to": 12}, "a batch of 12 images"),
        ({"a": (9,)}, {"pad_to": 8}, "9 rows per process, more than pad_to=8"),
        ({"a": (8,), "b": (9,)}, {}, "differ in rows: {'a': 8, 'b': 9}"),
    ],
)
def test_a_batch_that_does_not_fit_the_devices_is_refused(arrays, options, words):
    batch = {name: np.zeros(shape) for name, shape in arrays.items()}
    with pytest.raises(ValueError, match=words):
        parallel.shard_batch(batch, parallel.make_mesh(), **options)


def test_ids_of_64_bits_are_clipped_and_do_not_wrap():
    labels = np.array([0, 1, 2**32, -(2**40)]).reshape(4, 1, 1)
    batch = parallel.shard_batch({"labels": labels}, mesh_of(2))
    np.testing.assert_array_equal(np.asarray(batch["labels"]).ravel(), [0, 1, 2**31 - 1, -1])


def test_replicated_arrays_are_whole_on_every_device():
    values = np.arange(5.0, dtype=np.float32)
    array = parallel.replicate({"a": jnp.asarray(values)}, parallel.make_mesh())["a"]
    assert len(array.addressable_shards) == 8
    for shard in array.addressable_shards:
        np.testing.assert_array_equal(shard.data, values)
    np.testing.assert_array_equal(parallel.local_copy(array), values)


def test_jit_batched_shards_every_array_of_the_batch_and_the_result():
    mesh = parallel.make_mesh()
    scaled = parallel.jit_batched(lambda scale, batch: scale * batch["a"] + batch["b"], mesh)
    rows = np.arange(16.0, dtype=np.float32)
    result = scaled(np.float32(2), {"a": rows, "b": rows})
    np.testing.assert_array_equal(result, 3 * rows)
    assert len({shard.device for shard in result.addressable_shards}) == 8
    with pytest.raises(ValueError, match="8 devices do not divide a batch of 15 images"):
        scaled(np.float32(2), {"a": rows[:15], "b": rows[:15]})


def test_calls_of_jit_batched_on_several_cpu_devices_do_not_queue():
    def slow(scale, rows):
        return scale * jax.lax.fori_loop(0, 5000, lambda _, x: jnp.sin(x), rows)

    rows = np.ones((8, 64, 64), np.float32)
    assert parallel.jit_batched(slow, parallel.make_mesh())(np.float32(2), rows).is_ready()


class OfProcess:
    """Stands for a device of another process."""

    def __init__(self, process_index):
        self.process_index = process_index


def test_each_process_has_consecutive_rows(monkeypatch):
    devices = [OfProcess(process) for process in (0, 1, 1, 0, 2, 0)]
    monkeypatch.setattr(jax, "devices", lambda: devices)
    mesh = parallel.make_mesh()
    assert [device.process_index for device in mesh.devices] == [0, 0, 0, 1, 1, 2]
    found = []
    for process in range(3):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        found.append(parallel.local_rows(12, mesh))
    assert found == [slice(0, 6), slice(6, 10), slice(10, 12)]


@pytest.mark.parametrize("padding", [0, 3])
def test_taking_a_batch_reads_the_given_rows_and_marks_padding(padding):
    rng = np.random.default_rng(0)
    arrays = {
        "images": rng.random((5, 4, 3, 1), np.float32),
        "labels": rng.integers(0, 9, (5, 4, 3)),
    }
    indices = np.array([4, 2, 2, 0, 1, 3, 3, 3])
    indices[8 - padding :] = -1
    mesh = parallel.make_mesh()
    batch = parallel.take_batch(arrays, indices, mesh, padded=padding > 0)
    for name, array in arrays.items():
        found = np.asarray(batch[name])[: 8 - padding]
        np.testing.assert_array_equal(found, array[indices[: 8 - padding]])
    assert ("valid" in batch) == (padding > 0)
    np.testing.assert_array_equal(batch.get("valid", np.ones(8, bool)), indices >= 0)
    with pytest.raises(ValueError, match="need padded=True"):
        parallel.take_batch(arrays, np.array([0] * 7 + [-1]), mesh)
    with pytest.raises(ValueError, match="8 devices do not divide a batch of 3 images"):
        parallel.take_batch(arrays, indices[:3], mesh, padded=True)


def test_one_process_needs_no_coordinator():
    parallel.initialize()
    parallel.initialize("127.0.0.1:1", num_processes=1, process_id=0)
    assert jax.process_count() == 1
    np.testing.assert_array_equal(parallel.gather_to_host(jnp.arange(3)), np.arange(3))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("127.0.0.1:1", None, None), "must be given together"),
        ((None, 2, 0), "must be given together"),
        (("nowhere", 2, 0), "coordinator is 'nowhere'; it must be HOST:PORT"),
        (("127.0.0.1:1", 2, 2), "process_id is 2; it must be 0 to 1"),
    ],
)
def test_an_incomplete_description_of_a_job_is_refused(options, words):
    coordinator, num_processes, process_id = options
    with pytest.raises(InputError, match=words):
        parallel.initialize(coordinator, num_processes=num_processes, process_id=process_id)


@pytest.mark.slow
def test_a_coordinator_that_does_not_answer_ends_the_process_with_one_line():
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


def test_an_error_in_a_block_that_all_processes_run_is_raised():
    with pytest.raises(InputError, match="no such image"), parallel.all_or_none("loading"):
        raise InputError("no such image")


def test_sigterm_is_noticed_between_steps_and_the_handler_is_restored():
    before = signal.getsignal(signal.SIGTERM)
    with parallel.Preemption() as preemption:
        assert not preemption.noticed()
        signal.raise_signal(signal.SIGTERM)
        assert preemption.noticed()
    assert signal.getsignal(signal.SIGTERM) is before
