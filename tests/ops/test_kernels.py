"""The kernels of the orthogonal update against float64: values, gradients, memory layouts, refusals."""

import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from ops.exact import random_pair
from orthostream.ops import KernelError, forced, implementation, orthogonal_update
from orthostream.ops.orthogonal_update.reference import Rule, reference

EPS = 1e-6
PAIRS = [
    (torch.float32, torch.float32),
    (torch.bfloat16, torch.bfloat16),
    (torch.float16, torch.float16),
    (torch.float32, torch.bfloat16),
    (torch.bfloat16, torch.float32),
    (torch.float16, torch.bfloat16),
]
# (shape, axes): rows in one piece, pixels side by side, whole samples; widths 1, odd, a power of two, beyond a tile.
SHAPES = [
    ((3, 5, 16), -1),
    ((70, 33), -1),
    ((5, 1), -1),
    ((3, 16384), -1),
    ((2, 3, 16385), -1),
    ((2, 6, 4, 3), 1),
    ((2, 130, 7, 5), 1),
    ((3, 1, 4, 4), 1),
    ((2, 6, 4, 3), (1, 2, 3)),
    ((2, 40, 23, 19), (1, 2, 3)),
    ((2, 9, 7), (1, 2)),
    ((2, 5, 3, 4), (-1, 2)),
    ((11,), 0),
]
WEIGHTS = [
    {},
    {"strength": 0.4},
    {"stream_weight": 1.3, "strength": -0.5},
    {"update_weight": 0.0, "strength": 0.0},
    {"stream_weight": 0.7, "update_weight": -1.2, "strength": 0.3, "clamp": True},
]


def run(x: Tensor, u: Tensor, g: Tensor, dim, options: dict, learned: bool) -> tuple[list[Tensor], list[Tensor]]:
    """Result and gradients by the kernels; what the same operands give in float64 by autograd on the formula."""
    names = [name for name in options if name != "clamp"]
    weights = {name: torch.tensor([float(options[name])], device=x.device, requires_grad=learned) for name in names}
    leaves = [tensor.detach().requires_grad_() for tensor in (x, u)]
    with forced("triton"):
        y = orthogonal_update(*leaves, dim, EPS, **{**options, **weights})
        y.backward(g)
    found = [y.detach(), *(leaf.grad for leaf in leaves), *(weights[name].grad for name in names if learned)]

    wide = [tensor.detach().double().requires_grad_() for tensor in (x, u)]
    wide_weights = {name: weights[name].detach().double()[0].requires_grad_(learned) for name in names}
    exact = reference(*wide, Rule(dim, EPS, **{**options, **wide_weights}))
    exact.backward(g.double())
    expected = [exact.detach(), *(leaf.grad for leaf in wide), *(wide_weights[name].grad for name in names if learned)]
    return found, expected


def rounding(dtype: torch.dtype, device: torch.device) -> float:
    """The largest relative error of one rounding; Triton's interpreter cuts bfloat16 off instead of rounding it."""
    step = torch.finfo(dtype).eps
    return step if dtype == torch.bfloat16 and device.type == "cpu" else step / 2


def length(tensor: Tensor, dim) -> Tensor:
    return (tensor * tensor).sum(dim, keepdim=True).sqrt()


