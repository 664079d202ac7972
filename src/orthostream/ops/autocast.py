"""Autocast on the device of a tensor: what it would do, and how to keep it off."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def autocast_off(tensor: Tensor) -> AbstractContextManager[None]:
    """Autocast off, for arithmetic on the stream: it would round the stream at every site."""
    # The meta device has no autocast and refuses the word.
    return nullcontext() if tensor.is_meta else torch.autocast(tensor.device.type, enabled=False)


def autocast_dtype(tensor: Tensor) -> torch.dtype | None:
    """What autocast turns the input of a linear layer into; None where it leaves it alone."""
    device = tensor.device.type
    if tensor.is_meta or tensor.dtype == torch.float64 or not torch.is_autocast_enabled(device):
        return None
    return torch.get_autocast_dtype(device)
