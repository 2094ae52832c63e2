"""Test-time augmentation: mean logits over flipped and scaled copies of each image."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxseg.errors import InputError
from jaxseg.resizing import resize_logits
from jaxseg.types import Images, Logits, as_floats

Flip = Literal["left_right", "up_down", "both"]

_AXES = {"left_right": (2,), "up_down": (1,), "both": (1, 2)}


def with_test_time_augmentation(
    predict: Callable[[Any, Images], Logits],
    *,
    flips: Sequence[Flip] = (),
    scales: Sequence[float] = (1.0,),
) -> Callable[[Any, Images], Logits]:
    """Makes a prediction that averages logits over flipped and scaled images.

    Each copy's logits are flipped and resized back before averaging. The result is logits again,
    for tiles, resizing and thresholds. It is the logit of the geometric mean of the odds.

    Nothing is flipped by default. A chest X-ray flipped left to right shows the heart on the other
    side, which a network trained without flips has hardly ever seen.

    Args:
        predict: ``(state, images) -> logits``, from `make_predict`.
        flips: Flips to add to the unflipped image, at every scale.
        scales: One or more factors of height and width, which are rounded to whole pixels. 1.0 is
            the image itself, used only if listed. Images are resized bilinearly, antialiased when
            they shrink, and given to ``predict`` as floats in [0, 1]. Logits are resized by
            `resize_logits`.

    Returns:
        A function like ``predict``, to compile instead of it. It calls the network
        ``(1 + len(flips)) * len(scales)`` times.

    Raises:
        InputError: A flip is unknown, no scale is given, or a scale is not above 0.
    """
    if unknown := set(flips) - set(_AXES):
        raise InputError(f"flips: unknown flip {min(unknown)!r}. Use {', '.join(_AXES)}.")
    if not scales or min(scales) <= 0:
        raise InputError(f"scales: {tuple(scales)}. Use one or more factors above 0.")
    all_axes = [(), *(_AXES[flip] for flip in dict.fromkeys(flips))]
    if len(all_axes) == 1 and tuple(scales) == (1.0,):
        return predict

    def predict_augmented(state: Any, images: Images) -> Logits:
        images = jnp.asarray(images)
        height, width = images.shape[1:3]
        copies = []
        for scale in scales:
            scaled = _resized(images, max(1, round(height * scale)), max(1, round(width * scale)))
            for axes in all_axes:
                logits = jnp.flip(predict(state, jnp.flip(scaled, axes)), axes)
                copies.append(resize_logits(logits, (height, width)))
        return jnp.stack(copies).mean(axis=0)

    return predict_augmented


def _resized(images: jax.Array, height: int, width: int) -> jax.Array:
    if images.shape[1:3] == (height, width):
        return images
    shape = (images.shape[0], height, width, images.shape[3])
    return jax.image.resize(as_floats(images), shape, "bilinear", antialias=True)
