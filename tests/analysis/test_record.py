"""A recording hears every site, changes nothing, costs one graph, and leaves nothing behind."""

import copy
import json
import math
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

import orthostream
from analysis.trunks import KINDS, WIDTH, made
from orthostream import connections
from orthostream.analysis import Recording, record
from orthostream.analysis.metrics import METRICS, site_metrics
from orthostream.connections import Site, only_blocks
from orthostream.errors import UsageError

CHOICES = ["linear", "orthogonal", "negative", "rezero", "rezero_constrained", "rescale_stream", "hyper_connections"]


def step(model: nn.Module, x: Tensor) -> Tensor:
    model.zero_grad()
    y = model(x)
    y.square().mean().backward()
    return y.detach()


def recorded(trunk: nn.Module, model: nn.Module, x: Tensor) -> dict[str, float]:
    with record(trunk) as recording:
        step(model, x)
    return recording.collect()


@pytest.mark.parametrize("choice", CHOICES)
def test_values_are_those_of_each_write_and_outputs_are_unchanged(choice: str) -> None:
    trunk, x = made(choice)
    plain = step(trunk, x)
    gradients = [parameter.grad for parameter in trunk.parameters()]
    writes = []

    def noted(connection: connections.Connection):
        written = type(connection).write

        def write(stream, update, note=None):
            with torch.no_grad():
                writes.append(site_metrics(connection.summary(stream), connection.components(stream, update)))
            return written(connection, stream, update, note)

        return write

    listened = [c for block in trunk.blocks for c in (block.attn_connection, block.mlp_connection)]
    for connection in listened:
        connection.__dict__["write"] = noted(connection)
    step(trunk, x)
    for connection in listened:
        del connection.__dict__["write"]
    with record(trunk) as recording:
        heard = step(trunk, x)
    assert torch.equal(heard, plain)
    for before, parameter in zip(gradients, trunk.parameters(), strict=True):
        assert torch.equal(before, parameter.grad)
    rows = recording.table()
    assert [row["site"] for row in rows] == [f"blocks.{block}.{kind}" for block in range(3) for kind in KINDS]
    for row, expected in zip(rows, writes, strict=True):
        values = {name: value for name, value in row.items() if name not in ("site", "kind", "block")}
        assert values == {name: value.item() for name, value in expected.items()}


def test_nothing_is_left_behind() -> None:
    trunk, x = made("orthogonal")
    before = {name: set(module.__dict__) for name, module in trunk.named_modules()}
    with record(trunk) as recording:
        assert recording.is_listening
        trunk(x)
    assert not recording.is_listening
    assert {name: set(module.__dict__) for name, module in trunk.named_modules()} == before
    pickle.loads(pickle.dumps(trunk))
    table = recording.table()
    trunk(2 * x)
    assert recording.table() == table


def test_writes_are_released_when_the_forward_fails() -> None:
    trunk, x = made("linear")
    with pytest.raises(RuntimeError), record(trunk):
        trunk(x[..., :3])
    assert not any("write" in module.__dict__ for module in trunk.modules())


def test_start_forgets_and_the_last_forward_counts() -> None:
    trunk, x = made("linear")
    recording = Recording(trunk)
    recording.start()
    trunk(3 * x)
    trunk(x)
    last = recording.collect()
    recording.start()
    trunk(x)
    recording.stop()
    assert recording.collect() == last


def test_evaluation_between_samplings_is_not_heard() -> None:
    trunk, x = made("linear")
    recording = Recording(trunk)
    recording.start()
    trunk(x)
    recording.stop()
    sampled = recording.collect()
    with torch.inference_mode():
        trunk(5 * x)
    assert recording.collect() == sampled


def test_inference_mode_around_one_recording_does_not_spoil_the_next() -> None:
    trunk, x = made("linear")
    recording = Recording(trunk)
    with torch.inference_mode():
        recording.start()
        trunk(x)
        recording.stop()
    recording.start()
    step(trunk, x)
    recording.stop()
    assert recording.collect()


@pytest.mark.parametrize(("choice", "checkpointed"), [("linear", False), ("orthogonal", True), ("rezero", False)])
def test_compiled_model_needs_one_graph_more(choice: str, checkpointed: bool) -> None:
    assert_one_graph_more(choice, checkpointed, "aot_eager")


