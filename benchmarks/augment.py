"""Throughput of augmentation against Albumentations and MONAI, and a figure of each change.

    python -m benchmarks.augment [--size N] [--images N] [--repeats N]
    python -m benchmarks.augment --sheet FILE

All libraries make the same kinds of change, with the ranges of `jaxseg.augment.ROBUST`, to the same
phantom images and masks, interleaved in one process; the tables give medians. jaxseg compiles one
program for a batch, outside the timing. The others change one image at a time on one thread, as in
each worker of a data loader, so processor time is given next to wall-clock time. Only jaxseg also
returns which pixels are valid. Needs the extras experiments and peers.
"""

import argparse
import dataclasses
import importlib.metadata
import math
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.metrics import installed, peer
from jaxseg import augment
from jaxseg.augment import ROBUST, Strengths
from jaxseg.data import phantom

KINDS = {
    "affine warp": ("rotation", "scale", "shift", "shear"),
    "blur": ("blur",),
    "contrast, brightness": ("contrast", "brightness"),
    "gamma": ("gamma",),
    "noise": ("noise",),
}
KINDS["all of these"] = tuple(name for kind in KINDS.values() for name in kind)
"""The rows of the table: which strengths are not 0."""

Contenders = dict[str, Callable[[], Any]]


def only(names: tuple[str, ...]) -> Strengths:
    """Those of the robust strengths alone."""
    return Strengths(**{name: getattr(ROBUST, name) for name in names})


