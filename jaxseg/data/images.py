"""Reads image files as uint8 arrays and mask files as class ids.

PNG, JPEG, TIFF, BMP and DICOM files are read here and nowhere else.
"""

import contextlib
import io
import unicodedata
import warnings
from collections.abc import Collection, Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageChops, ImageOps

from jaxseg.data import dicom
from jaxseg.data.preprocessing import stretch
from jaxseg.errors import DataWarning, InputError

Source = Path | str | bytes
"""A file, or its content."""

Resize = Literal["bilinear", "nearest"]

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".tif", ".tiff", ".bmp", ".dcm", ".dicom")
"""Suffixes of image files, in lower case. Files of other names are read if they are DICOM."""

IGNORED = 255
"""Class id of pixels that are left out of losses and metrics."""

_RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "nearest": Image.Resampling.NEAREST}
_DEEP_GRAY = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")
_LOSSY = ("JPEG", "MPO")
_MAY_CHANGE_PIXELS = {"transparency", "exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"}

# The largest difference between the channels of a mask that counts as gray.
_NEARLY_GRAY = 16


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


def read_image(source: Source, *, channels: int = 1, name: str = "") -> UInt8[np.ndarray, "H W C"]:
    """Reads an image of any kind as 8-bit gray or RGB.

    Color becomes luminance if ``channels`` is 1, and gray is repeated if it is 3. Transparent
    pixels become black. The orientation that a camera noted is applied. Gray images of more than
    8 bits are stretched as in `jaxseg.data.preprocessing.stretch`. Of a 16-bit color PNG only the
    upper 8 bits are used. DICOM files are read as in `jaxseg.data.dicom.read_dicom`.

    Args:
        source: A file, or its content.
        channels: 1 for gray or 3 for RGB.
        name: The name of the content in errors.

    Returns:
        uint8 ``[H, W, channels]``, 0 to 255.

    Raises:
        InputError: The file cannot be read, is damaged, or holds several frames; or ``channels`` is
            neither 1 nor 3.
    """
    return read_image_and_spacing(source, channels=channels, name=name).pixels


def read_image_and_spacing(
    source: Source, *, channels: int = 1, name: str = ""
) -> dicom.ImageAndSpacing:
    """Reads an image as in `read_image`, and the pixel spacing that a DICOM file states."""
    check_channels(channels)
    spacing = None
    if dicom.is_dicom(source):
        pixels, spacing = dicom.read_dicom(source, name)
        pixels = _eight_bits(Image.fromarray(pixels), channels)
    else:
        with _opened(source, name) as image:
            pixels = _eight_bits(image, channels)
    return dicom.ImageAndSpacing(pixels.reshape(*pixels.shape[:2], channels), spacing)


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

    Returns:
        Class ids, and how many pixels have a value that is not named.

    Raises:
        InputError: The file cannot be read. Or ``classes`` are given, and it is a JPEG or has
            colors. Or they are not given, and it is colored, marks its object by transparency, or
            has values above 0 but none above 127.
    """
    name, unnamed = name or str(source), np.zeros(0)
    with _opened(source, name) as image:
        if image.format in _LOSSY and (classes is not None or ignore):
            raise InputError(f"{name}: JPEG changes values that name classes. Save as PNG")
        if classes is None:
            values = _gray_values(image, name, ignore)
            labels = (values > 127).astype(np.uint8)
        else:
            values = _exact_values(image, name)
            labels = np.zeros(values.shape, np.uint8)
            for label, of_class in enumerate(classes, 1):
                labels[np.isin(values, list(of_class))] = label
            if background is not None:
                unnamed = values[(labels == 0) & ~np.isin(values, [*background, *ignore])]
    if ignore:
        labels[np.isin(values, list(ignore))] = IGNORED
    objects = int(np.count_nonzero((labels != 0) & (labels != IGNORED))) + unnamed.size
    return Mask(labels, objects, unnamed.size, tuple(np.unique(unnamed)[:5].tolist()))


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


def to_gray(image: UInt8[np.ndarray, "H W C"]) -> UInt8[np.ndarray, "H W"]:
    """Returns the luminance of an image of 1 or 3 channels."""
    return image[..., 0] if image.shape[2] == 1 else np.asarray(Image.fromarray(image).convert("L"))


def png_bytes(pixels: UInt8[np.ndarray, "H W *C"]) -> bytes:
    """Encodes a gray ``[H, W]`` or RGB ``[H, W, 3]`` image as PNG, fast rather than small."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()