def check(x: Tensor, u: Tensor, g: Tensor, dim, options: dict, learned: bool = False) -> None:
    """One rounding of each result, float32 arithmetic on terms as large as they occur, and for the gradient of the
    stream the rounding of the result that the update is recovered from."""
    found, expected = run(x, u, g, dim, options, learned)
    assert found[0].dtype == found[1].dtype == x.dtype
    assert found[2].dtype == u.dtype
    wide_x, wide_u, wide_g = (tensor.detach().double() for tensor in (x, u, g))
    square = (wide_x * wide_x).sum(dim, keepdim=True)
    guarded = square.clamp_min(EPS) if options.get("clamp") else square + EPS
    factor = ((wide_x * wide_g).sum(dim, keepdim=True) / guarded).abs()

    def largest(tensor: Tensor) -> Tensor:
        return tensor.abs().amax(dim, keepdim=True)

    share = length(wide_x, dim) * length(wide_u, dim) / guarded
    terms = largest(wide_u) + (1 + share) * largest(wide_x)
    float32 = 1e-5
    slack_y = float32 * terms
    pulled = length(wide_x, dim) * length(wide_g, dim) / guarded
    slack_x = float32 * ((1 + share) * largest(wide_g) + pulled * terms)
    if "update_weight" not in options:
        slack_x = slack_x + factor * rounding(x.dtype, x.device) * largest(expected[0])
    slack_u = float32 * (largest(wide_g) + pulled * largest(wide_x))
    for name, actual, exact, slack in zip("yxu", found, expected, (slack_y, slack_x, slack_u), strict=False):
        tiny = torch.finfo(actual.dtype).smallest_normal
        bound = 1.01 * rounding(actual.dtype, x.device) * exact.abs() + 2 * slack + tiny
        # beyond the largest number of a format, infinity is the rounded result
        off = (actual.double() - exact).abs() > bound
        off &= ~(actual.isinf() & (exact.abs() > torch.finfo(actual.dtype).max))
        off |= actual.isnan()
        assert not off.any(), f"{name}: {actual[off][:4].tolist()} instead of {exact[off][:4].tolist()}"
    size = wide_g.norm() * (wide_x.norm() + wide_u.norm() + (factor * 0 + share).max() * wide_x.norm())
    for actual, exact in zip(found[3:], expected[3:], strict=True):
        assert abs(actual.item() - exact.item()) <= 1e-5 * size.item()


def operands(shape, pair, device, scale: float = 1.0, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    x, u = random_pair(shape, (torch.float64, torch.float64), seed)
    g = random_pair(shape, seed=seed + 1)[0]
    return (scale * x).to(device, pair[0]), u.to(device, pair[1]), g.to(device, pair[0])


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize(("shape", "dim"), SHAPES)
def test_values_and_gradients(shape, dim, pair, kernel_device) -> None:
    check(*operands(shape, pair, kernel_device), dim, {})


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("options", WEIGHTS[1:])
@pytest.mark.parametrize(("shape", "dim"), [SHAPES[1], SHAPES[3], SHAPES[5]])
def test_weights_and_their_gradients(shape, dim, options, learned, kernel_device) -> None:
    for pair in (PAIRS[0], PAIRS[1]):
        check(*operands(shape, pair, kernel_device), dim, options, learned)


@pytest.mark.usefixtures("poisoned")
@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.data())
def test_any_shape_order_of_memory_dtype_and_scale(kernel_device, data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=4)))
    order = data.draw(st.permutations(range(len(shape))))
    # axes that are neighbours in memory
    first = data.draw(st.integers(0, len(shape) - 1))
    last = data.draw(st.integers(first, len(shape) - 1))
    dim = tuple(order[first : last + 1])
    pair = data.draw(st.sampled_from(PAIRS))
    scale = data.draw(st.sampled_from([1e-8, 1e-4, 1e-3, 1e-2, 1.0, 30.0, 1e3 if torch.float16 in pair else 1e4]))
    options = data.draw(st.sampled_from(WEIGHTS))

    def laid_out(tensor: Tensor) -> Tensor:
        kind = data.draw(st.sampled_from(["in order", "as it comes", "with gaps"]))
        if kind == "in order":
            return tensor.permute(order).contiguous().permute(torch.tensor(order).argsort().tolist())
        if kind == "with gaps":
            wide = tensor.repeat_interleave(2, dim=-1)
            return wide[..., ::2]
        return tensor

    x, u, g = operands(shape, pair, kernel_device, scale, seed=len(shape))
    x = x.permute(order).contiguous().permute(torch.tensor(order).argsort().tolist())
    check(x, laid_out(u), laid_out(g), dim, options)


