"""Derivatives of the orthogonal update: first and second, both modes, under transforms, and what is kept for them."""

import copy

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

from ops.exact import AXES, exact_update, random_pair, reference_update
from orthostream.ops import orthogonal_update

SMALL = [((2, 3, 4), -1), ((2, 3, 2, 2), 1), ((2, 3, 4), (1, 2)), ((2, 3, 2, 2), (1, 2, 3))]


def leaves(shape: tuple[int, ...], scale: float = 1.0) -> tuple[Tensor, Tensor]:
    x, u = random_pair(shape)
    return (scale * x).requires_grad_(), u.requires_grad_()


@pytest.mark.parametrize("strength", [1.0, 0.0, -0.7, torch.tensor(0.4)])
@pytest.mark.parametrize(("shape", "dim"), SMALL)
def test_first_derivative_in_both_modes_and_batched(shape, dim, strength) -> None:
    assert gradcheck(
        lambda x, u: orthogonal_update(x, u, dim, strength=strength),
        leaves(shape),
        check_forward_ad=True,
        check_batched_grad=True,
        check_batched_forward_grad=True,
    )


@pytest.mark.parametrize("strength", [1.0, -0.7, torch.tensor(0.4)])
@pytest.mark.parametrize(("shape", "dim"), SMALL)
def test_second_derivative(shape, dim, strength) -> None:
    assert gradgradcheck(
        lambda x, u: orthogonal_update(x, u, dim, strength=strength),
        leaves(shape),
        check_fwd_over_rev=True,
        check_rev_over_rev=True,
    )


@pytest.mark.parametrize("scale", [0.0, 1e-4, 1e-3, 1e-2])
def test_derivatives_of_small_streams(scale) -> None:
    """eps is the largest term of the denominator here, or its only one."""
    for shape, dim in (SMALL[0], SMALL[3]):
        assert gradcheck(lambda x, u, dim=dim: orthogonal_update(x, u, dim, 1e-3), leaves(shape, scale))
        assert gradgradcheck(lambda x, u, dim=dim: orthogonal_update(x, u, dim, 1e-3), leaves(shape, scale))


def test_derivatives_of_a_learned_strength() -> None:
    strength = torch.tensor([0.4], dtype=torch.float64, requires_grad=True)
    inputs = (*leaves((2, 3, 4)), strength)

    def update(x: Tensor, u: Tensor, k: Tensor) -> Tensor:
        return orthogonal_update(x, u, strength=k)

    assert gradcheck(update, inputs, check_forward_ad=True)
    assert gradgradcheck(update, inputs)


def test_half_streams_keep_exact_second_derivatives() -> None:
    """A bfloat16 result is rounded, and the update is recovered from it."""
    x, u = (tensor.bfloat16() for tensor in random_pair((3, 8)))
    gradient = random_pair((3, 8), seed=1)[0].bfloat16()

    def penalty(update, *pair: Tensor) -> tuple[Tensor, ...]:
        pair = tuple(tensor.detach().clone().requires_grad_() for tensor in pair)
        first = torch.autograd.grad(update(*pair, -1), pair, gradient.to(pair[0].dtype), create_graph=True)
        return torch.autograd.grad(sum(each.square().sum() for each in first), pair)

    exact = penalty(exact_update, x.double(), u.double())
    for actual, expected in zip(penalty(orthogonal_update, x, u), exact, strict=True):
        # first gradients are rounded to bfloat16 (2^-9) before they are squared and differentiated again
        torch.testing.assert_close(actual.double(), expected, rtol=0.02, atol=0.02 * expected.abs().max().item())


# What is kept between forward and backward.


def kept(update, x: Tensor, u: Tensor, strength: float | Tensor = 1.0) -> tuple[list[Tensor], Tensor]:
    tensors: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: tensors.append(tensor) or tensor, lambda tensor: tensor
    ):
        y = update(x, u, -1, 1e-6, strength)
    return tensors, y


