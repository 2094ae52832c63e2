"""Surface measures and losses beside MONAI, surface-distance and segmentation_models_pytorch.

    python -m benchmarks.metrics [surface] [losses] [--repeats N]

All who do the same work take turns in one process, on the same arrays; the table gives medians, and
how many times as long a peer takes as jaxseg does in that run. Compilation is apart. A peer that is
not installed is left out, and a line says so. All run on the CPU. About five minutes on two cores.
"""

import argparse
import importlib
import importlib.util
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg import losses, surface

Contenders = dict[str, Callable[[], Any]]
"""What each library runs, ours first."""

TOLERANCE = 2.0


def installed(module: str) -> bool:
    """Whether a peer is there; a line says so where it is not."""
    found = importlib.util.find_spec(module) is not None
    if not found:
        print(f"  {module} is not installed: left out")
    return found


def peer(module: str) -> Any:
    """A module that need not be installed, and whose types nobody checks."""
    return importlib.import_module(module)


def require_cpu() -> None:
    """Ends where jaxseg would run on an accelerator, since the peers here run on the CPU.

    Raises:
        SystemExit: It would.
    """
    if (backend := jax.default_backend()) != "cpu":
        raise SystemExit(
            f"jaxseg would run on the {backend} and its peers on the CPU: set JAX_PLATFORMS=cpu"
        )


def compare(title: str, contenders: Contenders, repeats: int) -> None:
    """Runs the contenders in turn and prints each one's median and its ratio to the first."""
    for run in contenders.values():
        jax.block_until_ready(run())
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, run in contenders.items():
            start = time.perf_counter()
            jax.block_until_ready(run())
            seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    ours = next(iter(medians.values()))
    for name, median in medians.items():
        spread = f"{1e3 * min(seconds[name]):.1f} to {1e3 * max(seconds[name]):.1f}"
        print(
            f"  {title:38s} {name:28s} {1e3 * median:9.1f} ms  ({spread})  {median / ours:6.1f} x",
            flush=True,
        )


# Surface measures.


