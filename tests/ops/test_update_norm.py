"""The update and the norm behind it as one kernel: against float64, the two in turn, and where it stands back."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional

from ops.exact import exact_update, random_pair
from ops.test_kernels import rounding
from orthostream.ops import KernelError, forced, orthogonal_update
from orthostream.ops.orthogonal_update.closed_form import Kept
from orthostream.ops.orthogonal_update.reference import Rule
from orthostream.ops.update_norm import WIDEST, WIDEST_WITH_PARAMETERS, closed_form, orthogonal_update_norm
from orthostream.ops.update_norm.reference import Norm

EPS, NORM_EPS = 1e-6, 1e-5
FUSED = "OrthogonalUpdateNormBackward"
PAIRS = [
    (torch.float32, torch.float32),
    (torch.bfloat16, torch.bfloat16),
    (torch.float16, torch.float16),
    (torch.float32, torch.bfloat16),
    (torch.bfloat16, torch.float32),
]
# One vector, one feature, odd widths, a power of two, more tiles than programs.
SHAPES = [(2,), (5, 1), (3, 5, 16), (70, 33), (12, 384), (3, 2, 1000)]


def exact_norm(y: Tensor, kind: str, weight: Tensor | None, bias: Tensor | None, eps: float = NORM_EPS) -> Tensor:
    centred = y - y.mean(-1, keepdim=True) if kind == "layer" else y
    normed = centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()
    normed = normed if weight is None else normed * weight
    return normed if bias is None else normed + bias


class Case:
    """Operands and upstream gradients of one pair on a device."""

    def __init__(
        self, shape, pair, device, kind="layer", affine=True, strength=1.0, dtype=None, scale=1.0, seed=0
    ) -> None:
        self.kind, self.dtype = kind, dtype
        x, u = random_pair(shape, seed=seed)
        g_y, g_z = random_pair(shape, seed=seed + 1)
        self.x, self.u = (scale * x).to(device, pair[0]), u.to(device, pair[1])
        self.g_y, self.g_z = g_y.to(device, pair[0]), g_z.to(device, dtype or pair[0])
        weight, bias = random_pair(shape[-1:], seed=seed + 2)
        self.weight = weight.to(device, pair[0]) if affine else None
        self.bias = bias.to(device, pair[0]) if affine and kind == "layer" else None
        self.strength = torch.tensor([float(strength)], device=device)

    def run(self, use_y: bool = True, use_z: bool = True) -> list[Tensor]:
        """y, z, and the gradients of x, u, strength, weight and bias, by the kernels."""
        given = [self.x, self.u, self.strength, self.weight, self.bias]
        leaves = [each if each is None else each.detach().requires_grad_() for each in given]
        with forced("triton"):
            y, z = orthogonal_update_norm(
                *leaves[:2],
                eps=EPS,
                strength=leaves[2],
                norm=self.kind,
                weight=leaves[3],
                bias=leaves[4],
                norm_eps=NORM_EPS,
                dtype=self.dtype,
            )
            assert y.grad_fn.name() == z.grad_fn.name() == FUSED
            outputs = [pair for pair, used in (((y, self.g_y), use_y), ((z, self.g_z), use_z)) if used]
            torch.autograd.backward(*zip(*outputs, strict=True))
        assert (y.dtype, z.dtype) == (self.x.dtype, self.dtype or self.x.dtype)
        return [y.detach(), z.detach(), *(leaf.grad for leaf in leaves if leaf is not None)]

    def check(self, use_y: bool = True, use_z: bool = True) -> None:
        """One rounding of each result, and float32 arithmetic on terms as large as they occur.

        The norm is taken of y as it was rounded; a gradient of x has besides the rounding of the y that the update is
        recovered from.
        """
        found = self.run(use_y, use_z)
        x, u, k = self.x.double(), self.u.double(), self.strength.double()[0]
        leaves = [each.requires_grad_() for each in (x, u, k)]
        exact_y = exact_update(*leaves[:2], -1, EPS, leaves[2])
        y = found[0].double().requires_grad_()
        parameters = [each.double().requires_grad_() for each in (self.weight, self.bias) if each is not None]
        exact_z = exact_norm(y, self.kind, *(parameters + [None] * 2)[:2])
        upstream = self.g_y.double() if use_y else torch.zeros_like(exact_y)
        by_parameters = [torch.zeros_like(each) for each in parameters]
        weighted = torch.zeros_like(upstream)
        if use_z:
            by_norm, *by_parameters = torch.autograd.grad(exact_z, [y, *parameters], self.g_z.double())
            upstream = upstream + by_norm
            weighted = self.g_z.double() * (1 if self.weight is None else self.weight.double())
        expected = [exact_y, exact_z, *torch.autograd.grad(exact_y, leaves, upstream), *by_parameters]

        def largest(tensor: Tensor) -> Tensor:
            return tensor.detach().abs().amax(-1, keepdim=True)

        float32, width = 1e-5, x.shape[-1]
        with torch.no_grad():
            square = (x * x).sum(-1, keepdim=True) + EPS
            length = x.norm(dim=-1, keepdim=True)
            share = length * u.norm(dim=-1, keepdim=True) / square
            terms = largest(u) + (1 + share) * largest(x)
            centred = y - y.mean(-1, keepdim=True) if self.kind == "layer" else y
            scale = 1 / (centred.square().mean(-1, keepdim=True) + NORM_EPS).sqrt()
            # how many times the mean of y, in whose units float32 rounds, is as large as what it leaves
            condition = 1 + largest(y) * scale
            gradient = (largest(self.g_y.double()) if use_y else 0) + 2 * scale * condition * largest(weighted)
            pulled = length * gradient * width**0.5 / square
            slack_y = float32 * terms
            slack_z = float32 * condition * (1 if self.weight is None else largest(self.weight.double()))
            factor = ((x * upstream).sum(-1, keepdim=True) / square).abs()
            recovered = factor * rounding(self.x.dtype, self.x.device) * largest(exact_y)
            slack_x = float32 * ((1 + share) * gradient + pulled * terms) + recovered
            slack_u = float32 * (gradient + pulled * largest(x))
            slack_k = float32 * (length * gradient * width**0.5 * (share + 1)).sum()
            slack_parameter = float32 * (condition * self.g_z.double().abs()).reshape(-1, width).sum(0)
        slacks = [slack_y, slack_z, slack_x, slack_u, slack_k, slack_parameter, slack_parameter]
        for name, actual, exact, slack in zip("yzxukwb", found, expected, slacks, strict=False):
            assert actual.shape == (exact.shape or (1,)), name
            tiny = torch.finfo(actual.dtype).smallest_normal
            bound = 1.01 * rounding(actual.dtype, actual.device) * exact.abs() + 2 * slack + tiny
            # beyond the largest number of a format, infinity is the rounded result
            off = ~((actual.double() - exact).abs() <= bound)
            off &= ~(actual.isinf() & (exact.abs() > torch.finfo(actual.dtype).max))
            assert not off.any(), (
                f"{name}: {actual[off][:4].tolist()} instead of {exact.expand_as(off)[off][:4].tolist()}"
            )


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients(shape, pair, kernel_device) -> None:
    Case(shape, pair, kernel_device, "layer", affine=True, strength=0.7).check()
    Case(shape, pair, kernel_device, "rms", affine=False).check()


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("shape", [(70, 33), (3, 2, 1000)])
@pytest.mark.parametrize(("kind", "affine"), [("layer", False), ("rms", True)])
def test_norms_with_and_without_parameters(kind, affine, shape, kernel_device) -> None:
    for pair in PAIRS[:2]:
        Case(shape, pair, kernel_device, kind, affine, strength=0.7).check()


@pytest.mark.usefixtures("poisoned")
def test_the_widest(kernel_device) -> None:
    Case((2, WIDEST), PAIRS[0], kernel_device, affine=False).check()
    Case((2, WIDEST_WITH_PARAMETERS), PAIRS[0], kernel_device).check()


@pytest.mark.usefixtures("poisoned")
@settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_any_shape_dtype_and_scale(kernel_device, data: st.DataObject) -> None:
    shape = (*data.draw(st.lists(st.integers(1, 9), max_size=3)), data.draw(st.integers(2, 70)))
    pair = data.draw(st.sampled_from(PAIRS))
    scales = [1e-4, 1e-2, 1.0, 30.0, 1e3 if torch.float16 in pair else 1e4]
    dtypes = [None, torch.bfloat16, torch.float16] if pair[0] == torch.float32 else [None]
    Case(
        shape,
        pair,
        kernel_device,
        kind=data.draw(st.sampled_from(["layer", "rms"])),
        affine=data.draw(st.booleans()),
        strength=data.draw(st.sampled_from([1.0, 0.3, 0.0, -0.5])),
        dtype=data.draw(st.sampled_from(dtypes)),
        scale=data.draw(st.sampled_from(scales)),
        seed=data.draw(st.integers(0, 9)),
    ).check(use_y=data.draw(st.booleans()))


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("kind", ["layer", "rms"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_output_that_nobody_used(dtype, kind, kernel_device) -> None:
    for used in ({"use_y": False}, {"use_z": False}):
        case = Case((9, 48), (dtype, dtype), kernel_device, kind, strength=0.7)
        if "use_z" in used:
            # The norm has no part in it, and its parameters no gradient.
            case.weight = case.bias = None
        case.check(**used)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("kind", ["layer", "rms"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_zero_streams_and_zero_updates(dtype, kind, kernel_device) -> None:
    case = Case((6, 40), (dtype, dtype), kernel_device, kind)
    case.x[0] = 0
    case.check()
    case.x.zero_()
    case.check()
    assert torch.equal(case.run()[0], case.u)
    case = Case((6, 40), (dtype, dtype), kernel_device, kind)
    case.u.zero_()
    case.check()
    assert torch.equal(case.run()[0], case.x)
    case.x.zero_()
    assert all(each.isfinite().all() for each in case.run())


@pytest.mark.usefixtures("poisoned")
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("kind", ["layer", "rms"])
def test_without_eps_what_lies_beyond_the_last_vector_stays_out_of_the_sums(kind, kernel_device) -> None:
    """Places of a tile without a vector have a scale of infinity there."""
    x, u = (each.to(kernel_device) for each in random_pair((3, 16), PAIRS[0]))
    leaves = [torch.tensor(0.7, device=kernel_device), torch.rand(16, device=kernel_device)]
    with forced("triton"):
        y, z = orthogonal_update_norm(
            x,
            u,
            eps=0.0,
            strength=leaves[0].requires_grad_(),
            norm=kind,
            weight=leaves[1].requires_grad_(),
            norm_eps=0.0,
        )
        (y.sum() + z.square().sum()).backward()
    assert all(each.isfinite().all() for each in (y, z, *(leaf.grad for leaf in leaves)))


@pytest.mark.usefixtures("poisoned")
def test_strength_zero_is_the_plain_sum_bit_for_bit(kernel_device) -> None:
    case = Case((6, 40), PAIRS[2], kernel_device, strength=0.0)
    assert torch.equal(case.run()[0], case.x + case.u)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("pair", PAIRS[:2])
def test_gaps_broadcasts_and_other_orders_of_memory(pair, kernel_device) -> None:
    case = Case((4, 6, 16), pair, kernel_device)
    case.u, case.g_y, case.g_z = (
        case.u[:1].expand(4, 6, 16),
        case.g_y[:, :1].expand(4, 6, 16),
        case.g_z.mT.contiguous().mT,
    )
    case.check()
    case = Case((4, 6, 16), pair, kernel_device)
    case.x, case.u, case.g_y, case.g_z = (each[:, ::2] for each in (case.x, case.u, case.g_y, case.g_z))
    case.check()
    case = Case((4, 6, 16), pair, kernel_device)
    case.x, case.g_z = (each.transpose(0, 1).contiguous().transpose(0, 1) for each in (case.x, case.g_z))
    case.weight = case.weight.repeat_interleave(2)[::2]
    case.check()


@pytest.mark.parametrize("kind", ["layer", "rms"])
def test_equal_to_the_bit_from_run_to_run(kind, kernel_device) -> None:
    """More tiles than programs, so that each adds up several."""
    case = Case((40, 384), PAIRS[1], kernel_device, kind, strength=0.5)
    assert all(torch.equal(a, b) for a, b in zip(case.run(), case.run(), strict=True))


def in_turn(x: Tensor, u: Tensor, kind: str, weight=None, bias=None, dtype=None, **options) -> tuple[Tensor, Tensor]:
    y = orthogonal_update(x, u, **options)
    if kind == "layer":
        z = functional.layer_norm(y, y.shape[-1:], weight, bias)
    else:
        z = functional.rms_norm(y, y.shape[-1:], weight)
    return y, z if dtype is None else z.to(dtype)


@pytest.mark.parametrize("kind", ["layer", "rms"])
@pytest.mark.parametrize("scale", [1.0, 1e-4])
@pytest.mark.parametrize("pair", PAIRS)
def test_the_pair_equals_the_two_in_turn(pair, scale, kind, kernel_device) -> None:
    """Native norms with their own default eps, which counts where the stream is small."""
    x, u = (scale * each.to(kernel_device) for each in random_pair((33, 48), pair))
    g_y, g_z = (each.to(kernel_device) for each in random_pair((33, 48), (pair[0], pair[0]), seed=1))
    found = []
    for function in (orthogonal_update_norm, in_turn):
        leaves = [each.detach().requires_grad_() for each in (x, u)]
        with forced("triton"):
            y, z = function(*leaves, **({"norm": kind} if function is orthogonal_update_norm else {"kind": kind}))
            assert (z.grad_fn.name() == FUSED) == (function is orthogonal_update_norm)
            torch.autograd.backward((y, z), (g_y, g_z))
        found.append([y.detach(), z.detach(), *(leaf.grad for leaf in leaves)])
    step = {torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}[pair[0]]
    for actual, expected in zip(*found, strict=True):
        size = expected.double().abs().max().item()
        # the two in turn round the gradient of y once more
        torch.testing.assert_close(actual.double(), expected.double(), rtol=step, atol=step * size)


def test_keeps_the_stream_before_and_after_and_one_number_a_vector(kernel_device) -> None:
    case, kept = Case((6, 40), PAIRS[0], kernel_device), []
    x, u = case.x.requires_grad_(), case.u.requires_grad_()

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with forced("triton"), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        y, _ = orthogonal_update_norm(x, u)
    assert sorted(each.numel() for each in kept) == [6, 240, 240]
    assert {each.data_ptr() for each in kept} >= {x.data_ptr(), y.data_ptr()}


# What the plain path does, and when the kernels stand back.


@pytest.mark.parametrize("kind", ["layer", "rms"])
@pytest.mark.parametrize("pair", [*PAIRS, (torch.float64, torch.float64)])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float64])
def test_away_from_kernels_it_is_the_two_in_turn_bit_for_bit(pair, dtype, kind) -> None:
    x, u = random_pair((5, 24), pair)
    weight, bias = random_pair((24,), (pair[0], pair[0]), seed=2)
    parameters = {"weight": weight, "bias": bias if kind == "layer" else None}
    for context in (torch.autocast("cpu", torch.bfloat16), torch.autocast("cpu", enabled=False)):
        for scale in (1.0, 1e-4):
            with context:
                found = orthogonal_update_norm(scale * x, scale * u, norm=kind, dtype=dtype, **parameters)
                expected = in_turn(scale * x, scale * u, kind, dtype=dtype, **parameters)
            assert all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("kind", ["layer", "rms"])
def test_derivatives_of_the_plain_path(kind) -> None:
    x, u = random_pair((3, 5))
    weight, bias = random_pair((5,), seed=2)
    inputs = [each.requires_grad_() for each in (x, u, weight, torch.tensor(0.7).double())]
    if kind == "layer":
        inputs.append(bias.requires_grad_())

    def pair(x: Tensor, u: Tensor, weight: Tensor, k: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return orthogonal_update_norm(x, u, strength=k, norm=kind, weight=weight, bias=bias)

    assert gradcheck(pair, inputs)
    assert gradgradcheck(pair, inputs)


@pytest.mark.parametrize("kind", ["layer", "rms"])
@pytest.mark.parametrize("shape", [(3, 4, 5), (5,)])
def test_closed_form_of_the_derivatives(shape, kind) -> None:
    """In float64, where the kernels' formula has to agree with autograd to the last digits."""
    x, u = (each.requires_grad_() for each in random_pair(shape))
    weight, bias = (each.requires_grad_() for each in random_pair(shape[-1:], seed=2))
    k = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    g_y, g_z = random_pair(shape, seed=1)
    y = exact_update(x, u, -1, EPS, k)
    z = exact_norm(y, kind, weight, bias if kind == "layer" else None)
    parameters = [weight, bias] if kind == "layer" else [weight]
    expected = torch.autograd.grad((y, z), [x, u, k, *parameters], (g_y, g_z))
    coefficient = (x * u).sum(-1, keepdim=True) / ((x * x).sum(-1, keepdim=True) + EPS)
    kept = Kept(x, y, coefficient, True, torch.float64)
    norm = Norm(kind, NORM_EPS, weight, bias if kind == "layer" else None)
    found = closed_form.backward(g_y, g_z, None, kept, Rule(-1, EPS, False, k), norm, (True, True, kind == "layer"))
    for actual, exact in zip(found, expected, strict=False):
        torch.testing.assert_close(actual, exact, rtol=1e-12, atol=1e-12)
    assert (found.bias is None) == (kind == "rms")


