"""Pictures of any kind as uint8 films and 0/1 masks, and both at the network's size."""

import contextlib
import io
import itertools
import struct
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Num, UInt8
from PIL import Image, ImageChops, ImageOps

from jaxseg.errors import InputError

Resize = Literal["bilinear", "nearest"]

_RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "nearest": Image.Resampling.NEAREST}

_NEARLY_GREY = 16
"""As far as the channels of a mask's grey may be apart."""

_DEEP_GREY = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")


def read_film(path: Path | str) -> UInt8[np.ndarray, "H W"]:
    """Reads one film as grey, upright, 8 bits.

    Colour becomes luminance, transparent parts black, and the orientation that the camera noted
    is applied. A film of more than 8 bits is stretched: its 0.1 percentile becomes 0, its 99.9
    percentile 255 (a film of one value becomes black). Of a 16-bit colour PNG only the upper
    8 bits of each channel are seen.

    Args:
        path: a PNG or JPEG file, or whatever else Pillow opens.

    Returns:
        uint8, 0 to 255, at the film's own size.

    Raises:
        InputError: the file cannot be read as a picture.
    """
    with _opened(path, str(path), checked=True) as image:
        return _film(image)


def read_mask(
    path: Path | str, mask_values: Collection[int] | None = None
) -> UInt8[np.ndarray, "H W"]:
    """Reads one mask: 1 on the object, 0 elsewhere.

    Args:
        path: a PNG or JPEG file: 1-bit, palette, grey of 8 or 16 bits, RGB or RGBA. Colours count
            as black where they are transparent.
        mask_values: the grey values that are the object; None: those above 127.

    Returns:
        uint8, 0 and 1, at the mask's own size.

    Raises:
        InputError: the file cannot be read as a picture; or ``mask_values`` is None and the mask is
            coloured, has its object in its transparency, or has values above 0 but none above 127,
            as masks of class ids have; or they are given and the file is a JPEG, which changes
            values.
    """
    with _opened(path, str(path), checked=True) as image:
        return _mask(image, mask_values, str(path))


def read_classes(path: Path | str, classes: Sequence[Collection[int]]) -> UInt8[np.ndarray, "H W"]:
    """Reads one mask of one or more classes, which its values tell apart.

    Args:
        path: a PNG file, or whatever else Pillow opens without loss. In a palette picture a
            pixel's value is its index, whatever colour that has; in any other it is the grey, of
            8 or 16 bits, and 0 or 255 where there is but one bit.
        classes: the values of class 1, of class 2 and so on, at most 255 of them; no value twice.

    Returns:
        uint8 class ids at the mask's own size; 0, the background, for all other values.

    Raises:
        InputError: the file cannot be read as a picture, is a JPEG, which changes values, or is
            coloured and has no palette.
    """
    with _opened(path, str(path), checked=True) as image:
        values = _class_values(image, str(path))
    labels = np.zeros(values.shape, np.uint8)
    for label, own in enumerate(classes, 1):
        labels[np.isin(values, list(own))] = label
    return labels


def decode_film(data: bytes, name: str) -> UInt8[np.ndarray, "H W"]:
    """``read_film`` of bytes known to be whole; ``name`` is what to call it in an error."""
    with _opened(io.BytesIO(data), name) as image:
        return _film(image)


def decode_resized_film(
    data: bytes, name: str, size: int, method: Resize = "bilinear"
) -> UInt8[np.ndarray, "S S"]:
    """``resize_film`` of ``decode_film``, of a grey PNG without an array between the two."""
    with _opened(io.BytesIO(data), name) as image:
        if _is_plain_grey_png(image, data):
            return np.asarray(image.resize((size, size), _RESAMPLING[method]))
        return resize_film(_film(image), size, method)


def decode_mask(data: bytes, name: str, *, checked: bool = False) -> UInt8[np.ndarray, "H W"]:
    """``read_mask`` of bytes, values above 127.

    Args:
        data: the file's bytes.
        name: what to call it in an error.
        checked: whether to look if a PNG is damaged; needless where that was done before.

    Raises:
        InputError: as ``read_mask``.
    """
    with _opened(io.BytesIO(data), name, checked=checked) as image:
        return _mask(image, None, name)


