import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from jaxseg.data.films import (
    decode_film,
    decode_mask,
    decode_resized_film,
    grey_film_png,
    grey_mask_png,
    read_classes,
    read_film,
    read_mask,
    resize_film,
    resize_mask,
)
from jaxseg.errors import InputError

GREY = np.random.default_rng(0).integers(0, 256, (9, 7), dtype=np.uint8)
DEEP = np.random.default_rng(1).integers(300, 4000, (40, 30)).astype(np.uint16)


def png_bytes(picture: Image.Image, **options) -> bytes:
    file = io.BytesIO()
    picture.save(file, format="PNG", **options)
    return file.getvalue()


def sixteen_bit_colour_png(values: np.ndarray) -> bytes:
    """A 16-bit RGB PNG of three equal channels, written by hand: Pillow writes none."""
    height, width = values.shape
    rows = np.repeat(values.astype(">u2")[..., None], 3, axis=-1).reshape(height, -1)
    lines = b"".join(b"\0" + row.tobytes() for row in rows)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(lines))
        + chunk(b"IEND", b"")
    )


def grey_palette(values: np.ndarray) -> Image.Image:
    """The same picture by way of a shuffled palette of greys."""
    order = np.random.default_rng(2).permutation(256).astype(np.uint8)
    picture = Image.fromarray(np.argsort(order).astype(np.uint8)[values])
    picture = Image.frombytes("P", picture.size, picture.tobytes())
    picture.putpalette(np.repeat(order, 3).tobytes())
    return picture


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P"])
def test_a_grey_film_reads_the_same_in_every_mode(tmp_path, mode):
    picture = grey_palette(GREY) if mode == "P" else Image.fromarray(GREY).convert(mode)
    picture.save(tmp_path / "film.png")
    film = read_film(tmp_path / "film.png")
    assert film.dtype == np.uint8
    np.testing.assert_array_equal(film, GREY)


def test_a_one_bit_film_is_black_and_white(tmp_path):
    Image.fromarray(GREY > 99).save(tmp_path / "film.png")
    np.testing.assert_array_equal(read_film(str(tmp_path / "film.png")), 255 * (GREY > 99))


def test_colour_becomes_luminance(tmp_path):
    colours = np.random.default_rng(3).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(colours).save(tmp_path / "film.png")
    luminance = colours @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(read_film(tmp_path / "film.png"), luminance, atol=1)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_parts_are_black_and_half_transparent_ones_half_as_bright(tmp_path, mode):
    picture = Image.fromarray(GREY).convert(mode)
    alpha = np.array([0, 128, 255], np.uint8)[np.arange(GREY.size).reshape(GREY.shape) % 3]
    picture.putalpha(Image.fromarray(alpha))
    picture.save(tmp_path / "film.png")
    np.testing.assert_allclose(read_film(tmp_path / "film.png"), GREY * (alpha / 255), atol=1)


def test_the_colour_marked_transparent_is_black(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "film.png", transparency=int(GREY[0, 0]))
    expected = np.where(GREY[0, 0] == GREY, 0, GREY)
    np.testing.assert_array_equal(read_film(tmp_path / "film.png"), expected)


def stretched(values: np.ndarray) -> np.ndarray:
    ordered = np.sort(values.ravel().astype(np.float64))
    low, high = (
        np.interp(q * (ordered.size - 1), np.arange(ordered.size), ordered) for q in (0.001, 0.999)
    )
    return np.round(255 * np.clip((values - low) / (high - low), 0, 1))


@pytest.mark.parametrize(
    ("suffix", "dtype"),
    [("png", np.uint16), ("tif", np.uint16), ("tif", np.int32), ("tif", np.float32)],
)
def test_more_than_8_bits_are_stretched_between_the_percentiles(tmp_path, suffix, dtype):
    path = tmp_path / f"film.{suffix}"
    Image.fromarray(DEEP.astype(dtype)).save(path)
    np.testing.assert_array_equal(read_film(path), stretched(DEEP.astype(np.float64)))


@settings(max_examples=20)
@given(gain=st.integers(1, 10), offset=st.integers(0, 20_000))
def test_gain_and_offset_of_a_deep_film_do_not_show(tmp_path_factory, gain, offset):
    folder = tmp_path_factory.mktemp("films")
    Image.fromarray(DEEP).save(folder / "a.png")
    Image.fromarray(gain * DEEP + np.uint16(offset)).save(folder / "b.png")
    difference = read_film(folder / "a.png").astype(int) - read_film(folder / "b.png")
    assert np.abs(difference).max() <= 1


