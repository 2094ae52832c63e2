"""Reads image files as uint8 arrays and mask files as class ids.

PNG, JPEG, TIFF, BMP and DICOM files are read here and nowhere else.
"""

import io
import unicodedata
import warnings
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from jaxseg.data import dicom
from jaxseg.data.decoding import (
    LOSSY,
    Source,
    eight_bits,
    exact_values,
    gray_values,
    is_plain_gray,
    opened,
)
from jaxseg.errors import DataWarning, InputError

Resize = Literal["bilinear", "nearest"]

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".tif", ".tiff", ".bmp", ".dcm", ".dicom")
"""Suffixes of image files, in lower case. Files of other names are read if they are DICOM."""

IGNORED = 255
"""Class id of pixels that are left out of losses and metrics."""

_RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "nearest": Image.Resampling.NEAREST}


class ImageAndSpacing(NamedTuple):
    """An image and its scale.

    Attributes:
        pixels: uint8 ``[H, W, C]``.
        spacing_mm: Distance between pixel centers along height and width, or None if unknown.
    """

    pixels: UInt8[np.ndarray, "H W C"]
    spacing_mm: tuple[float, float] | None


class Mask(NamedTuple):
    """A mask as class ids.

    Attributes:
        labels: uint8 ``[H, W]``; 0 is background and `IGNORED` is left out.
        object_pixels: Number of pixels that are neither background nor ignored.
        unnamed_pixels: How many of these have a value that no class names. They are labeled 0.
        unnamed_values: The smallest of these values, at most five.
    """

    labels: UInt8[np.ndarray, "H W"]
    object_pixels: int
    unnamed_pixels: int
    unnamed_values: tuple[int, ...]


def find_images(folder: Path | str, *, suffix: str = "") -> dict[str, Path]:
    """Lists the image files of a folder by stem.

    Args:
        folder: A folder. Its subfolders are not searched.
        suffix: Text at the end of every stem that is not part of the name, such as ``_mask``.

    Returns:
        The files, sorted by name. A stem is in Unicode's composed form, so that names from
        different systems match. Broken symbolic links are included; reading one fails.

    Raises:
        InputError: There is no such folder, it holds no image, or two images have the same stem.

    Warns:
        jaxseg.errors.DataWarning: The folder holds other files. Hidden files are skipped silently.
    """
    folder, suffix = Path(folder), unicodedata.normalize("NFC", suffix)
    try:
        files = sorted(file for file in folder.iterdir() if not file.name.startswith("."))
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror})") from error
    found: dict[str, Path] = {}
    skipped: list[str] = []
    for file in files:
        stem = image_stem(file.name)
        if file.is_dir() or not is_image(file) or not stem.endswith(suffix):
            skipped.append(printable(file.name))
        elif (other := found.setdefault(stem.removesuffix(suffix), file)) != file:
            raise InputError(f"{file}: has the same name as {other.name}. Rename one of them")
    if not found:
        named = f" whose name ends in {suffix!r}" if suffix else ""
        raise InputError(f"{folder}: holds no PNG, JPEG, TIFF, BMP or DICOM file{named}")
    if skipped:
        names = ", ".join(skipped[:5]) + (f" and {len(skipped) - 5} more" if skipped[5:] else "")
        message = f"{folder}: skipped {len(skipped)} other files: {names}"
        warnings.warn(message, DataWarning, stacklevel=2)
    return found


def is_image(path: Path) -> bool:
    """Returns whether a file has the suffix of an image or is a DICOM file."""
    return path.suffix.lower() in IMAGE_SUFFIXES or dicom.is_dicom(path)


def image_stem(name: str) -> str:
    r"""Returns a file's name without an image suffix, in Unicode's composed form.

    Bytes that are not UTF-8 become escapes such as ``\udcff``, so that the result can be written.
    """
    name = printable(unicodedata.normalize("NFC", name))
    path = Path(name)
    return path.stem if path.suffix.lower() in IMAGE_SUFFIXES else name


def read_image(
    source: Source, *, channels: int = 1, name: str = "", verify: bool = True
) -> UInt8[np.ndarray, "H W C"]:
    """Reads an image of any kind as 8-bit gray or RGB.

    Color becomes luminance if ``channels`` is 1, and gray is repeated if it is 3. Transparent
    pixels become black. The orientation that a camera noted is applied. Gray images of more than
    8 bits are stretched as in `jaxseg.data.preprocessing.stretch`. Of a 16-bit color PNG only the
    upper 8 bits are used. DICOM files are read as in `jaxseg.data.dicom.read_dicom`.

    Args:
        source: A file, or its content.
        channels: 1 for gray or 3 for RGB.
        name: The name of the content in errors.
        verify: Whether to compare the checksums of a PNG.

    Returns:
        uint8 ``[H, W, channels]``, 0 to 255.

    Raises:
        InputError: The file cannot be read, is damaged, or holds several frames; or ``channels`` is
            neither 1 nor 3.
    """
    return read_image_and_spacing(source, channels=channels, name=name, verify=verify).pixels


