"""``orthostream reproduce``: the published numbers, the runs behind each cell, and the two side by side."""

import argparse
import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from runs import in_this_process, kill, orthostream, rows, start, wait_for

from orthostream import experiments
from orthostream.analysis import diagnostic_plots
from orthostream.analysis.plots import png
from orthostream.analysis.runs import read_run
from orthostream.cli import evaluate, main, reproduce, train
from orthostream.cli.sweep import log_of
from orthostream.errors import UsageError
from orthostream.experiments import orthogonal_gradients

PHOTOGRAPHS = ("figure7", "imagenet")
COLUMNS = ("sgdm", "orthogonal")
TABLES = experiments.table.names()
# The paper's recipe on the digits of scikit-learn, so that a run takes seconds.
SMALL = (
    "data.name=digits",
    "data.held_out=437",
    "data.mean=[0.2]",
    "data.std=[0.5]",
    "data.workers=0",
    "train.batch_size=250",
    "statistics.interval=2",
    "statistics.diagnostics=true",
    "log.interval=2",
    "log.progress=lines",
)


def planned(table: str, *words: str) -> list[reproduce.Planned]:
    parser = argparse.ArgumentParser()
    reproduce.add_arguments(parser)
    return reproduce.plan(parser.parse_args([table, *words]), experiments.table.create(table))


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """Table 5 of BasicCNN, one epoch on digits: SGDM, and all layers orthogonalised, two seeds."""
    out = tmp_path_factory.mktemp("reproduce") / "out"
    cells = ("--only", "basic_cnn/sgdm", "--only", "basic_cnn/orthogonal", "--seeds", "2", "--epochs", "1")
    words = ("table5", *SMALL, *cells, "--out", str(out))
    # the runs as the sweep starts them, but in this process
    for each in planned(*words):
        assert main(["train", *each.cell.arguments, "--run-dir", str(each.cell.folder)]) == 0
    assert main(["reproduce", *words]) == 0
    return out


@pytest.mark.parametrize("table", TABLES)
def test_every_cell_of_every_table_has_a_recipe_that_loads(table: str) -> None:
    # the data set of ImageNet may come with a later release
    plans = planned(table, *(["data.name=folder"] if table in PHOTOGRAPHS else []), "--seeds", "1")
    folders = [each.cell.folder for each in plans]
    assert len(set(folders)) == len(folders)
    for each in plans:
        chosen, setting = each.resolved.recipe, each.setting
        assert (chosen.optimizer.orthogonalize != "none") == (setting.column.startswith(("orthogonal", "conv")))
        assert (chosen.optimizer.normalize != "none") == setting.column.endswith("n-sgdm")
        assert (chosen.optimizer.name == "adam") == ("adam" in setting.column)
        assert (chosen.optimizer.name == "lars") == ("lars" in setting.column)
        assert chosen.augment.pipeline == ("twins" if table == "figure7" else "cnn")
        if chosen.model.name not in orthogonal_gradients.OURS and table not in PHOTOGRAPHS:
            assert chosen.model.options == {"head_classes": 1000}


def test_the_base_setting_is_that_of_the_paper() -> None:
    (each,) = planned("table1", "--only", "resnet20/orthogonal", "--seeds", "1")
    chosen = each.resolved.recipe
    assert (chosen.model.name, chosen.data.name, chosen.data.held_out) == ("resnet20", "cifar10", 5000)
    assert chosen.data.std == (0.2023, 0.1994, 0.2010)
    optimizer = chosen.optimizer
    assert (optimizer.name, optimizer.lr, optimizer.momentum, optimizer.weight_decay) == ("sgd", 1e-2, 0.9, 5e-4)
    assert (optimizer.orthogonalize, optimizer.polar_method, optimizer.polar_completion) == ("paper", "svd", "svd")
    assert (chosen.train.epochs, chosen.train.batch_size, chosen.schedule.kind) == (100, 1024, "constant")
    assert (chosen.train.clip_norm, chosen.train.amp) == (None, "none")


def test_the_tuned_setting_is_that_of_table_2() -> None:
    chosen = planned("table2", "--only", "sgdm", "--seeds", "1")[0].resolved.recipe
    assert (chosen.optimizer.lr, chosen.optimizer.weight_decay, chosen.train.batch_size) == (0.1, 1e-4, 128)
    assert (chosen.schedule.decay_epochs, chosen.schedule.decay_ratio, chosen.train.epochs) == ((100, 150), 0.1, 200)


