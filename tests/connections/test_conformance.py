"""The questions that every connection answers; ``cases.py`` holds the rows.

Tolerances are zero where the arithmetic is the same, and some units in the last place where only its order differs.
"""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from connections.cases import AXIS, CASES, FEATURES, SHAPES, Case, stir
from orthostream import connections
from orthostream.connections import Connection
from orthostream.errors import UsageError

ROWS = [pytest.param(case, layout, id=f"{case}-{layout}") for case in CASES for layout in case.on]
every_row = pytest.mark.parametrize(("case", "layout"), ROWS)
every_case = pytest.mark.parametrize("case", [pytest.param(case, id=str(case)) for case in CASES])


class OneSite(nn.Module):
    """A trunk with one site, whose update is given: the four verbs in their order."""

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self.connection = connection

    def forward(self, x: Tensor, update: Tensor) -> tuple[Tensor, Tensor]:
        stream = self.connection.expand(x)
        branch_input, note = self.connection.read(stream)
        return branch_input, self.connection.reduce(self.connection.write(stream, update, note))


def inputs(layout: str, dtype: torch.dtype = torch.float64, features: int = FEATURES) -> tuple[Tensor, Tensor]:
    """A stream and an update that has a part along it."""
    shape = tuple(features if size == FEATURES else size for size in SHAPES[layout])
    generator = torch.Generator().manual_seed(0)
    x, noise = (torch.randn(shape, dtype=torch.float64, generator=generator) for _ in range(2))
    return x.to(dtype), (0.4 * x + noise).to(dtype)


def tensors_of(stream: Any) -> list[Tensor]:
    """The tensors of a stream or note, which is a tensor, a (nested) tuple of them, or None."""
    if isinstance(stream, Tensor):
        return [stream]
    return [tensor for part in stream or () for tensor in tensors_of(part)]


def gradients(module: nn.Module, x: Tensor, update: Tensor) -> dict[str, Tensor]:
    """Values and all gradients of a weighted sum of both outputs."""
    leaves = {"x": x.detach().requires_grad_(), "update": update.detach().requires_grad_()}
    branch_input, result = module(leaves["x"], leaves["update"])
    leaves |= dict(module.named_parameters())
    # Autocast is a matter of the forward alone.
    with torch.autocast("cpu", enabled=False):
        loss = (branch_input.to(torch.float64).sin() + result.to(torch.float64).sin()).sum()
        found = torch.autograd.grad(loss, list(leaves.values()))
    return {"branch_input": branch_input, "result": result} | dict(zip(leaves, found, strict=True))


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 0) -> None:
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(
            found[key], value, rtol=tolerance, atol=tolerance, msg=lambda m, key=key: f"{key}: {m}"
        )


# Shape, type, place.


