"""Class folders listed with patience: what would stop a run is a finding, and the listing goes on."""

import os
from pathlib import Path

from orthostream.data.doctor.source import Boundary, InFile, Item, Source
from orthostream.data.errors import printable
from orthostream.data.folder import ENDINGS, EVALUATION_NAMES, is_folder

TRAIN = "train"
SPLITS = (TRAIN, *EVALUATION_NAMES)


def list_splits(source: Source, boundary: Boundary) -> None:
    """List ``train`` and every evaluation split that is there; the classes are those of training.

    Without a training split they are those of the first evaluation split.
    """
    source.layout = "class folders by split"
    present = {entry.name: entry for entry in _entries(source, source.path)}
    source.splits = [name for name in SPLITS if name in present and is_folder(present[name])]
    for name, entry in sorted(present.items()):
        if name.startswith("."):
            source.found("hidden", Path(entry.path))
        elif name not in source.splits:
            source.found("not_scanned", Path(entry.path))
    classes: dict[str, int] = {}
    for number, split in enumerate(source.splits):
        rules = number == 0
        if not _is_inside(present[split], source, boundary, split):
            continue
        folders = _class_folders(source, source.path / split, boundary, split)
        if rules:
            classes = {name: label for label, name in enumerate(folders)}
        before = len(source.items)
        for name in folders:
            if name not in classes:
                source.found("class_not_in_training", source.path / split / name, split=split)
            paths = _images(source, source.path / split / name, boundary, split)
            source.items += [_item(source, path, number, classes.get(name, -1)) for path in paths]
            if rules and not paths:
                source.found("empty_class", source.path / split / name, split=split)
        if len(source.items) == before:
            source.found("empty_split", source.path / split, split=split)
        if rules and len(folders) < 2:
            source.found("too_few_classes", source.path / split, f"{len(folders)} class folders", split)
    source.classes = [printable(name) for name in classes]


def list_classes(source: Source, boundary: Boundary) -> None:
    """List a folder that holds the class folders of one split."""
    source.layout, source.splits = "class folders", [source.path.name]
    folders = _class_folders(source, source.path, boundary, source.splits[0])
    source.classes = [printable(name) for name in folders]
    for label, name in enumerate(folders):
        paths = _images(source, source.path / name, boundary, source.splits[0])
        source.items += [_item(source, path, 0, label) for path in paths]
        if not paths:
            source.found("empty_class", source.path / name, split=source.splits[0])
    if len(folders) < 2:
        source.found("too_few_classes", source.path, f"{len(folders)} class folders", source.splits[0])


def _item(source: Source, path: str, split: int, label: int) -> Item:
    return Item(split, label, os.path.relpath(path, source.path), InFile(path))


def _class_folders(source: Source, folder: Path, boundary: Boundary, split: str) -> list[str]:
    """Names of the class folders of a split, sorted as for training."""
    names = []
    for entry in _entries(source, folder):
        if entry.name.startswith("."):
            source.found("hidden", Path(entry.path), split=split)
        elif not is_folder(entry):
            source.found("ignored", Path(entry.path), split=split)
        elif _is_inside(entry, source, boundary, split):
            names.append(entry.name)
            _look_at_name(entry, source, split)
    return sorted(names)


def _images(source: Source, folder: Path, boundary: Boundary, split: str) -> list[str]:
    """Paths of all images anywhere below a class folder, sorted as for training."""
    found: list[str] = []
    waiting = [folder]
    while waiting:
        for entry in _entries(source, waiting.pop(), split):
            path = Path(entry.path)
            if entry.name.startswith("."):
                source.found("hidden", path, split=split)
            elif is_folder(entry):
                if entry.is_symlink():
                    source.found("link_not_followed", path, split=split)
                else:
                    waiting.append(path)
            elif not entry.name.lower().endswith(ENDINGS):
                source.found("ignored", path, split=split)
            elif _is_inside(entry, source, boundary, split):
                found.append(entry.path)
                _look_at_name(entry, source, split)
    return sorted(found)


def _is_inside(entry: os.DirEntry[str], source: Source, boundary: Boundary, split: str) -> bool:
    """Whether an entry may be read; a finding where it is a link that may not."""
    if not entry.is_symlink() or boundary.holds(entry.path):
        return True
    source.found("link_outside", Path(entry.path), f"leads to {Path(entry.path).resolve()}", split)
    return False


def _look_at_name(entry: os.DirEntry[str], source: Source, split: str) -> None:
    if printable(entry.name) != entry.name:
        source.found("odd_name", Path(entry.path), split=split)


def _entries(source: Source, path: Path, split: str = "") -> list[os.DirEntry[str]]:
    """What a folder holds; a finding where it may not be read."""
    try:
        with os.scandir(path) as entries:
            return list(entries)
    except OSError as error:
        source.found("unreadable", path, error.strerror or str(error), split)
        return []
