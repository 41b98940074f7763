"""Any picture, however odd or hostile, is one upright RGB image or a row with a reason."""

from __future__ import annotations

import io
import os
import struct
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from selfilter_ray.config import LimitsConfig
from selfilter_ray.samples.images import check_image, load_image
from selfilter_ray.samples.quarantine import REMEDIES, BadRow

pytestmark = pytest.mark.filterwarnings(r"ignore::UserWarning:PIL\.")

LIMITS = LimitsConfig()
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
WHITE, BLACK, RED = (255, 255, 255), (0, 0, 0), (255, 0, 0)
DESCRIPTION = 270  # the TIFF tags that the tests need
ORIENTATION = 274


def encoded(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_header(width: int, height: int) -> bytes:
    """An 8-bit gray PNG up to the start of its pixels, of which there are none."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return PNG_MAGIC + header + struct.pack(">I", 2**20) + b"IDAT"


def text_bomb(mebibytes: int) -> bytes:
    """A zTXt chunk of a few hundred kilobytes at most that inflates to so many mebibytes."""
    compressor = zlib.compressobj(9)
    first = compressor.compress(bytes(2**20)) + compressor.flush(zlib.Z_FULL_FLUSH)
    stream = first + first[2:] * (mebibytes - 1) + b"\x03\x00" + bytes(4)
    return chunk(b"zTXt", b"Comment\0\0" + stream)


def rgb(source: Path | bytes, limits: LimitsConfig = LIMITS) -> Image.Image:
    """The loaded image, which must be plain RGB whatever the file was."""
    check_image(source, limits)
    image = load_image(source, limits)
    assert image.mode == "RGB"
    return image


def pixel(source: Path | bytes, x: int = 0, y: int = 0) -> tuple[int, ...]:
    color = rgb(source).getpixel((x, y))
    assert isinstance(color, tuple)
    return color


def reason_of(source: Path | bytes, limits: LimitsConfig = LIMITS) -> str:
    with pytest.raises(BadRow) as caught:
        load_image(source, limits)
    assert caught.value.reason in REMEDIES
    return caught.value.reason


SMALL = encoded(Image.new("RGB", (8, 8), RED))
NOISE = encoded(Image.effect_noise((64, 64), 80))
JPEG = encoded(Image.effect_noise((64, 64), 80), "JPEG")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "image_broken"),
        (b"\0", "image_format"),
        (bytes(range(256)) * 16, "image_format"),
        (PNG_MAGIC + bytes(64), "image_format"),
        (PNG_MAGIC, "image_format"),
        (JPEG[:3], "image_format"),
        (JPEG[: len(JPEG) // 2], "image_broken"),
        (NOISE[: len(NOISE) // 2], "image_broken"),
        (b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>", "image_format"),
        (b"<!DOCTYPE html><title>404 Not Found</title>", "image_format"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "image_format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EOF\n", "image_format"),
        (encoded(Image.new("L", (4, 4)), "PPM"), "image_format"),
        (png_header(40_000, 40_000), "image_too_large"),
        (png_header(2**31 - 1, 2**31 - 1), "image_too_large"),
        (png_header(1, 65_535), "image_aspect_ratio"),
        (png_header(65_535, 1), "image_aspect_ratio"),
        (png_header(64, 64), "image_broken"),
    ],
)
def test_a_file_that_is_no_usable_picture_is_refused_with_its_reason(tmp_path, content, reason):
    file = tmp_path / "picture.jpg"
    file.write_bytes(content)
    assert reason_of(file) == reason
    assert reason_of(content) == reason


def test_a_picture_claiming_too_many_pixels_is_refused_before_any_of_them_is_looked_at():
    # There is no pixel data, so decoding would give image_broken; and no room for it is taken.
    tracemalloc.start()
    with pytest.raises(BadRow, match="image_too_large") as caught:
        check_image(png_header(40_000, 40_000), LIMITS)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert caught.value.reason == "image_too_large"
    assert peak < 2**20


def test_a_gif_whose_frame_is_larger_than_its_screen_is_measured_by_its_frame():
    screen = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0, 0, 0)
    frame = b"," + struct.pack("<HHHHB", 0, 0, 60_000, 60_000, 0) + b"\x02\x00;"
    assert reason_of(screen + frame) == "image_too_large"


@pytest.mark.parametrize("after_pixels", [False, True])
def test_a_text_chunk_that_inflates_without_end_is_not_inflated(after_pixels):
    place = len(SMALL) - 12 if after_pixels else 33  # before IEND, or after IHDR
    bomb = SMALL[:place] + text_bomb(70) + SMALL[place:]
    tracemalloc.start()
    reason = reason_of(bomb)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert reason == "image_broken"
    assert peak < 8 * 2**20


def test_a_picture_exactly_at_the_limits_is_taken_and_one_past_them_is_not():
    limits = LimitsConfig(image_pixels=64, image_aspect_ratio=4.0, image_bytes=len(SMALL))
    assert rgb(SMALL, limits).size == (8, 8)
    assert rgb(encoded(Image.new("1", (16, 4))), limits).size == (16, 4)
    assert reason_of(encoded(Image.new("1", (13, 5))), limits) == "image_too_large"
    assert reason_of(encoded(Image.new("1", (13, 3))), limits) == "image_aspect_ratio"
    assert reason_of(SMALL + b"\0", limits) == "image_too_large"


def test_check_looks_at_the_header_only():
    half = JPEG[: len(JPEG) // 2]
    check_image(half, LIMITS)
    assert reason_of(half) == "image_broken"


def test_what_is_not_a_file_is_missing(tmp_path):
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)  # opening it would wait for a writer for ever
    loop = tmp_path / "loop.png"
    loop.symlink_to(loop)
    places = [tmp_path, pipe, loop, tmp_path / "no.png", tmp_path / ("x" * 5000)]
    places += [tmp_path / "a\0b.png", tmp_path / "\ud800.png", Path("/dev/zero")]
    for place in places:
        assert reason_of(place) == "image_missing", place


def test_transparent_pixels_are_white_and_half_transparent_ones_half_white():
    image = Image.new("RGBA", (3, 1))
    image.putdata([(255, 0, 0, 0), (0, 0, 0, 128), (255, 0, 0, 255)])
    for format in ("PNG", "WEBP"):
        source = encoded(image, format, **({"lossless": True} if format == "WEBP" else {}))
        assert pixel(source, 0) == WHITE
        assert pixel(source, 1) == (127, 127, 127)
        assert pixel(source, 2) == RED


def test_gray_with_alpha_is_laid_on_white():
    image = Image.new("LA", (2, 1))
    image.putdata([(0, 0), (100, 255)])
    assert pixel(encoded(image), 0) == WHITE
    assert pixel(encoded(image), 1) == (100, 100, 100)


def test_a_palette_is_resolved_and_its_transparent_entry_is_white():
    image = Image.new("P", (2, 1))
    image.putpalette([0, 0, 0, *RED])
    image.putdata([0, 1])
    plain, keyed = encoded(image), encoded(image, transparency=0)
    assert (pixel(plain, 0), pixel(plain, 1)) == (BLACK, RED)
    assert (pixel(keyed, 0), pixel(keyed, 1)) == (WHITE, RED)
    by_entry = encoded(image, transparency=bytes([255, 0]))
    assert (pixel(by_entry, 0), pixel(by_entry, 1)) == (BLACK, WHITE)


@pytest.mark.parametrize(("mode", "key"), [("L", 0), ("RGB", BLACK), ("1", 0)])
def test_a_color_declared_transparent_is_white(mode, key):
    assert pixel(encoded(Image.new(mode, (2, 2), key), transparency=key)) == WHITE
    assert pixel(encoded(Image.new(mode, (2, 2), key))) == BLACK


def test_black_and_white_pixels_keep_their_colors():
    image = Image.new("1", (2, 1))
    image.putdata([0, 1])
    assert (pixel(encoded(image), 0), pixel(encoded(image), 1)) == (BLACK, WHITE)


@pytest.mark.parametrize(
    ("dtype", "format"), [("<u2", "PNG"), ("<u2", "TIFF"), (">u2", "TIFF"), ("<i4", "TIFF")]
)
def test_deep_gray_is_scaled_not_clipped(dtype, format):
    gray = np.array([[0, 257 * 100, 65_535]], dtype=dtype)
    source = encoded(Image.fromarray(gray), format)
    assert [pixel(source, x)[0] for x in range(3)] == [0, 100, 255]


def test_floating_point_gray_is_scaled_by_its_largest_value():
    gray = np.array([[0.0, 0.5, 2.0, -3.0]], dtype=np.float32)
    source = encoded(Image.fromarray(gray), "TIFF")
    assert [pixel(source, x)[0] for x in range(4)] == [0, 63, 255, 0]


@pytest.mark.parametrize("values", [[np.nan, np.nan], [np.inf, 1.0], [np.nan, 1.0], [0.0, 0.0]])
def test_floating_point_gray_with_odd_values_is_still_a_picture(values):
    source = encoded(Image.fromarray(np.array([values], dtype=np.float32)), "TIFF")
    assert pixel(source, 0) in {BLACK, WHITE}


@pytest.mark.parametrize(("ink", "color"), [((0, 0, 0, 0), WHITE), ((0, 255, 255, 0), RED)])
@pytest.mark.parametrize("format", ["JPEG", "TIFF"])
def test_cmyk_is_ink_on_white_paper(format, ink, color):
    source = encoded(Image.new("CMYK", (16, 16), ink), format)
    assert np.abs(np.subtract(pixel(source, 8, 8), color)).max() < 8


@pytest.mark.parametrize("format", ["GIF", "WEBP", "TIFF", "PNG", "MPO"])
def test_of_several_frames_or_pages_the_first_is_taken(format):
    first, second = Image.new("RGB", (8, 8), RED), Image.new("RGB", (8, 8), (0, 0, 255))
    options = {"lossless": True} if format == "WEBP" else {}
    source = encoded(first, format, save_all=True, append_images=[second], **options)
    with Image.open(io.BytesIO(source)) as opened:
        assert getattr(opened, "n_frames", 1) == 2
    assert np.abs(np.subtract(pixel(source, 4, 4), RED)).max() < 2


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_a_picture_taken_with_the_camera_on_its_side_is_turned_upright(format):
    image = Image.new("RGB", (64, 32), "blue")
    image.paste("red", (0, 0, 32, 32))
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # shown turned clockwise: what is stored left is seen on top
    upright = rgb(encoded(image, format, exif=exif))
    assert upright.size == (32, 64)
    top, bottom = np.asarray(upright)[:32].mean((0, 1)), np.asarray(upright)[32:].mean((0, 1))
    assert top[0] > 200 > top[2]
    assert bottom[2] > 200 > bottom[0]


@pytest.mark.parametrize("orientation", [0, 9, 65_535])
def test_an_orientation_that_does_not_exist_is_ignored(orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    assert rgb(encoded(Image.new("RGB", (64, 32)), "JPEG", exif=exif)).size == (64, 32)


def test_broken_exif_costs_the_rotation_at_most():
    source = encoded(Image.new("RGB", (64, 32)), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    try:
        assert rgb(source).size == (64, 32)
    except BadRow as error:
        assert error.reason == "image_broken"


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_one_pixel_is_a_picture_in_every_format(tmp_path, format):
    file = tmp_path / "picture"  # known by its content, not by its name
    file.write_bytes(encoded(Image.new("RGB", (1, 1), WHITE), format))
    assert rgb(file).size == (1, 1)
    assert pixel(file) == WHITE


def test_every_cut_of_a_file_is_a_picture_or_a_reason():
    exif = Image.Exif()
    exif[DESCRIPTION], exif[ORIENTATION] = "x", 3
    for format in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"):
        whole = encoded(Image.new("RGB", (9, 7), RED), format, exif=exif)
        for length in range(0, len(whole), 7):
            try:
                load_image(whole[:length], LIMITS)
            except BadRow as error:
                assert error.reason in REMEDIES


def test_every_flipped_byte_of_a_file_is_a_picture_or_a_reason():
    limits = LimitsConfig(image_pixels=10_000)
    generator = np.random.default_rng(0)
    for format in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"):
        whole = encoded(Image.new("RGB", (9, 7), RED), format)
        for place in generator.integers(0, len(whole), 60):
            broken = bytearray(whole)
            broken[place] ^= int(generator.integers(1, 256))
            try:
                load_image(bytes(broken), limits)
            except BadRow as error:
                assert error.reason in REMEDIES
