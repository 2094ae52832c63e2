"""Films as DICOM files hold them: grey values as they are meant to be shown, and their spacing.

Needs pydicom (the extra ``dicom``), and for some compressed files what pydicom names.
"""

import math
import struct
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Num, UInt8
from PIL import Image

from jaxseg.data.films import stretched
from jaxseg.errors import InputError

SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")
"""Where a file may say how far apart its pixels are, the best first. The second holds at the
detector, where the body is seen enlarged: lengths and areas by it are too large."""

_PREAMBLE = 128


class DicomFilm(NamedTuple):
    """A film and its scale.

    Attributes:
        pixels: uint8 ``[H, W]``, 0 black.
        spacing_mm: Distance of pixel centres along height and along width, where the file says.
    """

    pixels: UInt8[np.ndarray, "H W"]
    spacing_mm: tuple[float, float] | None


def is_dicom(path: Path) -> bool:
    """Whether a file says of itself that it is DICOM, whatever its name; False if unreadable."""
    try:
        with path.open("rb") as file:
            return file.read(_PREAMBLE + 4)[_PREAMBLE:] == b"DICM"
    except OSError:
        return False


def check_installed() -> None:
    """Raises InputError, which says what to install, where pydicom is not."""
    if find_spec("pydicom") is None:
        raise InputError("DICOM films need pydicom: pip install 'jaxseg[dicom]'")


def read_dicom(path: Path) -> DicomFilm:
    """Reads a DICOM film as grey, 8 bits.

    Stored values become modality values (rescale slope and intercept, or the table), and these are
    shown as the file asks: by its VOI table, else by its first window (PS3.3 C.11.2). A file that
    asks for neither is stretched, its 0.1 percentile to 0 and its 99.9 percentile to 255. Of
    MONOCHROME1, where low values are white, the result is inverted. Colour becomes luminance.
    Pixels that only pad the film (PixelPaddingValue) are black, and stretch nothing.

    Args:
        path: One film, a single frame.

    Raises:
        InputError: pydicom is not installed, or the file is no DICOM file, holds no picture or
            more than one frame, or is compressed in a way that needs another package.
    """
    check_installed()
    import pydicom
    from pydicom.errors import BytesLengthException, InvalidDicomError

    try:
        dataset = pydicom.dcmread(path)
        if int(dataset.get("NumberOfFrames") or 1) > 1:
            raise InputError(f"{path}: has {dataset.NumberOfFrames} frames; a film has one")
        return DicomFilm(_shown(dataset), _spacing_mm(dataset))
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such file") from error
    # pydicom's own errors, and what it makes of missing or senseless elements.
    except (
        OSError, EOFError, AttributeError, IndexError, KeyError, TypeError, ValueError,
        RuntimeError, NotImplementedError, struct.error, InvalidDicomError, BytesLengthException,
    ) as error:  # fmt: skip
        raise InputError(f"{path}: cannot be read as a DICOM film ({error})") from error


def _shown(dataset: Any) -> np.ndarray:
    from pydicom.pixels.processing import apply_modality_lut
    from pydicom.pixels.utils import pixel_array

    kind, stored = dataset.PhotometricInterpretation, pixel_array(dataset)
    if stored.ndim == 3 and stored.dtype == np.uint8:
        return np.asarray(Image.fromarray(stored).convert("L"))
    if stored.ndim != 2 or kind not in ("MONOCHROME1", "MONOCHROME2"):
        raise ValueError(f"{stored.dtype} pixels of {kind}")
    values, padding = apply_modality_lut(stored, dataset), _padding(stored, dataset)
    if tables := dataset.get("VOILUTSequence"):
        little_endian = dataset.file_meta.TransferSyntaxUID.is_little_endian
        shown = _as_bytes(_looked_up(values, tables[0], little_endian=little_endian))
    elif dataset.get("WindowCenter") is not None and dataset.get("WindowWidth") is not None:
        center, width = (float(np.ravel(dataset[f"Window{name}"].value)[0])
                         for name in ("Center", "Width"))  # fmt: skip
        function = str(dataset.get("VOILUTFunction") or "LINEAR").upper()
        shown = _as_bytes(windowed(values.astype(np.float64), center, width, function=function))
    else:
        shown = stretched(np.where(padding, np.nan, values.astype(np.float64)))
    shown = 255 - shown if kind == "MONOCHROME1" else shown
    return np.where(padding, np.uint8(0), shown)


def _padding(stored: np.ndarray, dataset: Any) -> np.ndarray:
    """Pixels that fill the picture up beside the film."""
    named = [dataset.get(name) for name in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
    value, limit = (None if given in (None, "") else int(np.ravel(given)[0]) for given in named)
    if value is None:
        return np.zeros(stored.shape, bool)
    least, most = sorted((value, value if limit is None else limit))
    return (stored >= least) & (stored <= most)


def _looked_up(values: np.ndarray, table: Any, *, little_endian: bool) -> np.ndarray:
    """Brightness from 0 to 1 by a VOI table, PS3.3 C.11.2.1.1; values beyond take its ends.

    pydicom 3.0 counts the places of a table of 8 bits in 8 bits, and so misses all but 256.
    """
    count, first, bits = map(int, table.LUTDescriptor)
    count, entries = count or 2**16, table.LUTData
    if isinstance(entries, bytes):
        wide = len(entries) >= 2 * count
        entries = np.frombuffer(entries, ("<u2" if little_endian else ">u2") if wide else np.uint8)
    entries = np.asarray(entries)[:count].astype(np.float64)
    if len(entries) < count:
        raise ValueError(f"a table of {len(entries)} values that should have {count}")
    places = np.clip(np.floor(values).astype(np.int64) - first, 0, count - 1)
    return entries[places] / (2.0**bits - 1)


def windowed(
    values: Num[np.ndarray, "H W"], center: float, width: float, *, function: str = "LINEAR"
) -> np.ndarray:
    """Brightness from 0 to 1 by a window, as DICOM PS3.3 C.11.2.1.2 and C.11.2.1.3 have it.

    Args:
        values: Modality values.
        center: The window's.
        width: The window's, above 0; for LINEAR 1 or more.
        function: LINEAR, LINEAR_EXACT or SIGMOID.

    Raises:
        ValueError: The width or the function will not do.
    """
    if width < 1 if function == "LINEAR" else width <= 0:
        raise ValueError(f"a window of width {width:g}")
    if function == "SIGMOID":
        return 0.5 * (1 + np.tanh(2 * (values - center) / width))
    if function == "LINEAR_EXACT":
        return np.clip((values - center) / width + 0.5, 0, 1)
    if function != "LINEAR":
        raise ValueError(f"a window function {function}")
    if width == 1:
        return (values > center - 0.5).astype(np.float64)
    return np.clip((values - (center - 0.5)) / (width - 1) + 0.5, 0, 1)


def _as_bytes(brightness: np.ndarray) -> np.ndarray:
    return np.rint(255 * brightness).astype(np.uint8)


def _spacing_mm(dataset: Any) -> tuple[float, float] | None:
    for name in SPACINGS:
        given = dataset.get(name)
        if given is not None and len(given) == 2:
            rows, columns = map(float, given)
            if rows > 0 and columns > 0 and math.isfinite(rows * columns):
                return rows, columns
    return None
