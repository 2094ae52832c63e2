"""Measures how well the perceptual hash separates copies of an image from other images.

    python -m benchmarks.near_duplicates --manual-dir DIR [--images N]

Changes each image as copies are changed and counts the bits of the hash that differ. Then it
shows the pairs of different images that differ in the fewest bits. The threshold is between.
"""

import argparse
import io
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from experiments import command
from jaxseg.data.archive import open_archive
from jaxseg.data.images import read_image
from jaxseg.data.near_duplicates import (
    BITS,
    MAX_HASH_DISTANCE,
    closest_pairs,
    near_duplicate_pairs,
    perceptual_hash,
)
from jaxseg.data.preprocessing import preprocess

BICUBIC, BILINEAR = Image.Resampling.BICUBIC, Image.Resampling.BILINEAR

Change = Callable[[np.ndarray], np.ndarray]


def saved_as_jpeg(image: np.ndarray) -> np.ndarray:
    """Saved at quality 30 and read back."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=30)
    return np.asarray(Image.open(file))


def halved(image: np.ndarray) -> np.ndarray:
    """At half its size."""
    height, width = image.shape
    return np.asarray(Image.fromarray(image).resize((width // 2, height // 2), BICUBIC))


def cropped(image: np.ndarray, border: int) -> np.ndarray:
    """Without some pixels on each side, at the old size."""
    inner = Image.fromarray(image[border:-border, border:-border])
    return np.asarray(inner.resize(image.shape[::-1], BILINEAR))


def with_text(image: np.ndarray) -> np.ndarray:
    """With a white label over a corner."""
    labeled = image.copy()
    labeled[:30, :80] = 255
    return labeled


CHANGES: Mapping[str, Change] = {
    "JPEG of quality 30": saved_as_jpeg,
    "half its size": halved,
    "brighter by 30": lambda image: (image.astype(np.int16) + 30).clip(0, 255).astype(np.uint8),
    "gamma 0.7": lambda image: (255 * (image / 255) ** 0.7).astype(np.uint8),
    "gamma 1.5": lambda image: (255 * (image / 255) ** 1.5).astype(np.uint8),
    "equalized": lambda image: np.asarray(ImageOps.equalize(Image.fromarray(image))),
    "equalized adaptively": lambda image: preprocess(image[..., None], "clahe")[..., 0],
    "moved by 2 pixels": lambda image: np.roll(image, (2, 2), (0, 1)),
    "rotated by 1 degree": lambda image: np.asarray(Image.fromarray(image).rotate(1, BILINEAR)),
    "cropped by 3 pixels": lambda image: cropped(image, 3),
    "cropped by 8 pixels": lambda image: cropped(image, 8),
    "with a label": with_text,
}


def main() -> None:
    """Reads the command line and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--manual-dir", type=Path, required=True)
    parser.add_argument("--images", type=int, default=200, help="number of images to change")
    options = parser.parse_args()
    with open_archive(options.manual_dir) as archive:
        pairs, _ = archive.pairs(archive.classes)
        images = {
            pair.id: read_image(archive.read(pair.image), name=pair.id)[..., 0] for pair in pairs
        }
    ids = list(images)
    hashes = np.stack([perceptual_hash(image) for image in images.values()])
    chosen = np.linspace(0, len(ids) - 1, min(options.images, len(ids))).astype(int)
    print(
        f"{len(chosen)} of {len(ids)} images changed; {BITS} bits, threshold {MAX_HASH_DISTANCE}\n"
    )
    print("| change | bits that differ, median | largest | images found, % |\n|---|---|---|---|")
    tell = command.bar("changing images")
    for done, (name, change) in enumerate(CHANGES.items(), 1):
        changed = np.stack([perceptual_hash(change(images[ids[image]])) for image in chosen])
        differ = np.bitwise_count(changed ^ hashes[chosen]).sum(axis=1)
        found = 100 * (differ <= MAX_HASH_DISTANCE).mean()
        print(f"| {name} | {np.median(differ):.0f} | {differ.max()} | {found:.1f} |", flush=True)
        tell(done, len(CHANGES))
    print(
        f"\n{len(near_duplicate_pairs(hashes))} pairs at or below the threshold. "
        "The closest above it:\n"
    )
    print("| images | bits that differ |\n|---|---|")
    for one, other, bits in closest_pairs(hashes, count=8):
        print(f"| {ids[one]}, {ids[other]} | {bits} |")


if __name__ == "__main__":
    command.run(main)
