"""kill -9 at ten random moments of a run on real CIFAR-10, two of them while a checkpoint is written."""

import random
import time

import pytest
from runs import kill, orthostream, rows, start, wait_for, weights

from locations import data_folder

pytestmark = pytest.mark.slow

KILLS_WHILE_WRITING, KILLS_AT_RANDOM = 2, 8
RUN = (
    "vit_s_cifar10",
    "connection=orthogonal",
    "model.embed_dim=96",
    "model.depth=3",
    "model.num_heads=3",
    "data.workers=1",
    "data.eval_batch_size=500",
    "train.compile=false",
    "train.batch_size=32",
    "train.epochs=1",
    "train.max_steps=240",
    "train.ema_decay=0.99",
    "schedule.warmup_epochs=0",
    "checkpoint.every_steps=8",
    "statistics.interval=20",
    "log.interval=4",
    "log.progress=lines",
)


def test_ten_kills_end_with_the_weights_of_the_uninterrupted_run(tmp_path):
    source = f"data.source={data_folder('cifar10')}"
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    log = killed / "metrics.jsonl"
    orthostream("train", *RUN, source, "--run-dir", whole)
    moments = ["writing"] * KILLS_WHILE_WRITING + ["random"] * KILLS_AT_RANDOM
    chance = random.Random(0)
    chance.shuffle(moments)
    for number, moment in enumerate(moments):
        process = start("train", *RUN, source, "--run-dir", killed, *(["--resume"] if number else []))
        before = log.stat().st_size if log.exists() else 0
        # The run has got on since the last kill, or ten of them might all hit its beginning.
        wait_for(lambda before=before: log.exists() and log.stat().st_size > before, process)
        if moment == "writing":
            wait_for(lambda: list((killed / "checkpoints").glob("*.tmp-*")), process)
        else:
            time.sleep(chance.uniform(0, 2))
        assert process.poll() is None, "the run ended before it was killed; give it more steps"
        kill(process)
        print(f"kill {number + 1} ({moment}): {len(rows(killed)) if log.exists() else 0} rows in the log")
    orthostream("train", *RUN, source, "--run-dir", killed, "--resume")
    assert weights(killed) == weights(whole)
    assert rows(killed) == rows(whole)
