"""HD95, average surface distances and surface Dice, by jaxseg, MONAI and surface-distance.

    python -m benchmarks.surface [--pairs 64] [--size 256]

All three metrics of a batch of pairs of masks together, in the convention of each library.
"""

import importlib
from functools import partial
from typing import Any

import numpy as np

from benchmarks import losses, protocol
from benchmarks.protocol import Implementation

IMPLEMENTATIONS = (
    Implementation("jaxseg", "benchmarks.surface:by_jaxseg"),
    Implementation("MONAI", "benchmarks.surface:by_monai"),
    Implementation("surface-distance", "benchmarks.surface:by_surface_distance"),
)
Masks = tuple[np.ndarray, np.ndarray]
"""Predicted and actual masks, bool ``[N, H, W]``."""
TOLERANCE = 2.0
"""Pixels, of the surface Dice."""


def lungs(pairs: int, size: int) -> Masks:
    """Returns masks of two ellipses with wavy outlines, and predictions a few pixels away."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:size, :size] / size
    masks = np.zeros((2, pairs, size, size), bool)
    for pair in range(pairs):
        for center in (0.3, 0.7):
            ellipse = np.array([0.5, center, 0.3, 0.14]) + rng.normal(0, 0.01, 4)
            waves, phases = rng.normal(0, 0.04, 6), rng.uniform(0, 2 * np.pi, 6)
            for actual in (True, False):
                y, x = (rows - ellipse[0]) / ellipse[2], (columns - ellipse[1]) / ellipse[3]
                angle = np.arctan2(y, x)
                radius = 1 + sum(
                    wave * np.cos(k * angle + phase)
                    for k, (wave, phase) in enumerate(zip(waves, phases, strict=True), start=2)
                )
                masks[int(actual), pair] |= np.hypot(y, x) < radius
                ellipse = ellipse + rng.normal(0, 0.008, 4)
                waves = waves + rng.normal(0, 0.015, 6)
    return masks[0], masks[1]


def squares(pairs: int, size: int) -> Masks:
    """Returns small squares, and the same 3 columns away; the peers crop to their box."""
    predicted, side = np.zeros((pairs, size, size), bool), max(1, 40 * size // 256)
    predicted[:, size // 2 : size // 2 + side, size // 3 : size // 3 + side] = True
    return predicted, np.roll(predicted, 3, axis=2)


def masks(pairs: int, size: int) -> dict[str, Masks]:
    """Returns masks by name."""
    return {
        f"two lungs, {size} x {size}": lungs(pairs, size),
        f"small square in {size} x {size}": squares(pairs, size),
        f"two lungs, {2 * size} x {2 * size}": lungs(pairs, 2 * size),
    }


def by_jaxseg(**settings: int) -> Any:
    """Both conventions."""
    import jax

    from jaxseg import surface

    def read(distances: surface.SurfaceDistances) -> Any:
        return (
            distances.hausdorff(95.0),
            distances.average(),
            distances.one_way_averages(),
            distances.normalized_dice(TOLERANCE),
        )

    def run(program: Any, masks: Any) -> Any:
        return jax.block_until_ready(program(*masks))

    cases = {}
    for convention in ("monai", "surface-distance"):
        program = jax.jit(partial(surface.measure, read, convention=convention))
        for name, pair in masks(**settings).items():
            cases[f"{name}, {convention} convention"] = partial(run, program, jax.device_put(pair))
    return cases, {"device": jax.devices()[0].device_kind}


def by_monai(**settings: int) -> Any:
    """On the GPU if PyTorch has one."""
    monai: Any = importlib.import_module("monai.metrics")
    torch: Any = importlib.import_module("torch")
    device = "cuda" if torch.cuda.is_available() else "cpu"

    def run(predicted: Any, actual: Any) -> Any:
        pair = {"y_pred": predicted, "y": actual, "include_background": True}
        results = (
            monai.compute_hausdorff_distance(**pair, percentile=95),
            monai.compute_average_surface_distance(**pair, symmetric=True),
            monai.compute_surface_dice(**pair, class_thresholds=[TOLERANCE]),
        )
        return [result.cpu() for result in results]

    cases = {}
    for name, pair in masks(**settings).items():
        tensors = [torch.from_numpy(mask)[:, None].to(device) for mask in pair]
        cases[f"{name}, monai convention"] = partial(run, *tensors)
    return cases, {"device": torch.cuda.get_device_name() if device == "cuda" else "cpu"}


def by_surface_distance(**settings: int) -> Any:
    """One pair after another, in NumPy and SciPy."""
    library: Any = importlib.import_module("surface_distance")

    def run(predicted: np.ndarray, actual: np.ndarray) -> None:
        for p, a in zip(predicted, actual, strict=True):
            distances = library.compute_surface_distances(a, p, (1.0, 1.0))
            library.compute_robust_hausdorff(distances, 95)
            library.compute_average_surface_distance(distances)
            library.compute_surface_dice_at_tolerance(distances, TOLERANCE)

    cases = {}
    for name, pair in masks(**settings).items():
        cases[f"{name}, surface-distance convention"] = partial(run, *pair)
    return cases, {}


if __name__ == "__main__":
    protocol.main("surface", __doc__, IMPLEMENTATIONS, losses.COLUMNS, pairs=64, size=256)
