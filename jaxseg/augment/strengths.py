"""How far films may be changed."""

import dataclasses
import math

from jaxseg.types import InputError

LIMITS = {
    "share": 1.0,
    "rotation": 180.0,
    "scale": 1.0,
    "shift": 0.5,
    "shear": 45.0,
    "flip_left_right": 1.0,
    "flip_up_down": 1.0,
    "blur": 8.0,
    "contrast": 4.0,
    "brightness": 1.0,
    "gamma": 4.0,
    "noise": 1.0,
}
"""The largest strength of each kind; the smallest is 0."""


@dataclasses.dataclass(frozen=True)
class Strengths:
    """How far each film may be changed; 0 leaves out the change, and its cost.

    Every film draws its own amounts, evenly from the ranges below (of a factor, its logarithm).

    Raises:
        InputError: A strength is negative, not a number, or above its limit in `LIMITS`.
    """

    share: float = 1.0
    """Share of films that are changed at all."""
    rotation: float = 0.0
    """Degrees, either way."""
    scale: float = 0.0
    """Larger or smaller by a factor of up to 1 + scale."""
    shift: float = 0.0
    """Either way along both axes, as a share of the film's height and width."""
    shear: float = 0.0
    """Degrees that vertical lines lean, either way."""
    flip_left_right: float = 0.0
    """Share of films that are mirrored. It swaps the sides of the body: chests want 0."""
    flip_up_down: float = 0.0
    """Share of films that are turned upside down."""
    blur: float = 0.0
    """Largest standard deviation, in pixels, of a Gaussian blur."""
    contrast: float = 0.0
    """Distance from mid-grey grows or shrinks by a factor of up to 1 + contrast."""
    brightness: float = 0.0
    """Added or taken away, of a range of 0 to 1."""
    gamma: float = 0.0
    """Grey values are raised to a power from 1 / (1 + gamma) to 1 + gamma."""
    noise: float = 0.0
    """Largest standard deviation of Gaussian noise, of a range of 0 to 1."""

    def __post_init__(self) -> None:
        """Refuses a strength out of its range."""
        for name, largest in LIMITS.items():
            if not 0.0 <= getattr(self, name) <= largest:
                raise InputError(f"augment.{name}: must lie between 0 and {largest:g}")

    @property
    def moves(self) -> bool:
        """Whether pixels change place."""
        moving = ("rotation", "scale", "shift", "shear", "flip_left_right", "flip_up_down")
        return any(getattr(self, name) for name in moving)

    @property
    def stretch(self) -> float:
        """What the absolute factors in a row of a film's matrix sum up to at most."""
        angle = math.radians(min(self.rotation, 45.0))
        lean = math.tan(math.radians(self.shear))
        return (1.0 + self.scale) * (1.0 + lean) * (math.cos(angle) + math.sin(angle))

    @property
    def changes(self) -> bool:
        """Whether anything at all may change."""
        kinds = (getattr(self, name) for name in LIMITS if name != "share")
        return self.share > 0.0 and any(kinds)


UNCHANGED = Strengths()
"""Films stay as they are."""

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
"""For chest films from hospitals other than those trained on; no flips, which would swap sides."""
