"""Gradients divided by their norms: formulas, lengths, zeros, and bad input."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from orthostream.errors import UsageError
from orthostream.optim.normalize import NormRule, normalized


def random(*shape, seed=0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_the_two_kinds_are_what_the_paper_writes():
    matrix = random(4, 7)
    torch.testing.assert_close(normalized(matrix, "whole"), matrix / matrix.norm())
    torch.testing.assert_close(normalized(matrix, "component"), matrix / matrix.norm(dim=1, keepdim=True))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 20), st.integers(1, 20), st.integers(-30, 30))
def test_lengths_are_those_of_the_paper_at_every_scale(rows, columns, exponent):
    matrix = random(rows, columns) * 10.0**exponent
    assert normalized(matrix, "whole").norm() == pytest.approx(1, rel=1e-5)
    assert normalized(matrix, "component").norm() == pytest.approx(math.sqrt(rows), rel=1e-5)
    for kind in ("whole", "component"):
        equal = normalized(matrix, kind, equal_length=True)
        assert equal.norm() == pytest.approx(math.sqrt(min(rows, columns)), rel=1e-5)


@pytest.mark.parametrize("equal_length", [False, True])
@pytest.mark.parametrize("kind", ["whole", "component"])
def test_zero_stays_zero(kind, equal_length):
    zero = torch.zeros(2, 3, 5)
    assert torch.equal(normalized(zero, kind, equal_length=equal_length), zero)
    matrix = random(3, 5)
    matrix[1] = 0
    result = normalized(matrix, kind, equal_length=equal_length)
    assert result.isfinite().all() and not result[1].any() and result[[0, 2]].any(1).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("kind", ["whole", "component"])
def test_a_non_finite_matrix_is_nan_and_its_neighbours_are_untouched(kind, bad):
    stack = random(3, 4, 5)
    expected = normalized(stack, kind)
    spoilt = stack.clone()
    spoilt[1, 2, 3] = bad
    result = normalized(spoilt, kind)
    assert result[1].isnan().all()
    assert torch.equal(result[[0, 2]], expected[[0, 2]])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_dtype_is_kept_and_the_input_too(dtype):
    matrix = random(3, 8).to(dtype)
    before = matrix.clone()
    result = normalized(matrix, "component")
    assert result.dtype == dtype and torch.equal(matrix, before)
    tolerance = torch.finfo(dtype).eps
    torch.testing.assert_close(
        result.double().norm(dim=1), torch.ones(3, dtype=torch.float64), atol=4 * tolerance, rtol=0
    )


def test_bad_input_is_refused():
    with pytest.raises(UsageError, match="unknown kind of normalisation 'row'"):
        normalized(torch.zeros(2, 2), "row")
    with pytest.raises(UsageError, match="unknown kind of normalisation 'row'"):
        NormRule("row")
    with pytest.raises(UsageError, match="floating-point matrices"):
        normalized(torch.zeros(2), "whole")
    with pytest.raises(UsageError, match="floating-point matrices"):
        normalized(torch.zeros(2, 2, dtype=torch.int32), "whole")
    assert normalized(torch.zeros(0, 3), "component").shape == (0, 3)


def test_the_rule_does_each_matrix_by_itself():
    rule = NormRule("component", equal_length=True)
    shapes = [(3, 4), (2, 5, 6)]
    chunks = rule.plan(shapes, torch.device("cpu"))
    assert [chunk.indices for chunk in chunks] == [(0,), (1,)] and chunks[1].cost > chunks[0].cost > 0
    matrices = [random(*shape) for shape in shapes]
    for chunk in chunks:
        (index,) = chunk.indices
        expected = normalized(matrices[index], "component", equal_length=True)
        assert torch.equal(rule.run([matrices[index]])[0], expected)
