"""Films on the devices and films streamed: the same batches, and no film that was not asked for."""

import dataclasses
import itertools
import os
import pickle
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fake_archive import write_folder
from flax import linen as nn
from PIL import Image

from experiments import command, films, input_path, train
from experiments.configuration import Configuration
from experiments.configurations import CONFIGURATIONS
from experiments.films import Films
from experiments.input_path import DeviceResident, Sharded, Streaming
from experiments.run_directory import RunDirectory
from experiments.seeds import in_turns
from jaxseg import losses, parallel
from jaxseg.data import phantom
from jaxseg.data.arrays import load_arrays
from jaxseg.data.covid_radiography.preparation import prepare
from jaxseg.data.records import StoredFilms
from jaxseg.data.streaming import FilmStream
from jaxseg.training import TrainState, make_many_steps, make_train_step
from jaxseg.types import InputError

pytestmark = pytest.mark.filterwarnings("ignore::jaxseg.data.archive.PartialReleaseWarning")

SIZE = 16
# Nine films, the last batch with one, and rows that devices need but no film fills.
ORDER = np.array(
    [
        [7, 2, 5, 0, -1, -1, -1, -1],
        [3, 8, 1, 6, -1, -1, -1, -1],
        [4, -1, -1, -1, -1, -1, -1, -1],
    ],
    np.int32,
)
KINDS = ("device", "stream")


@pytest.fixture(scope="module")
def builder(tmp_path_factory):
    """Nine films, prepared; their order in the records is not that of their names."""
    folder = write_folder(tmp_path_factory.mktemp("films"), {"COVID": range(4, 13)})
    return prepare(folder, tmp_path_factory.mktemp("data"), "covid")


@pytest.fixture(scope="module")
def stored(builder):
    return StoredFilms(builder)


@pytest.fixture(scope="module")
def arrays(builder):
    arrays = load_arrays(builder, size=SIZE)
    return {"images": np.asarray(arrays.images), "labels": np.asarray(arrays.labels)}


def opened(kind, step, stored, arrays, mesh):
    """One of the two paths."""
    if kind == "device":
        return DeviceResident(step, arrays, mesh)
    return Streaming(step, FilmStream(stored, size=SIZE), mesh)


def tells_its_batch(state, batch):
    """A step that learns nothing and measures the batch that it was given."""
    return state.replace(step=state.step + 1), batch


def nothing_learnt(mesh):
    return parallel.replicate(TrainState(jnp.int32(0), {}, {}, (), jax.random.key(0)), mesh)


def assert_are_the_films(batches, order, arrays):
    """Every byte, those of rows that pad too, is what a plain look-up gives."""
    assert set(batches) == {"images", "labels", "valid"}
    for name, array in arrays.items():
        assert batches[name].dtype == np.uint8
        np.testing.assert_array_equal(batches[name], array[np.maximum(order, 0)])
    np.testing.assert_array_equal(batches["valid"], order >= 0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(1, 1), (4, 2)], ids=["1 device", "4 x 2 devices"])
@pytest.mark.parametrize("first", [0, 1])
def test_both_paths_give_the_films_of_the_order_from_any_step_on(
    kind, shape, first, stored, arrays
):
    data, spatial = shape
    mesh = parallel.make_mesh(jax.devices()[: data * spatial], data=data, spatial=spatial)
    inputs = opened(kind, tells_its_batch, stored, arrays, mesh)
    state, parts = nothing_learnt(mesh), []
    with inputs.epoch(ORDER, first) as take_steps:
        for count in (1, len(ORDER) - first - 1):
            state, at_work = take_steps(state, count)
            measured = at_work()
            assert len(measured["valid"]) == count
            parts.append(measured)
    batches = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    assert_are_the_films(batches, ORDER[first:], arrays)
    assert int(state.step) == len(ORDER) - first


@pytest.mark.parametrize(("asked", "side"), [(None, 16), (8, 16), (24, 24)])
def test_every_path_has_labels_of_the_size_that_was_asked_for(asked, side, builder, tmp_path):
    mesh = parallel.make_mesh(jax.devices()[:1])
    configuration = Configuration(name="any", size=SIZE, label_size=asked, input_path="stream")
    loaded = films.of_builder(configuration, builder)
    assert loaded.arrays.images.shape[1:3] == (SIZE, SIZE)
    assert loaded.arrays.labels.shape[1:] == (side, side)
    paths = input_path.choose(configuration, loaded, tells_its_batch, mesh)
    with paths.epoch(ORDER, 0) as take_steps:
        measured = take_steps(nothing_learnt(mesh), 1)[1]()
    assert measured["labels"].shape[2:] == (side, side)
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
        for i in range(20):
            pixels = np.random.default_rng(i).integers(0, 256, (64, 64), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / kind / f"{i}.png")
    images, masks = tmp_path / "images", tmp_path / "masks"
    own = dataclasses.replace(configuration, images=images, masks=masks, input_path="auto")
    assert films.load(own).arrays.labels.shape[1] == side


