"""The small parts of the trainer: averages, records, the run folder, signals."""

import json
import math
import os
import signal
import subprocess
import sys
import types

import pytest
import torch
from torch import nn

from locations import REPOSITORY
from orthostream.errors import UsageError
from orthostream.training.distributed import World
from orthostream.training.ema import WeightAverage
from orthostream.training.progress import Lines, duration
from orthostream.training.records import MetricsFile, Records, TensorBoard, WeightsAndBiases
from orthostream.training.run_folder import RunFolder
from orthostream.training.signals import stop_requests

ALONE = World(0, 1, torch.device("cpu"))


def normed():
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def test_the_average_is_the_recursion_and_copies_buffers():
    torch.manual_seed(0)
    model = normed()
    average = WeightAverage(model, 0.9)
    expected = model[0].weight.detach().double().clone()
    for _ in range(5):
        with torch.no_grad():
            model[0].weight.add_(torch.randn(4, 3))
            model[1].running_mean.add_(1)
        average.update()
        expected = 0.9 * expected + 0.1 * model[0].weight.double()
    state = average.state()
    # float32 recursion over five steps
    torch.testing.assert_close(state["0.weight"].double(), expected.detach(), rtol=1e-6, atol=1e-6)
    assert torch.equal(state["1.running_mean"], model[1].running_mean)
    assert state["1.num_batches_tracked"].dtype is torch.int64


def test_the_average_takes_the_place_of_the_weights_for_a_while():
    model = normed()
    average = WeightAverage(model, 0.0)
    with torch.no_grad():
        model[0].weight.fill_(1)
    average.update()
    with torch.no_grad():
        model[0].weight.fill_(2)
    with average.in_place_of_weights():
        assert bool((model[0].weight == 1).all())
    assert bool((model[0].weight == 2).all())


def test_a_saved_average_goes_on():
    model = normed()
    average, other = WeightAverage(model, 0.5), WeightAverage(model, 0.5)
    with torch.no_grad():
        model[0].weight.add_(1)
    average.update()
    other.load(average.state())
    assert torch.equal(other.state()["0.weight"], average.state()["0.weight"])


@pytest.mark.parametrize("decay", [-0.1, 1.0, math.nan])
def test_a_decay_out_of_range_is_refused(decay):
    with pytest.raises(UsageError, match="ema_decay"):
        WeightAverage(normed(), decay)


def test_metrics_are_cut_back_on_resume(tmp_path):
    path = tmp_path / "metrics.jsonl"
    file = MetricsFile(path)
    file.write("train", 1, 0, {"train/loss": 2.0})
    place = file.position()
    file.write("train", 2, 0, {"train/loss": math.nan})
    file.close()
    again = MetricsFile(path)
    again.rewind(place)
    again.write("train", 2, 0, {"train/loss": math.inf})
    again.close()
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert rows == [
        {"kind": "train", "step": 1, "epoch": 0, "train/loss": 2.0},
        {"kind": "train", "step": 2, "epoch": 0, "train/loss": None},
    ]


def test_a_tracker_that_raises_is_dropped_with_one_warning(tmp_path, capsys):
    class Broken:
        calls = 0

        def write(self, step, values):
            self.calls += 1
            raise ConnectionError("no network")

        def close(self):
            raise AssertionError("a dropped tracker is not called again")

    broken = Broken()
    records = Records(MetricsFile(tmp_path / "metrics.jsonl"), [("tracker", broken)])
    for step in (1, 2, 3):
        records.write("train", step, 0, {"train/loss": 1.0})
    records.close()
    assert broken.calls == 1
    assert capsys.readouterr().err.count("tracker failed") == 1
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3


def test_tensorboard_gets_every_value(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    board = TensorBoard(tmp_path, 0)
    board.write(3, {"train/loss": 0.5})
    board.close()
    events = accumulator.EventAccumulator(str(tmp_path)).Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(3, 0.5)]


def test_a_resumed_run_keeps_its_identifier_at_the_tracker(tmp_path, monkeypatch):
    begun = []

    class Run:
        def log(self, values):
            begun[-1]["logged"] = values

        def finish(self):
            begun[-1]["finished"] = True

    def init(**options):
        begun.append(options)
        return Run()

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    for step in (1, 2):
        tracker = WeightsAndBiases("project", "run", tmp_path, {"seed": 1})
        tracker.write(step, {"train/loss": 1.0})
        tracker.close()
    first, second = begun
    assert first["id"] == second["id"] and first["resume"] == "allow"
    assert second["logged"] == {"train/loss": 1.0, "train/step": 2} and second["finished"]


def test_a_missing_tracker_names_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UsageError, match=r"orthostream\[wandb\]"):
        WeightsAndBiases("project", "run", tmp_path, {})


def test_a_used_folder_is_refused_unless_asked(tmp_path):
    run = tmp_path / "run"
    first = RunFolder(run)
    first.write("recipe.yaml", "seed: 1\n")
    first.close()
    with pytest.raises(UsageError, match=r"--resume .* --overwrite"):
        RunFolder(run)
    RunFolder(run, resume=True).close()
    RunFolder(run, overwrite=True).close()
    assert sorted(path.name for path in run.iterdir()) == ["run.lock"]
    with pytest.raises(UsageError, match="no run to resume"):
        RunFolder(run, resume=True)


def test_overwriting_spares_what_no_run_wrote(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match=r"thesis\.tex"):
        RunFolder(tmp_path, overwrite=True)
    assert (tmp_path / "thesis.tex").exists()


def test_a_folder_in_work_is_locked(tmp_path):
    held = RunFolder(tmp_path)
    with pytest.raises(UsageError, match=f"process {os.getpid()} on "):
        RunFolder(tmp_path)
    held.close()
    RunFolder(tmp_path).close()


def test_the_first_signal_asks_and_handlers_are_put_back():
    before = signal.getsignal(signal.SIGTERM)
    with stop_requests() as stop:
        assert stop.signal == 0
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.signal == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_second_signal_leaves_at_once():
    program = """
import os, signal, time
from orthostream.training.signals import stop_requests
with stop_requests() as stop:
    os.kill(os.getpid(), signal.SIGTERM)
    assert stop.signal == signal.SIGTERM
    print("asked", flush=True)
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(60)
"""
    source = str(REPOSITORY / "src")
    environment = {**os.environ, "PYTHONPATH": source}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("asked\n", 128 + signal.SIGINT)


def test_long_steps_are_not_silent(capsys, monkeypatch):
    clock = iter(range(0, 1000, 6))
    monkeypatch.setattr("orthostream.training.progress.time.monotonic", lambda: float(next(clock)))
    lines = Lines()
    lines.begin(0, 40)
    for step in range(1, 11):
        lines.step(step, 0)
    lines.values(10, 0, {"train/loss": 0.5})
    printed = capsys.readouterr().out.splitlines()
    assert 1 <= len(printed) - 1 < 10 and printed[0].startswith("step ")
    assert "loss 0.5000" in printed[-1] and "left " in printed[-1]


def test_durations():
    assert [duration(s) for s in (0, 59.6, 3661, -5)] == ["0:00:00", "0:01:00", "1:01:01", "0:00:00"]
