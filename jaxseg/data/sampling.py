"""Brings images and masks to the size at which a network is trained."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from jaxseg.data.images import Resize, check_channels, resize_image
from jaxseg.data.preprocessing import Preprocessing, preprocess
from jaxseg.errors import InputError


@dataclass(frozen=True)
class Sampling:
    """How images and masks are resized.

    Attributes:
        size: Height and width of images in pixels, 1 or more. Proportions are not kept.
        label_size: Height and width of labels; None for the images' size.
        channels: 1 for gray or 3 for RGB.
        resize: How images are resized, ``bilinear`` (antialiased) or ``nearest``. Masks are always
            resized by nearest neighbor.
        preprocessing: A change of gray values before resizing.
    """

    size: int
    label_size: int | None = None
    channels: int = 1
    resize: Resize = "bilinear"
    preprocessing: Preprocessing = "none"

    def __post_init__(self) -> None:
        """Checks the sizes.

        Raises:
            InputError: A size is below 1, or ``channels`` is neither 1 nor 3.
        """
        for name in ("size", "label_size"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise InputError(f"{name}={value}: must be 1 or more pixels")
        check_channels(self.channels)

    def image(self, image: UInt8[np.ndarray, "H W C"]) -> UInt8[np.ndarray, "S S C"]:
        """Preprocesses and resizes an image."""
        return resize_image(preprocess(image, self.preprocessing), self.size, self.resize)

    def label(self, mask: UInt8[np.ndarray, "H W"]) -> UInt8[np.ndarray, "L L"]:
        """Resizes a mask to the labels' size by nearest neighbor, so that no new value arises."""
        return resize_image(mask, self.label_size or self.size, "nearest")
