"""Splitting an update into its parallel and its orthogonal part."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.func import vmap

from ops.exact import AXES, PAIRS, assert_rounded, exact_update, random_pair
from orthostream.ops import decompose, orthogonal_update


@pytest.mark.parametrize(("shape", "dim"), AXES)
@pytest.mark.parametrize("pair", PAIRS)
def test_parts_are_exact_rounded_once_in_the_wider_dtype(pair, shape, dim) -> None:
    x, u = random_pair(shape, pair)
    parallel, orthogonal = decompose(x, u, dim)
    exact = exact_update(x, u, dim) - x.double()
    assert parallel.dtype == orthogonal.dtype == torch.promote_types(*pair)
    assert_rounded(orthogonal, exact, slack=2e-6)
    assert_rounded(parallel, u.double() - exact, slack=2e-6)


@pytest.mark.parametrize("clamp", [False, True])
def test_parts_sum_to_the_update_and_are_orthogonal(clamp) -> None:
    x, u = random_pair((4, 16))
    parallel, orthogonal = decompose(x, u, clamp=clamp)
    torch.testing.assert_close(parallel + orthogonal, u, rtol=0, atol=1e-15)
    # eps times the coefficient; none of it with eps as a bound that a stream of norm 4 does not reach
    bound = 1e-14 if clamp else 1e-6
    assert ((x * orthogonal).sum(-1).abs() <= bound).all()
    torch.testing.assert_close(
        torch.linalg.cross(parallel[:, :3], x[:, :3]), torch.zeros(4, 3).double(), rtol=0, atol=1e-14
    )


def test_orthogonal_part_is_what_the_update_adds() -> None:
    x, u = random_pair((4, 16))
    torch.testing.assert_close(x + decompose(x, u)[1], orthogonal_update(x, u), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize(("clamp", "share"), [(False, 0.5), (True, 1.0)])
def test_eps_is_added_or_a_lower_bound(clamp, share) -> None:
    """A stream with ``|x|^2 = eps``: half of the parallel part, or all of it."""
    x = torch.tensor([1e-3, 0.0], dtype=torch.float64)
    parallel, _ = decompose(x, torch.tensor([2.0, 1.0], dtype=torch.float64), eps=1e-6, clamp=clamp)
    torch.testing.assert_close(parallel, torch.tensor([2.0 * share, 0.0], dtype=torch.float64), rtol=1e-12, atol=0)


@pytest.mark.parametrize("clamp", [False, True])
def test_zero_stream_leaves_the_update_whole_and_gradients_finite(clamp) -> None:
    x, u = torch.zeros(2, 8, requires_grad=True), torch.randn(2, 8, requires_grad=True)
    parallel, orthogonal = decompose(x, u, clamp=clamp)
    assert torch.equal(parallel, torch.zeros(2, 8))
    assert torch.equal(orthogonal, u)
    (parallel.sum() + orthogonal.square().sum()).backward()
    assert x.grad.isfinite().all()
    assert u.grad.isfinite().all()


def test_float16_products_do_not_overflow() -> None:
    x = torch.full((2, 16), 300.0, dtype=torch.float16)
    parallel, orthogonal = decompose(x, x / 300)
    assert torch.equal(parallel, x / 300)
    assert orthogonal.abs().max() < 1e-6


@pytest.mark.parametrize("clamp", [False, True])
@pytest.mark.parametrize(("shape", "dim"), [((2, 3, 4), -1), ((2, 3, 2, 2), (1, 2, 3))])
def test_derivatives(shape, dim, clamp) -> None:
    inputs = tuple(tensor.requires_grad_() for tensor in random_pair(shape))
    assert gradcheck(lambda x, u: decompose(x, u, dim, clamp=clamp), inputs, check_forward_ad=True)
    assert gradgradcheck(lambda x, u: decompose(x, u, dim, clamp=clamp), inputs)


def test_vmap() -> None:
    x, u = random_pair((3, 5, 8))
    for mapped, direct in zip(vmap(decompose)(x, u), decompose(x, u), strict=True):
        torch.testing.assert_close(mapped, direct, rtol=0, atol=1e-15)


def test_empty() -> None:
    parallel, orthogonal = decompose(torch.ones(0, 8), torch.ones(0, 8))
    assert parallel.shape == orthogonal.shape == (0, 8)


def test_refuses_what_the_update_refuses() -> None:
    with pytest.raises(ValueError, match="must have one shape"):
        decompose(torch.ones(2, 3), torch.ones(3))
    with pytest.raises(TypeError, match="must be floating point"):
        decompose(torch.ones(3).long(), torch.ones(3))
    with pytest.raises(ValueError, match="distinct axes"):
        decompose(torch.ones(2, 3), torch.ones(2, 3), dim=2)
    with pytest.raises(ValueError, match="must be >= 0"):
        decompose(torch.ones(3), torch.ones(3), eps=-1.0)
