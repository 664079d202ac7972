"""One model loaded by ``from_pretrained``, in this process or for the first time in one of its own.

``python -m benchmarks.loading ViTForImageClassification FOLDER`` prints seconds and bytes as JSON. The process of that
side imports nothing of ours.
"""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch

OURS, THEIRS = "OrthoViTForImageClassification", "ViTForImageClassification"


class First(NamedTuple):
    """The first load in a process.

    Args:
        seconds: with all imports but that of torch, some of which transformers puts off until it loads.
        peak: largest resident size of the process in bytes.
    """

    seconds: float
    peak: float


def main() -> None:
    side, folder = sys.argv[1:]
    begun = time.perf_counter()
    load(side, Path(folder))
    seconds = time.perf_counter() - begun
    assert side == OURS or "orthostream" not in sys.modules
    # Not before: it imports orthostream.
    from benchmarks.peak import resident_peak

    print(json.dumps([seconds, resident_peak()]))


def load(side: str, folder: Path) -> torch.nn.Module:
    """A model in float32 on the CPU, all of whose weights were read."""
    model: torch.nn.Module = class_of(side).from_pretrained(folder)
    for parameter in model.parameters():
        parameter.detach().sum()
    return model


def class_of(side: str) -> Any:
    """The class of a side; only what it needs is imported."""
    if side == THEIRS:
        from transformers import ViTForImageClassification

        return ViTForImageClassification
    from orthostream.hub import OrthoViTForImageClassification

    return OrthoViTForImageClassification


def in_own_process(side: str, folder: Path) -> First:
    """Load a model in a process that does nothing else."""
    command = [sys.executable, "-m", "benchmarks.loading", side, str(folder)]
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=root)
    if done.returncode:
        last_line = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise RuntimeError(f"the process that loads {side} failed: {last_line}")
    return First(*json.loads(done.stdout.splitlines()[-1]))


if __name__ == "__main__":
    main()
