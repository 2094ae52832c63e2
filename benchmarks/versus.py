"""This checkout against another version of jaxseg, in one run.

    git worktree add ../old COMMIT
    python -m benchmarks.versus ../old [step] [predict] [losses] [surface] [augment] [--rounds N]

One process a version; the two take turns. The tables show medians and the ratio of this checkout's
time to the other's: below 1 this checkout is faster. The first call includes tracing and compiling.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Work = dict[str, Callable[[], Any]]

SECTIONS = ("step", "predict", "losses", "surface", "augment")


def step(size: int) -> Work:
    """The train step of the Keras baseline's network: batch 16, float32, dropout."""
    import jax
    import numpy as np
    import optax

    import jaxseg
    from jaxseg import losses

    images = np.random.default_rng(0).random((16, size, size, 1), dtype=np.float32)
    batch = {"images": images, "labels": (images[..., 0] > 0.5).astype(np.int32)}
    model = jaxseg.UNet(dropout=(0.25, 0.5, 0.5, 0.5), decoder_dropout=0.5)
    tx = optax.adam(5e-4)
    state = jaxseg.TrainState.create(model, tx, jax.random.key(0), images)
    compiled = jax.jit(jaxseg.make_train_step(model, tx, losses.cross_entropy), donate_argnums=0)

    def run() -> Any:
        nonlocal state
        state, measured = compiled(state, batch)
        return measured

    return {"train step": run}


def predict(size: int) -> Work:
    """Inference of the same network, batch 4."""
    import jax
    import numpy as np
    import optax

    import jaxseg
    from jaxseg import inference

    images = np.random.default_rng(0).random((4, size, size, 1), dtype=np.float32)
    model = jaxseg.UNet()
    state = jaxseg.TrainState.create(model, optax.adam(1e-3), jax.random.key(0), images)
    compiled = jax.jit(inference.make_predict(model))
    return {"predict": lambda: compiled(state, images)}


def losses(size: int) -> Work:
    """Value and gradient of every loss on a batch of 16, class ids, K = 1 and 4."""
    import jax
    import numpy as np

    import jaxseg

    rng, work = np.random.default_rng(0), {}
    for classes in (1, 4):
        logits = jax.device_put(rng.normal(size=(16, size, size, classes)).astype(np.float32))
        labels = jax.device_put(rng.integers(0, max(classes, 2), (16, size, size), np.int32))
        for name in jaxseg.losses.__all__:
            if name in ("combine", "deep_supervision") or (name == "lovasz_hinge" and classes > 1):
                continue
            loss = getattr(jaxseg.losses, name)
            gradient = jax.jit(jax.value_and_grad(lambda z, t, loss=loss: loss(z, t).mean()))
            work[f"{name}, K = {classes}"] = lambda g=gradient, z=logits, t=labels: g(z, t)
    return work


def surface(size: int) -> Work:
    """Surface distances of 64 pairs of blobs in both conventions, and the distance transform."""
    import jax
    import numpy as np
    from scipy import ndimage

    from jaxseg import surface

    noise = np.random.default_rng(0).normal(size=(128, size, size))
    blobs = ndimage.gaussian_filter(noise, (0, size / 16, size / 16)) > 0
    predicted, actual = map(jax.device_put, (blobs[:64], blobs[64:]))
    work: Work = {"distance transform": lambda: surface.distance_transform(actual)}
    for convention in ("monai", "surface-distance"):
        options: Any = {"convention": convention}
        work |= {
            f"HD95, {convention}": lambda options=options: surface.hausdorff(
                predicted, actual, percentile=95, **options
            ),
            f"average distance, {convention}": (
                lambda options=options: surface.average_surface_distance(
                    predicted, actual, **options
                )
            ),
            f"surface Dice, {convention}": lambda options=options: surface.normalized_surface_dice(
                predicted, actual, tolerance=2.0, **options
            ),
        }
    return work


def augment(size: int) -> Work:
    """The robust augmentation of a batch of 16."""
    import jax
    import numpy as np

    from jaxseg import augment

    images = np.random.default_rng(0).integers(0, 256, (16, size, size, 1), dtype=np.uint8)
    batch = jax.device_put({"images": images, "labels": (images[..., 0] > 99).astype(np.int32)})
    change = jax.jit(augment.make_augment(augment.ROBUST))
    return {"augment": lambda: change(jax.random.key(0), batch)}


def serve(section: str, size: int) -> None:
    """Runs what standard input names, and prints how long each call took."""
    import jax

    work = {"step": step, "predict": predict, "losses": losses, "surface": surface}
    work = (work | {"augment": augment})[section](size)
    print("|".join(work), flush=True)
    for line in sys.stdin:
        began = time.perf_counter()
        jax.block_until_ready(work[line.strip()]())
        print(time.perf_counter() - began, flush=True)


def start(checkout: Path, section: str, size: int) -> tuple[Callable[[str], float], list[str]]:
    """Starts a version's process; returns a function that times a call, and the calls' names."""
    process = subprocess.Popen(
        [sys.executable, "-P", __file__, "--serve", section, "--size", str(size)],
        env={**os.environ, "PYTHONPATH": str(checkout.resolve())},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    requests: Any = process.stdin
    answers: Any = process.stdout
    names = answers.readline().strip().split("|")

    def seconds(name: str) -> float:
        print(name, file=requests, flush=True)
        return float(answers.readline())

    return seconds, names


def compare(section: str, other: Path, size: int, rounds: int) -> None:
    """Prints a section's table."""
    here, names = start(Path(__file__).parents[1], section, size)
    there, names_there = start(other, section, size)
    print(f"\n| {section}, {size} x {size} | here, ms | other, ms | ratio | first call, ratio |")
    print("|---|---|---|---|---|", flush=True)
    for name in [name for name in names if name in names_there]:
        first = here(name) / there(name)
        pairs = [(here(name), there(name)) for _ in range(rounds)]
        ours, theirs = (1e3 * statistics.median(times) for times in zip(*pairs, strict=True))
        print(
            f"| {name} | {ours:.1f} | {theirs:.1f} | {ours / theirs:.2f} | {first:.2f} |",
            flush=True,
        )


def main() -> None:
    """Compares the two versions."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("other", nargs="?", type=Path, help="the other checkout")
    parser.add_argument("sections", nargs="*", metavar="section", help=", ".join(SECTIONS))
    parser.add_argument("--size", type=int, help="height and width in pixels")
    parser.add_argument("--rounds", type=int, default=7, help="calls of each version")
    parser.add_argument("--serve", choices=SECTIONS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options.size)
        return
    if options.other is None or not (options.other / "jaxseg").is_dir():
        parser.error(f"{options.other}: no checkout of jaxseg")
    if unknown := set(options.sections) - set(SECTIONS):
        parser.error(f"{min(unknown)}: no such section; there are {', '.join(SECTIONS)}")
    for section in options.sections or SECTIONS:
        size = options.size or (512 if section == "surface" else 256)
        compare(section, options.other, size, options.rounds)


if __name__ == "__main__":
    main()
