"""The module as training calls it."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from orthostream.training.distributed import World


def wrap(model: nn.Module, world: World, compiler: Mapping[str, Any] | None) -> nn.Module:
    """The module as training calls it: for DDP where there are several processes, compiled where asked."""
    called: nn.Module = model
    if world.is_distributed:
        devices = [world.device] if world.device.type == "cuda" else None
        called = DistributedDataParallel(model, device_ids=devices)
    if compiler is not None:
        called = torch.compile(called, dynamic=False, **compiler)  # type: ignore[assignment]
    return called
