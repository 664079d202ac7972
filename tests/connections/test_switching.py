"""Orthogonal with a probability: what is drawn, when, and that nothing else changes."""

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

from orthostream import connections
from orthostream.connections import Choice, Site, wire
from orthostream.connections.switching import StepSwitch
from orthostream.errors import UsageError

BLOCKS = 4


class Trunk(nn.Module):
    """Two sites a block, branches without parameters."""

    def __init__(self, choice: Choice = "orthogonal") -> None:
        super().__init__()
        sites = [
            Site(name=f"{block}.{place}", features=8, index=2 * block + place, block=block, blocks=BLOCKS)
            for block in range(BLOCKS)
            for place in range(2)
        ]
        wiring = wire(choice, sites)
        self.begin, self.end = wiring.begin, wiring.end
        self.connections = nn.ModuleList(wiring.at.values())

    def forward(self, x: Tensor) -> Tensor:
        stream = self.begin.expand(x)
        for connection in self.connections:
            stream = connection(stream, torch.sin)
        return self.end.reduce(stream)


def drawn(trunk: Trunk) -> list[float]:
    return [connection.strength.item() for connection in trunk.connections]


def draws(switch: StepSwitch, trunk: Trunk, steps: int) -> Tensor:
    """[steps, blocks]"""
    rows = []
    for step in range(steps):
        switch.step(step)
        rows.append(drawn(trunk)[::2])
    return torch.tensor(rows)


def test_both_connections_of_a_block_switch_together() -> None:
    trunk = Trunk()
    switch = StepSwitch(trunk.modules(), 0.5, seed=0)
    seen = set()
    for step in range(50):
        switch.step(step)
        strengths = drawn(trunk)
        assert strengths[::2] == strengths[1::2]
        seen.add(tuple(strengths[::2]))
    assert len(seen) > 10, "blocks draw for themselves"


@pytest.mark.parametrize("probability", [0.2, 0.5, 0.9])
def test_frequency_of_every_block_and_of_pairs(probability) -> None:
    trunk, steps = Trunk(), 2000
    rows = draws(StepSwitch(trunk.modules(), probability, seed=1), trunk, steps)
    # five standard deviations of the mean of 2000 draws
    slack = 5 * (probability * (1 - probability) / steps) ** 0.5
    assert ((rows.mean(0) - probability).abs() < slack).all()
    together = rows.T @ rows / steps - probability**2
    assert (together - torch.diag(together.diagonal())).abs().max() < slack
    following = (rows[1:] * rows[:-1]).mean(0) - probability**2
    assert (following.abs() < slack).all()


def test_draw_depends_on_seed_step_and_block_alone() -> None:
    trunk, resumed = Trunk(), Trunk()
    switch = StepSwitch(trunk.modules(), 0.5, seed=3)
    rows = draws(switch, trunk, 30)
    torch.manual_seed(99)
    torch.rand(7)
    again = StepSwitch(resumed.modules(), 0.5, seed=3)
    again.step(17)
    assert drawn(resumed)[::2] == rows[17].tolist()
    # the same for a block, whichever others can switch
    part = StepSwitch(trunk.connections[2:4], 0.5, seed=3)
    part.step(17)
    assert drawn(trunk)[2] == rows[17, 1]


@pytest.mark.parametrize("seed", [4, 3 + 2**32, -3])
def test_other_seeds_draw_otherwise(seed) -> None:
    """Also those that agree in the low 32 bits, which is all that torch's generator looks at."""
    trunk = Trunk()
    rows = draws(StepSwitch(trunk.modules(), 0.5, seed=3), trunk, 30)
    assert not torch.equal(draws(StepSwitch(trunk.modules(), 0.5, seed=seed), trunk, 30), rows)


def test_the_global_generator_is_not_touched() -> None:
    switch = StepSwitch(Trunk().modules(), 0.5, seed=3)
    torch.manual_seed(0)
    switch.step(1)
    value = torch.rand(())
    torch.manual_seed(0)
    assert torch.equal(value, torch.rand(()))


