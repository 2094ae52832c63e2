"""What a run has trained so far. It is saved with every checkpoint."""

import dataclasses
import time
from collections.abc import Mapping
from typing import Any

import numpy as np


@dataclasses.dataclass
class Progress:
    """Counts and sums since the start of the run or of the epoch."""

    step: int = 0
    """The latest recorded step."""
    epoch_loss: float = 0.0
    """Sum of the loss over this epoch's images, without skipped updates."""
    epoch_images: int = 0
    """Number of these images."""
    train_seconds: float = 0.0
    """Time in train steps."""
    timed_images: int = 0
    """Images of the steps that ``images_per_second`` uses."""
    timed_seconds: float = 0.0
    """Time of these steps."""
    skipped: int = 0
    """Updates that were skipped because they were not finite."""
    skipped_in_a_row: int = 0
    """Number of skipped updates up to the latest step."""
    best_dice: float | None = None
    """The best mean validation Dice."""
    epochs_without_gain: int = 0
    """Epochs since then."""

    def __post_init__(self) -> None:
        """Starts the clock. The first step compiles."""
        self._clock, self._is_first = time.perf_counter(), True

    def start_clock(self) -> None:
        """Leaves the time since the latest step out, such as that of validation."""
        self._clock = time.perf_counter()

    def add(self, metrics: Mapping[str, np.ndarray]) -> None:
        """Adds the metrics of the next step."""
        now = time.perf_counter()
        seconds, self._clock = now - self._clock, now
        images, skipped = int(metrics["images"]), int(metrics["skipped"])
        self.step += 1
        self.train_seconds += seconds
        self.skipped += skipped
        self.skipped_in_a_row = self.skipped_in_a_row + 1 if skipped else 0
        if not skipped:
            self.epoch_loss += float(metrics["loss"]) * images
            self.epoch_images += images
        if not self._is_first:
            self.timed_images += images
            self.timed_seconds += seconds
        self._is_first = False

    def end_epoch(self, dice: float | None) -> None:
        """Adds the epoch's mean validation Dice; None or NaN is not better than any."""
        self.epoch_loss, self.epoch_images = 0.0, 0
        is_better = dice is not None and dice > (-1.0 if self.best_dice is None else self.best_dice)
        if is_better:
            self.best_dice = dice
        self.epochs_without_gain = 0 if is_better else self.epochs_without_gain + 1

    def loss(self) -> float:
        """Returns the mean loss over this epoch's images, without skipped updates."""
        return self.epoch_loss / max(self.epoch_images, 1)

    def rates(self) -> dict[str, Any]:
        """Returns skipped updates, time in train steps, and images per second after compiling."""
        rate = self.timed_images / self.timed_seconds if self.timed_seconds else None
        return {
            "skipped": self.skipped,
            "train_seconds": self.train_seconds,
            "images_per_second": rate,
        }

    def divergence(self, checkpoint: int | None) -> str:
        """Returns the message that training cannot continue, with the latest checkpoint's step."""
        saved = "no checkpoint was saved" if checkpoint is None else f"step {checkpoint} is saved"
        return (
            f"step {self.step}: loss or gradient was not finite {self.skipped_in_a_row} times in a "
            f"row; {saved}. Try a lower --learning-rate or a --clip-norm in a new --workdir"
        )
