"""What all launches of Triton kernels share."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

# A program has at most 1024 threads; AMD's warps have 64 of them.
MOST_WARPS = 32 if torch.version.hip is None else 16
# Contraction to fused multiply-add, whatever the default of the installed Triton.
FUSED = {"enable_fp_fusion": True}


def device_of(x: Tensor) -> AbstractContextManager[Any]:
    """Makes the device of ``x`` the current one, on which kernels are launched."""
    if not x.is_cuda or x.device.index == torch.cuda.current_device():
        return nullcontext()
    return torch.cuda.device(x.device)