def picture_kind(data: bytes, name: str) -> tuple[tuple[int, int], str]:
    """What a picture's file says of it; the pixels are not unpacked.

    Args:
        data: the file's bytes.
        name: what to call it in an error.

    Returns:
        Width and height in pixels, and Pillow's name for its mode, such as ``L`` or ``RGB``.

    Raises:
        InputError: the bytes are no picture, or one of more pixels than Pillow takes for honest.
    """
    with _opened(io.BytesIO(data), name) as image:
        return image.size, image.mode


def grey_film_png(data: bytes, name: str) -> bytes:
    """A film's file as a grey 8-bit PNG; the very same bytes if it is one.

    Args:
        data: the file's bytes, of any kind that ``read_film`` reads.
        name: what to call it in an error.

    Raises:
        InputError: the bytes are no picture or are damaged.
    """
    with _opened(io.BytesIO(data), name, checked=True) as image:
        if _is_plain_grey_png(image, data):
            return data
        return _png(_film(image))


def grey_mask_png(data: bytes, name: str) -> bytes:
    """A mask's file as a grey 8-bit PNG, values as they are; the very same bytes if it is one.

    Args:
        data: the file's bytes, of any kind that ``read_mask`` reads.
        name: what to call it in an error.

    Raises:
        InputError: as ``read_mask``.
    """
    with _opened(io.BytesIO(data), name, checked=True) as image:
        plain = _is_plain_grey_png(image, data)
        _mask(image, None, name)
        return data if plain else _png(np.asarray(_upright_grey(image)))


def resize_film(
    film: UInt8[np.ndarray, "H W"], size: int, method: Resize = "bilinear"
) -> UInt8[np.ndarray, "S S"]:
    """Resizes a film to a square, disregarding its proportions.

    Args:
        film: any size.
        size: the side in pixels, 1 or more.
        method: ``bilinear``, antialiased where it shrinks; or ``nearest``.

    Returns:
        A new picture, or the very film where it has that size.
    """
    if film.shape == (size, size):
        return film
    return np.asarray(Image.fromarray(film).resize((size, size), _RESAMPLING[method]))


def resize_mask(mask: UInt8[np.ndarray, "H W"], size: int) -> UInt8[np.ndarray, "S S"]:
    """Resizes a mask to a square by nearest neighbour: no value arises that was not there."""
    return resize_film(mask, size, "nearest")


