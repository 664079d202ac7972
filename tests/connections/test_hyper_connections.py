"""What is particular to parallel streams: symmetry, coefficients, scale, and both layouts."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from orthostream import connections
from orthostream.analysis.memory import kept_for_backward
from orthostream.connections import Site, wire
from orthostream.connections.hyper_connections import HyperConnections
from orthostream.errors import UsageError

WIDTH = 8


def made(index: int = 0, axis: int = -1, **options) -> HyperConnections:
    connection = connections.create("hyper_connections", site=Site(features=WIDTH, index=index, axis=axis), **options)
    assert isinstance(connection, HyperConnections)
    return connection.double()


def stirred(connection: HyperConnections) -> HyperConnections:
    generator = torch.Generator().manual_seed(0)
    for parameter in connection.parameters():
        parameter.data += torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return connection


def random_stream(streams: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    stream = torch.randn(2, 5, streams, WIDTH, generator=generator, dtype=torch.float64)
    return stream, torch.randn(2, 5, WIDTH, generator=generator, dtype=torch.float64)


OPTIONS = [{}, {"tanh": False}, {"norm": "layer"}, {"dynamic": False}, {"streams": 2}]


@pytest.mark.parametrize("index", range(6))
def test_site_index_picks_the_stream_that_is_read_first(index) -> None:
    """By the site, not by a random number: the same at every construction."""
    stream, _ = random_stream()
    assert torch.equal(made(index).read(stream)[0], stream[:, :, index % 4])


@pytest.mark.parametrize("options", [{"norm": "rms"}, {"norm": "layer"}, {"dynamic": False}])
def test_permuting_streams_with_their_parameters_permutes_the_result(options) -> None:
    connection = stirred(made(**options))
    permuted = made(**options)
    permuted.load_state_dict(connection.state_dict())
    order = torch.tensor([2, 0, 3, 1])
    with torch.no_grad():
        permuted.static_beta.copy_(connection.static_beta[order])
        permuted.static_alpha[:, 0] = connection.static_alpha[order, 0]
        permuted.static_alpha[:, 1:] = connection.static_alpha[order, 1:][:, order]
        if connection.is_dynamic:
            permuted.dynamic_alpha_fn[:, 1:] = connection.dynamic_alpha_fn[:, 1:][:, order]
    stream, update = random_stream()
    branch_input, note = connection.read(stream)
    permuted_input, permuted_note = permuted.read(stream[:, :, order])
    torch.testing.assert_close(permuted_input, branch_input, rtol=1e-13, atol=1e-13)
    expected = connection.write(stream, update, note)[:, :, order]
    torch.testing.assert_close(
        permuted.write(stream[:, :, order], update, permuted_note), expected, rtol=1e-13, atol=1e-13
    )


def spread_after_training(even: bool) -> float:
    """Largest difference between streams at the end of a small trained trunk, whose streams begin as copies."""
    torch.manual_seed(0)
    wiring = wire(
        ("hyper_connections", {"dynamic": False}), [Site(name=str(i), features=WIDTH, index=i) for i in range(3)]
    )
    sites = list(wiring.at.values())
    if even:
        for site in sites:
            site.static_alpha.data[:, 0] = 0.25
    branches = [torch.nn.Linear(WIDTH, WIDTH) for _ in sites]
    parameters = [p for module in (*sites, *branches) for p in module.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=0.05)
    x, target = torch.randn(16, WIDTH), torch.randn(16, WIDTH)
    for _ in range(5):
        stream = wiring.begin.expand(x)
        for site, branch in zip(sites, branches, strict=True):
            stream = site(stream, branch)
        loss = functional.mse_loss(wiring.end.reduce(stream) / 4, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return (stream - stream.mean(-2, keepdim=True)).abs().max().item()


def test_uneven_read_is_what_separates_the_streams() -> None:
    """With equal parameters for all streams they stay equal for good; as the rule starts, they part."""
    assert spread_after_training(even=True) < 1e-6
    assert spread_after_training(even=False) > 1e-3


@pytest.mark.parametrize("options", [{"norm": "rms"}, {"norm": "layer"}])
def test_tanh_bounds_the_dynamic_part_by_its_scale(options) -> None:
    connection = stirred(made(**options))
    weights = connection.coefficients(1000 * random_stream()[0])
    alpha, beta = connection.static_alpha, connection.static_beta
    slack = 1e-12
    assert ((weights.read - alpha[:, 0]).abs() <= connection.dynamic_alpha_scale.abs() + slack).all()
    assert ((weights.mixing - alpha[:, 1:].T).abs() <= connection.dynamic_alpha_scale.abs() + slack).all()
    assert ((weights.write - beta).abs() <= connection.dynamic_beta_scale.abs() + slack).all()
    assert ((weights.write - beta).abs() > 0.9 * connection.dynamic_beta_scale.abs()).any(), "the bound is reached"


def test_root_mean_square_coefficients_do_not_depend_on_scale() -> None:
    connection = stirred(made())
    stream, _ = random_stream()
    for small, large in zip(connection.coefficients(stream), connection.coefficients(1e4 * stream), strict=True):
        torch.testing.assert_close(small, large, rtol=1e-12, atol=1e-12)


def test_coefficients_of_a_token_depend_on_that_token_alone() -> None:
    connection = stirred(made())
    stream, _ = random_stream()
    other = stream.clone()
    other[:, 3] += 1
    for before, after in zip(connection.coefficients(stream), connection.coefficients(other), strict=True):
        assert torch.equal(before[:, [0, 1, 2, 4]], after[:, [0, 1, 2, 4]])
        assert not torch.equal(before[:, 3], after[:, 3])


def test_coefficients_of_a_half_stream_are_float32() -> None:
    """At the start the mixing is the identity, so the rows of its float32 coefficients sum to one."""
    connection = made().bfloat16()
    weights = connection.coefficients(random_stream()[0].bfloat16())
    assert {tensor.dtype for tensor in weights} == {torch.float32}
    torch.testing.assert_close(weights.mixing.sum(-1), torch.ones(2, 5, 4), rtol=0, atol=1e-5)


def test_a_half_stream_is_rounded_once() -> None:
    """Mixing and update in one operation: what is written is their float32 sum, rounded."""
    connection = stirred(made()).bfloat16()
    stream, update = (tensor.bfloat16() for tensor in random_stream())
    _, weights = connection.read(stream)
    exact = weights.mixing.double() @ stream.double()
    exact += weights.write.double().unsqueeze(-1) * update.double().unsqueeze(-2)
    # half a unit in the last place, and float32 sums of terms of order ten
    torch.testing.assert_close(
        connection.write(stream, update, weights).double(),
        exact,
        rtol=torch.finfo(torch.bfloat16).eps / 2,
        atol=1e-5,
    )


@pytest.mark.parametrize("options", [{}, {"dynamic": False}])
def test_backward_keeps_the_stream_and_the_update_beside_coefficients(options) -> None:
    """No normed, mixed or spread copy of the stream; of the coefficients, some tensors of n (n + 2) numbers a token."""
    features = 256
    connection = connections.create("hyper_connections", site=Site(features=features), **options)
    stream = torch.randn(2, 5, 4, features, requires_grad=True)
    update = torch.randn(2, 5, features, requires_grad=True)
    with kept_for_backward() as kept:
        _, note = connection.read(stream)
        connection.write(stream, update, note)
    given = (stream, update, *connection.parameters())
    others = kept.storages.keys() - {tensor.untyped_storage().data_ptr() for tensor in given}
    assert stream.untyped_storage().data_ptr() in kept.storages
    assert sum(kept.storages[each] for each in others) < stream.nbytes / 2


@pytest.mark.parametrize("options", OPTIONS)
def test_a_map_is_its_pixels_as_tokens(options) -> None:
    tokens, maps = stirred(made(**options)), stirred(made(axis=1, **options))
    generator = torch.Generator().manual_seed(2)
    x, update = (torch.randn(2, WIDTH, 3, 4, generator=generator, dtype=torch.float64) for _ in range(2))

    def as_tokens(pixels: Tensor) -> Tensor:
        return pixels.flatten(-2).movedim(-1, 1)

    stream, rows = maps.expand(x), tokens.expand(as_tokens(x))
    for _ in range(2):
        pixels_input, note = maps.read(stream)
        tokens_input, tokens_note = tokens.read(rows)
        torch.testing.assert_close(as_tokens(pixels_input), tokens_input, rtol=1e-13, atol=1e-13)
        stream, rows = maps.write(stream, update, note), tokens.write(rows, as_tokens(update), tokens_note)
        assert stream.shape == (2, maps.streams, WIDTH, 3, 4)
    for verb in ("reduce", "summary"):
        found, expected = as_tokens(getattr(maps, verb)(stream)), getattr(tokens, verb)(rows)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_refuses_what_it_cannot_be() -> None:
    with pytest.raises(UsageError, match="needs one stream or more, got streams=0"):
        made(streams=0)
    with pytest.raises(UsageError, match="unknown norm of hyper_connections 'layr': did you mean layer"):
        made(norm="layr")
    with pytest.raises(
        UsageError, match=r"need the width of the stream: pass site=Site\(features=...\), or dynamic=False"
    ):
        connections.create("hyper_connections")


def test_write_asks_for_the_note_of_read() -> None:
    stream, update = random_stream()
    with pytest.raises(UsageError, match="pass the note that read returned"):
        made().write(stream, update)