@every_row
@pytest.mark.parametrize("update_dtype", [None, torch.float32], ids=["alike", "float32-update"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_verbs_keep_shape_and_dtype(
    case: Case, layout: str, dtype: torch.dtype, update_dtype: torch.dtype | None
) -> None:
    connection = stir(case.make(layout))
    x, update = inputs(layout, dtype)
    stream = connection.expand(x)
    branch_input, note = connection.read(stream)
    written = connection.write(stream, update.to(update_dtype or dtype), note)
    assert all(tensor.dtype == dtype for tensor in tensors_of(stream) + tensors_of(written))
    assert [tensor.shape for tensor in tensors_of(written)] == [tensor.shape for tensor in tensors_of(stream)]
    for tensor in (branch_input, connection.reduce(written), connection.summary(written)):
        assert (tensor.shape, tensor.dtype) == (x.shape, dtype)


@every_row
def test_verbs_stay_on_the_device(case: Case, layout: str) -> None:
    """The meta device stands for any second one; a rule that makes a tensor of its own would leave it."""
    with torch.device("meta"):
        site = OneSite(case.make(layout))
    outputs = site(*(tensor.to("meta") for tensor in inputs(layout, torch.float32)))
    assert {tensor.device.type for tensor in (*outputs, *site.parameters(), *site.buffers())} == {"meta"}


@every_row
def test_read_applies_the_norm_last(case: Case, layout: str) -> None:
    connection = stir(case.make(layout)).double()
    stream = connection.expand(inputs(layout)[0])
    plain, _ = connection.read(stream)
    normed, _ = connection.read(stream, torch.tanh)
    assert torch.equal(normed, plain.tanh())


@every_row
def test_forward_is_read_branch_write(case: Case, layout: str) -> None:
    connection = stir(case.make(layout)).double()
    stream = connection.expand(inputs(layout)[0])
    branch_input, note = connection.read(stream, torch.sin)
    assert torch.equal(connection(stream, torch.tanh, torch.sin), connection.write(stream, branch_input.tanh(), note))


@every_row
def test_project_begins_a_stream_at_a_new_width(case: Case, layout: str) -> None:
    connection = case.make(layout, features=FEATURES).double()
    wide, _ = inputs(layout, features=FEATURES + 2)
    stream = connection.project(
        case.make(layout, features=FEATURES + 2).expand(wide), lambda t: t.narrow(AXIS[layout], 0, FEATURES)
    )
    assert torch.equal(connection.summary(stream), wide.narrow(AXIS[layout], 0, FEATURES))


@every_row
def test_nothing_is_changed_in_place(case: Case, layout: str) -> None:
    connection = stir(case.make(layout)).double()
    x, update = inputs(layout)
    stream = connection.expand(x)
    _, note = connection.read(stream)
    given = [x, update, *tensors_of(stream), *tensors_of(note)]
    before = [(tensor.clone(), tensor._version) for tensor in given]
    connection.reduce(connection.write(stream, update, note))
    for tensor, (value, version) in zip(given, before, strict=True):
        assert torch.equal(tensor, value)
        assert tensor._version == version


# What is mixed with what.


@every_row
def test_samples_do_not_see_each_other(case: Case, layout: str) -> None:
    site = OneSite(stir(case.make(layout)).double())
    x, update = inputs(layout)
    order = torch.tensor([2, 0, 1])
    for permuted, expected in zip(site(x[order], update[order]), site(x, update), strict=True):
        torch.testing.assert_close(permuted, expected[order], rtol=1e-14, atol=1e-14)


@every_row
def test_tokens_see_each_other_only_where_it_is_declared(case: Case, layout: str) -> None:
    connection = case.make(layout)
    assert connection.mixes_tokens == case.mixes_tokens
    site = OneSite(stir(connection).double())
    x, update = inputs(layout)
    # the last token, or the last row of pixels
    axis = 1 if layout == "tokens" else 2
    other_x, other_update = x.clone(), update.clone()
    other_x.select(axis, -1).add_(1)
    other_update.select(axis, -1).sub_(2)
    unchanged = [
        torch.equal(a.narrow(axis, 0, 3), b.narrow(axis, 0, 3))
        for a, b in zip(site(x, update), site(other_x, other_update), strict=True)
    ]
    assert all(unchanged) != case.mixes_tokens


@every_row
def test_permuting_tokens_permutes_the_result(case: Case, layout: str) -> None:
    site = OneSite(stir(case.make(layout)).double())
    axis = 1 if layout == "tokens" else 2
    x, update = inputs(layout)
    order = torch.arange(x.shape[axis]).roll(1)
    permuted = site(x.index_select(axis, order), update.index_select(axis, order))
    for found, expected in zip(permuted, site(x, update), strict=True):
        torch.testing.assert_close(found, expected.index_select(axis, order), rtol=1e-13, atol=1e-13)


# What the rule promises.


@every_row
def test_zero_update(case: Case, layout: str) -> None:
    connection = stir(case.make(layout)).double()
    x, update = inputs(layout)
    stream = connection.expand(x)
    _, note = connection.read(stream)
    after = connection.write(stream, torch.zeros_like(update), note)
    torch.testing.assert_close(after, case.after_zero(connection, stream, note), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize(("case", "layout"), [row for row in ROWS if row.values[0].neutral is not None])
def test_neutral_setting_is_the_plain_residual_bit_for_bit(case: Case, layout: str) -> None:
    """Through a trunk of three sites, whose branches read what the stream gives them."""
    assert case.neutral is not None
    x, _ = inputs(layout)
    trunk = [case.make(layout).double() for _ in range(3)]
    factor = {case.neutral(connection) for connection in trunk}.pop()
    stream, plain = trunk[0].expand(x), x
    for connection in trunk:
        stream, plain = connection(stream, torch.sin), plain + plain.sin()
    assert torch.equal(trunk[-1].reduce(stream), factor * plain)


@every_row
def test_claims(case: Case, layout: str) -> None:
    assert case.claims, "a rule that promises nothing needs no row"
    for claim in case.claims:
        claim(case.make(layout).double(), *inputs(layout))


@every_row
def test_components_say_what_is_added(case: Case, layout: str) -> None:
    connection = stir(case.make(layout)).double()
    x, update = inputs(layout)
    stream = connection.expand(x)
    pieces = connection.components(stream, update)
    assert pieces.parallel.shape == pieces.orthogonal.shape == pieces.applied.shape == connection.summary(stream).shape
    assert pieces.axis == AXIS[layout]
    assert all(extra.numel() == 1 and extra.isfinite() for extra in pieces.extras.values())
    if case.adds is None:
        torch.testing.assert_close(pieces.parallel + pieces.orthogonal, update, rtol=1e-14, atol=1e-14)
    else:
        _, note = connection.read(stream)
        added = connection.write(stream, update, note) - stream
        torch.testing.assert_close(case.adds(connection, pieces), added, rtol=0, atol=1e-14)


# Hard inputs.


def zero_stream(x: Tensor, update: Tensor) -> tuple[Tensor, Tensor]:
    return torch.zeros_like(x), update


def zero_update(x: Tensor, update: Tensor) -> tuple[Tensor, Tensor]:
    return x, torch.zeros_like(x)


def both_zero(x: Tensor, update: Tensor) -> tuple[Tensor, Tensor]:
    return torch.zeros_like(x), torch.zeros_like(x)


def parallel(x: Tensor, update: Tensor) -> tuple[Tensor, Tensor]:
    return x, -0.5 * x


def empty(x: Tensor, update: Tensor) -> tuple[Tensor, Tensor]:
    return x[:0], update[:0]


def strided(x: Tensor, update: Tensor) -> tuple[Tensor, Tensor]:
    return x.mT.contiguous().mT, update.mT.contiguous().mT


def norms_beyond_float16(x: Tensor, update: Tensor) -> tuple[Tensor, Tensor]:
    assert (150 * x.double()).square().max() > torch.finfo(torch.float16).max
    return 150 * x, 150 * update


HARD = [zero_stream, zero_update, both_zero, parallel, empty, strided, norms_beyond_float16]


@every_row
@pytest.mark.parametrize("hard", HARD, ids=lambda hard: hard.__name__)
def test_hard_inputs_give_finite_values_and_gradients(
    case: Case, layout: str, hard: Callable[..., tuple[Tensor, Tensor]]
) -> None:
    # Three widths: the usual one, an odd one, and vectors of a single number.
    for features in (FEATURES, 7, 1):
        site = OneSite(stir(case.make(layout, features=features)))
        dtype = torch.float16 if hard is norms_beyond_float16 else torch.float32
        x, update = hard(*inputs(layout, dtype, features))
        found = gradients(site, x, update)
        assert all(tensor.isfinite().all() for tensor in found.values())
        assert found["result"].shape == x.shape


# Derivatives.


@every_row
def test_gradcheck(case: Case, layout: str) -> None:
    site = OneSite(stir(case.make(layout)).double())
    names = [name for name, _ in site.named_parameters()]
    x, update = (tensor[:1, ..., :3] if layout == "maps" else tensor[:1, :2] for tensor in inputs(layout))
    parameters = [parameter.detach().requires_grad_() for parameter in site.parameters()]

    def outputs(x: Tensor, update: Tensor, *values: Tensor) -> tuple[Tensor, Tensor]:
        return functional_call(site, dict(zip(names, values, strict=True)), (x, update))

    assert torch.autograd.gradcheck(outputs, (x.requires_grad_(), update.requires_grad_(), *parameters))


@every_row
def test_each_role_has_the_parameters_it_uses(case: Case, layout: str) -> None:
    """One instance a role, as in a trunk: every parameter that exists takes part, and gets a gradient."""
    roles = [frozenset({"expand"}), frozenset({"read", "write"}), frozenset({"reduce"})]
    begin, site, end = (stir(case.make(layout, verbs=verbs)).double() for verbs in roles)
    assert tuple(name for name, _ in site.named_parameters()) == case.learns
    x, update = inputs(layout)
    stream = begin.expand(x.requires_grad_())
    branch_input, note = site.read(stream)
    result = end.reduce(site.write(stream, update, note))
    (branch_input.sin() + result.square()).sum().backward()
    for role in (begin, site, end):
        for name, parameter in role.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name


@every_row
def test_parameters_can_be_sharded_and_dials_are_not_saved(case: Case, layout: str) -> None:
    """FSDP refuses 0-dim parameters; a dial is float32, of shape (), and no part of the state dict."""
    connection = case.make(layout)
    assert all(parameter.ndim >= 1 for parameter in connection.parameters())
    assert all((buffer.shape, buffer.dtype) == ((), torch.float32) for buffer in connection.buffers())
    assert tuple(connection.state_dict()) == case.learns


# Engines.


@every_row
def test_autocast_changes_nothing(case: Case, layout: str) -> None:
    """A float32 stream with a bfloat16 update: coefficients and mixing stay float32, so the tolerance is zero."""
    site = OneSite(stir(case.make(layout)))
    x, update = inputs(layout, torch.float32)
    expected = gradients(site, x, update.bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        found = gradients(site, x, update.bfloat16())
    assert_equal(found, expected)


@every_row
def test_compiles_to_one_graph(case: Case, layout: str) -> None:
    torch._dynamo.reset()
    site = OneSite(stir(case.make(layout)))
    x, update = inputs(layout, torch.float32)
    # float32 sums in another order
    assert_equal(gradients_compiled(site, x, update), gradients(site, x, update), tolerance=1e-5)


def gradients_compiled(site: OneSite, x: Tensor, update: Tensor) -> dict[str, Tensor]:
    compiled = torch.compile(site, fullgraph=True, backend="aot_eager")
    return {key.removeprefix("_orig_mod."): value for key, value in gradients(compiled, x, update).items()}


@every_row
def test_checkpointing_repeats_it(case: Case, layout: str) -> None:
    site = OneSite(stir(case.make(layout)).double())

    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.connection = site.connection

        def forward(self, *pair: Tensor) -> tuple[Tensor, Tensor]:
            return checkpoint(site, *pair, use_reentrant=False)

    assert_equal(gradients(Checkpointed(), *inputs(layout)), gradients(site, *inputs(layout)))


@every_row
def test_exports(case: Case, layout: str) -> None:
    site = OneSite(stir(case.make(layout))).double().eval()
    batch = torch.export.Dim("batch")
    program = torch.export.export(site, inputs(layout), dynamic_shapes={"x": {0: batch}, "update": {0: batch}})
    longer = tuple(torch.cat([tensor, tensor]) for tensor in inputs(layout))
    for found, expected in zip(program.module()(*longer), site(*longer), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)


# Making, copying, saving.


@every_row
def test_same_seed_same_weights_and_nothing_left_behind(case: Case, layout: str) -> None:
    made = []
    for _ in range(2):
        torch.manual_seed(7)
        made.append(case.make(layout).state_dict())
    torch.manual_seed(7)
    twins = [stir(case.make(layout)), case.make(layout)]
    assert_equal(made[0], made[1])
    assert_equal(twins[1].state_dict(), made[0])


@every_row
@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda site: pickle.loads(pickle.dumps(site))], ids=["deepcopy", "pickle"]
)
def test_copies_are_equal_and_apart(case: Case, layout: str, copied: Callable[[OneSite], OneSite]) -> None:
    site = OneSite(stir(case.make(layout)))
    twin = copied(site)
    assert_equal(gradients(twin, *inputs(layout, torch.float32)), gradients(site, *inputs(layout, torch.float32)))
    assert twin.connection.spec == (case.name, case.options)
    stir(twin.connection)
    for parameter, other in zip(twin.parameters(), site.parameters(), strict=True):
        assert not torch.equal(parameter, other)


@every_row
def test_state_dict_carries_everything(case: Case, layout: str) -> None:
    site, other = OneSite(stir(case.make(layout))), OneSite(case.make(layout))
    other.load_state_dict(site.state_dict())
    assert_equal(gradients(other, *inputs(layout, torch.float32)), gradients(site, *inputs(layout, torch.float32)))


@every_row
def test_meta_construction_then_reset_gives_the_same(case: Case, layout: str) -> None:
    with torch.device("meta"):
        connection = case.make(layout)
    connection.to_empty(device="cpu")
    for tensor in (*connection.parameters(), *connection.buffers()):
        tensor.data.fill_(float("nan"))
    connection.reset_parameters()
    direct = case.make(layout)
    assert_equal(dict(connection.named_parameters()), dict(direct.named_parameters()))
    assert_equal(dict(connection.named_buffers()), dict(direct.named_buffers()))


@every_case
def test_unknown_option_is_refused_by_name(case: Case) -> None:
    with pytest.raises(UsageError, match=f"unknown option of connection '{case.name}' 'no_such_option'"):
        connections.create(case.name, no_such_option=1)


def test_every_connection_has_a_row() -> None:
    assert {case.name for case in CASES} == set(connections.names())
