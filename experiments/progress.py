"""What a run knows of its own progress, and how many steps it does at a time."""

import dataclasses
from collections.abc import Mapping

import numpy as np

CALL_SECONDS = 5.0
"""On accelerators as many steps are one program as last about this long."""


@dataclasses.dataclass(frozen=True)
class Progress:
    """What a run knows of itself besides its state; saved with every checkpoint."""

    epoch_loss: float = 0.0
    """Sum of the loss over this epoch's films so far, skipped updates left out."""
    epoch_images: int = 0
    epoch_learnt: int = 0
    """Those of them whose update was not skipped."""
    train_seconds: float = 0.0
    """Inside calls of compiled steps, waited for."""
    seconds_between_calls: float = 0.0
    """Of the loop over an epoch's steps, outside these calls: logs, progress, checkpoints."""
    timed_images: int = 0
    """Films trained on in calls that compiled nothing."""
    timed_seconds: float = 0.0
    skipped: int = 0
    """Updates left out because they were not finite."""
    skipped_in_a_row: int = 0
    """Up to the latest step."""
    most_skipped_in_a_row: int = 0

    def add(self, measured: Mapping[str, np.ndarray], seconds: float, *, timed: bool) -> "Progress":
        """Counts a call in."""
        images, skipped = measured["images"], measured["skipped"] == 1
        losses = np.where(skipped, 0.0, measured["loss"] * images)
        in_a_row, most = self.skipped_in_a_row, self.most_skipped_in_a_row
        for one in skipped:
            in_a_row = in_a_row + 1 if one else 0
            most = max(most, in_a_row)
        return dataclasses.replace(
            self,
            epoch_loss=self.epoch_loss + float(losses.sum()),
            epoch_images=self.epoch_images + int(images.sum()),
            epoch_learnt=self.epoch_learnt + int(images[~skipped].sum()),
            train_seconds=self.train_seconds + seconds,
            timed_images=self.timed_images + timed * int(images.sum()),
            timed_seconds=self.timed_seconds + timed * seconds,
            skipped=self.skipped + int(skipped.sum()),
            skipped_in_a_row=in_a_row,
            most_skipped_in_a_row=most,
        )

    def between_calls(self, seconds: float) -> "Progress":
        """Counts time outside calls in."""
        total = self.seconds_between_calls + seconds
        return dataclasses.replace(self, seconds_between_calls=total)

    def next_epoch(self) -> "Progress":
        """The same with the epoch's sums at zero."""
        return dataclasses.replace(self, epoch_loss=0.0, epoch_images=0, epoch_learnt=0)

    def loss(self) -> float:
        """Mean over this epoch's films so far, skipped updates left out."""
        return self.epoch_loss / max(self.epoch_learnt, 1)

    def images_per_second(self) -> float | None:
        """Rate of training, compilation left out."""
        return self.timed_images / self.timed_seconds if self.timed_seconds else None


class StepsPerCall:
    """How many steps the next call does: a fixed number, or as many as last `CALL_SECONDS`.

    Other work on the devices or the host can make a call seem long, never short; so a number is
    only raised, and by no less than to its double, since each is a program to compile.
    """

    def __init__(self, fixed: int | None):
        self.steps = fixed or 1
        self._fixed = fixed is not None
        self._compiled: set[int] = set()

    def record(self, steps: int, seconds: float) -> bool:
        """Takes note of a call; whether it ran without compiling first."""
        timed = steps in self._compiled
        self._compiled.add(steps)
        fitting = int(CALL_SECONDS * steps / seconds)
        if timed and not self._fixed and fitting >= 2 * self.steps:
            self.steps = fitting
        return timed
