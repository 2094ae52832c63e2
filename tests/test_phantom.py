import hashlib
import io
import zipfile
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from jaxseg.data import anatomy, phantom, radiograph
from jaxseg.errors import InputError

FILMS = {"COVID": 6, "Normal": 4, "Viral Pneumonia": 14}
FOLDER = "COVID-19_Radiography_Dataset"


@pytest.fixture(scope="module")
def archive_path(tmp_path_factory):
    return phantom.write_archive(tmp_path_factory.mktemp("phantom"), films=FILMS)


@pytest.fixture(scope="module")
def files(archive_path):
    with zipfile.ZipFile(archive_path) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def normal_films():
    return [phantom.draw(1, "Normal", number) for number in range(12)]


def picture(content):
    return Image.open(io.BytesIO(content))


def pixels(content):
    return np.asarray(picture(content))


def winds_around(outline, x, y):
    """Point in polygon by the angle that the corners sweep, seen from the point."""
    turns = np.arctan2(outline[:, 1] - y, outline[:, 0] - x)
    steps = np.roll(turns, -1) - turns
    return abs(np.sum((steps + np.pi) % (2 * np.pi) - np.pi)) > 1


def border_contrast(image, mask):
    """How much brighter a film is just outside the mask than just inside it."""
    rows, columns = (
        np.arange(size) * of // size for size, of in zip(image.shape, mask.shape, strict=True)
    )
    mask = mask[np.ix_(rows, columns)] > 127
    within = ndimage.binary_erosion(mask, iterations=6, border_value=1)
    inside, outside = mask & np.logical_not(within), ndimage.binary_dilation(mask, iterations=6)
    outside = np.logical_and(outside, np.logical_not(mask))
    return image[outside].mean() - image[inside].mean()


@pytest.mark.parametrize("seed", range(4))
def test_rasterize_marks_the_pixels_whose_centres_the_polygon_winds_around(seed):
    rng = np.random.default_rng(seed)
    turn = np.sort(rng.uniform(0, 2 * np.pi, 9))
    reach = rng.uniform(0.1, 0.8, 9)
    outline = 0.5 + reach[:, None] * np.column_stack([np.cos(turn), np.sin(turn)])
    centres = (np.arange(20) + 0.5) / 20
    expected = [[winds_around(outline, x, y) for x in centres] for y in centres]
    np.testing.assert_array_equal(phantom.rasterize(outline, 20), expected)


def test_rasterize_gives_a_rectangle_its_pixels_and_a_disc_its_area():
    box = np.array([(0.2, 0.1), (0.6, 0.1), (0.6, 0.4), (0.2, 0.4)])
    expected = np.zeros((10, 10), bool)
    expected[1:4, 2:6] = True
    np.testing.assert_array_equal(phantom.rasterize(box, 10), expected)
    turn = np.linspace(0, 2 * np.pi, 400, endpoint=False)
    disc = 0.5 + 0.3 * np.column_stack([np.cos(turn), np.sin(turn)])
    assert phantom.rasterize(disc, 512).mean() == pytest.approx(np.pi * 0.09, rel=1e-3)
    assert not phantom.rasterize(np.zeros((0, 2)), 8).any()
    assert phantom.rasterize(4 * disc - 1.5, 8).all()


def test_the_mask_and_the_air_in_the_film_are_one_shape_on_two_grids():
    patient = anatomy.sample_patient(np.random.default_rng(3))
    outlines = [anatomy.lung(patient, side) for side in anatomy.SIDES]
    air = radiograph.paint([(outline, 1.0) for outline in outlines], 299, finer=4)
    exact = np.logical_or(*(phantom.rasterize(outline, 299) for outline in outlines))
    assert np.mean((air > 0.5) != exact) < 2e-3
    np.testing.assert_allclose(ndimage.center_of_mass(air), ndimage.center_of_mass(exact), atol=0.2)


