"""The least time that a chip's published rates allow, for the chips named here."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Chip:
    """Published peaks, of one chip or one card."""

    bfloat16_flops: float
    float32_flops: float
    bytes_per_second: float

    def peak(self, dtype: str) -> float:
        """FLOP/s in "bfloat16" or "float32"."""
        return self.bfloat16_flops if dtype == "bfloat16" else self.float32_flops


CHIPS = {
    "TPU v5 lite": Chip(197e12, 197e12, 819e9),
    "TPU v6 lite": Chip(918e12, 918e12, 1640e9),
    "TPU v5": Chip(459e12, 459e12, 2765e9),
    "TPU v4": Chip(275e12, 275e12, 1228e9),
    "NVIDIA A100-SXM4-40GB": Chip(312e12, 156e12, 1555e9),
    "NVIDIA A100-SXM4-80GB": Chip(312e12, 156e12, 2039e9),
    "NVIDIA H100 80GB HBM3": Chip(989e12, 495e12, 3352e9),
    "NVIDIA H200": Chip(989e12, 495e12, 4800e9),
}
"""By JAX's ``device_kind``. Dense rates. float32: at JAX's default precision, which computes
products in one pass of bfloat16 on TPUs and in TF32 on these GPUs. No CPU: what one reaches is
measured, not published (`benchmarks.layers`)."""


def seconds(
    device: str, dtype: str, flops: float | None, moved: float | None, *, chips: int = 1
) -> float | None:
    """The longer of computing and moving at the published peaks.

    Args:
        device: JAX's ``device_kind``.
        dtype: What is computed in: "bfloat16" or "float32".
        flops: Of the program, over all chips.
        moved: Bytes to and from memory, likewise.
        chips: How many work.

    Returns:
        Seconds; None for a chip that is not in `CHIPS` or a program whose cost is not known.
    """
    chip = CHIPS.get(device)
    if chip is None or flops is None or moved is None:
        return None
    return max(flops / chip.peak(dtype), moved / chip.bytes_per_second) / chips
