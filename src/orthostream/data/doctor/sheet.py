"""A PNG of what was found: a row of examples a kind, and one image of each class to look labels over."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from orthostream.data.contact_sheet import BACKGROUND, CAPTION, INK, SPACE
from orthostream.data.decode import decode
from orthostream.data.doctor.findings import KINDS, Finding
from orthostream.data.doctor.report import by_kind
from orthostream.data.doctor.scan import Scan, tasks
from orthostream.data.errors import DataError
from orthostream.errors import UsageError, needs_extra

with needs_extra("vision"):
    from PIL import Image, ImageDraw

TILE, COLUMNS, CLASS_ROWS = 112, 8, 4
LETTERS = 17
MISSING = (238, 238, 238)
COLOURS = ((90, 90, 90), (190, 110, 0), (200, 0, 0))


@dataclass(frozen=True)
class Tile:
    """One picture of the sheet.

    Args:
        item: number of the image.
        caption: below it.
    """

    item: int
    caption: str


@dataclass(frozen=True)
class Section:
    """Pictures under one title."""

    title: str
    colour: tuple[int, int, int]
    tiles: tuple[Tile, ...]


def write_sheet(path: Path, scan: Scan) -> bool:
    """Write examples of each kind of finding about images, the gravest first, and of the classes.

    Images that cannot be decoded are shown as crossed boxes. Duplicates stand beside what they repeat.

    Args:
        path: of the PNG.
        scan: what was found.

    Returns:
        Whether there was an image to show; nothing is written otherwise.

    Raises:
        UsageError: where the file cannot be written.
    """
    sections = [*_of_findings(scan), *_of_classes(scan)]
    if not sections:
        return False
    pictures = _pictures(scan, sorted({tile.item for section in sections for tile in section.tiles}))
    heights = [_height(section) for section in sections]
    sheet = Image.new("RGB", (COLUMNS * (TILE + SPACE) + SPACE, sum(heights) + SPACE), BACKGROUND)
    top = SPACE
    for section, height in zip(sections, heights, strict=True):
        _draw(sheet, section, pictures, top)
        top += height
    try:
        sheet.save(path, "PNG")
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}") from error
    return True


def _of_findings(scan: Scan) -> list[Section]:
    """A section a kind of finding that is about images."""
    held = by_kind([finding for finding in scan.findings if finding.item is not None])
    return [
        Section(
            f"{KINDS[kind].severity.name.lower()}: {kind}, {len(held[kind]):,}: {KINDS[kind].meaning}",
            COLOURS[KINDS[kind].severity],
            tuple(_tiles(scan, held[kind])[:COLUMNS]),
        )
        for kind in held
    ]


def _tiles(scan: Scan, findings: Sequence[Finding]) -> list[Tile]:
    """Tiles of some findings, spread over all of them; where classes differ, they are the captions."""
    items = scan.source.items
    step = max(1, len(findings) // COLUMNS)
    tiles = []
    for finding in findings[::step][:COLUMNS]:
        for item in (finding.partner, finding.item):
            if item is not None:
                by_class = finding.kind == "contradiction"
                caption = scan.source.class_name(items[item].label) if by_class else items[item].where()
                tiles.append(Tile(item, caption))
    return tiles


def _of_classes(scan: Scan) -> list[Section]:
    """An image of each class of the first split that has any, spread over the classes."""
    first: dict[int, int] = {}
    for index, item in enumerate(scan.source.items):
        if item.split == scan.source.items[0].split and item.label >= 0:
            first.setdefault(item.label, index)
    labels = sorted(first)
    count = min(len(labels), CLASS_ROWS * COLUMNS)
    shown = [labels[place * len(labels) // count] for place in range(count)]
    if not shown:
        return []
    split = scan.source.splits[scan.source.items[0].split]
    title = f"classes of {split}: {len(shown)} of {len(labels)}, one image of each"
    tiles = tuple(Tile(first[label], scan.source.class_name(label)) for label in shown)
    return [Section(title, INK, tiles)]


def _pictures(scan: Scan, indices: Sequence[int]) -> dict[int, "Image.Image"]:
    """Small pictures of those images that the scan could decode."""
    readable = [index for index in indices if scan.digests[index].any()]
    pictures = {}
    for task in tasks(scan.source, readable):
        # It was readable a moment ago; a file that has changed since is shown as missing.
        try:
            pictures[task.index] = _fitted(decode(task.read(), "RGB", task.name))
        except (DataError, OSError):
            continue
    return pictures


def _fitted(image: "Image.Image") -> "Image.Image":
    """An image made to fit a tile; small ones enlarged so that pixels stay visible."""
    scale = TILE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BOX)


def _height(section: Section) -> int:
    rows = -(-len(section.tiles) // COLUMNS)
    return CAPTION + rows * (TILE + CAPTION + SPACE) + SPACE


def _draw(sheet: "Image.Image", section: Section, pictures: dict[int, "Image.Image"], top: int) -> None:
    drawing = ImageDraw.Draw(sheet)
    drawing.text((SPACE, top), _ascii(section.title), fill=section.colour)
    for place, tile in enumerate(section.tiles):
        left = SPACE + place % COLUMNS * (TILE + SPACE)
        upper = top + CAPTION + place // COLUMNS * (TILE + CAPTION + SPACE)
        picture = pictures.get(tile.item)
        if picture is None:
            box = (left, upper, left + TILE - 1, upper + TILE - 1)
            drawing.rectangle(box, fill=MISSING)
            drawing.line(box, fill=BACKGROUND, width=2)
            drawing.line((box[0], box[3], box[2], box[1]), fill=BACKGROUND, width=2)
        else:
            sheet.paste(picture, (left + (TILE - picture.width) // 2, upper + (TILE - picture.height) // 2))
        caption = tile.caption if len(tile.caption) <= LETTERS else f"~{tile.caption[1 - LETTERS :]}"
        drawing.text((left, upper + TILE), _ascii(caption), fill=INK)


def _ascii(text: str) -> str:
    """Signs that every font has, on one line."""
    return "".join(sign if sign.isprintable() else "?" for sign in text).encode("ascii", "replace").decode()