def gray_png(content: bytes, name: str) -> bytes:
    """Converts an image file to an 8-bit gray PNG; one that is that already is returned as it is.

    Raises:
        InputError: As `read_image`.
    """
    with _opened(content, name) as image:
        image.load()
        if image.format == "PNG" and _is_plain_gray(image):
            return content
        return png_bytes(_eight_bits(image, 1))


def printable(name: str) -> str:
    """Returns a name that can be printed, whatever bytes the file system gave."""
    return name.encode("utf-8", "backslashreplace").decode()


@contextlib.contextmanager
def _opened(source: Source, name: str) -> Iterator[Image.Image]:
    """Opens a file with Pillow, and raises InputError for any error that Pillow raises."""
    name = name or str(source)
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    try:
        with Image.open(file) as image:
            # Pillow does not compare a PNG's checksums when it decodes the pixels.
            if image.format == "PNG":
                image.verify()
        with Image.open(file) as image:
            frames = getattr(image, "n_frames", 1)
            # A phone's JPEG (MPO) carries a preview as its second frame.
            if frames > 1 and image.format != "MPO":
                raise InputError(f"{name}: holds {frames} frames. Save each as its own file")
            yield image
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{name}: there is no such file") from error
    # Pillow raises errors of many kinds for damaged files.
    except Exception as error:
        reason = "" if isinstance(error, Image.UnidentifiedImageError) else f" ({error})"
        raise InputError(f"{name}: cannot be read as an image{reason}") from error


def _is_plain_gray(image: Image.Image) -> bool:
    """Returns whether the pixels of a loaded image are its gray values in 8 bits, upright."""
    return image.mode == "L" and not _MAY_CHANGE_PIXELS & image.info.keys()


def _eight_bits(image: Image.Image, channels: int) -> np.ndarray:
    """An image in 8 bits, ``[H, W]`` or ``[H, W, 3]``."""
    if image.mode in _DEEP_GRAY:
        values = np.asarray(ImageOps.exif_transpose(image), dtype=np.float64)
        image = Image.fromarray(stretch(values))
    return np.asarray(_upright(image).convert("L" if channels == 1 else "RGB"))


def _gray_values(image: Image.Image, name: str, ignore: Collection[int]) -> np.ndarray:
    """Gray values of a mask whose object is bright."""
    if image.mode in _DEEP_GRAY:
        values = np.asarray(ImageOps.exif_transpose(image))
    else:
        _check_not_colored(image, name)
        values = np.asarray(_upright(image).convert("L"))
    seen = np.where(np.isin(values, list(ignore)), 0, values) if ignore else values
    if 0 < (largest := seen.max(initial=0)) <= 127:
        advice = f"If {largest} is the value of an object, name the values of each class"
        if image.format in _LOSSY:
            advice = "JPEG changes values, so class ids are lost; save masks as PNG"
        raise InputError(f"{name}: has values up to {largest} but none above 127. {advice}")
    return values


def _exact_values(image: Image.Image, name: str) -> np.ndarray:
    """Values of a mask whose classes are named by value."""
    image = ImageOps.exif_transpose(image)
    if image.mode in (*_DEEP_GRAY, "L", "P"):
        return np.asarray(image)
    red, green, blue = np.moveaxis(np.asarray(_upright(image).convert("RGB")), -1, 0)
    if (red != green).any() or (green != blue).any():
        raise InputError(
            f"{name}: is colored. Save class ids as gray values or as indices of a palette"
        )
    return red


def _check_not_colored(image: Image.Image, name: str) -> None:
    """Refuses a colored mask: by brightness some of its colors would count as object, some not."""
    if image.mode in ("1", "L") or image.format in _LOSSY:
        return
    # Pillow's arithmetic is fast: the release has 21,165 RGB masks.
    *colors, alpha = image.convert("RGBA").split()
    visible = alpha.point([0] + [255] * 255)
    colors = [ImageChops.multiply(color, visible) for color in colors]
    differences = [ImageChops.difference(*pair).getextrema() for pair in combinations(colors, 2)]
    if np.max(differences) > _NEARLY_GRAY:
        raise InputError(
            f"{name}: is colored. Make the object white on black, or name the values of each class"
        )
    fraction = visible.histogram()[255] / (image.width * image.height)
    if 0 < fraction < 0.5 and not any(color.getbbox() for color in colors):
        raise InputError(f"{name}: is black wherever it is not transparent. Make the object white")


def _upright(image: Image.Image) -> Image.Image:
    """Applies the EXIF orientation and puts transparent images on black."""
    image.load()  # Some chunks of a PNG follow its pixels.
    if _is_plain_gray(image):
        return image
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
        colors = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), colors)
    return image
