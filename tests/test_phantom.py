"""Phantoms: their geometry, what the image shows, and the archive that holds them."""

import hashlib
import io
import zipfile
from collections import Counter

import numpy as np
import openpyxl
import pytest
from fake_archive import FOLDER
from PIL import Image
from scipy import ndimage

from jaxseg.data import phantom, radiograph
from jaxseg.errors import InputError

IMAGES = {"COVID": 6, "Normal": 4, "Viral Pneumonia": 14}


@pytest.fixture(scope="module")
def archive_path(tmp_path_factory):
    return phantom.write_archive(tmp_path_factory.mktemp("phantom"), images=IMAGES)


@pytest.fixture(scope="module")
def files(archive_path):
    with zipfile.ZipFile(archive_path) as archive:
        assert archive.testzip() is None
        return {name.removeprefix(f"{FOLDER}/"): archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def normal():
    return [phantom.generate(1, "Normal", number) for number in range(10)]


def opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


def border_contrast(image, mask):
    """How much brighter an image is just outside the mask than just inside it."""
    rows, columns = (
        np.arange(size) * of // size for size, of in zip(image.shape, mask.shape, strict=True)
    )
    mask = np.asarray(mask[np.ix_(rows, columns)] > 127, bool)
    eroded, dilated = (np.asarray(change(mask, iterations=6, border_value=value), bool)
                       for change, value in ((ndimage.binary_erosion, 1),
                                             (ndimage.binary_dilation, 0)))  # fmt: skip
    return image[dilated & ~mask].mean() - image[mask & ~eroded].mean()


def test_a_mask_does_not_depend_on_the_grids_it_is_sampled_on():
    fine = phantom.generate(0, "COVID", 9, image_size=120, mask_size=255)
    coarse = phantom.generate(0, "COVID", 9, image_size=64, mask_size=85)
    assert (fine.image.shape, coarse.image.shape) == ((120, 120), (64, 64))
    np.testing.assert_array_equal(fine.mask[1::3, 1::3], coarse.mask)


@pytest.mark.parametrize("class_name", phantom.CLASSES)
def test_every_mask_has_two_lungs_of_plausible_size(class_name):
    for number in range(5):
        image, mask = phantom.generate(0, class_name, number)
        assert (image.shape, image.dtype, mask.shape) == ((299, 299), np.uint8, (256, 256))
        assert set(np.unique(mask)) == {0, 255}
        assert 0.03 < np.mean(mask > 0) < 0.58
        lungs = np.zeros(mask.shape, np.int32)
        ndimage.label(mask, output=lungs)
        areas = np.sort(np.bincount(lungs.ravel())[1:])[::-1]
        assert areas[1] > 0.25 * areas[0]
        assert areas[2:].sum() < 20


def test_image_and_mask_are_aligned_and_healthy_lungs_are_dark(normal):
    assert min(border_contrast(*sample) for sample in normal) > 10
    # The heart, on the right of the image, takes some of that lung.
    masks = np.stack([sample.mask for sample in normal])
    assert masks[:, :, :128].mean() > 1.1 * masks[:, :, 128:].mean()
    shifts = range(-6, 7, 2)
    for axis in (0, 1):
        contrast = [
            sum(border_contrast(image, np.roll(mask, shift, axis=axis)) for image, mask in normal)
            for shift in shifts
        ]
        assert abs(shifts[int(np.argmax(contrast))]) <= 2


def test_fluid_hides_the_border_of_a_lung_but_not_in_the_mask(monkeypatch):
    chest = radiograph.Chest(np.random.default_rng(8))
    mask = 255 * (chest.lungs(256) & (chest.grid(256)[0] < 0))
    healthy = radiograph.attenuation(np.random.default_rng(9), chest, "Normal", 299)
    monkeypatch.setattr(radiograph, "lesions", lambda _rng, _finding, x, _y: x < 0)
    hidden = radiograph.attenuation(np.random.default_rng(9), chest, "Normal", 299)
    assert border_contrast(healthy, mask) > 0.1
    assert border_contrast(hidden, mask) < 0.3 * border_contrast(healthy, mask)


@pytest.mark.parametrize("class_name", phantom.CLASSES)
def test_each_class_fills_the_lungs_as_its_name_says(class_name):
    outer, inner, dense = [], [], []
    for number in range(30):
        rng = np.random.default_rng(number)
        chest = radiograph.Chest(rng)
        x, y = chest.grid(75)
        filled, lungs = radiograph.lesions(rng, class_name, x, y), chest.lungs(75)
        far = np.abs(x) > 0.55
        outer.append(filled[lungs & far].mean())
        inner.append(filled[lungs & ~far].mean())
        dense.append(filled[lungs].max())
    assert max(dense) <= 1
    ratio = (np.mean(outer) + 1e-9) / (np.mean(inner) + 1e-9)
    low, high = {"COVID": (1.3, 9), "Viral Pneumonia": (0, 1)}.get(class_name, (0, 9))
    assert low < ratio < high
    least, most = {"Normal": (0, 0), "Lung_Opacity": (0.85, 1)}.get(class_name, (0.1, 1))
    assert least <= np.mean(dense) <= most


def test_masks_of_other_seeds_classes_and_numbers_differ():
    first = phantom.generate(5, "COVID", 7)
    for key in ((6, "COVID", 7), (5, "Normal", 7), (5, "COVID", 8)):
        assert np.mean(phantom.generate(*key).mask != first.mask) > 0.005


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((0, "Pneumonia", 1), "'Pneumonia' is unknown; there are COVID"),
     ((-1, "COVID", 1), "seed -1"), ((0, "COVID", -1), "number -1")],
)  # fmt: skip
def test_generate_refuses_an_unknown_class_and_negative_numbers(arguments, message):
    with pytest.raises(InputError, match=message):
        phantom.generate(*arguments)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_archive_and_image_n_does_not_depend_on_the_rest(
    tmp_path, files
):
    first, again, other = (
        phantom.write_archive(tmp_path / name, images={"COVID": 2}, seed=seed)
        for name, seed in (("a", 0), ("b", 0), ("c", 5))
    )
    assert first == tmp_path / "a" / "archive.zip"
    assert first.read_bytes() == again.read_bytes() != other.read_bytes()
    with zipfile.ZipFile(first) as archive:
        names = [name for name in archive.namelist() if name.endswith(".png")]
        assert len(names) == 4
        for name in names:
            assert archive.read(name) == files[name.removeprefix(f"{FOLDER}/")]


