"""Test-time augmentation averages the logits of flipped and scaled images, each undone."""

import numpy as np
import pytest
from PIL import Image

from jaxseg import inference
from jaxseg.errors import InputError


def slanted(state, images):
    """A network whose logits depend on the position of a pixel, so that a flip changes them."""
    values = np.asarray(images, np.float32) / (255 if images.dtype == np.uint8 else 1)
    rows, columns = values.shape[1:3]
    down, across = np.ogrid[:rows, 1 : columns + 1]
    return state * values * across[None, ..., None] + down.astype(np.float32)[None, ..., None]


def some_images(height=12, width=20):
    return np.random.default_rng(0).integers(0, 256, (2, height, width, 1), np.uint8)


def test_without_flips_and_scales_it_is_the_prediction_itself():
    assert inference.with_test_time_augmentation(slanted) is slanted


@pytest.mark.parametrize(
    ("flips", "axes"),
    [
        (["left_right"], [(), (2,)]),
        (["up_down"], [(), (1,)]),
        (["left_right", "up_down", "both"], [(), (2,), (1,), (1, 2)]),
        (["up_down", "up_down"], [(), (1,)]),
    ],
)
def test_flips_are_undone_and_averaged(flips, axes):
    images, state = some_images(), np.float32(2)
    expected = [np.flip(slanted(state, np.flip(images, axis)), axis) for axis in axes]
    averaged = inference.with_test_time_augmentation(slanted, flips=flips)(state, images)
    np.testing.assert_allclose(averaged, np.mean(expected, axis=0), atol=1e-5)
    assert not np.allclose(averaged, slanted(state, images))


def resized(values, size):
    """Pillow's triangle filter, widened where an image shrinks."""
    images = [Image.fromarray(value[..., 0]) for value in values]
    sized = [image.resize(size[::-1], Image.Resampling.BILINEAR) for image in images]
    return np.stack([np.asarray(image) for image in sized])[..., None]


@pytest.mark.parametrize("scale", [0.5, 1.5, 0.7])
def test_a_scaled_copy_is_the_resized_images_logits_resized_back(scale):
    images = some_images()
    small = resized(images.astype(np.float32) / 255, (round(12 * scale), round(20 * scale)))
    seen = []

    def predict(state, images):
        seen.append(np.asarray(images, np.float32))
        return np.ones_like(seen[-1]) * state

    averaged = inference.with_test_time_augmentation(predict, scales=[scale])(np.float32(3), images)
    np.testing.assert_allclose(seen[0], small, atol=1e-5)
    assert averaged.shape == images.shape
    np.testing.assert_allclose(averaged, 3, atol=1e-6)


def test_every_flip_is_done_at_every_scale():
    images, seen = some_images(), []

    def predict(state, images):
        seen.append(images.shape[1:3])
        return np.full(images.shape, len(seen) * state, np.float32)

    averaged = inference.with_test_time_augmentation(
        predict, scales=[1.0, 0.5], flips=["left_right"]
    )(np.float32(1), images)
    assert seen == [(12, 20), (12, 20), (6, 10), (6, 10)]
    np.testing.assert_allclose(averaged, 2.5, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"flips": ["sideways"]}, "sideways"),
        ({"scales": []}, "one or more"),
        ({"scales": [1.0, 0.0]}, "above 0"),
    ],
)
@pytest.mark.usefixtures("unchecked_types")
def test_invalid_flips_and_scales_are_named(options, words):
    with pytest.raises(InputError, match=words):
        inference.with_test_time_augmentation(slanted, **options)
