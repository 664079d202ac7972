"""The loop: what it does at which step, and that a resumed run is the uninterrupted one."""

import json
import signal

import pytest
import torch
from torch import nn
from toy import BATCH, SAMPLES, Source, network, trainer

from orthostream.training import checkpoint as checkpoints
from orthostream.training.checkpoint import CheckpointError
from orthostream.training.signals import StopRequest
from orthostream.training.trainer import NonFiniteError, Timer
from orthostream.training.weights import load_weights

TIMINGS = ("train/samples_per_sec",)


class StopAfter(StopRequest):
    """Asks to stop once so many steps have begun."""

    def __init__(self, steps):
        super().__init__()
        self._left = steps

    @property
    def signal(self):
        self._left -= 1
        return 0 if self._left > 0 else signal.SIGTERM

    @signal.setter
    def signal(self, value):
        pass


def rows(folder):
    read = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in TIMINGS} for row in read]


def everything(trained):
    """All state of a trainer, as named tensors and builtins."""
    optimizer = {
        f"optimizer.{index}.{key}": value
        for index, held in trained.optimizer.state_dict()["state"].items()
        for key, value in held.items()
    }
    average = {f"average.{k}": v for k, v in (trained.average.state() if trained.average else {}).items()}
    return {**trained.model.state_dict(), **optimizer, **average, "generator": torch.get_rng_state()}


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


SETTINGS = {
    "plain": {},
    "averaged, accumulated, clipped": {"ema": True, "accumulate": 2, "clip_norm": 0.5},
    "bfloat16": {"autocast_dtype": torch.bfloat16},
    "float16 with scaler": {"autocast_dtype": torch.float16},
    "sgd": {"optimizer": lambda p: torch.optim.SGD(p, momentum=0.9, nesterov=True, fused=True)},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
# in the warm-up, inside an epoch, at the end of an epoch, in the last epoch
@pytest.mark.parametrize("stop_after", [2, 9, 12, 17])
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path, settings, stop_after):
    whole = trainer(tmp_path / "whole", **settings)
    assert whole.fit().is_finished
    expected = everything(whole)

    first = trainer(tmp_path / "parts", **settings)
    stopped = first.fit(StopAfter(stop_after))
    assert not stopped.is_finished and stopped.signal == signal.SIGTERM
    # Something happens to the log and the generators after the checkpoint; resuming undoes it.
    first.records.write("train", 99, 9, {"train/loss": 1.0})
    torch.manual_seed(77)
    with pytest.raises(AssertionError):
        assert_same(everything(first), expected)

    second = trainer(tmp_path / "parts", **settings)
    saved, _ = checkpoints.newest(tmp_path / "parts" / "checkpoints")
    assert saved is not None and saved.manifest["step"] == stop_after
    second.resume(saved)
    assert second.fit().is_finished
    assert_same(everything(second), expected)
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole")
    assert second.position.best == whole.position.best


def test_a_finished_run_resumes_to_nothing(tmp_path):
    first = trainer(tmp_path)
    first.fit()
    before = rows(tmp_path)
    again = trainer(tmp_path)
    saved, _ = checkpoints.newest(tmp_path / "checkpoints")
    again.resume(saved)
    assert again.fit().is_finished
    assert again.train_batches.taken == []
    assert rows(tmp_path) == before


def test_no_step_too_many(tmp_path):
    made = trainer(tmp_path, max_steps=8)
    outcome = made.fit()
    assert outcome.position.step == 8
    assert [row["step"] for row in rows(tmp_path) if row["kind"] == "epoch"] == [6, 8]


def test_rows_carry_the_rate_that_the_step_used_and_the_norm_before_clipping(tmp_path):
    made = trainer(tmp_path, clip_norm=1e-3, log_interval=1)
    made.fit()
    trained = [row for row in rows(tmp_path) if row["kind"] == "train"]
    assert len(trained) == 18
    assert [row["train/lr"] for row in trained] == [made.schedule(step) for step in range(18)]
    assert all(row["train/grad/global_norm"] > 1e-3 for row in trained)


def test_images_a_second_count_the_global_batch(tmp_path, monkeypatch):
    monkeypatch.setattr(Timer, "rate", lambda self, step: 2.5)
    trainer(tmp_path, accumulate=2, max_steps=4).fit()
    (line, *_) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line)["train/samples_per_sec"] == 2.5 * BATCH