@pytest.mark.parametrize(
    ("dtype", "update_dtype"),
    [
        (torch.float32, torch.float32),
        (torch.float32, torch.bfloat16),
        (torch.bfloat16, torch.bfloat16),
        (torch.float16, torch.float16),
    ],
)
def test_keeps_the_stream_before_and_after_and_one_number_a_vector(dtype, update_dtype) -> None:
    x, u = (tensor.requires_grad_() for tensor in random_pair((2, 5, 16), (dtype, update_dtype)))
    tensors, y = kept(orthogonal_update, x, u)
    assert [tensor.data_ptr() for tensor in tensors[:2]] == [x.data_ptr(), y.data_ptr()], "no memory of its own"
    assert [tuple(tensor.shape) for tensor in tensors] == [(2, 5, 16), (2, 5, 16), (2, 5, 1)]
    assert tensors[2].dtype == torch.float32


def test_a_weighted_update_is_kept_itself() -> None:
    """It cannot be recovered from the result where its weight may be 0."""
    x, u = (tensor.requires_grad_() for tensor in random_pair((2, 5, 16), (torch.bfloat16,) * 2))
    tensors, _ = kept(lambda *a: orthogonal_update(*a, update_weight=torch.zeros(1)), x, u)
    assert [tensor.data_ptr() for tensor in tensors[:2]] == [x.data_ptr(), u.data_ptr()], "no float32 copies"


