"""The shortest time that a chip's published peak rates allow, for the chips listed here."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Chip:
    """Published peaks of one chip."""

    bfloat16_flops: float
    float32_flops: float
    """At JAX's default precision: one bfloat16 pass on TPUs, TF32 on these GPUs."""
    bytes_per_second: float
    memory: float = 0.0
    """Bytes, of TPUs."""
    link_bytes_per_second: float = 0.0
    """Out of a TPU chip over all its links: half of the bidirectional rate."""


CHIPS = {
    "TPU v5 lite": Chip(197e12, 197e12, 819e9, 16e9, 200e9),
    "TPU v6 lite": Chip(918e12, 918e12, 1640e9, 32e9, 400e9),
    "TPU v5": Chip(459e12, 459e12, 2765e9, 95e9, 600e9),
    "NVIDIA A100-SXM4-40GB": Chip(312e12, 156e12, 1555e9),
    "NVIDIA A100-SXM4-80GB": Chip(312e12, 156e12, 2039e9),
    "NVIDIA H100 80GB HBM3": Chip(989e12, 495e12, 3352e9),
    "NVIDIA H200": Chip(989e12, 495e12, 4800e9),
}
"""By JAX's ``device_kind``; dense rates, from the makers' pages. No CPU has a published peak."""


def seconds(device: str, dtype: str, flops: float | None, moved: float | None) -> float | None:
    """Returns the longer of the times for computing and for memory traffic, on one chip.

    Args:
        device: JAX's ``device_kind``.
        dtype: Dtype of the computation, "bfloat16" or "float32".
        flops: Floating-point operations of the program.
        moved: Bytes read from and written to memory.

    Returns:
        Seconds; None for other chips and if the cost is unknown.
    """
    chip = CHIPS.get(device)
    if chip is None or flops is None or moved is None:
        return None
    peak = chip.bfloat16_flops if dtype == "bfloat16" else chip.float32_flops
    return max(flops / peak, moved / chip.bytes_per_second)
