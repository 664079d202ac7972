"""Shards for evaluation: webdataset's tar files, in which ``a.jpg`` lies beside ``a.cls`` or ``a.json``, or parquet.

A tar file is indexed once, header by header, and its images are then read at their offsets: any order, any share, every
image once. Webdataset itself streams, which cannot promise that to several processes. Parquet files, with columns
``image`` and ``label``, have an index of their own.
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
from orthostream.data.decode import USUAL, decode
from orthostream.data.errors import DataError, printable
from orthostream.data.folder import ENDINGS, EVALUATION_NAMES, photographs
from orthostream.data.parquet import MissingColumnError, ParquetSet, split_names
from orthostream.data.splits import Splits
from orthostream.errors import needs_extra

with needs_extra("vision"):
    import numpy as np
    from PIL import Image

NUMBERED = re.compile(r"^(.*?)(\d+)\.tar$")
BLOCK = 512
SHOWN = 5


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
        self.shards, self.decoding = list(shards), USUAL
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
        return decode(content, "RGB", self.where(index), self.decoding)

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
    """Images with their class numbers in tar or parquet files, for evaluation.

    In a tar file of webdataset a sample is all files of one name up to the first dot: one image, and its class as text
    in ``.cls`` or as ``label`` in ``.json``. A parquet file has a column ``image``, of structs with the encoded
    ``bytes``, and a column ``label``. Classes have the names that the metadata of parquet files tells; where nothing
    names them there are taken to be as many as the largest label says, named by their numbers.

    Args:
        source: one ``.tar`` or ``.parquet`` file; a folder, of whose files those count that are named after ``val``,
            ``valid``, ``validation`` or ``test``, the first that is there, and tar files before parquet files, which
            may also lie one folder below; or a hub id such as ``timm/imagenet-1k-wds``, of which those files are
            downloaded.
        image_size: pixels a side after the transforms; 224 by default.

    Returns:
        The evaluation split, and a training split that refuses to be used.

    Raises:
        DataError: naming the file that is missing, cut or of another kind, and what to do.

    Example:
        >>> shards(source="imagenet-1k-sample/wds").description.eval_split  # doctest: +SKIP
        'val'

    Reference: the webdataset format, https://github.com/webdataset/webdataset; the parquet files of the Hugging Face
    data sets, https://huggingface.co/docs/datasets
    """
    if source is None:
        raise DataError(
            "data.source is missing; for shards it is a .tar or .parquet file, a folder of them or a hub id"
        )
    files, split, notes = _files(source)
    samples: ShardSet | ParquetSet
    if files[0].suffix == ".parquet":
        samples, classes = _of_parquet(files, source)
        if classes is None:
            notes = (*notes, f"{source} names no classes; as many are taken as the largest label says")
    else:
        samples, classes = ShardSet(files), None
    if not len(samples):
        raise DataError(
            f"{source} holds no sample; expected tar files with images beside .cls or .json files, or parquet files "
            "with rows"
        )
    return Splits(
        NoTraining(), samples, photographs("shards", classes or numbered(samples.num_classes), image_size, split), notes
    )


def numbered(count: int) -> tuple[str, ...]:
    """Names of classes that nothing names.

    Example:
        >>> numbered(3)
        ('0', '1', '2')
    """
    return tuple(str(number) for number in range(count))


def _of_parquet(files: Sequence[Path], source: str) -> tuple[ParquetSet, tuple[str, ...] | None]:
    """The samples of parquet files, and the names of their classes where they tell them."""
    try:
        samples = ParquetSet(files)
    except MissingColumnError as error:
        raise DataError(
            f"{error}. Evaluation reads 'image' and 'label'; a data set with columns of its own is given by its name: "
            f"--data cifar10 --source {source}"
        ) from error
    return samples, samples.classes


def _files(source: str) -> tuple[list[Path], str, tuple[str, ...]]:
    """The files that a source means, the split that they are, and notes."""
    path = Path(source).expanduser()
    notes: tuple[str, ...] = ()
    if path.is_file():
        return [path], path.stem, ()
    if not path.exists() and hub.is_hub_id(source):
        # Only these: the training files of a data set are a hundred times as much.
        path, notes = hub.download(source, "dataset", lambda names: _of_evaluation(names, source)[1])
    if not path.is_dir():
        raise DataError(
            hub.no_such_place(source, "a .tar or .parquet file, a folder of them, or timm/imagenet-1k-wds, say")
        )
    present = [found for pattern in ("*.tar", "*.parquet", "*/*.parquet") for found in path.glob(pattern)]
    split, names = _of_evaluation([found.relative_to(path).as_posix() for found in present], str(path))
    files = [path / name for name in names]
    _refuse_gaps(files)
    return files, split, notes


def _of_evaluation(names: Sequence[str], source: str) -> tuple[str, list[str]]:
    """The evaluation split among the files of a folder or repository, and its files: tar files before parquet files."""
    tars = sorted(name for name in names if name.endswith(".tar") and "/" not in name)
    for split in EVALUATION_NAMES:
        word = re.compile(rf"(?:^|[-_.]){split}(?=[-_.\d])")
        if found := [name for name in tars if word.search(name)]:
            return split, found
    for split in EVALUATION_NAMES:
        if found := split_names(names, split, source):
            return split, found
    held = [name for name in sorted(names) if name.endswith((".tar", ".parquet"))]
    raise DataError(
        f"{source} has no shard of an evaluation split, such as val-000000.tar or validation-00000-of-00001.parquet; "
        f"its tar and parquet files: {', '.join(held[:SHOWN]) or 'none'}. Give one of them as the source, or name them "
        "after their split"
    )


def _refuse_gaps(files: Sequence[Path]) -> None:
    """Shards are numbered; a number that is left out is a file that was not copied."""
    numbers: dict[str, set[int]] = {}
    for file in files:
        # Parquet files say how many there are, which was checked.
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
                key, ending = name_parts(member.name)
                if not member.isfile() or not key:
                    continue
                # A json file beside a cls file is only more words about it.
                if ending == ".cls" or (ending == ".json" and key not in stated):
                    stated[key] = member
                elif f".{ending.rpartition('.')[2]}" in ENDINGS:
                    if key in images:
                        raise DataError(f"{shard} has two images of the sample {printable(key)!r}; names must differ")
                    images[key] = member
            labels = {key: label_in(opened, member, shard) for key, member in stated.items()}
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


def name_parts(name: str) -> tuple[str, str]:
    """Key of a sample, and the ending: the last part of a path divides at its first dot."""
    path = PurePosixPath(name)
    stem, dot, ending = path.name.partition(".")
    return (str(path.parent / stem) if stem else "", f"{dot}{ending}".lower())


def label_in(opened: tarfile.TarFile, member: tarfile.TarInfo, shard: Path) -> int:
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