@pytest.mark.slow
@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("choice", ["linear", "orthogonal", "rescale_stream", "hyper_connections"])
def test_every_compiled_model_needs_one_graph_more(choice: str, checkpointed: bool) -> None:
    assert_one_graph_more(choice, checkpointed, "aot_eager")


@pytest.mark.slow
@pytest.mark.parametrize("checkpointed", [False, True])
def test_inductor_needs_one_graph_more(checkpointed: bool) -> None:
    assert_one_graph_more("orthogonal", checkpointed, "inductor")


def assert_one_graph_more(choice: str, checkpointed: bool, backend: str) -> None:
    torch._dynamo.reset()
    trunk, x = made(choice, depth=2, checkpointed=checkpointed)
    counter = CompileCounterWithBackend(backend)
    compiled = torch.compile(trunk, backend=counter, fullgraph=True)
    recording = Recording(compiled)
    graphs = []
    for listens in (False, True, False, True):
        if listens:
            recording.start()
        step(compiled, x)
        recording.stop()
        graphs.append(counter.frame_count)
    assert graphs == [1, 2, 2, 2]
    eager = recorded(trunk, trunk, x)
    # Reductions in another order: a few units of the last place.
    assert recording.collect() == pytest.approx(eager, rel=1e-5, abs=1e-6)


def test_blocks_compiled_one_by_one_share_their_graphs() -> None:
    torch._dynamo.reset()
    # More blocks than the recompile limit of 8: a graph per site would end in an error under fullgraph.
    trunk, x = made("orthogonal", depth=10)
    counter = CompileCounterWithBackend("aot_eager")
    for block in trunk.blocks:
        block.compile(backend=counter, fullgraph=True)
    recording = Recording(trunk)
    graphs = []
    for listens in (False, True, False, True):
        if listens:
            recording.start()
        step(trunk, x)
        recording.stop()
        graphs.append(counter.frame_count)
    # Two without listening already: the input of the first block needs no gradient.
    assert graphs == [2, 4, 4, 4]


@pytest.mark.parametrize("choice", ["linear", "rezero", "hyper_connections"])
def test_checkpointing_repeats_the_same_values(choice: str) -> None:
    trunk, x = made(choice)
    again, _ = made(choice, checkpointed=True)
    assert recorded(again, again, x) == recorded(trunk, trunk, x)


@pytest.mark.distributed
def test_two_ranks_average_in_one_reduction(tmp_path: Path) -> None:
    sources = [str(Path(orthostream.__file__).parents[1]), str(Path(__file__).parents[1])]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(sources), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"
    }  # fmt: skip
    results = [tmp_path / f"{rank}.json" for rank in range(2)]
    script = Path(__file__).with_name("averaged_ranks.py")
    ranks = [
        subprocess.Popen([sys.executable, script, str(rank), tmp_path / "rendezvous", results[rank]], env=environment)
        for rank in range(2)
    ]
    assert [rank.wait(timeout=120) for rank in ranks] == [0, 0]
    first, second = (json.loads(result.read_text()) for result in results)
    trunk, x = made("rezero")
    assert first["own"] == pytest.approx(recorded(trunk, trunk, x), rel=1e-5, abs=1e-6)
    assert second["own"] == pytest.approx(recorded(trunk, trunk, x + 1), rel=1e-5, abs=1e-6)
    assert first["averaged"] == second["averaged"]
    expected = {key: (first["own"][key] + second["own"][key]) / 2 for key in first["own"]}
    assert first["averaged"] == pytest.approx(expected, rel=1e-5, abs=1e-6)
    # The reduction works on a copy: an all-reduce in place leaves the rank's own values.
    assert first["again"] == first["own"]


def test_reduce_sees_one_table_and_is_called_once() -> None:
    trunk, x = made(only_blocks("rezero", [1]))
    with record(trunk) as recording:
        trunk(x)
    seen: list[Tensor] = []

    def doubled(values: Tensor) -> Tensor:
        seen.append(values)
        return values * 2

    own, reduced = recording.collect(), recording.collect(doubled)
    assert len(seen) == 1
    assert seen[0].shape == (6, len(recording.columns))
    assert seen[0].dtype == torch.float32
    assert reduced == {key: 2 * value for key, value in own.items()}
    alpha = recording.columns.index("pattern/alpha")
    assert seen[0][:, alpha].isnan().tolist() == [True, True, False, False, True, True]
    assert sorted(key for key in own if "alpha" in key) == [
        "activation/all/mean/pattern/alpha",
        "activation/attn/block01/pattern/alpha",
        "activation/attn/mean/pattern/alpha",
        "activation/mlp/block01/pattern/alpha",
        "activation/mlp/mean/pattern/alpha",
    ]


