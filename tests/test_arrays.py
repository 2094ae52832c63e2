import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from fake_archive import film_pixels, mask_pixels, write_folder
from PIL import Image

from jaxseg.data.arrays import FilmArrays, films_from_folders, load_arrays
from jaxseg.data.covid_radiography import Builder, prepare
from jaxseg.data.phantom import write_archive
from jaxseg.data.preprocessing import preprocess
from jaxseg.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore::jaxseg.data.archive.PartialReleaseWarning")

FILMS = {"COVID": [1, 2, *range(9, 19)], "Normal": [2, 10]}
IDS = [*(f"COVID-{n}" for n in FILMS["COVID"]), "Normal-2", "Normal-10"]


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path, FILMS)


@pytest.fixture
def builder(folder, tmp_path):
    return prepare(folder, tmp_path / "data", "covid")


def resized(pixels: np.ndarray, size: int, resampling: Image.Resampling) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).resize((size, size), resampling))


def assert_same(ours: FilmArrays, other: FilmArrays):
    for name in ("images", "labels", "masks"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(other, name))
    for name in ("ids", "classes", "sources", "split"):
        assert getattr(ours, name) == getattr(other, name)


def stored_ids(builder, split) -> set[str]:
    return {example["id"].decode() for example in builder.as_data_source(split)}


def the_cache(builder) -> Path:
    (directory,) = (Path(builder.data_dir).parents[2] / "arrays").iterdir()
    return directory


