"""Golden tensors: loading, comparing, and a record of how far each comparison was from its tolerance.

``python tests/golden_report.py`` runs all golden tests and prints that record.
"""

import json
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from locations import GOLDEN


@dataclass(frozen=True)
class Deviation:
    """One comparison.

    Args:
        file: golden file that the expected tensor came from.
        ratio: largest ``|actual - expected| / (atol + rtol * |expected|)``; at most 1.
        difference: largest ``|actual - expected|``.
    """

    file: str
    ratio: float
    difference: float


# Every comparison of this process, in order.
deviations: list[Deviation] = []


def load(name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and sidecar of one golden file, such as ``ortho/vit/train``; fresh copies at each call."""
    tensors = load_file(GOLDEN / f"{name}.safetensors")
    for tensor in tensors.values():
        # remembered by the tensor itself, so that a comparison knows which file it belongs to
        tensor.golden_file = name
    sidecar = json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))
    return tensors, sidecar


def compare(
    actual: Tensor,
    expected: Tensor,
    atol: float,
    rtol: float,
    *,
    what: str = "",
    where: Tensor | None = None,
    file: str | None = None,
) -> None:
    """Assert ``|actual - expected| <= atol + rtol * |expected|`` everywhere, and record how close it was.

    Args:
        actual: what the library computed.
        expected: the golden tensor, as ``load`` returned it; otherwise name its ``file``.
        atol: absolute tolerance.
        rtol: relative tolerance.
        what: name of the tensor for the message.
        where: mask of the entries that are compared; all where left out.
        file: golden file, where ``expected`` was cast or cut after loading.
    """
    origin = file or getattr(expected, "golden_file", None)
    assert origin is not None, f"{what}: pass file=, the expected tensor does not know its golden file"
    assert actual.shape == expected.shape, f"{origin} {what}: shape {actual.shape}, expected {expected.shape}"
    wide, wide_expected = actual.detach().double(), expected.double()
    difference = (wide - wide_expected).abs()
    # 0 / 0 is an exact match under a zero tolerance, x / 0 an infinite deviation
    ratio = torch.where(difference == 0, 0.0, difference / (atol + rtol * wide_expected.abs()))
    if where is not None:
        assert where.any(), f"{origin} {what}: the mask leaves nothing to compare"
        difference, ratio = difference[where], ratio[where]
    worst = Deviation(origin, _largest(ratio), _largest(difference))
    deviations.append(worst)
    assert worst.ratio <= 1, (
        f"{origin} {what}: largest difference {worst.difference:.3g}, {worst.ratio:.3g} times the tolerance "
        f"(atol {atol:g}, rtol {rtol:g})"
    )


def _largest(values: Tensor) -> float:
    """The largest value; infinite where one is not a number, so that no comparison passes by NaN."""
    return values.nan_to_num(nan=float("inf"), posinf=float("inf")).max().item() if values.numel() else 0.0