def test_a_dial_adds_one_number() -> None:
    x, u = (tensor.requires_grad_() for tensor in random_pair((2, 5, 16)))
    tensors, _ = kept(orthogonal_update, x, u, torch.tensor(0.5))
    assert [tensor.numel() for tensor in tensors] == [160, 160, 10, 1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_plain_formula_keeps_more(dtype) -> None:
    x, u = (tensor.requires_grad_() for tensor in random_pair((2, 5, 16), (dtype, dtype)))

    def extra_bytes(update) -> int:
        tensors, y = kept(update, x, u)
        storages = {tensor.data_ptr(): tensor.nbytes for tensor in tensors}
        return sum(storages.values()) - sum(storages.get(tensor.data_ptr(), 0) for tensor in (x, u, y))

    assert extra_bytes(orthogonal_update) == 4 * 10
    assert extra_bytes(reference_update) >= 3 * 4 * 10


def test_dial_changed_between_forward_and_backward_is_noticed() -> None:
    dial = torch.ones(())
    x, u = leaves((2, 3))
    y = orthogonal_update(x, u, strength=dial)
    dial.fill_(0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


# Function transforms.


@pytest.mark.parametrize("in_dims", [(0, 0), (0, None), (None, 0), (1, 0), (-1, 2)])
def test_vmap_equals_a_loop(in_dims) -> None:
    pair = [t if axis is not None else t[0] for t, axis in zip(random_pair((3, 3, 3)), in_dims, strict=True)]
    mapped = vmap(orthogonal_update, in_dims=in_dims)(*pair)
    for row in range(3):
        taken = [t if axis is None else t.select(axis, row) for t, axis in zip(pair, in_dims, strict=True)]
        torch.testing.assert_close(mapped[row], exact_update(*taken, -1), rtol=1e-13, atol=1e-13)


def test_vmap_over_the_strength() -> None:
    x, u = random_pair((4, 8))
    strengths = torch.linspace(0, 2, 5, dtype=torch.float64)
    mapped = vmap(lambda k: orthogonal_update(x, u, strength=k))(strengths)
    for row, k in zip(mapped, strengths, strict=True):
        torch.testing.assert_close(row, exact_update(x, u, -1, strength=k.item()), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("in_dims", [(0, 0), (0, None), (None, 0)])
def test_vmap_of_grad_gives_gradients_for_each_sample(in_dims) -> None:
    x, u = random_pair((3, 3, 4))
    arguments = tuple(t if axis == 0 else t[0] for t, axis in zip((x, u), in_dims, strict=True))

    def loss(x: Tensor, u: Tensor) -> Tensor:
        return orthogonal_update(x, u).square().sum()

    def exact_loss(x: Tensor, u: Tensor) -> Tensor:
        return exact_update(x, u, -1).square().sum()

    actual = vmap(grad(loss, argnums=(0, 1)), in_dims=in_dims)(*arguments)
    expected = vmap(grad(exact_loss, argnums=(0, 1)), in_dims=in_dims)(*arguments)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("transform", [jacrev, jacfwd, hessian])
def test_jacobians_and_hessian(transform) -> None:
    x, u = random_pair((2, 4))

    def actual(x: Tensor, u: Tensor) -> Tensor:
        return orthogonal_update(x, u)

    def expected(x: Tensor, u: Tensor) -> Tensor:
        return exact_update(x, u, -1)

    for argument in (0, 1):
        found, exact = transform(actual, argnums=argument)(x, u), transform(expected, argnums=argument)(x, u)
        torch.testing.assert_close(found, exact, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_forward_mode_in_x_u_and_strength(dtype) -> None:
    primals = (*random_pair((3, 8), (dtype, dtype)), torch.tensor(0.4, dtype=dtype))
    tangents = (*random_pair((3, 8), (dtype, dtype), seed=1), torch.tensor(1.5, dtype=dtype))

    def exact(x: Tensor, u: Tensor, k: Tensor) -> Tensor:
        share = (x * u).sum(-1, keepdim=True) / ((x * x).sum(-1, keepdim=True) + 1e-6)
        return x + u - k * share * x

    _, expected = jvp(exact, tuple(t.double() for t in primals), tuple(t.double() for t in tangents))
    y, tangent = jvp(lambda x, u, k: orthogonal_update(x, u, strength=k), primals, tangents)
    assert y.dtype == tangent.dtype == dtype
    tolerance = 1e-12 if dtype == torch.float64 else torch.finfo(dtype).eps
    torch.testing.assert_close(
        tangent.double(), expected, rtol=tolerance, atol=1e-6 if dtype != torch.float64 else 1e-12
    )
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(*pair) for pair in zip(primals, tangents, strict=True)]
        again = forward_ad.unpack_dual(orthogonal_update(*duals[:2], strength=duals[2])).tangent
    torch.testing.assert_close(again, tangent, rtol=0, atol=0)


def test_transforms_stack() -> None:
    """vjp of jvp of vmap: one of each kind on top of another."""
    x, u = random_pair((2, 3, 4))
    directions = random_pair((2, 3, 4), seed=1)

    def derivative(update) -> tuple[Tensor, ...]:
        def along(x: Tensor, u: Tensor) -> Tensor:
            return jvp(vmap(lambda a, b: update(a, b, -1)), (x, u), directions)[1]

        _, pull = vjp(along, x, u)
        return pull(directions[0])

    torch.testing.assert_close(derivative(orthogonal_update), derivative(exact_update), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("shape", "dim"), AXES)
def test_vmap_with_axes_counted_inside(shape, dim) -> None:
    x, u = random_pair((3, *shape))
    mapped = vmap(lambda a, b: orthogonal_update(a, b, dim))(x, u)
    expected = torch.stack([exact_update(a, b, dim) for a, b in zip(x, u, strict=True)])
    torch.testing.assert_close(mapped, expected, rtol=1e-13, atol=1e-13)


class Site(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.branch = torch.nn.Linear(4, 4, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        return orthogonal_update(x, self.branch(x))


def test_functional_call_and_deepcopy_of_a_module_that_uses_it() -> None:
    torch.manual_seed(0)
    module, x = Site(), random_pair((3, 4))[0]
    twin = copy.deepcopy(module)
    state = {key: value.detach().clone() for key, value in module.named_parameters()}
    gradients = grad(lambda state: functional_call(module, state, (x,)).square().sum())(state)
    twin(x).square().sum().backward()
    for key, parameter in twin.named_parameters():
        torch.testing.assert_close(gradients[key], parameter.grad, rtol=1e-13, atol=1e-13)