def test_a_deep_colour_film_is_stretched_by_its_upper_8_bits(tmp_path):
    (tmp_path / "film.png").write_bytes(sixteen_bit_colour_png(DEEP))
    np.testing.assert_array_equal(read_film(tmp_path / "film.png"), stretched(DEEP >> 8))


def test_a_deep_film_of_one_value_is_black(tmp_path):
    Image.fromarray(np.full((5, 5), 700, np.uint16)).save(tmp_path / "film.png")
    assert not read_film(tmp_path / "film.png").any()


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, lambda a: a),
        (2, np.fliplr),
        (3, lambda a: np.rot90(a, 2)),
        (4, np.flipud),
        (5, np.transpose),
        (6, lambda a: np.rot90(a, -1)),
        (7, lambda a: np.rot90(a, 2).T),
        (8, np.rot90),
    ],
)
def test_the_orientation_that_the_camera_noted_is_applied(tmp_path, orientation, upright):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = png_bytes(Image.fromarray(GREY), exif=exif)
    (tmp_path / "film.png").write_bytes(data)
    np.testing.assert_array_equal(read_film(tmp_path / "film.png"), upright(GREY))
    with Image.open(io.BytesIO(grey_film_png(data, "film"))) as stored:
        np.testing.assert_array_equal(np.asarray(stored), upright(GREY))
    mask = tmp_path / "mask.png"
    Image.fromarray(255 * (GREY > 99).astype(np.uint8)).save(mask, exif=exif)
    np.testing.assert_array_equal(read_mask(mask), upright(GREY > 99))


def test_a_cmyk_jpeg_reads_as_its_brightness(tmp_path):
    smooth = np.add.outer(np.arange(64), np.arange(64)).astype(np.uint8)
    Image.fromarray(smooth).convert("RGB").convert("CMYK").save(tmp_path / "film.jpg", quality=95)
    np.testing.assert_allclose(read_film(tmp_path / "film.jpg"), smooth, atol=4)


def test_what_cannot_be_read_is_named(tmp_path):
    whole = png_bytes(Image.fromarray(np.tile(GREY, (30, 30))))
    for name, data in {
        "text.png": b"not a picture",
        "empty.png": b"",
        "cut.png": whole[: len(whole) // 2],
        "head.png": whole[:20],
        "broken.png": whole[:60] + b"\xff\0\xff\0" + whole[64:],
        "cut.jpg": b"\xff\xd8\xff\xe0",
    }.items():
        (tmp_path / name).write_bytes(data)
        for read in (read_film, read_mask):
            with pytest.raises(InputError, match=f"{name}: cannot be read as a picture"):
                read(tmp_path / name)
        for encode in (grey_film_png, grey_mask_png):
            with pytest.raises(InputError, match="film 7: cannot be read as a picture"):
                encode(data, "film 7")
    with pytest.raises(InputError, match=r"absent\.png: there is no such file"):
        read_film(tmp_path / "absent.png")
    with pytest.raises(InputError, match="cannot be read"):
        read_film(tmp_path)


MASK = np.array([[0, 255, 0, 0], [255, 255, 0, 255], [0, 0, 0, 255]], np.uint8)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA"])
def test_a_black_and_white_mask_reads_the_same_in_every_mode(tmp_path, mode):
    picture = grey_palette(MASK) if mode == "P" else Image.fromarray(MASK).convert(mode)
    picture.save(tmp_path / "mask.png")
    mask = read_mask(tmp_path / "mask.png")
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, MASK // 255)
    with Image.open(io.BytesIO(grey_mask_png((tmp_path / "mask.png").read_bytes(), "x"))) as stored:
        assert stored.mode == "L"
        np.testing.assert_array_equal(np.asarray(stored), MASK)


def test_a_16_bit_mask_counts_by_its_own_values(tmp_path):
    Image.fromarray(MASK.astype(np.uint16) * 257).save(tmp_path / "mask.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png"), MASK // 255)
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png", [65535]), MASK // 255)


@pytest.mark.parametrize(
    ("values", "expected"), [((1, 3), [0, 1, 0, 1]), ([200], [0] * 4), ((0,), [1, 0, 0, 0])]
)
def test_mask_values_name_the_object(tmp_path, values, expected):
    Image.fromarray(np.array([[0, 1, 2, 3]], np.uint8)).save(tmp_path / "mask.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png", values), [expected])


def test_above_127_is_object(tmp_path):
    Image.fromarray(np.array([[0, 127, 128, 255]], np.uint8)).save(tmp_path / "mask.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png"), [[0, 0, 1, 1]])


