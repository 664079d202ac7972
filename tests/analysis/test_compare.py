"""Means, spreads and paired differences by hand; nothing is averaged over fewer seeds unseen."""

import json
import math
from dataclasses import replace
from pathlib import Path
from statistics import NormalDist

import pytest

from analysis.synthetic_runs import write_run
from orthostream.analysis.compare import MEASURES, Comparison
from orthostream.analysis.runs import Run, read_run
from orthostream.analysis.student_t import T_975, interval95
from orthostream.analysis.text_table import aligned
from orthostream.errors import UsageError

LAST, BEST, BEST_FIVE, AVERAGED, LOSS, _, TIME = MEASURES


def run_with(
    folder: Path, accuracies: list[float | None], *, seed: int = 0, finished: bool = True, **extra: float
) -> Run:
    """A run whose accuracies are known."""
    run = read_run(write_run(folder, seed=seed, finished=finished))
    epochs = [{"epoch": i, "step": i, "val/acc@1": a, "val/loss": 1.0, **extra} for i, a in enumerate(accuracies)]
    return replace(run, epochs=epochs)


@pytest.fixture
def comparison(tmp_path: Path) -> Comparison:
    linear = {0: [0.2, 0.5, 0.4], 1: [0.3, 0.6, 0.6], 2: [0.1, 0.2, 0.8]}
    orthogonal = {0: [0.2, 0.3, 0.5], 1: [0.3, 0.6, 0.6], 2: [0.1, 0.2, 0.7]}
    return Comparison(
        {
            label: {seed: run_with(tmp_path / f"{label}{seed}", values, seed=seed) for seed, values in cells.items()}
            for label, cells in {"linear": linear, "orthogonal": orthogonal}.items()
        }
    )


def test_mean_and_sample_deviation(comparison: Comparison) -> None:
    last = comparison.spread("linear", LAST)
    assert last.values == {0: 0.4, 1: 0.6, 2: 0.8}
    assert last.mean == pytest.approx(0.6)
    # (0.2^2 + 0 + 0.2^2) / (3 - 1), square root
    assert last.std == pytest.approx(0.2)
    assert str(last) == "60.00 ± 20.00"
    best = comparison.spread("linear", BEST)
    assert best.values == {0: 0.5, 1: 0.6, 2: 0.8}


def test_paired_differences(comparison: Comparison) -> None:
    pair = comparison.paired("orthogonal", LAST)
    assert pair.by_seed == pytest.approx({0: 0.1, 1: 0.0, 2: -0.1})
    assert (pair.better, pair.worse, pair.n) == (1, 1, 3)
    assert pair.mean == pytest.approx(0)
    assert pair.std == pytest.approx(0.1)
    assert pair.verdict == "1 better, 1 worse, 1 equal"
    # 4.3027 * 0.1 / sqrt(3) = 0.2484
    assert pair.interval == pytest.approx((-0.24842, 0.24842), abs=1e-5)
    assert pair.seeds_text == "0: +10.00, 1: +0.00, 2: -10.00"


def test_lower_is_better_for_loss_and_time(tmp_path: Path) -> None:
    slow, fast = (read_run(write_run(tmp_path / name)) for name in ("slow", "fast"))
    assert slow.result is not None and fast.result is not None
    comparison = Comparison(
        {
            "slow": {0: replace(slow, result={**slow.result, "seconds": 9.0})},
            "fast": {0: replace(fast, result={**fast.result, "seconds": 4.0})},
        }
    )
    pair = comparison.paired("fast", TIME)
    assert (pair.mean, pair.better, pair.worse) == (-5.0, 1, 0)
    # One seed has no spread, and says so.
    assert pair.std is None and pair.interval is None
    assert str(pair) == "-5.0"


