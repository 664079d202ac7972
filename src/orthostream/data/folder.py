"""Images in class folders: ``source/train/<class>/...`` and ``source/val/<class>/...``."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from orthostream.data.description import Description, checked_size, default_patch
from orthostream.data.errors import DataError, printable
from orthostream.data.images import ImageFileSet
from orthostream.data.splits import Splits

SIZE = 224
ENDINGS = (".jpg", ".jpeg", ".jpe", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
# The first one that is there. A folder named test often has no labels, hence its place.
EVALUATION_NAMES = ("val", "valid", "validation", "test")
# Of ImageNet, as is customary for photographs.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SHOWN = 5


@dataclass
class Ignored:
    """What lay in the folders and was passed over; it is told, not hidden."""

    hidden: list[str] = field(default_factory=list[str])
    no_images: list[str] = field(default_factory=list[str])
    links: list[str] = field(default_factory=list[str])

    def notes(self) -> list[str]:
        """One line a kind, with a few examples."""
        reasons = [
            (self.hidden, "hidden files and folders ignored"),
            (self.no_images, "files ignored that are no images by their ending, or lie in no class folder"),
            (self.links, "links to folders inside class folders not followed"),
        ]
        return [f"{len(paths)} {reason}: {_some(paths)}" for paths, reason in reasons if paths]


def folder(*, source: str | None = None, image_size: int | None = None) -> Splits:
    """Images in class folders, a class being all images anywhere below its folder.

    Classes are the folders of ``train`` in the order of their names. The evaluation split is ``val``, ``valid``,
    ``validation`` or ``test``, the first that is there; it may lack classes, which is noted, but not have others.
    Images are read when asked for, as RGB.

    Args:
        source: the folder that holds ``train`` and an evaluation split.
        image_size: pixels a side after the transforms; 224 by default.

    Raises:
        DataError: naming the folder that is missing, empty or too many, and what to do.
    """
    if source is None:
        raise DataError("data.source is missing; for data.name=folder it is a folder that holds train/ and val/")
    root = Path(source).expanduser()
    present = _subfolders(root, source)
    evaluation_names = [name for name in EVALUATION_NAMES if name in present]
    if "train" not in present or not evaluation_names:
        wanted = "train" if "train" not in present else f"evaluation split ({', '.join(EVALUATION_NAMES)})"
        raise DataError(
            f"{root} has no {wanted} folder; it holds: {_some(sorted(present)) or 'no folders'}; expected "
            "train/<class>/<image> and val/<class>/<image>"
        )
    ignored = Ignored()
    train, names = open_train(root / "train", ignored)
    evaluation, missing = _open_evaluation(root / evaluation_names[0], names, ignored)
    description = photographs("folder", names, image_size, evaluation_names[0])
    notes = ignored.notes()
    if missing:
        notes.append(f"{len(missing)} of {len(names)} classes have no image in {evaluation_names[0]}: {_some(missing)}")
    if len(evaluation_names) > 1:
        notes.append(f"evaluation uses {evaluation_names[0]}; not used: {', '.join(evaluation_names[1:])}")
    return Splits(train, evaluation, description, tuple(notes))


def photographs(name: str, classes: Sequence[str], image_size: int | None, eval_split: str) -> Description:
    """What a set of RGB photographs of any size is, whatever they are stored in.

    Args:
        name: of the data set, as in the table.
        classes: their names, which may hold bytes that are no UTF-8.
        image_size: pixels a side after the transforms; None for 224.
        eval_split: the split that evaluations use.

    Raises:
        UsageError: for a size below 1.

    Example:
        >>> photographs("folder", ["cat", "dog"], None, "val").image_size
        224
    """
    size = checked_size(image_size, SIZE)
    return Description(
        name=name,
        family="imagenet",
        classes=tuple(printable(each) for each in classes),
        channels=3,
        image_size=size,
        patch_size=default_patch(size),
        mean=MEAN,
        std=STD,
        eval_split=eval_split,
    )


def _subfolders(root: Path, source: str) -> set[str]:
    """Names of the folders in the root of the source."""
    if not root.is_dir():
        what = "a file" if root.exists() else f"no folder ({root.absolute()})"
        raise DataError(f"data.source {source!r} is {what}; expected a folder that holds train/ and val/")
    return {entry.name for entry in _entries(root) if is_folder(entry)}


def open_train(split: Path, ignored: Ignored) -> tuple[ImageFileSet, list[str]]:
    """The training images, and the names of their folders, which become the classes."""
    names = _class_folders(split, ignored)
    if len(names) < 2:
        raise DataError(
            f"{split} has {len(names)} class folders{f' ({printable(names[0])})' if names else ''}; a classifier needs "
            "two: expected train/<class>/<image>"
        )
    files = [_images_below(split, name, ignored) for name in names]
    empty = [printable(name) for name, found in zip(names, files, strict=True) if not found]
    if empty:
        raise DataError(
            f"{len(empty)} class folders of {split} hold no image: {_some(empty)}; remove them or fill them "
            f"(endings: {' '.join(ENDINGS)})"
        )
    return _file_set(split, files), names


def _open_evaluation(split: Path, names: Sequence[str], ignored: Ignored) -> tuple[ImageFileSet, list[str]]:
    """The evaluation images under the classes of training, and the classes that have none."""
    present = _class_folders(split, ignored)
    extra = [printable(name) for name in present if name not in set(names)]
    if extra:
        raise DataError(
            f"{split} has {len(extra)} class folders that {split.parent / 'train'} has not: {_some(extra)}; "
            "labels count the classes of training: remove them or add them there"
        )
    files = [_images_below(split, name, ignored) if name in set(present) else [] for name in names]
    if not any(files):
        raise DataError(f"{split} holds no image in any class folder; expected {split.name}/<class>/<image>")
    return _file_set(split, files), [printable(name) for name, found in zip(names, files, strict=True) if not found]


def _file_set(split: Path, files: Sequence[Sequence[str]]) -> ImageFileSet:
    """Samples ordered by class, then by path."""
    labels = torch.repeat_interleave(torch.arange(len(files)), torch.tensor([len(found) for found in files]))
    return ImageFileSet(split, [path for found in files for path in found], labels, len(files))


def _class_folders(split: Path, ignored: Ignored) -> list[str]:
    """Names of the class folders of a split, sorted."""
    names = []
    for entry in _entries(split):
        if entry.name.startswith("."):
            ignored.hidden.append(printable(entry.path))
        elif is_folder(entry):
            names.append(entry.name)
        else:
            ignored.no_images.append(printable(entry.path))
    return sorted(names)


def _images_below(split: Path, name: str, ignored: Ignored) -> list[str]:
    """Paths, relative to the split, of all images anywhere below a class folder, sorted."""
    found: list[str] = []
    waiting = [split / name]
    while waiting:
        for entry in _entries(waiting.pop()):
            if entry.name.startswith("."):
                ignored.hidden.append(printable(entry.path))
            elif is_folder(entry):
                # A link may lead back up, and a walk that follows it would not end.
                if entry.is_symlink():
                    ignored.links.append(printable(entry.path))
                else:
                    waiting.append(Path(entry.path))
            elif entry.name.lower().endswith(ENDINGS):
                found.append(entry.path.removeprefix(f"{split}{os.sep}"))
            else:
                ignored.no_images.append(printable(entry.path))
    return sorted(found)


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder, or a link to one; a link that leads back to itself is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _entries(path: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(path) as entries:
            return list(entries)
    except OSError as error:
        raise DataError(f"cannot read the folder {printable(str(path))}: {error.strerror}") from error


def _some(names: Sequence[str]) -> str:
    """The first few names."""
    rest = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + rest
