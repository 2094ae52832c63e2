"""Images on the devices and streamed images give the same batches."""

import dataclasses
import itertools
import os
import pickle
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from fake_archive import write_folder

from experiments import batches, command, dataset, train
from experiments.batches import DeviceResident, Streaming
from experiments.configs import CONFIGURATIONS
from experiments.dataset import Dataset
from experiments.options import Data, Network, Optimization
from experiments.runs import RunDirectory
from jaxseg import parallel
from jaxseg.data import phantom
from jaxseg.data.arrays import load_arrays
from jaxseg.data.covid_radiography import prepare
from jaxseg.data.sampling import Sampling
from jaxseg.data.stream import StoredImages, stream_batches
from jaxseg.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore::jaxseg.data.archive.PartialReleaseWarning")

SIZE = 16
ORDER = np.array([[7, 2, 5, 0], [3, 8, 1, 6], [4, 4, 2, 7]], np.int32)
KINDS = ("device", "stream")


@pytest.fixture(scope="module")
def builder(tmp_path_factory):
    """Nine prepared images; their order in the records is not that of their names."""
    folder = write_folder(tmp_path_factory.mktemp("images"), {"COVID": range(4, 13)})
    return prepare(folder, tmp_path_factory.mktemp("data"), "covid")


@pytest.fixture(scope="module")
def stored(builder):
    return StoredImages(builder)


@pytest.fixture(scope="module")
def arrays(builder):
    arrays = load_arrays(builder, size=SIZE)
    return {"images": np.asarray(arrays.images), "labels": np.asarray(arrays.labels)}


def opened(kind, stored, arrays, mesh):
    """One of the two paths."""
    if kind == "device":
        return DeviceResident(arrays, mesh)
    return Streaming(stored, Sampling(SIZE), mesh)


def assert_are_the_images(batch, indices, arrays):
    """Asserts that every byte of a decoded batch is that of the arrays."""
    assert set(batch) == set(arrays)
    for name, array in arrays.items():
        assert batch[name].dtype == np.uint8
        np.testing.assert_array_equal(batch[name], array[indices])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("devices", [1, 4])
@pytest.mark.parametrize("first", [0, 1])
def test_both_paths_give_the_images_of_the_order_from_any_step_on(
    kind, devices, first, stored, arrays
):
    mesh = parallel.make_mesh(jax.devices()[:devices])
    order = np.random.default_rng(0).integers(0, 9, (5, 4)).astype(np.int32)
    with opened(kind, stored, arrays, mesh).batches(order[first:]) as given:
        found = list(given)
    assert len(found) == 5 - first
    for batch, indices in zip(found, order[first:], strict=True):
        assert set(batch) == set(arrays)
        for name, array in arrays.items():
            np.testing.assert_array_equal(batch[name], array[indices])
            assert len(batch[name].sharding.device_set) == devices


@pytest.mark.parametrize(("asked", "side"), [(None, 16), (8, 16), (24, 24)])
def test_every_path_has_labels_of_the_size_that_was_asked_for(asked, side, builder):
    mesh = parallel.make_mesh(jax.devices()[:1])
    data = Data(size=SIZE, label_size=asked, input_path="stream")
    loaded = dataset.of_database(data, builder)
    assert loaded.arrays.images.shape[1:3] == (SIZE, SIZE)
    assert loaded.arrays.labels.shape[1:] == (side, side)
    path = batches.choose(data, loaded, mesh)
    with path.batches(np.array([[7, 2, 5, 0]], np.int32)) as given:
        assert next(given)["labels"].shape == (4, side, side)


def test_a_resumed_stream_decodes_nothing_of_what_came_before(stored, arrays, monkeypatch):
    decoded = []
    sample = stored.sample

    def spy(index, sampling):
        decoded.append(index)
        return sample(index, sampling)

    monkeypatch.setattr(stored, "sample", spy)
    with stream_batches(stored, ORDER[1:], Sampling(SIZE)) as given:
        assert_are_the_images(next(given), ORDER[1], arrays)
        list(given)
    assert sorted(decoded) == sorted(ORDER[1:].ravel())


@pytest.mark.slow
def test_two_processes_stream_their_own_rows(stored, arrays, monkeypatch):
    mesh = parallel.make_mesh()
    order, whole = np.array([[1, 2, 3, 4, 5, 6, 7, 8]], np.int32), []
    for process in (0, 1):
        # As if each half of the devices were a process's.
        half = slice(4 * process, 4 * process + 4)
        monkeypatch.setattr(parallel, "local_rows", lambda *_, half=half: half)
        monkeypatch.setattr(parallel, "shard_batch", lambda batch, _: batch)
        with Streaming(stored, Sampling(SIZE), mesh).batches(order) as given:
            whole += [next(given)["images"]]
    np.testing.assert_array_equal(np.concatenate(whole), arrays["images"][order[0]])


def test_images_on_the_device_are_copied_to_it_once(arrays):
    inputs = DeviceResident(arrays, parallel.make_mesh())
    with inputs.batches(np.zeros((3, 8), np.int32)) as given:
        next(given)
        # Only the indices are copied, explicitly.
        with jax.transfer_guard("disallow"):
            next(given)


def threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("grain")]


def assert_threads_end():
    deadline = time.monotonic() + 10
    while threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not threads()


def test_the_threads_of_a_stream_end_if_the_run_fails(stored):
    inputs = Streaming(stored, Sampling(SIZE), parallel.make_mesh())

    def interrupted():
        with inputs.batches(np.zeros((9, 8), np.int32)) as given:
            next(given)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert_threads_end()


def test_a_damaged_record_is_one_line_that_names_it(tmp_path):
    folder = write_folder(tmp_path, {"COVID": range(1, 5)})
    builder = prepare(folder, tmp_path / "data", "covid")
    before = pickle.dumps(StoredImages(builder))
    file = max(Path(builder.data_dir).glob("*array_record*"), key=lambda file: file.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 255
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"record \d is damaged") as at_the_start:
        StoredImages(builder)
    order = np.arange(4, dtype=np.int32).reshape(2, 2)
    # Open files have been read ahead; unpickling opens them again.
    stored = pickle.loads(before)
    with (
        pytest.raises(InputError, match="is damaged") as while_reading,
        stream_batches(stored, order, Sampling(SIZE)) as given,
    ):
        list(given)
    for error in (at_the_start, while_reading):
        assert str(builder.data_dir) in str(error.value)
        assert "\n" not in str(error.value)
    assert_threads_end()


def the_path(monkeypatch, builder, *, free, asked):
    """What is chosen if this many megabytes are free."""
    monkeypatch.setattr(batches, "free_megabytes", lambda _: free)
    arrays = load_arrays(builder, size=SIZE)
    images = Dataset(arrays, *[np.arange(9)] * 3, fingerprint="", builder=builder)
    return batches.choose(Data(size=SIZE, input_path=asked), images, parallel.make_mesh())


# Nine images of 16 x 16 and their labels are 0.004608 MB.
@pytest.mark.parametrize(
    ("asked", "free", "chosen", "words"),
    [
        ("auto", 0.00922, "device", "input path: device; the images need 0 MB a device"),
        ("auto", 0.00920, "stream", "input path: stream; the images need 0 MB a device"),
        ("device", 0.00920, "device", "input path: device (chosen by you); "),
        ("stream", 0.00922, "stream", "input path: stream (chosen by you); "),
    ],
)
def test_images_are_on_the_device_if_half_of_its_memory_holds_them(
    asked, free, chosen, words, builder, monkeypatch, capsys
):
    assert the_path(monkeypatch, builder, free=free, asked=asked).name == chosen
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(words)


def test_images_that_cannot_fit_on_the_device_are_refused(builder, monkeypatch):
    with pytest.raises(InputError, match=r"--input-path device: .* only 0 MB are free per device"):
        the_path(monkeypatch, builder, free=0.0046, asked="device")


def test_free_memory_is_what_the_fullest_device_has_left():
    def device(limit, used):
        return SimpleNamespace(memory_stats=lambda: {"bytes_limit": limit, "bytes_in_use": used})

    devices = [device(16e9, 1e9), device(16e9, 3e9), device(20e9, 0)]
    assert batches.free_megabytes(devices) == 13e3


def test_devices_that_say_nothing_share_the_machines_memory():
    silent = SimpleNamespace(memory_stats=lambda: None)
    one, four = (batches.free_megabytes([silent] * count) for count in (1, 4))
    installed = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e6
    assert 0 < one <= installed
    # Other programs come and go between the two looks.
    assert four == pytest.approx(one / 4, rel=0.2)


@pytest.mark.slow
def test_a_streamed_run_preempted_in_mid_epoch_ends_with_the_same_bits(tmp_path, monkeypatch):
    phantom.write_archive(tmp_path, images=dict.fromkeys(phantom.CLASSES, 10), seed=1)
    configuration = dataclasses.replace(
        CONFIGURATIONS["phantom"],
        network=Network(widths=(4, 8), dropout=(0.3,)),
        optimization=Optimization(batch_size=4, epochs=2),
    ).with_data(manual_dir=tmp_path, data_dir=tmp_path / "data", size=SIZE, input_path="stream")
    mesh = parallel.make_mesh(jax.devices()[:1])
    unbroken, broken = (RunDirectory(tmp_path / name) for name in ("unbroken", "broken"))
    with jax.numpy_dtype_promotion("standard"):
        train.train(configuration, unbroken, mesh)
        calls = itertools.count(1)
        with monkeypatch.context() as patched:
            patched.setattr(parallel.Preemption, "noticed", lambda _: next(calls) == 10)
            with pytest.raises(command.Stopped, match="saved step 9 of"):
                train.train(configuration, broken, mesh, output=train.Output(resume=True))
        assert_threads_end()
        train.train(configuration, broken, mesh, output=train.Output(resume=True))
    assert 9 % unbroken.read_metrics()[0]["step"] != 0, "step 9 is in mid-epoch"
    assert broken.read_steps() == unbroken.read_steps()
    summaries = [run.read_summary() or {} for run in (broken, unbroken)]
    assert summaries[0]["test"] == summaries[1]["test"]
