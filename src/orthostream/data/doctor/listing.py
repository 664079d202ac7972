"""From a path to what it holds: class folders, tar shards or parquet files, told apart by what lies there."""

import re
from collections.abc import Sequence
from pathlib import Path

from orthostream.data import hub
from orthostream.data.doctor.class_folders import SPLITS, TRAIN, list_classes, list_splits
from orthostream.data.doctor.labels import look_at_labels
from orthostream.data.doctor.parquet_files import list_parquet
from orthostream.data.doctor.source import Boundary, Source
from orthostream.data.doctor.tar_shards import list_tar
from orthostream.data.errors import DataError, printable

SHARDS = ("*.tar", "*.parquet", "*/*.tar", "*/*.parquet")
NUMBERED = re.compile(r"^(?P<name>.*?)[-_.]?(?P<number>\d+)(?:-of-(?P<total>\d+))?$")
ARCHIVES = (".zip", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar")
SHOWN = 5


def list_source(given: str, *, follow_links: bool = False, num_classes: int | None = None) -> Source:
    """List a source of labelled images; no image is opened.

    Args:
        given: a folder with ``train/<class>/`` and ``val/<class>/``, or one of them, or of class folders; a ``.tar`` or
            ``.parquet`` file or a folder of them; a hub id, whose files of these two kinds are all downloaded.
        follow_links: read links that lead out of the source.
        num_classes: labels must lie below it; None where the source says it, or nothing does.

    Returns:
        Its splits, items and first findings.

    Raises:
        DataError: where it is not there, or holds nothing of the kind.

    Example:
        >>> list_source("imagenet-1k-sample").splits  # doctest: +SKIP
        ['val']
    """
    path = Path(given).expanduser()
    if not path.exists() and hub.is_hub_id(given):
        path, _ = hub.download(given, "dataset", SHARDS)
        # The hub's cache is made of links to its own store.
        follow_links = True
    try:
        source = _listed(path, given, follow_links)
    except PermissionError as error:
        raise DataError(
            f"cannot read {printable(str(path))}: {error.strerror}; ask for the right to read it"
        ) from error
    look_at_labels(source, num_classes)
    return source


def _listed(path: Path, given: str, follow_links: bool) -> Source:
    if path.is_file():
        if path.suffix not in (".tar", ".parquet"):
            advice = "unpack it first and give the folder" if path.suffix.lower() in ARCHIVES else "give the data set"
            raise DataError(f"{printable(given)} is one file; expected a folder, a .tar or a .parquet file: {advice}")
        source = Source(path.parent, "")
        _list_shards(source, [path], Boundary(path.parent, follows_all=True))
        return source
    if not path.is_dir():
        expected = "class folders, .tar or .parquet files, a folder of them, or a hub id"
        raise DataError(hub.no_such_place(printable(given), expected))
    source, boundary = Source(path, ""), Boundary(path, follow_links)
    inside = {entry.name for entry in path.iterdir() if entry.is_dir()}
    shards = sorted({found for pattern in SHARDS for found in path.glob(pattern)})
    if inside & set(SPLITS) and not any(found.parent.name in SPLITS for found in shards):
        list_splits(source, boundary)
    elif shards:
        _list_shards(source, shards, boundary)
    elif any(name.startswith("cifar-10") for name in inside):
        raise DataError(
            f"{printable(given)} holds the original archive of CIFAR, which is made of pickles and is not opened here; "
            "training compares its digests with the official ones"
        )
    elif any(not name.startswith(".") for name in inside):
        list_classes(source, boundary)
    if not source.items and not source.findings:
        raise DataError(
            f"{printable(given)} holds no images in class folders, and no .tar or .parquet files; it holds: "
            f"{', '.join(sorted(printable(entry.name) for entry in path.iterdir())[:SHOWN]) or 'nothing'}"
        )
    return source


def _list_shards(source: Source, files: Sequence[Path], boundary: Boundary) -> None:
    """Tar and parquet files, grouped into splits by their names."""
    kinds = sorted({file.suffix for file in files})
    source.layout = " and ".join(f"{kind[1:]} files" for kind in kinds)
    groups: dict[str, list[Path]] = {}
    for file in files:
        groups.setdefault(split_name(file.stem), []).append(file)
    # Training first, then in the order in which evaluations look for theirs.
    order = {name: place for place, name in enumerate(SPLITS)}
    source.splits = sorted(groups, key=lambda name: (order.get(name, len(order)), name))
    for number, split in enumerate(source.splits):
        before = len(source.items)
        if len(files) > 1:
            _look_at_numbers(source, groups[split], split)
        for file in groups[split]:
            if file.is_symlink() and not boundary.holds(file):
                source.found("link_outside", file, f"leads to {file.resolve()}", split)
            elif file.suffix == ".tar":
                list_tar(source, file, number)
            else:
                list_parquet(source, file, number)
        if len(source.items) == before:
            source.found("empty_split", split, split=split)


def split_name(stem: str) -> str:
    """The split that a shard belongs to, by its name without ending.

    Example:
        >>> split_name("imagenet1k-train-0001"), split_name("valid-00000-of-00002"), split_name("photos_12")
        ('train', 'valid', 'photos')
    """
    match = NUMBERED.match(stem)
    name = match["name"] if match else stem
    words = re.split(r"[-_.]", name)
    return next((split for split in (TRAIN, *SPLITS[1:]) if split in words), name or stem)


def _look_at_numbers(source: Source, files: Sequence[Path], split: str) -> None:
    """Shards are numbered; a number that is left out is a file that was not copied."""
    numbers: dict[tuple[Path, str, str], set[int]] = {}
    totals: dict[tuple[Path, str, str], set[int]] = {}
    for file in files:
        if match := NUMBERED.match(file.stem):
            series = (file.parent, match["name"], file.suffix)
            numbers.setdefault(series, set()).add(int(match["number"]))
            totals.setdefault(series, set()).update({int(match["total"])} if match["total"] else ())
    for (folder, name, suffix), present in numbers.items():
        announced = totals[folder, name, suffix]
        last = max({max(present) + 1} | announced)
        missing = sorted(set(range(last)) - present)
        # Some count from 1.
        if missing and (announced or missing != [0]):
            some = ", ".join(map(str, missing[:SHOWN])) + (" ..." if len(missing) > SHOWN else "")
            source.found(
                "missing_shard", folder / f"{name}-*{suffix}", f"{len(missing)} of {last}: number {some}", split
            )
