"""The registered operator: what torch asks of one, and its place under compilers."""

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from ops.exact import random_pair
from orthostream.ops import forced, orthogonal_update
from orthostream.ops.orthogonal_update import registered
from orthostream.ops.orthogonal_update.reference import Rule, reference

CASES = [
    ((3, 5, 16), [-1], torch.contiguous_format),
    ((2, 6, 4, 3), [1], torch.contiguous_format),
    ((2, 6, 4, 3), [1], torch.channels_last),
    ((2, 6, 4, 3), [1, 2, 3], torch.contiguous_format),
    ((2, 6, 4, 3), [1, 3], torch.contiguous_format),
]


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def operands(shape, layout, pair=(torch.float32, torch.float32)) -> list[Tensor]:
    return [tensor.contiguous(memory_format=layout).requires_grad_() for tensor in random_pair(shape, pair)]


@pytest.mark.parametrize("weights", [(), (0.5,), (0.5, 1.5, -0.3)])
@pytest.mark.parametrize(("shape", "dim", "layout"), CASES)
def test_passes_the_checks_of_torch(shape, dim, layout, weights) -> None:
    tensors = [torch.tensor([weight], requires_grad=True) for weight in weights]
    for pair in ((torch.float32, torch.float32), (torch.bfloat16, torch.float32)):
        arguments = (*operands(shape, layout, pair), dim, 1e-6, False, *tensors)
        torch.library.opcheck(torch.ops.orthostream.orthogonal_update.default, arguments)


def test_passes_them_on_streams_with_gaps_and_transposed_ones() -> None:
    x, u = (tensor.requires_grad_() for tensor in random_pair((4, 6, 8), (torch.float32,) * 2))
    for a, b in ((x[:, ::2], u[:, ::2]), (x.transpose(0, 1), u.transpose(0, 1)), (x[:1].expand(4, 6, 8), u)):
        torch.library.opcheck(torch.ops.orthostream.orthogonal_update.default, (a, b, [-1], 1e-6, False))


def test_backward_passes_them_too(kernel_device) -> None:
    for implementation in ("closed_form", "triton"):
        x, u = (tensor.detach().to(kernel_device) for tensor in operands((3, 5, 16), torch.contiguous_format))
        with forced(implementation):
            y, s = registered.forward(x, u, [-1], 1e-6, False)
            arguments = (u, x, y, s, True, torch.float32, True, [-1], 1e-6, False, torch.ones(1, device=kernel_device))
            operator = torch.ops.orthostream.orthogonal_update_backward.default
            torch.library.opcheck(operator, arguments, test_utils=("test_schema", "test_faketensor"))


@pytest.mark.parametrize(("shape", "dim", "layout"), CASES[:4])
def test_compiled_with_kernels_it_is_one_opaque_node(shape, dim, layout, kernel_device) -> None:
    """Kernels that are asked for run inside a compiled graph, equal to the formula; batches share a dynamic one."""
    counter = CompileCounterWithBackend("aot_eager")

    def site(x: Tensor, u: Tensor, strength: Tensor, weight: Tensor) -> Tensor:
        return orthogonal_update(2 * x, u.tanh(), tuple(dim), strength=strength, stream_weight=weight).sin()

    compiled = torch.compile(site, fullgraph=True, backend=counter)
    weights = [torch.tensor(value, device=kernel_device) for value in (0.5, 1.5)]
    weights[1].requires_grad_()
    with forced("triton"):
        for batch in (2, 3, 5, 4):
            x, u = (
                tensor.detach().to(kernel_device).requires_grad_() for tensor in operands((batch, *shape[1:]), layout)
            )
            leaves = (x, u, weights[1])
            found = torch.autograd.grad(compiled(x, u, *weights).square().sum(), leaves)
            with forced("reference"):
                expected = torch.autograd.grad(site(x, u, *weights).square().sum(), leaves)
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert counter.frame_count == 2


def test_the_implementation_inside_is_that_of_the_operands() -> None:
    x, u = random_pair((3, 5), (torch.float64,) * 2)
    y, s = torch.ops.orthostream.orthogonal_update(x, u, [-1], 1e-6, False)
    torch.testing.assert_close(y, reference(x, u, Rule()), rtol=1e-13, atol=1e-13)
    assert s.shape == (3, 1)
