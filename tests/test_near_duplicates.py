import io

import numpy as np
import pytest
from PIL import Image, ImageOps
from scipy import fft

from jaxseg.data import near_duplicates, phantom
from jaxseg.data.near_duplicates import (
    BITS,
    MAX_HASH_DISTANCE,
    near_duplicate_pairs,
    perceptual_hash,
)

IMAGE = phantom.generate(0, "COVID", 1).image


def distance(one: np.ndarray, other: np.ndarray) -> int:
    first, second = (np.unpackbits(perceptual_hash(image)) for image in (one, other))
    return int((first != second).sum())


def saved_as_jpeg(image: np.ndarray) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=40)
    return np.asarray(Image.open(file))


def resized(image: np.ndarray, size: int) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC))


COPIES = {
    "saved as JPEG": saved_as_jpeg,
    "smaller": lambda image: resized(image, 200),
    "larger": lambda image: resized(image, 1024),
    "brighter": lambda image: np.minimum(image, 225) + np.uint8(30),
    "of half the contrast": lambda image: image // 2 + np.uint8(40),
    "of another gamma": lambda image: (255 * (image / 255) ** 0.7).astype(np.uint8),
    "equalized": lambda image: np.asarray(ImageOps.equalize(Image.fromarray(image))),
    "moved": lambda image: np.roll(image, (1, 1), (0, 1)),
    "rotated": lambda image: np.asarray(
        Image.fromarray(image).rotate(0.7, Image.Resampling.BILINEAR)
    ),
}


@pytest.mark.parametrize("change", COPIES.values(), ids=COPIES.keys())
def test_a_changed_copy_is_a_near_duplicate(change):
    for image in (IMAGE, phantom.generate(0, "Normal", 2).image):
        assert distance(image, change(image)) <= MAX_HASH_DISTANCE


@pytest.mark.slow
def test_images_of_different_patients_are_far_apart():
    images = [phantom.generate(0, name, n).image for name in phantom.CLASSES for n in range(5)]
    hashes = np.stack([perceptual_hash(image) for image in images])
    assert near_duplicate_pairs(hashes, max_distance=MAX_HASH_DISTANCE + 60) == []


@pytest.mark.parametrize("shape", [(299, 299), (128, 128), (90, 200)])
def test_the_hash_is_the_signs_of_scipys_cosine_transform(shape):
    image = np.asarray(Image.fromarray(IMAGE).resize(shape[::-1]))
    small = np.asarray(Image.fromarray(image).resize((128, 128), Image.Resampling.BILINEAR))
    expected = np.asarray(fft.dctn(small.astype(np.float64)))[:32, :32] > 0
    expected[0, 0] = False
    bits = np.unpackbits(perceptual_hash(image)).astype(bool)
    np.testing.assert_array_equal(bits, expected.ravel())


@pytest.mark.parametrize("value", [0, 1, 77, 255])
def test_an_image_of_one_value_has_no_bit_set(value):
    assert not perceptual_hash(np.full((40, 30), value, np.uint8)).any()


def test_a_negative_differs_in_every_bit_but_the_first():
    image = resized(IMAGE, 128)
    assert distance(image, 255 - image) == BITS


def test_pairs_are_those_that_brute_force_finds(monkeypatch):
    monkeypatch.setattr(near_duplicates, "_BLOCK", 7)
    rng = np.random.default_rng(0)
    kinds = rng.integers(0, 256, (5, 128), dtype=np.uint8)
    hashes = kinds[rng.integers(0, 5, 40)] ^ np.uint8(1) * (rng.random((40, 128)) < 0.2)
    bits = np.unpackbits(hashes, axis=1).astype(int)
    pairs = [(a, b, int((bits[a] != bits[b]).sum())) for a in range(40) for b in range(a + 1, 40)]
    near = [pair for pair in pairs if pair[2] <= 45]
    assert 0 < len(near) < len(pairs)
    assert near_duplicate_pairs(hashes, max_distance=45) == near


@pytest.mark.parametrize("count", [0, 1])
def test_no_image_or_one_has_no_pairs(count):
    hashes = np.stack([perceptual_hash(IMAGE)])[:count]
    assert near_duplicate_pairs(hashes) == []
