"""Batches are the same for any number of workers and processes and from any step; failures are explained."""

import multiprocessing
import os
import pickle
import signal
import time

import pytest
import torch
from PIL import Image
from torch.utils.data import _utils

from orthostream import data
from orthostream.data.errors import DataError
from orthostream.data.images import ImageFileSet, ImageTensorSet
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
    """Make loaders with a transform that draws a lot, and end their workers after the test."""
    made = []
    transform = train_transform(splits.description, "vit", randaugment_n=2, randaugment_m=5, random_erase=0.5)

    def make(dataset=None, transform=transform, **options):
        loader = TrainLoader(
            splits.train if dataset is None else dataset, transform, **{"seed": 7, "batch_size": BATCH, **options}
        )
        made.append(loader)
        return loader

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


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_change_nothing(workers, open_loader):
    alone, helped = open_loader(accumulate=2), open_loader(accumulate=2, workers=workers)
    for epoch in range(3):
        assert_same(flat(helped.epoch(epoch)), flat(alone.epoch(epoch)))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_processes_together_load_the_same_global_batch(accumulate, open_loader):
    alone = flat(open_loader().epoch(1))
    ranks = [
        list(open_loader(accumulate=accumulate, rank=rank, world_size=2, workers=rank).epoch(1)) for rank in (0, 1)
    ]
    together = []
    for shares in zip(*ranks, strict=True):
        micros = [micro for pair in zip(*shares, strict=True) for micro in pair]
        together += flat([micros])
    assert_same(together, alone)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_can_begin_at_any_step(workers, open_loader):
    loader = open_loader(accumulate=2, workers=workers)
    whole = flat(loader.epoch(2))
    # The same loader, with workers that have prefetched beyond where the last iteration was left.
    for start in (3, 0, 1, 4):
        assert_same(flat(loader.epoch(2, start)), whole[start:])
    left = loader.epoch(2)
    next(left)
    assert_same(flat(loader.epoch(2, 1)), whole[1:])
    assert_same(flat(open_loader(workers=1).epoch(2, 2)), whole[2:])


def test_epochs_seeds_and_samples_are_augmented_differently(open_loader, splits):
    seen = {}
    for seed in (7, 8):
        for epoch in (0, 1):
            # All fifty pictures in one batch, so that the sets of pictures are the same.
            images = torch.cat([x for x, _ in flat(open_loader(seed=seed, batch_size=50).epoch(epoch))])
            seen[seed, epoch] = sorted(image.numpy().tobytes() for image in images)
    assert len({tuple(images) for images in seen.values()}) == 4
    # The same picture many times over becomes many pictures.
    copies = ImageTensorSet(splits.train.images[:1].expand(BATCH, -1, -1, -1), torch.zeros(BATCH).long(), 10, "copies")
    images, _ = flat(open_loader(copies).epoch(0))[0]
    assert len({image.numpy().tobytes() for image in images}) > BATCH / 2


@pytest.mark.parametrize("workers", [0, 1])
def test_the_global_generators_are_left_alone(workers, open_loader, splits):
    before = torch.get_rng_state()
    loader = open_loader(workers=workers)
    for _ in loader.epoch(0):
        assert torch.equal(torch.get_rng_state(), before)
    for _ in EvalLoader(
        splits.evaluation, evaluation_transform(splits.description, "vit"), batch_size=8, workers=workers
    ):
        assert torch.equal(torch.get_rng_state(), before)
    # Nor does what the generators did before matter.
    whole = flat(loader.epoch(0))
    torch.manual_seed(99)
    assert_same(flat(open_loader(workers=workers).epoch(0)), whole)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_an_evaluation_loads_each_sample_once(workers, world_size, splits):
    transform = evaluation_transform(splits.description, "vit")
    seen = []
    for rank in range(world_size):
        loader = EvalLoader(
            splits.evaluation, transform, batch_size=4, rank=rank, world_size=world_size, workers=workers
        )
        assert loader.total == 31
        batches = list(loader)
        assert len(batches) == len(loader)
        seen += [(image, int(label)) for images, labels in batches for image, label in zip(images, labels, strict=True)]
    assert len(seen) == 31
    expected = {transform(splits.evaluation.image(i)).numpy().tobytes(): splits.evaluation.label(i) for i in range(31)}
    assert {image.numpy().tobytes(): label for image, label in seen} == expected