@pytest.mark.parametrize("kind", ["layer", "rms"])
def test_second_derivatives_and_transforms_leave_the_kernels(kind, kernel_device) -> None:
    case = Case((3, 8), PAIRS[0], kernel_device, kind, strength=0.7)

    def second(*leaves: Tensor) -> tuple[Tensor, ...]:
        x, u, k, weight = leaves
        y, z = orthogonal_update_norm(x, u, strength=k, norm=kind, weight=weight, norm_eps=NORM_EPS)
        assert (z.grad_fn.name() == FUSED) == (x.dtype == torch.float32)
        first = torch.autograd.grad(y.sin().sum() + z.sin().sum(), leaves, create_graph=True)
        return torch.autograd.grad(sum(each.square().sum() for each in first), leaves)

    operands = [case.x, case.u, case.strength, case.weight]
    with forced("triton"):
        found = second(*(each.detach().requires_grad_() for each in operands))
        mapped = torch.func.vmap(lambda x, u: orthogonal_update_norm(x, u, norm=kind))(case.x, case.u)
    expected = second(*(each.detach().double().requires_grad_() for each in operands))
    for actual, exact in zip(found, expected, strict=True):
        size = exact.abs().max().item()
        torch.testing.assert_close(actual.double(), exact, rtol=1e-4, atol=1e-4 * size)
    for actual, exact in zip(mapped, in_turn(case.x, case.u, kind), strict=True):
        torch.testing.assert_close(actual, exact, rtol=1e-5, atol=1e-5)