def lungs(count: int, size: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Films with two wobbling ellipses, and predictions that come a few pixels near to them."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:size, :size] / size
    predicted, actual = np.zeros((2, count, size, size), bool)

    def ellipse(place, waves, phases):
        row, column, height, width = place
        angle = np.arctan2((rows - row) / height, (columns - column) / width)
        wobble = sum(
            wave * np.cos(k * angle + phase)
            for k, (wave, phase) in enumerate(zip(waves, phases, strict=True), start=2)
        )
        return np.hypot((rows - row) / height, (columns - column) / width) < 1 + wobble

    for film in range(count):
        for middle in (0.3, 0.7):
            place = np.array([0.5, middle, 0.3, 0.14]) + rng.normal(0, 0.01, 4)
            waves, phases = rng.normal(0, 0.04, 6), rng.uniform(0, 2 * np.pi, 6)
            actual[film] |= ellipse(place, waves, phases)
            place, waves = place + rng.normal(0, 0.008, 4), waves + rng.normal(0, 0.015, 6)
            predicted[film] |= ellipse(place, waves, phases)
    return predicted, actual


def squares(count: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """A small square in each film, and the same 3 columns off: the peers crop to it."""
    predicted = np.zeros((count, size, size), bool)
    predicted[:, size // 2 : size // 2 + 40, size // 3 : size // 3 + 40] = True
    return predicted, np.roll(predicted, 3, axis=2)


def read(distances: surface.SurfaceDistances) -> tuple[Any, ...]:
    """HD95, both average surface distances and the surface Dice."""
    return (
        distances.hausdorff(95.0),
        distances.average(),
        distances.one_way_averages(),
        distances.normalized_dice(TOLERANCE),
    )


def monai_surface(predicted: np.ndarray, actual: np.ndarray) -> Callable[[], Any]:
    """HD95, ASSD and surface Dice by MONAI."""
    metrics = peer("monai.metrics")
    torch = peer("torch")
    masks = torch.tensor(predicted)[:, None], torch.tensor(actual)[:, None]

    def run():
        return (
            metrics.compute_hausdorff_distance(*masks, include_background=True, percentile=95),
            metrics.compute_average_surface_distance(
                *masks, include_background=True, symmetric=True
            ),
            metrics.compute_surface_dice(*masks, [TOLERANCE], include_background=True),
        )

    return run


def surface_distance_surface(predicted: np.ndarray, actual: np.ndarray) -> Callable[[], Any]:
    """HD95, both average distances and surface Dice by surface-distance."""
    other = peer("surface_distance")

    def run():
        results = []
        for i in range(len(predicted)):
            distances = other.compute_surface_distances(actual[i], predicted[i], (1.0, 1.0))
            results.append(
                (
                    other.compute_robust_hausdorff(distances, 95),
                    other.compute_average_surface_distance(distances),
                    other.compute_surface_dice_at_tolerance(distances, TOLERANCE),
                )
            )
        return results

    return run


def our_surface(
    predicted: np.ndarray, actual: np.ndarray, convention: surface.Convention
) -> Callable[[], Any]:
    """The same by jaxseg, compiled; a line says how long that took and how much room it takes."""
    masks = jnp.asarray(predicted), jnp.asarray(actual)

    def measure(predicted, actual):
        return surface.measure(read, predicted, actual, convention=convention)

    return compiled(measure, *masks, name=f"{convention} convention")


def compiled(function: Callable[..., Any], *arguments: Any, name: str = "") -> Callable[[], Any]:
    """The function compiled for its arguments and bound to them."""
    start = time.perf_counter()
    program = jax.jit(function).lower(*arguments).compile()
    if name:
        seconds, memory = time.perf_counter() - start, program.memory_analysis()
        room = f", {memory.temp_size_in_bytes / 1e6:.0f} MB of room" if memory else ""
        print(f"  {name}, {arguments[0].shape}: compiled in {seconds:.1f} s{room}")
    return lambda: program(*arguments)


def surface_section(repeats: int) -> None:
    """HD95, ASSD and surface Dice together, each peer in its convention, and the transform."""
    print("\nHD95 + average distances + surface Dice of 64 pairs of masks")
    conventions: dict[surface.Convention, tuple[str, bool, Callable[..., Callable[[], Any]]]] = {
        "monai": ("MONAI", installed("monai"), monai_surface),
        "surface-distance": (
            "surface-distance",
            installed("surface_distance"),
            surface_distance_surface,
        ),
    }
    for title, masks in {
        "two lungs, 64 of 256x256": lungs(64, 256),
        "a 40x40 square, 64 of 256x256": squares(64, 256),
        "two lungs, 64 of 512x512": lungs(64, 512),
    }.items():
        for convention, (name, there, theirs) in conventions.items():
            contenders: Contenders = {f"jaxseg as {name}": our_surface(*masks, convention)}
            if there:
                contenders[name] = theirs(*masks)
            compare(title, contenders, repeats)
    print("\nDistance transform")
    mask = lungs(16, 256)[1]
    contenders = {"jaxseg": compiled(surface.distance_transform, jnp.asarray(mask))}
    if installed("scipy"):
        ndimage = peer("scipy.ndimage")
        contenders["SciPy"] = lambda: [ndimage.distance_transform_edt(film) for film in mask]
    compare("two lungs, 16 of 256x256", contenders, repeats)


# Losses.


def torch_loss(loss: Callable[..., Any], logits: np.ndarray, labels: Any) -> Callable[[], Any]:
    """Value and gradient of a PyTorch loss."""
    torch = peer("torch")
    inputs = torch.tensor(np.moveaxis(logits, -1, 1).copy(), requires_grad=True)

    def run():
        inputs.grad = None
        loss(inputs, labels).backward()

    return run


def our_loss(
    loss: Callable[..., jax.Array], logits: np.ndarray, labels: np.ndarray
) -> Callable[[], Any]:
    """Value and gradient of the batch's mean."""
    step = jax.value_and_grad(lambda logits, labels: jnp.mean(loss(logits, labels)))
    return compiled(step, jnp.asarray(logits), jnp.asarray(labels))


def monai_losses(classes: int) -> dict[str, Any]:
    """MONAI's losses by our names."""
    theirs = peer("monai.losses")
    output = {"sigmoid": True} if classes == 1 else {"softmax": True, "to_onehot_y": True}
    shared = {
        "soft_dice": theirs.DiceLoss(**output),
        "jaccard": theirs.DiceLoss(jaccard=True, **output),
        "tversky": theirs.TverskyLoss(alpha=0.3, beta=0.7, **output),
        "generalized_dice": theirs.GeneralizedDiceLoss(**output),
        "focal": theirs.FocalLoss(use_softmax=classes > 1, to_onehot_y=classes > 1),
    }
    return shared | ({"hausdorff_dt": theirs.HausdorffDTLoss(sigmoid=True)} if classes == 1 else {})


def smp_losses(classes: int) -> dict[str, Any]:
    """segmentation_models_pytorch's losses by our names."""
    theirs = peer("segmentation_models_pytorch.losses")
    mode = "binary" if classes == 1 else "multiclass"
    entropy = (
        theirs.SoftBCEWithLogitsLoss()
        if classes == 1
        else theirs.SoftCrossEntropyLoss(smooth_factor=0.0)
    )
    lovasz = "lovasz_hinge" if classes == 1 else "lovasz_softmax"
    return {
        "cross_entropy": entropy,
        "soft_dice": theirs.DiceLoss(mode),
        "jaccard": theirs.JaccardLoss(mode),
        "tversky": theirs.TverskyLoss(mode, alpha=0.3, beta=0.7),
        "focal_tversky": theirs.TverskyLoss(mode, alpha=0.3, beta=0.7, gamma=0.75),
        "focal": theirs.FocalLoss(mode),
        lovasz: theirs.LovaszLoss(mode, per_image=True),
    }


def losses_section(repeats: int) -> None:
    """Value and gradient of every loss that a peer has, too."""
    print("\nValue and gradient of losses on 16 images of 256x256")
    monai, smp = installed("monai"), installed("segmentation_models_pytorch")
    for classes in (1, 4):
        rng = np.random.default_rng(0)
        logits = rng.standard_normal((16, 256, 256, classes), np.float32)
        labels = rng.integers(0, max(classes, 2), (16, 256, 256), np.int32)
        peers: dict[str, dict[str, Any]] = {}
        if monai:
            peers["MONAI"] = monai_losses(classes)
        if smp:
            peers["segmentation_models_pytorch"] = smp_losses(classes)
        for name in sorted({name for shared in peers.values() for name in shared}):
            contenders: Contenders = {"jaxseg": our_loss(getattr(losses, name), logits, labels)}
            for library, shared in peers.items():
                if name in shared:
                    targets = torch_labels(library, classes, labels)
                    contenders[library] = torch_loss(shared[name], logits, targets)
            compare(f"{name}, K = {classes}", contenders, repeats)


def torch_labels(library: str, classes: int, labels: np.ndarray) -> Any:
    """Labels as the library takes them: with a channel, and of floats where binary."""
    tensor = peer("torch").tensor(labels)
    if classes == 1:
        return tensor[:, None].float()
    return tensor[:, None] if library == "MONAI" else tensor.long()


SECTIONS = {"surface": surface_section, "losses": losses_section}


def main() -> None:
    """Runs the sections named on the command line, or all.

    Raises:
        SystemExit: An option will not do, or jaxseg would not run on the CPU.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("sections", nargs="*", metavar="section", help=" or ".join(SECTIONS))
    parser.add_argument("--repeats", type=int, default=7, help="turns of each (default: 7)")
    options = parser.parse_args()
    unknown = [name for name in options.sections if name not in SECTIONS]
    if unknown:
        parser.error(f"section: invalid choice {unknown[0]!r} (choose from {', '.join(SECTIONS)})")
    if options.repeats < 1:
        parser.error(f"--repeats: must be at least 1, got {options.repeats}")
    require_cpu()
    warnings.simplefilter("ignore")
    device = jax.devices()[0]
    print(
        f"jax {jax.__version__}, {device.device_kind}, Python {platform.python_version()}, "
        f"{platform.machine()}, {time.strftime('%Y-%m-%d')}"
    )
    for name in options.sections or SECTIONS:
        SECTIONS[name](options.repeats)


if __name__ == "__main__":
    main()