def test_a_resumed_stream_decodes_nothing_of_what_came_before(stored, arrays, monkeypatch):
    decoded = []
    pair = stored.pair

    def spy(index, **options):
        decoded.append(index)
        return pair(index, **options)

    monkeypatch.setattr(stored, "pair", spy)
    with FilmStream(stored, size=SIZE).batches(ORDER[1:, :4]) as batches:
        assert_are_the_films(next(batches), ORDER[1, :4], arrays)
        list(batches)
    # Film 0 is in the rows that pad.
    assert sorted(decoded) == [0, 1, 3, 4, 6, 8]


@pytest.mark.parametrize("film_resize", ["bilinear", "nearest"])
def test_a_stream_decodes_as_the_arrays_were_made(film_resize, builder, stored):
    options = {"size": 24, "label_size": 40, "film_resize": film_resize}
    options["preprocessing"] = "complement"
    arrays = load_arrays(builder, **options)
    with FilmStream(stored, **options).batches(ORDER) as batches:
        for rows, batch in zip(ORDER, batches, strict=True):
            expected = {"images": np.asarray(arrays.images), "labels": np.asarray(arrays.labels)}
            assert_are_the_films(batch, rows, expected)


@pytest.mark.parametrize("spatial", [1, 2])
def test_two_processes_together_stream_what_one_does(spatial, stored, arrays):
    mesh = parallel.make_mesh(jax.devices()[::-1], spatial=spatial)
    order = np.array([[1, 2, 3, 4, 5, 6, 7, 8], [8, 6, 4, 2, 0, 1, 3, -1]], np.int32)
    stream, whole = FilmStream(stored, size=SIZE), {}
    # As if each half of the devices were a process's.
    for devices in (jax.devices()[:4], jax.devices()[4:]):
        held = parallel.rows_on(mesh, 8, devices)
        assert len(held) == 4
        with stream.batches(order[:, held]) as batches:
            for step, batch in enumerate(batches):
                for name, array in batch.items():
                    place = whole.setdefault(name, np.full((2, 8, *array.shape[1:]), 77, np.uint8))
                    place[step, held] = array
    assert_are_the_films({**whole, "valid": whole["valid"] == 1}, order, arrays)


@pytest.mark.parametrize("spatial", [1, 2, 8])
def test_the_global_batch_is_made_of_the_rows_that_the_process_holds(spatial):
    mesh = parallel.make_mesh(jax.devices()[::-1], spatial=spatial)
    images = np.arange(8 * 16 * 3, dtype=np.float32).reshape(8, 16, 3, 1)
    held = parallel.rows_on(mesh, 8)
    np.testing.assert_array_equal(held, np.arange(8))
    batch = parallel.join_rows({"images": images, "valid": images[:, 0, 0, 0] > 90}, mesh, rows=8)
    np.testing.assert_array_equal(batch["images"], images)
    np.testing.assert_array_equal(batch["valid"], [False, False, *[True] * 6])
    assert batch["images"].sharding.is_equivalent_to(parallel.over_batch(mesh, 4), 4)


def test_films_kept_in_shards_are_each_seen_once_an_epoch_where_they_lie(arrays):
    mesh = parallel.make_mesh(data=4, spatial=2)
    train_films = np.array([8, 1, 2, 3, 7, 5, 6])
    inputs = Sharded(tells_its_batch, arrays, mesh, train=train_films, batch_size=4)
    state, shuffles = nothing_learnt(mesh), []
    for seed in (0, 1):
        order = np.full((2, 8), -1, np.int32)
        order[:, :4].flat[:7] = np.random.default_rng(seed).permutation(train_films)
        with inputs.epoch(order, 0) as take_steps:
            state, at_work = take_steps(state, 2)
            measured = at_work()
        lying = found(measured["images"], arrays["images"])
        np.testing.assert_array_equal(measured["labels"], arrays["labels"][lying])
        films = np.where(measured["valid"], lying, -1)
        assert sorted(films[films >= 0]) == sorted(train_films)
        # Each device's two rows hold its own films, in the order in which the epoch names them.
        assert [row.tolist() for row in films.reshape(2, 4, 2)[:, :, 1]] == [[-1] * 4] * 2
        for device, own in enumerate(films.reshape(2, 4, 2)[:, :, 0].T):
            held = train_films[device::4]
            assert own[own >= 0].tolist() == [film for film in order.ravel() if film in held]
        with inputs.epoch(order, 1) as take_steps:
            state, at_work = take_steps(state, 1)
            rest = at_work()
        np.testing.assert_array_equal(rest["images"][0], measured["images"][1])
        shuffles.append(films.tolist())
    assert shuffles[0] != shuffles[1]