def test_a_batch_of_gradients_leaves_the_kernels(kernel_device) -> None:
    case = Case((3, 8), PAIRS[0], kernel_device)
    x = case.x.requires_grad_()
    directions = torch.eye(24, device=kernel_device).reshape(24, 3, 8)
    with forced("triton"):
        _, z = orthogonal_update_norm(x, case.u)
        (found,) = torch.autograd.grad(z, x, directions, is_grads_batched=True, retain_graph=True)
        expected = torch.stack([torch.autograd.grad(z, x, each, retain_graph=True)[0] for each in directions])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda x, o: (x.transpose(1, 2), o | {"dim": 1, "weight": None}), id="other-axis"),
        pytest.param(lambda x, o: (x, o | {"dim": (1, 2)}), id="two-axes"),
        pytest.param(lambda x, o: (x.mT.contiguous().mT, o), id="features-not-in-one-piece"),
        pytest.param(lambda x, o: (x.repeat(1, 1, WIDEST // 24 + 1), {}), id="too-wide"),
        pytest.param(lambda x, o: (x.repeat(1, 1, 342), {"weight": torch.ones(342 * 24)}), id="too-wide-with-weight"),
        pytest.param(lambda x, o: (x[:0], o), id="no-vectors"),
        pytest.param(lambda x, o: (x.bfloat16(), o), id="weight-of-another-dtype"),
        pytest.param(lambda x, o: (x.bfloat16(), {"dtype": torch.float32}), id="half-norm-in-float32"),
        pytest.param(lambda x, o: (x, o | {"dtype": torch.float64}), id="float64-norm"),
    ],
)
def test_operands_that_go_in_turn(change, kernel_device) -> None:
    x, options = change(random_pair((2, 3, 24), PAIRS[0])[0], {"weight": torch.rand(24)})
    if kernel_device.type == "cuda" and x.dtype == torch.bfloat16 and "weight" in options:
        pytest.skip("native norms on CUDA refuse a weight of another dtype")
    options = {name: each.to(kernel_device) if isinstance(each, Tensor) else each for name, each in options.items()}
    x = x.to(kernel_device)
    u = torch.randn_like(x)
    with forced("triton"):
        y, z = orthogonal_update_norm(x.requires_grad_(), u, **options)
        expected = in_turn(x, u, "layer", **options)
    assert FUSED not in (y.grad_fn.name(), z.grad_fn.name(), z.grad_fn.next_functions[0][0].name())
    assert torch.equal(y, expected[0])
    assert torch.equal(z, expected[1])


def test_norms_under_autocast_have_the_dtype_of_the_norm_in_turn(kernel_device) -> None:
    x, u = (each.to(kernel_device) for each in random_pair((3, 16), PAIRS[1]))
    # Autocast widens parameters on CUDA only.
    weight = torch.rand(16, device=kernel_device, dtype=torch.float32 if x.is_cuda else x.dtype)
    with torch.autocast(kernel_device.type, torch.bfloat16):
        for kind in ("layer", "rms"):
            expected = in_turn(x, u, kind, weight)
            with forced("triton"):
                found = orthogonal_update_norm(x.requires_grad_(), u, norm=kind, weight=weight)
            assert found[1].grad_fn.name() == FUSED
            for actual, exact in zip(found, expected, strict=True):
                assert actual.dtype == exact.dtype
                torch.testing.assert_close(actual, exact.detach(), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("kind", ["layer", "rms"])
def test_compiles_to_one_graph(kind) -> None:
    torch._dynamo.reset()
    x, u = random_pair((3, 16), PAIRS[0])
    dial = torch.ones(())
    compiled = torch.compile(orthogonal_update_norm, fullgraph=True, backend="aot_eager")
    for actual, expected in zip(
        compiled(x, u, strength=dial, norm=kind, dtype=torch.bfloat16),
        in_turn(x, u, kind, strength=dial, dtype=torch.bfloat16),
        strict=True,
    ):
        assert actual.dtype == expected.dtype
        torch.testing.assert_close(actual, expected, rtol=1e-2 if actual.dtype == torch.bfloat16 else 1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["reference", "triton"])
def test_refuses_what_makes_no_sense(name, kernel_device) -> None:
    x = torch.ones(2, 3, device=kernel_device)
    with forced(name):
        with pytest.raises(ValueError, match="unknown norm 'layr': did you mean layer"):
            orthogonal_update_norm(x, x, norm="layr")
        with pytest.raises(ValueError, match="an RMSNorm has no bias, got one of float32"):
            orthogonal_update_norm(x, x, norm="rms", bias=x[0])
        with pytest.raises(ValueError, match="must have one shape"):
            orthogonal_update_norm(x, x[:1])
        with pytest.raises(ValueError, match="must be >= 0"):
            orthogonal_update_norm(x, x, eps=-1.0)
        with pytest.raises(ValueError, match="distinct axes"):
            orthogonal_update_norm(x, x, dim=2)
        with pytest.raises(ValueError, match="tensor of one element"):
            orthogonal_update_norm(x, x, strength=x[:, 0])
        with pytest.raises(RuntimeError, match="weight"):
            orthogonal_update_norm(x, x, weight=x[0, :2])
    with forced("triton"), pytest.raises(KernelError, match="float64"):
        orthogonal_update_norm(x.double(), x.double())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
def test_beyond_two_to_the_31_elements() -> None:
    """The last vectors lie beyond what 32-bit offsets reach, and must come out as they do alone."""
    shape = (2**31 // 1024 + 3, 1024)
    x, u, g = (torch.randn(shape, dtype=torch.bfloat16, device="cuda") for _ in range(3))
    ends = []
    for part in (slice(None), slice(-4, None)):
        leaves = [each[part].requires_grad_() for each in (x.detach(), u.detach())]
        outputs = orthogonal_update_norm(*leaves)
        ends.append([each[-4:].clone() for each in (*outputs, *torch.autograd.grad(outputs, leaves, [g[part]] * 2))])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))
