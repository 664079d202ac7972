"""Two and three processes with gloo: the same bits as one, few collectives, shards of rows, checkpoints."""

import copy

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD, Adam

from orthostream import optim
from orthostream.errors import UsageError
from orthostream.optim import transform
from orthostream.optim.distributed import owners
from orthostream.optim.rule import Chunk
from ranks import on_ranks

pytestmark = pytest.mark.distributed


@pytest.fixture(autouse=True)
def sharing_pays(monkeypatch) -> None:
    """Also for the little work of these networks; forked processes inherit it."""
    monkeypatch.setattr(transform, "LEAST_SHARED", 0.0)


def net() -> nn.Sequential:
    """Odd sizes: rows that do not divide by two or three, fewer rows than processes, two equal shapes."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 7, 3, padding=1),
        nn.SiLU(),
        nn.Conv2d(7, 7, 3, padding=1),
        nn.SiLU(),
        nn.Conv2d(7, 7, 3, padding=1),
        nn.Flatten(),
        nn.Linear(7 * 16, 2),
        nn.Linear(2, 5),
    )


def gradients(step) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return [torch.randn(p.shape, generator=generator) for p in net().parameters()]


def trained(model, optimizer, steps=3, start=0) -> list[torch.Tensor]:
    for step in range(start, start + steps):
        for parameter, gradient in zip(model.parameters(), gradients(step), strict=True):
            parameter.grad = gradient.clone()
        optimizer.step()
    return [p.detach().clone() for p in model.parameters()]


def single(make=lambda p: SGD(p, 0.1, momentum=0.9), **options) -> list[torch.Tensor]:
    model = net()
    return trained(model, optim.orthogonalize(make(model.parameters()), model, **options))


class Collectives:
    """Counts the collectives that are called while it is active."""

    NAMES = ("all_gather_into_tensor", "all_to_all_single", "all_reduce", "all_gather", "broadcast")

    def __enter__(self):
        self.count = 0
        self.kept = {name: getattr(dist, name) for name in self.NAMES}
        for name, function in self.kept.items():
            setattr(dist, name, self.counting(function))
        return self

    def counting(self, function):
        def counted(*args, **kwargs):
            self.count += 1
            return function(*args, **kwargs)

        return counted

    def __exit__(self, *_):
        for name, function in self.kept.items():
            setattr(dist, name, function)


def _replicated(world, options):
    model = net()
    optimizer = optim.orthogonalize(
        SGD(model.parameters(), 0.1, momentum=0.9), model, process_group=dist.group.WORLD, **options
    )
    trained(model, optimizer, steps=1)
    with Collectives() as collectives:
        weights = trained(model, optimizer, steps=2, start=1)
    return weights, collectives.count


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("options", [{}, {"method": "svd"}, {"method": "eigh"}], ids=["auto", "svd", "eigh"])
def test_a_shared_step_is_that_of_one_process_bit_for_bit(size, options, tmp_path):
    torch.set_num_threads(1)
    expected = single(**options)
    for weights, count in on_ranks(size, tmp_path, _replicated, options):
        assert all(torch.equal(a, b) for a, b in zip(weights, expected, strict=True))
        assert count <= 2 * 2


def test_little_work_is_not_shared(tmp_path, monkeypatch):
    monkeypatch.setattr(transform, "LEAST_SHARED", 2e9)
    torch.set_num_threads(1)
    expected = single()
    for weights, count in on_ranks(2, tmp_path, _replicated, {}):
        assert all(torch.equal(a, b) for a, b in zip(weights, expected, strict=True)) and count == 0


def _work(world):
    runs = []
    model = net()
    optimizer = optim.orthogonalize(SGD(model.parameters(), 0.1), model, process_group=dist.group.WORLD)
    rule = optim.transformation(optimizer).rule
    kept = type(rule).run

    def counted(self, matrices):
        runs.extend(tuple(matrix.shape) for matrix in matrices)
        return kept(self, matrices)

    type(rule).run = counted
    trained(model, optimizer, steps=1)
    return runs


def test_no_matrix_is_worked_on_twice(tmp_path):
    alone = sorted(tuple(p.flatten(1).shape) for p in net().parameters() if p.ndim > 1)
    for size in (2, 3):
        assert sorted(shape for runs in on_ranks(size, tmp_path, _work) for shape in runs) == alone


def test_work_is_spread_by_cost():
    chunks = [Chunk((i,), cost) for i, cost in enumerate([8.0, 1.0, 1.0, 4.0, 2.0])]
    assert owners(chunks, 1) == [0] * 5
    spread = owners(chunks, 2)
    assert [sum(c.cost for c, o in zip(chunks, spread, strict=True) if o == r) for r in range(2)] == [8.0, 8.0]


def _ddp(world):
    model = DistributedDataParallel(net())
    optimizer = optim.orthogonalize(SGD(model.parameters(), 0.1, momentum=0.9), model, method="eigh")
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        x = torch.randn(6, 3, 4, 4, generator=generator)
        optimizer.zero_grad()
        model(x[world.rank :: world.size]).square().mean().backward()
        optimizer.step()
    return [p.detach().clone() for p in model.parameters()], optim.transformation(optimizer).table()


def test_a_ddp_model_shares_the_work_by_itself_and_names_stay_plain(tmp_path):
    results = on_ranks(2, tmp_path, _ddp)
    assert all(torch.equal(a, b) for a, b in zip(results[0][0], results[1][0], strict=True))
    model = net()
    optimizer = optim.orthogonalize(SGD(model.parameters(), 0.1, momentum=0.9), model, method="eigh")
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        x = torch.randn(6, 3, 4, 4, generator=generator)
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    for ours, theirs in zip(results[0][0], model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs.detach(), atol=1e-4, rtol=1e-3)
    assert "0.weight" in results[0][1] and "module." not in results[0][1]


def _unequal(world):
    model = net()
    optimizer = optim.orthogonalize(SGD(model.parameters(), 0.1), model, process_group=dist.group.WORLD)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    model[2].weight.grad *= 1 + world.rank
    try:
        optimizer.step()
    except UsageError as error:
        return str(error)
    return ""


def test_gradients_that_differ_are_refused_by_name(tmp_path):
    for text in on_ranks(2, tmp_path, _unequal):
        assert "gradient of 2.weight differs" in text and "DistributedDataParallel" in text


def _sharded(world, make, options):
    model = net()
    for layer in (model[2], model[6]):
        fully_shard(layer)
    fully_shard(model)
    optimizer = optim.orthogonalize(make(model.parameters()), model, **options)

    def train(steps, start=0):
        for step in range(start, start + steps):
            for parameter, gradient in zip(model.parameters(), gradients(step), strict=True):
                parameter.grad = distribute_tensor(gradient.clone(), parameter.device_mesh, parameter.placements)
            optimizer.step()

    train(1)
    with Collectives() as collectives:
        train(2, 1)
    whole = [p.full_tensor().detach() for p in model.parameters()]
    return whole, collectives.count, optim.transformation(optimizer).counts()


def _sgd(parameters):
    return SGD(parameters, 0.1, momentum=0.9)


def _adam(parameters):
    return Adam(parameters, 0.01)


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("make", [_sgd, _adam])
@pytest.mark.parametrize("options", [{}, {"method": "svd"}], ids=["auto", "svd"])
def test_row_shards_give_the_bits_of_one_process(size, make, options, tmp_path):
    torch.set_num_threads(1)
    expected = single(make, **options)
    results = on_ranks(size, tmp_path, _sharded, make, options)
    for weights, count, _ in results:
        assert all(torch.equal(a, b) for a, b in zip(weights, expected, strict=True))
        assert count <= 2 * 2
    assert {(counts.steps, counts.transformed) for _, _, counts in results} == {(3, 15)}


def _sharded_bad(world):
    model = net()
    fully_shard(model)
    optimizer = optim.orthogonalize(SGD(model.parameters(), 0.1), model, non_finite="skip")
    before = [p.full_tensor().detach().clone() for p in model.parameters()]
    made = gradients(0)
    made[0][6, 0, 0, 0] = torch.nan
    made[2].zero_()
    for parameter, gradient in zip(model.parameters(), made, strict=True):
        parameter.grad = distribute_tensor(gradient, parameter.device_mesh, parameter.placements)
    optimizer.step()
    after = [p.full_tensor().detach() for p in model.parameters()]
    counts = optim.transformation(optimizer).counts()
    return [torch.equal(a, b) for a, b in zip(before, after, strict=True)], (counts.zero, counts.non_finite)


@pytest.mark.parametrize("size", [2, 3])
def test_every_process_knows_of_a_bad_row_on_one(size, tmp_path):
    for unchanged, counted in on_ranks(size, tmp_path, _sharded_bad):
        assert unchanged[0] and unchanged[2] and not unchanged[4]
        assert counted == (1, 1)


def _by_columns(world):
    mesh = init_device_mesh("cpu", (world.size,))
    model = nn.Linear(6, 4, bias=False)
    model.weight = nn.Parameter(distribute_tensor(model.weight.detach(), mesh, [Shard(1)]))
    optimizer = optim.orthogonalize(SGD(model.parameters(), 0.1), model)
    model.weight.grad = distribute_tensor(torch.randn(4, 6), mesh, [Shard(1)])
    try:
        optimizer.step()
    except UsageError as error:
        return str(error)
    return ""


def test_shards_of_columns_are_refused_by_name(tmp_path):
    for text in on_ranks(2, tmp_path, _by_columns):
        assert text.startswith("weight is divided as") and "first axis" in text


def _checkpointed(world, folder):
    def made():
        model = net()
        fully_shard(model)
        return model, optim.orthogonalize(Adam(model.parameters(), 0.01), model)

    def train(model, optimizer, steps, start):
        for step in range(start, start + steps):
            for parameter, gradient in zip(model.parameters(), gradients(step), strict=True):
                parameter.grad = distribute_tensor(gradient.clone(), parameter.device_mesh, parameter.placements)
            optimizer.step()
        return [p.full_tensor().detach() for p in model.parameters()]

    model, optimizer = made()
    train(model, optimizer, 2, 0)
    dcp.save({"model": model.state_dict(), "optim": get_optimizer_state_dict(model, optimizer)}, checkpoint_id=folder)
    expected = train(model, optimizer, 2, 2)
    fresh, other = made()
    state = {"model": fresh.state_dict(), "optim": get_optimizer_state_dict(fresh, other)}
    dcp.load(state, checkpoint_id=folder)
    fresh.load_state_dict(state["model"])
    set_optimizer_state_dict(fresh, other, optim_state_dict=state["optim"])
    again = train(fresh, other, 2, 2)
    assert isinstance(next(iter(fresh.parameters())), DTensor)
    return all(torch.equal(a, b) for a, b in zip(expected, again, strict=True)), other.param_groups[0]["orthogonalize"]


def test_a_distributed_checkpoint_goes_round(tmp_path):
    folder = tmp_path / "checkpoint"
    assert on_ranks(2, tmp_path, _checkpointed, str(folder)) == [(True, True)] * 2


def test_a_copy_of_a_shared_optimizer_works_alone(tmp_path):
    def copied(world):
        model = net()
        optimizer = optim.orthogonalize(SGD(model.parameters(), 0.1), model, process_group=dist.group.WORLD)
        twin_model, twin = copy.deepcopy((model, optimizer))
        return all(torch.equal(a, b) for a, b in zip(trained(model, optimizer), trained(twin_model, twin), strict=True))

    assert on_ranks(2, tmp_path, copied) == [True, True]
