"""Checkpoints that a kill at any instant leaves loadable.

A checkpoint is a folder, ``step-00000120`` or after the evaluation of an epoch ``step-00000120-epoch-003``, with
``model.safetensors``, ``average.safetensors`` where weights are averaged, ``state.pt`` (tensors and builtins only, read
with ``weights_only=True``) and ``manifest.json``, which holds size and sha256 of the others. It is written under
another name, flushed to disk and renamed; a folder without a manifest that fits is no checkpoint. Nothing
older is deleted before that.
"""

import errno
import hashlib
import io
import json
import os
import secrets
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from orthostream.errors import UsageError, needs_extra

with needs_extra("vision"):
    from safetensors import SafetensorError
    from safetensors.torch import load as from_safetensors
    from safetensors.torch import save as to_safetensors

FORMAT = 1
PREFIX = "step-"


class CheckpointError(UsageError):
    """A checkpoint cannot be written or read; the message names path, reason and what to do."""


@dataclass(frozen=True)
class Checkpoint:
    """One complete checkpoint, read and verified.

    Args:
        path: its folder.
        weights: the model's ``state_dict`` under canonical names.
        average: the averaged weights, where the run kept them.
        state: everything else that a run needs to go on: tensors and builtins.
        manifest: format, step, versions, recipe and digests.
    """

    path: Path
    weights: dict[str, Tensor]
    average: dict[str, Tensor] | None
    state: dict[str, Any]
    manifest: dict[str, Any]


def name_of(step: int, epochs_done: int | None) -> str:
    """Folder name after so many steps; names sort by age. ``epochs_done`` is None inside an epoch."""
    return f"{PREFIX}{step:08d}" + ("" if epochs_done is None else f"-epoch-{epochs_done:03d}")


def save(
    root: Path,
    name: str,
    *,
    weights: Mapping[str, Tensor],
    average: Mapping[str, Tensor] | None,
    state: Mapping[str, Any],
    details: Mapping[str, Any],
) -> Path:
    """Write a checkpoint so that it exists complete or not at all.

    Args:
        root: folder of the run's checkpoints.
        name: from :func:`name_of`; a valid checkpoint of that name is left as it is.
        weights: the model's ``state_dict``.
        average: averaged weights, if any.
        state: tensors and builtins.
        details: for the manifest: step, versions, world size, recipe.

    Returns:
        The folder ``root/name``.

    Raises:
        CheckpointError: where the disk is full or not writable; earlier checkpoints are as they were.
    """
    target = root / name
    if target.is_dir() and _is_complete(target):
        return target
    files = {"model.safetensors": _tensors_to_bytes(weights), "state.pt": _state_to_bytes(state)}
    if average is not None:
        files["average.safetensors"] = _tensors_to_bytes(average)
    manifest = {
        "format": FORMAT,
        "files": {
            file: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for file, data in files.items()
        },
        **details,
    }
    draft = root / f"{target.name}.tmp-{secrets.token_hex(4)}"
    try:
        root.mkdir(parents=True, exist_ok=True)
        draft.mkdir()
        for file, data in files.items():
            write_flushed(draft / file, data)
        # The manifest comes last: it is what makes the folder a checkpoint.
        write_flushed(draft / "manifest.json", json.dumps(manifest, indent=1).encode())
        flush_folder(draft)
        if target.exists():
            shutil.rmtree(target)
        draft.rename(target)
        flush_folder(root)
    except OSError as error:
        shutil.rmtree(draft, ignore_errors=True)
        raise CheckpointError(_disk_message(root, sum(map(len, files.values())), error)) from error
    return target


def load(path: Path) -> Checkpoint:
    """Read a checkpoint, every byte checked against its manifest.

    Raises:
        CheckpointError: where a file is missing, cut, changed, or of another format.
    """
    try:
        manifest, files = _verified(path)
    except CheckpointError as error:
        raise CheckpointError(f"{path} is no valid checkpoint: {error}; use an older one of {path.parent}") from None
    return _parsed(path, manifest, files)