@pytest.mark.parametrize("value", [1, 2, 127])
def test_an_all_black_mask_is_empty_but_class_ids_must_be_named(tmp_path, value):
    path = tmp_path / "mask.png"
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(path)
    assert not read_mask(path).any()
    Image.fromarray(value * np.eye(4, dtype=np.uint8)).save(path)
    with pytest.raises(InputError, match=r"mask\.png: has no grey value above 127"):
        read_mask(path)


def test_a_grey_png_keeps_its_bytes_and_any_other_becomes_one():
    plain = png_bytes(Image.fromarray(GREY), compress_level=1)
    assert grey_film_png(plain, "film") == plain
    binary = png_bytes(Image.fromarray(MASK), compress_level=1)
    assert grey_mask_png(binary, "mask") == binary
    coloured = png_bytes(Image.fromarray(GREY).convert("RGB"))
    with Image.open(io.BytesIO(grey_film_png(coloured, "film"))) as stored:
        assert (stored.format, stored.mode) == ("PNG", "L")
        np.testing.assert_array_equal(np.asarray(stored), GREY)


def triangle_weights(size: int, to: int) -> np.ndarray:
    """Bilinear resampling as a matrix: a triangle as wide as the shrinkage, cut at the border."""
    scale = size / to
    centres = (np.arange(to) + 0.5) * scale - 0.5
    distance = np.abs(np.arange(size) - centres[:, None]) / max(scale, 1)
    weights = np.clip(1 - distance, 0, None)
    return weights / weights.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("size", [5, 16, 23, 40])
def test_bilinear_is_antialiased_where_it_shrinks(size):
    film = np.random.default_rng(4).integers(0, 256, (31, 23), dtype=np.uint8)
    expected = triangle_weights(31, size) @ film @ triangle_weights(23, size).T
    np.testing.assert_allclose(resize_film(film, size), expected, atol=1.01)


@pytest.mark.parametrize("size", [5, 16, 23, 40])
def test_nearest_takes_the_pixel_under_each_centre(size):
    film = np.random.default_rng(5).integers(0, 256, (31, 23), dtype=np.uint8)
    rows, columns = (((np.arange(size) + 0.5) * n / size).astype(int) for n in film.shape)
    expected = film[np.ix_(rows, columns)]
    np.testing.assert_array_equal(resize_film(film, size, "nearest"), expected)
    np.testing.assert_array_equal(resize_mask(film // 128, size), expected // 128)


@pytest.mark.parametrize("method", ["bilinear", "nearest"])
@pytest.mark.parametrize("mode", ["L", "RGBA", "turned", "deep"])
@pytest.mark.parametrize("size", [7, 16])
def test_decoded_at_a_size_a_film_is_what_decoding_and_resizing_give(mode, size, method):
    picture = Image.fromarray(DEEP if mode == "deep" else GREY)
    options = {}
    if mode == "turned":
        exif = Image.Exif()
        exif[0x0112] = 6
        options = {"exif": exif}
    if mode == "RGBA":
        picture = picture.convert("RGBA")
    content = png_bytes(picture, **options)
    expected = resize_film(decode_film(content, "film"), size, method)
    found = decode_resized_film(content, "film", size, method)
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == np.uint8


def test_a_damaged_film_is_named_when_it_is_decoded_at_a_size():
    with pytest.raises(InputError, match="film: cannot be read"):
        decode_resized_film(png_bytes(Image.fromarray(GREY))[:-30], "film", 16)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_png_whose_pixels_were_damaged_is_refused(mode, tmp_path):
    # As many pixels as take several blocks of the decoder, and a mask as masks are.
    mask = np.zeros((64, 64), np.uint8)
    mask[10:40, 20:50] = 255
    content = png_bytes(Image.fromarray(mask).convert(mode))
    start = content.index(b"IDAT") + 4
    path = tmp_path / "mask.png"
    for at in range(start, content.index(b"IEND") - 8, 2):
        path.write_bytes(content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :])
        for read in (
            lambda: read_film(path),
            lambda: read_mask(path),
            lambda: read_classes(path, [[255]]),
            lambda: decode_mask(path.read_bytes(), str(path), checked=True),
            lambda: grey_film_png(path.read_bytes(), str(path)),
            lambda: grey_mask_png(path.read_bytes(), str(path)),
        ):
            with pytest.raises(InputError, match=r"mask\.png: cannot be read as a picture"):
                read()


def test_a_film_of_the_right_size_is_left_as_it_is():
    film = GREY[:7, :7]
    np.testing.assert_array_equal(resize_film(film, 7), film)
