"""The update on a CPU, some vectors at a time: against float64 and against the closed form, feature by feature."""

from concurrent.futures import ThreadPoolExecutor
from types import ModuleType

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck
from torch.utils._python_dispatch import TorchDispatchMode

from ops.exact import AXES, PAIRS, assert_rounded, exact_gradients, exact_update, random_pair
from orthostream.ops.orthogonal_update import blocked, closed_form
from orthostream.ops.orthogonal_update.autograd import OrthogonalUpdate
from orthostream.ops.orthogonal_update.closed_form import Gradients, Kept, keeps_result
from orthostream.ops.orthogonal_update.reference import Rule

NONE, ALL = (False, False, False), (True, True, True)
# Besides those of every implementation: pieces of a map with a rest, and a last block that is smaller.
LAYOUTS = [*AXES, ((2, 3, 5, 16), 1), ((3, 2, 9, 9), 1), ((7, 33), -1), ((1, 6, 3), (0, 1))]


@pytest.fixture(params=[1, 20, 100, blocked.BLOCK], autouse=True)
def _block(request, monkeypatch, poisoned) -> None:
    """Blocks of one vector or some pixels, of several vectors, of everything; fresh memory holds NaN."""
    monkeypatch.setattr(blocked, "BLOCK", request.param)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)


@pytest.fixture(autouse=True)
def _as_below_autograd():
    with torch.no_grad():
        yield


@pytest.fixture
def alone(monkeypatch) -> None:
    """The closed form is out of reach, so that nothing is compared with itself."""
    monkeypatch.setattr(blocked, "closed_form", None)


def both_ways(
    engine: ModuleType, x: Tensor, u: Tensor, g: Tensor, rule: Rule, wants: tuple[bool, bool, bool] = NONE
) -> tuple[Tensor, Tensor, Gradients]:
    y, s = engine.forward(x, u, rule)
    is_result = keeps_result(rule)
    return y, s, engine.backward(g, Kept(x, y if is_result else u, s, is_result, u.dtype), rule, wants)


def assert_equal_to_rounding(found: tuple, expected: tuple) -> None:
    """Equal but for float32 arithmetic in another order, and then for the border between two halves."""
    flat = [[*y_and_s, *(t for t in gradients if t is not None)] for *y_and_s, gradients in (found, expected)]
    for tensor, other in zip(*flat, strict=True):
        assert tensor.dtype == other.dtype
        assert tensor.shape == other.shape
        step = torch.finfo(tensor.dtype).eps
        # coefficients and sums of some hundred products of order one
        slack = 1e-12 if tensor.dtype == torch.float64 else 2e-5
        torch.testing.assert_close(tensor, other, rtol=2 * step, atol=slack)


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize(("shape", "dim"), LAYOUTS)
@pytest.mark.parametrize("pair", PAIRS)
def test_is_the_exact_value_rounded_once(pair, shape, dim) -> None:
    x, u = random_pair(shape, pair)
    g = random_pair(shape, pair, seed=1)[0]
    y, s, gradients = both_ways(blocked, x, u, g, Rule(dim))
    with torch.enable_grad():
        exact_x, exact_u = exact_gradients(x, u, g, dim)
    assert_rounded(y, exact_update(x, u, dim), slack=2e-6)
    assert_rounded(gradients.update, exact_u, slack=4e-6)
    assert s.dtype == torch.promote_types(torch.promote_types(*pair), torch.float32)
    if pair[0].itemsize > 2:  # otherwise the rounding of y comes in; compared with the closed form below
        assert_rounded(gradients.x, exact_x, slack=8e-6)


@pytest.mark.parametrize("eps_and_clamp", [(1e-6, False), (1e-6, True), (5.0, True), (0.5, False)])
@pytest.mark.parametrize(
    "weights",
    [
        (1.0, 1.0, 1.0),
        (0.3, 1.2, 1.0),
        (0.3, 1.2, 0.0),
        (torch.tensor(0.3), torch.tensor(1.2, dtype=torch.float64), torch.tensor(0.8)),
        (torch.tensor(0.3, dtype=torch.bfloat16), 1.2, -0.8),
    ],
)
@pytest.mark.parametrize("pair", PAIRS[:5])
def test_every_rule_is_that_of_the_closed_form(pair, weights, eps_and_clamp) -> None:
    for shape, dim in (((7, 33), -1), ((2, 6, 4, 3), 1), ((2, 3, 5, 16), 1), ((2, 6, 4, 3), (1, 2, 3))):
        x, u = random_pair(shape, pair)
        g = random_pair(shape, pair, seed=1)[0]
        rule = Rule(dim, *eps_and_clamp, *weights)
        assert_equal_to_rounding(*(both_ways(engine, x, u, g, rule, ALL) for engine in (blocked, closed_form)))


