"""Test-time augmentation: mean logits over flipped, turned and scaled copies of each image."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg.errors import InputError
from jaxseg.resizing import resize_logits
from jaxseg.types import Images, Logits, as_floats

Flip = Literal["left_right", "up_down", "both"]

_AXES = {"left_right": (2,), "up_down": (1,), "both": (1, 2)}


def with_test_time_augmentation(
    predict: Callable[[Any, Images], Logits],
    *,
    flips: Sequence[Flip] = (),
    quarter_turns: Sequence[int] = (0,),
    scales: Sequence[float] = (1.0,),
) -> Callable[[Any, Images], Logits]:
    """Makes a prediction that averages logits over flipped, turned and scaled images.

    Each copy's logits are turned, flipped and resized back before averaging. The result is logits
    again, for tiles, resizing and thresholds. It is the logit of the geometric mean of the odds.

    Nothing is flipped or turned by default. A chest X-ray flipped left to right shows the heart on
    the other side, which a network trained without flips has hardly ever seen.

    Args:
        predict: ``(state, images) -> logits``, from `make_predict`.
        flips: Flips to add to the unflipped image, at every scale.
        quarter_turns: One or more numbers of counterclockwise quarter turns, 0 to 3, each applied
            to the unflipped and to the flipped images. 0 is the image itself, used only if listed.
            ``flips=["left_right"]`` and all four numbers give the eight symmetries of a square.
            Images that are not square keep their shape in the result, but ``predict`` sees them as
            ``[B, W, H, C]`` at 1 and 3 turns. It is then compiled for both shapes, and must accept
            both.
        scales: One or more factors of height and width, which are rounded to whole pixels. 1.0 is
            the image itself, used only if listed. Images are resized bilinearly, antialiased when
            they shrink, and given to ``predict`` as floats in [0, 1]. Logits are resized by
            `resize_logits`.

    Returns:
        A function like ``predict``, to compile instead of it. It calls the network
        ``(1 + len(flips)) * len(quarter_turns) * len(scales)`` times, or less often if flips and
        turns give the same copy twice, which then counts once.

    Raises:
        InputError: A flip is unknown, a number of turns is not 0 to 3, a scale is not above 0, or
            ``quarter_turns`` or ``scales`` is empty.
    """
    if unknown := set(flips) - set(_AXES):
        raise InputError(f"flips: unknown flip {min(unknown)!r}. Use {', '.join(_AXES)}.")
    if not scales or min(scales) <= 0:
        raise InputError(f"scales: {tuple(scales)}. Use one or more factors above 0.")
    if not quarter_turns or not {*quarter_turns} <= {0, 1, 2, 3}:
        raise InputError(f"quarter turns: {tuple(quarter_turns)}. Use one or more of 0, 1, 2, 3.")
    # Flips and turns that move the corners alike are the same.
    corners, symmetries = np.arange(4).reshape(1, 2, 2), {}
    for axes in [(), *(_AXES[flip] for flip in flips)]:
        for turns in quarter_turns:
            moved = np.rot90(np.flip(corners, axes), turns, (1, 2))
            symmetries.setdefault(moved.tobytes(), (axes, turns))
    if [*symmetries.values()] == [((), 0)] and tuple(scales) == (1.0,):
        return predict

    def predict_augmented(state: Any, images: Images) -> Logits:
        images = jnp.asarray(images)
        height, width = images.shape[1:3]
        copies = []
        for scale in scales:
            scaled = _resized(images, max(1, round(height * scale)), max(1, round(width * scale)))
            for axes, turns in symmetries.values():
                logits = predict(state, jnp.rot90(jnp.flip(scaled, axes), turns, (1, 2)))
                logits = jnp.flip(jnp.rot90(logits, -turns, (1, 2)), axes)
                copies.append(resize_logits(logits, (height, width)))
        return jnp.stack(copies).mean(axis=0)

    return predict_augmented


def _resized(images: jax.Array, height: int, width: int) -> jax.Array:
    if images.shape[1:3] == (height, width):
        return images
    shape = (images.shape[0], height, width, images.shape[3])
    return jax.image.resize(as_floats(images), shape, "bilinear", antialias=True)
