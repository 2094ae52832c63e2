"""Tiny archives in the release's layout, for tests of the code that reads them."""

import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import openpyxl
from PIL import Image

FOLDER = "COVID-19_Radiography_Dataset"
ALL_CLASSES = ("COVID", "Lung_Opacity", "Normal", "Viral Pneumonia")


def image_pixels(class_name: str, number: int) -> np.ndarray:
    """An image of the release's size in coarse squares, unique to the class and number."""
    rng = np.random.default_rng((zlib.crc32(class_name.encode()), number))
    return np.kron(rng.integers(0, 256, (23, 23), dtype=np.uint8), np.ones((13, 13), np.uint8))


def mask_pixels(class_name: str, number: int) -> np.ndarray:
    """A mask of the release's size in coarse squares, unique to the class and number."""
    rng = np.random.default_rng((zlib.crc32(class_name.encode()), number, 1))
    coarse = (255 * (rng.random((16, 16)) < 0.4)).astype(np.uint8)
    return np.kron(coarse, np.ones((16, 16), np.uint8))


def write_folder(parent: Path, images: Mapping[str, Iterable[int]]) -> Path:
    """Writes the unpacked folder: gray images and RGB masks, as in the release."""
    folder = parent / FOLDER
    for class_name, numbers in images.items():
        for kind in ("images", "masks"):
            (folder / class_name / kind).mkdir(parents=True)
        for number in numbers:
            name = f"{class_name}-{number}.png"
            Image.fromarray(image_pixels(class_name, number)).save(
                folder / class_name / "images" / name
            )
            Image.fromarray(mask_pixels(class_name, number)).convert("RGB").save(
                folder / class_name / "masks" / name
            )
    return folder


def write_sheet(path: Path, rows: Iterable[list[Any]], *, streamed: bool = False):
    """Writes a workbook with openpyxl. A streamed one does not state its number of columns."""
    book = openpyxl.Workbook(write_only=streamed)
    sheet = book.create_sheet() if streamed else book.active
    assert sheet is not None
    for row in rows:
        sheet.append(row)
    book.save(path)


def pack(folder: Path, path: Path, compression: int = zipfile.ZIP_STORED) -> Path:
    """Packs the folder as Kaggle does: every entry starts with the name of the folder."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(folder.parent))
    return path