def test_the_grid_sets_rate_and_momentum_of_each_optimizer() -> None:
    for each in planned("table3", "--seeds", "1"):
        optimizer = each.resolved.recipe.optimizer
        momentum = optimizer.betas[0] if optimizer.name == "adam" else optimizer.momentum
        assert each.setting.row == f"lr={optimizer.lr:g},momentum={momentum:g}"
        assert optimizer.name == "sgd" or optimizer.betas[1] == 0.99


def test_runs_of_several_tables_are_made_once() -> None:
    folders = {
        table: {each.cell.folder for each in planned(table, "--seeds", "1")}
        for table in TABLES
        if table not in PHOTOGRAPHS
    }
    assert folders["table3"] == folders["table6"] and folders["table4"] == folders["table7"]
    shared = folders["table1"] & folders["table3"] & folders["table5"]
    assert {folder.name for folder in shared} == {"resnet20-sgdm-seed42", "resnet20-orthogonal-seed42"}
    assert not folders["table2"] & folders["table1"]


def test_published_numbers_bear_out_what_the_paper_says_of_them() -> None:
    def accuracies(table: str) -> dict[tuple[str, str], float]:
        return {(s.row, s.column): s.accuracy.mean for s in experiments.table.create(table).settings}

    assert [len(experiments.table.create(table).settings) for table in TABLES] == [20, 2, 48, 20, 9, 48, 20, 20, 2, 2]
    grid = accuracies("table3")
    settings = {row for row, _ in grid}
    assert sum(grid[row, "orthogonal"] > grid[row, "adam"] for row in settings) == 11
    assert all(grid[row, "orthogonal-adam"] > grid[row, "adam"] for row in settings)
    steady = [grid[row, "orthogonal"] for row in settings if "momentum=0.5" not in row]
    assert (min(steady), max(steady)) == (82.95, 87.72)
    first = accuracies("table1")
    assert all(first[row, "orthogonal"] > first[row, "sgdm"] for row, _ in first)
    normal = experiments.table.create("table4").settings
    diverged = {s.row for s in normal if s.column == "cn-sgdm" and math.isnan(s.loss.mean)}
    assert diverged == {"resnet18", "resnet50", "densenet121"}


def test_paper_and_here_stand_side_by_side(finished: Path) -> None:
    text = (finished / "table5.txt").read_text()
    for column, accuracy, loss in (
        ("sgdm", "73.60 ± 0.19", "0.7603 ± 0.0061"),
        ("orthogonal", "76.67 ± 0.10", "0.6808 ± 0.0038"),
    ):
        found = [read_run(finished / f"basic_cnn-{column}-seed{seed}").epochs[-1] for seed in (42, 43)]
        top1, nats = [100 * row["val/acc@1"] for row in found], [row["val/loss"] for row in found]
        here = f"{np.mean(top1):.2f} ± {abs(top1[0] - top1[1]) / 2:.2f}"
        lost = f"{np.mean(nats):.4f} ± {abs(nats[0] - nats[1]) / 2:.4f}"
        (line,) = [line for line in text.splitlines() if line.startswith("basic_cnn") and f"  {column}  " in line]
        assert [part.strip() for part in line.split("  ") if part] == [
            "basic_cnn", column, accuracy, here, loss, lost, "2 of 2",
        ]  # fmt: skip
    assert "Epochs: paper 100; here 1." in text
    assert "Changed in all runs here: data.name=digits" in text
    losses = [read_run(finished / f"basic_cnn-{column}-seed42").epochs[-1]["train/epoch_loss"] for column in COLUMNS]
    assert losses[0] != losses[1], "two optimizers"


def test_what_is_finished_is_not_run_again_and_serves_other_tables(finished: Path, capsys) -> None:
    call = in_this_process(reproduce, capsys)
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.name != "table1.txt"}
    common = ("table1", *SMALL, "--epochs", 1, "--out", finished)
    text = call(*common, "--only", "basic_cnn", "--seeds", 2)
    assert text.count("finished already") == 4
    assert {path: path.stat().st_mtime_ns for path in before if path.is_file()} == {
        path: moment for path, moment in before.items() if path.is_file()
    }
    text = call(*common, "--only", "basic_cnn", "--only", "resnet20/sgdm", "--dry-run", "--seeds", 3)
    assert text.count("finished  orthostream train ortho_grad_cifar10") == 4
    assert text.count("not run   orthostream train ortho_grad_cifar10") == 5
    assert "5 of 9 runs are not run yet." in text
    (line,) = [line for line in text.splitlines() if line.split()[:2] == ["resnet20", "sgdm"]]
    assert line.split()[-5:] == ["not", "run", "0", "of", "3"]


