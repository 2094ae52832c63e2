"""Flips and scales: the mean logits of the views, each turned back."""

import numpy as np
import pytest
from PIL import Image

from jaxseg.inference import average_views
from jaxseg.types import InputError


def slanted(state, images):
    """A network that answers by where a pixel stands, so that a flip changes its answer."""
    values = np.asarray(images, np.float32) / (255 if images.dtype == np.uint8 else 1)
    rows, columns = values.shape[1:3]
    down, across = np.ogrid[:rows, 1 : columns + 1]
    return state * values * across[None, ..., None] + down.astype(np.float32)[None, ..., None]


def some_films(height=12, width=20):
    return np.random.default_rng(0).integers(0, 256, (2, height, width, 1), np.uint8)


def test_views_asked_for_none_are_the_prediction_itself():
    assert average_views(slanted) is slanted


@pytest.mark.parametrize(
    ("flips", "axes"),
    [
        (["left_right"], [(), (2,)]),
        (["up_down"], [(), (1,)]),
        (["left_right", "up_down", "both"], [(), (2,), (1,), (1, 2)]),
        (["up_down", "up_down"], [(), (1,)]),
    ],
)
def test_flips_are_turned_back_and_averaged(flips, axes):
    films, state = some_films(), np.float32(2)
    expected = [np.flip(slanted(state, np.flip(films, axis)), axis) for axis in axes]
    views = average_views(slanted, flips=flips)(state, films)
    np.testing.assert_allclose(views, np.mean(expected, axis=0), atol=1e-5)
    assert not np.allclose(views, slanted(state, films))


def resized(values, size):
    """Pillow's triangle filter, widened where a picture shrinks."""
    pictures = [Image.fromarray(value[..., 0]) for value in values]
    sized = [p.resize(size[::-1], Image.Resampling.BILINEAR) for p in pictures]
    return np.stack([np.asarray(picture) for picture in sized])[..., None]


@pytest.mark.parametrize("scale", [0.5, 1.5, 0.7])
def test_a_scaled_view_is_the_resized_films_logits_resized_back(scale):
    films = some_films()
    small = resized(films.astype(np.float32) / 255, (round(12 * scale), round(20 * scale)))
    seen = []

    def predict(state, images):
        seen.append(np.asarray(images, np.float32))
        return np.ones_like(seen[-1]) * state

    views = average_views(predict, scales=[scale])(np.float32(3), films)
    np.testing.assert_allclose(seen[0], small, atol=1e-5)
    assert views.shape == films.shape
    np.testing.assert_allclose(views, 3, atol=1e-6)


def test_scales_and_flips_go_together():
    films, seen = some_films(), []

    def predict(state, images):
        seen.append(images.shape[1:3])
        return np.full(images.shape, len(seen) * state, np.float32)

    views = average_views(predict, scales=[1.0, 0.5], flips=["left_right"])(np.float32(1), films)
    assert seen == [(12, 20), (12, 20), (6, 10), (6, 10)]
    np.testing.assert_allclose(views, 2.5, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"flips": ["sideways"]}, "sideways"),
        ({"scales": []}, "one or more"),
        ({"scales": [1.0, 0.0]}, "above 0"),
    ],
)
@pytest.mark.usefixtures("unchecked_types")
def test_views_that_will_not_do_are_named(options, words):
    with pytest.raises(InputError, match=words):
        average_views(slanted, **options)
