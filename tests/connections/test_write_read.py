"""``write_read`` equals the two verbs in turn, for every rule; what a rule fuses, nothing on the way is passed over."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from torch.nn.utils import parametrize

from connections.cases import AXIS, CASES, SHAPES, Case, stir
from orthostream import connections
from orthostream.analysis.record import record
from orthostream.connections import Connection
from orthostream.connections.orthogonal import Orthogonal
from orthostream.ops import forced
from orthostream.ops.autocast import autocast_dtype

FUSED = "OrthogonalUpdateNormBackward"
ROWS = [pytest.param(case, layout, id=f"{case}-{layout}") for case in CASES for layout in case.on]

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def operands(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, noise = (torch.randn(shape, dtype=torch.float64, generator=generator) for _ in range(2))
    return x.to(DEVICE, dtype).requires_grad_(), (0.4 * x + noise).to(DEVICE, dtype).requires_grad_()


def tensors_of(stream) -> list[Tensor]:
    if isinstance(stream, Tensor):
        return [stream]
    return [tensor for part in stream or () for tensor in tensors_of(part)]


def verbs(first: Connection, stream, update, note, second: Connection, norm, dtype=None):
    stream = first.write(stream, update, note)
    x, note = second.read(stream, norm)
    return stream, x if dtype is None else x.to(dtype), note


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize(("case", "layout"), ROWS)
def test_every_rule_writes_and_reads_as_the_two_verbs(case: Case, layout: str, dtype: torch.dtype | None) -> None:
    torch.manual_seed(0)
    first, second = (stir(case.make(layout)).to(DEVICE) for _ in range(2))
    norm = nn.LayerNorm(SHAPES[layout][-1], device=DEVICE)
    found = []
    for pair in (first.write_read, lambda *rest: verbs(first, *rest)):
        x, update = operands(SHAPES[layout])
        stream = first.expand(x)
        _, note = first.read(stream)
        outputs = tensors_of(pair(stream, update, note, second, norm, dtype))
        leaves = [x, update, *first.parameters(), *second.parameters(), *norm.parameters()]
        loss = sum(each.double().sin().sum() for each in outputs)
        found.append(outputs + list(torch.autograd.grad(loss, leaves, allow_unused=True)))
    for actual, expected in zip(*found, strict=True):
        assert (actual is None) == (expected is None)
        # on a device the pair is one kernel, and its sums have another order
        if actual is not None and DEVICE.type == "cuda":
            torch.testing.assert_close(actual, expected, rtol=2e-2 if dtype else 1e-5, atol=2e-2 if dtype else 1e-5)
        elif actual is not None:
            assert actual.dtype == expected.dtype
            assert torch.equal(actual, expected)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_only_parallel_streams_read_otherwise(case: Case) -> None:
    assert case.make(case.on[0]).reads_plainly == (case.name != "hyper_connections")


# What is fused.


def fused(x: Tensor) -> bool:
    return x.grad_fn.name() == FUSED


@pytest.mark.parametrize(
    "norm", [nn.LayerNorm(16), nn.LayerNorm(16, elementwise_affine=False), nn.RMSNorm(16)], ids=str
)
def test_write_and_norm_are_fused_where_kernels_run(norm) -> None:
    first, second = (connections.create("orthogonal", strength=0.7).to(DEVICE) for _ in range(2))
    norm = norm.to(DEVICE)
    with forced("triton"):
        for following in (second, connections.create("linear")):
            found = first.write_read(*operands((3, 5, 16)), None, following, norm)
            expected = verbs(first, *operands((3, 5, 16)), None, following, norm)
            assert fused(found[0])
            assert fused(found[1])
            assert found[2] is None
            torch.testing.assert_close(found[:2], expected[:2], rtol=1e-5, atol=1e-5)
        cast = first.write_read(*operands((3, 5, 16)), None, second, norm, torch.bfloat16)[1]
        assert fused(cast)
        assert cast.dtype == torch.bfloat16


def test_a_dial_acts_on_the_fused_pair() -> None:
    connection, norm = connections.create("orthogonal").to(DEVICE), nn.LayerNorm(16).to(DEVICE)
    connection.strength.fill_(0)
    x, update = operands((3, 16))
    with forced("triton"):
        stream, _, _ = connection.write_read(x, update, None, connection, norm)
    assert fused(stream)
    assert torch.equal(stream, x + update)


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


class Shifted(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 1


def with_forward_hook(norm: nn.LayerNorm) -> nn.Module:
    norm.register_forward_hook(lambda module, inputs, output: output + 1)
    return norm


def with_forward_pre_hook(norm: nn.LayerNorm) -> nn.Module:
    norm.register_forward_pre_hook(lambda module, inputs: (2 * inputs[0],))
    return norm


def with_backward_hook(norm: nn.LayerNorm) -> nn.Module:
    norm.register_full_backward_hook(lambda module, before, after: (2 * before[0],))
    return norm


def with_backward_pre_hook(norm: nn.LayerNorm) -> nn.Module:
    norm.register_full_backward_pre_hook(lambda module, after: (2 * after[0],))
    return norm


def with_parametrized_weight(norm: nn.LayerNorm) -> nn.Module:
    parametrize.register_parametrization(norm, "weight", Doubled())
    return norm


def with_own_forward(norm: nn.LayerNorm) -> nn.Module:
    norm.forward = lambda x: x + 1
    return norm


def of_another_type(norm: nn.LayerNorm) -> nn.Module:
    return Shifted(16).to(DEVICE)


def of_a_function(norm: nn.LayerNorm):
    return torch.tanh


def over_two_axes(norm: nn.LayerNorm) -> nn.Module:
    return nn.LayerNorm((5, 16)).to(DEVICE)


@pytest.mark.parametrize(
    "change",
    [
        *[with_forward_hook, with_forward_pre_hook, with_backward_hook, with_backward_pre_hook],
        *[with_parametrized_weight, with_own_forward, of_another_type, of_a_function, over_two_axes],
    ],
)
def test_what_stands_at_the_norm_is_not_passed_over(change) -> None:
    connection, norm = connections.create("orthogonal").to(DEVICE), change(nn.LayerNorm(16).to(DEVICE))
    found = []
    with forced("triton"):
        for pair in (connection.write_read, lambda *rest: verbs(connection, *rest)):
            stream, update = operands((3, 5, 16))
            _, x, _ = pair(stream, update, None, connection, norm)
            found.append((x, *torch.autograd.grad(x.square().sum(), (stream, update))))
    for actual, expected in zip(*found, strict=True):
        assert torch.equal(actual, expected)


def test_a_hook_on_all_modules_is_called() -> None:
    connection, norm, called = connections.create("orthogonal").to(DEVICE), nn.LayerNorm(16).to(DEVICE), []
    handle = register_module_forward_hook(lambda module, inputs, output: called.append(module))
    try:
        with forced("triton"):
            connection.write_read(*operands((3, 16)), None, connection, norm)
    finally:
        handle.remove()
    assert called == [norm]


def test_a_norm_of_another_width_is_refused_as_ever() -> None:
    connection, norm = connections.create("orthogonal").to(DEVICE), nn.LayerNorm(8, elementwise_affine=False)
    with forced("triton"), pytest.raises(RuntimeError, match="normalized_shape"):
        connection.write_read(*operands((3, 16)), None, connection, norm)


def test_a_rule_that_changes_a_verb_is_asked() -> None:
    class Tripled(Orthogonal):
        def write(self, stream, update, note=None):
            return stream + 3 * update

    connection, norm = Tripled().to(DEVICE), nn.LayerNorm(16).to(DEVICE)
    stream, update = operands((3, 16))
    with forced("triton"):
        assert torch.equal(connection.write_read(stream, update, None, connection, norm)[0], stream + 3 * update)


def test_a_rule_that_reads_otherwise_is_asked() -> None:
    class Reading(Orthogonal):
        def read(self, stream, norm=None):
            return norm(-stream), "note"

    first, second = connections.create("orthogonal").to(DEVICE), Reading().to(DEVICE)
    norm = nn.LayerNorm(16).to(DEVICE)
    with forced("triton"):
        stream, x, note = first.write_read(*operands((3, 16)), None, second, norm)
        assert torch.equal(x, norm(-stream))
    assert note == "note"


def test_a_recording_hears_the_write() -> None:
    connection, norm = connections.create("orthogonal").to(DEVICE), nn.LayerNorm(16).to(DEVICE)
    with forced("triton"):
        with record(connection) as recording:
            heard = connection.write_read(*operands((3, 16)), None, connection, norm)
        with record(connection) as by_verbs:
            verbs(connection, *operands((3, 16)), None, connection, norm)
        assert recording.table() == by_verbs.table()
        assert not fused(heard[1])
        assert fused(connection.write_read(*operands((3, 16)), None, connection, norm)[1])


def test_maps_and_global_products_go_in_turn() -> None:
    norm = nn.LayerNorm(16).to(DEVICE)
    site = connections.Site(axis=AXIS["maps"])
    for connection in (connections.create("orthogonal", site=site), connections.create("orthogonal", dim=(1, 2))):
        connection.to(DEVICE)
        with forced("triton"):
            assert not fused(connection.write_read(*operands((3, 5, 16)), None, connection, norm)[1])


def test_what_autocast_makes_of_the_input_of_a_linear_layer() -> None:
    for dtype, kind in ((torch.float32, torch.bfloat16), (torch.float64, torch.bfloat16), (torch.float32, None)):
        x = torch.ones(2, 3, dtype=dtype)
        with torch.autocast("cpu", kind, enabled=kind is not None):
            made = nn.functional.linear(x, torch.ones(3, 3, dtype=dtype))
            assert (autocast_dtype(x) or dtype) == made.dtype
    assert autocast_dtype(torch.ones(2, device="meta")) is None
