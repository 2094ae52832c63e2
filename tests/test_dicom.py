"""DICOM images that the tests write, compared with pydicom's windows and the formulas of PS3.3."""

import io
import sys

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_windowing

from jaxseg.data.dicom import check_installed, is_dicom, read_dicom, windowed
from jaxseg.data.images import find_images, read_image, read_image_and_spacing
from jaxseg.data.preprocessing import stretch
from jaxseg.errors import InputError
from tests.dicom_file import write_dicom

STORED = np.random.default_rng(0).integers(0, 4096, (20, 30), np.uint16)
COLORS = np.random.default_rng(1).integers(0, 256, (20, 30, 3), np.uint8)
RGB = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB",
       "BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}  # fmt: skip


@pytest.fixture
def written(tmp_path):
    """Writes a file and returns its path."""
    return lambda stored=STORED, name="image.dcm", **elements: write_dicom(
        tmp_path / name, stored, **elements
    )


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize("slope", [1, 2.5])
def test_windows_show_what_pydicom_shows(function, slope, written):
    path = written(WindowCenter=[3000, 1], WindowWidth=[2000, 1], VOILUTFunction=function,
                   RescaleSlope=slope, RescaleIntercept=-300)  # fmt: skip
    values = STORED.astype(np.float64) * slope - 300
    shown = apply_windowing(values, pydicom.dcmread(path))
    low, high = -300, 4095 * slope - 300
    expected = (shown - low) / (high - low)
    found = windowed(values, 3000.0, 2000.0, function=function)
    assert found is not None
    np.testing.assert_allclose(found, expected, atol=1e-9)
    pixels = read_dicom(path).pixels
    assert pixels.dtype == np.uint8
    np.testing.assert_allclose(pixels, 255 * expected, atol=0.51)


def test_a_linear_window_of_width_1_is_a_threshold_and_invalid_windows_are_none(written):
    path = written(WindowCenter=2000, WindowWidth=1)
    np.testing.assert_array_equal(read_dicom(path).pixels, np.where(STORED > 1999.5, 255, 0))
    values = STORED.astype(np.float64)
    np.testing.assert_array_equal(windowed(values, 2000.5, 1.0), values > 2000)
    invalid = [(0.5, "LINEAR"), (0.0, "LINEAR_EXACT"), (-1.0, "SIGMOID"), (9.0, "CUBIC")]
    for width, function in invalid:
        assert windowed(values, 5.0, width, function=function) is None


def lookup_table(entries, first=0, declared_bits=12):
    table = Dataset()
    table.LUTDescriptor = [len(entries), first, declared_bits]
    table.LUTData = entries.tobytes()
    return table


@pytest.mark.parametrize(
    ("bits", "kind", "declared"),
    [(8, np.uint8, 8), (8, np.uint16, 8), (12, np.uint16, 12), (12, np.uint16, 16),
     (8, np.uint16, 16), (16, np.uint16, 12)],
)  # fmt: skip
@pytest.mark.parametrize(("first", "count"), [(0, 4096), (1000, 2000)])
def test_a_table_of_values_goes_before_a_window_whatever_depth_it_declares(
    bits, kind, declared, first, count, written
):
    largest = 2**bits - 1
    entries = (largest * (np.arange(count) / (count - 1)) ** 2).astype(kind)
    table = lookup_table(entries, first, declared)
    path = written(VOILUTSequence=[table], WindowCenter=100, WindowWidth=10)
    expected = entries[np.clip(STORED.astype(int) - first, 0, count - 1)] * (255 / largest)
    np.testing.assert_allclose(read_dicom(path).pixels, expected, atol=0.51)


FLAT = lookup_table(np.full(4096, 9, np.uint16))
SHORT = lookup_table(np.arange(4096, dtype=np.uint16))
SHORT.LUTData = SHORT.LUTData[:1000]