def test_half_precision_streams_are_measured_in_float32() -> None:
    connection = connections.create("orthogonal", site=Site(kind="attn"))
    x, update = (torch.randn(2, 3, 64, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    x, update = x.bfloat16(), update.bfloat16()
    with record(connection) as recording:
        connection.write(x, update)
    exact = site_metrics(x.double(), connection.components(x.double(), update.double()))
    for name, value in exact.items():
        # float32 sums of 64 products; bfloat16 parts would be off by 1e-3.
        assert recording.table()[0][name] == pytest.approx(value.item(), rel=1e-5, abs=1e-6)


def test_maps_are_measured_along_their_channels() -> None:
    connection = connections.create("rescale_stream", mode="conv1x1", site=Site(kind="conv", axis=1, features=3))
    with record(connection) as recording:
        connection.write(torch.full((2, 3, 4, 5), 2.0), torch.ones(2, 3, 4, 5))
    row = recording.table()[0]
    assert row["x_norm2"] == 12
    assert row["pattern/rescale_conv_weight_norm"] == pytest.approx(math.sqrt(3))


def test_table_follows_the_device_of_the_model() -> None:
    trunk, _ = made("orthogonal")
    recording = Recording(trunk)
    trunk.to("meta")
    recording.start()
    trunk(torch.empty(2, 5, WIDTH, device="meta"))
    recording.stop()
    assert recording.collect(lambda values: torch.full_like(values, 0.5, device="cpu"))
    assert recording._values is not None and recording._values.device.type == "meta"


def test_wrapped_connections_are_heard_once() -> None:
    class Doubled(connections.Connection):
        def __init__(self, inner: connections.Connection) -> None:
            super().__init__(inner.site)
            self.inner = inner

        def write(self, stream, update, note=None):
            return self.inner.write(stream, 2 * update, note)

    model = nn.ModuleDict({"once": Doubled(connections.create("linear"))})
    with record(model) as recording:
        model["once"].write(torch.ones(1, 1, 4), torch.ones(1, 1, 4))
    assert [row["site"] for row in recording.table()] == ["once"]
    assert recording.collect()["activation/site/block00/x_norm2"] == 4


def test_printed_table() -> None:
    trunk, x = made(only_blocks("rezero", [0]))
    with record(trunk) as recording:
        trunk(x)
    lines = str(recording.table()).splitlines()
    assert lines[0].split() == ["site", *METRICS, "pattern/alpha"]
    assert [line.split()[0] for line in lines[2:]] == [row["site"] for row in recording.table()]
    assert len({len(line) for line in lines[:4]}) == 1


def test_copies_made_while_nothing_listens_are_heard_apart() -> None:
    trunk, x = made("linear")
    twin = copy.deepcopy(trunk)
    with record(trunk) as first, record(twin) as second:
        trunk(x)
        twin(2 * x)
    assert first.collect()["activation/all/mean/x_norm2"] != second.collect()["activation/all/mean/x_norm2"]


def test_refusals() -> None:
    with pytest.raises(UsageError, match=r"no orthostream connection.*Linear"):
        Recording(nn.Linear(2, 2))
    trunk, x = made("linear")
    recording = Recording(trunk)
    with pytest.raises(UsageError, match="call start"):
        recording.table()
    recording.start()
    with pytest.raises(UsageError, match="no forward"):
        recording.collect()
    with pytest.raises(UsageError, match="another recording"):
        Recording(trunk).start()
    recording.stop()
    twins = nn.ModuleList(connections.create("linear", site=Site(name=name, kind="attn")) for name in ("one", "two"))
    with record(twins) as both:
        for connection in twins:
            connection.write(x, x)
    assert len(both.table()) == 2
    with pytest.raises(UsageError, match="one and two"):
        both.collect()


def test_sites_that_no_forward_reached_are_left_out() -> None:
    trunk, x = made("linear")
    with record(trunk) as recording:
        trunk.blocks[1](x)
    assert [row["site"] for row in recording.table()] == ["blocks.1.attn", "blocks.1.mlp"]
    assert "activation/attn/block00/x_norm2" not in recording.collect()
