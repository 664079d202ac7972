"""Compile kernels for a GPU that need not be there: see what ``python tests/ops/compiled.py [ARCH]`` prints.

Launches are caught before they reach a driver; what the launchers choose is compiled to machine code for the
architecture named (90 for Hopper, 80 for Ampere), and registers, spills and widths of memory accesses are read off it.
"""

import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction


@dataclass(frozen=True)
class Machine:
    """What one launch became."""

    kernel: str
    registers: int
    spilled_bytes: int
    shared_bytes: int
    warps: int
    # widths in bits of loads from and stores to global memory
    loads: frozenset[int]
    stores: frozenset[int]


class NoDriver:
    """Says which target to compile for, and has no device."""

    def __init__(self, arch: int) -> None:
        self.target = GPUTarget("cuda", arch, 32)

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def is_active(self) -> bool:
        return True


@contextmanager
def caught(arch: int = 90) -> Iterator[list[Machine]]:
    """Collect what launches inside the block compile to, instead of launching.

    Yields:
        A list that grows with each launch.
    """
    machines: list[Machine] = []
    run: Callable[..., Any] = JITFunction.run

    def compile_only(self: JITFunction, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
        machines.append(machine(self.__name__, run(self, *args, grid=grid, warmup=True, **options)))

    JITFunction.run = compile_only
    driver.set_active(NoDriver(arch))
    try:
        yield machines
    finally:
        JITFunction.run = run


def machine(name: str, compiled: Any) -> Machine:
    """Read the resources of a compiled kernel off its machine code, and its accesses off the assembly."""
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(compiled.asm["cubin"])
        command = [str(tool) if tool.exists() else "cuobjdump", "-res-usage", file.name]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = {key: int(value) for key, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage)}
    ptx = compiled.asm["ptx"]
    return Machine(
        name,
        found["REG"],
        found["STACK"] + found["LOCAL"],
        compiled.metadata.shared,
        compiled.metadata.num_warps,
        widths(ptx, "ld"),
        widths(ptx, "st"),
    )


def widths(ptx: str, kind: str) -> frozenset[int]:
    """Bits a thread reads or writes at once."""
    accesses = re.findall(rf"\b{kind}\.global(?:\.[\w:]+)*?(?:\.v(\d))?\.[bfu](\d+)", ptx)
    return frozenset(int(count or 1) * int(bits) for count, bits in accesses)


# A few bytes of stack cost nothing; a tile that does not fit costs hundreds.
MOST_SPILLED = 16
SHAPES = (
    ((64, 197, 384), -1),
    ((64, 197, 768), -1),
    ((64, 4096), -1),
    ((64, 16384), -1),
    ((64, 256, 8, 8), 1),
    ((64, 2048, 7, 7), 1),
    ((64, 64, 32, 32), (1, 2, 3)),
)
WIDTHS = (384, 768, 4096)
STREAMS = ((4, 384), (4, 768), (2, 384), (8, 384))


def launches() -> Iterator[tuple[str, Callable[[], None]]]:
    """What is compiled: a label, and a call of launchers."""
    for dtype in (torch.float32, torch.bfloat16):
        word = str(dtype).removeprefix("torch.")
        for shape, dim in SHAPES:
            yield f"update {list(shape)} {dim} {word}", partial(update, shape, dim, dtype)
        for width in WIDTHS:
            for has_parameters in (False, True):
                label = f"update, norm {'affine ' * has_parameters}{width} {word}"
                yield label, partial(update_norm, width, has_parameters, dtype)
        for count, features in STREAMS:
            yield f"{count} streams of {features} {word}", partial(streams, count, features, dtype)


def update(shape: tuple[int, ...], dim: int | tuple[int, ...], dtype: torch.dtype) -> None:
    from orthostream.ops.orthogonal_update import triton as kernels
    from orthostream.ops.orthogonal_update.closed_form import Kept
    from orthostream.ops.orthogonal_update.reference import Rule

    x, rule = torch.empty(shape, dtype=dtype), Rule(dim=dim, strength=torch.ones(()))
    y, coefficient = kernels.forward(x, x, rule)
    kernels.backward(y, Kept(x, y, coefficient, True, dtype), rule, (False, False, False))


def update_norm(width: int, has_parameters: bool, dtype: torch.dtype) -> None:
    from orthostream.ops.orthogonal_update.closed_form import Kept
    from orthostream.ops.orthogonal_update.reference import Rule
    from orthostream.ops.update_norm import triton as kernels
    from orthostream.ops.update_norm.reference import Norm

    x, rule = torch.empty(64, 197, width, dtype=dtype), Rule(strength=torch.ones(()))
    gain = torch.ones(width, dtype=dtype) if has_parameters else None
    norm = Norm("layer", 1e-6, gain, gain)
    y, z, coefficient = kernels.forward(x, x, rule, norm, dtype)
    wanted = (False, has_parameters, has_parameters)
    kernels.backward(y, z, Kept(x, y, coefficient, True, dtype), rule, norm, wanted)


def streams(count: int, features: int, dtype: torch.dtype) -> None:
    from orthostream.ops.streams import triton as kernels

    rows, change = torch.empty(3152, count, features, dtype=dtype), torch.empty(3152, features, dtype=dtype)
    # As hyper-connections hold them: columns of one table.
    table = torch.empty(3152, count, count + 2)
    reading, mixing, writing = table[..., 0], table[..., 1:-1].mT, table[..., -1]
    kernels.read(rows, reading)
    kernels.read_backward(change, rows, reading)
    kernels.write(rows, change, mixing, writing)
    kernels.write_backward(rows, rows, change, mixing, writing)


def main() -> int:
    arch = int(sys.argv[1]) if len(sys.argv) > 1 else 90
    print(f"sm_{arch}, triton {triton.__version__}")
    print(f"{'launch':63} registers spilled shared warps  bits a load, bits a store")
    worst = 0
    for label, call in launches():
        with caught(arch) as machines:
            call()
        for each in machines:
            worst = max(worst, each.spilled_bytes)
            print(
                f"{each.kernel:16} {label:46} {each.registers:9} {each.spilled_bytes:7} {each.shared_bytes:6} "
                f"{each.warps:5}  {sorted(each.loads)} {sorted(each.stores)}"
            )
    return 1 if worst > MOST_SPILLED else 0


if __name__ == "__main__":
    sys.exit(main())
