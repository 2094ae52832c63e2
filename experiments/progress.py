"""What a run knows about its progress; saved with every checkpoint."""

import dataclasses
from collections.abc import Mapping

import numpy as np


@dataclasses.dataclass(frozen=True)
class Progress:
    """Counts and sums since the start of the run, or of the epoch."""

    step: int = 0
    """The latest step that was recorded."""
    epoch_loss: float = 0.0
    """Sum of the loss over this epoch's images, without skipped updates."""
    epoch_images: int = 0
    """Number of these images."""
    train_seconds: float = 0.0
    """Time in the loop over batches."""
    timed_images: int = 0
    """Images of the steps that `images_per_second` counts."""
    timed_seconds: float = 0.0
    """Time of these steps."""
    skipped: int = 0
    """Updates that were skipped because they were not finite."""
    skipped_in_a_row: int = 0
    """Of these, the ones up to the latest step."""

    def add(
        self, measured: Mapping[str, np.ndarray], seconds: float, *, compiled: bool
    ) -> "Progress":
        """Adds a step.

        Args:
            measured: The metrics of the step.
            seconds: Time since the step before.
            compiled: Whether the step was compiled in this time.
        """
        images, skipped = int(measured["images"]), int(measured["skipped"])
        return dataclasses.replace(
            self,
            step=self.step + 1,
            epoch_loss=self.epoch_loss + (0.0 if skipped else float(measured["loss"]) * images),
            epoch_images=self.epoch_images + (0 if skipped else images),
            train_seconds=self.train_seconds + seconds,
            timed_images=self.timed_images + (0 if compiled else images),
            timed_seconds=self.timed_seconds + (0.0 if compiled else seconds),
            skipped=self.skipped + skipped,
            skipped_in_a_row=self.skipped_in_a_row + 1 if skipped else 0,
        )

    def next_epoch(self) -> "Progress":
        """Resets the sums of the epoch."""
        return dataclasses.replace(self, epoch_loss=0.0, epoch_images=0)

    def loss(self) -> float:
        """Returns the mean loss over this epoch's images, without skipped updates."""
        return self.epoch_loss / max(self.epoch_images, 1)

    def images_per_second(self) -> float | None:
        """Returns the training rate, without the steps that compiled."""
        return self.timed_images / self.timed_seconds if self.timed_seconds else None
