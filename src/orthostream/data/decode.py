"""An image file becomes an 8-bit grey or RGB image, or an error that names it."""

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Literal, TypeAlias

from orthostream.data.errors import DataError
from orthostream.errors import needs_extra

with needs_extra("vision"):
    import numpy as np
    from PIL import Image, ImageOps, UnidentifiedImageError

Mode: TypeAlias = Literal["L", "RGB"]

# Transparent pixels often hide a colour nobody was meant to see; they show this one instead.
BEHIND_TRANSPARENCY = (255, 255, 255)

# Those of the endings that class folders read. Others of Pillow's plugins run programs, such as Ghostscript.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM")

# Formats whose integer pixels (mode "I") are known to run from 0 to 65535.
SIXTEEN_BITS = ("PNG", "PPM")


@dataclass(frozen=True)
class Decoding:
    """How files become pixels, where there is a choice.

    Args:
        apply_rotation: turn an image as the camera noted in EXIF; the training programs of the papers do not.
        most_pixels: an image with more is refused, before any is decoded; Pillow's limit is 178,956,970.
    """

    apply_rotation: bool = False
    most_pixels: int = 178_956_970


USUAL = Decoding()


def decode(source: Path | bytes, mode: Mode, where: str, how: Decoding = USUAL) -> "Image.Image":
    """Read an image.

    Colours are converted to ``mode``; alpha is composited on white; 16-bit grey is scaled to 8 bits. Of an
    animation the first frame counts. The rotation that a camera notes in EXIF is applied if ``how`` says so; that of a
    TIFF file, a tag of the format itself, Pillow always applies.

    Args:
        source: a file, or its bytes.
        mode: ``L`` for grey, ``RGB`` for colour.
        where: the image's place, for messages.
        how: what is applied and what is refused.

    Raises:
        DataError: where the bytes are no image, end too early, hold too many pixels, or have no known range of values;
            where the path is no file.
    """
    # Opening a pipe would wait for a writer for ever.
    if isinstance(source, Path) and source.exists() and not source.is_file():
        raise DataError(f"cannot read image {where}: a pipe, socket, device or folder, not a file; remove it")
    try:
        with Image.open(BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS) as opened:
            if opened.width * opened.height > how.most_pixels:
                raise DataError(
                    f"image {where} has {opened.width}x{opened.height} pixels, and {how.most_pixels:,} are allowed; "
                    "remove it, make it smaller, or raise data.most_pixels"
                )
            if how.apply_rotation:
                ImageOps.exif_transpose(opened, in_place=True)
            return _converted(opened, mode, where)
    except DataError:
        raise
    # Broken bytes make Pillow's decoders raise anything: OSError, SyntaxError, ValueError, struct.error, EOFError.
    except Exception as error:
        is_unknown = isinstance(error, UnidentifiedImageError)
        reason = f"none of the formats {', '.join(FORMATS)}" if is_unknown else f"{type(error).__name__}: {error}"
        raise DataError(f"cannot read image {where} ({_size(source)}): {reason}; mend or remove it") from error


def _size(source: Path | bytes) -> str:
    try:
        return f"{len(source) if isinstance(source, bytes) else source.stat().st_size} bytes"
    except OSError as error:
        return error.strerror or "no size"


def _converted(image: "Image.Image", mode: Mode, where: str) -> "Image.Image":
    if image.mode == "F" or (image.mode.startswith("I") and not _has_sixteen_bits(image)):
        raise DataError(
            f"image {where} has pixels of kind {image.mode!r} ({image.format}), whose range of values is not "
            "known; store it with 8 bits, or with 16 bits grey as PNG"
        )
    if image.mode.startswith("I"):
        # 65535 / 255 = 257; converting by Pillow itself would clip and turn most of the image white.
        values = np.asarray(image).astype(np.uint32)
        image = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    elif image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        seen = image.convert("RGBA")
        behind = Image.new("RGBA", seen.size, (*BEHIND_TRANSPARENCY, 255))
        image = Image.alpha_composite(behind, seen)
    return image.convert(mode)


def _has_sixteen_bits(image: "Image.Image") -> bool:
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format in SIXTEEN_BITS)