def test_a_higher_probability_keeps_the_blocks_of_a_lower_one() -> None:
    trunk = Trunk()
    low, high = (draws(StepSwitch(trunk.modules(), p, seed=5), trunk, 100) for p in (0.3, 0.6))
    assert (high >= low).all()


@pytest.mark.parametrize(("probability", "same"), [(0.0, "linear"), (1.0, "orthogonal")])
def test_ends_of_the_range_are_the_pure_rules_bit_for_bit(probability, same) -> None:
    trunk, pure = Trunk(), Trunk(same)
    switch = StepSwitch(trunk.modules(), probability, seed=0)
    x = torch.randn(3, 5, 8)
    for step in range(5):
        switch.step(step)
        assert torch.equal(trunk(x), pure(x))


@pytest.mark.parametrize(("at_evaluation", "expected"), [("orthogonal", 0.7), ("linear", 0.0)])
def test_evaluation_sets_all_blocks_until_the_next_step(at_evaluation, expected) -> None:
    trunk = Trunk(("orthogonal", {"strength": 0.7}))
    switch = StepSwitch(trunk.modules(), 0.5, seed=2, at_evaluation=at_evaluation)
    rows = draws(switch, trunk, 10)
    assert rows.unique().tolist() == pytest.approx([0.0, 0.7])
    switch.evaluation()
    assert drawn(trunk) == pytest.approx([expected] * len(trunk.connections))
    switch.step(9)
    assert drawn(trunk)[::2] == rows[9].tolist()


def test_evaluation_with_the_last_draw() -> None:
    trunk = Trunk()
    switch = StepSwitch(trunk.modules(), 0.5, seed=2, at_evaluation="last")
    switch.step(3)
    before = drawn(trunk)
    switch.evaluation()
    assert drawn(trunk) == before
    assert 0 < sum(before) < len(before), "a draw that tells the three ways apart"


def test_settings_need_no_new_graph() -> None:
    trunk = Trunk()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(trunk, fullgraph=True, backend=counter)
    switch = StepSwitch(compiled.modules(), 0.5, seed=0)
    x = torch.randn(3, 5, 8)
    for step in range(12):
        switch.step(step)
        torch.testing.assert_close(compiled(x), trunk(x), rtol=1e-5, atol=1e-5)
    switch.evaluation()
    compiled(x)
    assert counter.frame_count == 1


def test_casting_the_model_afterwards_keeps_the_dials_connected() -> None:
    trunk = Trunk(("orthogonal", {"strength": 0.3}))
    switch = StepSwitch(trunk.modules(), 1.0, seed=0)
    trunk.bfloat16()
    switch.step(0)
    assert drawn(trunk) == pytest.approx([0.3] * 8, rel=1e-7)


def test_only_what_can_switch_is_switched() -> None:
    trunk = Trunk({"0.*": "orthogonal", "default": "negative"})
    switch = StepSwitch(trunk.modules(), 0.0, seed=0)
    switch.step(0)
    x = torch.randn(3, 5, 8)
    assert torch.equal(trunk(x), Trunk({"0.*": "linear", "default": "negative"})(x))


@pytest.mark.parametrize("probability", [-0.1, 1.1, float("nan")])
def test_refuses_a_probability_out_of_range(probability) -> None:
    with pytest.raises(UsageError, match="between 0 and 1, got"):
        StepSwitch(Trunk().modules(), probability, seed=0)


def test_refuses_a_model_that_cannot_switch() -> None:
    with pytest.raises(UsageError, match="a probability switches connections that have a strength, and there is none"):
        StepSwitch(Trunk("linear").modules(), 0.5, seed=0)
    with pytest.raises(UsageError, match="there is none"):
        StepSwitch([connections.create("orthogonal", site=Site(verbs=frozenset({"reduce"})))], 0.5, seed=0)


def test_refuses_an_unknown_way_of_evaluation() -> None:
    with pytest.raises(UsageError, match="unknown at_evaluation 'orthogonl': did you mean orthogonal"):
        StepSwitch(Trunk().modules(), 0.5, seed=0, at_evaluation="orthogonl")
