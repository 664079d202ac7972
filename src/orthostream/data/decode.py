"""An image file becomes an 8-bit grey or RGB image, or an error that names it."""

from io import BytesIO
from pathlib import Path
from typing import Literal, TypeAlias

from orthostream.data.errors import DataError
from orthostream.errors import needs_extra

with needs_extra("vision"):
    import numpy as np
    from PIL import Image, UnidentifiedImageError

Mode: TypeAlias = Literal["L", "RGB"]

# Transparent pixels often hide a colour nobody was meant to see; they show this one instead.
BEHIND_TRANSPARENCY = (255, 255, 255)

# Formats whose integer pixels (mode "I") are known to run from 0 to 65535.
SIXTEEN_BITS = ("PNG", "PPM")


def decode(source: Path | bytes, mode: Mode, where: str) -> "Image.Image":
    """Read an image.

    Colours are converted to ``mode``; alpha is composited on white; 16-bit grey is scaled to 8 bits. Of an
    animation the first frame counts. The rotation that a camera notes in EXIF is not applied, as in the
    training programs of the papers.

    Args:
        source: a file, or its bytes.
        mode: ``L`` for grey, ``RGB`` for colour.
        where: the image's place, for messages.

    Raises:
        DataError: where the bytes are no image, end too early, hold too many pixels (Pillow's limit against
            decompression bombs), or have no known range of values.
    """
    try:
        with Image.open(BytesIO(source) if isinstance(source, bytes) else source) as opened:
            return _converted(opened, mode, where)
    except DataError:
        raise
    # Broken bytes make Pillow's decoders raise anything: OSError, SyntaxError, ValueError, struct.error, EOFError.
    except Exception as error:
        is_unknown = isinstance(error, UnidentifiedImageError)
        reason = "no image format that Pillow knows" if is_unknown else f"{type(error).__name__}: {error}"
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
