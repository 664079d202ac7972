"""Every kind of image becomes 8-bit grey or RGB without silent damage, or an error that names it."""

import io

import numpy as np
import pytest
from PIL import Image

from orthostream.data.decode import decode
from orthostream.data.errors import DataError

RAMP = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)


def stored(image: Image.Image, kind: str, **options) -> bytes:
    held = io.BytesIO()
    image.save(held, kind, **options)
    return held.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_and_not_clipped(kind):
    levels = np.asarray(decode(stored(Image.fromarray(RAMP), kind), "L", "here"))
    # 257 n of 16 bits is n of 8 bits, exactly.
    assert np.array_equal(levels, np.arange(256, dtype=np.uint8).reshape(16, 16))
    assert decode(stored(Image.fromarray(RAMP), kind), "RGB", "here").mode == "RGB"


def test_16_bit_grey_is_rounded_to_the_nearest_level():
    # 250 / 257 = 0.97
    assert decode(stored(Image.fromarray(np.full((1, 1), 250, np.uint16)), "PNG"), "L", "here").getpixel((0, 0)) == 1


@pytest.mark.parametrize("pixels", [np.full((4, 4), 0.5, np.float32), np.full((4, 4), 70000, np.int32)])
def test_pixels_without_a_known_range_are_refused(pixels):
    with pytest.raises(DataError, match=r"here has pixels of kind .* range"):
        decode(stored(Image.fromarray(pixels), "TIFF"), "RGB", "here")


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_are_white_whatever_colour_hides_there(mode):
    hidden = Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    hidden.putpixel((1, 0), (0, 0, 0, 255))
    if mode == "P":
        image = Image.new("P", (2, 1), 0)
        image.putpalette([255, 0, 0, 0, 0, 0])
        image.putpixel((1, 0), 1)
        content = stored(image, "PNG", transparency=0)
    else:
        content = stored(hidden.convert(mode), "PNG")
    assert np.asarray(decode(content, "RGB", "here")).tolist() == [[[255, 255, 255], [0, 0, 0]]]


def test_half_transparent_pixels_are_blended_with_white():
    content = stored(Image.new("RGBA", (1, 1), (0, 0, 0, 128)), "PNG")
    # 255 (1 - 128 / 255) = 127
    assert decode(content, "RGB", "here").getpixel((0, 0)) == (127, 127, 127)


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr"])
def test_other_modes_become_rgb(mode):
    source = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)).convert(mode)
    content = stored(source, "TIFF" if mode in ("CMYK", "YCbCr") else "PNG")
    assert np.array_equal(np.asarray(decode(content, "RGB", "here")), np.asarray(source.convert("RGB")))


def test_an_animation_shows_its_first_frame():
    frames = [Image.new("RGB", (2, 2), colour) for colour in ("red", "blue")]
    content = stored(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode(content, "RGB", "here").getpixel((0, 0)) == (255, 0, 0)


def test_the_cameras_rotation_is_not_applied():
    image = Image.new("RGB", (4, 2))
    exif = image.getexif()
    exif[0x0112] = 6
    assert decode(stored(image, "JPEG", exif=exif), "RGB", "here").size == (4, 2)


GOOD = stored(Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)), "JPEG")


@pytest.mark.parametrize(
    "content",
    [b"", GOOD[:300], b"\x00" * 200, b"<html>not found</html>", b"\x89PNG\r\n\x1a\n" + b"\xff" * 50],
    ids=["empty", "truncated", "garbage", "html", "broken png"],
)
def test_unreadable_bytes_name_the_image_and_its_size(content, tmp_path):
    path = tmp_path / "bad.jpg"
    path.write_bytes(content)
    for source in (content, path):
        with pytest.raises(DataError, match=rf"cannot read image shelf 3 \({len(content)} bytes\)"):
            decode(source, "RGB", "shelf 3")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"shelf 3 \(No such file"):
        decode(tmp_path / "gone.png", "RGB", "shelf 3")


def test_a_decompression_bomb_is_refused(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(DataError, match="DecompressionBombError"):
        decode(GOOD, "RGB", "here")