def found(images, films):
    """Which of the films each image is."""
    same = (images[:, :, None] == films[None, None]).all((3, 4, 5))
    assert (same.sum(2) == 1).all()
    return same.argmax(2)


def test_films_kept_in_shards_never_move_between_devices(arrays):
    mesh, model, tx = parallel.make_mesh(), OneLayer(), optax.sgd(0.5)
    step = make_train_step(model, tx, losses.cross_entropy)
    many_steps = parallel.jit_many_steps_on_shards(step, mesh)
    films = {name: np.concatenate([array[:8]] * 2) for name, array in arrays.items()}
    films = {
        name: parallel.place(a, parallel.over_batch(mesh, a.ndim)) for name, a in films.items()
    }
    state = TrainState.create(model, tx, jax.random.key(0), arrays["images"])
    indices = parallel.place(np.zeros((1, 8), np.int32), parallel.over_rows(mesh, axis=1))
    program = many_steps.lower(parallel.replicate(state, mesh), films, indices).compile().as_text()
    moving = ("all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter")
    lines = [line for line in program.splitlines() if any(f"{word}(" in line for word in moving)]
    assert lines
    assert not [line for line in lines if "u8[" in line or "all-reduce(" not in line]


def test_a_batch_that_shards_cannot_share_evenly_is_refused(arrays):
    with pytest.raises(InputError, match=r"--batch-size: 12 .* 8 devices"):
        Sharded(tells_its_batch, arrays, parallel.make_mesh(), train=np.arange(9), batch_size=12)


class OneLayer(nn.Module):
    """The least that can learn."""

    @nn.compact
    def __call__(self, images, *, train):
        del train
        return nn.Conv(1, (3, 3))(images.astype(jnp.float32) / 255.0)


def test_both_paths_learn_the_same(stored, arrays):
    mesh, model, tx = parallel.make_mesh(jax.devices()[:1]), OneLayer(), optax.sgd(0.5)
    step, learnt = make_train_step(model, tx, losses.cross_entropy), {}
    for kind in KINDS:
        state = TrainState.create(model, tx, jax.random.key(0), arrays["images"])
        state = parallel.replicate(state, mesh)
        with opened(kind, step, stored, arrays, mesh).epoch(ORDER, 0) as take_steps:
            state, at_work = take_steps(state, len(ORDER))
            measured = at_work()
        assert measured["images"].tolist() == [4, 4, 1]
        learnt[kind] = {"loss": measured["loss"], "params": jax.device_get(state.params)}
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-6, atol=2e-7), *learnt.values()
    )


def test_films_on_the_device_cross_to_it_once(arrays):
    mesh = parallel.make_mesh()
    inputs = DeviceResident(tells_its_batch, arrays, mesh)
    state = nothing_learnt(mesh)
    with inputs.epoch(np.concatenate([ORDER] * 2), 0) as take_steps:
        state, _ = take_steps(state, 3)
        # Indices are placed and what was measured fetched, both explicitly; nothing else moves.
        with jax.transfer_guard("disallow"):
            _, at_work = take_steps(state, 3)
            at_work()


@pytest.mark.parametrize("unroll", [True, False])
def test_nothing_crosses_to_the_device_inside_many_steps(unroll, arrays):
    state = TrainState(jnp.int32(0), {}, {}, (), jax.random.key(0))
    films, indices = jax.device_put((arrays, ORDER))
    many_steps = jax.jit(make_many_steps(tells_its_batch, unroll=unroll))
    many_steps(state, films, indices)
    with jax.transfer_guard("disallow_explicit"):
        _, measured = many_steps(state, films, indices)
    assert_are_the_films(jax.device_get(measured), ORDER, arrays)


def threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("grain")]


def assert_threads_end():
    deadline = time.monotonic() + 10
    while threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not threads()


@pytest.mark.parametrize("taken", [0, 1, len(ORDER)])
def test_a_streams_threads_end_with_it(taken, stored):
    assert_threads_end()  # Of the test before.
    with FilmStream(stored, size=SIZE, threads=3).batches(ORDER) as batches:
        for _ in range(taken):
            next(batches)
        assert bool(threads()) == bool(taken)
    assert_threads_end()


def test_a_streams_threads_end_where_the_run_fails(stored):
    inputs = Streaming(tells_its_batch, FilmStream(stored, size=SIZE), parallel.make_mesh())
    with pytest.raises(KeyboardInterrupt), inputs.epoch(ORDER, 0):
        raise KeyboardInterrupt
    assert_threads_end()


