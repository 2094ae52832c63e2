"""Reads DICOM images as they are meant to be shown, with their pixel spacing.

Needs pydicom (the extra ``dicom``). Some compressed files need more; pydicom's error says what.
"""

import contextlib
import io
import math
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Num, UInt8

from jaxseg.data.preprocessing import stretch
from jaxseg.errors import InputError

SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")
"""Where a file may state its pixel spacing, the best first. The second is that of the detector,
on which the body is magnified: lengths and areas come out too large."""

_PREAMBLE = 128
_DIRECTORY = "1.2.840.10008.1.3.10"


class ImageAndSpacing(NamedTuple):
    """An image and its scale.

    Attributes:
        pixels: uint8 ``[H, W]``, 0 black, or ``[H, W, C]``.
        spacing_mm: Distance between pixel centers along height and width, or None if unknown.
    """

    pixels: UInt8[np.ndarray, "H W *C"]
    spacing_mm: tuple[float, float] | None


def is_dicom(source: Path | str | bytes) -> bool:
    """Returns whether a file is DICOM, whatever its name; False if it cannot be read.

    A file without a preamble is recognized by its first element, of group 2 or 8.
    """
    try:
        with io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as file:
            start = file.read(_PREAMBLE + 4)
    except OSError:
        return False
    has_first_element = start[:2] in (b"\x02\0", b"\x08\0") and start[3:4] == b"\0"
    return start[_PREAMBLE:] == b"DICM" or has_first_element


def check_installed() -> None:
    """Raises InputError with an install hint if pydicom is missing."""
    if find_spec("pydicom") is None:
        raise InputError("DICOM images need pydicom: pip install -e '.[dicom]'")


def read_dicom(source: Path | str | bytes, name: str = "") -> ImageAndSpacing:
    """Reads a DICOM image as 8-bit gray or RGB.

    Stored values become modality values by rescale slope and intercept, or by the modality table.
    A missing or invalid slope, and a slope of 0, count as 1. Modality values are shown by the VOI
    table, else by the first window (PS3.3 C.11.2). Values are stretched as in
    `jaxseg.data.preprocessing.stretch` if there is neither, or if the one used is invalid or maps
    the whole image to one gray value. MONOCHROME1 images, whose low values are white, are
    inverted. Padding pixels (PixelPaddingValue) are black.

    Args:
        source: A file with one frame, or its content.
        name: The name of the content in errors.

    Raises:
        InputError: pydicom is not installed; the file is not DICOM, is a report or a directory, has
            several frames, or is compressed in a way that needs another package.
    """
    check_installed()
    import pydicom

    name = name or str(source)
    if not is_dicom(source):
        raise InputError(f"{name}: is not a DICOM file")
    try:
        file = io.BytesIO(source) if isinstance(source, bytes) else source
        dataset = pydicom.dcmread(file, force=True)
        _check_image(dataset, name)
        return ImageAndSpacing(_shown(dataset), _spacing_mm(dataset))
    except InputError:
        raise
    # pydicom raises errors of many kinds for missing or senseless elements.
    except Exception as error:
        raise InputError(f"{name}: cannot be read as a DICOM image ({error})") from error


def _check_image(dataset: Any, name: str) -> None:
    from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

    kind = dataset.file_meta.get("MediaStorageSOPClassUID")
    if kind == _DIRECTORY or "DirectoryRecordSequence" in dataset:
        raise InputError(f"{name}: is a directory of DICOM files (DICOMDIR), not an image")
    if "PixelData" not in dataset:
        modality = dataset.get("Modality") or "unknown"
        raise InputError(f"{name}: holds no image (modality {modality})")
    if (frames := int(dataset.get("NumberOfFrames") or 1)) > 1:
        raise InputError(f"{name}: holds {frames} frames. Save each as its own file")
    is_explicit = dataset.original_encoding[0] is False
    syntax = ExplicitVRLittleEndian if is_explicit else ImplicitVRLittleEndian
    dataset.file_meta.setdefault("TransferSyntaxUID", syntax)


def _shown(dataset: Any) -> np.ndarray:
    from pydicom.pixels.processing import apply_color_lut
    from pydicom.pixels.utils import pixel_array

    kind, stored = dataset.PhotometricInterpretation, pixel_array(dataset)
    if kind == "PALETTE COLOR":
        stored = apply_color_lut(stored, dataset)
        stored = (stored >> 8 if stored.dtype == np.uint16 else stored).astype(np.uint8)
    if stored.ndim == 3 and stored.dtype == np.uint8:
        return stored
    if stored.ndim != 2 or kind not in ("MONOCHROME1", "MONOCHROME2"):
        raise ValueError(f"{stored.dtype} pixels of {kind}")
    padding = _padding(stored, dataset)
    values = _modality_values(stored, dataset)
    brightness = _brightness(values, dataset)
    if brightness is None or np.ptp(brightness[~padding]) == 0 < np.ptp(values[~padding]):
        shown = stretch(np.where(padding, np.nan, values))
    else:
        shown = np.rint(255 * brightness).astype(np.uint8)
    shown = 255 - shown if kind == "MONOCHROME1" else shown
    return np.where(padding, np.uint8(0), shown)


