"""Run a benchmark: ``python -m benchmarks.run step`` or ``statistics``.

Both sides live in one process and take turns, so that whatever else the machine does falls on both alike. A row is
the median of the ratios of neighbouring turns, with the 20 % and 80 % quantiles, and is appended to
``benchmarks/results.csv`` with commit, hardware and versions. Memory is what autograd keeps for the backward pass,
counted once a storage, and on CUDA the peak of a step; on the CPU the peak is that of a process of its own.
"""

import argparse
import csv
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import torch

from benchmarks.cases import Case, suites
from orthostream import __version__
from orthostream.analysis.memory import kept_for_backward
from orthostream.training.run_folder import versions

RESULTS = Path(__file__).with_name("results.csv")
WARM_UP = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", choices=["step", "statistics"])
    parser.add_argument("--rounds", type=int, default=15, help="turns of each side")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--only", default="", help="part of a case's name")
    parser.add_argument("--memory-of", metavar="SIDE", help="print bytes kept and peak of one side, and stop")
    options = parser.parse_args()
    device = torch.device(options.device)
    if options.memory_of:
        (case,) = (case for case in suites(device)[options.suite] if options.only == case.name)
        print(*own_memory(case.sides[options.memory_of], device))
        return
    facts = versions(device, __version__)
    print(f"{facts['device_name']}, {facts['threads']} threads, torch {facts['torch']}")
    for case in suites(device)[options.suite]:
        if options.only in case.name:
            row = {"suite": options.suite, **measure(options.suite, case, device, options.rounds)}
            show(row)
            keep(row, facts)


def measure(suite: str, case: Case, device: torch.device, rounds: int) -> dict[str, object]:
    """Time both sides in turn, and their memory."""
    (base, other), makers = list(case.sides), list(case.sides.values())
    saved, peaks = zip(*(memory(suite, case, side, device) for side in case.sides), strict=True)
    steps = [make(device) for make in makers]
    for step in steps:
        for _ in range(WARM_UP):
            step()
    times: list[tuple[float, float]] = []
    for turn in range(rounds):
        # The order alternates, so that neither side always follows the other.
        order = (0, 1) if turn % 2 == 0 else (1, 0)
        taken = {index: seconds(steps[index], device) for index in order}
        times.append((taken[0], taken[1]))
    # Work that happens in one of so many steps counts by its share.
    ratios = [1 + (second / first - 1) / case.share for first, second in times]
    low, _, _, high = statistics.quantiles(ratios, n=5)
    return {
        "case": case.name,
        "base": base,
        "other": other,
        "base_ms": 1e3 * statistics.median(first for first, _ in times),
        "other_ms": 1e3 * statistics.median(second for _, second in times),
        "ratio": statistics.median(ratios),
        "ratio_20": low,
        "ratio_80": high,
        "rounds": rounds,
        "saved_mb_base": saved[0] / 1e6,
        "saved_mb_other": saved[1] / 1e6,
        "peak_mb_base": peaks[0] / 1e6,
        "peak_mb_other": peaks[1] / 1e6,
    }


def seconds(step: Callable[[], None], device: torch.device) -> float:
    """Wall time of one step, the device's work included."""
    synchronise(device)
    begun = time.perf_counter()
    step()
    synchronise(device)
    return time.perf_counter() - begun


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def memory(suite: str, case: Case, side: str, device: torch.device) -> tuple[float, float]:
    """Bytes kept for backward and the peak of a step, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.run", suite, "--device", str(device), "--only", case.name]
    done = subprocess.run([*command, "--memory-of", side], capture_output=True, text=True, check=True)
    kept, peak = done.stdout.split()[-2:]
    return float(kept), float(peak)


def own_memory(make: Callable[[torch.device], Callable[[], None]], device: torch.device) -> tuple[float, float]:
    """The same, of this process."""
    step = make(device)
    step()
    with kept_for_backward() as saved:
        step()
    kept = float(saved.bytes)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        step()
        return kept, float(torch.cuda.max_memory_allocated(device))
    step()
    return kept, resident_peak()


def resident_peak() -> float:
    """Largest resident size of this process in bytes; getrusage would count that of its parent before the start."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return 1024.0 * float(line.split()[1])


def show(row: dict[str, object]) -> None:
    """One line for the terminal."""
    print(
        "{suite}: {case}: {other} / {base} = {ratio:.3f} [{ratio_20:.3f}, {ratio_80:.3f}]  "
        "{base_ms:.1f} -> {other_ms:.1f} ms  kept {saved_mb_base:.1f} -> {saved_mb_other:.1f} MB  "
        "peak {peak_mb_base:.0f} -> {peak_mb_other:.0f} MB".format(**row),
        flush=True,
    )


def keep(row: dict[str, object], facts: dict[str, object]) -> None:
    """Append a row to the results."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=RESULTS.parent, check=False
    ).stdout.strip()
    context = {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit,
        "device": facts["device_name"],
        "threads": facts["threads"],
        "torch": facts["torch"],
    }
    plain = {key: f"{value:.5g}" if isinstance(value, float) else value for key, value in row.items()}
    is_new = not RESULTS.exists()
    with RESULTS.open("a", newline="") as file:
        writer = csv.DictWriter(file, [*context, *plain])
        if is_new:
            writer.writeheader()
        writer.writerow({**context, **plain})


if __name__ == "__main__":
    main()
