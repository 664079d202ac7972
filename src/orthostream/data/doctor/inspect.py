"""One image looked at: what it is, and what is the matter with it. No bomb is decoded and nothing is run."""

import hashlib
import stat
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePath

from orthostream.data.decode import decode
from orthostream.data.errors import DataError
from orthostream.data.transforms import LONGEST_ASPECT
from orthostream.errors import needs_extra

with needs_extra("vision"):
    from PIL import Image, UnidentifiedImageError

# Formats by the endings that class folders read. A JPEG of several pictures calls itself MPO.
ENDINGS_OF = {
    "JPEG": (".jpg", ".jpeg", ".jpe"),
    "MPO": (".jpg", ".jpeg", ".jpe"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "DIB": (".bmp",),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm"),
}
# No photograph has a gigabyte; some plugins read the file as a whole.
LARGEST_FILE = 2**30
ORIENTATION = 0x0112
HEAD = 64
DIGEST_BYTES = 16

# How files begin that often lie where an image should be.
MISTAKEN = (
    (b"version https://git-lfs", "a Git LFS pointer; fetch the file itself with: git lfs pull"),
    (b"<!doctype html", "a page of HTML, perhaps an error message of a server"),
    (b"<html", "a page of HTML, perhaps an error message of a server"),
    (b"<?xml", "XML, perhaps an error message of a server"),
    (b"<svg", "an SVG drawing"),
    (b"{", "JSON, perhaps an error message of a server"),
    (b"\x1f\x8b", "compressed by gzip"),
    (b"pk\x03\x04", "a zip archive"),
    (b"%pdf", "a PDF document"),
)

# How images begin whose header may be damaged further on.
MAGIC = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG", "PNG"),
    (b"GIF8", "GIF"),
    (b"RIFF", "WEBP"),
    (b"BM", "BMP"),
    (b"II*\x00", "TIFF"),
    (b"MM\x00*", "TIFF"),
)


@dataclass(frozen=True, slots=True)
class Facts:
    """What one image is.

    Args:
        form: format and kind of pixels, such as ``JPEG RGB``; empty where they cannot be told.
        width: pixels; 0 where it cannot be told.
        height: likewise.
        digest: of the pixels as a model sees them, 16 bytes; empty where they cannot be read.
        problems: kinds of findings, each with a detail.
    """

    form: str = ""
    width: int = 0
    height: int = 0
    digest: bytes = b""
    problems: tuple[tuple[str, str], ...] = ()


def inspect(source: Path | bytes, name: str) -> Facts:
    """Look at one image.

    The header is read first. What is larger than Pillow's limit against decompression bombs, or of a format that no
    image ending means, is not decoded. The rest is decoded as for training.

    Args:
        source: a file, or its bytes.
        name: of the file, for its ending.

    Returns:
        Facts and findings; broken images are findings, no exceptions.

    Example:
        >>> inspect(b"", "cat.jpg").problems
        (('empty', ''),)
    """
    try:
        size, head = _beginning(source)
    except OSError as error:
        return Facts(problems=(("unreadable", error.strerror or str(error)),))
    except NotAFileError as error:
        return Facts(problems=(("special_file", str(error)),))
    if not size:
        return Facts(problems=(("empty", ""),))
    if size > LARGEST_FILE:
        return Facts(problems=(("huge", f"{size:,} bytes"),))
    # Pillow warns of damaged metadata and of large images, both of which are findings here or nobody's concern.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _looked_at(source, head, name)


class NotAFileError(Exception):
    """Something that opens like a file and is none."""


