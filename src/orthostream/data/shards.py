"""Webdataset shards for evaluation: tar files in which ``a.jpg`` lies beside ``a.cls`` or ``a.json``.

A shard is indexed once, header by header, and its images are then read at their offsets: any order, any share, every
image once. Webdataset itself streams, which cannot promise that to several processes.
"""

import json
import re
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor

from orthostream.data import hub
from orthostream.data.decode import decode
from orthostream.data.description import Description, checked_size, default_patch
from orthostream.data.errors import DataError, printable
from orthostream.data.folder import ENDINGS, EVALUATION_NAMES, MEAN, SIZE, STD
from orthostream.data.splits import Splits
from orthostream.errors import needs_extra

with needs_extra("vision"):
    import numpy as np
    from PIL import Image

NUMBERED = re.compile(r"^(.*?)(\d+)\.tar$")
BLOCK = 512
SHOWN = 5
# Of a hub's data set only these are fetched; its training shards are a hundred times as much.
EVALUATION_PATTERNS = tuple(f"*{name}*.tar" for name in EVALUATION_NAMES)


@dataclass(frozen=True)
class Member:
    """One image in a shard."""

    name: str
    offset: int
    size: int
    label: int


class ShardSet:
    """Images read from tar files when asked for, in the order of shards and of the samples in them.

    Args:
        shards: the tar files.

    Raises:
        DataError: for a shard that is cut, a sample without image or label, or a label that is no number, at once;
            for an unreadable image, when it is asked for.
    """

    def __init__(self, shards: Sequence[Path]) -> None:
        self.shards = list(shards)
        found = [_index(shard) for shard in self.shards]
        members = [member for shard in found for member in shard]
        # Arrays and not objects, whose reference counts would copy their pages into each worker.
        self._shard = np.repeat(np.arange(len(found)), [len(shard) for shard in found])
        self._span = np.array([(member.offset, member.size) for member in members], dtype=np.int64).reshape(-1, 2)
        self._names = np.array([member.name.encode("utf-8", "surrogateescape") for member in members], dtype=np.bytes_)
        self.labels: Tensor = torch.tensor([member.label for member in members], dtype=torch.int64)
        self.num_classes = 1 + max((member.label for member in members), default=-1)

    def __len__(self) -> int:
        return len(self.labels)

    def image(self, index: int) -> "Image.Image":
        offset, size = (int(number) for number in self._span[index])
        shard = self.shards[int(self._shard[index])]
        try:
            # Opened anew each time: a position shared with a forked worker would be moved by it.
            with shard.open("rb") as opened:
                opened.seek(offset)
                content = opened.read(size)
        except OSError as error:
            raise DataError(f"cannot read {self.where(index)}: {error.strerror}") from error
        return decode(content, "RGB", self.where(index))

    def label(self, index: int) -> int:
        return int(self.labels[index])

    def where(self, index: int) -> str:
        name = bytes(self._names[index]).decode("utf-8", "surrogateescape")
        return f"{self.shards[int(self._shard[index])]}: {printable(name)}, index {index}"


class NoTraining:
    """The training split of a source that has none: every use is refused."""

    def __len__(self) -> int:
        raise DataError(_NO_TRAINING)

    def image(self, index: int) -> "Image.Image":
        raise DataError(_NO_TRAINING)

    def label(self, index: int) -> int:
        raise DataError(_NO_TRAINING)

    def where(self, index: int) -> str:
        raise DataError(_NO_TRAINING)


_NO_TRAINING = (
    "this source is for evaluation alone and has no training split; to train, give class folders train/ and val/ with "
    "data.name=folder"
)


def shards(*, source: str | None = None, image_size: int | None = None) -> Splits:
    """Webdataset shards: tar files of images with their class numbers, for evaluation.

    A sample is all files of one name up to the first dot: one image, and its class as text in ``.cls`` or as
    ``label`` in ``.json``. Shards do not name their classes: there are taken to be as many as the largest number says,
    named by their numbers.

    Args:
        source: one ``.tar`` file; a folder, of whose tar files those count that have ``val``, ``valid``,
            ``validation`` or ``test`` in their names; or a hub id such as ``timm/imagenet-1k-wds``, of which those
            files are downloaded.
        image_size: pixels a side after the transforms; 224 by default.

    Returns:
        The evaluation split, and a training split that refuses to be used.

    Raises:
        DataError: naming the shard that is missing, cut or no such tar, and what to do.

    Example:
        >>> shards(source="imagenet-1k-sample/wds").description.eval_split  # doctest: +SKIP
        'val'

    Reference: the webdataset format, https://github.com/webdataset/webdataset
    """
    if source is None:
        raise DataError("data.source is missing; for shards it is a .tar file, a folder of them or a hub id")
    files, split, notes = _files(source)
    samples = ShardSet(files)
    if not len(samples):
        raise DataError(f"{source} holds no sample; expected tar files with images beside .cls or .json files")
    size = checked_size(image_size, SIZE)
    description = Description(
        name="shards",
        family="imagenet",
        classes=tuple(str(number) for number in range(samples.num_classes)),
        channels=3,
        image_size=size,
        patch_size=default_patch(size),
        mean=MEAN,
        std=STD,
        eval_split=split,
    )
    return Splits(NoTraining(), samples, description, notes)