@pytest.mark.usefixtures("poisoned")
def test_maps_whose_tiles_span_more_than_32_bits_reach(monkeypatch, kernel_device) -> None:
    """The 64-bit offsets of such maps, on a small one."""
    from orthostream.ops.orthogonal_update import triton as kernels

    monkeypatch.setattr(kernels, "FAR", 1)
    check(*operands((2, 130, 7, 5), PAIRS[0], kernel_device), 1, {})


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("pair", [PAIRS[0], PAIRS[1]])
def test_broadcast_operands_and_gradients(pair, kernel_device) -> None:
    x, u, g = operands((4, 3, 8), pair, kernel_device)
    check(x, u[:1].expand(4, 3, 8), g[:, :1].expand(4, 3, 8), -1, {})
    check(x[:1].expand(4, 3, 8), u, g, (1, 2), {})
    check(x[:, ::2], u[:, ::2], g[:, ::2], -1, {})


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize(("shape", "dim"), [((4, 6, 5), -1), ((2, 6, 4, 3), 1), ((3, 17000), -1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_zero_streams_and_parallel_updates(shape, dim, dtype, kernel_device) -> None:
    x, u, g = operands(shape, (dtype, dtype), kernel_device)
    x[0] = 0
    check(x, u, g, dim, {})
    check(torch.zeros_like(x), u, g, dim, {})
    check(x, -0.5 * x, g, dim, {})
    check(x, torch.zeros_like(u), g, dim, {})
    with forced("triton"):
        assert torch.equal(orthogonal_update(torch.zeros_like(x), u, dim), u)
        assert torch.equal(orthogonal_update(x, torch.zeros_like(u), dim), x)
        assert torch.equal(orthogonal_update(x, u, dim, strength=0.0), x + u)


@pytest.mark.parametrize(("shape", "dim"), [((40, 384), -1), ((2, 64, 9, 9), 1), ((2, 20000), -1)])
def test_equal_to_the_bit_from_run_to_run(shape, dim, kernel_device) -> None:
    first, second = (
        run(*operands(shape, PAIRS[1], kernel_device), dim, {"strength": 0.5}, learned=True)[0] for _ in range(2)
    )
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize(("shape", "dim"), [((7, 96), -1), ((2, 12, 5, 3), 1), ((3, 17000), -1)])
def test_properties_of_the_definition(shape, dim, kernel_device) -> None:
    """Sums of squares, scaling, rotation, and gradients at right angles to the stream; in float32."""
    x, u, g = operands(shape, PAIRS[0], kernel_device)
    wide = x.double()

    def inner(a: Tensor, b: Tensor) -> Tensor:
        return (a.double() * b.double()).sum(dim, keepdim=True)

    with forced("triton"):
        y = orthogonal_update(x, u, dim)
        size = inner(x, x).sqrt() * inner(u, u).sqrt()
        assert (inner(wide, y.double() - wide).abs() <= 3e-7 * (size + inner(x, x))).all(), "the change is orthogonal"
        grown = inner(x, x) + inner(y.double() - wide, y.double() - wide)
        torch.testing.assert_close(inner(y, y), grown, rtol=1e-6, atol=0)
        # factors that are powers of two are exact
        assert torch.equal(orthogonal_update(4 * x, 4 * u, dim, 16 * EPS), 4 * orthogonal_update(x, u, dim, EPS))
        torch.testing.assert_close(orthogonal_update(x, u + 3 * x, dim), y, rtol=1e-5, atol=2e-5)
        order = torch.randperm(x.shape[dim], generator=torch.Generator().manual_seed(0)).to(kernel_device)
        turned = orthogonal_update(-x.index_select(dim, order), -u.index_select(dim, order), dim)
        torch.testing.assert_close(turned, -y.index_select(dim, order), rtol=1e-5, atol=1e-5)
        leaf = u.clone().requires_grad_()
        orthogonal_update(x, leaf, dim).backward(g)
    assert (inner(x, leaf.grad).abs() <= 3e-7 * inner(x, x).sqrt() * inner(g, g).sqrt()).all()


@pytest.mark.parametrize("name", ["triton", "blocked", "closed_form"])
def test_remaining_cosine_is_within_the_bounds_of_the_docstring(name, kernel_device) -> None:
    bounds = {torch.float32: 1e-6, torch.bfloat16: 5e-3, torch.float16: 5e-4}
    for dtype, bound in bounds.items():
        for width in (64, 384, 768, 4096):
            x, u, _ = operands((64, width), (dtype, dtype), kernel_device)
            with forced(name):
                part = orthogonal_update(x, u).double() - x.double()
            cosine = torch.cosine_similarity(part, x.double(), dim=-1).abs().max().item()
            assert cosine < bound, f"{dtype} {width}"


def test_the_stream_decides_the_order_of_memory(kernel_device) -> None:
    x, u, _ = operands((2, 6, 4, 3), PAIRS[0], kernel_device)
    with forced("triton"):
        for layout in (torch.contiguous_format, torch.channels_last):
            y = orthogonal_update(x.contiguous(memory_format=layout), u, 1)
            assert y.is_contiguous(memory_format=layout)


def test_second_derivatives_and_transforms_leave_the_kernels(kernel_device) -> None:
    x, u = (tensor.to(kernel_device) for tensor in random_pair((3, 5), (torch.float32,) * 2))
    leaves = [tensor.clone().requires_grad_() for tensor in (x, u)]
    with forced("triton"):
        first = torch.autograd.grad(orthogonal_update(*leaves).square().sum(), leaves, create_graph=True)
        second = torch.autograd.grad(sum(each.square().sum() for each in first), leaves)
        mapped = torch.func.vmap(orthogonal_update)(x, u)
    exact = [tensor.double().requires_grad_() for tensor in (x, u)]
    first = torch.autograd.grad(reference(*exact, Rule()).square().sum(), exact, create_graph=True)
    expected = torch.autograd.grad(sum(each.square().sum() for each in first), exact)
    torch.testing.assert_close([each.double() for each in second], list(expected), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(mapped.double(), reference(x.double(), u.double(), Rule()), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["triton", "blocked"])
def test_batches_of_gradients_leave_kernels_and_blocks(name, kernel_device) -> None:
    x, u = (tensor.to(kernel_device).requires_grad_() for tensor in random_pair((3, 5), (torch.float32,) * 2))
    gradients = torch.randn(4, 3, 5, device=kernel_device)
    with forced(name):
        y = orthogonal_update(x, u)
        batched = torch.autograd.grad(y, (x, u), gradients, is_grads_batched=True, retain_graph=True)
        single = [
            torch.stack(each)
            for each in zip(*(torch.autograd.grad(y, (x, u), g, retain_graph=True) for g in gradients), strict=True)
        ]
    torch.testing.assert_close(list(batched), single, rtol=1e-5, atol=1e-5)


def test_what_kernels_cannot_do_is_refused_when_they_are_forced(kernel_device) -> None:
    x = torch.ones(2, 3, 4, 5, device=kernel_device)
    with forced("triton"):
        assert implementation(x, x).name == "triton"
        with pytest.raises(KernelError, match="float64"):
            orthogonal_update(x.double(), x.double())
        with pytest.raises(KernelError, match="neighbours in memory"):
            orthogonal_update(x, x, (1, 3))
        assert implementation(x[:0], x[:0]).reason == "there is nothing to compute"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
@pytest.mark.parametrize("dim", [-1, 1, (1, 2, 3)])
def test_beyond_two_to_the_31_elements(dim) -> None:
    """The last sample lies beyond what 32-bit offsets reach, and must come out as it does alone."""
    shape = (2**31 // (64 * 128 * 128) + 3, 64, 128, 128)
    assert math.prod(shape) > 2**31
    x, u, g = (torch.randn(shape, dtype=torch.bfloat16, device="cuda") for _ in range(3))
    if dim == -1:
        x, u, g = (tensor.view(-1, 128) for tensor in (x, u, g))
    ends = []
    for part in (slice(None), slice(-1, None)):
        leaves = [tensor[part].requires_grad_() for tensor in (x.detach(), u.detach())]
        y = orthogonal_update(*leaves, dim)
        ends.append([each[-1:].clone() for each in (y, *torch.autograd.grad(y, leaves, g[part]))])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))
