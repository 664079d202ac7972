"""Several processes: exact evaluation at every size, agreed stops, and the same run on one and two ranks."""

import signal

import pytest
import torch
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from toy import BATCH, CPU, Source, Split, network, trainer

from orthostream.training import checkpoint as checkpoints
from orthostream.training.checkpoint import CheckpointError
from orthostream.training.evaluate import evaluate
from orthostream.training.signals import StopRequest
from orthostream.training.trainer import NonFiniteError
from orthostream.training.wrap import wrap
from ranks import on_ranks

pytestmark = pytest.mark.distributed


class Share(list):
    """Every ``size``-th sample from ``rank`` on, in batches; together all samples once."""

    def __init__(self, samples, labels, world, batch):
        own, classes = samples[world.rank :: world.size], labels[world.rank :: world.size]
        super().__init__(zip(own.split(batch), classes.split(batch), strict=True) if len(own) else ())
        self.total = len(labels)


def _evaluations(world, sizes, batch):
    results = []
    for size in sizes:
        generator = torch.Generator().manual_seed(size)
        logits, labels = torch.randn(size, 7, generator=generator), torch.randint(7, (size,), generator=generator)
        results.append(evaluate(nn.Identity(), Share(logits, labels, world, batch), world, with_confusion=True))
    return results


@pytest.mark.parametrize("world_size", [2, 3])
def test_each_sample_counts_once_at_every_size(tmp_path, world_size):
    batch = 4
    sizes = [*range(1, 2 * world_size * batch + 1), 31]
    alone = on_ranks(1, tmp_path, _evaluations, sizes, batch)[0]
    for rank in on_ranks(world_size, tmp_path, _evaluations, sizes, batch):
        for size, one, many in zip(sizes, alone, rank, strict=True):
            assert (many.n, many.top1, many.top5, many.confusion) == (size, one.top1, one.top5, one.confusion)
            # float64 sums in another order
            assert many.loss == pytest.approx(one.loss, rel=1e-12)


class Halves(Source):
    """This rank's half of each batch."""

    def __init__(self, world, accumulate=1):
        super().__init__()
        self.world, self.parts = world, accumulate

    def epoch(self, epoch, start_step=0):
        def own(tensor):
            return tensor.chunk(self.world.size)[self.world.rank]

        for ((images, labels),) in super().epoch(epoch, start_step):
            micros = zip(images.chunk(self.parts), labels.chunk(self.parts), strict=True)
            yield tuple((own(part), own(classes)) for part, classes in micros)


def _trained(world, folder, accumulate, stop_on_rank=None):
    source = Halves(world, accumulate)
    made = trainer(folder / str(world.rank), source=source, world=world, accumulate=accumulate, max_steps=8)
    made.evaluation_batches = Share(source.images, source.labels, world, BATCH)
    # BatchNorm and Dropout would differ by rank; what is compared is the arithmetic of the loop.
    made.model[1], made.model[3] = nn.Identity(), nn.Identity()
    made.optimizer = made.stepper.optimizer = torch.optim.SGD(made.model.parameters(), lr=0.1, momentum=0.9, fused=True)
    made.stepper._parameters = list(made.model.parameters())
    made.stepper.model = wrap(made.model, world, None)
    stop = StopRequest()
    if stop_on_rank == world.rank:
        stop.signal = signal.SIGTERM
    outcome = made.fit(stop)
    return {k: v.clone() for k, v in made.model.state_dict().items()}, outcome.position.step, outcome.signal


@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_ranks_train_as_one(tmp_path, accumulate):
    one = on_ranks(1, tmp_path, _trained, tmp_path / "one", accumulate)[0][0]
    first, second = (weights for weights, _, _ in on_ranks(2, tmp_path, _trained, tmp_path / "two", accumulate))
    for name in one:
        assert torch.equal(first[name], second[name])
        # eight float32 steps whose sums run in another order
        torch.testing.assert_close(first[name], one[name], rtol=1e-5, atol=1e-6)


def test_a_signal_on_one_rank_stops_all_at_one_step(tmp_path):
    outcomes = on_ranks(2, tmp_path, _trained, tmp_path / "stopped", 1, 1)
    assert [(step, number) for _, step, number in outcomes] == [(1, signal.SIGTERM)] * 2


def _reductions(world, folder, accumulate):
    made = trainer(folder / str(world.rank), source=Halves(world, accumulate), world=world, accumulate=accumulate)
    made.model[1] = nn.Identity()
    calls = 0

    def count(state, bucket):
        nonlocal calls
        calls += 1
        return default_hooks.allreduce_hook(state, bucket)

    wrapped = wrap(made.model, world, None)
    wrapped.register_comm_hook(None, count)
    made.stepper.model = wrapped
    micros = next(made.train_batches.epoch(0))
    made.stepper.gradient(micros, 0, 0, lambda: None)
    return len(micros), calls


def test_gradients_are_reduced_once_a_step(tmp_path):
    assert on_ranks(2, tmp_path, _reductions, tmp_path / "run", 2) == [(2, 1), (2, 1)]


def _normed(world, folder):
    source = Halves(world)
    made = trainer(folder / "run" if world.is_main else folder / "other", source=source, world=world, max_steps=6)
    made.evaluation_batches = Share(source.images, source.labels, world, BATCH)
    made.stepper.model = wrap(made.model, world, None)
    made.fit()
    return made.final


def test_batch_statistics_of_rank_0_are_those_of_the_evaluation(tmp_path):
    first, second = on_ranks(2, tmp_path, _normed, tmp_path / "shared")
    assert first == second
    saved, _ = checkpoints.newest(tmp_path / "shared" / "run" / "checkpoints")
    model, source = network(), Source()
    model.load_state_dict(saved.weights)
    alone = evaluate(model, Split(source), CPU)
    assert alone.as_log()["val/acc@1"] == first["val/acc@1"]
    # batches of another size, float32
    assert alone.loss == pytest.approx(first["val/loss"], rel=1e-5)


def _poisoned(world, folder):
    source = Halves(world)
    made = trainer(folder / str(world.rank), source=source, world=world)
    if world.rank == 1:
        source.images[:] = float("nan")
    made.stepper.model = wrap(made.model, world, None)
    try:
        made.fit()
    except NonFiniteError:
        return torch.equal(made.model[0].weight, network()[0].weight)
    return None


def test_a_nan_on_one_rank_stops_all_before_the_update(tmp_path):
    assert on_ranks(2, tmp_path, _poisoned, tmp_path / "run") == [True, True]


def _full_disk(world, folder):
    made = trainer(folder / "run", source=Halves(world), world=world, max_steps=2)
    made.evaluation_batches = Share(made.train_batches.images, made.train_batches.labels, world, BATCH)
    if world.is_main:

        def refuse(*_):
            raise CheckpointError("the disk is full")

        made._write = refuse
    try:
        made.fit()
    except CheckpointError as error:
        return str(error)
    return None


def test_a_disk_that_is_full_for_rank_0_stops_all(tmp_path):
    assert on_ranks(2, tmp_path, _full_disk, tmp_path / "shared") == ["the disk is full"] * 2
