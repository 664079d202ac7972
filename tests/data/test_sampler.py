"""Every step has the same samples for any number of processes, and every evaluation each sample once."""

from itertools import chain, product

import pytest

from orthostream.data.errors import DataError
from orthostream.data.sampler import EpochBatches, EvalShard
from orthostream.errors import UsageError


def batches(rank=0, world_size=1, accumulate=1, size=50, batch_size=12, seed=3):
    return EpochBatches(size, seed=seed, batch_size=batch_size, accumulate=accumulate, rank=rank, world_size=world_size)


def steps(world_size, accumulate, epoch=0, start_step=0):
    """Global batch of each step, in the order micro-batch, process, sample."""
    shares = [
        list(batches(rank, world_size, accumulate).micro_batches(epoch, start_step)) for rank in range(world_size)
    ]
    micros = [[place for share in micro for place in share] for micro in zip(*shares, strict=True)]
    return [list(chain(*micros[i : i + accumulate])) for i in range(0, len(micros), accumulate)]


@pytest.mark.parametrize(("world_size", "accumulate"), list(product([1, 2, 3], [1, 2])))
def test_the_global_batch_does_not_depend_on_how_it_is_shared(world_size, accumulate):
    alone = steps(1, 1)
    assert steps(world_size, accumulate) == alone
    assert [len(step) for step in alone] == [12] * 4


def test_an_epoch_is_a_permutation_without_its_incomplete_end():
    seen = [index for step in steps(1, 1) for _, index in step]
    assert len(set(seen)) == len(seen) == 48 and set(seen) <= set(range(50))
    order = batches().order(0)
    assert sorted(order.tolist()) == list(range(50)) and seen == order[:48].tolist()


def test_epochs_and_seeds_differ():
    orders = [tuple(batches(seed=seed).order(epoch).tolist()) for seed in (0, 1) for epoch in (0, 1, 2)]
    assert len(set(orders)) == 6


@pytest.mark.parametrize("start", range(5))
def test_any_step_can_be_the_first(start):
    assert steps(2, 2, epoch=1, start_step=start) == steps(2, 2, epoch=1)[start:]


@pytest.mark.parametrize(("batch_size", "world_size", "accumulate"), [(12, 5, 1), (12, 1, 5), (12, 4, 2), (0, 1, 1)])
def test_a_batch_that_does_not_divide_is_refused_with_the_arithmetic(batch_size, world_size, accumulate):
    with pytest.raises(UsageError, match=rf"{batch_size} .*{world_size} processes x {accumulate}.*such as \d+"):
        batches(0, world_size, accumulate, batch_size=batch_size)


def test_the_suggested_batch_is_accepted():
    with pytest.raises(UsageError, match="such as 15"):
        batches(0, 5, 1, batch_size=13)
    assert batches(0, 5, 1, batch_size=15).steps_per_epoch == 3


def test_a_set_smaller_than_a_batch_is_refused_with_the_numbers():
    with pytest.raises(DataError, match="11 samples, fewer than one global batch of 12"):
        batches(size=11)
    assert batches(size=12).steps_per_epoch == 1


@pytest.mark.parametrize(("world_size", "batch_size"), list(product([1, 2, 3, 4], [1, 3, 4])))
def test_an_evaluation_has_each_sample_once(world_size, batch_size):
    for size in range(1, 2 * world_size * batch_size + 1):
        shards = [EvalShard(size, rank, world_size, batch_size) for rank in range(world_size)]
        seen = [index for shard in shards for batch in shard for index in batch]
        assert sorted(seen) == list(range(size))
        for shard in shards:
            loaded = list(shard)
            assert len(loaded) == len(shard)
            assert all(1 <= len(batch) <= batch_size for batch in loaded)


def test_an_evaluation_batch_below_one_is_refused():
    with pytest.raises(UsageError, match="eval_batch_size=0"):
        EvalShard(5, 0, 1, 0)
