"""Figures show the saved numbers, in colours and words that hold; they leave the plotting library as it was."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from analysis.synthetic_runs import write_run
from orthostream.analysis import plots
from orthostream.analysis.compare import Comparison
from orthostream.analysis.gallery import gallery, save_figures
from orthostream.analysis.runs import Run, read_run
from orthostream.analysis.theme import DARK, LIGHT
from orthostream.errors import UsageError

Groups = dict[str, list[Run]]
ACCURACY = plots.CURVES[0]


@pytest.fixture
def groups(tmp_path: Path) -> Groups:
    return {
        connection: [
            read_run(write_run(tmp_path / f"{connection}{seed}", connection, seed, epochs=4)) for seed in range(2)
        ]
        for connection in ("linear", "orthogonal")
    }


def drawn_lines(figure) -> list[tuple[list[float], list[float]]]:
    return [tuple(map(list, line.get_data())) for line in figure.axes[0].get_lines() if len(line.get_xdata()) > 1]


def test_curve_is_the_mean_over_seeds(groups: Groups) -> None:
    figure = plots.curve(groups, ACCURACY)
    lines = drawn_lines(figure)
    assert len(lines) == 2
    for (epochs, values), runs in zip(lines, groups.values(), strict=True):
        assert epochs == [1, 2, 3, 4]
        expected = [100 * np.mean([run.epochs[i]["val/acc@1"] for run in runs]) for i in range(4)]
        assert values == pytest.approx(expected)
    axes = figure.axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("epoch", "top-1 accuracy (%)")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["linear (n = 2)", "orthogonal (n = 2)"]


def test_curve_keeps_to_the_epochs_that_all_runs_have(groups: Groups) -> None:
    short = replace(groups["linear"][0], epochs=groups["linear"][0].epochs[:2], result=None)
    figure = plots.curve({"linear": [short, groups["linear"][1]]}, ACCURACY)
    assert drawn_lines(figure)[0][0] == [1, 2]
    assert figure.legends[0].get_texts()[0].get_text() == "linear (n = 2, 1 unfinished)"


def test_profile_shows_the_last_sampled_step(groups: Groups) -> None:
    figure = plots.profile(groups, plots.STREAM_NORM)
    sites = [f"activation/{kind}/block{block:02d}/x_norm2" for block in range(4) for kind in ("attn", "mlp")]
    for (places, values), runs in zip(drawn_lines(figure), groups.values(), strict=True):
        assert places == list(range(8))
        assert values == pytest.approx([np.mean([run.statistics[-1][site] for run in runs]) for site in sites])
    assert figure.axes[0].get_ylabel() == "|x|² (squared L2 norm)"
    assert figure.axes[0].get_xlabel() == "block (● attn, ■ mlp)"


def test_history_has_a_line_a_site(groups: Groups) -> None:
    limits = plots.extent(groups, plots.STREAM_NORM)
    assert limits is not None
    figure = plots.history("orthogonal", groups["orthogonal"], plots.STREAM_NORM, limits=limits)
    lines = drawn_lines(figure)
    assert len(lines) == 8
    expected = [
        np.mean([run.statistics[i]["activation/mlp/block03/x_norm2"] for run in groups["orthogonal"]]) for i in range(4)
    ]
    assert lines[-1] == ([20, 40, 60, 80], pytest.approx(expected))
    low, high = figure.axes[0].get_ylim()
    assert low < limits[0] < limits[1] < high


def test_norms_over_decades_are_drawn_on_a_logarithmic_axis(groups: Groups) -> None:
    assert plots.profile(groups, plots.ORTHOGONAL).axes[0].get_yscale() == "linear"
    wide = {f"activation/mlp/block{block:02d}/x_norm2": 10.0**block for block in range(3)}
    run = replace(groups["linear"][0], statistics=[{"kind": "statistics", "step": 1, **wide}])
    assert plots.profile({"linear": [run]}, plots.STREAM_NORM).axes[0].get_yscale() == "log"


@pytest.mark.parametrize("label", ["$x_{", "_hidden", "<b>&", "a" * 200, "übergröße $\\frac{"])
def test_labels_are_taken_literally(groups: Groups, label: str) -> None:
    figure = plots.curve({label: groups["linear"]}, ACCURACY)
    shown = figure.legends[0].get_texts()[0].get_text()
    assert shown.startswith(label[:5]) or len(label) > 100
    assert plots.png(figure).startswith(b"\x89PNG")
    assert plots.png(plots.history(label, groups["linear"], plots.STREAM_NORM)).startswith(b"\x89PNG")


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_same_figure_same_bytes_on_either_paper(groups: Groups, theme) -> None:
    first, second = (plots.png(plots.curve(groups, ACCURACY, theme)) for _ in range(2))
    assert first == second


def test_what_is_not_finite_is_a_gap(groups: Groups) -> None:
    epochs = [{**row, "val/acc@1": None} for row in groups["linear"][0].epochs]
    lost = replace(groups["linear"][0], epochs=epochs)
    figure = plots.curve({"linear": [lost], "orthogonal": groups["orthogonal"]}, ACCURACY)
    assert np.isnan(drawn_lines(figure)[0][1]).all()
    nothing = [{**row, **dict.fromkeys((key for key in row if "x_norm2" in key), None)} for row in lost.statistics]
    empty = replace(lost, statistics=nothing)
    assert plots.png(plots.profile({"linear": [empty]}, plots.STREAM_NORM))
    assert plots.extent({"linear": [empty]}, plots.STREAM_NORM) is None


def test_one_epoch_is_a_mark(groups: Groups) -> None:
    run = replace(groups["linear"][0], epochs=groups["linear"][0].epochs[:1])
    line = plots.curve({"linear": [run]}, ACCURACY).axes[0].get_lines()[0]
    assert (line.get_marker(), list(line.get_xdata())) == ("o", [1])


def test_nothing_to_draw_is_refused(groups: Groups) -> None:
    bare = [replace(run, statistics=[], epochs=[]) for run in groups["linear"]]
    for draw in (
        lambda: plots.curve({"linear": bare}, ACCURACY),
        lambda: plots.profile({"linear": bare}, plots.STREAM_NORM),
        lambda: plots.history("linear", bare, plots.STREAM_NORM),
    ):
        with pytest.raises(UsageError, match="no run holds"):
            draw()
    shown = gallery(Comparison({"linear": dict(enumerate(bare))}))
    assert [*shown.profiles, *shown.histories] == []
    assert [picture.name for picture in shown.curves] == ["train_grad_global_norm"]


def test_files_of_a_comparison(groups: Groups, tmp_path: Path) -> None:
    comparison = Comparison({label: {run.seed: run for run in runs} for label, runs in groups.items()})
    files = save_figures(comparison, tmp_path / "figures")
    assert [file.name for file in files] == [
        "val_acc1.png", "val_loss.png", "train_epoch_loss.png", "train_grad_global_norm.png",
        "x_norm2_by_site.png", "f_par_norm2_by_site.png", "f_ortho_norm2_by_site.png", "cos_x_out_by_site.png",
        "x_norm2_over_training_0.png", "x_norm2_over_training_1.png",
    ]  # fmt: skip
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in files)


def test_global_state_is_left_alone_and_extras_are_named() -> None:
    script = """
import sys
import orthostream.analysis
assert not {"matplotlib", "jinja2", "yaml"} & sys.modules.keys(), "import needs torch alone"
from orthostream.analysis import plots
assert "matplotlib.pyplot" not in sys.modules
sys.modules["jinja2"] = None
try:
    import orthostream.analysis.report
except orthostream.errors.MissingExtraError as error:
    assert "orthostream[report]" in str(error)
else:
    raise AssertionError("the missing extra was not named")
"""
    subprocess.run([sys.executable, "-c", script], check=True, env={"PYTHONPATH": ":".join(sys.path)}, timeout=120)
