"""How well the perceptual hash tells copies of a film from other films.

    python -m benchmarks.likeness --manual-dir DIR [--films N]

Changes each film in the ways that copies go through and counts the bits of the hash that differ;
then shows the pairs of different films that differ in the fewest. The threshold lies between.
"""

import argparse
import io
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from experiments import command
from jaxseg.data.archive import open_archive
from jaxseg.data.films import decode_film
from jaxseg.data.likeness import BITS, NEAR, closest_pairs, near_pairs, perceptual_hash
from jaxseg.data.preprocessing import preprocess

BICUBIC, BILINEAR = Image.Resampling.BICUBIC, Image.Resampling.BILINEAR

Change = Callable[[np.ndarray], np.ndarray]


def saved_as_jpeg(film: np.ndarray) -> np.ndarray:
    """Saved at quality 30 and read back."""
    file = io.BytesIO()
    Image.fromarray(film).save(file, "JPEG", quality=30)
    return np.asarray(Image.open(file))


def halved(film: np.ndarray) -> np.ndarray:
    """At half its size."""
    height, width = film.shape
    return np.asarray(Image.fromarray(film).resize((width // 2, height // 2), BICUBIC))


def cropped(film: np.ndarray, border: int) -> np.ndarray:
    """Without some pixels on each side, at the old size."""
    inner = Image.fromarray(film[border:-border, border:-border])
    return np.asarray(inner.resize(film.shape[::-1], BILINEAR))


def with_text(film: np.ndarray) -> np.ndarray:
    """With a white label over a corner."""
    labelled = film.copy()
    labelled[:30, :80] = 255
    return labelled


CHANGES: Mapping[str, Change] = {
    "JPEG of quality 30": saved_as_jpeg,
    "half its size": halved,
    "brighter by 30": lambda film: (film.astype(np.int16) + 30).clip(0, 255).astype(np.uint8),
    "gamma 0.7": lambda film: (255 * (film / 255) ** 0.7).astype(np.uint8),
    "gamma 1.5": lambda film: (255 * (film / 255) ** 1.5).astype(np.uint8),
    "equalised": lambda film: np.asarray(ImageOps.equalize(Image.fromarray(film))),
    "equalised adaptively": lambda film: preprocess(film, "clahe"),
    "moved by 2 pixels": lambda film: np.roll(film, (2, 2), (0, 1)),
    "turned by 1 degree": lambda film: np.asarray(Image.fromarray(film).rotate(1, BILINEAR)),
    "cropped by 3 pixels": lambda film: cropped(film, 3),
    "cropped by 8 pixels": lambda film: cropped(film, 8),
    "with a label": with_text,
}


def main() -> None:
    """Reads the command line and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--manual-dir", type=Path, required=True)
    parser.add_argument("--films", type=int, default=200, help="how many films to change")
    options = parser.parse_args()
    with open_archive(options.manual_dir) as archive:
        listed = archive.films(archive.classes)
        films = {film.id: decode_film(archive.read(film.image), film.id) for film in listed}
    ids = list(films)
    hashes = np.stack([perceptual_hash(film) for film in films.values()])
    chosen = np.linspace(0, len(ids) - 1, min(options.films, len(ids))).astype(int)
    print(f"{len(chosen)} of {len(ids)} films changed; {BITS} bits, threshold {NEAR}\n")
    print("| change | bits that differ, median | largest | films found, % |\n|---|---|---|---|")
    tell = command.bar("changing films")
    for done, (name, change) in enumerate(CHANGES.items(), 1):
        changed = np.stack([perceptual_hash(change(films[ids[film]])) for film in chosen])
        differ = np.bitwise_count(changed ^ hashes[chosen]).sum(axis=1)
        found = 100 * (differ <= NEAR).mean()
        print(f"| {name} | {np.median(differ):.0f} | {differ.max()} | {found:.1f} |", flush=True)
        tell(done, len(CHANGES))
    print(f"\n{len(near_pairs(hashes))} pairs at or below the threshold. The closest above it:\n")
    print("| films | bits that differ |\n|---|---|")
    for one, other, bits in closest_pairs(hashes, count=8):
        print(f"| {ids[one]}, {ids[other]} | {bits} |")


if __name__ == "__main__":
    command.run(main)
