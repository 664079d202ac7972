"""Values of the orthogonal update: dtypes, axes, the properties of the definition, precision, refusals."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ops.exact import AXES, DTYPES, PAIRS, assert_rounded, exact_gradients, exact_update, random_pair, reference_update
from orthostream.ops import orthogonal_update

EPS = 1e-6


def inner(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(-1, keepdim=True)


@pytest.mark.parametrize("update", [orthogonal_update, reference_update])
@pytest.mark.parametrize(("shape", "dim"), AXES)
@pytest.mark.parametrize("pair", PAIRS)
def test_is_the_exact_value_rounded_once(pair, shape, dim, update) -> None:
    x, u = random_pair(shape, pair)
    y = update(x, u, dim)
    assert y.dtype == x.dtype
    assert y.shape == x.shape
    # float32 inner products of up to 72 numbers of order one
    assert_rounded(y, exact_update(x, u, dim), slack=2e-6)


@pytest.mark.parametrize(("shape", "dim"), AXES)
@pytest.mark.parametrize("pair", PAIRS)
def test_gradients_are_the_exact_ones_rounded_once(pair, shape, dim) -> None:
    x, u = (tensor.requires_grad_() for tensor in random_pair(shape, pair))
    gradient = random_pair(shape, pair, seed=1)[0]
    orthogonal_update(x, u, dim).backward(gradient)
    exact_x, exact_u = exact_gradients(x, u, gradient, dim)
    assert_rounded(u.grad, exact_u, slack=4e-6)
    # The update is recovered from a result that was rounded; that rounding enters with the factor <x,g> / <x,x>.
    wide, axes = x.detach().double(), (dim,) if isinstance(dim, int) else dim
    factor = (wide * gradient.double()).sum(axes, keepdim=True) / (wide * wide).sum(axes, keepdim=True)
    rounding = torch.finfo(x.dtype).eps / 2 * exact_update(x, u, dim).abs() if x.dtype.itemsize == 2 else 0 * wide
    assert_rounded(x.grad, exact_x, slack=4e-6 + (factor.abs() * rounding).max().item())
    assert (x.grad.dtype, u.grad.dtype) == pair


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.data())
def test_any_shape_and_axes(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(0, 5), min_size=1, max_size=4)))
    axes = data.draw(st.lists(st.integers(0, len(shape) - 1), min_size=1, unique=True))
    dim = tuple(axis - len(shape) if data.draw(st.booleans()) else axis for axis in axes)
    strength = data.draw(st.floats(-2, 2))
    x, u = (tensor.requires_grad_() for tensor in random_pair(shape))
    gradient = random_pair(shape, seed=1)[0]
    y = orthogonal_update(x, u, dim, EPS, strength)
    torch.testing.assert_close(y, exact_update(x, u, dim, EPS, strength), rtol=1e-11, atol=1e-11)
    y.backward(gradient)
    exact = exact_gradients(x, u, gradient, dim, EPS, strength)
    # a vector of one small number divides by its square: relative to that
    torch.testing.assert_close((x.grad, u.grad), exact, rtol=1e-8, atol=1e-8)


# The ten properties, in float64.


def test_inner_product_with_the_stream_is_eps_times_the_coefficient() -> None:
    x, u = random_pair((4, 16))
    y = orthogonal_update(x, u)
    s = inner(x, u) / (inner(x, x) + EPS)
    torch.testing.assert_close(inner(x, y - x), EPS * s, rtol=0, atol=1e-14)
    assert (inner(x, y - x).abs() <= EPS * u.norm(dim=-1, keepdim=True) / x.norm(dim=-1, keepdim=True) + 1e-14).all()


def test_squared_norms_add_and_the_stream_never_shrinks() -> None:
    x, u = random_pair((64, 16))
    u = u - 1.5 * x  # updates that point against the stream shrink a plain sum
    y = orthogonal_update(x, u)
    s = inner(x, u) / (inner(x, x) + EPS)
    torch.testing.assert_close(inner(y, y), inner(x, x) + inner(y - x, y - x) + 2 * EPS * s, rtol=1e-13, atol=0)
    assert (y.norm(dim=-1) >= x.norm(dim=-1) * (1 - EPS)).all()
    assert ((x + u).norm(dim=-1) < x.norm(dim=-1)).any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_zero_stream_takes_the_whole_update(dtype) -> None:
    u = random_pair((3, 8), (dtype, dtype))[1].requires_grad_()
    x = torch.zeros_like(u).requires_grad_()
    gradient = torch.randn(3, 8).to(dtype)
    y = orthogonal_update(x, u)
    y.backward(gradient)
    assert torch.equal(y, u)
    assert torch.equal(x.grad, gradient)
    assert torch.equal(u.grad, gradient)


@pytest.mark.parametrize("factor", [-1.0, 0.3, 100.0])
def test_a_parallel_update_is_removed(factor) -> None:
    x, _ = random_pair((4, 16))
    y = orthogonal_update(x, factor * x)
    torch.testing.assert_close(y, x * (1 + factor * EPS / (inner(x, x) + EPS)), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_zero_update_changes_nothing(dtype) -> None:
    x = random_pair((4, 16), (dtype, dtype))[0]
    assert torch.equal(orthogonal_update(x, torch.zeros_like(x)), x)


def test_an_orthogonal_update_is_added_whole() -> None:
    x = torch.tensor([[3.0, 0.0, -4.0, 0.0]], dtype=torch.float64)
    u = torch.tensor([[0.0, 2.0, 0.0, 7.0]], dtype=torch.float64)
    assert torch.equal(orthogonal_update(x, u), x + u)


def test_a_further_parallel_part_changes_only_what_eps_lets_through() -> None:
    x, u = random_pair((4, 16))
    change = orthogonal_update(x, u + 5 * x, eps=1e-3) - orthogonal_update(x, u, eps=1e-3)
    torch.testing.assert_close(change, 5 * x * 1e-3 / (inner(x, x) + 1e-3), rtol=0, atol=1e-13)


@pytest.mark.parametrize("factor", [-3.0, 0.01, 40.0])
def test_scaling(factor) -> None:
    x, u = random_pair((4, 16))
    added = orthogonal_update(x, u) - x
    # linear in the update, independent of the length and sign of the stream, homogeneous in both
    torch.testing.assert_close(orthogonal_update(x, factor * u) - x, factor * added, rtol=1e-12, atol=1e-12)
    scaled = orthogonal_update(factor * x, u, eps=EPS * factor**2) - factor * x
    torch.testing.assert_close(scaled, added, rtol=1e-12, atol=1e-12)
    both = orthogonal_update(factor * x, factor * u, eps=EPS * factor**2)
    torch.testing.assert_close(both, factor * (x + added), rtol=1e-12, atol=1e-12)


def test_rotation() -> None:
    x, u = random_pair((4, 16))
    rotation = torch.linalg.qr(torch.randn(16, 16, dtype=torch.float64, generator=torch.manual_seed(0))).Q
    turned = orthogonal_update(x @ rotation, u @ rotation)
    torch.testing.assert_close(turned, orthogonal_update(x, u) @ rotation, rtol=1e-13, atol=1e-13)


def test_jacobian_of_the_update_is_a_projection() -> None:
    x, u = (tensor[0] for tensor in random_pair((1, 6)))
    jacobian = torch.func.jacrev(orthogonal_update, argnums=1)(x, u)
    squared = x.dot(x) + EPS
    torch.testing.assert_close(
        jacobian, torch.eye(6) - torch.outer(x, x) / squared, rtol=0, atol=1e-14, check_dtype=False
    )
    eigenvalues = torch.linalg.eigvalsh(jacobian)
    torch.testing.assert_close(
        eigenvalues, torch.tensor([EPS / squared, 1, 1, 1, 1, 1]), rtol=0, atol=1e-13, check_dtype=False
    )


def test_the_gradient_that_reaches_the_branch_is_orthogonal_to_the_stream() -> None:
    x, u = random_pair((4, 16))
    gradient = random_pair((4, 16), seed=1)[0]
    u.requires_grad_()
    orthogonal_update(x, u).backward(gradient)
    torch.testing.assert_close(inner(x, u.grad), EPS * inner(x, gradient) / (inner(x, x) + EPS), rtol=0, atol=1e-13)


def test_feature_implies_global_orthogonality_and_equals_it_on_one_token() -> None:
    x, u = random_pair((2, 5, 16))
    added = orthogonal_update(x, u) - x
    assert ((x * added).sum((1, 2)).abs() < 1e-5).all()
    whole = orthogonal_update(x, u, dim=(1, 2)) - x
    assert ((x * whole).sum((1, 2)).abs() < 1e-5).all()
    assert (inner(x, whole).abs() > 1e-2).any(), "not conversely"
    one, update = x[:, :1], u[:, :1]
    torch.testing.assert_close(
        orthogonal_update(one, update, (1, 2)), orthogonal_update(one, update), rtol=1e-14, atol=1e-14
    )


@pytest.mark.parametrize(("length", "norm"), [(1e-5, 10), (1e-4, 99), (1e-3, 500), (1e-2, 99), (1e-1, 10), (1.0, 1.6)])
def test_gradient_hazard_near_the_root_of_eps(length, norm) -> None:
    x, u = length * torch.eye(6, dtype=torch.float64)[0], torch.eye(6, dtype=torch.float64)[1]
    jacobian = torch.func.jacrev(orthogonal_update)(x, u)
    # two digits are documented
    assert torch.linalg.matrix_norm(jacobian, 2).item() == pytest.approx(norm, rel=0.03)


# Layouts of memory, and streams at the edge of their number format.


@pytest.mark.parametrize("shape", [(0, 5, 7), (3, 0, 7), (2, 5, 1), (2, 5, 0)])
def test_empty_and_narrow_streams(shape) -> None:
    x, u = (tensor.requires_grad_() for tensor in random_pair(shape))
    y = orthogonal_update(x, u)
    y.sum().backward()
    assert y.shape == x.grad.shape == u.grad.shape == shape
    assert all(tensor.isfinite().all() for tensor in (y, x.grad, u.grad))


def test_strided_and_expanded_operands() -> None:
    x, u = random_pair((2, 7, 5))
    single = random_pair((1, 1, 7), seed=2)[0]
    strided, wide = x.transpose(1, 2), single.expand(2, 5, 7)
    for stream, update in ((strided, u.transpose(1, 2)), (wide, u.transpose(1, 2)), (strided, wide)):
        leaf, update_leaf = stream.detach().requires_grad_(), update.detach().requires_grad_()
        gradient = torch.ones((), dtype=torch.float64).expand(2, 5, 7)
        y = orthogonal_update(leaf, update_leaf)
        y.backward(gradient)
        torch.testing.assert_close(y, exact_update(stream, update, -1), rtol=1e-13, atol=1e-13)
        exact = exact_gradients(stream, update, gradient, -1)
        torch.testing.assert_close((leaf.grad, update_leaf.grad), exact, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("value", [1.0, 300.0])
def test_float16_stream_whose_squared_norm_leaves_the_format(value) -> None:
    """16 * 300^2 is beyond 65504, the largest float16: products in float16 give s = 0, or NaN."""
    x = torch.full((2, 16), 300.0, dtype=torch.float16, requires_grad=True)
    u = torch.full_like(x, value).detach().requires_grad_()
    y = orthogonal_update(x, u)
    y.backward(torch.ones_like(y))
    assert torch.equal(y, x)
    exact = exact_gradients(x, u, torch.ones_like(x), -1)
    # the gradient of u is eps/m, about 1e-12, where float32 leaves its own rounding of 1 - 1
    assert_rounded(u.grad, exact[1], slack=1e-6)
    assert_rounded(x.grad, exact[0], slack=1e-6)


# Precision: the figures that the arithmetic rule promises.


def test_bfloat16_is_one_rounding_away_and_orthogonal_before_it() -> None:
    x, u = random_pair((64, 768), (torch.bfloat16, torch.bfloat16))
    exact = exact_update(x, u, -1)
    y = orthogonal_update(x, u)
    # nothing but the rounding of the exact value, except where it lies on the border between two numbers
    assert (y != exact.bfloat16()).double().mean() < 1e-3
    assert (y.double() - exact).abs().max() <= 2**-8 * exact.abs().max()
    added = orthogonal_update(x.float(), u.float()) - x.float()
    # float32 rounding of the sum y, from which x is taken again: 6e-8 of |y|, spread over random directions
    assert torch.nn.functional.cosine_similarity(x.double(), added.double(), dim=-1).abs().max() < 2e-7


def test_float64_stays_float64() -> None:
    x, u = random_pair((64, 768))
    # A norm truncated to float32 on its way would be off by 5e-8.
    assert (orthogonal_update(x, u) - exact_update(x, u, -1)).abs().max() < 1e-14


@pytest.mark.parametrize("length", [1.0, 30.0])
def test_update_recovered_from_the_result_costs_no_precision(length) -> None:
    """Gradient of a float32 stream from x, y and s: 2e-8 (root mean square), also where |x| is 30 times |u|."""
    x, u = random_pair((64, 768), (torch.float32, torch.float32))
    x = (length * x).requires_grad_()
    gradient = random_pair((64, 768), seed=1)[0].float()
    orthogonal_update(x, u).backward(gradient)
    error = x.grad.double() - exact_gradients(x, u, gradient, -1)[0]
    assert error.square().mean().sqrt() < 6e-8


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [0.01, 0.1, 1.0, 10.0, 30.0])
@pytest.mark.parametrize("cosine", [0.0, 0.5, 0.99])
def test_recovering_the_update_from_a_rounded_result_adds_less_than_the_rounding_of_the_gradient(dtype, size, cosine):
    """What keeping y instead of u costs a half-precision stream: errors add up to sqrt(2) of one rounding at most."""
    generator = torch.Generator().manual_seed(0)
    x, noise_u, noise_g = (torch.randn(64, 768, generator=generator) for _ in range(3))
    u = size * (0.5 * x + noise_u)
    gradient = cosine * x + (1 - cosine**2) ** 0.5 * noise_g
    x, u, gradient = (tensor.to(dtype) for tensor in (x, u, gradient))
    orthogonal_update(x.requires_grad_(), u).backward(gradient)
    exact = exact_gradients(x, u, gradient, -1)[0]
    unavoidable = (exact.to(dtype).double() - exact).norm()
    assert (x.grad.double() - exact).norm() < 1.45 * unavoidable


# Strength.


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("dial", [0, 0.0, torch.zeros(()), torch.zeros(1), torch.zeros((), dtype=torch.bfloat16)])
def test_strength_zero_is_the_plain_sum_bit_for_bit(pair, dial) -> None:
    x, u = (tensor.requires_grad_() for tensor in random_pair((3, 5, 16), pair))
    gradient = random_pair((3, 5, 16), pair, seed=1)[0]
    y = orthogonal_update(x, u, strength=dial)
    assert torch.equal(y, (x + u).to(x.dtype))
    y.backward(gradient)
    assert torch.equal(x.grad, gradient)
    assert torch.equal(u.grad, gradient.to(u.dtype))


@pytest.mark.parametrize("strength", [-0.5, 0.25, 1.0, 1.75])
def test_strength_as_number_and_as_dial(strength) -> None:
    x, u = random_pair((3, 5, 16))
    exact = exact_update(x, u, -1, EPS, strength)
    tensor = torch.tensor(strength)
    # One element in any shape, also one with more axes than the stream.
    for dial in (strength, tensor, tensor.double(), tensor.reshape(1), tensor.reshape(1, 1, 1, 1)):
        torch.testing.assert_close(orthogonal_update(x, u, strength=dial), exact, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("shape", [(), (1,)])
def test_learned_strength_gets_its_gradient(shape) -> None:
    x, u = random_pair((3, 5, 16))
    gradient = random_pair((3, 5, 16), seed=1)[0]
    strength = torch.full(shape, 0.3, dtype=torch.float64, requires_grad=True)
    orthogonal_update(x, u, strength=strength).backward(gradient)
    s = inner(x, u) / (inner(x, x) + EPS)
    torch.testing.assert_close(strength.grad, -(gradient * s * x).sum().reshape(shape), rtol=1e-12, atol=1e-12)


# Refusals.


def test_refuses_shapes_that_would_broadcast() -> None:
    with pytest.raises(ValueError, match=r"one shape, got stream float32\[2, 5, 16\] and update float32\[2, 1, 16\]"):
        orthogonal_update(torch.ones(2, 5, 16), torch.ones(2, 1, 16))


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
def test_refuses_what_is_not_floating_point(dtype) -> None:
    x = torch.ones(2, 3)
    with pytest.raises(TypeError, match="must be floating point"):
        orthogonal_update(x.to(dtype), x)
    with pytest.raises(TypeError, match="must be floating point"):
        orthogonal_update(x, x.to(dtype))


@pytest.mark.parametrize("dim", [3, -4, (), (1, 1), (1, -2), (0, 5)])
def test_refuses_axes_out_of_range_or_named_twice(dim) -> None:
    with pytest.raises(ValueError, match="distinct axes between -3 and 2 of a stream"):
        orthogonal_update(torch.ones(2, 3, 4), torch.ones(2, 3, 4), dim)


def test_refuses_a_stream_without_axes() -> None:
    with pytest.raises(ValueError, match="has no axes"):
        orthogonal_update(torch.ones(()), torch.ones(()))


@pytest.mark.parametrize("eps", [-1e-6, float("nan")])
def test_refuses_a_negative_eps(eps) -> None:
    with pytest.raises(ValueError, match="must be >= 0, got"):
        orthogonal_update(torch.ones(3), torch.ones(3), eps=eps)


def test_refuses_a_strength_for_each_sample() -> None:
    with pytest.raises(ValueError, match=r"tensor of one element, got float32\[2, 1\]"):
        orthogonal_update(torch.ones(2, 3), torch.ones(2, 3), strength=torch.ones(2, 1))
