"""Models small enough to run in milliseconds, of both families."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from orthostream import models

TINY: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": ("vit_s", {"image_size": 8, "patch_size": 4, "embed_dim": 12, "depth": 2, "num_heads": 3}),
    "resnet": ("preact_resnet18", {"blocks_per_stage": (2, 1), "widths": (4, 6)}),
    "bottleneck": ("preact_resnet50", {"blocks_per_stage": (1, 1), "widths": (2, 3)}),
}

MakeTiny = Callable[..., models.Model]


@pytest.fixture
def make_tiny() -> MakeTiny:
    """``make_tiny(family, connection, seed=0, **options)``: a tiny model, from a seeded generator."""

    def make(family: str, connection: Any = "linear", seed: int = 0, **options: Any) -> models.Model:
        name, numbers = TINY[family]
        torch.manual_seed(seed)
        return models.create(name, num_classes=5, connection=connection, **(numbers | options))

    return make


@pytest.fixture
def images() -> torch.Tensor:
    """Four images of 8x8 pixels, float32."""
    return torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
