"""Factors on orthogonal updates: the root mean square that each convention is made for."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from orthostream.errors import UsageError
from orthostream.optim.polar import polar
from orthostream.optim.scale import NAMES, factor

sides = st.integers(1, 5000)


@given(sides, sides)
def test_the_root_mean_square_of_an_update_is_that_of_its_convention(rows, columns):
    plain = 1 / math.sqrt(max(rows, columns))
    assert factor("none", rows, columns) == 1
    assert factor("moonlight", rows, columns) * plain == pytest.approx(0.2)
    assert factor("muon", rows, columns) * plain == pytest.approx(1 / math.sqrt(columns))
    expected = math.sqrt(rows / (columns * max(rows, columns)))
    assert factor("spectral", rows, columns) * plain == pytest.approx(expected)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(12, 40), (40, 12)], ids=str)
def test_factors_are_those_of_torch(name, shape):
    """``torch.optim.Muon`` with decay and momentum off takes a step of its learning rate times the factor."""
    known = {"muon": "original", "moonlight": "match_rms_adamw", "spectral": "spectral_unclamped"}
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    result = polar(matrix, method="svd")
    rms = result.norm() * factor(name, *shape) / math.sqrt(matrix.numel())
    if name == "none":
        assert rms == pytest.approx(1 / math.sqrt(40), rel=1e-4)
        return
    parameter = torch.nn.Parameter(torch.zeros(shape))
    options = {"weight_decay": 0.0, "momentum": 0.0, "nesterov": False}
    optimizer = torch.optim.Muon([parameter], lr=1.0, adjust_lr_fn=known[name], **options)
    parameter.grad = matrix
    optimizer.step()
    ours = polar(matrix, method="muon", precision="bfloat16") * factor(name, *shape)
    torch.testing.assert_close(parameter.detach(), -ours, atol=1e-2 * float(rms), rtol=2e-2)


def test_bad_input_is_refused():
    with pytest.raises(UsageError, match="unknown scale 'moonlite': did you mean moonlight"):
        factor("moonlite", 2, 3)
    with pytest.raises(UsageError, match="rows and columns, got 0 x 3"):
        factor("muon", 0, 3)
