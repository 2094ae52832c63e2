"""What all contenders run: the network, the batch and what is asked of it. Imports no library."""

import dataclasses
import json
from collections.abc import Callable
from typing import Any, Literal

POOL_DROPOUT = (0.25, 0.5, 0.5, 0.5)
DECODER_DROPOUT = 0.5
LEARNING_RATE = 5e-4
EPSILON = 1e-7
PARAMETERS = 2_158_417
"""Of the network at `Setting`'s own widths."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """One measurement's conditions."""

    work: Literal["train", "predict"] = "train"
    """A step of Adam on the cross entropy with dropout on, or logits with dropout off."""
    batch: int = 16
    size: int = 256
    """Side of the films in pixels."""
    widths: tuple[int, ...] = (16, 32, 64, 128, 256)
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What is computed in; parameters are float32."""
    data: Literal["device", "host"] = "device"
    """device: one batch that lies there. host: every step takes another from the host's memory."""

    @property
    def dropout(self) -> tuple[float, ...]:
        """Rate after each pool: the seed's, the last repeated or cut off to the depth."""
        pools = len(self.widths) - 1
        return (POOL_DROPOUT + POOL_DROPOUT[-1:] * pools)[:pools]

    def as_json(self) -> str:
        """One line, for the worker's command line."""
        return json.dumps(dataclasses.asdict(self))

    @staticmethod
    def from_json(line: str) -> "Setting":
        """Reads `as_json`."""
        values = json.loads(line)
        return Setting(**{**values, "widths": tuple(values["widths"])})


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A contender ready to run."""

    run: Callable[[], None]
    """One step, or one prediction; returns when it is done."""
    facts: dict[str, Any]
    """What is known of it: ``parameters``, ``versions``, and where the library says so
    ``compile_seconds``, ``flops``, ``bytes`` and ``temporary_bytes`` of the compiled program."""


def films(setting: Setting, batches: int) -> tuple[Any, Any]:
    """Random films, float32 in [0, 1] ``[N, B, H, W, 1]``, and random masks, uint8 0 or 1."""
    import numpy as np

    rng = np.random.default_rng(0)
    shape = (batches, setting.batch, setting.size, setting.size)
    return rng.random((*shape, 1), np.float32), (rng.random(shape) < 0.25).astype(np.uint8)
