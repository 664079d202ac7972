"""Two hundred image files that are broken, odd or only look so, each made by a rule, with what must come of it.

``files()`` is the list. Nothing is random between runs; every image has pixels of its own.
"""

import io
import json
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

# Which of these a damaged file of a compressed format gives is up to its decoder; that it gives one is not.
DAMAGED = ("truncated", "broken", "not_an_image")
READS, STOPS = "reads", "stops"


@dataclass(frozen=True)
class BrokenFile:
    """A file and its outcome.

    Args:
        name: of the file.
        content: its bytes.
        outcome: ``reads`` or ``stops``, in training and in evaluation alike.
        kinds: what the doctor finds; each a kind, or a tuple of kinds of which one is found.
    """

    name: str
    content: bytes
    outcome: str
    kinds: tuple[str | tuple[str, ...], ...] = ()


def write(root: Path) -> list[BrokenFile]:
    """Write all files into one folder."""
    made = files()
    root.mkdir(parents=True)
    for each in made:
        (root / each.name).write_bytes(each.content)
    return made


def files() -> list[BrokenFile]:
    """All files, by name."""
    made = [*truncated(), *empty(), *impostors(), *damaged_headers(), *harmless_damage(), *depths(), *modes()]
    made += [*animations(), *rotations(), *bombs(), *shapes(), *other_endings(), *names()]
    assert len({each.name for each in made}) == len(made)
    return made