def test_a_mask_does_not_depend_on_the_grids_it_is_sampled_on():
    fine = phantom.draw(0, "COVID", 9, image_size=120, mask_size=255)
    coarse = phantom.draw(0, "COVID", 9, image_size=64, mask_size=85)
    assert coarse.image.shape == (64, 64)
    np.testing.assert_array_equal(fine.mask[1::3, 1::3], coarse.mask)


@pytest.mark.parametrize("class_name", phantom.CLASSES)
def test_every_mask_holds_two_lungs_of_plausible_size(class_name):
    for number in range(10):
        film = phantom.draw(0, class_name, number)
        assert film.image.shape == (299, 299)
        assert film.image.dtype == np.uint8
        assert film.mask.shape == (256, 256)
        assert set(np.unique(film.mask)) == {0, 255}
        assert 0.03 < np.mean(film.mask > 0) < 0.58
        lungs = np.zeros(film.mask.shape, np.int32)
        ndimage.label(film.mask, output=lungs)
        areas = np.sort(np.bincount(lungs.ravel())[1:])[::-1]
        assert len(areas) >= 2
        assert areas[1] > 0.25 * areas[0]
        assert areas[2:].sum() < 20


def test_lung_areas_are_spread_as_in_the_release():
    areas = []
    for number in range(300):
        patient = anatomy.sample_patient(np.random.default_rng(number))
        areas.append(sum(phantom.rasterize(anatomy.lung(patient, side), 64).mean()
                         for side in anatomy.SIDES))  # fmt: skip
    assert 0.2 < np.median(areas) < 0.27
    assert 0.03 < min(areas) < 0.13
    assert 0.35 < max(areas) < 0.58


def test_the_heart_lies_to_the_films_right():
    films = [phantom.draw(2, "Normal", number) for number in range(8)]
    right = np.mean([film.mask[:, :128] for film in films])
    left = np.mean([film.mask[:, 128:] for film in films])
    assert right > 1.1 * left


def test_healthy_lungs_are_dark_against_what_surrounds_them(normal_films):
    assert min(border_contrast(*film) for film in normal_films) > 10


def test_film_and_mask_lie_over_each_other(normal_films):
    shifts = range(-6, 7, 2)
    for axis in (0, 1):
        contrast = [
            sum(border_contrast(film.image, np.roll(film.mask, shift, axis=axis))
                for film in normal_films)
            for shift in shifts
        ]  # fmt: skip
        assert abs(shifts[int(np.argmax(contrast))]) <= 2


def test_opacities_blur_the_lungs_border_in_the_film(normal_films):
    healthy = np.mean([border_contrast(*film) for film in normal_films])
    sick = [border_contrast(*phantom.draw(1, "Lung_Opacity", number)) for number in range(16)]
    assert np.mean(sick) < 0.85 * healthy


def test_a_lung_full_of_fluid_cannot_be_told_from_what_surrounds_it(monkeypatch):
    def flood_film_left(lesions, _):
        lesions.effusion(-1, -1.0)

    monkeypatch.setitem(radiograph.FINDINGS, "flooded", flood_film_left)
    contrast = {}
    for finding in ("Normal", "flooded"):
        rng = np.random.default_rng(8)
        patient = anatomy.sample_patient(rng)
        mask = 255 * phantom.rasterize(anatomy.lung(patient, -1), 256).astype(np.uint8)
        path = radiograph.attenuate(np.random.default_rng(9), patient, finding, 299)
        contrast[finding] = border_contrast(path, mask)
    assert contrast["Normal"] > 0.1
    assert contrast["flooded"] < 0.15 * contrast["Normal"]