@pytest.mark.parametrize("film_resize", ["bilinear", "nearest"])
@pytest.mark.parametrize("size", [8, 32])
def test_every_film_is_there_once_in_natural_order_at_the_size(builder, size, film_resize):
    arrays = load_arrays(builder, size=size, film_resize=film_resize)
    resampling = Image.Resampling[film_resize.upper()]
    assert arrays.ids == [f"COVID-{n}" for n in FILMS["COVID"]]
    assert arrays.images.shape == (12, size, size, 1)
    for index, number in enumerate(FILMS["COVID"]):
        film, mask = film_pixels("COVID", number), mask_pixels("COVID", number)
        np.testing.assert_array_equal(arrays.images[index, ..., 0], resized(film, size, resampling))
        labels = resized(mask, size, Image.Resampling.NEAREST) // 255
        np.testing.assert_array_equal(arrays.labels[index], labels)
        np.testing.assert_array_equal(arrays.masks[index], mask // 255)
    assert arrays.images.dtype == arrays.labels.dtype == arrays.masks[0].dtype == np.uint8


def test_labels_may_be_finer_than_the_films(builder, folder):
    fine = load_arrays(builder, size=8, label_size=24)
    plain = load_arrays(builder, size=8)
    np.testing.assert_array_equal(fine.images, plain.images)
    for index, number in enumerate(FILMS["COVID"]):
        labels = resized(mask_pixels("COVID", number), 24, Image.Resampling.NEAREST) // 255
        np.testing.assert_array_equal(fine.labels[index], labels)
    assert plain.labels.shape == (12, 8, 8)
    folders = folder / "COVID/images", folder / "COVID/masks"
    own = films_from_folders(*folders, size=8, label_size=24)
    np.testing.assert_array_equal(own.labels, fine.labels)


@pytest.mark.parametrize("method", ["clahe", "equalize"])
def test_films_are_preprocessed_before_they_are_resized_and_masks_never(builder, folder, method):
    pytest.importorskip("skimage", reason="needs scikit-image")
    arrays = load_arrays(builder, size=32, preprocessing=method)
    folders = folder / "COVID/images", folder / "COVID/masks"
    from_folders = films_from_folders(*folders, size=32, preprocessing=method)
    plain = load_arrays(builder, size=32)
    for index, number in enumerate(FILMS["COVID"]):
        film = preprocess(film_pixels("COVID", number), method)
        expected = resized(film, 32, Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(arrays.images[index, ..., 0], expected)
    np.testing.assert_array_equal(from_folders.images, arrays.images)
    for name in ("labels", "masks"):
        np.testing.assert_array_equal(getattr(arrays, name), getattr(plain, name))


def test_splits_and_classes_and_sources_are_the_builders(folder, tmp_path):
    for name in ("Lung_Opacity", "Viral Pneumonia"):
        shutil.copytree(folder / "Normal", folder / name)
        for file in (folder / name).rglob("*.png"):
            file.rename(file.with_name(file.name.replace("Normal", name)))
    builder = prepare(folder, tmp_path / "data")
    arrays = load_arrays(builder, size=8)
    assert arrays.ids[:12] == IDS[:12]
    assert arrays.ids[12:] == [
        f"{name}-{n}" for name in ("Lung_Opacity", "Normal", "Viral Pneumonia") for n in (2, 10)
    ]
    assert arrays.classes == [name.rsplit("-", 1)[0] for name in arrays.ids]
    assert arrays.sources == [""] * 18
    for split in ("train", "validation", "test"):
        chosen = {film for film, s in zip(arrays.ids, arrays.split, strict=True) if s == split}
        assert len(chosen) == builder.info.splits[split].num_examples
        if chosen:
            assert chosen == stored_ids(builder, split)


def test_the_arrays_are_memory_mapped_and_read_only(builder):
    arrays = load_arrays(builder, size=8)
    for array in (arrays.images, arrays.labels, arrays.masks):
        assert isinstance(array, np.memmap)
        assert not array.flags.writeable


def test_the_cache_serves_the_second_time(builder):
    calls = []

    def tell(done, total):
        calls.append((done, total))

    first = load_arrays(builder, size=8, progress=tell)
    assert calls == [(done, 12) for done in range(1, 13)]
    assert_same(load_arrays(builder, size=8, progress=tell), first)
    assert len(calls) == 12


@pytest.mark.parametrize(
    "file", ["images.npy", "labels.npy", "masks.npy", "films.json", "crc32.json"]
)
@pytest.mark.parametrize("damage", ["one bit", "cut", "gone"])
def test_a_damaged_cache_is_made_again(builder, file, damage):
    expected = load_arrays(builder, size=8)
    path = the_cache(builder) / file
    data = path.read_bytes()
    path.unlink()
    if damage == "one bit":
        path.write_bytes(data[:-5] + bytes([data[-5] ^ 4]) + data[-4:])
    elif damage == "cut":
        path.write_bytes(data[:-1])
    assert_same(load_arrays(builder, size=8), expected)
    assert path.read_bytes() == data


def test_sizes_resizes_configs_and_contents_are_kept_apart(folder, builder, tmp_path):
    cache = tmp_path / "cache"
    load_arrays(builder, size=8, cache_dir=cache)
    load_arrays(builder, size=9, cache_dir=cache)
    load_arrays(builder, size=8, cache_dir=str(cache), film_resize="nearest")
    load_arrays(prepare(folder, tmp_path / "data", "normal"), size=8, cache_dir=cache)
    load_arrays(builder, size=8, cache_dir=cache, preprocessing="complement")
    shutil.copy(folder / "COVID/masks/COVID-1.png", folder / "COVID/masks/COVID-2.png")
    changed = load_arrays(prepare(folder, tmp_path / "data", "covid"), size=8, cache_dir=cache)
    assert len(list(cache.iterdir())) == 6
    np.testing.assert_array_equal(changed.labels[0], changed.labels[1])


def test_an_interrupted_run_leaves_nothing_and_the_next_one_works(builder):
    def interrupt(done, _):
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load_arrays(builder, size=8, progress=interrupt)
    assert not list((Path(builder.data_dir).parents[2] / "arrays").iterdir())
    assert load_arrays(builder, size=8).images.shape == (12, 8, 8, 1)


def test_two_runs_at_once_both_end_well(builder):
    arrays = []

    def run_another(done, _):
        if done == 5:
            arrays.append(load_arrays(builder, size=8))

    arrays.append(load_arrays(builder, size=8, progress=run_another))
    assert_same(*arrays)


def test_a_cache_that_cannot_be_written_is_told(builder, tmp_path):
    (tmp_path / "cache").write_text("")
    with pytest.raises(InputError, match=r"cache: cannot be written to"):
        load_arrays(builder, size=8, cache_dir=tmp_path / "cache")


def test_a_builder_that_is_not_prepared_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"covid_radiography/normal/.* is not prepared"):
        load_arrays(Builder(config="normal", data_dir=tmp_path), size=8)


@pytest.mark.parametrize("size", [0, -1])
def test_a_size_below_1_is_told(builder, tmp_path, size):
    with pytest.raises(InputError, match=f"size {size}"):
        load_arrays(builder, size=size)
    with pytest.raises(InputError, match=f"size {size}"):
        films_from_folders(tmp_path, tmp_path, size=size)


def test_phantoms_run_the_whole_way(tmp_path):
    counts = {"COVID": 3, "Lung_Opacity": 2, "Normal": 2, "Viral Pneumonia": 3}
    write_archive(tmp_path, films=counts)
    arrays = load_arrays(prepare(tmp_path, tmp_path / "data"), size=32)
    assert {name: arrays.classes.count(name) for name in counts} == counts
    assert arrays.images.shape == (10, 32, 32, 1)
    assert arrays.masks[0].shape == (256, 256)
    assert all(source.startswith("http") for source in arrays.sources)
    assert all(0.02 < mask.mean() < 0.6 for mask in arrays.masks)


@pytest.fixture
def folders(tmp_path):
    """Films and masks of several sizes, suffixes and modes; grey values 150 and 200 are object."""
    images, masks = tmp_path / "images", tmp_path / "masks"
    images.mkdir()
    masks.mkdir()
    rng = np.random.default_rng(0)
    for stem, suffix, shape in [
        ("b10", "png", (20, 30)),
        ("b9", "JPG", (8, 8)),
        ("a", "jpeg", (40, 9)),
    ]:
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(
            images / f"{stem}.{suffix}"
        )
        fine = (2 * shape[0], 2 * shape[1])
        values = rng.choice(np.array([0, 150, 200, 250], np.uint8), fine)
        Image.fromarray(values).save(masks / f"{stem}.png")
    return images, masks


def test_folders_are_paired_by_stem_in_natural_order(folders):
    calls = []
    arrays = films_from_folders(
        *folders, size=16, mask_values=(150, 200), progress=lambda *done: calls.append(done)
    )
    assert arrays.ids == ["a", "b9", "b10"]
    assert calls == [(1, 3), (2, 3), (3, 3)]
    assert (arrays.split, arrays.classes, arrays.sources) == (["test"] * 3, [""] * 3, [""] * 3)
    assert isinstance(arrays.masks, tuple)
    for index, (stem, suffix) in enumerate([("a", "jpeg"), ("b9", "JPG"), ("b10", "png")]):
        film = np.asarray(Image.open(folders[0] / f"{stem}.{suffix}"))
        mask = np.isin(np.asarray(Image.open(folders[1] / f"{stem}.png")), (150, 200))
        expected = resized(film, 16, Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(arrays.images[index, ..., 0], expected)
        np.testing.assert_array_equal(arrays.masks[index], mask)
        labels = resized(mask.astype(np.uint8), 16, Image.Resampling.NEAREST)
        np.testing.assert_array_equal(arrays.labels[index], labels)


def test_folders_without_mask_values_take_what_is_above_127(folders):
    arrays = films_from_folders(*folders, size=16, film_resize="nearest")
    values = np.asarray(Image.open(folders[1] / "b9.png"))
    np.testing.assert_array_equal(arrays.masks[1], values > 127)


def test_masks_of_one_size_are_one_array(folders):
    for path in (path for folder in folders for path in folder.iterdir()):
        Image.open(path).resize((6, 5), Image.Resampling.NEAREST).save(path)
    masks = films_from_folders(*folders, size=16).masks
    assert isinstance(masks, np.ndarray)
    assert masks.shape == (3, 5, 6)


def test_other_files_in_the_folders_are_disregarded(folders):
    (folders[0] / "notes.txt").write_text("")
    (folders[0] / ".hidden.png").write_bytes(b"")
    (folders[1] / "table.csv").write_text("")
    assert len(films_from_folders(*folders, size=8).ids) == 3


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda root: (root / "masks/b9.png").unlink(),
            r"b9\.JPG: .*masks has no mask of that name, b9\.png",
        ),
        (
            lambda root: (root / "images/b9.JPG").unlink(),
            r"b9\.png: .*images has no film of that name, b9\.png",
        ),
        (lambda root: (root / "images/b9.jpg").write_bytes(b"x"), r"b9\.jpg: has the same name"),
        (lambda root: shutil.rmtree(root / "masks"), r"masks: there is no such folder"),
        (lambda root: [f.unlink() for f in (root / "images").iterdir()], r"images: holds no PNG"),
        (lambda root: (root / "images/b9.JPG").write_bytes(b"x"), r"b9\.JPG: cannot be read"),
    ],
)
def test_folders_that_do_not_fit_name_the_file(folders, tmp_path, spoil, message):
    spoil(tmp_path)
    with pytest.raises(InputError, match=message):
        films_from_folders(*folders, size=8)


def test_mask_values_that_occur_nowhere_are_told(folders):
    with pytest.raises(InputError, match="no mask holds any of the mask values 1, 2"):
        films_from_folders(*folders, size=8, mask_values=(1, 2))


def test_the_cache_keeps_plain_files_that_anyone_can_read(builder):
    arrays = load_arrays(builder, size=8)
    directory = the_cache(builder)
    np.testing.assert_array_equal(np.load(directory / "images.npy"), arrays.images)
    assert np.load(directory / "masks.npy").sum() == sum(int(m.sum()) for m in arrays.masks)
    assert json.loads((directory / "films.json").read_text())["ids"] == arrays.ids
