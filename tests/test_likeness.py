import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from jaxseg.data import likeness, phantom
from jaxseg.data.likeness import BITS, NEAR, closest_pairs, near_pairs, perceptual_hash, stacked

FILM = phantom.draw(0, "COVID", 1).image


def bits_between(one: np.ndarray, other: np.ndarray) -> int:
    first, second = (np.unpackbits(perceptual_hash(film)) for film in (one, other))
    return int((first != second).sum())


def saved_as_jpeg(film: np.ndarray) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(film).save(file, "JPEG", quality=40)
    return np.asarray(Image.open(file))


def resized(film: np.ndarray, size: int) -> np.ndarray:
    return np.asarray(Image.fromarray(film).resize((size, size), Image.Resampling.BICUBIC))


COPIES = {
    "saved as JPEG": saved_as_jpeg,
    "smaller": lambda film: resized(film, 200),
    "larger": lambda film: resized(film, 1024),
    "brighter": lambda film: np.minimum(film, 225) + np.uint8(30),
    "of half the contrast": lambda film: film // 2 + np.uint8(40),
    "of another gamma": lambda film: (255 * (film / 255) ** 0.7).astype(np.uint8),
    "equalised": lambda film: np.asarray(ImageOps.equalize(Image.fromarray(film))),
    "moved": lambda film: np.roll(film, (1, 1), (0, 1)),
    "turned": lambda film: np.asarray(Image.fromarray(film).rotate(0.7, Image.Resampling.BILINEAR)),
}


@pytest.mark.parametrize("change", COPIES.values(), ids=COPIES.keys())
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_changed_copy_is_near(change, number):
    film = phantom.draw(0, "Normal", number).image
    assert bits_between(film, change(film)) <= NEAR


def test_films_of_different_patients_are_far_apart():
    films = [phantom.draw(0, name, number).image for name in phantom.CLASSES for number in range(6)]
    hashes = np.stack([perceptual_hash(film) for film in films])
    assert near_pairs(hashes) == []
    assert closest_pairs(hashes, count=1)[0][2] > NEAR + 60


def test_the_hash_is_the_signs_of_scipys_cosine_transform():
    fft = pytest.importorskip("scipy.fft")
    small = np.asarray(Image.fromarray(FILM).resize((128, 128), Image.Resampling.BILINEAR))
    expected = fft.dctn(small.astype(np.float64))[:32, :32] > 0
    expected[0, 0] = False
    bits = np.unpackbits(perceptual_hash(FILM)).astype(bool)
    np.testing.assert_array_equal(bits, expected.ravel())


@pytest.mark.parametrize("value", [0, 1, 77, 255])
def test_a_film_of_one_value_has_no_bit_set(value):
    assert not perceptual_hash(np.full((40, 30), value, np.uint8)).any()


def test_a_negative_differs_in_every_bit_but_the_means():
    film = phantom.draw(0, "COVID", 1, image_size=128).image
    assert bits_between(film, 255 - film) == BITS


def test_pairs_are_those_that_brute_force_finds(monkeypatch):
    monkeypatch.setattr(likeness, "_BLOCK", 7)
    rng = np.random.default_rng(0)
    kinds = rng.integers(0, 256, (5, 128), dtype=np.uint8)
    hashes = kinds[rng.integers(0, 5, 40)] ^ np.uint8(1) * (rng.random((40, 128)) < 0.2)
    bits = np.unpackbits(hashes, axis=1).astype(int)
    pairs = [(a, b, int((bits[a] != bits[b]).sum())) for a in range(40) for b in range(a + 1, 40)]
    assert near_pairs(hashes, limit=45) == [pair for pair in pairs if pair[2] <= 45]
    assert near_pairs(hashes, limit=45)
    above = sorted((pair for pair in pairs if pair[2] > 45), key=lambda p: (p[2], p[:2]))
    assert closest_pairs(hashes, count=9, above=45) == above[:9]
    assert closest_pairs(hashes, count=1000, above=45) == above


@pytest.mark.parametrize("count", [0, 1])
def test_no_film_or_one_has_no_pairs(count):
    hashes = stacked([perceptual_hash(FILM).tobytes()] * count)
    assert hashes.shape == (count, 128)
    assert near_pairs(hashes) == closest_pairs(hashes, count=3) == []
