"""Test-time augmentation averages logits of flipped, turned and scaled images, each undone."""

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


TURNED = {
    0: lambda image: image,
    1: lambda image: image.transpose(1, 0, 2)[::-1],
    2: lambda image: image[::-1, ::-1],
    3: lambda image: image.transpose(1, 0, 2)[:, ::-1],
}
"""An image after counterclockwise quarter turns, by transposing and reversing."""


def turned(images, turns):
    return np.stack([TURNED[turns](image) for image in images])


@pytest.mark.parametrize("turns", [(1,), (2,), (3,), (0, 1), (0, 1, 2, 3), (1, 1, 0)])
def test_quarter_turns_are_undone_and_averaged(turns):
    images, state, seen = some_images(), np.float32(2), []

    def predict(state, images):
        seen.append(images.shape[1:3])
        return slanted(state, images)

    change = inference.with_test_time_augmentation(predict, quarter_turns=turns)
    averaged = change(state, images)
    expected = [turned(slanted(state, turned(images, n)), -n % 4) for n in {*turns}]
    assert averaged.shape == images.shape
    np.testing.assert_allclose(averaged, np.mean(expected, axis=0), atol=1e-5)
    assert not np.allclose(averaged, slanted(state, images))
    # An image of 12 x 20 pixels has 20 x 12 after 1 or 3 turns.
    assert sorted(seen) == sorted((20, 12) if n % 2 else (12, 20) for n in {*turns})


@pytest.mark.parametrize("flips", [["left_right"], ["left_right", "up_down", "both"]])
def test_flips_and_turns_give_the_eight_symmetries_of_a_square_once_each(flips):
    images, state, calls = some_images(8, 8), np.float32(2), []

    def predict(state, images):
        calls.append(np.asarray(images))
        return slanted(state, images)

    change = inference.with_test_time_augmentation(predict, flips=flips, quarter_turns=(0, 1, 2, 3))
    averaged = np.asarray(change(state, images))
    assert len(calls) == len({call.tobytes() for call in calls}) == 8
    # The mean over the whole group does not depend on how the image is flipped or turned.
    again = np.asarray(change(state, turned(images, 1)))
    np.testing.assert_allclose(turned(again, 3), averaged, atol=1e-4)
    again = np.asarray(change(state, images[:, :, ::-1]))
    np.testing.assert_allclose(again[:, :, ::-1], averaged, atol=1e-4)


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
        ({"quarter_turns": []}, "quarter turns: .* one or more"),
        ({"quarter_turns": [0, 4]}, "quarter turns: .*4"),
        ({"scales": [1.0, 0.0]}, "above 0"),
    ],
)
@pytest.mark.usefixtures("unchecked_types")
def test_invalid_flips_and_scales_are_named(options, words):
    with pytest.raises(InputError, match=words):
        inference.with_test_time_augmentation(slanted, **options)