def test_a_run_of_another_recipe_is_refused(finished: Path, capsys) -> None:
    call = in_this_process(reproduce, capsys)
    options = ("--only", "basic_cnn/sgdm", "--seeds", 1, "--out", finished)
    text = call("table1", *SMALL, *options, expect=2)
    assert "basic_cnn-sgdm-seed42 holds a run of another recipe" in text and "train.epochs" in text
    text = call("table1", *SMALL, "optimizer.lr=0.5", *options, "--epochs", 1, expect=2)
    assert "optimizer.lr" in text
    # where and how loudly it ran is no other recipe
    assert "finished already" in call("table1", *SMALL, "log.project=another", *options, "--epochs", 1)


def test_an_interrupted_run_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "basic_cnn-sgdm-seed42"
    words = ("ortho_grad_cifar10", "model=basic_cnn", *SMALL, "train.epochs=3", "checkpoint.every_epochs=1", "seed=42")
    process = start("train", *words, "--run-dir", folder)
    wait_for((folder / "checkpoints" / "latest.json").is_file, process)
    kill(process)
    if (folder / "result.json").exists():
        pytest.skip("the run ended before it could be stopped; this machine is too fast for the length of the run")
    text = orthostream(
        "reproduce", "table1", "--only", "basic_cnn/sgdm", "--seeds", 1, "--epochs", 3, "--out", tmp_path, *SMALL,
        "checkpoint.every_epochs=1",
    )  # fmt: skip
    assert "1 of 1" in text
    assert "resumed from" in folder.with_name(folder.name + ".log").read_text()
    assert len([row for row in rows(folder) if row["kind"] == "epoch"]) == 3


def test_a_diverged_run_is_named_so(tmp_path: Path, capsys) -> None:
    words = (*SMALL, "optimizer.lr=1e30")
    common = ("table1", *words, "--only", "basic_cnn/sgdm", "--seeds", 1, "--epochs", 1, "--out", tmp_path)
    (each,) = planned(*map(str, common))
    # the run as the sweep starts it, but in this process; its output is the log
    text = in_this_process(train, capsys)(*each.cell.arguments, "--run-dir", each.cell.folder, expect=2)
    log_of(each.cell).write_text(text)
    text = in_this_process(reproduce, capsys)(*common, "--dry-run")
    (line,) = [line for line in text.splitlines() if line.startswith("basic_cnn  sgdm  ")]
    assert [part.strip() for part in line.split("  ") if part][3] == "diverged"
    assert "basic_cnn sgdm seed 42: diverged" in text
    with log_of(each.cell).open("a") as log:
        log.write("note: begun again\n")
    assert "basic_cnn sgdm seed 42: stopped" in in_this_process(reproduce, capsys)(*common, "--dry-run")
    has_failed = reproduce.outcome_of(each, has_failed=True)
    assert has_failed.reason == f"failed: note: begun again, see {log_of(each.cell)}"


def test_wrong_calls_are_refused_before_any_run() -> None:
    with pytest.raises(UsageError, match="unknown table 'table8'"):
        planned("table8")
    with pytest.raises(UsageError, match=r"--only 'resnet19' is no cell; rows: basic_cnn, resnet20.*columns: sgdm"):
        planned("table1", "--only", "resnet19")
    with pytest.raises(UsageError, match="--seeds counts from 1, got 0"):
        planned("table1", "--seeds", "0")
    with pytest.raises(UsageError, match=r"optimizer\.lr"):
        planned("table1", "optimizer.lr=-1")
    for table, override in (
        ("table1", "model=resnet18"),
        ("table3", "optimizer.lr=1"),
        ("table5", "optimizer.orthogonalize=muon"),
    ):
        with pytest.raises(UsageError, match="would make cells equal that the table compares"):
            planned(table, override)


