"""How logits become masks: test-time augmentation, threshold, components and holes."""

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
class Postprocessing:
    """How masks are made. The defaults are those of the scores in a run."""

    #: Test-time augmentation: average the logits over these flips. left_right mirrors the anatomy.
    tta_flips: tuple[Flip, ...] = ()
    #: Test-time augmentation: average the logits over these scales.
    tta_scales: tuple[float, ...] = (1.0,)
    #: Probability above which a pixel belongs to the object, for one class.
    threshold: float = 0.5
    #: Keep only this many largest connected components of each class (2 for lungs).
    keep_largest: int | None = None
    #: Fill the holes of each class.
    fill_holes: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False

    def check(self) -> None:
        """Raises InputError that names an invalid option."""
        if not 0 < self.threshold < 1:
            raise InputError(f"--threshold: must be between 0 and 1, got {self.threshold:g}")
        if self.keep_largest is not None and self.keep_largest < 1:
            raise InputError(f"--keep-largest: must be at least 1, got {self.keep_largest}")

    def check_fits(self, configuration: Configuration) -> None:
        """Raises InputError if an option does not fit the run's classes."""
        classes = configuration.data.mask_values()
        if len(classes) > 1 and self.threshold != 0.5:
            raise InputError(
                f"--threshold: only for one class. This run has {len(classes)} and takes the most "
                "probable one"
            )
        # A network that was trained with flips tells the sides apart by other signs.
        sided = None if configuration.augment.flip_left_right else one_sided(classes)
        if sided and set(self.tta_flips) & {"left_right", "both"}:
            raise InputError(
                f"--tta-flips: left-right flips would swap the one-sided class {sided}, and this "
                "run was trained without them"
            )

    def augmented(self, predict: Predict) -> Predict:
        """Returns the prediction with test-time augmentation."""
        return inference.with_test_time_augmentation(
            predict, flips=self.tta_flips, scales=self.tta_scales
        )

    @property
    def changes_labels(self) -> bool:
        """Whether labels are anything but the most probable class."""
        return self.threshold != 0.5 or self.keep_largest is not None or self.fill_holes

    def labels(self, logits: np.ndarray) -> np.ndarray:
        """Returns class ids int32 ``[H, W]`` of one image's logits ``[H, W, K]``; 0 is background.

        Only background is filled; pixels of another class in a hole stay as they are.
        """
        if logits.shape[-1] == 1:
            labels = logits[..., 0] > math.log(self.threshold / (1 - self.threshold))
        else:
            labels = logits.argmax(axis=-1)
        labels = labels.astype(np.int32)
        classes = range(1, max(2, logits.shape[-1]))
        if self.keep_largest is not None:
            for label in classes:
                mask = labels == label
                labels[mask & ~inference.largest_components(mask, self.keep_largest)] = 0
        if self.fill_holes:
            for label in classes:
                labels[inference.fill_holes(labels == label) & (labels == 0)] = label
        return labels
