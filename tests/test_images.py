"""Image and mask files of many kinds, compared with Pillow and NumPy."""

import io
import os
import struct
import unicodedata
import zlib

import numpy as np
import pytest
from PIL import Image

from jaxseg.data.images import (
    IGNORED,
    find_images,
    gray_png,
    image_stem,
    is_image,
    png_bytes,
    printable,
    read_image,
    read_mask,
    resize_image,
    to_gray,
)
from jaxseg.data.preprocessing import stretch
from jaxseg.errors import DataWarning, InputError

RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 256, (9, 7), dtype=np.uint8)
COLOR = RNG.integers(0, 256, (9, 7, 3), dtype=np.uint8)
DEEP = RNG.integers(300, 4000, (40, 30)).astype(np.uint16)
BINARY = np.where(RNG.random((9, 7)) < 0.4, 255, 0).astype(np.uint8)

READERS = [
    read_image,
    read_mask,
    lambda content, name="": read_mask(content, classes=[[255]], name=name),
]
CONTENT_READERS = [*READERS, gray_png]


def encoded(picture, kind="PNG", **options) -> bytes:
    file = io.BytesIO()
    (Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture).save(
        file, format=kind, **options
    )
    return file.getvalue()


def opened(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)))


def shuffled_palette(values: np.ndarray) -> Image.Image:
    """The same gray image as a palette image whose indices are not its gray values."""
    order = np.random.default_rng(2).permutation(256).astype(np.uint8)
    indices = np.argsort(order).astype(np.uint8)[values]
    picture = Image.frombytes("P", indices.shape[::-1], indices.tobytes())
    picture.putpalette(np.repeat(order, 3).tobytes())
    return picture


def deep_color_png(values: np.ndarray) -> bytes:
    """A 16-bit RGB PNG of three equal channels. Pillow cannot write one."""
    height, width = values.shape
    rows = np.repeat(values.astype(">u2")[..., None], 3, axis=-1).reshape(height, -1)
    lines = b"".join(b"\0" + row.tobytes() for row in rows)
    content = b"\x89PNG\r\n\x1a\n"
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    for kind, data in [(b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b"")]:
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        content += struct.pack(">I", len(data)) + kind + data + checksum
    return content


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", ["1", "L", "RGB", "RGBA", "LA", "P"])
def test_a_gray_image_reads_the_same_in_every_mode_and_gray_is_repeated(mode, channels):
    gray = BINARY if mode == "1" else GRAY
    picture = shuffled_palette(gray) if mode == "P" else Image.fromarray(gray).convert(mode)
    image = read_image(encoded(picture), channels=channels)
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, np.repeat(gray[..., None], channels, axis=-1))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "PPM"])
def test_color_stays_with_three_channels_and_becomes_luminance_with_one(kind):
    content = encoded(COLOR, kind)
    np.testing.assert_array_equal(read_image(content, channels=3), COLOR)
    gray = read_image(content)
    np.testing.assert_allclose(gray[..., 0], COLOR @ np.array([0.299, 0.587, 0.114]), atol=1)
    np.testing.assert_array_equal(to_gray(COLOR), gray[..., 0])
    np.testing.assert_array_equal(to_gray(gray), gray[..., 0])


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_pixels_are_black_and_half_transparent_ones_half_as_bright(mode):
    picture = Image.fromarray(GRAY).convert(mode)
    alpha = np.array([0, 128, 255], np.uint8)[np.arange(GRAY.size).reshape(GRAY.shape) % 3]
    picture.putalpha(Image.fromarray(alpha))
    for channels in (1, 3):
        image = read_image(encoded(picture), channels=channels)
        np.testing.assert_allclose(image[..., -1], GRAY * (alpha / 255), atol=1)