def test_a_damaged_record_is_one_line_that_names_it(tmp_path):
    folder = write_folder(tmp_path, {"COVID": range(1, 5)})
    builder = prepare(folder, tmp_path / "data", "covid")
    before = pickle.dumps(StoredFilms(builder))
    file = max(Path(builder.data_dir).glob("*array_record*"), key=lambda file: file.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 255
    file.write_bytes(content)
    with pytest.raises(InputError, match="record 0 of ") as at_the_start:
        StoredFilms(builder)
    order = np.arange(4, dtype=np.int32).reshape(2, 2)
    # Open files have been read ahead; unpickling opens them anew.
    stored = pickle.loads(before)
    with (
        pytest.raises(InputError, match=r"the record of COVID-\d is damaged") as while_reading,
        FilmStream(stored, size=SIZE).batches(order) as batches,
    ):
        list(batches)
    for error in (at_the_start, while_reading):
        assert str(builder.data_dir) in str(error.value)
        assert "\n" not in str(error.value)
    assert_threads_end()


def the_path(monkeypatch, builder, *, free, asked):
    """What is chosen where so many megabytes are free."""
    monkeypatch.setattr(input_path, "free_megabytes", lambda _: free)
    arrays = load_arrays(builder, size=SIZE)
    films = Films(arrays, *[np.arange(9)] * 3, fingerprint="", builder=builder)
    configuration = Configuration(name="test", size=SIZE, input_path=asked)
    return input_path.choose(configuration, films, tells_its_batch, parallel.make_mesh())


# Nine films of 16 x 16 and their labels are 0.004608 MB.
@pytest.mark.parametrize(
    ("asked", "free", "chosen", "words"),
    [
        ("auto", 0.00922, "device", "input path: device, the films' 0 MB a device fit into"),
        ("auto", 0.00920, "stream", "input path: stream, the films' 0 MB a device do not fit into"),
        ("device", 0.00920, "device", "input path: device, as asked; "),
        ("stream", 0.00922, "stream", "input path: stream, as asked; "),
        ("sharded", 0.0046, "sharded", "input path: sharded, as asked; "),
    ],
)
def test_films_stay_on_the_device_where_half_of_its_memory_holds_them(
    asked, free, chosen, words, builder, monkeypatch, capsys
):
    assert the_path(monkeypatch, builder, free=free, asked=asked).name == chosen
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(words)


def test_films_that_cannot_fit_are_refused_where_they_shall(builder, monkeypatch):
    with pytest.raises(InputError, match=r"--input-path.*more than the 0 MB"):
        the_path(monkeypatch, builder, free=0.0046, asked="device")


def test_free_memory_is_what_the_fullest_device_has_left():
    def device(limit, used):
        return SimpleNamespace(memory_stats=lambda: {"bytes_limit": limit, "bytes_in_use": used})

    devices = [device(16e9, 1e9), device(16e9, 3e9), device(20e9, 0)]
    assert input_path.free_megabytes(devices) == 13e3


def test_devices_that_say_nothing_share_the_machines_memory():
    silent = SimpleNamespace(memory_stats=lambda: None)
    one, four = (input_path.free_megabytes([silent] * count) for count in (1, 4))
    installed = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e6
    assert 0 < one <= installed
    # Other programs come and go between the two looks.
    assert four == pytest.approx(one / 4, rel=0.2)


def to_the_end(configuration, run, mesh, *, resume):
    in_turns([train.train(configuration, run, mesh, parallel.Preemption(), resume=resume)])


@pytest.mark.slow
def test_a_streamed_run_preempted_in_mid_epoch_ends_with_the_same_bits(tmp_path, monkeypatch):
    phantom.write_archive(tmp_path, films=dict.fromkeys(phantom.CLASSES, 10), seed=1)
    configuration = dataclasses.replace(
        CONFIGURATIONS["phantom"], manual_dir=tmp_path, data_dir=tmp_path / "data",
        size=SIZE, widths=(4, 8), dropout=(0.3,), batch_size=4, epochs=2, input_path="stream",
    )  # fmt: skip
    mesh = parallel.make_mesh(jax.devices()[:1])
    unbroken, broken = (RunDirectory(tmp_path / name) for name in ("unbroken", "broken"))
    with jax.numpy_dtype_promotion("standard"):
        to_the_end(configuration, unbroken, mesh, resume=False)
        calls = itertools.count(1)
        with monkeypatch.context() as patched:
            patched.setattr(parallel.Preemption, "noticed", lambda _: next(calls) == 10)
            with pytest.raises(command.Preempted, match="saved step 9 of"):
                to_the_end(configuration, broken, mesh, resume=True)
        assert_threads_end()
        to_the_end(configuration, broken, mesh, resume=True)
    assert unbroken.read_metrics()[0]["step"] == 6, "step 9 is in mid-epoch"
    assert broken.read_steps() == unbroken.read_steps()
    summaries = [run.read_summary() or {} for run in (broken, unbroken)]
    assert [summary["input_path"] for summary in summaries] == ["stream", "stream"]
    assert summaries[0]["test"] == summaries[1]["test"]
