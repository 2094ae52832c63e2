"""How logits become masks, as the command line may ask for it."""

import dataclasses
import math
from typing import Annotated

import numpy as np
import tyro

from experiments.configuration import Configuration, one_sided
from experiments.scoring import Predict
from jaxseg import inference
from jaxseg.errors import InputError
from jaxseg.inference.test_time_augmentation import Flip


@dataclasses.dataclass(frozen=True)
class MaskSettings:
    """What decides masks once the network is trained; the defaults are how runs are scored."""

    flips: tuple[Flip, ...] = ()
    """Average with the film flipped; left_right moves the heart to the other side."""
    scales: tuple[float, ...] = (1.0,)
    """Average over the film scaled by these factors."""
    threshold: float = 0.5
    """Probability above which a pixel belongs to the object, the lungs in a run on an archive."""
    largest: int | None = None
    """Keep so many of the mask's largest connected parts."""
    fill_holes: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Fill the mask's holes."""

    def __post_init__(self) -> None:
        """Refuses what will not do.

        Raises:
            InputError: Naming the option.
        """
        if not 0 < self.threshold < 1:
            raise InputError(f"--threshold: {self.threshold:g} should lie between 0 and 1")
        if self.largest is not None and self.largest < 1:
            raise InputError("--largest: should be 1 or more")

    def check_run(self, configuration: Configuration) -> None:
        """Raises InputError where a setting does not go with a run's classes."""
        classes = configuration.mask_values()
        if len(classes) > 1 and self.threshold != 0.5:
            raise InputError("--threshold: of several classes the most probable is taken")
        # A network that learnt from flipped films tells the sides apart by other signs.
        sided = None if configuration.augment.flip_left_right else one_sided(classes)
        if sided and set(self.flips) & {"left_right", "both"}:
            raise InputError(f"--flips: a flipped film has its {sided} on the other side")

    def averaged(self, predict: Predict) -> Predict:
        """The prediction from all views that are asked for."""
        return inference.with_test_time_augmentation(predict, flips=self.flips, scales=self.scales)

    def mends(self) -> bool:
        """Whether masks are anything but where the network finds a class the most probable."""
        return self.threshold != 0.5 or self.largest is not None or self.fill_holes

    def labels(self, logits: np.ndarray) -> np.ndarray:
        """Class numbers int32 ``[H, W]`` of one film's logits ``[H, W, K]``; 0 is background.

        Holes are background alone: what else lies within an object stays what it is.
        """
        if logits.shape[-1] == 1:
            labels = logits[..., 0] > math.log(self.threshold / (1 - self.threshold))
        else:
            labels = logits.argmax(axis=-1)
        labels = labels.astype(np.int32)
        numbers = range(1, max(2, logits.shape[-1]))
        if self.largest is not None:
            for number in numbers:
                mask = labels == number
                labels[mask & ~inference.largest_components(mask, self.largest)] = 0
        if self.fill_holes:
            for number in numbers:
                labels[inference.fill_holes(labels == number) & (labels == 0)] = number
        return labels