def test_what_some_cells_set_is_changed_in_those_alone() -> None:
    plans = planned("table1", "optimizer.polar_method=polar_express", "--seeds", "1", "--only", "basic_cnn")
    words = {each.setting.column: each.cell.arguments for each in plans}
    assert not any("polar" in word for word in words["sgdm"])
    assert [word for word in words["orthogonal"] if "polar_method" in word] == ["optimizer.polar_method=polar_express"]


def test_diagnostics_of_runs_are_saved_and_drawn(finished: Path) -> None:
    groups = {
        column: [read_run(finished / f"basic_cnn-{column}-seed{seed}") for seed in (42, 43)]
        for column in ("sgdm", "orthogonal")
    }
    runs = [run for members in groups.values() for run in members]
    assert diagnostic_plots.has_diagnostics(runs)
    row = runs[0].statistics[-1]
    layers = [key for key in row if key.startswith("similarity/") and key.endswith("/mean")]
    assert len(layers) == 3 and all(0 <= row[key] <= 1 for key in layers)
    # 8x8 digits: maps of 4x4, 2x2 and 1 pixel
    assert [row[key.replace("mean", "threshold")] for key in layers] == [1.0, 2.0, 4.0]

    figure = diagnostic_plots.similarity(groups)
    lines = [line.get_data() for line in figure.axes[0].get_lines()]
    expected = [np.mean([run.statistics[-1][key] for run in groups["sgdm"]]) for key in layers]
    assert lines[0][1] == pytest.approx(expected)
    assert list(lines[2][1]) == [1.0, 2.0, 4.0]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "sgdm (n = 2)", "orthogonal (n = 2)", "4/√N, N pixels",
    ]  # fmt: skip
    for count in diagnostic_plots.COUNTED:
        drawn = diagnostic_plots.dead_parameters(groups, count).axes[0].get_lines()[0]
        assert list(drawn.get_xdata()) == [2, 4]
        assert drawn.get_ydata()[-1] == np.mean([run.statistics[-1][f"dead/all/{count}"] for run in groups["sgdm"]])
    assert png(figure).startswith(b"\x89PNG")
    with pytest.raises(UsageError, match="no run holds similarities"):
        diagnostic_plots.similarity({})
    with pytest.raises(UsageError, match="got 'zero'"):
        diagnostic_plots.dead_parameters(groups, "zero")


def test_an_evaluation_normalises_as_training_did(finished: Path, tmp_path: Path, capsys) -> None:
    call = in_this_process(evaluate, capsys)
    folder = finished / "basic_cnn-sgdm-seed42"
    call(folder, "--json", tmp_path / "result.json")
    found = json.loads((tmp_path / "result.json").read_text())
    assert found["n"] == 360
    assert found["loss"] == pytest.approx(read_run(folder).epochs[-1]["val/loss"], rel=1e-6)


@pytest.mark.parametrize(
    ("table", "column", "words"),
    [
        ("imagenet", "orthogonal", ("model=resnet18",)),
        ("figure7", "orthogonal-lars", ("model.network=resnet18", "model.projector=[16,8]")),
    ],
)
def test_the_first_steps_on_photographs(
    tmp_path: Path, capsys, table: str, column: str, words: tuple[str, ...]
) -> None:
    for split, count in (("train", 4), ("val", 2)):
        for index in range(count):
            path = tmp_path / "images" / split / "ab"[index % 2] / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng(index).integers(0, 256, (40, 50, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(path)
    source = ("data.name=folder", f"data.source={tmp_path / 'images'}", "data.image_size=32", "data.workers=0")
    # the official completion by a full SVD takes seconds for a ResNet
    quick = ("optimizer.polar_method=polar_express", "optimizer.polar_completion=partial")
    length = ("train.batch_size=2", "train.max_steps=2")
    common = (table, *source, *quick, *length, *words, "--epochs", 1, "--seeds", 1, "--only", column, "--out", tmp_path)
    (each,) = planned(*map(str, common))
    # the run as the sweep starts it, but in this process
    in_this_process(train, capsys)(*each.cell.arguments, "--run-dir", each.cell.folder)
    found = read_run(each.cell.folder).epochs[-1]
    assert np.isfinite(found["train/epoch_loss"]) and found["val/n"] == 2
    text = in_this_process(reproduce, capsys)(*common)
    assert "finished already" in text and "1 of 1" in text
    assert f"{found['val/loss']:.4f}" in text


def test_the_command_line_lists_the_tables(capsys) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["reproduce", "--help"])
    text = capsys.readouterr().out
    assert all(table in text for table in TABLES)
