"""A kernel of one instruction, launched once on a device to find out whether kernels run there."""

# mypy: disable-error-code=no-untyped-def

import torch
import triton
import triton.language as tl


@triton.jit
def _write_one(target):
    tl.store(target, 1.0)


def launch(device: torch.device) -> None:
    """Compile and launch the kernel, without waiting for it.

    Raises:
        Exception: whatever the compiler or the driver raises.
    """
    with torch.cuda.device(device):
        _write_one[(1,)](torch.empty(1, device=device))
