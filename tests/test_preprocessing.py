import sys

import numpy as np
import pytest

from jaxseg.data import phantom
from jaxseg.data.preprocessing import preprocess
from jaxseg.errors import InputError

pytest.importorskip("skimage", reason="needs scikit-image")

METHODS = ("clahe", "gamma", "complement", "equalize")
FILMS = [phantom.draw(0, name, 1).image for name in phantom.CLASSES]
EVERY_VALUE = np.arange(256, dtype=np.uint8).reshape(8, 32)


@pytest.mark.parametrize("film", FILMS)
def test_none_gives_the_film(film):
    assert preprocess(film, "none") is film


def test_complement_and_gamma_are_their_formulas():
    np.testing.assert_array_equal(preprocess(EVERY_VALUE, "complement"), 255 - EVERY_VALUE)
    expected = np.round(255 * np.sqrt(EVERY_VALUE / 255))
    np.testing.assert_array_equal(preprocess(EVERY_VALUE, "gamma"), expected)


@pytest.mark.parametrize("film", FILMS)
def test_equalised_grey_values_are_the_shares_of_pixels_no_brighter(film):
    no_brighter = np.array([(film <= value).mean() for value in range(256)])
    np.testing.assert_allclose(preprocess(film, "equalize"), 255 * no_brighter[film], atol=0.51)


@pytest.mark.parametrize("film", FILMS)
def test_clahe_agrees_with_opencvs_and_is_not_plain_equalisation(film):
    cv2 = pytest.importorskip("cv2", reason="needs OpenCV")
    ours = preprocess(film, "clahe").astype(np.float64)
    # OpenCV's limit is in multiples of the mean bin; 2 comes nearest to 0.01 of all pixels.
    theirs = cv2.createCLAHE(2.0, (8, 8)).apply(film)
    agreement = np.corrcoef(ours.ravel(), theirs.ravel())[0, 1]
    assert agreement > 0.985
    for other in (film, cv2.equalizeHist(film)):
        assert np.corrcoef(ours.ravel(), other.ravel())[0, 1] < agreement


@pytest.mark.parametrize("method", METHODS)
def test_shape_and_kind_stay_and_the_film_is_not_written_to(method):
    film = FILMS[0][:250, :180].copy()
    before = film.copy()
    changed = preprocess(film, method)
    assert (changed.shape, changed.dtype) == (film.shape, np.uint8)
    np.testing.assert_array_equal(film, before)
    assert (changed != film).any()


@pytest.mark.parametrize("method", ["clahe", "equalize"])
@pytest.mark.parametrize("value", [0, 77, 255])
def test_a_film_of_one_value_has_no_contrast_to_stretch(method, value):
    film = np.full((40, 30), value, np.uint8)
    np.testing.assert_array_equal(preprocess(film, method), film)


@pytest.mark.parametrize("method", ["clahe", "equalize"])
def test_without_scikit_image_it_says_what_to_install(monkeypatch, method):
    monkeypatch.setitem(sys.modules, "skimage", None)
    message = rf"preprocessing {method} needs scikit-image: pip install"
    with pytest.raises(InputError, match=message):
        preprocess(FILMS[0], method)
    for other in ("none", "gamma", "complement"):
        assert preprocess(FILMS[0], other).shape == FILMS[0].shape