def test_accumulation_is_the_mean_over_micro_batches(tmp_path):
    # Without BatchNorm and Dropout two halves give the gradient of the whole.
    def gradient(accumulate):
        made = trainer(tmp_path / str(accumulate), accumulate=accumulate)
        made.model.eval()
        made.stepper.gradient(next(made.train_batches.epoch(0)), 0, 0, lambda: None)
        return [p.grad for p in made.model.parameters()]

    for one, two in zip(gradient(1), gradient(2), strict=True):
        # two sums of four instead of one of eight, float32
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("poisoned", [0, 9])
def test_a_non_finite_loss_stops_before_the_update(tmp_path, poisoned):
    clean = trainer(tmp_path / "clean", max_steps=poisoned or 1)
    clean.fit()
    made = trainer(tmp_path / "bad", source=Source(poisoned_step=poisoned))
    with pytest.raises(NonFiniteError, match=f"before step {poisoned + 1} .*no update was made"):
        made.fit()
    if poisoned:
        assert torch.equal(made.model[0].weight, clean.model[0].weight)
    else:
        assert torch.equal(made.model[0].weight, network()[0].weight)
    saved, _ = checkpoints.newest(tmp_path / "bad" / "checkpoints")
    if poisoned:
        # the last good state is that of the epoch before
        assert saved.manifest["step"] == 6
        assert all(v.isfinite().all() for v in saved.weights.values() if v.is_floating_point())
    else:
        assert saved is None


def test_a_device_that_is_not_looked_at_leaves_the_weights_alone(tmp_path):
    """On CUDA the host looks late; the flag on the device must hold the weights until then."""
    clean = trainer(tmp_path / "clean", max_steps=2)
    clean.fit()
    made = trainer(tmp_path / "bad", source=Source(poisoned_step=2), log_interval=5)
    made.stepper._looks_every_step = False
    with pytest.raises(NonFiniteError):
        made.fit()
    assert made.position.step == 5
    for name, held in made.model.named_parameters():
        assert torch.equal(held, dict(clean.model.named_parameters())[name]), name


def test_float16_overflow_is_skipped_counted_and_not_scheduled(tmp_path):
    made = trainer(tmp_path, autocast_dtype=torch.float16, log_interval=1)
    made.stepper.scaler._init_scale = 2.0**24
    made.fit()
    skipped = made.position.skipped
    assert 0 < skipped < 17
    last = [row for row in rows(tmp_path) if row["kind"] == "train"][-1]
    assert last["train/skipped_steps"] == skipped
    assert last["train/lr"] == made.schedule(17 - skipped)


def test_float16_that_no_scale_helps_stops(tmp_path):
    made = trainer(tmp_path, autocast_dtype=torch.float16, epochs=4)
    made.stepper.scaler._init_scale = 2.0**100
    with pytest.raises(NonFiniteError, match=r"20 steps in a row.*bfloat16"):
        made.fit()


def test_the_rules_of_keeping(tmp_path):
    made = trainer(tmp_path, epochs=3, save_every_steps=2, keep=2, keep_every_epochs=2)
    made.fit()
    names = [path.name for path in checkpoints.saved(tmp_path / "checkpoints")]
    best = checkpoints.pointed(tmp_path / "checkpoints", "best.json")
    assert best is not None and best.name == made.position.best["checkpoint"] and best.name in names
    assert "step-00000012-epoch-002" in names
    assert names[-2:] == ["step-00000016", "step-00000018-epoch-003"]
    assert len(names) <= 4


def test_weights_of_another_model_are_refused_by_name():
    model = nn.Linear(3, 2)
    with pytest.raises(CheckpointError, match=r"1 missing: bias; 1 unexpected: gain; 1 of another shape: weight"):
        load_weights(model, {"weight": torch.zeros(2, 4), "gain": torch.zeros(1)}, "there")


def test_hooks_see_every_step_and_every_evaluation(tmp_path):
    class Hook:
        def __init__(self):
            self.calls = []

        def step(self, step):
            self.calls.append(step)

        def evaluation(self):
            self.calls.append("evaluation")

    hook = Hook()
    trainer(tmp_path, hooks=[hook], max_steps=8).fit()
    assert hook.calls == [0, 1, 2, 3, 4, 5, "evaluation", 6, 7, "evaluation"]


def test_evaluation_counts_are_in_the_epoch_rows(tmp_path):
    trainer(tmp_path, ema=True).fit()
    epochs = [row for row in rows(tmp_path) if row["kind"] == "epoch"]
    assert [row["val/n"] for row in epochs] == [SAMPLES] * 3
    assert all({"train/epoch_loss", "val/loss", "val/acc@5", "val_average/acc@1"} <= row.keys() for row in epochs)