@pytest.mark.parametrize("class_name", phantom.CLASSES)
def test_each_class_fills_the_lungs_as_its_name_says(class_name):
    outer, inner, dense = [], [], []
    for number in range(30):
        rng = np.random.default_rng(number)
        patient = anatomy.sample_patient(rng)
        lesions = radiograph.Lesions(rng, patient)
        radiograph.FINDINGS[class_name](lesions, rng)
        assert lesions.filled.min() >= 0
        assert lesions.filled.max() <= 1
        lungs = np.logical_or(*(phantom.rasterize(anatomy.lung(patient, side), radiograph.COARSE)
                                for side in anatomy.SIDES))  # fmt: skip
        far = np.abs(lesions.x) > 0.55
        outer.append(lesions.filled[lungs & far].mean())
        inner.append(lesions.filled[lungs & ~far].mean())
        dense.append(lesions.filled[lungs].max())
    outer, inner, dense = np.mean(outer), np.mean(inner), np.mean(dense)
    match class_name:
        case "Normal":
            assert dense == 0
        case "COVID":
            assert outer > 1.3 * inner
        case "Viral Pneumonia":
            assert inner > outer
        case "Lung_Opacity":
            assert dense > 0.85


def test_a_film_depends_on_nothing_but_seed_class_and_number():
    first = phantom.draw(5, "COVID", 7)
    phantom.draw(5, "COVID", 8)
    again = phantom.draw(5, "COVID", 7)
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.mask, again.mask)
    for other in ((6, "COVID", 7), (5, "Normal", 7), (5, "COVID", 8)):
        assert np.mean(phantom.draw(*other).mask != first.mask) > 0.005


def test_every_text_on_a_film_can_be_written():
    for number in range(150):
        text = radiograph.lettering(np.random.default_rng(number), 75)
        assert text.shape == (75, 75)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((0, "Pneumonia", 1), "'Pneumonia' is unknown"), ((-1, "COVID", 1), "seed -1"),
     ((0, "COVID", -1), "number -1")],
)  # fmt: skip
def test_draw_refuses_what_it_cannot_draw(arguments, message):
    with pytest.raises(InputError, match=message):
        phantom.draw(*arguments)


def test_the_same_seed_gives_the_same_archive(tmp_path):
    films = {"Normal": 2, "Viral Pneumonia": 3}
    paths = [
        phantom.write_archive(tmp_path / name, films=films, seed=seed)
        for name, seed in (("a", 4), ("b", 4), ("c", 5))
    ]
    assert paths[0] == tmp_path / "a" / "archive.zip"
    first, again, other = (path.read_bytes() for path in paths)
    assert first == again
    assert first != other


def test_a_larger_archive_begins_with_the_films_of_a_smaller(tmp_path, files):
    with zipfile.ZipFile(phantom.write_archive(tmp_path, films={"COVID": 2})) as archive:
        pictures = [name for name in archive.namelist() if name.endswith(".png")]
        assert len(pictures) == 4
        assert all(archive.read(name) == files[name] for name in pictures)


def test_the_archive_is_laid_out_as_the_release(files):
    expected = {f"{FOLDER}/README.md.txt"} | {f"{FOLDER}/{name}.metadata.xlsx" for name in FILMS}
    for name, count in FILMS.items():
        for number in range(1, count + 1):
            expected |= {
                f"{FOLDER}/{name}/{kind}/{name}-{number}.png" for kind in ("images", "masks")
            }
    assert set(files) == expected


def test_archived_films_are_those_that_draw_gives(files):
    film = phantom.draw(0, "Normal", 3)
    stored = picture(files[f"{FOLDER}/Normal/images/Normal-3.png"])
    np.testing.assert_array_equal(np.asarray(stored), film.image)
    stored = picture(files[f"{FOLDER}/Normal/masks/Normal-3.png"])
    np.testing.assert_array_equal(np.asarray(stored), np.repeat(film.mask[..., None], 3, axis=2))


def test_sizes_and_modes_are_as_uneven_as_in_the_release(files):
    modes = Counter()
    for name, content in files.items():
        if "/images/" in name:
            assert picture(content).size == (299, 299)
            modes[name.split("/")[1], picture(content).mode] += 1
        elif "/masks/" in name:
            mask = picture(content)
            assert mask.size == (256, 256)
            assert mask.mode == "RGB"
            assert set(np.unique(pixels(content))) == {0, 255}
    assert modes == {
        ("COVID", "L"): 6,
        ("Normal", "L"): 4,
        ("Viral Pneumonia", "L"): 12,
        ("Viral Pneumonia", "RGB"): 2,
    }
    channels = np.asarray(picture(files[f"{FOLDER}/Viral Pneumonia/images/Viral Pneumonia-3.png"]))
    np.testing.assert_array_equal(channels[..., :1].repeat(3, axis=2), channels)


