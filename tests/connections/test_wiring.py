"""Which connection stands at which site: choices, tables, blocks, and what is refused."""

from dataclasses import replace

import pytest
import torch

from orthostream import connections
from orthostream.connections import Connection, Site, only_blocks, wire
from orthostream.connections.linear import Linear
from orthostream.errors import UsageError

BLOCKS = 3
SITES = [
    Site(name=f"blocks.{block}.{kind}", kind=kind, features=8, index=2 * block + place, block=block, blocks=BLOCKS)
    for block in range(BLOCKS)
    for place, kind in enumerate(("attn", "mlp"))
]


def kinds(choice) -> dict[str, str]:
    """Name of the rule at each site, by site."""
    return {site: connection.spec[0] for site, connection in wire(choice, SITES).at.items()}


def test_one_rule_for_all_sites_and_both_ends() -> None:
    wiring = wire("orthogonal", SITES)
    assert list(wiring.at) == [site.name for site in SITES]
    assert [connection.site for connection in wiring.at.values()] == [
        replace(site, verbs=frozenset({"read", "write"})) for site in SITES
    ]
    assert (wiring.begin.site.name, wiring.begin.site.verbs) == ("begin", frozenset({"expand"}))
    assert (wiring.end.site.name, wiring.end.site.verbs) == ("end", frozenset({"reduce"}))
    assert len({id(connection) for connection in (wiring.begin, *wiring.at.values(), wiring.end)}) == 8


@pytest.mark.parametrize("name", connections.names())
def test_parameters_exist_only_where_they_are_used(name) -> None:
    wiring = wire(name, SITES)
    assert not list(wiring.begin.parameters())
    assert not list(wiring.end.parameters())


def test_options_reach_every_site() -> None:
    assert {connection.eps for connection in wire(("orthogonal", {"eps": 1e-3}), SITES).at.values()} == {1e-3}


def test_table_takes_the_first_pattern_that_matches() -> None:
    choice = {"blocks.0.*": "negative", "*.attn": ("orthogonal", {"eps": 1e-3}), "default": "linear"}
    assert list(kinds(choice).values()) == ["negative", "negative", "orthogonal", "linear", "orthogonal", "linear"]


def test_default_counts_last_wherever_it_stands() -> None:
    assert kinds({"default": "linear", "*.mlp": "negative"})["blocks.0.mlp"] == "negative"


def test_functions_and_tables_nest() -> None:
    choice = {"*.attn": lambda site: "orthogonal" if site.block == 1 else {"*": "negative"}, "default": "linear"}
    assert list(kinds(choice).values())[::2] == ["negative", "orthogonal", "negative"]


def test_only_blocks_switches_whole_blocks() -> None:
    chosen = kinds(only_blocks(("orthogonal", {"eps": 1e-3}), (0, 2)))
    assert list(chosen.values()) == ["orthogonal"] * 2 + ["linear"] * 2 + ["orthogonal"] * 2
    assert kinds(only_blocks("orthogonal", [1], otherwise="negative"))["blocks.0.attn"] == "negative"


@pytest.mark.parametrize(("blocks", "outside"), [((0, 3), "3"), ((-1,), "-1"), ((7, 5), "5, 7")])
def test_only_blocks_refuses_indices_that_the_model_does_not_have(blocks, outside) -> None:
    """The number of blocks itself is one too many: counting starts at 0."""
    with pytest.raises(UsageError, match=rf"blocks \[{outside}\] do not exist: this model has 3, counted from 0 to 2"):
        wire(only_blocks("orthogonal", blocks), SITES)


def test_only_blocks_refuses_an_empty_list() -> None:
    with pytest.raises(UsageError, match="list of blocks is empty"):
        only_blocks("orthogonal", ())


