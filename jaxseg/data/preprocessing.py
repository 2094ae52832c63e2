"""What published work does to the grey values of these films before training on them.

Follows Rahman et al., Computers in Biology and Medicine 132 (2021), 104319, which compares these
methods on this data set. Two of them need scikit-image.
"""

from typing import Literal

import numpy as np
from jaxtyping import UInt8

from jaxseg.errors import InputError

Preprocessing = Literal["none", "clahe", "gamma", "complement", "equalize"]

GAMMA = 0.5
"""The exponent of ``gamma``: below 1, dark parts become brighter."""

CLIP_LIMIT = 0.01
TILES = 8
"""Of ``clahe``; MATLAB's ``adapthisteq`` and scikit-image have the same."""


def preprocess(film: UInt8[np.ndarray, "H W"], method: Preprocessing) -> UInt8[np.ndarray, "H W"]:
    """Changes a film's grey values, not its size.

    ``clahe`` equalises the histogram of each of 8x8 tiles, contrast limited (Zuiderveld 1994), and
    blends the tiles; ``equalize`` equalises the whole film's; ``gamma`` gives
    ``255 (v / 255) ** 0.5``; ``complement`` gives ``255 - v``; ``none`` gives the film.

    Args:
        film: at its own size, before it is resized: the methods' papers do the same.
        method: which.

    Returns:
        Grey values from 0 to 255. ``clahe`` and ``equalize`` leave a film of one value as it is: it
        has no contrast to stretch.

    Raises:
        InputError: ``clahe`` or ``equalize``, and scikit-image is not installed.
    """
    if method == "none":
        return film
    if method == "complement":
        return 255 - film
    if method == "gamma":
        return np.rint(255 * (film / 255) ** GAMMA).astype(np.uint8)
    try:
        from skimage import exposure
    except ImportError as error:
        raise InputError(
            f"preprocessing {method} needs scikit-image: pip install 'jaxseg[experiments]'"
        ) from error
    if film.min() == film.max():
        return film
    if method == "equalize":
        return np.rint(255 * exposure.equalize_hist(film)).astype(np.uint8)
    tile = tuple(-(-side // TILES) for side in film.shape)
    equalized = exposure.equalize_adapthist(film, kernel_size=tile, clip_limit=CLIP_LIMIT)
    return np.rint(255 * equalized).astype(np.uint8)
