"""Changes of gray values, compared with NumPy and OpenCV."""

import sys

import numpy as np
import pytest

from jaxseg.data import phantom
from jaxseg.data.preprocessing import preprocess, stretch
from jaxseg.errors import InputError

GRAY = [phantom.generate(0, name, 1).image[..., None] for name in phantom.CLASSES]
COLOR = np.concatenate([GRAY[0], 255 - GRAY[1], GRAY[2] // 2], axis=-1)
EVERY_VALUE = np.arange(256, dtype=np.uint8).reshape(8, 32, 1)


@pytest.fixture
def skimage():
    pytest.importorskip("skimage", reason="needs scikit-image")


def test_none_complement_and_gamma_are_their_formulas():
    assert preprocess(COLOR, "none") is COLOR
    for image in (EVERY_VALUE, COLOR):
        np.testing.assert_array_equal(preprocess(image, "complement"), 255 - image)
        expected = np.round(255 * np.sqrt(image / 255))
        np.testing.assert_array_equal(preprocess(image, "gamma"), expected)


@pytest.mark.usefixtures("skimage")
@pytest.mark.parametrize("image", GRAY)
def test_equalized_values_are_the_fractions_of_pixels_no_brighter(image):
    no_brighter = np.array([(image <= value).mean() for value in range(256)])
    np.testing.assert_allclose(preprocess(image, "equalize"), 255 * no_brighter[image], atol=0.51)


@pytest.mark.usefixtures("skimage")
@pytest.mark.parametrize("image", GRAY)
def test_clahe_agrees_with_that_of_opencv_and_is_not_plain_equalization(image):
    cv2 = pytest.importorskip("cv2", reason="needs OpenCV")
    ours = preprocess(image, "clahe").astype(np.float64)
    # OpenCV's limit is in multiples of the mean bin; 2 comes nearest to 0.01 of all pixels.
    theirs = cv2.createCLAHE(2.0, (8, 8)).apply(image[..., 0])
    agreement = np.corrcoef(ours.ravel(), theirs.ravel())[0, 1]
    assert agreement > 0.985
    for other in (image, cv2.equalizeHist(image[..., 0])):
        assert np.corrcoef(ours.ravel(), other.ravel())[0, 1] < agreement


@pytest.mark.usefixtures("skimage")
@pytest.mark.parametrize("method", ["clahe", "equalize"])
def test_each_channel_is_equalized_alone_and_the_image_is_not_written_to(method):
    image = COLOR[:250, :180].copy()
    before = image.copy()
    changed = preprocess(image, method)
    assert (changed.shape, changed.dtype) == (image.shape, np.uint8)
    np.testing.assert_array_equal(image, before)
    for channel in range(3):
        alone = preprocess(image[..., [channel]], method)
        np.testing.assert_array_equal(changed[..., [channel]], alone)
        assert (alone != image[..., [channel]]).mean() > 0.5


@pytest.mark.usefixtures("skimage")
@pytest.mark.parametrize("method", ["clahe", "equalize"])
@pytest.mark.parametrize("value", [0, 77, 255])
def test_an_image_of_one_value_stays_as_it_is(method, value):
    image = np.full((40, 30, 1), value, np.uint8)
    np.testing.assert_array_equal(preprocess(image, method), image)


@pytest.mark.parametrize("method", ["clahe", "equalize"])
def test_without_scikit_image_the_error_says_what_to_install(monkeypatch, method):
    monkeypatch.setitem(sys.modules, "skimage", None)
    message = rf"preprocessing {method} needs scikit-image: pip install -e '\.\[experiments\]'"
    with pytest.raises(InputError, match=message):
        preprocess(COLOR, method)
    assert (preprocess(COLOR, "gamma") != COLOR).any()


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float64])
@pytest.mark.parametrize(("gain", "offset"), [(1, 0), (3, 40), (9, -3000)])
def test_stretched_values_run_from_the_lowest_to_the_highest_permille(dtype, gain, offset):
    values = np.random.default_rng(0).permutation(2001).reshape(69, 29)
    if dtype == np.uint8:
        values, gain, offset = values % 251, 1, 0
    ordered = np.sort(values.ravel()).astype(np.float64)
    # Of 2001 values in order, the 0.1 percentile is the third and the 99.9 the third from last.
    low, high = ordered[2], ordered[-3]
    expected = 255 * np.clip((values - low) / (high - low), 0, 1)
    found = stretch((values * gain + offset).astype(dtype))
    assert found.dtype == np.uint8
    np.testing.assert_allclose(found, expected, atol=0.5001)
    assert (found.min(), found.max()) == (0, 255)


def test_one_value_and_missing_values_are_stretched_to_black():
    assert not stretch(np.full((5, 5), 700)).any()
    assert not stretch(np.full((5, 5), np.nan)).any()
    values = np.where(np.eye(5) > 0, np.nan, 100 * np.arange(25.0).reshape(5, 5))
    found = stretch(values)
    assert not found[np.eye(5) > 0].any()
    assert (found[0, 1], found[4, 3]) == (0, 255)