def _files(source: str) -> tuple[list[Path], str, tuple[str, ...]]:
    """The shards that a source means, the split that they are, and notes."""
    path = Path(source).expanduser()
    notes: tuple[str, ...] = ()
    if path.is_file():
        return [path], path.stem, ()
    if not path.exists() and hub.is_hub_id(source):
        path, notes = hub.download(source, "dataset", EVALUATION_PATTERNS)
    if not path.is_dir():
        raise DataError(
            f"data.source {source!r} is no file, folder ({path.absolute()}) or hub id; expected a .tar file, a folder "
            "of them, or a hub id such as timm/imagenet-1k-wds"
        )
    present = sorted(path.glob("*.tar"))
    for split in EVALUATION_NAMES:
        word = re.compile(rf"(?:^|[-_.]){split}(?=[-_.\d])")
        if found := [file for file in present if word.search(file.name)]:
            _refuse_gaps(found)
            return found, split, notes
    names = ", ".join(file.name for file in present[:SHOWN]) or "none"
    raise DataError(
        f"{path} has no shard of an evaluation split, such as val-000000.tar; its tar files: {names}. "
        "Give one of them as the source, or name them after their split"
    )


def _refuse_gaps(files: Sequence[Path]) -> None:
    """Shards are numbered; a number that is left out is a file that was not copied."""
    numbers: dict[str, set[int]] = {}
    for file in files:
        if match := NUMBERED.match(file.name):
            numbers.setdefault(match[1], set()).add(int(match[2]))
    for prefix, present in numbers.items():
        missing = sorted(set(range(max(present))) - present)
        if missing and missing != [0]:
            some = ", ".join(map(str, missing[:SHOWN])) + (" ..." if len(missing) > SHOWN else "")
            raise DataError(
                f"{files[0].parent} has {len(present)} shards {prefix}*.tar up to number {max(present)}, without "
                f"{some}; complete the download, or give single files as the source"
            )


def _index(shard: Path) -> list[Member]:
    """The samples of a shard, in its order."""
    images: dict[str, tarfile.TarInfo] = {}
    stated: dict[str, tarfile.TarInfo] = {}
    try:
        with tarfile.open(shard, "r:") as opened:
            for member in opened:
                key, ending = _parts(member.name)
                if not member.isfile() or not key:
                    continue
                # A json file beside a cls file is only more words about it.
                if ending == ".cls" or (ending == ".json" and key not in stated):
                    stated[key] = member
                elif f".{ending.rpartition('.')[2]}" in ENDINGS:
                    if key in images:
                        raise DataError(f"{shard} has two images of the sample {printable(key)!r}; names must differ")
                    images[key] = member
            labels = {key: _label(opened, member, shard) for key, member in stated.items()}
            end = opened.offset
        with shard.open("rb") as file:
            file.seek(end)
            is_whole = file.read(BLOCK) == bytes(BLOCK)
    except (tarfile.TarError, OSError) as error:
        raise DataError(f"cannot read {shard} as a tar file without compression: {error}; download it again") from error
    # The reader takes a file that ends too early, or is broken in the middle, for a shorter one.
    if not is_whole:
        raise DataError(f"{shard} is cut or broken at byte {end}, after {len(images)} images; download it again")
    lone = sorted(images.keys() ^ labels.keys())
    if lone:
        what = "no label (.cls, or .json with 'label')" if lone[0] in images else "no image"
        raise DataError(f"{shard}: {len(lone)} samples are not whole; {printable(lone[0])!r} has {what}")
    return [Member(each.name, each.offset_data, each.size, labels[key]) for key, each in images.items()]


def _parts(name: str) -> tuple[str, str]:
    """Key of a sample, and the ending: the last part of a path divides at its first dot."""
    path = PurePosixPath(name)
    stem, dot, ending = path.name.partition(".")
    return (str(path.parent / stem) if stem else "", f"{dot}{ending}".lower())


def _label(opened: tarfile.TarFile, member: tarfile.TarInfo, shard: Path) -> int:
    """The class number in a small file of a shard."""
    is_text = member.name.lower().endswith(".cls")
    held = opened.extractfile(member)
    content = b"" if held is None else held.read()
    try:
        given: Any = int(content) if is_text else json.loads(content)["label"]
    except (ValueError, KeyError, TypeError):
        given = None
    # JSON has true, 1.5 and "7" too, which count nothing.
    if type(given) is not int or given < 0:
        raise DataError(
            f"{shard}: {printable(member.name)} holds no class number: {content[:40]!r}; expected a number from 0"
            f"{'' if is_text else ' under the key label'}"
        )
    return given