def newest(root: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest valid checkpoint of a run, and what was passed over to reach it.

    Drafts that a killed run left behind are deleted. A folder that does not fit its manifest is passed
    over and named in the notes.
    """
    notes: list[str] = []
    if not root.is_dir():
        return None, notes
    for draft in root.glob(f"{PREFIX}*.tmp-*"):
        shutil.rmtree(draft, ignore_errors=True)
        notes.append(f"removed {draft.name}, left by a run that was killed while it saved")
    for path in reversed(saved(root)):
        try:
            manifest, files = _verified(path)
        except CheckpointError as error:
            notes.append(f"passed over {path.name}: {error}")
            continue
        return _parsed(path, manifest, files), notes
    return None, notes


def saved(root: Path) -> list[Path]:
    """All finished checkpoint folders, oldest first; their content is not checked."""
    folders = root.glob(f"{PREFIX}*") if root.is_dir() else ()
    return sorted(path for path in folders if ".tmp-" not in path.name)


def prune(root: Path, keep: int, spared: Collection[str]) -> None:
    """Delete all but the newest ``keep`` checkpoints and the spared names; a failed delete is left for later."""
    for path in saved(root)[: -max(keep, 1)]:
        if path.name not in spared:
            shutil.rmtree(path, ignore_errors=True)


def point(root: Path, name: str, target: Path, values: Mapping[str, Any]) -> None:
    """Let the pointer file ``name`` (``latest.json``, ``best.json``) name a checkpoint, atomically."""
    replace_file(root / name, json.dumps({"checkpoint": target.name, **values}).encode())


def pointed(root: Path, name: str) -> Path | None:
    """The checkpoint that a pointer file names, if both exist."""
    try:
        target = root / str(json.loads((root / name).read_text())["checkpoint"])
    except (FileNotFoundError, ValueError, KeyError):
        return None
    return target if target.is_dir() else None


def write_flushed(path: Path, data: bytes) -> None:
    """Write a new file and flush it to disk."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def replace_file(path: Path, data: bytes) -> None:
    """Give a file new content so that readers see the old or the new one, never a part."""
    draft = path.with_name(f"{path.name}.tmp-{secrets.token_hex(4)}")
    write_flushed(draft, data)
    draft.replace(path)
    flush_folder(path.parent)


def flush_folder(path: Path) -> None:
    """Flush a folder's entries, so that a rename inside survives a power loss."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _verified(path: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The manifest of a checkpoint and the files that it names, each read once and held against it.

    Raises:
        CheckpointError: with what keeps the folder from being a checkpoint.
    """
    try:
        manifest = json.loads((path / "manifest.json").read_text())
        expected_files = manifest["files"]
    except FileNotFoundError:
        raise CheckpointError("it has no manifest.json") from None
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"its manifest.json cannot be read ({error})") from None
    if manifest.get("format") != FORMAT:
        raise CheckpointError(f"its format is {manifest.get('format')!r}, this version reads {FORMAT}")
    files: dict[str, bytes] = {}
    for name, expected in expected_files.items():
        file = path / name
        if Path(name).name != name or not file.is_file():
            raise CheckpointError(f"{name} is missing")
        data = file.read_bytes()
        if len(data) != expected["bytes"]:
            raise CheckpointError(f"{name} has {len(data)} bytes instead of {expected['bytes']}")
        if hashlib.sha256(data).hexdigest() != expected["sha256"]:
            raise CheckpointError(f"the sha256 of {name} differs from the manifest")
        files[name] = data
    return manifest, files


def _is_complete(path: Path) -> bool:
    try:
        _verified(path)
    except CheckpointError:
        return False
    return True


def _parsed(path: Path, manifest: dict[str, Any], files: Mapping[str, bytes]) -> Checkpoint:
    """The tensors and values in files that were verified; nothing in them is executed."""
    average = files.get("average.safetensors")
    try:
        return Checkpoint(
            path=path,
            weights=from_safetensors(files["model.safetensors"]),
            average=None if average is None else from_safetensors(average),
            state=torch.load(io.BytesIO(files["state.pt"]), map_location="cpu", weights_only=True),
            manifest=manifest,
        )
    except (SafetensorError, RuntimeError, EOFError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path} has fitting digests but cannot be read: {error}") from error


def _tensors_to_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    return to_safetensors({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})


def _state_to_bytes(state: Mapping[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    return buffer.getvalue()


def _disk_message(root: Path, needed: int, error: OSError) -> str:
    if error.errno == errno.ENOSPC:
        free = shutil.disk_usage(root).free
        return (
            f"the disk of {root} is full: a checkpoint needs {needed / 1e6:.1f} MB and {free / 1e6:.1f} MB are free; "
            "make room and resume, earlier checkpoints are intact"
        )
    return f"cannot write a checkpoint to {root}: {error}; earlier checkpoints are intact"