def test_a_bound_on_the_norm_holds_for_some_vectors_of_a_block() -> None:
    x, u = random_pair((8, 6))
    x[::2] *= 0.1
    rule = Rule(-1, 1.0, True)
    inside = (x * x).sum(-1) < 1
    assert inside.any() and not inside.all()
    g = random_pair((8, 6), seed=1)[0]
    assert_equal_to_rounding(*(both_ways(engine, x, u, g, rule) for engine in (blocked, closed_form)))


@pytest.mark.parametrize("wants", [NONE, (True, False, False), (False, True, False), (False, False, True)])
@pytest.mark.parametrize("update_weight", [1.0, torch.tensor(1.0)])
def test_only_wanted_weights_get_a_gradient(wants, update_weight) -> None:
    x, u = random_pair((7, 33))
    g = random_pair((7, 33), seed=1)[0]
    rule = Rule(update_weight=update_weight)
    if keeps_result(rule) and wants[1]:
        pytest.skip("a weight without a tensor asks for nothing")
    found, expected = (both_ways(engine, x, u, g, rule, wants) for engine in (blocked, closed_form))
    assert tuple(gradient is not None for gradient in found[2][2:]) == wants
    assert_equal_to_rounding(found, expected)


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("pair", PAIRS[1:5])
@pytest.mark.parametrize("length", [33, blocked.NORM + 1])
def test_zero_vectors_give_and_take_the_whole(pair, length) -> None:
    x, u = random_pair((3, length), pair)
    x[1] = 0
    g = random_pair((3, length), pair, seed=1)[0]
    y, s, gradients = both_ways(blocked, x, u, g, Rule())
    assert torch.equal(y[1], u[1].to(y.dtype))
    assert s[1].item() == 0
    assert torch.equal(gradients.x[1], g[1])
    assert torch.equal(gradients.update[1], g[1].to(u.dtype))


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_norm_longer_than_one_pass_is_as_exact(dtype) -> None:
    length = 2**20
    x, u = random_pair((2, length), (dtype, dtype))
    g = random_pair((2, length), (dtype, dtype), seed=1)[0]
    y, _, gradients = both_ways(blocked, x, u, g, Rule())
    with torch.enable_grad():
        exact_x, exact_u = exact_gradients(x, u, g, -1)
    for tensor, exact in ((y, exact_update(x, u, -1)), (gradients.x, exact_x), (gradients.update, exact_u)):
        assert_rounded(tensor, exact, slack=1e-6)


@pytest.mark.parametrize(("shape", "dim"), [((2, 3, 4), -1), ((2, 3, 2, 2), 1), ((2, 3, 2, 2), (1, 2, 3))])
@pytest.mark.parametrize("clamp", [False, True])
def test_derivatives(shape, dim, clamp) -> None:
    weights = [torch.tensor(value, dtype=torch.float64) for value in (0.4, 1.3, 0.7)]
    inputs = [tensor.requires_grad_() for tensor in (*random_pair(shape), *weights)]
    with torch.enable_grad():
        assert gradcheck(lambda *tensors: OrthogonalUpdate.apply(*tensors, dim, 1e-3, clamp, blocked)[0], inputs)
        assert gradcheck(
            lambda x, u: OrthogonalUpdate.apply(x, u, 1.0, 1.0, 1.0, dim, 1e-3, clamp, blocked)[0], inputs[:2]
        )


# Layouts of memory.


def permuted(tensor: Tensor, order: tuple[int, ...]) -> Tensor:
    """Equal to ``tensor``, with its axes in memory in another order."""
    back = sorted(range(tensor.ndim), key=order.__getitem__)
    return tensor.permute(order).contiguous().permute(back)


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("dim", [1, (1, 2, 3), (2, 3)])
@pytest.mark.parametrize("order", [(0, 2, 3, 1), (0, 1, 3, 2), (1, 0, 2, 3)])
@pytest.mark.parametrize("pair", [PAIRS[1], PAIRS[4]])
def test_results_lie_like_the_stream(pair, order, dim) -> None:
    if dim == (1, 2, 3) and order == (1, 0, 2, 3):
        pytest.skip("samples lie in several pieces")
    x, u = random_pair((2, 6, 5, 7), pair)
    g = random_pair((2, 6, 5, 7), pair, seed=1)[0]
    like = permuted(x, order)
    one = g[:1, :1, :1, :1].expand(g.shape)
    for update, grad in ((u, g), (permuted(u, order), permuted(g, order)), (u, one)):
        found = both_ways(blocked, like, update, grad, Rule(dim))
        assert_equal_to_rounding(found, both_ways(closed_form, x, u, grad.contiguous(), Rule(dim)))
        for tensor in (found[0], found[2].x, found[2].update):
            assert tensor.stride() == like.stride()