def test_the_archive_has_the_layout_of_the_release(archive_path, files):
    expected = {"README.md.txt", *(f"{name}.metadata.xlsx" for name in IMAGES)}
    for name, count in IMAGES.items():
        for kind in ("images", "masks"):
            expected |= {f"{name}/{kind}/{name}-{number}.png" for number in range(1, count + 1)}
    assert set(files) == expected
    with zipfile.ZipFile(archive_path) as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    image, mask = phantom.generate(0, "Normal", 3)
    for kind, pixels in (("images", image), ("masks", np.dstack([mask] * 3))):
        stored = opened(files[f"Normal/{kind}/Normal-3.png"])
        np.testing.assert_array_equal(np.asarray(stored), pixels)


def test_sizes_modes_and_duplicates_are_as_in_the_release(files):
    kinds, same = Counter(), {}
    for name, content in files.items():
        if name.endswith(".png"):
            class_name, kind, file = name.split("/")
            kinds[kind, class_name, opened(content).mode, opened(content).size] += 1
            if kind == "images":
                pair = content + files[name.replace("/images/", "/masks/")]
                same.setdefault(hashlib.sha256(pair).digest(), []).append(file)
    assert kinds == {
        **{("masks", name, "RGB", (256, 256)): count for name, count in IMAGES.items()},
        ("images", "COVID", "L", (299, 299)): 6,
        ("images", "Normal", "L", (299, 299)): 4,
        ("images", "Viral Pneumonia", "L", (299, 299)): 12,
        ("images", "Viral Pneumonia", "RGB", (299, 299)): 2,
    }
    assert sorted(names for names in same.values() if len(names) > 1) == [
        ["COVID-4.png", "COVID-5.png"],
        ["Viral Pneumonia-4.png", "Viral Pneumonia-5.png"],
    ]


def test_openpyxl_reads_the_sheets_and_they_state_the_wrong_size_as_in_the_release(files):
    for name, count in IMAGES.items():
        workbook = openpyxl.load_workbook(io.BytesIO(files[f"{name}.metadata.xlsx"]))
        assert workbook.properties.created.year == workbook.properties.modified.year == 1980
        header, *rows = workbook.worksheets[0].iter_rows(values_only=True)
        assert header == ("FILE NAME", "FORMAT", "SIZE", "URL")
        stem = "NORMAL" if name == "Normal" else name
        assert [row[0] for row in rows] == [f"{stem}-{n}" for n in range(1, count + 1)]
        assert {row[1:3] for row in rows} == {("PNG", "256*256")}
        assert all(str(row[3]).startswith("https://phantom.example.org/") for row in rows)


def test_progress_is_reported_and_an_interrupted_run_keeps_the_old_archive(tmp_path):
    calls = []

    def interrupt_at_three(done, total):
        calls.append((done, total))
        if done == 3:
            raise KeyboardInterrupt

    (tmp_path / "archive.zip").write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt):
        phantom.write_archive(
            tmp_path, images={"Normal": 2, "COVID": 2}, progress=interrupt_at_three
        )
    assert calls == [(1, 4), (2, 4), (3, 4)]
    assert [path.name for path in tmp_path.iterdir()] == ["archive.zip"]
    assert (tmp_path / "archive.zip").read_bytes() == b"old"


@pytest.mark.parametrize(
    ("images", "seed", "message"),
    [({}, 0, "must name a class"), ({"Normal": 0}, 0, "1 or more"),
     ({"COVID": 1, "Normal": -1}, 0, "1 or more"), ({"normal": 1}, 0, "'normal' is unknown"),
     ({"Normal": 1}, -1, "seed -1")],
)  # fmt: skip
def test_write_archive_refuses_images_that_it_cannot_generate(tmp_path, images, seed, message):
    with pytest.raises(InputError, match=message):
        phantom.write_archive(tmp_path, images=images, seed=seed)
    assert not list(tmp_path.iterdir())


def test_write_archive_names_a_directory_that_cannot_be_made(tmp_path):
    (tmp_path / "taken").touch()
    with pytest.raises(InputError, match=r"taken.*archive\.zip"):
        phantom.write_archive(tmp_path / "taken", images={"Normal": 1})
