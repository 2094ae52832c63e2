"""What all implementations of the network compute. Imports no library but NumPy."""

import dataclasses
from typing import Any, Literal

import numpy as np

POOL_DROPOUT = (0.25, 0.5, 0.5, 0.5)
DECODER_DROPOUT = 0.5
LEARNING_RATE = 5e-4
EPSILON = 1e-7
PARAMETERS = 2_158_417
"""Of the network with the default widths."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """Work, batch and network of a measurement."""

    work: Literal["train", "predict"]
    """A step of Adam on the cross entropy with dropout; or logits without dropout."""
    batch: int = 16
    size: int = 256
    """Height and width of the images in pixels."""
    widths: tuple[int, ...] = (16, 32, 64, 128, 256)
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Dtype of the computation; parameters are float32."""

    def __post_init__(self) -> None:
        """Makes a tuple of the widths, which the command line gives as a list."""
        object.__setattr__(self, "widths", tuple(self.widths))

    @property
    def dropout(self) -> tuple[float, ...]:
        """Dropout rate after each pool; the last one repeats in deeper networks."""
        pools = len(self.widths) - 1
        return (POOL_DROPOUT + POOL_DROPOUT[-1:] * pools)[:pools]

    def batch_arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns random images ``[B, H, W, 1]`` in [0, 1] and uint8 masks of 0 and 1."""
        rng = np.random.default_rng(0)
        shape = (self.batch, self.size, self.size)
        return rng.random((*shape, 1), np.float32), (rng.random(shape) < 0.25).astype(np.uint8)

    def prepared(self, run: Any, parameters: int, **metadata: Any) -> Any:
        """Returns `benchmarks.worker.Prepared`.

        Raises:
            ValueError: The network does not have `PARAMETERS` parameters.
        """
        if self.widths == Setting("train").widths and parameters != PARAMETERS:
            raise ValueError(f"the network has {parameters:,} parameters, not {PARAMETERS:,}")
        return {self.work: run}, {"parameters": parameters, **metadata}
