"""The arrays of a prepared archive, its cache, and the stream that gives the same batches."""

import json
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from fake_archive import image_pixels, mask_pixels, write_folder
from PIL import Image

from jaxseg.data.arrays import ImageArrays, load_arrays
from jaxseg.data.covid_radiography import Builder, prepare
from jaxseg.data.phantom import write_archive
from jaxseg.data.preprocessing import preprocess
from jaxseg.data.sampling import Sampling
from jaxseg.data.stream import StoredImages, stream_batches
from jaxseg.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore::jaxseg.data.archive.PartialReleaseWarning")

IMAGES = {"COVID": [1, 2, *range(9, 14)], "Lung_Opacity": [5], "Normal": [2, 10],
          "Viral Pneumonia": [3]}  # fmt: skip
NUMBERED = [(name, number) for name, numbers in IMAGES.items() for number in numbers]
COUNT = len(NUMBERED)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("archive"), IMAGES)


@pytest.fixture(scope="module")
def builder(folder, tmp_path_factory):
    return prepare(folder, tmp_path_factory.mktemp("data"))


@pytest.fixture
def load(builder, tmp_path):
    """Loads the arrays through a new cache."""
    return lambda **options: load_arrays(
        builder, **({"size": 8, "cache_dir": tmp_path / "cache"} | options)
    )


def the_cache(tmp_path) -> Path:
    (directory,) = (tmp_path / "cache").iterdir()
    return directory


def resized(pixels, size, resize="bilinear"):
    picture = Image.fromarray(pixels).resize((size, size), Image.Resampling[resize.upper()])
    return np.asarray(picture)


def assert_same(ours: ImageArrays, other: ImageArrays):
    for name in ("images", "labels", "masks"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(other, name))
    for name in ("ids", "classes", "sources", "split", "groups"):
        assert getattr(ours, name) == getattr(other, name)


SAMPLINGS = [
    {"size": 8},
    {"size": 32, "resize": "nearest"},
    {"size": 16, "label_size": 24, "channels": 3},
    {"size": 24, "label_size": 8, "preprocessing": "gamma"},
    {"size": 16, "channels": 3, "preprocessing": "equalize"},
]