@pytest.mark.usefixtures("alone")
def test_operands_with_an_offset_and_gaps_in_the_update() -> None:
    storage, _ = random_pair((3, 7, 33))
    x, u, g = storage[1], random_pair((7, 66))[0][:, ::2], random_pair((33, 7), seed=1)[0].t()
    found = both_ways(blocked, x, u, g, Rule())
    assert_equal_to_rounding(found, both_ways(closed_form, x, u, g, Rule()))


@pytest.mark.parametrize(
    ("make", "dim"),
    [
        (lambda t: t[:, ::2], -1),  # gaps
        (lambda t: t[:, :1].expand(t.shape), -1),  # one number in several places
        (lambda t: t, (0, 2)),  # axes that are not neighbours
        (lambda t: t[:0], -1),
        (lambda t: t[..., :0], -1),
    ],
)
def test_the_closed_form_takes_over(make, dim) -> None:
    x, u = (make(tensor) for tensor in random_pair((3, 4, 5)))
    g = make(random_pair((3, 4, 5), seed=1)[0])
    found, expected = (both_ways(engine, x, u, g, Rule(dim), (True, False, True)) for engine in (blocked, closed_form))
    assert_equal_to_rounding(found, expected)


@pytest.mark.usefixtures("alone")
def test_vectors_of_one_number() -> None:
    x, u = random_pair((2, 1, 5))
    g = random_pair((2, 1, 5), seed=1)[0]
    found, expected = (both_ways(engine, x, u, g, Rule(1)) for engine in (blocked, closed_form))
    # each divides by its own square
    for tensor, other in zip((*found[:2], *found[2][:2]), (*expected[:2], *expected[2][:2]), strict=True):
        torch.testing.assert_close(tensor, other, rtol=1e-8, atol=1e-8)


# What the blocks are for.


class Allocations(TorchDispatchMode):
    """Keeps what operations return, so that no two of them can share memory by chance."""

    def __init__(self) -> None:
        super().__init__()
        self.tensors: list[Tensor] = []

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        for tensor in result if isinstance(result, list | tuple) else [result]:
            if isinstance(tensor, Tensor):
                self.tensors.append(tensor)
        return result

    def of_at_least(self, elements: int, *known: Tensor) -> int:
        """Storages of so many elements of float16, beside the known ones."""
        storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage() for tensor in self.tensors}
        old = {tensor.untyped_storage().data_ptr() for tensor in known}
        return sum(storage.nbytes() >= 2 * elements for place, storage in storages.items() if place not in old)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("shape", "dim"),
    [((64, 33), -1), ((8, 6, 5, 16), 1), ((2, 6, 20, 16), 1), ((8, 6, 5, 16), (1, 2, 3))],
)
def test_nothing_of_full_size_is_made_but_the_results(dtype, shape, dim, monkeypatch) -> None:
    monkeypatch.setattr(blocked, "BLOCK", 500)
    x, u = random_pair(shape, (dtype, dtype))
    g = random_pair(shape, (dtype, dtype), seed=1)[0]
    with Allocations() as forward:
        y, s = blocked.forward(x, u, Rule(dim))
    assert forward.of_at_least(x.numel(), x, u) == 1
    with Allocations() as backward:
        blocked.backward(g, Kept(x, y, s, True, dtype), Rule(dim), NONE)
    assert backward.of_at_least(x.numel(), x, y, g) == 2


def test_repeats_to_the_bit_also_from_several_threads() -> None:
    x, u = random_pair((2, 6, 5, 16), (torch.bfloat16, torch.float32))
    g = random_pair((2, 6, 5, 16), (torch.bfloat16,) * 2, seed=1)[0]

    def run(_: int) -> tuple[Tensor, ...]:
        with torch.no_grad():
            y, s, gradients = both_ways(blocked, x, u, g, Rule(1, strength=0.5), (True, False, True))
        return y, s, *(tensor for tensor in gradients if tensor is not None)

    first = run(0)
    with ThreadPoolExecutor(4) as pool:
        for again in pool.map(run, range(16)):
            assert all(torch.equal(tensor, other) for tensor, other in zip(again, first, strict=True))