def test_the_gray_value_that_a_png_declares_transparent_is_black():
    image = read_image(encoded(GRAY, transparency=int(GRAY[0, 0])))
    np.testing.assert_array_equal(image[..., 0], np.where(GRAY[0, 0] == GRAY, 0, GRAY))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("kind", "dtype"), [("PNG", "u2"), ("TIFF", "u2"), ("TIFF", "i4"), ("TIFF", "f4")]
)
def test_gray_of_more_than_8_bits_is_stretched(kind, dtype, channels):
    image = read_image(encoded(DEEP.astype(dtype), kind), channels=channels)
    expected = stretch(DEEP.astype(np.float64))
    np.testing.assert_array_equal(image, np.repeat(expected[..., None], channels, axis=-1))


@pytest.mark.parametrize("channels", [1, 3])
def test_of_16_bit_color_the_upper_8_bits_are_used(channels):
    found = read_image(deep_color_png(DEEP), channels=channels)
    np.testing.assert_array_equal(found, np.stack([DEEP >> 8] * channels, -1))


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [(1, lambda a: a), (2, np.fliplr), (3, lambda a: np.rot90(a, 2)), (4, np.flipud),
     (5, lambda a: np.swapaxes(a, 0, 1)), (6, lambda a: np.rot90(a, -1)),
     (7, lambda a: np.swapaxes(np.rot90(a, 2), 0, 1)), (8, np.rot90)],
)  # fmt: skip
def test_the_orientation_that_a_camera_noted_is_applied(orientation, upright):
    exif = Image.Exif()
    exif[0x0112] = orientation
    np.testing.assert_array_equal(read_image(encoded(COLOR, exif=exif), channels=3), upright(COLOR))
    gray = encoded(GRAY, exif=exif)
    np.testing.assert_array_equal(read_image(gray)[..., 0], upright(GRAY))
    np.testing.assert_array_equal(opened(gray_png(gray, "image")), upright(GRAY))
    mask = encoded(BINARY, exif=exif)
    for classes in (None, [[255]]):
        labels = read_mask(mask, classes=classes).labels
        np.testing.assert_array_equal(labels, upright(BINARY) // 255)


def test_a_cmyk_jpeg_reads_as_its_brightness():
    smooth = np.add.outer(np.arange(64), np.arange(64)).astype(np.uint8)
    picture = Image.fromarray(smooth).convert("RGB").convert("CMYK")
    image = read_image(encoded(picture, "JPEG", quality=95))
    np.testing.assert_allclose(image[..., 0], smooth, atol=4)


WHOLE = encoded(np.tile(GRAY, (30, 30)))


@pytest.mark.parametrize(
    "content",
    [b"not a picture", b"", WHOLE[: len(WHOLE) // 2], WHOLE[:20], b"\xff\xd8\xff\xe0",
     WHOLE[:60] + b"\xff\0\xff\0" + WHOLE[64:]],
    ids=["text", "empty", "half", "header", "JPEG header", "bad bytes"],
)  # fmt: skip
def test_content_that_is_no_image_is_named(content, tmp_path):
    (tmp_path / "bad.png").write_bytes(content)
    for read in READERS:
        with pytest.raises(InputError, match=r"bad\.png: cannot be read as an image"):
            read(tmp_path / "bad.png")
    for read in CONTENT_READERS:
        with pytest.raises(InputError, match="image 7: cannot be read as an image"):
            read(content, name="image 7")


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(InputError, match=r"absent\.png: there is no such file"):
        read_image(tmp_path / "absent.png")
    with pytest.raises(InputError, match="cannot be read"):
        read_image(tmp_path)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_png_with_one_flipped_bit_is_refused(mode):
    content = encoded(Image.fromarray(np.kron(BINARY, np.ones((8, 8), np.uint8))).convert(mode))
    start = content.index(b"IDAT") + 4
    for at in range(start, content.index(b"IEND") - 8, 5):
        flipped = content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :]
        for read in CONTENT_READERS:
            with pytest.raises(InputError, match="mask: cannot be read as an image"):
                read(flipped, name="mask")


@pytest.mark.parametrize("kind", ["TIFF", "PNG", "GIF", "WEBP"])
def test_files_of_several_frames_are_refused_and_of_one_frame_read(kind):
    first, second = Image.fromarray(BINARY), Image.fromarray(255 - BINARY)
    options = {"lossless": True} if kind == "WEBP" else {}
    content = encoded(first, kind, save_all=True, append_images=[second, first], **options)
    for read in CONTENT_READERS:
        with pytest.raises(InputError, match="scan: holds 3 frames"):
            read(content, name="scan")
    content = encoded(first, kind, **options)
    np.testing.assert_array_equal(read_image(content)[..., 0], BINARY)


def test_the_preview_in_a_photo_of_a_phone_is_not_a_frame():
    small = Image.fromarray(GRAY[:4, :4])
    content = encoded(Image.fromarray(GRAY), "MPO", save_all=True, append_images=[small])
    np.testing.assert_array_equal(read_image(content)[..., 0], opened(encoded(GRAY, "JPEG")))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA"])
def test_a_black_and_white_mask_reads_the_same_in_every_mode(mode):
    picture = shuffled_palette(BINARY) if mode == "P" else Image.fromarray(BINARY).convert(mode)
    mask = read_mask(encoded(picture))
    assert mask.labels.dtype == np.uint8
    np.testing.assert_array_equal(mask.labels, BINARY // 255)
    assert mask[1:] == ((BINARY > 0).sum(), 0, ())


def test_without_classes_values_above_127_are_object():
    values = np.array([[0, 127, 128, 255]], np.uint8)
    assert read_mask(encoded(values)).labels.tolist() == [[0, 0, 1, 1]]
    assert read_mask(encoded(values.astype(np.uint16) * 257)).labels.tolist() == [[0, 1, 1, 1]]
    assert read_mask(encoded(values), ignore=[255]).labels.tolist() == [[0, 0, 1, IGNORED]]
    assert not read_mask(encoded(np.zeros((4, 4), np.uint8))).labels.any()


VALUES = RNG.choice(np.array([0, 1, 2, 7, 9, 100, 255], np.uint8), (31, 17))


@pytest.mark.parametrize("mode", ["L", "P", "RGB", "RGBA", "LA", "I;16"])
@pytest.mark.parametrize("background", [None, (0,), (0, 9)])
@pytest.mark.parametrize("ignore", [(), (255,), (100, 255)])
def test_classes_are_named_by_value_and_other_values_are_counted(mode, background, ignore):
    # Pillow converts gray to a palette whose index v is gray v.
    values = VALUES.astype(np.uint16) if mode == "I;16" else VALUES
    picture = Image.fromarray(values) if mode == "I;16" else Image.fromarray(VALUES).convert(mode)
    mask = read_mask(encoded(picture), classes=[[1, 7], [2]], background=background, ignore=ignore)
    expected = np.isin(VALUES, (1, 7)) + 2 * (VALUES == 2)
    expected[np.isin(VALUES, ignore)] = IGNORED
    np.testing.assert_array_equal(mask.labels, expected)
    named = {1, 2, 7, *(range(256) if background is None else background), *ignore}
    unnamed = [int(value) for value in VALUES.ravel() if value not in named]
    assert mask.object_pixels == np.isin(VALUES, (1, 2, 7)).sum() + len(unnamed)
    assert (mask.unnamed_pixels, mask.unnamed_values) == (len(unnamed), tuple(sorted({*unnamed})))


def test_in_a_palette_image_the_index_names_the_class_and_not_the_color():
    picture = Image.frombytes("P", (4, 1), bytes([0, 1, 2, 3]))
    picture.putpalette([0, 0, 0, 250, 0, 0, 0, 0, 250, 9, 9, 9])
    assert read_mask(encoded(picture), classes=[[1], [3]], background=None).labels.tolist() == [
        [0, 1, 0, 2]
    ]


def test_16_bit_and_1_bit_values_name_classes():
    deep = encoded(np.array([[0, 1000], [65535, 1]], np.uint16))
    mask = read_mask(deep, classes=[[65535], [1000]])
    assert (mask.labels.tolist(), mask.unnamed_values) == ([[0, 2], [1, 0]], (1,))
    assert read_mask(encoded(BINARY > 0), classes=[[255]]).labels.sum() == (BINARY > 0).sum()


@pytest.mark.parametrize("value", [1, 2, 127])
def test_class_ids_without_classes_are_refused(value):
    words = f"up to {value} but none above 127. If {value} is the value .* name the values"
    with pytest.raises(InputError, match=f"mask: has values {words}"):
        read_mask(encoded(value * np.eye(16, dtype=np.uint8)), name="mask")


def test_a_jpeg_of_class_ids_or_of_noise_around_black_is_not_told_to_name_them():
    for values in (np.eye(16), RNG.integers(0, 4, (16, 16)), 2 * np.eye(16)):
        noisy = encoded(np.kron(values, np.ones((8, 8))).astype(np.uint8), "JPEG", quality=95)
        with pytest.raises(InputError, match=r"none above 127\. JPEG changes .* as PNG$"):
            read_mask(noisy, name="mask")


@pytest.mark.parametrize("named", [{"classes": [[150]]}, {"ignore": [255]}])
def test_a_jpeg_cannot_name_classes_or_ignored_values_but_shows_white_on_black(named):
    bright = encoded(np.full((8, 8), 150, np.uint8), "JPEG")
    with pytest.raises(InputError, match="mask: JPEG changes values"):
        read_mask(bright, **named, name="mask")
    assert read_mask(bright).labels.all()


RED = Image.new("RGB", (4, 4), (255, 0, 0))
HIDDEN = 255 * np.eye(4, dtype=np.uint8)


@pytest.mark.parametrize(
    ("picture", "classes", "words"),
    [(RED, None, "is colored"), (RED, [[255]], "is colored"),
     (Image.new("RGB", (4, 4), (0, 200, 100)).convert("P"), None, "is colored"),
     (np.dstack([np.zeros((4, 4, 3), np.uint8), HIDDEN]), None, "is black wherever"),
     (Image.merge("LA", [Image.new("L", (4, 4)), Image.fromarray(HIDDEN)]), None, "is black")],
)  # fmt: skip
def test_a_mask_whose_object_is_not_bright_is_refused(picture, classes, words):
    with pytest.raises(InputError, match=f"mask: {words}"):
        read_mask(encoded(picture), classes=classes, name="mask")


@pytest.mark.parametrize("case", ["nearly gray", "a transparent corner"])
def test_a_mask_whose_object_is_nearly_white_or_opaque_is_read(case):
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[..., 3] = 255
    pixels[2:5, 2:5, :3] = (255, 255, 245) if case == "nearly gray" else 255
    pixels[0, 0, 3] = 0 if case == "a transparent corner" else 255
    expected = np.zeros((8, 8))
    expected[2:5, 2:5] = 1
    np.testing.assert_array_equal(read_mask(encoded(pixels)).labels, expected)


def test_a_gray_png_keeps_its_bytes_and_any_other_image_becomes_one():
    plain = png_bytes(GRAY)
    np.testing.assert_array_equal(opened(plain), GRAY)
    assert gray_png(plain, "image") == plain
    for other in (encoded(Image.fromarray(GRAY).convert("RGB")), encoded(GRAY, "BMP")):
        np.testing.assert_array_equal(opened(gray_png(other, "image")), GRAY)
    np.testing.assert_array_equal(opened(png_bytes(COLOR)), COLOR)


def triangle_weights(size: int, to: int) -> np.ndarray:
    """Bilinear resampling as a matrix: a triangle, as wide as the image shrinks."""
    scale = size / to
    centers = (np.arange(to) + 0.5) * scale - 0.5
    weights = 1 - np.abs(np.arange(size) - centers[:, None]) / max(scale, 1)
    weights = np.clip(weights, 0, None)
    return weights / weights.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("channels", [0, 1, 3])
@pytest.mark.parametrize("size", [5, 16, 40])
def test_bilinear_is_antialiased_and_nearest_takes_the_pixel_at_each_center(size, channels):
    image = RNG.integers(0, 256, (31, 23, channels)[: 2 + bool(channels)], dtype=np.uint8)
    down, across = triangle_weights(31, size), triangle_weights(23, size)
    expected = np.einsum("rh,hw...,cw->rc...", down, image, across)
    np.testing.assert_allclose(resize_image(image, size), expected, atol=1.01)
    rows, columns = (((np.arange(size) + 0.5) * n / size).astype(int) for n in (31, 23))
    expected = image[np.ix_(rows, columns)]
    np.testing.assert_array_equal(resize_image(image, size, "nearest"), expected)


def touch(folder, *names):
    for name in names:
        (folder / name).write_bytes(b"")


def test_images_of_every_suffix_are_found_and_hidden_files_are_not(tmp_path):
    names = ["a.png", "b.JPG", "c.jpeg", "d.jfif", "e.tif", "f.TIFF", "g.bmp", "h.dcm", "i.dicom"]
    touch(tmp_path, *names, ".hidden.png", ".DS_Store")
    assert find_images(tmp_path) == {name[0]: tmp_path / name for name in names}


def test_other_files_and_folders_are_skipped_with_a_warning_that_counts_them(tmp_path):
    touch(tmp_path, "a.png", "b.gif", "c.webp", "d.txt", "e.csv", "f")
    (tmp_path / "g.png").mkdir()
    with pytest.warns(DataWarning, match=r"skipped 6 .*: b\.gif, c\.webp, d\.txt, e\.csv, f and 1"):
        assert [*find_images(tmp_path)] == ["a"]


def test_symbolic_links_are_listed_even_if_they_lead_nowhere(tmp_path):
    touch(tmp_path, "a.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "a.png")
    (tmp_path / "c.png").symlink_to(tmp_path / "absent.png")
    assert [*find_images(tmp_path)] == ["a", "b", "c"]


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_names_are_composed_and_may_end_in_a_suffix(form, tmp_path):
    touch(tmp_path, unicodedata.normalize(form, "Müller_é.png"))
    assert [*find_images(tmp_path)] == [unicodedata.normalize("NFC", "Müller_é")]
    # Users type the suffix in the form of their keyboard.
    for typed in ("NFC", "NFD"):
        found = find_images(tmp_path, suffix=unicodedata.normalize(typed, "_é"))
        assert [*found] == [unicodedata.normalize("NFC", "Müller")]


@pytest.mark.parametrize(
    ("names", "suffix", "words"),
    [(["a.png", "a.jpg"], "", r"a\.png: has the same name as a\.jpg"),
     (["é.png", "e\u0301.png"], "", "has the same name"),
     ([], "", "holds no PNG, JPEG, TIFF, BMP or DICOM file$"), (["a.txt"], "", "holds no PNG"),
     (["a.png"], "_mask", "whose name ends in '_mask'")],
)  # fmt: skip
def test_a_folder_without_images_or_with_one_name_twice_is_refused(names, suffix, words, tmp_path):
    touch(tmp_path, *names)
    with pytest.raises(InputError, match=words):
        find_images(tmp_path, suffix=suffix)
    with pytest.raises(InputError, match=r"absent: cannot be read \(No such"):
        find_images(tmp_path / "absent")


def test_a_name_loses_an_image_suffix_only(tmp_path):
    names = ["a.png", "1.2.840.dcm", "1.2.840", "a.b.TIF", "a.txt"]
    assert [*map(image_stem, names)] == ["a", "1.2.840", "1.2.840", "a.b", "a.txt"]
    assert [is_image(tmp_path / name) for name in names] == [True, True, False, True, False]


def test_any_file_name_can_be_printed():
    name = os.fsdecode(b"caf\xe9 \xc3\xa9.png")
    assert printable(name).encode() == b"caf\\udce9 \xc3\xa9.png"
