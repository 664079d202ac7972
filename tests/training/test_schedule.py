"""Learning-rate schedules against recorded values and at their edges."""

import json

import pytest

from locations import GOLDEN
from orthostream.training.schedule import Schedule

KINDS = {"cos": "cosine", "lin": "linear", "const": "constant", "step": "step"}
CASES = json.loads((GOLDEN / "ortho" / "schedules.json").read_text())["schedules"]


@pytest.mark.parametrize("name", CASES)
def test_recorded_points(name):
    case = CASES[name]
    schedule = Schedule(
        lr=case["lr"],
        kind=KINDS[case["kind"]],
        steps_per_epoch=case["steps_per_epoch"],
        epochs=case["epochs"],
        warmup_epochs=case.get("warm_epochs", 0),
        warmup="constant" if case.get("wtype") == "const" else "linear",
        warmup_factor=case.get("wconst", 0.1),
        min_lr=case["lr"] * case["min_ratio"] if case.get("min_ratio") else None,
        decay_epochs=case.get("decay", ()),
        decay_ratio=case.get("ratio", 0.1),
    )
    for step, expected in case["points"]:
        # The same float64 formula, evaluated in another order of operations.
        assert schedule(step) == pytest.approx(expected, rel=1e-12, abs=1e-18), step


def cosine(**changes):
    return Schedule(**{"lr": 1.0, "steps_per_epoch": 10, "epochs": 4, "warmup_epochs": 1, **changes})


def test_the_cosine_stays_at_its_end():
    schedule = cosine()
    assert schedule(40) == schedule(41) == schedule(400) == 0.0


def test_a_floor_holds_beyond_the_end():
    assert cosine(min_lr=0.25)(1000) == pytest.approx(0.25)


def test_the_first_step_moves_only_where_asked():
    assert cosine()(0) == 0.0
    assert cosine(first_step="one")(0) == pytest.approx(0.1)
    assert cosine(first_step="one")(9) == pytest.approx(1.0)


def test_constant_warmup_has_no_ramp():
    schedule = cosine(warmup="constant", warmup_factor=0.5)
    assert [schedule(step) for step in (0, 5, 9)] == [0.5] * 3
