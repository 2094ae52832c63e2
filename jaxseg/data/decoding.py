"""Opens image files with Pillow, and takes gray, color and mask values from them."""

import contextlib
import io
from collections.abc import Collection, Iterator
from itertools import combinations
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops, ImageOps

from jaxseg.data.preprocessing import stretch
from jaxseg.errors import InputError

Source = Path | str | bytes

_DEEP_GRAY = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")
LOSSY = ("JPEG", "MPO")
_MAY_CHANGE_PIXELS = {"transparency", "exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"}

# The largest difference between the channels of a mask that counts as gray.
_NEARLY_GRAY = 16


@contextlib.contextmanager
def opened(source: Source, name: str, *, verify: bool = True) -> Iterator[Image.Image]:
    """Opens a file with Pillow, and raises InputError for any error that Pillow raises."""
    name = name or str(source)
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    try:
        if verify:
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


def is_plain_gray(image: Image.Image) -> bool:
    """Returns whether the pixels of a loaded image are its gray values in 8 bits, upright."""
    return image.mode == "L" and not _MAY_CHANGE_PIXELS & image.info.keys()


def eight_bits(image: Image.Image, channels: int) -> np.ndarray:
    """An image in 8 bits, ``[H, W]`` or ``[H, W, 3]``."""
    if image.mode in _DEEP_GRAY:
        values = np.asarray(ImageOps.exif_transpose(image), dtype=np.float64)
        image = Image.fromarray(stretch(values))
    return np.asarray(_upright(image).convert("L" if channels == 1 else "RGB"))


def gray_values(image: Image.Image, name: str, ignore: Collection[int]) -> np.ndarray:
    """Gray values of a mask whose object is bright."""
    if image.mode in _DEEP_GRAY:
        values = np.asarray(ImageOps.exif_transpose(image))
    else:
        _check_not_colored(image, name)
        values = np.asarray(_upright(image).convert("L"))
    seen = np.where(np.isin(values, list(ignore)), 0, values) if ignore else values
    if 0 < (largest := seen.max(initial=0)) <= 127:
        advice = f"If {largest} is the value of an object, name the values of each class"
        if image.format in LOSSY:
            advice = "JPEG changes values, so class ids are lost; save masks as PNG"
        raise InputError(f"{name}: has values up to {largest} but none above 127. {advice}")
    return values


def exact_values(image: Image.Image, name: str) -> np.ndarray:
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
    if image.mode in ("1", "L") or image.format in LOSSY:
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
    if is_plain_gray(image):
        return image
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
        colors = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), colors)
    return image
