"""Several views of each film, flipped or scaled, and the mean of what the network says of them."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxseg.resizing import resize_logits
from jaxseg.types import Images, InputError, Logits

Flip = Literal["left_right", "up_down", "both"]

_AXES = {"left_right": (2,), "up_down": (1,), "both": (1, 2)}


def average_views(
    predict: Callable[[Any, Images], Logits],
    *,
    flips: Sequence[Flip] = (),
    scales: Sequence[float] = (1.0,),
) -> Callable[[Any, Images], Logits]:
    """Makes a prediction from the mean logits of a film's views, each turned back.

    Logits are averaged, not probabilities: the result is logits again, so that tiles, resizing
    and thresholds act on it as on any other, and all but the threshold may be done in any order.
    The mean logit is the logit of the views' geometric mean odds.

    No flip is done unless asked for. A film flipped left to right has its heart on the other side
    (situs inversus), which a network that was not trained on flips has hardly seen.

    Args:
        predict: ``(state, images) -> logits``, from `make_predict`.
        flips: Flips to add to the film as it is, at every scale.
        scales: Factors of height and width, to whole pixels, at least one; films are resized
            bilinearly, antialiased where they shrink, and logits as by `resize_logits`. 1.0 is
            the film as it is, and left out where it is not among them. At any other ``predict`` is
            given floats in [0, 1], also where films are uint8.

    Returns:
        A function of the same form, to compile in its stead. It costs as many calls of the
        network as there are views: ``(1 + len(flips)) * len(scales)``.

    Raises:
        InputError: A flip has no such name, or no scale is given, or one is not above 0.
    """
    if unknown := set(flips) - set(_AXES):
        raise InputError(f"flips: {min(unknown)!r} is none of {', '.join(_AXES)}")
    if not scales or min(scales) <= 0:
        raise InputError(f"scales: {tuple(scales)} should be one or more factors above 0")
    ways = [(), *(_AXES[flip] for flip in dict.fromkeys(flips))]
    if len(ways) == 1 and tuple(scales) == (1.0,):
        return predict

    def predict_views(state: Any, images: Images) -> Logits:
        images = jnp.asarray(images)
        height, width = images.shape[1:3]
        views = []
        for scale in scales:
            scaled = _scaled(images, (_side(height, scale), _side(width, scale)))
            for axes in ways:
                logits = jnp.flip(predict(state, jnp.flip(scaled, axes)), axes)
                views.append(resize_logits(logits, (height, width)))
        return sum(views[1:], start=views[0]) / len(views)

    return predict_views


def _side(pixels: int, scale: float) -> int:
    return max(1, round(pixels * scale))


def _scaled(images: jax.Array, size: tuple[int, int]) -> jax.Array:
    if images.shape[1:3] == size:
        return images
    if images.dtype == jnp.uint8:
        images = images.astype(jnp.float32) / 255.0
    shape = (images.shape[0], *size, images.shape[3])
    return jax.image.resize(images, shape, "bilinear", antialias=True)