class _Pixels:
    """Photographs that differ from each other."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, width: int = 60, height: int = 40) -> Image.Image:
        self.count += 1
        coarse = np.random.default_rng(self.count).integers(0, 256, (height // 5 + 1, width // 5 + 1, 3), np.uint8)
        return Image.fromarray(np.kron(coarse, np.ones((5, 5, 1), np.uint8))[:height, :width].copy())


def stored(image: Image.Image, form: str, **options) -> bytes:
    """Encoded bytes."""
    held = io.BytesIO()
    image.save(held, form, **options)
    return held.getvalue()


# Name of the encoding, format, ending, options.
ENCODINGS = (
    ("baseline", "JPEG", ".jpg", {}),
    ("progressive", "JPEG", ".jpeg", {"progressive": True}),
    ("png", "PNG", ".png", {}),
    ("lossy", "WEBP", ".webp", {}),
    ("lossless", "WEBP", ".webp", {"lossless": True}),
    ("bmp", "BMP", ".bmp", {}),
    ("gif", "GIF", ".gif", {}),
    ("plain", "TIFF", ".tif", {}),
    ("lzw", "TIFF", ".tiff", {"compression": "tiff_lzw"}),
    ("deflate", "TIFF", ".tif", {"compression": "tiff_deflate"}),
    ("ppm", "PPM", ".ppm", {}),
)
# Their decoders say that bytes are missing; the others only that something is wrong.
SAY_TRUNCATED = {"baseline", "progressive", "png", "bmp", "plain", "ppm"}
OF_FORMAT = {"gif": ("palette",)}


def good(pixels):
    """Each encoding of an image of its own."""
    return [(name, ending, stored(pixels(), form, **options)) for name, form, ending, options in ENCODINGS]


def truncated():
    """Cut after a part of their bytes, as a broken copy leaves them."""
    for percent in (10, 25, 50, 75, 95):
        for name, ending, content in good(_Pixels()):
            cut = content[: len(content) * percent // 100]
            kinds = ("truncated",) if name in SAY_TRUNCATED else (DAMAGED,)
            also = OF_FORMAT.get(name, ()) if name == "gif" and percent >= 50 else ()
            yield BrokenFile(f"cut-{name}-{percent}{ending}", cut, STOPS, (*kinds, *also))


def empty():
    """Without bytes, of zeros alone, or a page that a server sent instead."""
    for ending in (".jpg", ".jpeg", ".jpe", ".png", ".webp", ".bmp", ".gif", ".tif", ".ppm", ".pgm"):
        yield BrokenFile(f"empty{ending}", b"", STOPS, ("empty",))
        yield BrokenFile(f"zeros{ending}", bytes(200), STOPS, ("not_an_image",))
        page = b"<!DOCTYPE html><html><body>404</body></html>"
        yield BrokenFile(f"page{ending}", page, STOPS, ("not_an_image",))


def impostors():
    """Something else under the name of a JPEG."""
    others = {
        "json": json.dumps({"error": "expired"}).encode(),
        "gzip": b"\x1f\x8b\x08" + bytes(40),
        "zip": b"PK\x03\x04" + bytes(40),
        "pdf": b"%PDF-1.7\n" + bytes(40),
        "svg": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
        "xml": b'<?xml version="1.0"?><Error/>',
        "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
        "utf16": "no image".encode("utf-16"),
        "mp4": b"\x00\x00\x00\x18ftypmp42" + bytes(40),
        "program": b"\x7fELF\x02\x01\x01" + bytes(60),
        "pickle": b"\x80\x04cos\nsystem\n(S'true'\ntR.",
        "noise": np.random.default_rng(7).integers(128, 256, 500, np.uint8).tobytes(),
    }
    for name, content in others.items():
        yield BrokenFile(f"impostor-{name}.jpg", content, STOPS, ("not_an_image",))


def damaged_headers():
    """The right beginning and nothing sensible behind it, or a byte before it."""
    beginnings = {
        "a.jpg": b"\xff\xd8\xff",
        "a.png": b"\x89PNG\r\n\x1a\n",
        "a.gif": b"GIF89a",
        "a.webp": b"RIFF\x40\x00\x00\x00WEBPVP8 ",
        "a.bmp": b"BM",
        "a.tif": b"II*\x00",
        "a.ppm": b"P6 ",
    }
    for name, start in beginnings.items():
        yield BrokenFile(f"header-{name}", start + b"\xff" * 50, STOPS, (DAMAGED,))
    for name, ending, content in good(_Pixels()):
        yield BrokenFile(f"shifted-{name}{ending}", b"\n" + content, STOPS, ("not_an_image",))
    yield BrokenFile("no-width.png", png(0, 4, 8, 2, b""), STOPS, (DAMAGED,))
    wrong = bytearray(stored(_Pixels()(), "PNG"))
    wrong[29] ^= 0xFF
    yield BrokenFile("checksum.png", bytes(wrong), STOPS, (DAMAGED,))
    # An ICC profile of 64 MB that takes 64 kB; no decoder needs it.
    profile = chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(2**26)))
    whole = stored(_Pixels()(23), "PNG")
    yield BrokenFile("profile-bomb.png", whole[:33] + profile + whole[33:], STOPS, (DAMAGED,))


def harmless_damage():
    """Bytes behind the image, or a missing end that no pixel needs."""
    pixels = _Pixels()
    pixels.count = 1000
    for name, ending, content in good(pixels):
        yield BrokenFile(f"trailing-{name}{ending}", content + b"junk" * 50, READS, OF_FORMAT.get(name, ()))
    yield BrokenFile("no-end.png", stored(pixels(), "PNG")[:-12], READS)
    yield BrokenFile("no-trailer.gif", stored(pixels(), "GIF")[:-1], READS, ("palette",))


def depths():
    """More than 8 bits a channel: scaled where the range is known, refused where it is not."""
    grey = np.arange(2400, dtype=np.uint16).reshape(40, 60) * 27
    yield BrokenFile("deep-grey.png", stored(Image.fromarray(grey), "PNG"), READS, ("sixteen_bits",))
    yield BrokenFile("deep-grey.tif", stored(Image.fromarray(grey + 9), "TIFF"), READS, ("sixteen_bits",))
    netpbm = b"P5 60 40 65535\n" + (grey[::-1] + 5).astype(">u2").tobytes()
    yield BrokenFile("deep-grey.pgm", netpbm, READS, ("sixteen_bits",))
    for name, kind, channels in (("colour", 2, 3), ("alpha", 6, 4), ("grey-alpha", 4, 2)):
        rows = np.random.default_rng(kind).integers(0, 65536, (8, 10, channels)).astype(">u2")
        kinds = ("sixteen_bits",) if kind == 2 else ("sixteen_bits", "alpha")
        yield BrokenFile(f"deep-{name}.png", png(10, 8, 16, kind, rows), READS, kinds)
    ramp = np.linspace(0, 1, 2400, dtype=np.float32).reshape(40, 60)
    unknown = {
        "unit": ramp,
        "levels": ramp * 255,
        "negative": ramp - 0.5,
        "nan": np.full((4, 4), np.nan, np.float32),
        "int32": np.arange(16, dtype=np.int32).reshape(4, 4) * 70000,
        "small-int32": np.arange(16, dtype=np.int32).reshape(4, 4),
    }
    for name, values in unknown.items():
        yield BrokenFile(f"range-{name}.tif", stored(Image.fromarray(values), "TIFF"), STOPS, ("unknown_range",))


def modes():
    """Pixels of every other kind."""
    pixels = _Pixels()
    pixels.count = 2000
    clear = pixels().convert("RGBA")
    clear.putalpha(0)
    veiled = pixels().convert("RGBA")
    veiled.putalpha(100)
    for name, image, form, ending, kinds in (
        ("print", pixels().convert("CMYK"), "JPEG", ".jpg", ("cmyk",)),
        ("print", pixels().convert("CMYK"), "TIFF", ".tif", ("cmyk",)),
        ("palette", pixels().convert("P"), "PNG", ".png", ("palette",)),
        ("palette", pixels().convert("P"), "BMP", ".bmp", ("palette",)),
        ("palette", pixels().convert("P"), "TIFF", ".tif", ("palette",)),
        ("palette", pixels().convert("P"), "GIF", ".gif", ("palette",)),
        ("bilevel", pixels().convert("1"), "PNG", ".png", ("bilevel",)),
        ("bilevel", pixels().convert("1"), "TIFF", ".tif", ("bilevel",)),
        ("bilevel", pixels().convert("1"), "BMP", ".bmp", ("bilevel",)),
        ("bilevel", pixels().convert("1"), "PPM", ".ppm", ("bilevel",)),
        ("grey", pixels().convert("L"), "JPEG", ".jpg", ()),
        ("grey", pixels().convert("L"), "PNG", ".png", ()),
        ("video", pixels().convert("YCbCr"), "TIFF", ".tif", ()),
        ("clear", clear, "PNG", ".png", ("alpha",)),
        ("veiled", veiled, "PNG", ".png", ("alpha",)),
        ("veiled", pixels().convert("LA"), "PNG", ".webp", ("alpha", "other_ending")),
        ("veiled", veiled.rotate(180), "TIFF", ".tif", ("alpha",)),
    ):
        yield BrokenFile(f"{name}-{form.lower()}{ending}", stored(image, form), READS, kinds)
    soft = pixels().convert("RGBA")
    soft.putalpha(128)
    yield BrokenFile("soft.webp", stored(soft, "WEBP", lossless=True), READS, ("alpha",))
    one = pixels().convert("P")
    yield BrokenFile("one-clear.png", stored(one, "PNG", transparency=0), READS, ("palette", "alpha"))
    yield BrokenFile("one-clear.gif", stored(pixels(), "GIF", transparency=0), READS, ("palette", "alpha"))
    yield BrokenFile("colour-key.png", stored(pixels(), "PNG", transparency=(1, 2, 3)), READS, ("alpha",))
    yield BrokenFile("grey-key.png", stored(pixels().convert("L"), "PNG", transparency=7), READS, ("alpha",))


def animations():
    """More frames than the one that counts."""
    pixels = _Pixels()
    pixels.count = 3000
    for form, ending, kinds in (
        ("GIF", ".gif", ("palette", "animated")),
        ("WEBP", ".webp", ("animated",)),
        ("PNG", ".png", ("animated",)),
        ("TIFF", ".tif", ("animated",)),
        ("MPO", ".jpg", ("animated",)),
    ):
        frames = [pixels() for _ in range(3)]
        content = stored(frames[0], form, save_all=True, append_images=frames[1:])
        yield BrokenFile(f"frames{ending}", content, READS, kinds)


def rotations():
    """What a camera that was held otherwise notes."""
    pixels = _Pixels()
    pixels.count = 4000
    for turned in range(1, 9):
        kinds = () if turned == 1 else ("rotated",)
        yield BrokenFile(f"turned-{turned}.jpg", stored(pixels(), "JPEG", exif=_exif(turned)), READS, kinds)
    yield BrokenFile("turned.png", stored(pixels(), "PNG", exif=_exif(6)), READS, ("rotated",))
    yield BrokenFile("turned.webp", stored(pixels(), "WEBP", exif=_exif(8)), READS, ("rotated",))
    # The tag is part of TIFF itself, and Pillow applies it.
    yield BrokenFile("turned.tif", stored(pixels(), "TIFF", exif=_exif(6)), READS)
    yield BrokenFile("turned-nonsense.jpg", stored(pixels(), "JPEG", exif=_exif(77)), READS)


def bombs():
    """A few bytes that promise more than 179 million pixels."""
    pixels = _Pixels()
    yield BrokenFile("bomb.png", png(20000, 20000, 8, 2, b""), STOPS, ("bomb",))
    yield BrokenFile("bomb-long.png", png(200_000_000, 1, 8, 0, b""), STOPS, ("bomb",))
    yield BrokenFile("bomb.ppm", b"P6 20000 20000 255\n" + bytes(30), STOPS, ("bomb",))
    gif = bytearray(stored(pixels(), "GIF"))
    gif[6:10] = struct.pack("<HH", 60000, 60000)
    yield BrokenFile("bomb.gif", bytes(gif), STOPS, ("bomb",))
    bmp = bytearray(stored(pixels(), "BMP"))
    bmp[18:26] = struct.pack("<ii", 20000, 20000)
    yield BrokenFile("bomb.bmp", bytes(bmp), STOPS, ("bomb",))
    jpeg = bytearray(stored(pixels(), "JPEG"))
    size = jpeg.index(b"\xff\xc0") + 5
    jpeg[size : size + 4] = struct.pack(">HH", 65000, 65000)
    yield BrokenFile("bomb.jpg", bytes(jpeg), STOPS, ("bomb",))
    tags = [(256, 4, 1, 20000), (257, 4, 1, 20000), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 8)]
    listed = b"".join(struct.pack("<HHII", *tag) for tag in [*tags, (278, 4, 1, 20000), (279, 4, 1, 400_000_000)])
    yield BrokenFile("bomb.tif", b"II*\0\x08\0\0\0\x08\0" + listed + bytes(4), STOPS, ("bomb",))


def shapes():
    """As small and as long as images come."""
    pixels = _Pixels()
    pixels.count = 5000
    for size in ((1, 1), (1, 5000), (5000, 1)):
        for form, ending in (("PNG", ".png"), ("JPEG", ".jpg"), ("WEBP", ".webp"), ("BMP", ".bmp")):
            name = f"{size[0]}x{size[1]}{ending}"
            yield BrokenFile(name, stored(pixels(*size), form), READS, ("one_pixel",))
    yield BrokenFile("2x2.png", stored(pixels(2, 2), "PNG"), READS)
    yield BrokenFile("10x160.png", stored(pixels(10, 160), "PNG"), READS)
    yield BrokenFile("10x161.png", stored(pixels(10, 161), "PNG"), READS, ("elongated",))
    yield BrokenFile("400x10.png", stored(pixels(400, 10), "PNG"), READS, ("elongated",))


def other_endings():
    """One format under the name of another."""
    pixels = _Pixels()
    pixels.count = 6000
    for form, ending in (("PNG", ".jpg"), ("JPEG", ".png"), ("WEBP", ".jpg"), ("BMP", ".tif"), ("TIFF", ".gif")):
        yield BrokenFile(f"is-{form.lower()}{ending}", stored(pixels(), form), READS, ("other_ending",))


def names():
    """Whole images under names that break careless programs."""
    pixels = _Pixels()
    pixels.count = 7000
    for name in (
        "two words.png",
        " leading.png",
        "line\nend.png",
        "-rf.png",
        "quo'te\".png",
        "<script>alert(1)</script>.png".replace("/", "\u2215"),
        "\u00fc\u4e2d\U0001f431.png",
        "u\u0308.png",
        "%s{0}\\x.png",
        "\x1b[31mred.png",
        "UPPER.PNG",
        f"{'long' * 60}.png",
    ):
        yield BrokenFile(name, stored(pixels(), "PNG"), READS)
    for odd in (b"caf\xe9.png", b"\xff\xfe.png"):
        yield BrokenFile(odd.decode("utf-8", "surrogateescape"), stored(pixels(), "PNG"), READS, ("odd_name",))


def _exif(turned: int):
    held = Image.Exif()
    held[0x0112] = turned
    return held


def chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of a PNG file."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, depth: int, kind: int, rows) -> bytes:
    """A PNG file by hand, for depths that Pillow does not write and sizes that it would refuse."""
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    lines = b"".join(b"\0" + row.tobytes() for row in rows) if len(rows) else b""
    parts = (b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(lines)), chunk(b"IEND", b""))
    return b"".join(parts)
