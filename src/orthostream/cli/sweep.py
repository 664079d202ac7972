"""Many runs of one recipe, each a process of its own; what is finished is not run again."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Cell:
    """One run of a comparison.

    Args:
        label: the setting, such as ``orthogonal``.
        seed: of the run.
        folder: its run folder.
        arguments: of ``orthostream train``, the folder excepted.
    """

    label: str
    seed: int
    folder: Path
    arguments: tuple[str, ...]

    @property
    def is_finished(self) -> bool:
        return (self.folder / "result.json").is_file()


def run_cells(cells: Sequence[Cell], jobs: int, say: Callable[[str], None]) -> list[Cell]:
    """Run the cells that are not finished, ``jobs`` at a time.

    A cell that was interrupted goes on where it stopped. One that fails leaves its output in
    ``FOLDER.log`` and does not hinder the others.

    Args:
        cells: all cells.
        jobs: processes at a time; they share the CPU's cores evenly.
        say: told of each start and end.

    Returns:
        The cells that failed.
    """
    waiting = [cell for cell in cells if not cell.is_finished]
    for cell in cells:
        if cell.is_finished:
            say(f"{cell.label} seed {cell.seed}: finished already")
    running: list[tuple[Cell, subprocess.Popen[bytes], float]] = []
    failed: list[Cell] = []
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                cell = waiting.pop(0)
                running.append((cell, _start(cell, jobs), time.monotonic()))
            time.sleep(0.1)
            for entry in list(running):
                cell, process, begun = entry
                if process.poll() is None:
                    continue
                running.remove(entry)
                seconds = time.monotonic() - begun
                if process.returncode == 0 and cell.is_finished:
                    say(f"{cell.label} seed {cell.seed}: finished in {seconds:.0f} s")
                else:
                    failed.append(cell)
                    say(f"{cell.label} seed {cell.seed}: FAILED with code {process.returncode}, see {log_of(cell)}")
    finally:
        for _, process, _ in running:
            process.terminate()
        for _, process, _ in running:
            process.wait()
    return failed


def log_of(cell: Cell) -> Path:
    """Where the output of a cell goes."""
    return cell.folder.with_name(cell.folder.name + ".log")


def _start(cell: Cell, jobs: int) -> subprocess.Popen[bytes]:
    cell.folder.parent.mkdir(parents=True, exist_ok=True)
    begun = (cell.folder / "recipe.yaml").is_file()
    command = [sys.executable, "-m", "orthostream.cli", "train", *cell.arguments, "--run-dir", str(cell.folder)]
    threads = max(1, (os.cpu_count() or 1) // jobs)
    with log_of(cell).open("ab") as log:
        return subprocess.Popen(
            command + (["--resume"] if begun else []),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        )