def draw_images(count: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """uint8 phantom images ``[N, H, W]`` and their masks of 0 and 1."""
    pairs = [
        phantom.generate(0, phantom.CLASSES[i % 4], i // 4, image_size=size, mask_size=size)
        for i in range(count)
    ]
    masks = np.stack([pair.mask for pair in pairs])
    return np.stack([pair.image for pair in pairs]), (masks > 127).astype(np.uint8)


def ours(images: np.ndarray, masks: np.ndarray, names: tuple[str, ...]) -> Callable[[], Any]:
    """One compiled program for a batch on the device."""
    batch = jax.device_put({"images": images[..., None], "labels": masks})
    key = jax.random.key(0)
    program = jax.jit(augment.make_augment(only(names))).lower(key, batch).compile()
    return lambda: jax.block_until_ready(program(key, batch))


def albumentations(
    images: np.ndarray, masks: np.ndarray, names: tuple[str, ...]
) -> Callable[[], Any]:
    """Image after image as uint8, on which OpenCV is fastest."""
    # Else it asks the network for a newer version of itself.
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    library: Any = peer("albumentations")
    peer("cv2").setNumThreads(1)
    s, steps = only(names), []
    if s.blur:
        width = 2 * math.ceil(3 * s.blur) + 1
        steps.append(library.GaussianBlur((width, width), (0.01, s.blur), p=1))
    if s.rotation:
        shift = (-s.shift, s.shift)
        steps.append(
            library.Affine(
                scale=(1 / (1 + s.scale), 1 + s.scale),
                translate_percent={"x": shift, "y": shift},
                rotate=(-s.rotation, s.rotation),
                shear={"x": (-s.shear, s.shear), "y": 0},
                p=1,
            )
        )
    if s.contrast:
        limits = (1 / (1 + s.contrast) - 1, s.contrast)
        bright = (-s.brightness, s.brightness)
        steps.append(library.RandomBrightnessContrast(bright, limits, p=1))
    if s.gamma:
        steps.append(library.RandomGamma((100 / (1 + s.gamma), 100 * (1 + s.gamma)), p=1))
    if s.noise:
        steps.append(library.GaussNoise((0, s.noise), p=1))
    change = library.Compose(steps, seed=0)
    return lambda: [
        change(image=image, mask=mask) for image, mask in zip(images, masks, strict=True)
    ]


def monai(images: np.ndarray, masks: np.ndarray, names: tuple[str, ...]) -> Callable[[], Any]:
    """Image after image as float32 tensors, which is what its transforms take."""
    library: Any = peer("monai.transforms")
    torch: Any = peer("torch")
    torch.set_num_threads(1)
    size, s, steps = images.shape[1], only(names), []
    if s.blur:
        sigma = (0.01, s.blur)
        steps.append(library.RandGaussianSmoothd(["image"], sigma, sigma, prob=1))
    if s.rotation:
        shift = s.shift * size
        steps.append(
            library.RandAffined(
                ["image", "mask"],
                prob=1,
                rotate_range=math.radians(s.rotation),
                shear_range=[math.tan(math.radians(s.shear)), 0],
                translate_range=[shift, shift],
                scale_range=s.scale,
                mode=["bilinear", "nearest"],
                padding_mode="zeros",
            )
        )
    if s.contrast:
        steps.append(library.RandScaleIntensityd(["image"], s.contrast, prob=1))
        steps.append(library.RandShiftIntensityd(["image"], s.brightness, prob=1))
    if s.gamma:
        limits = (1 / (1 + s.gamma), 1 + s.gamma)
        steps.append(library.RandAdjustContrastd(["image"], prob=1, gamma=limits))
    if s.noise:
        steps.append(library.RandGaussianNoised(["image"], prob=1, std=s.noise))
    change = library.Compose(steps).set_random_state(0)
    pairs = [
        {"image": torch.tensor(image[None] / np.float32(255)), "mask": torch.tensor(mask[None])}
        for image, mask in zip(images, masks, strict=True)
    ]
    return lambda: [change(dict(pair)) for pair in pairs]


def compare(title: str, contenders: Contenders, images: int, repeats: int) -> None:
    """Runs the contenders in turn; prints images a second, ratio to the first, processor time."""
    for run in contenders.values():
        run()
    clock: dict[str, list[float]] = {name: [] for name in contenders}
    processor: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, run in contenders.items():
            began, used = time.perf_counter(), time.process_time()
            run()
            clock[name].append(time.perf_counter() - began)
            processor[name].append(time.process_time() - used)
    first = None
    for name in contenders:
        rate = images / statistics.median(clock[name])
        work = 1e3 * statistics.median(processor[name]) / images
        first = first or rate
        print(f"| {title} | {name} | {rate:,.0f} | {first / rate:.2f} | {work:.2f} |", flush=True)


def throughput(images: np.ndarray, masks: np.ndarray, repeats: int) -> None:
    """The table."""
    contestants = {"jaxseg": ours}
    if installed("albumentations"):
        contestants["Albumentations"] = albumentations
    if installed("monai"):
        contestants["MONAI"] = monai
    versions = [
        f"{name} {importlib.metadata.version(name)}"
        for name in ("jax", *(library.lower() for library in list(contestants)[1:]))
    ]
    print(
        f"{', '.join(versions)}, Python {platform.python_version()}, "
        f"{jax.devices()[0].device_kind}, {platform.machine()}, {time.strftime('%Y-%m-%d')}\n"
        f"{len(images)} images of {images.shape[1]} x {images.shape[2]}\n"
    )
    print("| change | by | images / s | times as long | processor ms per image |")
    print("|---" * 5 + "|")
    for title, names in KINDS.items():
        contenders = {
            name: contestant(images, masks, names) for name, contestant in contestants.items()
        }
        compare(title, contenders, len(images), repeats)


def changed_by(kind: str, fraction: float, image: np.ndarray, mask: np.ndarray) -> dict[str, Any]:
    """A batch of one image changed by a fraction, -1 to 1, of a kind's largest amount."""
    flip = kind in ("flip_left_right", "flip_up_down")
    amount = (1.0 if flip else getattr(ROBUST, kind)) * fraction

    def one(value: float) -> np.ndarray:
        return np.array([value], np.float32)

    def factor(of: str) -> np.ndarray:
        return one((1 + abs(amount)) ** math.copysign(1, amount) if kind == of else 1.0)

    def plain(of: str) -> np.ndarray:
        return one(amount if kind == of else 0.0)

    matrices = augment.affine_matrices(
        (image.shape[0], image.shape[1]),
        rotation=plain("rotation"),
        scale=factor("scale"),
        shift=np.stack([plain("shift"), plain("shift")], 1),
        shear=plain("shear"),
        flip=np.array([[kind == "flip_up_down", kind == "flip_left_right"]]) & (fraction > 0),
    )
    images, labels, where = augment.warp(image[None, ..., None], mask[None], matrices)
    images = augment.blur(images, abs(plain("blur")), largest=ROBUST.blur)
    images = augment.adjust(
        images, contrast=factor("contrast"), brightness=plain("brightness"), gamma=factor("gamma")
    )
    images = augment.add_noise(jax.random.key(0), images, abs(plain("noise")))
    return {"images": images, "labels": labels, "where": where}


def draw_sheet(path: Path, size: int) -> None:
    """A row for each kind at five amounts, and rows of images as training gets them."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    images, masks = draw_images(8, size)
    one_sided = {"blur", "noise", "flip_left_right", "flip_up_down"}
    rows: list[tuple[str, list[tuple[str, dict[str, Any]]]]] = []
    for field in dataclasses.fields(Strengths):
        if field.name == "probability":
            continue
        fractions = (
            (0.0, 0.25, 0.5, 0.75, 1.0) if field.name in one_sided else (-1, -0.5, 0, 0.5, 1)
        )
        if field.name.startswith("flip"):
            fractions = (0.0, 1.0)
        panels = [
            (f"{fraction:g} of it", changed_by(field.name, fraction, images[0], masks[0]))
            for fraction in fractions
        ]
        largest = getattr(ROBUST, field.name)
        rows.append((f"{field.name}\n{largest:g}" if largest else field.name, panels))
    change = augment.make_augment(ROBUST)
    for number in range(1, 5):
        batch = {"images": np.stack([images[number]] * 5)[..., None], "labels": masks[[number] * 5]}
        changed = change(jax.random.key(number), batch)
        panels = [
            ("", {name: array[i : i + 1] for name, array in changed.items()}) for i in range(5)
        ]
        rows.append((f"all, image {number}", panels))
    figure = Figure(figsize=(10, 2.0 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), 5)
    for axes, (title, panels) in zip(grid, rows, strict=True):
        for panel in axes:
            panel.set_axis_off()
        for panel, (caption, batch) in zip(axes, panels, strict=False):
            picture = np.repeat(np.asarray(batch["images"])[0], 3, axis=-1)
            picture[~np.asarray(batch["where"])[0]] = (0.45, 0.0, 0.35)
            panel.imshow(picture, vmin=0, vmax=1)
            panel.contour(np.asarray(batch["labels"])[0], [0.5], colors="#e69f00", linewidths=0.8)
            panel.set_title(caption, fontsize=7)
        axes[0].text(-0.08, 0.5, title, ha="right", va="center", transform=axes[0].transAxes)
    figure.suptitle("Orange: the mask's outline. Purple: invalid pixels, from outside the image.")
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure).print_png(path)
    print(path)


def main() -> None:
    """Prints the table, or draws the sheet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size", type=int, default=256, help="side in pixels (default: 256)")
    parser.add_argument("--images", type=int, default=32, help="images per batch (default: 32)")
    parser.add_argument("--repeats", type=int, default=9, help="rounds of each (default: 9)")
    parser.add_argument("--sheet", type=Path, help="write a figure of all changes to this PNG file")
    options = parser.parse_args()
    for name in ("size", "images", "repeats"):
        if getattr(options, name) < 1:
            parser.error(f"--{name}: must be at least 1, got {getattr(options, name)}")
    if options.sheet:
        draw_sheet(options.sheet, options.size)
    else:
        throughput(*draw_images(options.images, options.size), options.repeats)


if __name__ == "__main__":
    main()
