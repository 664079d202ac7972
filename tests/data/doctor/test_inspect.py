"""One image looked at: no bomb is decoded, nothing is run, and pixels are those that training gets."""

import hashlib
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile

from orthostream.data.decode import decode
from orthostream.data.doctor import inspect as module
from orthostream.data.doctor.inspect import ENDINGS_OF, inspect
from orthostream.data.folder import ENDINGS


def stored(image, form, **options):
    held = io.BytesIO()
    image.save(held, form, **options)
    return held.getvalue()


@pytest.fixture
def never_decodes(monkeypatch):
    """Whoever asks for pixels fails the test."""

    def refuse(*args):
        pytest.fail("pixels were decoded")

    monkeypatch.setattr(module, "decode", refuse)
    monkeypatch.setattr(ImageFile.ImageFile, "load", refuse)


def test_endings_are_those_that_class_folders_read():
    assert {ending for endings in ENDINGS_OF.values() for ending in endings} == set(ENDINGS)


def test_a_whole_image_has_its_form_size_and_digest_and_no_problem(picture, tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(stored(Image.fromarray(picture(1)), "PNG"))
    facts = inspect(path, "a.png")
    assert (facts.form, facts.width, facts.height, facts.problems) == ("PNG RGB", 32, 32, ())
    pixels = decode(path, "RGB", "").tobytes()
    assert facts.digest == hashlib.sha256(b"32x32" + pixels).digest()[:16]
    assert inspect(path.read_bytes(), "a.png") == facts


def test_the_same_pixels_have_one_digest_in_every_lossless_format(picture):
    image = Image.fromarray(picture(2))
    contents = [stored(image, "PNG"), stored(image, "BMP"), stored(image, "TIFF", compression="tiff_lzw")]
    contents.append(stored(image, "WEBP", lossless=True))
    assert len({inspect(content, "").digest for content in contents}) == 1
    assert inspect(stored(Image.fromarray(picture(3)), "PNG"), "").digest != inspect(contents[0], "").digest


def test_the_same_bytes_in_another_shape_have_another_digest():
    flat = Image.new("RGB", (6, 4), (9, 9, 9))
    assert inspect(stored(flat, "PNG"), "").digest != inspect(stored(flat.rotate(90, expand=True), "PNG"), "").digest


def test_an_image_above_the_warning_limit_is_not_decoded(monkeypatch, never_decodes):
    content = stored(Image.new("RGB", (20, 10)), "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 150)
    facts = inspect(content, "a.png")
    assert facts.problems == (("huge", "20x10 pixels"),) and facts.digest == b"" and facts.width == 20
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 99)
    assert [kind for kind, _ in inspect(content, "a.png").problems] == ["bomb"]


def test_a_file_of_gigabytes_is_not_opened(monkeypatch, never_decodes, tmp_path):
    path = tmp_path / "a.webp"
    with path.open("wb") as file:
        file.truncate(2**30 + 1)
    assert inspect(path, "a.webp").problems == (("huge", "1,073,741,825 bytes"),)


@pytest.mark.parametrize("form", ["EPS", "PCX", "SGI", "TGA"])
def test_formats_whose_plugins_may_run_programs_are_not_decoded(form, never_decodes):
    image = Image.fromarray(np.zeros((16, 16, 3), np.uint8))
    assert ("foreign_format", form) in inspect(stored(image, form), "a.jpg").problems


@pytest.mark.parametrize(
    ("content", "detail"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"\xef\xbb\xbf\n <!DOCTYPE HTML>", "page of HTML"),
        (b"\x1f\x8b\x08\x00", "gzip"),
        (bytes(30), "all bytes are zero"),
        (b"\x89PNG\r\n\x1a\n", "begins as PNG"),
        (b"hello there", "begins with b'hello th'"),
    ],
)
def test_what_is_there_instead_of_an_image_is_said(content, detail):
    ((_, said),) = inspect(content, "a.jpg").problems
    assert detail in said


def test_a_rotation_noted_behind_the_pixels_of_a_png_is_found(picture):
    content = stored(Image.fromarray(picture(5)), "PNG")
    note = _exif().tobytes().removeprefix(b"Exif\0\0")
    part = b"eXIf" + note
    behind = struct.pack(">I", len(note)) + part + struct.pack(">I", zlib.crc32(part))
    assert inspect(content[:-12] + behind + content[-12:], "a.png").problems == (("rotated", "orientation 6"),)


def test_broken_metadata_is_nobodys_concern(picture):
    content = bytearray(stored(Image.fromarray(picture(4)), "JPEG", exif=_exif()))
    begin = content.index(b"Exif") + 6
    content[begin : begin + 20] = b"\xff" * 20
    assert inspect(bytes(content), "a.jpg").problems == ()
    assert decode(bytes(content), "RGB", "").size == (32, 32)


def _exif():
    held = Image.Exif()
    held[0x0112] = 6
    return held