@pytest.mark.parametrize("options", SAMPLINGS, ids=str)
def test_every_image_is_there_once_in_natural_order_as_pillow_resizes_it(options, load):
    if options.get("preprocessing") == "equalize":
        pytest.importorskip("skimage", reason="needs scikit-image")
    arrays = load(**options)
    size, channels = options["size"], options.get("channels", 1)
    label_size = options.get("label_size", size)
    assert arrays.ids == [f"{name}-{number}" for name, number in NUMBERED]
    assert arrays.images.shape == (COUNT, size, size, channels)
    assert arrays.where is None
    for index, (name, number) in enumerate(NUMBERED):
        pixels, mask = image_pixels(name, number), mask_pixels(name, number)
        # The preprocessing has its own tests.
        pixels = preprocess(pixels[..., None], options.get("preprocessing", "none"))[..., 0]
        expected = resized(pixels, size, options.get("resize", "bilinear"))
        for channel in range(channels):
            np.testing.assert_array_equal(arrays.images[index, ..., channel], expected)
        np.testing.assert_array_equal(arrays.masks[index], mask // 255)
        labels = resized(mask, label_size, "nearest") // 255
        np.testing.assert_array_equal(arrays.labels[index], labels)
        assert arrays.mask_size(index) == (256, 256)
    assert arrays.images.dtype == arrays.labels.dtype == arrays.masks[0].dtype == np.uint8


@pytest.mark.parametrize("options", SAMPLINGS[:4], ids=str)
def test_a_stream_gives_the_batches_of_the_arrays(options, builder, load):
    arrays, stored, sampling = load(**options), StoredImages(builder), Sampling(**options)
    order = np.random.default_rng(0).permutation(COUNT)[:9].reshape(3, 3)
    with stream_batches(stored, order, sampling, threads=3) as batches:
        batches = list(batches)
    assert len(batches) == len(order)
    for rows, batch in zip(order, batches, strict=True):
        assert [*batch] == [*arrays.trained_on()] == ["images", "labels"]
        for name, array in arrays.trained_on().items():
            np.testing.assert_array_equal(batch[name], array[rows])
            assert batch[name].dtype == np.uint8
    with stream_batches(stored, order[2:], sampling) as rest:
        np.testing.assert_array_equal(next(rest)["images"], batches[2]["images"])
    for index in range(COUNT):
        image, label, mask = stored.sample(index, sampling)
        np.testing.assert_array_equal(image, arrays.images[index])
        np.testing.assert_array_equal(label, arrays.labels[index])
        np.testing.assert_array_equal(mask, arrays.masks[index])


@pytest.mark.parametrize("taken", [0, 1, 9])
def test_the_threads_of_a_stream_end_with_its_block(taken, builder):
    def threads():
        return [thread for thread in threading.enumerate() if thread.name.startswith("grain")]

    def assert_none():
        deadline = time.monotonic() + 10
        while threads() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not threads()

    def interrupted():
        order = np.zeros((9, 2), np.int32)
        with stream_batches(StoredImages(builder), order, Sampling(8), threads=3) as batches:
            for _ in range(taken):
                next(batches)
            assert bool(threads()) == bool(taken)
            raise KeyboardInterrupt

    assert_none()
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert_none()


def test_stored_files_are_those_of_the_archive(builder, folder):
    stored = StoredImages(builder)
    assert len(stored) == COUNT
    for index, (name, number) in enumerate(NUMBERED):
        image, mask = stored.files(index)
        assert mask.startswith(b"\x89PNG")
        assert image == (folder / name / "images" / f"{name}-{number}.png").read_bytes()


def test_splits_classes_and_groups_are_the_builders(builder, folder, load, tmp_path):
    arrays = load()
    for split in ("train", "validation", "test"):
        chosen = {name for name, s in zip(arrays.ids, arrays.split, strict=True) if s == split}
        if builder.info.splits[split].num_examples:
            stored = {example["id"].decode() for example in builder.as_data_source(split)}
            assert chosen == stored
        else:
            assert not chosen
    assert arrays.classes == [name for name, _ in NUMBERED]
    assert arrays.sources == [""] * COUNT
    assert arrays.groups == arrays.ids
    copy = shutil.copytree(folder, tmp_path / folder.name)
    shutil.copy(copy / "COVID/images/COVID-1.png", copy / "COVID/images/COVID-9.png")
    grouped = load_arrays(prepare(copy, tmp_path / "data", "covid"), size=8)
    expected = [f"COVID-{number}" for number in IMAGES["COVID"]]
    expected[2] = "COVID-1"
    assert grouped.groups == expected
    assert grouped.split[2] == grouped.split[0]


def test_the_arrays_are_memory_maps_of_plain_files_and_read_only(load, tmp_path):
    arrays = load()
    for name in ("images", "labels", "masks"):
        array = getattr(arrays, name)
        assert isinstance(array, np.memmap)
        assert not array.flags.writeable
        np.testing.assert_array_equal(np.load(the_cache(tmp_path) / f"{name}.npy"), array)
    metadata = json.loads((the_cache(tmp_path) / "images.json").read_text())
    assert metadata["ids"] == arrays.ids


def test_the_cache_is_read_the_second_time(load):
    calls = []
    first = load(progress=lambda *counts: calls.append(counts))
    assert calls == [(done, COUNT) for done in range(1, COUNT + 1)]
    assert_same(load(progress=lambda *counts: calls.append(counts)), first)
    assert len(calls) == COUNT


@pytest.mark.parametrize("name", ["images.npy", "masks.npy", "images.json"])
@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_damaged_cache_is_named_and_written_again_once_removed(load, name, damage, tmp_path):
    expected = load()
    path = the_cache(tmp_path) / name
    data = path.read_bytes()
    path.unlink()
    if damage == "cut":
        path.write_bytes(data[:-1])
    with pytest.raises(InputError, match=f"{path.parent.name}: is damaged .*Remove the folder"):
        load()
    shutil.rmtree(path.parent)
    assert_same(load(), expected)
    assert path.read_bytes() == data


def test_caches_of_each_sampling_config_and_content_are_kept_apart(folder, load, tmp_path):
    changes = [{}, {"size": 9}, {"label_size": 9}, {"channels": 3}, {"resize": "nearest"},
               {"preprocessing": "complement"}]  # fmt: skip
    kept = [load(**options) for options in changes]
    copy = shutil.copytree(folder, tmp_path / folder.name)
    cache = {"size": 8, "cache_dir": str(tmp_path / "cache")}
    load_arrays(prepare(copy, tmp_path / "data", "normal"), **cache)
    shutil.copy(copy / "Normal/masks/Normal-2.png", copy / "Normal/masks/Normal-10.png")
    changed = load_arrays(prepare(copy, tmp_path / "data", "normal"), **cache)
    assert len(list((tmp_path / "cache").iterdir())) == len(changes) + 2
    np.testing.assert_array_equal(changed.labels[0], changed.labels[1])
    for options, arrays in zip(changes, kept, strict=True):
        assert_same(load(**options), arrays)


def test_an_interrupted_run_leaves_nothing_and_the_next_one_works(load, tmp_path):
    def interrupt(done, _):
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load(progress=interrupt)
    assert not list((tmp_path / "cache").iterdir())
    assert load().images.shape == (COUNT, 8, 8, 1)


def test_two_runs_at_the_same_time_both_succeed(load):
    arrays = []

    def run_another(done, _):
        if done == 5:
            arrays.append(load())

    arrays.append(load(progress=run_another))
    assert_same(*arrays)


def test_a_cache_that_cannot_be_written_and_a_builder_without_data_are_named(load, tmp_path):
    (tmp_path / "cache").write_text("")
    with pytest.raises(InputError, match="cache: cannot be written to"):
        load()
    with pytest.raises(ValueError, match=r"covid_radiography/normal/.* is not prepared"):
        load_arrays(Builder(config="normal", data_dir=tmp_path), size=8)


@pytest.mark.parametrize(
    ("options", "words"),
    [({"size": 0}, "size=0: must be 1 or more"), ({"label_size": 0}, "label_size=0"),
     ({"channels": 2}, r"channels=2: must be 1 \(gray\) or 3 \(RGB\)")],
)  # fmt: skip
def test_an_invalid_sampling_is_refused_before_anything_is_read(options, words, load, tmp_path):
    with pytest.raises(InputError, match=words):
        load(**options)
    assert not (tmp_path / "cache").exists()


def test_phantoms_load_from_the_archive_to_the_arrays(tmp_path):
    counts = {"COVID": 2, "Lung_Opacity": 1, "Normal": 1, "Viral Pneumonia": 2}
    write_archive(tmp_path, images=counts)
    arrays = load_arrays(prepare(tmp_path, tmp_path / "data"), size=32)
    assert {name: arrays.classes.count(name) for name in counts} == counts
    assert arrays.images.shape == (6, 32, 32, 1)
    assert arrays.masks[0].shape == (256, 256)
    assert all(source.startswith("http") for source in arrays.sources)
    assert all(0.02 < mask.mean() < 0.6 for mask in arrays.masks)
