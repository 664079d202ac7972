"""Tar shards listed header by header; nothing is unpacked, and only class numbers are opened."""

import tarfile
from pathlib import Path, PurePosixPath

from orthostream.data.doctor.source import InTar, Item, Source
from orthostream.data.errors import DataError, printable
from orthostream.data.folder import ENDINGS
from orthostream.data.shards import BLOCK, label_in, name_parts

# A class number takes a line; what is longer is not read.
LONGEST_LABEL = 2**20
# Read by unpickling, which runs code.
PICKLES = (".pkl", ".pickle", ".pyd", ".pth", ".pt", ".npy", ".npz")


def list_tar(source: Source, path: Path, split: int) -> None:
    """Add the samples of a shard: images in its order, each with the class of the ``.cls`` or ``.json`` beside it."""
    name = source.splits[split]
    images: dict[str, list[tarfile.TarInfo]] = {}
    stated: dict[str, tarfile.TarInfo] = {}
    labels: dict[str, int] = {}
    end = 0
    try:
        with tarfile.open(path, "r:") as opened:
            for member in opened:
                key, ending = name_parts(member.name)
                _look_at_member(source, path, member, name)
                if not member.isfile() or not key:
                    continue
                if ending == ".cls" or (ending == ".json" and key not in stated):
                    stated[key] = member
                elif f".{ending.rpartition('.')[2]}" in ENDINGS:
                    images.setdefault(key, []).append(member)
            end = opened.offset
            for key, member in stated.items():
                labels[key] = _number(source, opened, member, path, name)
        with path.open("rb") as file:
            file.seek(end)
            is_whole = file.read(BLOCK) == bytes(BLOCK)
    except (tarfile.TarError, OSError, EOFError) as error:
        source.found("broken_shard", path, f"no tar file without compression: {error}", name)
        is_whole = True
    # The reader takes a file that ends too early, or is broken in the middle, for a shorter one.
    if not is_whole:
        source.found("broken_shard", path, f"cut or broken at byte {end}", name)
    for key in sorted(images.keys() | stated.keys()):
        held = len(images.get(key, ()))
        if held != 1 or key not in stated:
            detail = f"{held} images, {'a' if key in stated else 'no'} label"
            source.found("incomplete_sample", f"{path.name}: {printable(key)}", detail, name)
    size = path.stat().st_size if path.exists() else 0
    for key, members in images.items():
        for member in members:
            # A cut shard promises bytes that it does not have.
            if member.offset_data + member.size <= size:
                place = InTar(str(path), member.offset_data, member.size)
                source.items.append(Item(split, labels.get(key, -1), member.name, place))


def _number(source: Source, opened: tarfile.TarFile, member: tarfile.TarInfo, path: Path, split: str) -> int:
    """The class number in a member; -1 and a finding where it holds none."""
    where = f"{path.name}: {printable(member.name)}"
    if member.size > LONGEST_LABEL:
        source.found("bad_label", where, f"{member.size:,} bytes, which is no class number", split)
        return -1
    try:
        return label_in(opened, member, path)
    except DataError as error:
        source.found("bad_label", where, str(error).partition(" holds ")[2] or str(error), split)
    return -1


def _look_at_member(source: Source, path: Path, member: tarfile.TarInfo, split: str) -> None:
    """Members that would be dangerous to whoever unpacks or opens them."""
    where, inside = f"{path.name}: {printable(member.name)}", PurePosixPath(member.name)
    if inside.is_absolute() or ".." in inside.parts:
        source.found("unsafe_member", where, "leads out of its folder", split)
    elif member.issym() or member.islnk():
        source.found("unsafe_member", where, f"a link to {member.linkname}", split)
    elif not (member.isfile() or member.isdir()):
        source.found("unsafe_member", where, "a device, pipe or other special member", split)
    elif member.name.lower().endswith(PICKLES):
        source.found("unsafe_member", where, "a pickle, which runs code when it is opened", split)
