"""The folder of one run: who may use it, and what stands in it.

``recipe.yaml`` is the resolved recipe; beside it stand ``versions.json``, ``metrics.jsonl``, ``checkpoints/``,
``result.json`` once the run is finished, and ``run.lock`` while a process works in it.
"""

import fcntl
import os
import platform
import shutil
import socket
from pathlib import Path
from typing import IO, Any

import torch

from orthostream.errors import UsageError
from orthostream.training.checkpoint import replace_file

OWN_FILES = ("metrics.jsonl", "result.json", "versions.json", "recipe.yaml", "run.lock")
OWN_FOLDERS = ("checkpoints", "tensorboard", "wandb")


class RunFolder:
    """A folder held by this process until it ends; the operating system lets go of it after a kill.

    Args:
        path: the folder; made where it does not exist.
        resume: go on with the run in it.
        overwrite: delete the run in it first.

    Raises:
        UsageError: where the folder holds a run and neither was asked, another process works in it, or it
            holds files that no run wrote.
    """

    def __init__(self, path: Path, *, resume: bool = False, overwrite: bool = False) -> None:
        self.path = path
        if resume and overwrite:
            raise UsageError("--resume goes on with a run and --overwrite deletes it; give one of the two")
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock = _locked(path / "run.lock")
        except OSError as error:
            raise UsageError(f"cannot write to the run folder {path}: {error}; choose another --run-dir") from error
        used = [entry.name for entry in path.iterdir() if entry.name != "run.lock"]
        if resume and "recipe.yaml" not in used:
            raise UsageError(f"{path} holds no run to resume; start it without --resume")
        if used and not resume and not overwrite:
            raise UsageError(
                f"{path} is in use ({', '.join(sorted(used)[:4])}); add --resume to go on with that run, "
                "--overwrite to delete it, or choose another --run-dir"
            )
        if overwrite:
            self._clear(used)

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def write(self, name: str, text: str) -> None:
        """Write a file of the run atomically."""
        replace_file(self.path / name, text.encode())

    def close(self) -> None:
        """Let go of the folder."""
        self._lock.close()

    def _clear(self, used: list[str]) -> None:
        strange = [name for name in used if name not in OWN_FILES + OWN_FOLDERS]
        if strange:
            raise UsageError(
                f"--overwrite would delete {', '.join(strange[:4])} in {self.path}, which no run wrote; "
                "move them away or choose another --run-dir"
            )
        for name in used:
            target = self.path / name
            shutil.rmtree(target) if target.is_dir() else target.unlink()


def _locked(path: Path) -> IO[str]:
    file = path.open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip() or "another process"
        raise UsageError(
            f"{path.parent} is being written by {holder}; wait for it, or choose another --run-dir"
        ) from None
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}")
    file.flush()
    return file


def versions(device: torch.device, package: str) -> dict[str, Any]:
    """What a run was computed with: software, hardware, threads."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {
        "orthostream": package,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "device": device.type,
        "device_name": name,
        "threads": torch.get_num_threads(),
        "platform": platform.platform(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