def stretched(values: Num[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W"]:
    """Maps values of any range to 8 bits: the 0.1 percentile to 0, the 99.9 percentile to 255.

    Where the two are equal, and where a value is NaN, the result is 0.
    """
    finite = values[np.isfinite(values)]
    low, high = np.percentile(finite, (0.1, 99.9)) if finite.size else (0, 0)
    if high <= low:
        return np.zeros(values.shape, np.uint8)
    unit = np.nan_to_num(np.clip((values - low) / (high - low), 0, 1))
    return np.round(255 * unit).astype(np.uint8)


@contextlib.contextmanager
def _opened(
    source: Path | str | io.BytesIO, name: str, *, checked: bool = False
) -> Iterator[Image.Image]:
    """Opens a picture; whatever Pillow makes of a bad one becomes an InputError."""
    try:
        if checked:
            _check_whole(source)
        with Image.open(source) as image:
            yield image
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{name}: there is no such file") from error
    # Pillow raises SyntaxError for broken PNG chunks, ValueError for impossible modes, struct.error
    # and others for broken EXIF.
    except (
        OSError, EOFError, SyntaxError, ValueError, struct.error, IndexError, KeyError, TypeError,
        Image.DecompressionBombError,
    ) as error:  # fmt: skip
        reason = "" if isinstance(error, Image.UnidentifiedImageError) else f" ({error})"
        raise InputError(f"{name}: cannot be read as a picture{reason}") from error


def _check_whole(source: Path | str | io.BytesIO) -> None:
    """Looks at the checksums of a PNG, which Pillow passes over when it unpacks the pixels."""
    with Image.open(source) as image:
        if image.format == "PNG":
            image.verify()


def _film(image: Image.Image) -> np.ndarray:
    if image.mode in _DEEP_GREY:
        return stretched(np.asarray(ImageOps.exif_transpose(image), dtype=np.float64))
    deep_colour = image.format == "PNG" and _raw_mode(image).endswith(";16B")
    grey = np.asarray(_upright_grey(image))
    return stretched(grey.astype(np.float64)) if deep_colour else grey


def _mask(image: Image.Image, mask_values: Collection[int] | None, name: str) -> np.ndarray:
    if mask_values is not None:
        _check_lossless(image, name)
    if image.mode in _DEEP_GREY:
        values = np.asarray(ImageOps.exif_transpose(image))
    else:
        if mask_values is None:
            _check_not_coloured(image, name)
        values = np.asarray(_upright_grey(image))
    if mask_values is not None:
        return np.isin(values, list(mask_values)).astype(np.uint8)
    if values.size and 0 < values.max() <= 127:
        raise InputError(
            f"{name}: has no grey value above 127, but some up to {values.max()}; say which of "
            f"them are the object (--classes NAME={values.max()} in train, --mask-values in "
            "evaluate)"
        )
    return (values > 127).astype(np.uint8)


def _class_values(image: Image.Image, name: str) -> np.ndarray:
    _check_lossless(image, name)
    image = ImageOps.exif_transpose(image)
    if image.mode in (*_DEEP_GREY, "L", "P"):
        return np.asarray(image)
    if image.mode == "1":
        return np.asarray(image.convert("L"))
    red, green, blue = np.moveaxis(np.asarray(image.convert("RGB")), -1, 0)
    if (red != green).any() or (green != blue).any():
        raise InputError(
            f"{name}: is coloured; classes are told apart by grey values or by palette indices, so "
            "save it as grey class numbers or with a palette"
        )
    return red


def _check_not_coloured(image: Image.Image, name: str) -> None:
    """Of colours some would count as object and some not, by how bright they are."""
    if image.mode in ("1", "L") or image.format in ("JPEG", "MPO"):
        return
    # Pillow's own arithmetic, for a release has 21,165 such masks.
    *colours, alpha = image.convert("RGBA").split()
    seen = alpha.point([0] + [255] * 255)
    red, green, blue = (ImageChops.multiply(colour, seen) for colour in colours)
    differences = itertools.starmap(
        ImageChops.difference, ((red, green), (green, blue), (blue, red))
    )
    if max(_largest(difference) for difference in differences) > _NEARLY_GREY:
        raise InputError(
            f"{name}: is coloured; a mask is white on black, or the values of its object are named "
            "(--classes in train, --mask-values in evaluate)"
        )
    share = seen.histogram()[255] / (image.width * image.height)
    if 0 < share < 0.5 and not any(map(_largest, (red, green, blue))):
        raise InputError(f"{name}: is black wherever it is not transparent; make the object white")


def _largest(plane: Image.Image) -> int:
    """The largest value of a picture of one channel of 8 bits."""
    return int(np.max(plane.getextrema()))


def _check_lossless(image: Image.Image, name: str) -> None:
    if image.format in ("JPEG", "MPO"):
        raise InputError(
            f"{name}: JPEG changes grey values, so that they cannot name classes; masks of named "
            "values must be PNG files"
        )


def _upright_grey(image: Image.Image) -> Image.Image:
    """Luminance over black, turned as its EXIF orientation says; may be the very picture given."""
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode == "L" and "transparency" not in image.info:
        return image
    if image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
        colours = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), colours)
    return image.convert("L")


def _png(picture: UInt8[np.ndarray, "H W"]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="PNG")
    return file.getvalue()


def _is_plain_grey_png(image: Image.Image, data: bytes) -> bool:
    return (
        image.format == "PNG"
        and _raw_mode(image) == "L"
        and "transparency" not in image.info
        # Asking Pillow for the orientation would unpack the pixels.
        and b"eXIf" not in data
    )


def _raw_mode(image: Image.Image) -> str:
    """How the pixels of a picture just opened are packed in its file."""
    tiles = getattr(image, "tile", [])
    return str(tiles[0][3]) if tiles else ""
