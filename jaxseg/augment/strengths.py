"""Ranges for random augmentation, and two presets."""

import dataclasses
import math

from jaxseg.errors import InputError

LIMITS = {
    "probability": 1.0,
    "rotation": 180.0,
    "scale": 1.0,
    "shift": 0.5,
    "shear": 45.0,
    "elastic": 0.1,
    "flip_left_right": 1.0,
    "flip_up_down": 1.0,
    "blur": 8.0,
    "contrast": 4.0,
    "brightness": 1.0,
    "gamma": 4.0,
    "noise": 1.0,
}
"""The largest value of each field of `Strengths`; the smallest is 0."""


@dataclasses.dataclass(frozen=True)
class Strengths:
    """Ranges for random augmentation.

    Amounts are sampled for each image, uniformly from the ranges below. Scale, contrast and gamma
    are sampled log-uniformly. A change of strength 0 is left out and takes no time.

    ``scale`` and ``shift`` together are a random resized crop, with pixels from outside the image
    marked as invalid. Images keep their size: to train on patches of larger images, cut them first.

    ``elastic`` is the deformation of Ronneberger et al. (2015). It moves the points of a 3 x 3
    grid; pixels between them move by bicubic interpolation.

    Raises:
        InputError: A value is NaN, negative or above its limit in `LIMITS`.
    """

    probability: float = 1.0
    """Probability that an image is changed at all."""
    rotation: float = 0.0
    """Largest rotation in degrees, in either direction."""
    scale: float = 0.0
    """Images are scaled by a factor from 1 / (1 + scale) to 1 + scale."""
    shift: float = 0.0
    """Largest shift in either direction, as a fraction of the image's height and width."""
    shear: float = 0.0
    """Largest angle in degrees between a sheared vertical line and the vertical."""
    elastic: float = 0.0
    """Largest displacement of an elastic deformation, as a fraction of height and width."""
    flip_left_right: float = 0.0
    """Probability of a left-right flip. Keep 0 for chest X-rays: a flip swaps the body's sides."""
    flip_up_down: float = 0.0
    """Probability of an up-down flip."""
    blur: float = 0.0
    """Largest standard deviation of a Gaussian blur, in pixels."""
    contrast: float = 0.0
    """The distance from mid-gray is multiplied by 1 / (1 + contrast) to 1 + contrast."""
    brightness: float = 0.0
    """Largest value added to or subtracted from images in [0, 1]."""
    gamma: float = 0.0
    """Images in [0, 1] are raised to a power from 1 / (1 + gamma) to 1 + gamma."""
    noise: float = 0.0
    """Largest standard deviation of Gaussian noise, for images in [0, 1]."""

    def __post_init__(self) -> None:
        """Checks that every value is within its limits."""
        for name, largest in LIMITS.items():
            value = getattr(self, name)
            if not 0.0 <= value <= largest:
                raise InputError(f"augment.{name}: must be between 0 and {largest:g}, got {value}")

    @property
    def moves(self) -> bool:
        """Whether pixels can move."""
        affine = ("rotation", "scale", "shift", "shear", "flip_left_right", "flip_up_down")
        return any(getattr(self, name) for name in (*affine, "elastic"))

    @property
    def changes(self) -> bool:
        """Whether anything can change."""
        return self.probability > 0.0 and any(
            getattr(self, name) for name in LIMITS if name != "probability"
        )

    @property
    def max_stretch(self) -> float:
        """Upper bound that `jaxseg.augment.warp` takes, for all matrices in these ranges."""
        angle = math.radians(min(self.rotation, 45.0))
        lean = math.tan(math.radians(self.shear))
        return (1.0 + self.scale) * (1.0 + lean) * (math.cos(angle) + math.sin(angle))


UNCHANGED = Strengths()
"""No augmentation."""

ROBUST = Strengths(
    rotation=12.0,
    scale=0.2,
    shift=0.06,
    shear=5.0,
    blur=1.0,
    contrast=0.35,
    brightness=0.12,
    gamma=0.4,
    noise=0.04,
)
"""For chest X-rays of hospitals outside the training set. No flips: they swap the body's sides."""
