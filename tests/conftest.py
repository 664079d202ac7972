"""Kernels run in Triton's interpreter where there is no CUDA device; Triton reads the variable when it is imported."""

import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(
    params=[
        pytest.param(
            "cpu",
            id="interpreter",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="kernels are compiled where a device is"),
        ),
        pytest.param(
            "cuda",
            marks=[
                pytest.mark.gpu,
                pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
            ],
        ),
    ]
)
def kernel_device(request) -> torch.device:
    """Where kernels run: in the interpreter on the CPU, or on a device."""
    return torch.device(request.param)


@pytest.fixture
def poisoned(monkeypatch) -> None:
    """Fresh memory holds NaN, so that an element that no kernel wrote, or that one read too early, is seen."""

    def poison(make):
        def made(*args, **options):
            tensor = make(*args, **options)
            return tensor.fill_(torch.nan) if tensor.is_floating_point() else tensor

        return made

    for owner, name in (
        (torch, "empty"),
        (torch, "empty_like"),
        (torch, "empty_strided"),
        (torch.Tensor, "new_empty"),
    ):
        monkeypatch.setattr(owner, name, poison(getattr(owner, name)))
