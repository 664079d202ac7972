"""The dial and the options of the orthogonal connection; what it computes is asked in ``test_conformance.py``."""

import copy

import pytest
import torch
from torch import nn

from orthostream import connections
from orthostream.connections import Site
from orthostream.errors import UsageError


@pytest.mark.parametrize("cast", ["bfloat16", "half", "double", "float"])
def test_casting_a_model_leaves_the_dial(cast) -> None:
    """0.3 as a bfloat16 is 0.30078125."""
    model = nn.Sequential(nn.Linear(2, 2), connections.create("orthogonal", strength=0.3))
    for made in (getattr(model, cast)(), copy.deepcopy(model).to(torch.float16)):
        assert made[1].strength.dtype == torch.float32
        assert torch.equal(made[1].strength, torch.tensor(0.3))
        assert "strength" in dict(made[1].named_buffers())
        assert "strength" not in made[1].state_dict()


def test_moving_and_casting_in_one_step_moves_the_dial() -> None:
    connection = connections.create("orthogonal", strength=0.3).to("meta", torch.bfloat16)
    assert (connection.strength.device.type, connection.strength.dtype) == ("meta", torch.float32)


def test_turning_the_dial_changes_the_write_and_reset_brings_it_back() -> None:
    connection = connections.create("orthogonal", strength=0.3)
    x, update = torch.randn(3, 8), torch.randn(3, 8)
    before = connection.write(x, update)
    connection.strength.fill_(0)
    assert torch.equal(connection.write(x, update), x + update)
    connection.reset_parameters()
    assert torch.equal(connection.write(x, update), before)


@pytest.mark.parametrize(
    ("axis", "dim", "mixes"),
    [
        *[(-1, None, False), (-1, -1, False), (-1, (-1,), False), (-1, (1, 2), True), (-1, 1, True)],
        *[(1, None, False), (1, 1, False), (1, (1, 2, 3), True), (1, (2, 3), True)],
    ],
)
def test_says_whether_tokens_see_each_other(axis, dim, mixes) -> None:
    assert connections.create("orthogonal", site=Site(axis=axis), dim=dim).mixes_tokens == mixes


def test_axes_from_a_yaml_list() -> None:
    connection = connections.create("orthogonal", dim=[1, 2])
    x, update = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    expected = connections.create("orthogonal", dim=(1, 2)).write(x, update)
    assert connection.dim == (1, 2)
    assert torch.equal(connection.write(x, update), expected)


@pytest.mark.parametrize("name", ["orthogonal", "rezero", "rezero_constrained", "rescale_stream"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eps": -1e-6}, "eps guards a division by a squared norm and must be >= 0, got -1e-06"),
        ({"eps": float("nan")}, "must be >= 0, got nan"),
        ({"dim": "features"}, "dim is an axis such as -1, or several such as \\(1, 2, 3\\), got 'features'"),
        ({"dim": (1, 2.0)}, "dim is an axis"),
        ({"dim": ()}, "one or more distinct axes, got \\(\\)"),
        ({"dim": (1, 1)}, "distinct axes"),
    ],
)
def test_refuses_options_out_of_range(name, options, message) -> None:
    with pytest.raises(UsageError, match=message):
        connections.create(name, **options)


@pytest.mark.parametrize("strength", [float("nan"), float("inf")])
def test_refuses_a_strength_that_is_no_number(strength) -> None:
    with pytest.raises(UsageError, match="strength is the share of the parallel part that is removed"):
        connections.create("orthogonal", strength=strength)


@pytest.mark.parametrize("name", ["rezero", "rezero_constrained", "rescale_stream"])
def test_variants_refuse_an_unknown_base(name) -> None:
    with pytest.raises(UsageError, match="unknown base 'orthogonl': did you mean orthogonal"):
        connections.create(name, base="orthogonl")


def test_rezero_constrained_refuses_an_infinite_angle() -> None:
    with pytest.raises(UsageError, match="start is an angle in radians and must be finite, got inf"):
        connections.create("rezero_constrained", start=float("inf"))


def test_rescale_stream_refuses_a_matrix_away_from_maps_or_without_width() -> None:
    with pytest.raises(UsageError, match=r"mixes the channels of a map.*site 'blocks.0.mlp' has feature axis -1"):
        connections.create("rescale_stream", site=Site(name="blocks.0.mlp", features=8), mode="conv1x1")
    with pytest.raises(UsageError, match="and None features"):
        connections.create("rescale_stream", site=Site(axis=1), mode="conv1x1")
    with pytest.raises(UsageError, match="unknown mode of rescale_stream 'conv': did you mean conv1x1"):
        connections.create("rescale_stream", site=Site(axis=1, features=8), mode="conv")


def test_a_matrix_at_the_identity_does_not_move_the_generator() -> None:
    """Paired runs of two rules start from the same branches."""
    torch.manual_seed(0)
    connections.create("rescale_stream", site=Site(axis=1, features=8), mode="conv1x1")
    drawn = torch.rand(3)
    torch.manual_seed(0)
    assert torch.equal(drawn, torch.rand(3))


def test_half_model_rounds_once() -> None:
    """Learned scalars of a bfloat16 model are widened too, so the result is the exact one, rounded."""
    x, update = torch.randn(64, 32).bfloat16(), torch.randn(64, 32).bfloat16()
    for name, options, exact in [
        ("rezero", {}, lambda p, x, u: x + p * u),
        ("rescale_stream", {}, lambda p, x, u: (1 + p) * x + u - (x * u).sum(-1, True) / (x * x).sum(-1, True) * x),
    ]:
        connection = connections.create(name, **options).bfloat16()
        (parameter,) = connection.parameters()
        parameter.data.fill_(0.3)
        expected = exact(parameter.detach().double(), x.double(), update.double()).bfloat16()
        # but for values on the border between two bfloat16 numbers
        assert (connection.write(x, update) != expected).double().mean() < 2e-3
