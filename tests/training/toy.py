"""A small model and data set for tests of the loop; nothing of ours but the trainer takes part."""

import torch
from torch import nn

from orthostream.training.distributed import World
from orthostream.training.ema import WeightAverage
from orthostream.training.records import MetricsFile, Records
from orthostream.training.schedule import Schedule
from orthostream.training.settings import Settings
from orthostream.training.trainer import Trainer

SAMPLES, FEATURES, CLASSES, BATCH = 48, 6, 3, 8
CPU = World(0, 1, torch.device("cpu"))


class Source:
    """Batches as a pure function of (epoch, step)."""

    def __init__(self, accumulate=1, poisoned_step=None):
        generator = torch.Generator().manual_seed(0)
        self.images = torch.randn(SAMPLES, FEATURES, generator=generator)
        self.labels = torch.randint(CLASSES, (SAMPLES,), generator=generator)
        self.accumulate, self.poisoned_step = accumulate, poisoned_step
        self.steps_per_epoch = SAMPLES // BATCH
        self.taken = []

    def epoch(self, epoch, start_step=0):
        order = torch.randperm(SAMPLES, generator=torch.Generator().manual_seed(epoch))
        for step in range(start_step, self.steps_per_epoch):
            self.taken.append((epoch, step))
            chosen = order[step * BATCH : (step + 1) * BATCH]
            images = self.images[chosen].clone()
            if self.poisoned_step == epoch * self.steps_per_epoch + step:
                images[0, 0] = float("nan")
            yield tuple(zip(images.chunk(self.accumulate), self.labels[chosen].chunk(self.accumulate), strict=True))


class Split(list):
    def __init__(self, source):
        super().__init__([(source.images, source.labels)])
        self.total = SAMPLES


def network():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(FEATURES, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, CLASSES))


def trainer(folder, *, source=None, optimizer=None, ema=False, world=CPU, hooks=(), **changes):
    """A trainer in ``folder``; the same call makes the same trainer."""
    source = source or Source(changes.get("accumulate", 1))
    model = network().to(world.device)
    settings = Settings(
        **{"epochs": 3, "steps_per_epoch": source.steps_per_epoch, "batch_size": BATCH, "log_interval": 4, **changes}
    )
    folder.mkdir(parents=True, exist_ok=True)
    optimizer = optimizer or (lambda p: torch.optim.Adam(p, weight_decay=1e-3, fused=True))
    torch.manual_seed(2)
    return Trainer(
        model=model,
        optimizer=optimizer(model.parameters()),
        schedule=Schedule(lr=0.05, steps_per_epoch=source.steps_per_epoch, epochs=3, warmup_epochs=1),
        criterion=nn.CrossEntropyLoss(label_smoothing=0.1),
        train_batches=source,
        evaluation_batches=Split(source),
        settings=settings,
        world=world,
        folder=folder / "checkpoints",
        records=Records(MetricsFile(folder / "metrics.jsonl"), []),
        average=WeightAverage(model, 0.9) if ema else None,
        hooks=hooks,
    )