def test_a_few_pairs_are_duplicates_to_the_byte(files):
    stems = {}
    for name, content in files.items():
        if "/images/" in name:
            mask = files[name.replace("/images/", "/masks/")]
            stems.setdefault(hashlib.sha256(content + mask).digest(), []).append(
                name.split("/")[-1]
            )
    pairs = sorted(names for names in stems.values() if len(names) > 1)
    assert pairs == [
        ["COVID-4.png", "COVID-5.png"],
        ["Viral Pneumonia-4.png", "Viral Pneumonia-5.png"],
    ]


def test_some_masks_have_specks_besides_the_lungs(files):
    drawn = phantom.draw(0, "Viral Pneumonia", 7).mask > 0
    stored = files[f"{FOLDER}/Viral Pneumonia/masks/Viral Pneumonia-7.png"]
    stored = np.asarray(picture(stored))[..., 0] > 0
    specks = stored & ~drawn
    assert 0 < specks.sum() <= 27
    assert not (drawn & ~stored).any()


def test_spreadsheets_open_and_misstate_the_size_as_the_release_does(files):
    openpyxl = pytest.importorskip("openpyxl", reason="reads the metadata sheets")
    for name, count in FILMS.items():
        workbook = openpyxl.load_workbook(io.BytesIO(files[f"{FOLDER}/{name}.metadata.xlsx"]))
        assert workbook.sheetnames == ["Sheet1"]
        header, *rows = workbook["Sheet1"].iter_rows(values_only=True)
        assert header == ("FILE NAME", "FORMAT", "SIZE", "URL")
        stem = "NORMAL" if name == "Normal" else name
        assert [row[0] for row in rows] == [f"{stem}-{n}" for n in range(1, count + 1)]
        assert {row[1:3] for row in rows} == {("PNG", "256*256")}
        assert all(row[3].startswith("https://phantom.example.org/") for row in rows)


def test_entries_carry_neither_time_nor_compression(archive_path):
    with zipfile.ZipFile(archive_path) as archive:
        for entry in archive.infolist():
            assert entry.date_time == (1980, 1, 1, 0, 0, 0)
            assert entry.compress_type == zipfile.ZIP_STORED


def test_progress_is_told_after_every_film(tmp_path):
    calls = []
    phantom.write_archive(
        tmp_path, films={"Normal": 2, "COVID": 1}, progress=lambda *call: calls.append(call)
    )
    assert calls == [(1, 3), (2, 3), (3, 3)]


def test_an_interrupted_run_leaves_the_old_archive_and_nothing_else(tmp_path):
    def interrupt(*_):
        raise KeyboardInterrupt

    (tmp_path / "archive.zip").write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt):
        phantom.write_archive(tmp_path, films={"Normal": 2}, progress=interrupt)
    assert [path.name for path in tmp_path.iterdir()] == ["archive.zip"]
    assert (tmp_path / "archive.zip").read_bytes() == b"old"


@pytest.mark.parametrize(
    "films", [{}, {"Normal": 0}, {"Normal": -1}, {"normal": 1}], ids=["none", "0", "-1", "unknown"]
)
def test_write_archive_refuses_films_that_do_not_exist(tmp_path, films):
    with pytest.raises(InputError, match=r"films|normal"):
        phantom.write_archive(tmp_path, films=films)
    assert not list(tmp_path.iterdir())


def test_write_archive_names_a_directory_that_cannot_be_made(tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(InputError, match=r"taken.*archive\.zip"):
        phantom.write_archive(tmp_path / "taken", films={"Normal": 1})
