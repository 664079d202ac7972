"""Batches are the same for any number of processes and from any step, in the order of the other pipeline."""

import pytest
import torch

from orthostream import data
from orthostream.data.batched import loader as module
from orthostream.data.batched.loader import BatchedEvalLoader, BatchedTrainLoader
from orthostream.data.errors import DataError
from orthostream.data.images import ImageTensorSet
from orthostream.data.loader import EvalLoader, TrainLoader
from orthostream.data.transforms import evaluation_transform, train_transform
from orthostream.errors import UsageError

BATCH = 12


@pytest.fixture(scope="module")
def splits():
    whole = data.load("digits")
    return data.Splits(
        ImageTensorSet(whole.train.images[:50], whole.train.labels[:50], 10, "some digits"),
        ImageTensorSet(whole.evaluation.images[:31], whole.evaluation.labels[:31], 10, "some digits"),
        whole.description,
    )


@pytest.fixture
def open_loader(splits):
    made = []
    transform = train_transform(splits.description, "vit", randaugment_n=2, randaugment_m=5, random_erase=0.5)

    def make(dataset=None, transform=transform, **options):
        images = splits.train if dataset is None else dataset
        made.append(BatchedTrainLoader(images, transform, **{"seed": 7, "batch_size": BATCH, **options}))
        return made[-1]

    yield make
    for loader in made:
        loader.close()


def flat(steps):
    """Images and labels of some steps, micro-batches joined."""
    return [(torch.cat([x for x, _ in micros]), torch.cat([y for _, y in micros])) for micros in steps]


def assert_same(steps, others):
    assert len(steps) == len(others)
    for (images, labels), (other_images, other_labels) in zip(steps, others, strict=True):
        assert torch.equal(images, other_images) and torch.equal(labels, other_labels)


def test_shapes_and_counts(open_loader):
    loader = open_loader(accumulate=3)
    assert (loader.size, loader.steps_per_epoch) == (50, 4)
    steps = list(loader.epoch(0))
    assert len(steps) == 4 and all(len(micros) == 3 for micros in steps)
    images, labels = steps[0][0]
    assert images.shape == (4, 1, 8, 8) and images.dtype == torch.float32
    assert labels.shape == (4,) and labels.dtype == torch.int64


@pytest.mark.parametrize("ahead", [1, 5, 30, 2048])
def test_how_many_batches_are_augmented_at_once_changes_nothing(ahead, open_loader, monkeypatch):
    whole = [flat(open_loader().epoch(epoch)) for epoch in range(3)]
    monkeypatch.setattr(module, "AHEAD", ahead)
    for epoch in range(3):
        assert_same(flat(open_loader(accumulate=2).epoch(epoch)), whole[epoch])
    monkeypatch.setattr(module, "BYTES_AHEAD", 1)
    assert_same(flat(open_loader().epoch(0)), whole[0])


@pytest.mark.parametrize("count", [1, 3])
def test_the_number_of_threads_changes_nothing(count, open_loader):
    whole, before = flat(open_loader().epoch(1)), torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        assert_same(flat(open_loader().epoch(1)), whole)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("world_size", [2, 3])
def test_processes_together_load_the_same_global_batch(world_size, accumulate, open_loader):
    alone = flat(open_loader().epoch(1))
    ranks = [
        list(open_loader(accumulate=accumulate, rank=rank, world_size=world_size).epoch(1))
        for rank in range(world_size)
    ]
    together = []
    for shares in zip(*ranks, strict=True):
        together += flat([[micro for each in zip(*shares, strict=True) for micro in each]])
    assert_same(together, alone)


def test_an_epoch_can_begin_at_any_step(open_loader):
    loader = open_loader(accumulate=2)
    whole = flat(loader.epoch(2))
    for start in (3, 0, 1, 4):
        assert_same(flat(loader.epoch(2, start)), whole[start:])
    left = loader.epoch(2)
    next(left)
    assert_same(flat(loader.epoch(2, 1)), whole[1:])
    loader.close()
    assert_same(flat(open_loader().epoch(2, 2)), whole[2:])


