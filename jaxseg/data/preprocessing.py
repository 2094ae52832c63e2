"""Gray-value preprocessing of images, as published work on chest X-rays does it.

The methods are those that Rahman et al., Computers in Biology and Medicine 132 (2021), 104319,
compare on the COVID-19 Radiography Database. Two of them need scikit-image.
"""

from typing import Literal

import numpy as np
from jaxtyping import Num, UInt8

from jaxseg.errors import InputError

Preprocessing = Literal["none", "clahe", "gamma", "complement", "equalize"]

GAMMA = 0.5
"""The exponent of ``gamma``; below 1, dark regions become brighter."""

CLIP_LIMIT = 0.01
TILES = 8
"""Of ``clahe``; the defaults of MATLAB's ``adapthisteq`` and of scikit-image."""


def preprocess(
    image: UInt8[np.ndarray, "H W C"], method: Preprocessing
) -> UInt8[np.ndarray, "H W C"]:
    """Changes the gray values of an image.

    ``clahe`` equalizes the histogram of each of 8x8 tiles with limited contrast (Zuiderveld 1994)
    and blends the tiles; ``equalize`` equalizes the histogram of the whole image; ``gamma`` is
    ``255 (v / 255) ** 0.5``; ``complement`` is ``255 - v``; ``none`` returns the image.

    Args:
        image: uint8 at its own size, before it is resized, with 1 or 3 channels. ``clahe`` and
            ``equalize`` treat each channel alone.
        method: One of the above.

    Returns:
        uint8, 0 to 255. ``clahe`` and ``equalize`` return a channel of one value as it is.

    Raises:
        InputError: ``clahe`` or ``equalize``, and scikit-image is not installed.
    """
    if method == "none":
        return image
    if method == "complement":
        return 255 - image
    if method == "gamma":
        return np.rint(255 * (image / 255) ** GAMMA).astype(np.uint8)
    channels = [_equalized(channel, method) for channel in np.moveaxis(image, -1, 0)]
    return np.stack(channels, axis=-1)


def stretch(values: Num[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W"]:
    """Maps values of any range to 8 bits: the 0.1 percentile to 0, the 99.9 percentile to 255.

    Where the two are equal, and where a value is NaN, the result is 0.
    """
    finite = values[np.isfinite(values)]
    low, high = np.percentile(finite, (0.1, 99.9)) if finite.size else (0, 0)
    if high <= low:
        return np.zeros(values.shape, np.uint8)
    unit = np.nan_to_num(np.clip((values - low) / (high - low), 0, 1))
    return np.round(255 * unit).astype(np.uint8)


def _equalized(channel: np.ndarray, method: Preprocessing) -> np.ndarray:
    try:
        from skimage import exposure
    except ImportError as error:
        raise InputError(
            f"preprocessing {method} needs scikit-image: pip install -e '.[experiments]'"
        ) from error
    if channel.min() == channel.max():
        return channel
    if method == "equalize":
        return np.rint(255 * exposure.equalize_hist(channel)).astype(np.uint8)
    tile = tuple(-(-side // TILES) for side in channel.shape)
    equalized = exposure.equalize_adapthist(channel, kernel_size=tile, clip_limit=CLIP_LIMIT)
    return np.rint(255 * equalized).astype(np.uint8)