def read_image_and_spacing(
    source: Source, *, channels: int = 1, name: str = "", verify: bool = True
) -> ImageAndSpacing:
    """Reads an image as in `read_image`, and the pixel spacing that a DICOM file states."""
    check_channels(channels)
    spacing = None
    if dicom.is_dicom(source):
        pixels, spacing = dicom.read_dicom(source, name)
        pixels = eight_bits(Image.fromarray(pixels), channels)
    else:
        with opened(source, name, verify=verify) as image:
            pixels = eight_bits(image, channels)
    return ImageAndSpacing(pixels.reshape(*pixels.shape[:2], channels), spacing)


def check_channels(channels: int) -> None:
    """Raises InputError unless images have 1 or 3 channels."""
    if channels not in (1, 3):
        raise InputError(f"channels={channels}: must be 1 (gray) or 3 (RGB)")


def read_mask(
    source: Source,
    *,
    classes: Sequence[Collection[int]] | None = None,
    background: Collection[int] | None = (0,),
    ignore: Collection[int] = (),
    name: str = "",
    verify: bool = True,
) -> Mask:
    """Reads a mask as class ids.

    The value of a pixel is its index in a palette image if ``classes`` are given, and its gray
    value otherwise, 8 or 16 bits. Transparent pixels are black.

    Args:
        source: A file, or its content.
        classes: The values of class 1, of class 2 and so on. None: one class, the gray values above
            127.
        background: Values of the background, if ``classes`` are given; None for all other values.
        ignore: Values of pixels to leave out.
        name: The name of the content in errors.
        verify: Whether to compare the checksums of a PNG.

    Returns:
        Class ids, and how many pixels have a value that is not named.

    Raises:
        InputError: The file cannot be read. Or ``classes`` are given, and it is a JPEG or has
            colors. Or they are not given, and it is colored, marks its object by transparency, or
            has values above 0 but none above 127.
    """
    name, unnamed = name or str(source), np.zeros(0)
    with opened(source, name, verify=verify) as image:
        if image.format in LOSSY and (classes is not None or ignore):
            raise InputError(f"{name}: JPEG changes values that name classes. Save as PNG")
        if classes is None:
            values = gray_values(image, name, ignore)
            labels = (values > 127).astype(np.uint8)
        else:
            values = exact_values(image, name)
            labels = np.zeros(values.shape, np.uint8)
            for label, of_class in enumerate(classes, 1):
                labels[np.isin(values, list(of_class))] = label
            if background is not None:
                unnamed = values[(labels == 0) & ~np.isin(values, [*background, *ignore])]
    if ignore:
        labels[np.isin(values, list(ignore))] = IGNORED
    objects = int(np.count_nonzero(labels) - np.count_nonzero(labels == IGNORED)) + unnamed.size
    return Mask(labels, objects, unnamed.size, tuple(np.unique(unnamed)[:5].tolist()))


def size_and_mode(content: bytes, name: str) -> tuple[tuple[int, int], str]:
    """Returns width and height in pixels and Pillow's mode, such as ``RGB``. Decodes no pixels."""
    with opened(content, name, verify=False) as image:
        return image.size, image.mode


def resize_image(
    image: UInt8[np.ndarray, "H W *C"], size: int, resize: Resize = "bilinear"
) -> UInt8[np.ndarray, "S S *C"]:
    """Resizes an image to a square. Proportions are not kept.

    Args:
        image: ``[H, W]``, or ``[H, W, C]`` with 1 or 3 channels.
        size: Height and width of the result in pixels, 1 or more.
        resize: ``bilinear``, antialiased where the image shrinks, or ``nearest``.

    Returns:
        uint8 ``[size, size]`` or ``[size, size, C]``; the same array if it has that size.
    """
    if image.shape[:2] == (size, size):
        return image
    plane = image[..., 0] if image.shape[2:] == (1,) else image
    resized = Image.fromarray(plane).resize((size, size), _RESAMPLING[resize])
    return np.asarray(resized).reshape(size, size, *image.shape[2:])


def resize_mask(mask: UInt8[np.ndarray, "H W"], size: int) -> UInt8[np.ndarray, "S S"]:
    """Resizes a mask to a square by nearest neighbor, so that no new value arises."""
    return resize_image(mask, size, "nearest")


def to_gray(image: UInt8[np.ndarray, "H W C"]) -> UInt8[np.ndarray, "H W"]:
    """Returns the luminance of an image of 1 or 3 channels."""
    return image[..., 0] if image.shape[2] == 1 else np.asarray(Image.fromarray(image).convert("L"))


def png_bytes(pixels: UInt8[np.ndarray, "H W"]) -> bytes:
    """Encodes a gray image as PNG."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()


def gray_png(content: bytes, name: str) -> bytes:
    """Converts an image file to an 8-bit gray PNG; one that is that already is returned as it is.

    Raises:
        InputError: As `read_image`.
    """
    with opened(content, name) as image:
        image.load()
        if image.format == "PNG" and is_plain_gray(image):
            return content
        return png_bytes(eight_bits(image, 1))


def printable(name: str) -> str:
    """Returns a name that can be printed, whatever bytes the file system gave."""
    return name.encode("utf-8", "backslashreplace").decode()