@pytest.mark.parametrize(
    "elements",
    [{}, {"WindowCenter": 5, "WindowWidth": 0}, {"WindowCenter": 5}, {"WindowWidth": b"1,5 "},
     {"WindowCenter": 9000, "WindowWidth": 2}, {"WindowCenter": 2000, "WindowWidth": -5},
     {"WindowCenter": 2000, "WindowWidth": 99, "VOILUTFunction": "CUBIC"},
     {"VOILUTSequence": [FLAT]}, {"VOILUTSequence": [SHORT]}, {"VOILUTSequence": [Dataset()]},
     {"PixelPaddingValue": 5000}, {"PixelPaddingValue": None},
     {"PixelPaddingValue": 5000, "PixelPaddingRangeLimit": None},
     {"PixelPaddingValue": [5000, 5000]}],
    ids=str,
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:.*:UserWarning:pydicom")
def test_missing_or_senseless_elements_neither_hide_nor_blacken_an_image(elements, written):
    np.testing.assert_array_equal(read_dicom(written(**elements)).pixels, stretch(STORED))


@pytest.mark.parametrize(
    "elements",
    [{"RescaleSlope": None, "RescaleIntercept": 0}, {"RescaleSlope": 0}, {"RescaleSlope": b"x "}],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:.*:UserWarning:pydicom")
def test_a_slope_that_is_empty_or_0_counts_as_1_before_a_window(elements, written):
    window = {"WindowCenter": 2000, "WindowWidth": 1000}
    expected = read_dicom(written(**window)).pixels
    assert expected.min() == 0 < expected.max() == 255
    np.testing.assert_array_equal(read_dicom(written(**window, **elements)).pixels, expected)


def test_a_modality_table_goes_before_the_window(written):
    table = lookup_table(np.arange(4096, dtype=np.uint16)[::-1].copy(), declared_bits=16)
    table.ModalityLUTType = "US"
    path = written(ModalityLUTSequence=[table], WindowCenter=2048, WindowWidth=4096)
    np.testing.assert_allclose(read_dicom(path).pixels, 255 * ((4095 - STORED) / 4095), atol=0.6)


def test_signed_values_keep_their_sign(written):
    path = written((STORED.astype(np.int16) - 2048), PixelRepresentation=1)
    np.testing.assert_array_equal(read_dicom(path).pixels, stretch(STORED))


@pytest.mark.parametrize("kind", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_black_and_not_stretched_and_low_monochrome1_is_white(kind, written):
    padded = np.concatenate([STORED % 1000 + 800, np.full((20, 4), 4000, np.uint16)], axis=1)
    padded[0, -1] = 4095
    pixels = read_dicom(written(padded, PhotometricInterpretation=kind, PixelPaddingValue=4000,
                                PixelPaddingRangeLimit=4095)).pixels  # fmt: skip
    alone = stretch(padded[:, :-4])
    np.testing.assert_array_equal(pixels[:, :-4], alone if kind == "MONOCHROME2" else 255 - alone)
    assert not pixels[:, -4:].any()


@pytest.mark.parametrize("planar", [0, 1])
def test_color_stays_with_three_channels_and_becomes_luminance_with_one(planar, written):
    stored = np.moveaxis(COLORS, -1, 0).copy() if planar else COLORS
    path = written(stored, **RGB, Rows=20, Columns=30, PlanarConfiguration=planar)
    np.testing.assert_array_equal(read_dicom(path).pixels, COLORS)
    np.testing.assert_array_equal(read_image(path, channels=3), COLORS)
    luminance = COLORS @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(read_image(path)[..., 0], luminance, atol=1)


def test_palette_colors_are_looked_up(written):
    index = (STORED >> 4).astype(np.uint8)
    palette = np.random.default_rng(2).integers(0, 65536, (3, 256), np.uint16)
    tables = {}
    for color, entries in zip(("Red", "Green", "Blue"), palette, strict=True):
        tables[f"{color}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        tables[f"{color}PaletteColorLookupTableData"] = entries.tobytes()
    path = written(index, PhotometricInterpretation="PALETTE COLOR", BitsAllocated=8, BitsStored=8,
                   HighBit=7, **tables)  # fmt: skip
    np.testing.assert_array_equal(read_dicom(path).pixels, np.moveaxis(palette >> 8, 0, -1)[index])


@pytest.mark.parametrize(
    ("elements", "spacing"),
    [
        ({"PixelSpacing": [0.2, 0.3], "ImagerPixelSpacing": [0.5, 0.5]}, (0.2, 0.3)),
        ({"ImagerPixelSpacing": [0.143, 0.15]}, (0.143, 0.15)),
        ({"NominalScannedPixelSpacing": [0.175, 0.175]}, (0.175, 0.175)),
        ({"PixelSpacing": [-1, 1], "ImagerPixelSpacing": [0.5, 0.5]}, (0.5, 0.5)),
        ({"PixelSpacing": b"0,2\\0,3", "ImagerPixelSpacing": [0.5, 0.5]}, (0.5, 0.5)),
        *(({"PixelSpacing": bad}, None) for bad in ([0, 0], b"0.2 ", b"nan\\0.2 ", None)),
        ({}, None),
    ],
)
@pytest.mark.filterwarnings("ignore:.*:UserWarning:pydicom")
def test_spacing_is_the_best_that_the_file_states_and_unknown_if_it_is_invalid(
    elements, spacing, written
):
    path = written(**elements)
    for read in (read_dicom, read_image_and_spacing):
        assert read(path).spacing_mm == spacing
        assert read(path).pixels.max() == 255


def without_preamble(path):
    path.write_bytes(path.read_bytes()[132:])


def without_file_meta(path):
    dataset = pydicom.dcmread(path)
    bare = Dataset()
    bare.update({element.tag: element for element in dataset})
    content = io.BytesIO()
    bare.save_as(content, implicit_vr=True, little_endian=True, enforce_file_format=False)
    path.write_bytes(content.getvalue())


@pytest.mark.parametrize("change", [None, without_preamble, without_file_meta])
@pytest.mark.parametrize("name", ["image.dcm", "1.2.840.5", "IM0001"])
def test_a_dicom_file_is_known_by_its_content_whatever_its_name(name, change, written, tmp_path):
    path = written(name=name, PixelSpacing=[0.2, 0.3])
    if change:
        change(path)
    expected = stretch(STORED)
    for source in (path, str(path), path.read_bytes()):
        assert is_dicom(source)
        found = read_image_and_spacing(source, channels=3)
        np.testing.assert_array_equal(found.pixels, np.stack([expected] * 3, axis=-1))
        assert found.spacing_mm == (0.2, 0.3)
    assert [*find_images(tmp_path)] == [name.removesuffix(".dcm")]


def test_other_content_is_not_dicom(tmp_path):
    (tmp_path / "other.dcm").write_bytes(bytes(200))
    assert not is_dicom(tmp_path / "other.dcm")
    assert not is_dicom(tmp_path / "absent.dcm")
    assert not is_dicom(b"")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"stored": None, "Modality": "SR"}, r"holds no image \(modality SR\)"),
        ({"stored": None}, r"holds no image \(modality unknown\)"),
        ({"stored": None, "kind": "1.2.840.10008.1.3.10"}, r"is a directory .*DICOMDIR"),
        ({"stored": None, "DirectoryRecordSequence": [Dataset()]}, r"is a directory .*DICOMDIR"),
        ({"stored": np.stack([STORED] * 2), "NumberOfFrames": 2, "Rows": 20, "Columns": 30},
         "holds 2 frames. Save each as its own file"),
        ({"Rows": 99}, "cannot be read as a DICOM image"),
        ({"PhotometricInterpretation": "HSV"}, r"cannot be read .*\(uint16 pixels of HSV\)"),
    ],
)  # fmt: skip
def test_dicom_without_one_image_is_one_line_that_says_what_it_is(arguments, words, written):
    path = written(**arguments)
    for read in (read_dicom, read_image):
        with pytest.raises(InputError, match=rf"image\.dcm: {words}") as error:
            read(path)
        assert "\n" not in str(error.value)
        with pytest.raises(InputError, match=f"scan 7: {words}"):
            read(path.read_bytes(), name="scan 7")


def test_damaged_files_are_named(written):
    content = written().read_bytes()
    for damaged in (content[:400], content[:200], content[:-100], b"scribble", b""):
        with pytest.raises(InputError, match=r"scan: (is not a|cannot be read as a|holds no)"):
            read_dicom(damaged, "scan")


def test_without_pydicom_the_error_says_what_to_install(written, monkeypatch):
    path = written()
    check_installed()
    monkeypatch.setattr(sys, "path", [])
    for name in [name for name in sys.modules if name.split(".")[0] == "pydicom"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(InputError, match=r"need pydicom: pip install -e '\.\[dicom\]'"):
        read_image(path)