def _beginning(source: Path | bytes) -> tuple[int, bytes]:
    """Size in bytes, and the first of them."""
    if isinstance(source, bytes):
        return len(source), source[:HEAD]
    held = source.stat()
    # Opening a pipe would wait for a writer for ever.
    if not stat.S_ISREG(held.st_mode):
        names = {stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket", stat.S_IFDIR: "a folder"}
        raise NotAFileError(names.get(stat.S_IFMT(held.st_mode), "a device"))
    with source.open("rb") as file:
        return held.st_size, file.read(HEAD)


def _looked_at(source: Path | bytes, head: bytes, name: str) -> Facts:
    try:
        with Image.open(BytesIO(source) if isinstance(source, bytes) else source) as image:
            form, (width, height) = f"{image.format} {image.mode}", image.size
            problems = [*_of_header(image, name)]
            if image.format not in ENDINGS_OF:
                return Facts(form, width, height, problems=(*problems, ("foreign_format", str(image.format))))
            if width * height > (Image.MAX_IMAGE_PIXELS or width * height):
                return Facts(form, width, height, problems=(*problems, ("huge", f"{width}x{height} pixels")))
    # As in decode: broken bytes make Pillow's plugins raise anything.
    except Exception as error:
        return Facts(problems=(_named(error, head),))
    try:
        pixels = decode(source, "RGB", name)
    except DataError as error:
        if error.__cause__ is None:
            # Refused by its kind of pixels, which is more than a note on them.
            kept = [problem for problem in problems if problem[0] != "sixteen_bits"]
            return Facts(form, width, height, problems=(*kept, ("unknown_range", f"pixels of kind {form}")))
        return Facts(form, width, height, problems=(*problems, _named(error.__cause__, head)))
    if form.startswith("PNG") and "rotated" not in dict(problems):
        problems += _turned(pixels)
    return Facts(form, width, height, _digest(pixels), tuple(problems))


def _named(error: BaseException, head: bytes) -> tuple[str, str]:
    """The finding that an exception of Pillow is, and its detail."""
    if isinstance(error, Image.DecompressionBombError):
        return "bomb", str(error)
    if isinstance(error, UnidentifiedImageError):
        begun = next((form for start, form in MAGIC if head.startswith(start)), None)
        if begun is not None:
            return "broken", f"begins as {begun}, but its header cannot be read"
        return "not_an_image", _mistaken(head)
    text = f"{type(error).__name__}: {error}"
    is_cut = isinstance(error, EOFError) or "truncated" in text.lower()
    return "truncated" if is_cut else "broken", text


def _mistaken(head: bytes) -> str:
    """What a file is instead of an image, by its beginning."""
    begin = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for start, meaning in MISTAKEN:
        if begin.startswith(start):
            return meaning
    return "all bytes are zero" if head.count(0) == len(head) else f"begins with {head[:8]!r}"


def _of_header(image: "Image.Image", name: str) -> Iterator[tuple[str, str]]:
    """What a header tells without pixels."""
    width, height = image.size
    ending = PurePath(name).suffix.lower()
    if ending and ending not in ENDINGS_OF.get(image.format or "", (ending,)):
        yield "other_ending", f"{image.format} named {ending}"
    if 1 in (width, height):
        yield "one_pixel", f"{width}x{height}"
    elif max(width, height) > LONGEST_ASPECT * min(width, height):
        yield "elongated", f"{width}x{height}"
    if _has_sixteen_bits(image):
        yield "sixteen_bits", image.mode
    if image.mode == "CMYK":
        yield "cmyk", ""
    if image.mode in ("P", "PA"):
        yield "palette", ""
    if image.mode == "1":
        yield "bilevel", ""
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        yield "alpha", image.mode
    if frames := _frames(image):
        yield "animated", frames
    # Pillow applies the tag of TIFF itself, and to find that of PNG behind the pixels it would decode them.
    if image.format != "TIFF" and (image.format != "PNG" or "exif" in image.info):
        yield from _turned(image)


def _has_sixteen_bits(image: "Image.Image") -> bool:
    """Whether the file has 16 bits a channel; Pillow keeps them of grey alone, and halves those of colours."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        return True
    # A tile carries the order of bytes that the decoder is given, such as "RGB;16B".
    tiles = getattr(image, "tile", [])
    return bool(tiles) and ";16" in str(tiles[0][-1])


def _frames(image: "Image.Image") -> str:
    """How many frames there are, where there are several."""
    try:
        if not getattr(image, "is_animated", False):
            return ""
        return f"{getattr(image, 'n_frames', 'several')} frames"
    # Frames behind the first may be broken, and nobody reads them.
    except Exception:
        return "several frames, of which some cannot be counted"


def _turned(image: "Image.Image") -> Iterator[tuple[str, str]]:
    """What the camera noted, unless it was upright: 2 to 8 are turned or mirrored."""
    try:
        noted = image.getexif().get(ORIENTATION, 1)
    # Training does not read it either.
    except Exception:
        return
    if noted in range(2, 9):
        yield "rotated", f"orientation {noted}"


def _digest(pixels: "Image.Image") -> bytes:
    """16 bytes that two images share where they have the same size and pixels."""
    width, height = pixels.size
    held = hashlib.sha256(f"{width}x{height}".encode())
    held.update(pixels.tobytes())
    return held.digest()[:DIGEST_BYTES]
