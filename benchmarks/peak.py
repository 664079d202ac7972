"""Memory of a training step: what autograd keeps, and the most that is in use.

On CUDA the allocator knows the latter. On the CPU it is the largest resident size of a process of its own, which is
told the step as JSON: ``python -m benchmarks.peak '{"model": "vit_s"}'``.
"""

import gc
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.training_step import TrainingStep
from orthostream.analysis.memory import kept_for_backward


class Memory(NamedTuple):
    """Bytes."""

    saved: int
    peak: int


def main() -> None:
    step = TrainingStep(**json.loads(sys.argv[1])).build(torch.device("cpu"))
    step()
    step()
    print(resident_peak())


def built_and_weighed(made_of: TrainingStep, device: torch.device) -> tuple[Callable[[], None], Memory]:
    """A step that was called a few times, and its memory.

    Peak counts weights and optimizer state of this side and not what stood on the device before.
    """
    gc.collect()
    stood_before = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
    step = made_of.build(device)
    step()
    with kept_for_backward() as kept:
        step()
    if device.type != "cuda":
        return step, Memory(kept.bytes, peak_of_own_process(made_of))
    gc.collect()
    torch.cuda.reset_peak_memory_stats(device)
    step()
    return step, Memory(kept.bytes, torch.cuda.max_memory_allocated(device) - stood_before)


def peak_of_own_process(made_of: TrainingStep) -> int:
    """Largest resident size of a process that does nothing else."""
    command = [sys.executable, "-m", "benchmarks.peak", json.dumps(asdict(made_of))]
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=root)
    if done.returncode:
        last_line = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise RuntimeError(f"the process that measures the peak of {made_of.label} failed: {last_line}")
    return int(done.stdout.split()[-1])


def resident_peak() -> int:
    """Largest resident size of this process in bytes; getrusage would count that of its parent before the start."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return 1024 * int(line.split()[1])


if __name__ == "__main__":
    main()