def test_an_evaluation_repeats_itself_and_may_be_larger_than_its_processes(splits):
    transform = evaluation_transform(splits.description, "vit")
    loader = EvalLoader(splits.evaluation, transform, batch_size=16)
    assert_same(list(loader), list(loader))
    assert list(EvalLoader(splits.evaluation, transform, batch_size=4, rank=40, world_size=50, workers=1)) == []


@pytest.fixture
def broken(tmp_path):
    """Twelve files, one of them no image."""
    names = [f"{i}.png" for i in range(BATCH)]
    for name in names:
        Image.new("RGB", (32, 32)).save(tmp_path / name)
    (tmp_path / "5.png").write_bytes(b"<html>")
    return ImageFileSet(tmp_path, names, torch.zeros(BATCH, dtype=torch.int64), 2)


def plain(image):
    return torch.zeros(3, 4, 4)


def fails_on_wide(image):
    raise ZeroDivisionError("too wide")


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_image_stops_with_its_path(workers, broken, open_loader):
    loader = open_loader(broken, plain, workers=workers)
    with pytest.raises(DataError) as caught:
        list(loader.epoch(0))
    message = str(caught.value)
    assert message.startswith("cannot read image ") and "5.png, index 5 (6 bytes)" in message
    assert "Traceback" not in message and "Traceback" in caught.value.__notes__[0]
    with pytest.raises(DataError, match=r"5\.png"):
        list(EvalLoader(broken, plain, batch_size=5, workers=workers))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_failing_transform_names_the_image(workers, broken, open_loader):
    message = r"the transform failed on .*\.png, index \d+: ZeroDivisionError: too wide"
    with pytest.raises(DataError, match=message):
        list(open_loader(broken, fails_on_wide, workers=workers).epoch(0))


def ends_its_process(image):
    os.kill(os.getpid(), signal.SIGKILL)


def hangs(image):
    time.sleep(3600)


def test_a_killed_worker_is_explained(broken, open_loader):
    with pytest.raises(DataError, match=r"loading stopped: .*(killed by signal|exited unexpectedly).*data\.workers"):
        list(open_loader(broken, ends_its_process, workers=1).epoch(0))


def test_a_worker_that_hangs_is_given_up_and_killed(broken, open_loader, monkeypatch):
    # How long torch waits, twice, for a worker to leave by itself: 5 s otherwise.
    monkeypatch.setattr(_utils, "MP_STATUS_CHECK_INTERVAL", 0.3)
    loader = open_loader(broken, hangs, workers=1, timeout=0.5)
    steps = loader.epoch(0)
    with pytest.raises(DataError, match=r"timed out after 0\.5 seconds.*hangs often waits"):
        next(steps)
    # Waiting for it again would last an hour.
    assert not _children()


def _children():
    deadline = time.monotonic() + 5
    while (alive := multiprocessing.active_children()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return alive


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_workers_leave_signals_to_their_parent(number, open_loader):
    loader = open_loader(workers=2)
    whole = flat(open_loader().epoch(0))
    steps = loader.epoch(0)
    got = [next(steps)]
    for worker in multiprocessing.active_children():
        os.kill(worker.pid, number)
    assert_same(flat([*got, *steps]), whole)
    loader.close()
    assert not _children()


def test_a_closed_loader_opens_again(open_loader):
    loader = open_loader(workers=1)
    whole = flat(loader.epoch(0))
    loader.close()
    loader.close()
    assert not _children()
    assert_same(flat(loader.epoch(0)), whole)


def test_workers_live_from_epoch_to_epoch(open_loader):
    loader = open_loader(workers=2)
    list(loader.epoch(0))
    first = {worker.pid for worker in multiprocessing.active_children()}
    list(loader.epoch(1))
    assert {worker.pid for worker in multiprocessing.active_children()} == first and len(first) == 2


def test_wrong_numbers_are_refused(open_loader, splits):
    with pytest.raises(UsageError, match=r"workers=-1"):
        open_loader(workers=-1)
    with pytest.raises(UsageError, match="steps 0 to 3, it cannot start at 5"):
        open_loader().epoch(0, 5)
    with pytest.raises(DataError, match="50 samples, fewer than one global batch of 60"):
        open_loader(batch_size=60)


def test_what_workers_get_can_be_pickled(open_loader):
    # Where processes are not forked, it is.
    loader = open_loader()
    samples = pickle.loads(pickle.dumps(loader._samples))
    assert torch.equal(samples[1, 3][0], loader._samples[1, 3][0])