def test_epochs_seeds_and_samples_are_augmented_differently(open_loader, splits):
    seen = {}
    for seed in (7, 8):
        for epoch in (0, 1):
            # All fifty pictures in one batch, so that the sets of pictures are the same.
            (images, _), *_ = flat(open_loader(seed=seed, batch_size=50).epoch(epoch))
            seen[seed, epoch] = tuple(sorted(image.numpy().tobytes() for image in images))
    assert len(set(seen.values())) == 4
    copies = ImageTensorSet(splits.train.images[:1].expand(BATCH, -1, -1, -1), torch.zeros(BATCH).long(), 10, "copies")
    images, _ = flat(open_loader(copies).epoch(0))[0]
    assert len({image.numpy().tobytes() for image in images}) > BATCH / 2


def test_no_generator_is_touched(open_loader):
    before = torch.get_rng_state()
    whole = flat(open_loader().epoch(0))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    assert_same(flat(open_loader().epoch(0)), whole)


@pytest.mark.parametrize(("rank", "accumulate"), [(0, 1), (1, 2)])
def test_order_and_shares_are_those_of_the_workers(rank, accumulate, splits, open_loader):
    options = {"seed": 3, "batch_size": BATCH, "accumulate": accumulate, "rank": rank, "world_size": 2}
    # Without augmentation both pipelines give the same bits.
    plain = train_transform(splits.description, "none")
    workers = TrainLoader(splits.train, plain, **options)
    for epoch in (0, 1):
        assert_same(flat(open_loader(transform=plain, **options).epoch(epoch)), flat(workers.epoch(epoch)))


@pytest.mark.parametrize("world_size", [1, 2, 40])
@pytest.mark.parametrize("pipeline", ["vit", "resnet"])
def test_an_evaluation_is_that_of_the_workers_bit_for_bit(pipeline, world_size, splits):
    transform = evaluation_transform(splits.description, pipeline)
    for rank in range(0, world_size, 13):
        options = {"batch_size": 4, "rank": rank, "world_size": world_size}
        ours = BatchedEvalLoader(splits.evaluation, transform, **options)
        theirs = EvalLoader(splits.evaluation, transform, **options)
        assert (ours.total, len(ours)) == (theirs.total, len(theirs))
        assert_same(list(ours), list(theirs))
        assert_same(list(ours), list(theirs))


def test_images_can_be_looked_at_by_their_places(open_loader):
    loader = open_loader()
    for (images, _), places in zip(flat(loader.epoch(1)), loader.batches.micro_batches(1), strict=True):
        assert torch.equal(loader.augmented(1, torch.tensor([index for _, index in places])), images)


def test_wrong_numbers_are_refused(open_loader, splits):
    with pytest.raises(UsageError, match="steps 0 to 3, it cannot start at 5"):
        open_loader().epoch(0, 5)
    with pytest.raises(DataError, match="50 samples, fewer than one global batch of 60"):
        open_loader(batch_size=60)
    with pytest.raises(UsageError, match="does not divide"):
        open_loader(batch_size=7, accumulate=2)
    with pytest.raises(UsageError, match="eval_batch_size=0"):
        BatchedEvalLoader(splits.evaluation, evaluation_transform(splits.description, "vit"), batch_size=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
def test_a_device_sees_what_the_cpu_sees(open_loader):
    for (images, labels), (others, other_labels) in zip(
        flat(open_loader(device="cuda").epoch(0)), flat(open_loader().epoch(0)), strict=True
    ):
        assert images.is_cuda and torch.equal(labels.cpu(), other_labels)
        # A level of 255 may be cut off the other way, which later operations widen; draws and places are the same.
        assert ((images.cpu() - others).abs() > 1e-4).double().mean() < 1e-2
