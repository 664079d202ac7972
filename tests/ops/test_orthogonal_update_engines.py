"""The orthogonal update under torch.compile, export, autocast and checkpointing."""

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils.checkpoint import checkpoint

from ops.exact import PAIRS, assert_rounded, exact_update, random_pair
from orthostream.ops import decompose, orthogonal_update


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def site(x: Tensor, u: Tensor, strength: float | Tensor = 1.0) -> Tensor:
    """The update between neighbours that a compiler may fuse it with."""
    return orthogonal_update(2 * x, u.tanh(), strength=strength).sin()


def run(function, x: Tensor, u: Tensor, *rest) -> tuple[Tensor, Tensor, Tensor]:
    x, u = (tensor.detach().clone().requires_grad_() for tensor in (x, u))
    y = function(x, u, *rest)
    return y.detach(), *torch.autograd.grad(y.square().sum(), (x, u))


@pytest.mark.parametrize("pair", PAIRS[:6])
def test_compiles_to_one_graph_with_equal_values_and_gradients(pair) -> None:
    compiled = torch.compile(site, fullgraph=True, backend="aot_eager")
    x, u = random_pair((3, 5, 16), pair)
    # The same sums in another order: some units in the last place, of float32 at best.
    scale = 8 * torch.finfo(pair[0]).eps
    for found, expected in zip(run(compiled, x, u), run(site, x, u), strict=True):
        torch.testing.assert_close(found, expected, rtol=scale, atol=max(scale, 1e-14))


@pytest.mark.parametrize("pair", [PAIRS[1], PAIRS[2]])
def test_inductor_gives_equal_values_and_gradients(pair) -> None:
    compiled = torch.compile(site, fullgraph=True)
    x, u = random_pair((3, 5, 16), pair)
    scale = 8 * torch.finfo(pair[0]).eps
    for found, expected in zip(run(compiled, x, u), run(site, x, u), strict=True):
        torch.testing.assert_close(found, expected, rtol=scale, atol=scale)


def test_a_dial_turns_without_a_new_graph() -> None:
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(site, fullgraph=True, backend=counter)
    x, u = random_pair((3, 16))
    dial = torch.ones(())
    for strength in torch.linspace(0, 1, 20).tolist():
        dial.fill_(strength)
        exact = exact_update(2 * x, u.tanh(), -1, strength=dial.item()).sin()
        torch.testing.assert_close(compiled(x, u, dial), exact, rtol=1e-12, atol=1e-12)
    assert counter.frame_count == 1


def test_strength_zero_is_the_plain_sum_bit_for_bit_when_compiled() -> None:
    compiled = torch.compile(orthogonal_update, fullgraph=True, backend="aot_eager")
    for pair in PAIRS[:4]:
        x, u = random_pair((3, 16), pair)
        assert torch.equal(compiled(x, u, strength=torch.zeros(())), x + u)


def test_batches_of_any_size_share_one_dynamic_graph() -> None:
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(site, fullgraph=True, backend=counter)
    for batch in (4, 7, 2, 9, 31):
        x, u = random_pair((batch, 5, 16), (torch.float32, torch.float32))
        for found, expected in zip(run(compiled, x, u), run(site, x, u), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    # one for the first size, one for all others
    assert counter.frame_count == 2


def test_learned_strength_compiles() -> None:
    compiled = torch.compile(site, fullgraph=True, backend="aot_eager")
    x, u = random_pair((3, 16))
    gradients = []
    for function in (compiled, site):
        strength = torch.tensor([0.3], dtype=torch.float64, requires_grad=True)
        function(x, u, strength).square().sum().backward()
        gradients.append(strength.grad)
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("strict", [False, True])
def test_exports(strict) -> None:
    class Module(torch.nn.Module):
        def forward(self, x: Tensor, u: Tensor) -> Tensor:
            return orthogonal_update(x, u) + decompose(x, u)[1]

    batch = torch.export.Dim("batch")
    shapes = {"x": {0: batch}, "u": {0: batch}}
    program = torch.export.export(Module(), random_pair((3, 5)), dynamic_shapes=shapes, strict=strict)
    x, u = random_pair((8, 5), seed=1)
    torch.testing.assert_close(program.module()(x, u), Module()(x, u), rtol=1e-13, atol=1e-13)


def test_arithmetic_stays_float32_under_autocast() -> None:
    x, u = random_pair((3, 5, 16), (torch.float32, torch.bfloat16))
    plain = run(orthogonal_update, x, u)
    with torch.autocast("cpu", torch.bfloat16):
        cast = run(orthogonal_update, x, u)
        pieces = decompose(x, u)
    for found, expected in zip(cast, plain, strict=True):
        assert found.dtype == expected.dtype
        assert torch.equal(found, expected)
    assert_rounded(cast[0], exact_update(x, u, -1))
    for found, expected in zip(pieces, decompose(x, u), strict=True):
        assert torch.equal(found, expected)


def test_checkpointing_repeats_it() -> None:
    x, u = random_pair((3, 5, 16))
    for found, expected in zip(
        run(lambda *a: checkpoint(site, *a, use_reentrant=False), x, u), run(site, x, u), strict=True
    ):
        assert torch.equal(found, expected)


def test_no_graph_is_kept_without_gradients() -> None:
    x, u = (tensor.requires_grad_() for tensor in random_pair((3, 16)))
    with torch.no_grad():
        assert not orthogonal_update(x, u).requires_grad
    with torch.inference_mode():
        assert torch.equal(orthogonal_update(x, u), orthogonal_update(x.detach(), u.detach()))
