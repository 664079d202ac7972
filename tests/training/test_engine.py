"""What a step costs besides arithmetic: no waiting for the device, no recompilation."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from toy import Source, trainer

from orthostream import models
from orthostream.analysis import Recording
from orthostream.connections.switching import StepSwitch
from orthostream.training.step import Stepper


class Reads(TorchDispatchMode):
    """Counts the operations by which the host reads a value, which is what makes it wait for a device."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, operation, types, arguments=(), keywords=None):
        self.count += operation is torch.ops.aten._local_scalar_dense.default
        return operation(*arguments, **(keywords or {}))


@pytest.mark.parametrize("settings", [{}, {"clip_norm": 0.1, "accumulate": 2, "ema": True}])
@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.SGD])
def test_steps_between_log_rows_read_nothing_back(tmp_path, settings, kind):
    made = trainer(tmp_path, optimizer=lambda p: kind(p, 0.1, fused=True), log_interval=100, **settings)
    # As on CUDA, where looking would make the host wait.
    made.stepper._looks_every_step = False
    steps = made.train_batches.epoch(0)
    made._step(next(steps), stop := NoSignal())
    with Reads() as reads:
        for _ in range(3):
            made._step(next(steps), stop)
    assert reads.count == 0


class NoSignal:
    signal = 0


def test_the_counter_sees_a_read():
    with Reads() as reads:
        torch.ones(()).item()
    assert reads.count == 1


@pytest.mark.parametrize("kind", ["vit_s", "preact_resnet18"])
def test_nothing_recompiles_after_the_warm_up(kind):
    """Statistics, a step-wise switch, evaluation and new learning rates add no graph after their first time."""
    torch._dynamo.reset()
    small = {"embed_dim": 16, "depth": 2, "num_heads": 2} if kind == "vit_s" else {"widths": (4, 4, 8, 8)}
    model = models.create(kind, num_classes=3, connection="orthogonal", **small)
    recording, switch = Recording(model), StepSwitch(model.modules(), 0.5, seed=0)
    compiled = torch.compile(model, backend="aot_eager", dynamic=False)
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    stepper = Stepper(
        compiled,
        optimizer,
        torch.nn.CrossEntropyLoss(),
        mix=None,
        device=torch.device("cpu"),
        accumulate=1,
        clip_norm=1.0,
        autocast_dtype=None,
    )
    # The counter runs on from one test to the next.
    graphs = torch._dynamo.utils.counters["stats"]
    before = graphs["unique_graphs"]

    def step(number, recorded):
        switch.step(number)
        micro = torch.randn(4, 3, 32, 32), torch.randint(3, (4,))
        stepper.gradient((micro,), 0, number, recording.start if recorded else lambda: None)
        recording.stop()
        stepper.update(0.1 / (1 + number))

    step(0, False)
    step(1, True)
    warm = graphs["unique_graphs"]
    assert warm - before == 2
    for number in range(2, 14):
        step(number, number % 3 == 0)
        if number == 7:
            switch.evaluation()
            model.eval()
            with torch.no_grad():
                model(torch.randn(3, 3, 32, 32))
            model.train()
    assert graphs["unique_graphs"] == warm
    assert recording.collect()["activation/all/mean/x_norm2"] > 0


def test_the_toy_source_is_a_function_of_its_place():
    first, second = list(Source().epoch(1))[2][0][0], next(Source().epoch(1, 2))[0][0]
    assert torch.equal(first, second)