def test_an_instance_is_made_anew_for_each_site() -> None:
    """By its name and options, never copied: first values depend on the site."""
    instance = connections.create("hyper_connections", streams=3, dynamic=False)
    instance.static_beta.data.fill_(9)
    wiring = wire(instance, SITES)
    assert all(connection is not instance for connection in wiring.at.values())
    for site, connection in zip(SITES, wiring.at.values(), strict=True):
        assert connection.streams == 3
        assert connection.static_alpha[:, 0].argmax() == site.index % 3
        assert torch.equal(connection.static_beta, torch.ones(3))
    pointers = {parameter.data_ptr() for connection in wiring.at.values() for parameter in connection.parameters()}
    assert len(pointers) == 2 * len(SITES)


def test_an_instance_of_unknown_options_is_refused() -> None:
    with pytest.raises(UsageError, match=r"instance of Linear cannot be placed at several sites.*connections.create"):
        wire(Linear(), SITES)


def test_a_rule_from_outside_joins_by_name(monkeypatch) -> None:
    class Halved(Connection):
        def __init__(self, site: Site | None = None, *, share: float = 0.5) -> None:
            super().__init__(site)
            self.share = share

        def write(self, stream, update, note=None):
            return stream + self.share * update

    monkeypatch.setattr(connections.table, "_entries", dict(connections.table._entries))
    connections.register("halved", Halved, "x + share * u")
    assert "halved" in connections.names()
    wiring = wire({"*.attn": ("halved", {"share": 0.25}), "default": "linear"}, SITES)
    assert torch.equal(wiring.at["blocks.0.attn"].write(torch.ones(2), torch.ones(2)), torch.full((2,), 1.25))
    with pytest.raises(UsageError, match="'linear' is registered already"):
        connections.register("linear", Halved, "another")


def test_a_pattern_without_a_site_is_refused() -> None:
    with pytest.raises(UsageError, match=r"pattern '\*.conv' matches no site; sites are named blocks.0.attn, .*\.\.\."):
        wire({"*.conv": "orthogonal", "default": "linear"}, SITES)


def test_a_site_without_a_pattern_is_refused() -> None:
    with pytest.raises(
        UsageError, match=r"no pattern of the connection table matches site 'blocks.0.mlp'; add a 'default'"
    ):
        wire({"*.attn": "orthogonal"}, SITES)


@pytest.mark.parametrize("other", ["linear", ("hyper_connections", {"streams": 2})])
def test_sites_must_carry_one_kind_of_stream(other) -> None:
    with pytest.raises(UsageError, match=r"blocks.0.attn carries \('streams', 4\) and blocks.0.mlp carries"):
        wire({"*.attn": "hyper_connections", "default": other}, SITES)


def test_rules_of_one_kind_of_stream_mix() -> None:
    wiring = wire({"*.attn": ("hyper_connections", {"dynamic": False}), "default": "hyper_connections"}, SITES)
    x = torch.randn(2, 5, 8)
    stream = wiring.begin.expand(x)
    plain = x
    for connection in wiring.at.values():
        stream, plain = connection(stream, torch.sin), plain + plain.sin()
    assert torch.equal(wiring.end.reduce(stream), 4 * plain)


@pytest.mark.parametrize("choice", [3, None, ["linear"]])
def test_what_is_no_choice_is_refused(choice) -> None:
    with pytest.raises(UsageError, match="a connection is given as a name"):
        wire(choice, SITES)


@pytest.mark.parametrize("choice", [("orthogonal",), ("orthogonal", 3), ("linear", {}, {}), (Linear, {})])
def test_a_tuple_is_a_name_with_its_options(choice) -> None:
    with pytest.raises(UsageError, match=r"is given as \(name, \{option: value\}\)"):
        wire(choice, SITES)


def test_unknown_names_and_options_are_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="unknown connection 'ortogonal': did you mean orthogonal"):
        wire("ortogonal", SITES)
    with pytest.raises(UsageError, match=r"unknown option of connection 'orthogonal' 'epsilon'.*eps"):
        wire(("orthogonal", {"epsilon": 1e-6}), SITES)


def test_a_trunk_has_sites_of_different_names() -> None:
    with pytest.raises(UsageError, match="one site or more, each with its own name"):
        wire("linear", [])
    with pytest.raises(UsageError, match="one site or more, each with its own name"):
        wire("linear", [SITES[0], SITES[0]])
