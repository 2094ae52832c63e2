"""Tiny archives in the release's layout, for tests of what reads them."""

import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

FOLDER = "COVID-19_Radiography_Dataset"
ALL_CLASSES = ("COVID", "Lung_Opacity", "Normal", "Viral Pneumonia")


def film_pixels(class_name: str, number: int) -> np.ndarray:
    """A film of its own for every class and number, of the release's size, in coarse squares."""
    rng = np.random.default_rng((zlib.crc32(class_name.encode()), number))
    return np.kron(rng.integers(0, 256, (23, 23), dtype=np.uint8), np.ones((13, 13), np.uint8))


def mask_pixels(class_name: str, number: int) -> np.ndarray:
    """A mask of its own for every class and number, of the release's size, in coarse squares."""
    rng = np.random.default_rng((zlib.crc32(class_name.encode()), number, 1))
    coarse = (255 * (rng.random((16, 16)) < 0.4)).astype(np.uint8)
    return np.kron(coarse, np.ones((16, 16), np.uint8))


def write_folder(parent: Path, films: Mapping[str, Iterable[int]]) -> Path:
    """Writes the unpacked folder: grey films, RGB masks, as the release has them."""
    folder = parent / FOLDER
    for class_name, numbers in films.items():
        for kind in ("images", "masks"):
            (folder / class_name / kind).mkdir(parents=True)
        for number in numbers:
            name = f"{class_name}-{number}.png"
            Image.fromarray(film_pixels(class_name, number)).save(
                folder / class_name / "images" / name
            )
            Image.fromarray(mask_pixels(class_name, number)).convert("RGB").save(
                folder / class_name / "masks" / name
            )
    return folder


def pack(folder: Path, path: Path, compression: int = zipfile.ZIP_STORED) -> Path:
    """Packs the folder as Kaggle does: the folder's own name first in every entry."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(folder.parent))
    return path
