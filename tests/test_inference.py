"""Prediction, and resizing of logits."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxseg import UNet
from jaxseg.inference import make_predict, resize_logits, resize_logits_on_host
from jaxseg.training import TrainState


def bilinear(image, size):
    """Half-pixel centers, edges repeated, one output pixel at a time."""
    out = np.empty(size)
    for row in range(size[0]):
        for column in range(size[1]):
            y = min(max((row + 0.5) * image.shape[0] / size[0] - 0.5, 0), image.shape[0] - 1)
            x = min(max((column + 0.5) * image.shape[1] / size[1] - 0.5, 0), image.shape[1] - 1)
            y0, x0 = int(y), int(x)
            y1, x1 = min(y0 + 1, image.shape[0] - 1), min(x0 + 1, image.shape[1] - 1)
            top = image[y0, x0] * (1 - (x - x0)) + image[y0, x1] * (x - x0)
            bottom = image[y1, x0] * (1 - (x - x0)) + image[y1, x1] * (x - x0)
            out[row, column] = top * (1 - (y - y0)) + bottom * (y - y0)
    return out


@pytest.mark.parametrize("size", [(14, 10), (7, 5), (9, 4), (1, 1)])
def test_logits_are_resized_as_bilinear_interpolation_by_hand_and_on_the_host_too(size):
    logits = np.random.default_rng(0).normal(size=(2, 7, 5, 3)).astype(np.float32)
    resized = np.asarray(resize_logits(logits, size))
    for image in range(2):
        for channel in range(3):
            expected = bilinear(logits[image, ..., channel].astype(np.float64), size)
            np.testing.assert_allclose(resized[image, ..., channel], expected, atol=1e-5)
        on_host = resize_logits_on_host(logits[image], size)
        assert on_host.dtype == np.float32
        np.testing.assert_allclose(on_host, resized[image], atol=1e-5)


def test_prediction_uses_averaged_parameters_and_no_dropout():
    model = UNet(widths=(4, 8), dropout=0.5)
    images = np.random.default_rng(0).random((2, 8, 8, 1), dtype=np.float32)
    state = TrainState.create(model, optax.sgd(0.1), jax.random.key(0), images, ema=True)
    state = state.replace(params=jax.tree.map(jnp.zeros_like, state.params))
    logits = jax.jit(make_predict(model))(state, images)
    expected: Any = jax.jit(model.apply)({"params": state.ema}, images)
    assert float(jnp.abs(logits).max()) > 0
    np.testing.assert_allclose(logits, expected, atol=1e-6)