def test_what_does_not_count_is_named(tmp_path: Path) -> None:
    cells = {
        "linear": {0: run_with(tmp_path / "l0", [0.5]), 1: run_with(tmp_path / "l1", [0.6], seed=1)},
        "orthogonal": {
            0: run_with(tmp_path / "o0", [0.5]),
            1: run_with(tmp_path / "o1", [0.9], seed=1, finished=False),
        },
    }
    unreadable = {Path("elsewhere"): "metrics.jsonl is missing"}
    comparison = Comparison(cells, failed={("orthogonal", 2): "killed"}, unreadable=unreadable)
    assert [(cell.label, cell.seed) for cell in comparison.missing] == [
        ("linear", 2),
        ("orthogonal", 1),
        ("orthogonal", 2),
    ]
    reasons = [cell.reason for cell in comparison.missing]
    assert reasons[0] == "there is no run of this seed"
    assert reasons[1].startswith("not finished: 1 evaluated epochs in")
    assert reasons[2] == "killed"
    assert comparison.spread("linear", LAST).n == 2
    assert comparison.spread("orthogonal", LAST).values == {0: 0.5}
    assert comparison.paired("orthogonal", LAST).n == 1
    text = comparison.table()
    for line in ("missing: orthogonal seed 2: killed", "unreadable: elsewhere: metrics.jsonl is missing"):
        assert line in text.splitlines()


def test_a_value_that_is_not_finite_does_not_count_and_shows(tmp_path: Path) -> None:
    comparison = Comparison(
        {"linear": {0: run_with(tmp_path / "0", [0.5, None]), 1: run_with(tmp_path / "1", [0.5, 0.6], seed=1)}}
    )
    spread = comparison.spread("linear", LAST)
    assert spread.n == 1
    assert spread.seeds_text == "0: -, 1: 60.00"
    assert comparison.spread("linear", BEST).by_seed == {0: 0.5, 1: 0.6}


def test_best_five_epochs_need_more_than_five(tmp_path: Path) -> None:
    six = run_with(tmp_path / "six", [0.1, 0.7, 0.6, 0.9, 0.8, 0.5])
    five = run_with(tmp_path / "five", [0.7, 0.6, 0.9, 0.8, 0.5])
    assert BEST_FIVE.read(six) == pytest.approx(0.7)
    assert BEST_FIVE.read(five) is None


def test_averaged_weights_appear_where_a_run_has_them(comparison: Comparison, tmp_path: Path) -> None:
    assert AVERAGED not in comparison.measures
    averaged = Comparison({"linear": {0: run_with(tmp_path / "ema", [0.5], **{"val_average/acc@1": 0.75})}})
    assert AVERAGED in averaged.measures
    assert averaged.spread("linear", AVERAGED).values == {0: 0.75}


def test_table_gives_n_mean_and_every_seed(comparison: Comparison) -> None:
    lines = comparison.table().splitlines()
    row = next(line for line in lines if line.startswith("top-1, last epoch"))
    assert row.split() == [
        "top-1,",
        "last",
        "epoch",
        "linear",
        "3",
        "60.00",
        "±",
        "20.00",
        "%",
        "0:",
        "40.00,",
        "1:",
        "60.00,",
        "2:",
        "80.00",
    ]
    assert any(line.startswith("orthogonal minus linear") for line in lines)


def test_nothing_to_compare() -> None:
    with pytest.raises(UsageError, match=r"no run that can be read\n  there: broken"):
        Comparison({}, unreadable={Path("there"): "broken"})


def test_t_points_solve_their_equation() -> None:
    """The integral of Student's density, done here by Simpson's rule, is 0.475 between 0 and each point."""
    for freedom, point in enumerate(T_975, start=1):
        scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(freedom * math.pi)
        steps = 2000
        heights = [scale * (1 + (point * i / steps) ** 2 / freedom) ** (-(freedom + 1) / 2) for i in range(steps + 1)]
        area = (heights[0] + heights[-1] + 4 * sum(heights[1:-1:2]) + 2 * sum(heights[2:-1:2])) * point / steps / 3
        # Four digits after the point: the density there times 5e-5 is below 2e-6.
        assert area == pytest.approx(0.475, abs=3e-6)
    assert T_975[-1] > NormalDist().inv_cdf(0.975)


def test_interval_ends_where_the_table_ends() -> None:
    assert interval95([1.0]) is None
    assert interval95([float(i) for i in range(30)]) is not None
    assert interval95([float(i) for i in range(31)]) is None


def test_aligned() -> None:
    text = aligned(["word", "n"], [["a", "1"], ["longer", "100"]], "lr")
    assert text.splitlines() == ["word      n", "------  ---", "a         1", "longer  100"]


def test_result_without_seconds_has_no_time(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    (folder / "result.json").write_text(json.dumps({"finished": True}))
    assert TIME.read(read_run(folder)) is None
