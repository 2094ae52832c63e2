"""Films in DICOM files that are made here, beside pydicom's own windows and PS3.3's formulas."""

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_windowing

from jaxseg.data.dicom import is_dicom, read_dicom
from jaxseg.data.films import stretched
from jaxseg.errors import InputError
from tests.dicom_file import write_dicom

STORED = np.random.default_rng(0).integers(0, 4096, (20, 30), np.uint16)


def written(path, stored=STORED, **elements):
    return write_dicom(path, stored, **elements)


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize("slope", [1, 2.5])
def test_windows_show_what_pydicom_shows(function, slope, tmp_path):
    path = written(
        tmp_path / "film.dcm", WindowCenter=[3000, 1], WindowWidth=[2000, 1],
        VOILUTFunction=function, RescaleSlope=slope, RescaleIntercept=-300,
    )  # fmt: skip
    dataset = pydicom.dcmread(path)
    shown = apply_windowing(STORED.astype(np.float64) * slope - 300, dataset)
    low, high = -300, 4095 * slope - 300
    expected = 255 * (shown - low) / (high - low)
    film = read_dicom(path)
    assert film.pixels.dtype == np.uint8
    np.testing.assert_allclose(film.pixels, expected, atol=0.51)
    assert film.pixels.min() < 5
    assert film.spacing_mm is None


@pytest.mark.parametrize(("bits", "kind"), [(8, np.uint8), (8, np.uint16), (12, np.uint16)])
@pytest.mark.parametrize(("first", "count"), [(0, 4096), (1000, 2000)])
def test_a_table_of_values_goes_before_a_window(bits, kind, first, count, tmp_path):
    table, most = Dataset(), 2**bits - 1
    curve = (most * (np.arange(count) / (count - 1)) ** 2).astype(kind)
    table.LUTDescriptor, table.LUTData = [count, first, bits], curve.tobytes()
    path = written(tmp_path / "film.dcm", VOILUTSequence=[table], WindowCenter=100, WindowWidth=10)
    expected = curve[np.clip(STORED.astype(int) - first, 0, count - 1)] * (255 / most)
    np.testing.assert_allclose(read_dicom(path).pixels, expected, atol=0.51)
    table.LUTData = table.LUTData[:1000]
    with pytest.raises(InputError, match=r"film\.dcm: .* should have"):
        read_dicom(
            written(tmp_path / "film.dcm", VOILUTSequence=[table], WindowCenter=1, WindowWidth=10)
        )


@pytest.mark.parametrize(
    "elements", [{"PixelPaddingValue": 9, "PixelPaddingRangeLimit": None},
                 {"PixelPaddingValue": [9, 9]}, {"PixelPaddingValue": None}],
)  # fmt: skip
def test_odd_padding_elements_do_not_hide_a_film(elements, tmp_path):
    film = read_dicom(written(tmp_path / "film.dcm", np.maximum(STORED, 10), **elements))
    plain = read_dicom(written(tmp_path / "plain.dcm", np.maximum(STORED, 10)))
    np.testing.assert_array_equal(film.pixels, plain.pixels)


@pytest.mark.parametrize("kind", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_black_and_stretches_nothing(kind, tmp_path):
    padded = np.concatenate([STORED % 1000 + 800, np.full((20, 4), 4000, np.uint16)], axis=1)
    padded[0, -1] = 4095
    alone = read_dicom(written(tmp_path / "a.dcm", padded[:, :-4], PhotometricInterpretation=kind))
    film = read_dicom(
        written(tmp_path / "b.dcm", padded, PhotometricInterpretation=kind,
                PixelPaddingValue=4000, PixelPaddingRangeLimit=4095)
    )  # fmt: skip
    np.testing.assert_array_equal(film.pixels[:, :-4], alone.pixels)
    assert not film.pixels[:, -4:].any()


def test_a_window_of_one_is_a_threshold(tmp_path):
    path = written(tmp_path / "film.dcm", WindowCenter=2000, WindowWidth=1)
    np.testing.assert_array_equal(read_dicom(path).pixels, np.where(STORED > 1999.5, 255, 0))


def test_a_film_without_window_is_stretched_and_monochrome1_inverted(tmp_path):
    plain = read_dicom(written(tmp_path / "plain.dcm")).pixels
    np.testing.assert_array_equal(plain, stretched(STORED))
    inverted = written(tmp_path / "inverted.dcm", PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_array_equal(read_dicom(inverted).pixels, 255 - plain)


def test_colour_becomes_luminance(tmp_path):
    colours = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
    path = written(
        tmp_path / "film.dcm", colours, SamplesPerPixel=3, PhotometricInterpretation="RGB",
        PlanarConfiguration=0, BitsAllocated=8, BitsStored=8, HighBit=7,
    )  # fmt: skip
    luminance = colours @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(read_dicom(path).pixels, luminance, atol=1)


@pytest.mark.parametrize(
    ("elements", "spacing"),
    [
        ({"PixelSpacing": [0.2, 0.3], "ImagerPixelSpacing": [0.5, 0.5]}, (0.2, 0.3)),
        ({"ImagerPixelSpacing": [0.143, 0.15]}, (0.143, 0.15)),
        ({"NominalScannedPixelSpacing": [0.175, 0.175]}, (0.175, 0.175)),
        ({"PixelSpacing": [0, 0]}, None),
        ({}, None),
    ],
)
def test_spacing_is_the_best_that_the_file_names(elements, spacing, tmp_path):
    assert read_dicom(written(tmp_path / "film.dcm", **elements)).spacing_mm == spacing


def test_what_is_no_film_is_named(tmp_path):
    (tmp_path / "scribble.dcm").write_text("scribble")
    (tmp_path / "report.dcm").write_bytes(written(tmp_path / "film.dcm").read_bytes()[:400])
    frames = written(tmp_path / "frames.dcm", np.stack([STORED, STORED]), NumberOfFrames=2,
                     Rows=20, Columns=30)  # fmt: skip
    window = written(tmp_path / "window.dcm", WindowCenter=5, WindowWidth=0)
    for name, word in [
        ("scribble.dcm", "cannot be read as a DICOM film"),
        ("report.dcm", "cannot be read as a DICOM film"),
        (frames.name, "2 frames"),
        (window.name, "width 0"),
        ("absent.dcm", "no such file"),
    ]:
        with pytest.raises(InputError, match=f"{name}.*{word}"):
            read_dicom(tmp_path / name)


def test_a_dicom_file_is_known_by_its_content(tmp_path):
    assert is_dicom(written(tmp_path / "1.2.840.5"))
    (tmp_path / "other.dcm").write_bytes(bytes(200))
    assert not is_dicom(tmp_path / "other.dcm")
    assert not is_dicom(tmp_path / "absent.dcm")
