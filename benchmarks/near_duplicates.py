"""How well the perceptual hash separates changed copies of an image from other images.

    python -m benchmarks.near_duplicates --manual-dir DIR [--images N]

Changes each image in ways that are common in copies, and counts the bits of the hash that differ.
Then it shows the pairs of different images that differ in the fewest bits. The threshold is between
the two.
"""

import io
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from benchmarks import protocol, report
from experiments import command
from jaxseg.data import near_duplicates
from jaxseg.data.archive import open_archive
from jaxseg.data.images import read_image
from jaxseg.data.preprocessing import preprocess

BICUBIC, BILINEAR = Image.Resampling.BICUBIC, Image.Resampling.BILINEAR
COLUMNS = ("name", "median_bits", "largest_bits", "found_percent")


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


def labeled(image: np.ndarray) -> np.ndarray:
    """With a white label over a corner."""
    image = image.copy()
    image[:30, :80] = 255
    return image


CHANGES: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
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
    "with a label": labeled,
}


def main() -> None:
    """Measures and publishes."""
    parser = protocol.parser(__doc__)
    parser.add_argument("--manual-dir", type=Path, required=True, help="folder of the archive")
    parser.add_argument("--images", type=int, default=200, help="number of images to change (200)")
    options = parser.parse_args()
    with open_archive(options.manual_dir) as archive:
        pairs, _ = archive.pairs(archive.classes)
        images = {
            pair.id: read_image(archive.read(pair.image), name=pair.id)[..., 0] for pair in pairs
        }
    ids = list(images)
    hashes = np.stack([near_duplicates.perceptual_hash(image) for image in images.values()])
    chosen = np.linspace(0, len(ids) - 1, min(options.images, len(ids))).astype(int)
    rows, show = [], command.bar("changing images")
    for done, (name, change) in enumerate(CHANGES.items(), 1):
        changed = [near_duplicates.perceptual_hash(change(images[ids[i]])) for i in chosen]
        bits = np.bitwise_count(np.stack(changed) ^ hashes[chosen]).sum(axis=1)
        row = {"name": name, "median_bits": float(np.median(bits)), "largest_bits": int(bits.max())}
        found = 100 * float((bits <= near_duplicates.MAX_HASH_DISTANCE).mean())
        rows.append(row | {"found_percent": found})
        show(done, len(CHANGES))
    settings = {"images": len(chosen), "threshold": near_duplicates.MAX_HASH_DISTANCE}
    report.publish(report.make("near_duplicates", settings, rows), COLUMNS, options.json)
    count = len(near_duplicates.near_duplicate_pairs(hashes))
    print(f"\n{count} pairs at or below the threshold. The closest above it, in bits:")
    for one, other, bits in near_duplicates.closest_pairs(hashes, count=8):
        print(f"{ids[one]}, {ids[other]}: {bits}")


if __name__ == "__main__":
    command.run(main)
