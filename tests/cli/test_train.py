"""The command line as a person uses it: train, stop, resume, mistakes."""

import json
import os
import re
import signal
import subprocess
import sys

import pytest
import torch
from runs import ENVIRONMENT, SMALL, kill, newest, orthostream, rows, start, wait_for, weights
from safetensors.torch import load as from_safetensors

from locations import REPOSITORY


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run."""
    run = tmp_path_factory.mktemp("whole") / "run"
    orthostream("train", *SMALL, "--run-dir", run)
    return run


def test_a_run_leaves_what_it_promises(whole):
    names = {path.name for path in whole.iterdir()}
    assert {"recipe.yaml", "versions.json", "metrics.jsonl", "result.json", "checkpoints"} <= names
    result = json.loads((whole / "result.json").read_text())
    assert result["finished"] and result["steps"] == 2 * (1437 // 64)
    assert 0 <= result["final"]["val/acc@1"] <= 1
    text = (whole / "recipe.yaml").read_text()
    assert re.search(r"embed_dim: 16 +# command line", text) and "default" in text and "demo.yaml:" in text
    kinds = {row["kind"] for row in rows(whole)}
    assert {"train", "epoch", "statistics"} <= kinds


def test_the_same_seed_gives_the_same_run(whole, tmp_path):
    orthostream("train", *SMALL, "--run-dir", tmp_path / "run")
    assert weights(tmp_path / "run") == weights(whole)
    assert rows(tmp_path / "run") == rows(whole)


def test_another_seed_gives_another_run(whole, tmp_path):
    orthostream("train", *SMALL, "seed=43", "--run-dir", tmp_path / "run")
    assert weights(tmp_path / "run") != weights(whole)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_the_resumed_run_is_the_uninterrupted_one(whole, tmp_path, number, code):
    run = tmp_path / "run"
    process = start("train", *SMALL, "--run-dir", run)
    wait_for(lambda: (run / "metrics.jsonl").exists() and len((run / "metrics.jsonl").read_bytes()) > 0, process)
    os.kill(process.pid, number)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == code, output
    assert "--resume" in output and not (run / "result.json").exists()
    # another number of loader workers changes nothing
    orthostream(
        "train", run / "recipe.yaml", "data.workers=1", "--allow-change", "data.workers", "--run-dir", run, "--resume"
    )
    assert weights(run) == weights(whole)
    assert rows(run) == rows(whole)


@pytest.mark.parametrize("moment", ["before the first checkpoint", "while a checkpoint is written", "between"])
def test_a_killed_run_resumes_to_the_uninterrupted_one(whole, tmp_path, moment):
    run = tmp_path / "run"
    process = start("train", *SMALL, "--run-dir", run)
    if moment == "before the first checkpoint":
        wait_for((run / "metrics.jsonl").exists, process)
    elif moment == "while a checkpoint is written":
        wait_for(lambda: list((run / "checkpoints").glob("*.tmp-*")), process)
    else:
        wait_for(lambda: list((run / "checkpoints").glob("step-00000014*")), process)
    kill(process)
    orthostream("train", *SMALL, "--run-dir", run, "--resume")
    assert weights(run) == weights(whole)
    assert rows(run) == rows(whole)
    assert not list((run / "checkpoints").glob("*.tmp-*"))


def test_a_damaged_checkpoint_is_passed_over_and_said(whole, tmp_path):
    run = tmp_path / "run"
    orthostream("train", *SMALL, "train.max_steps=20", "--run-dir", run)
    damaged = newest(run) / "model.safetensors"
    data = bytearray(damaged.read_bytes())
    data[100] ^= 1
    damaged.write_bytes(data)
    output = orthostream("train", *SMALL, "train.max_steps=20", "--run-dir", run, "--resume")
    assert f"passed over {newest(run).name}" in output or "passed over step-00000020" in output
    assert "resumed from" in output


MISTAKES = {
    "unknown field": (("optimizer.lrr=1",), r"unknown .*'lrr'.*did you mean lr"),
    "wrong type": (("train.epochs=ten",), r"train\.epochs.*ten"),
    "out of range": (("optimizer.lr=-1",), r"optimizer\.lr.*-1"),
    "unknown connection": (("connection=ortogonal",), r"ortogonal.*did you mean.*orthogonal"),
    "unknown option of a connection": (("connection.strenght=1",), r"strenght.*did you mean.*strength"),
    "unknown data set": (("data.name=digit",), r"digit.*digits"),
    "batch larger than the set": (("train.batch_size=5000",), r"5000"),
    "heads that do not divide": (("model.num_heads=3",), r"16.*3|3.*16"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_ends_with_code_2_and_one_message(tmp_path, mistake):
    overrides, message = MISTAKES[mistake]
    kept = [word for word in SMALL if word.split("=")[0] not in {o.split("=")[0] for o in overrides}]
    output = orthostream("train", *kept, *overrides, "--run-dir", tmp_path / "run", expect=2)
    assert re.search(message, output), output
    assert "Traceback" not in output
    # Nothing was begun: the same folder takes the corrected call.
    assert not (tmp_path / "run" / "recipe.yaml").exists()


def test_a_missing_recipe_names_those_there_are(tmp_path):
    output = orthostream("train", "demmo", "--run-dir", tmp_path, expect=2)
    assert "demmo" in output and "demo" in output


def test_fields_may_follow_the_options(tmp_path):
    recipe, *fields = SMALL
    orthostream("train", recipe, "--run-dir", tmp_path / "run", *fields, "train.max_steps=1")
    assert json.loads((tmp_path / "run" / "result.json").read_text())["steps"] == 1
    output = orthostream("train", recipe, "--run-dirr", tmp_path / "other", *fields, expect=2)
    assert "--run-dirr" in output


def test_a_used_folder_and_a_changed_recipe_are_refused(whole):
    assert "--resume" in orthostream("train", *SMALL, "--run-dir", whole, expect=2)
    output = orthostream("train", *SMALL, "optimizer.lr=0.5", "--run-dir", whole, "--resume", expect=2)
    assert "optimizer.lr" in output and "0.5" in output


def test_evaluate_agrees_with_the_last_row_of_the_run(whole, tmp_path):
    out = tmp_path / "result.json"
    text = orthostream("evaluate", whole, "--per-class", "--json", out)
    result = json.loads(out.read_text())
    last = [row for row in rows(whole) if row["kind"] == "epoch"][-1]
    assert result["n"] == last["val/n"] and result["acc@1"] == last["val/acc@1"]
    assert result["loss"] == pytest.approx(last["val/loss"], rel=1e-9)
    assert sum(map(sum, result["confusion"])) == result["n"] and "top-5" in text


@pytest.mark.distributed
def test_evaluate_on_two_ranks_counts_the_same(whole, tmp_path):
    results = []
    for ranks in (1, 2):
        out = tmp_path / f"{ranks}.json"
        orthostream("evaluate", whole, "--batch-size", 7, "--per-class", "--json", out, ranks=ranks)
        results.append(json.loads(out.read_text()))
    losses = [result.pop("loss") for result in results]
    assert results[0] == results[1] and results[0]["n"] == 360
    # float64 sums in another order
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)


def test_list_and_plan(tmp_path):
    assert "hyper_connections" in orthostream("list", "connections")
    assert "vit_s_cifar10" in orthostream("list", "recipes")
    image = tmp_path / "images.png"
    text = orthostream("train", *SMALL, "--plan", "--plan-image", image, folder=tmp_path)
    for word in ("parameters", "steps", "learning rate", "FLOPs", "memory", "disk", "time"):
        assert word in text
    assert image.read_bytes().startswith(b"\x89PNG")
    assert not (tmp_path / "runs").exists()


def test_compare_makes_a_table_and_a_page_and_does_not_run_twice(tmp_path):
    out = tmp_path / "compared"
    words = ("compare", *[w for w in SMALL if not w.startswith("connection")], "train.epochs=1")
    words = tuple(w for w in words if w != "train.epochs=2")
    words += ("--vary", "connection=linear,orthogonal", "--seeds", 2, "--jobs", 2, "--out", out)
    text = orthostream(*words)
    assert "orthogonal minus linear" in text and (out / "report.html").stat().st_size > 10_000
    assert orthostream(*words).count("finished already") == 4


@pytest.mark.distributed
def test_two_ranks_stop_at_one_step_and_resume(tmp_path):
    run = tmp_path / "run"
    reference = tmp_path / "reference"
    orthostream("train", *SMALL, "--run-dir", reference, ranks=2)
    process = start("train", *SMALL, "--run-dir", run, ranks=2)
    wait_for(lambda: list((run / "checkpoints").glob("step-00000007")), process)
    os.kill(process.pid, signal.SIGTERM)
    process.communicate(timeout=90)
    assert not (run / "result.json").exists()
    orthostream("train", *SMALL, "--run-dir", run, "--resume", ranks=2)
    assert weights(run) == weights(reference)
    assert rows(run) == rows(reference)


@pytest.mark.distributed
def test_the_authors_command_line_on_two_ranks(tmp_path):
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
        *(str(REPOSITORY / "train_classifier.py"), "--config_file", "recipes/demo.yaml"),
        *("--orthogonal_residual", "--orthogonal_method", "feature", "--max_train_steps", "3"),
        *("--results_dir", str(tmp_path)),
    ]
    done = subprocess.run(
        command, env=ENVIRONMENT, cwd=REPOSITORY, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = tmp_path.iterdir()
    assert run.name.startswith("000-") and "orthogonal_feature" in run.name
    assert json.loads((run / "result.json").read_text())["steps"] == 3


@pytest.mark.distributed
def test_a_run_goes_on_with_another_number_of_processes(whole, tmp_path):
    """The batches are the same, so the result is close; that it is not the same bit for bit is said."""
    run = tmp_path / "run"
    process = start("train", *SMALL, "--run-dir", run, ranks=2)
    wait_for(lambda: list((run / "checkpoints").glob("step-00000014")), process)
    kill(process)
    output = orthostream("train", *SMALL, "--run-dir", run, "--resume")
    assert "saved by 2 processes and goes on with 1" in output
    alone, resumed = (from_safetensors(weights(folder)) for folder in (whole, run))
    for name in alone:
        # 44 float32 steps of Adam whose sums run in another order
        torch.testing.assert_close(resumed[name], alone[name], rtol=1e-3, atol=1e-3)
