"""Temporarily dead parameters: recorded counts, and what each of the four counts promises."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import golden
from orthostream.analysis.dead_parameters import dead_parameters
from orthostream.errors import UsageError


def test_counts_agree_with_recorded_values() -> None:
    tensors, sidecar = golden.load("optim/diagnostics")
    found = dead_parameters(tensors["grad/g"])
    assert int(found.exact) == sidecar["dead_exact_zero"]
    assert int(found.absolute) == sidecar["dead_abs_le_1e_4"]
    assert (found.size, found.components) == (sidecar["numel"], 4)
    assert int(found.rows) == sum(not row.any() for row in tensors["grad/g"])


@settings(deadline=None, max_examples=40)
@given(st.integers(-20, 20), st.integers(0, 2**31 - 1))
def test_only_the_absolute_count_follows_the_scale(exponent: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    gradient = torch.randn(4, 6, generator=generator, dtype=torch.float64) * 10 ** (
        -5 * torch.rand(4, 6, generator=generator, dtype=torch.float64)
    )
    gradient[1] = 0
    # a power of two changes no bit of the mantissa
    plain, scaled = dead_parameters(gradient), dead_parameters(gradient * 2.0**exponent)
    assert [int(plain.exact), int(plain.rows)] == [int(scaled.exact), int(scaled.rows)] == [6, 1]
    assert int(plain.relative) == int(scaled.relative) >= 6
    if exponent >= 0:
        assert int(scaled.absolute) <= int(plain.absolute)


def test_a_shrunken_gradient_is_all_dead_by_the_absolute_count_alone() -> None:
    gradient = torch.randn(8, 9, generator=torch.Generator().manual_seed(0)) * 1e-6
    found = dead_parameters(gradient)
    assert int(found.absolute) == 72
    assert int(found.exact) == int(found.rows) == 0
    assert int(found.relative) < 5


def test_a_zero_gradient_is_dead_by_every_count() -> None:
    found = dead_parameters(torch.zeros(3, 2, 2))
    assert [int(n) for n in (found.exact, found.rows, found.relative, found.absolute)] == [12, 3, 12, 12]


def test_vectors_and_scalars_are_rows_of_one_element() -> None:
    assert int(dead_parameters(torch.tensor([0.0, 1.0, 0.0])).rows) == 2
    assert dead_parameters(torch.tensor(0.0)).components == 1


def test_bad_input_is_refused() -> None:
    with pytest.raises(UsageError, match="threshold -1"):
        dead_parameters(torch.ones(2), threshold=-1)
    with pytest.raises(UsageError, match=r"shape \(0, 3\)"):
        dead_parameters(torch.ones(0, 3))