def _padding(stored: np.ndarray, dataset: Any) -> np.ndarray:
    """Pixels that fill up the image around what was exposed."""
    value, limit = (_number(dataset, f"PixelPadding{name}") for name in ("Value", "RangeLimit"))
    if value is None:
        return np.zeros(stored.shape, bool)
    low, high = sorted((value, value if limit is None else limit))
    is_padding = (stored >= low) & (stored <= high)
    return is_padding & ~is_padding.all()


def _modality_values(stored: np.ndarray, dataset: Any) -> np.ndarray:
    from pydicom.pixels.processing import apply_modality_lut

    if dataset.get("ModalityLUTSequence"):
        return apply_modality_lut(stored, dataset).astype(np.float64)
    slope, intercept = _number(dataset, "RescaleSlope"), _number(dataset, "RescaleIntercept")
    return stored * (slope or 1.0) + (intercept or 0.0)


def _brightness(values: np.ndarray, dataset: Any) -> np.ndarray | None:
    """Brightness from 0 to 1 by the VOI table or the window; None if there is no valid one."""
    if tables := dataset.get("VOILUTSequence"):
        little_endian = dataset.file_meta.TransferSyntaxUID.is_little_endian
        # An invalid table leaves the window.
        with contextlib.suppress(AttributeError, TypeError, ValueError):
            return _looked_up(values, tables[0], little_endian=little_endian)
    center, width = _number(dataset, "WindowCenter"), _number(dataset, "WindowWidth")
    if center is None or width is None:
        return None
    return windowed(values, center, width, function=dataset.get("VOILUTFunction") or "LINEAR")


def _looked_up(values: np.ndarray, table: Any, *, little_endian: bool) -> np.ndarray:
    """Brightness from 0 to 1 by a VOI table, PS3.3 C.11.2.1.1; values beyond it take its ends.

    The depth is that of the largest entry: some files declare another. (pydicom 3.0 indexes a
    table of 8 bits with 8 bits, and misses all entries but 256.)
    """
    count, first, _ = map(int, table.LUTDescriptor)
    count, entries = count or 2**16, table.LUTData
    if isinstance(entries, bytes):
        wide = len(entries) >= 2 * count
        entries = np.frombuffer(entries, ("<u2" if little_endian else ">u2") if wide else np.uint8)
    entries = np.asarray(entries)[:count].astype(np.float64)
    if len(entries) < count:
        raise ValueError(f"a table of {len(entries)} values that should have {count}")
    index = np.clip(np.floor(values).astype(np.int64) - first, 0, count - 1)
    bits = max(int(entries.max()), 1).bit_length()
    return entries[index] / (2.0**bits - 1)


def windowed(
    values: Num[np.ndarray, "H W"], center: float, width: float, *, function: str = "LINEAR"
) -> np.ndarray | None:
    """Brightness from 0 to 1 by a window, as DICOM PS3.3 C.11.2.1.2 and C.11.2.1.3 define it.

    Args:
        values: Modality values.
        center: The window's center.
        width: The window's width.
        function: LINEAR, LINEAR_EXACT or SIGMOID.

    Returns:
        float64 ``[H, W]``, or None if the function is unknown or the width is not valid for it: 1
        or more for LINEAR, above 0 for the others.
    """
    if function == "LINEAR" and width == 1:
        return (values > center - 0.5).astype(np.float64)
    if function == "LINEAR" and width > 1:
        return np.clip((values - center + 0.5) / (width - 1) + 0.5, 0, 1)
    if function == "LINEAR_EXACT" and width > 0:
        return np.clip((values - center) / width + 0.5, 0, 1)
    if function == "SIGMOID" and width > 0:
        return 0.5 * (1 + np.tanh(2 * (values - center) / width))
    return None


def _spacing_mm(dataset: Any) -> tuple[float, float] | None:
    for name in SPACINGS:
        rows, columns = (_number(dataset, name, index) or 0.0 for index in (0, 1))
        if rows > 0 and columns > 0:
            return rows, columns
    return None


def _number(dataset: Any, name: str, index: int = 0) -> float | None:
    """A finite number of an optional element, or None if it is missing or is not one."""
    try:
        number = float(np.ravel(dataset.get(name))[index])
    # pydicom parses an element when it is asked for.
    except (IndexError, TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
