"""What schedules do to singular values: published ranges, generated coefficients, and which ones are refused."""

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import golden
from orthostream.errors import UsageError
from orthostream.optim import schedules
from orthostream.optim.methods import CONVERGENT, DECOMPOSITIONS, METHODS, SAFE, for_shape, schedule_of
from orthostream.optim.schedules import (
    CANS,
    CUBIC,
    CUBIC5,
    MUON,
    QUINTIC,
    REFINING,
    ROOT,
    YOU,
    Schedule,
    check_escape,
    fewest,
    fixed_point,
    image,
    made_for,
    minimax,
    polar_express,
    published_polar_express,
    value,
)

FLOORS = (1e-1, 1e-2, 1e-3, 1e-4)
# Smallest and largest value on [l, 1] for each floor l, in exact arithmetic.
RANGES = {
    "Muon x5": ((MUON,) * 5, (0.6818, 1.1344), (0.6818, 1.1344), (0.4705, 1.2024), (0.0485, 1.2024)),
    "Muon x8": ((MUON,) * 8, (0.6818, 1.1344), (0.6818, 1.1344), (0.6818, 1.1344), (0.6818, 1.2024)),
    "Muon 8+2": ((MUON,) * 8 + (REFINING,) * 2, (1.0, 1.0005), (1.0, 1.0005), (1.0, 1.0005), (1.0, 1.0020)),
    "Muon x5 + convergent quintic x2": (
        *((MUON,) * 5 + (QUINTIC,) * 2, (0.9994, 1.0), (0.9994, 1.0), (0.9716, 1.0), (0.1692, 1.0)),
    ),
    "You x5": (YOU, (0.9778, 1.0318), (0.9778, 1.0318), (0.4750, 1.1450), (0.0493, 1.1450)),
    "CANS x5": (CANS, (0.8844, 1.1198), (0.8844, 1.1198), (0.8844, 1.1198), (0.1047, 1.1198)),
    "Polar Express x5": (
        *(published_polar_express(5), (0.8689, 1.1309), (0.8689, 1.1309), (0.8628, 1.1309), (0.0999, 1.1309)),
    ),
    "Polar Express x6": (
        *(published_polar_express(6), (0.9981, 1.0016), (0.9981, 1.0016), (0.9975, 1.0016), (0.1862, 1.0016)),
    ),
    "Polar Express x8": (published_polar_express(8), (1.0, 1.0), (1.0, 1.0), (1.0, 1.0), (0.5821, 1.0)),
    "cubic5": (CUBIC5, (0.7741, 1.3), (0.7741, 1.3), (0.1191, 1.3), (0.0119, 1.3)),
    "cubic x10": ((CUBIC,) * 10, (1.0, 1.0), (0.5294, 1.0), (0.0576, 1.0), (0.0058, 1.0)),
    "cubic x20": ((CUBIC,) * 20, (1.0, 1.0), (1.0, 1.0), (0.9999, 1.0), (0.3230, 1.0)),
    "cubic x30": ((CUBIC,) * 30, (1.0, 1.0), (1.0, 1.0), (1.0, 1.0), (1.0, 1.0)),
    "convergent quintic x10": ((QUINTIC,) * 10, (1.0, 1.0), (1.0, 1.0), (0.4987, 1.0), (0.0537, 1.0)),
}

numbers = st.floats(-4, 4, allow_nan=False)
triples = st.tuples(numbers, numbers, numbers)


@pytest.mark.parametrize("name", RANGES)
def test_published_ranges_are_reproduced(name):
    coefficients, *expected = RANGES[name]
    for floor, ends in zip(FLOORS, expected, strict=True):
        assert image(coefficients, floor, 1.0) == pytest.approx(ends, abs=1e-4)


@settings(max_examples=60, deadline=None)
@given(st.lists(triples, min_size=1, max_size=3), st.floats(0, 0.9), st.floats(0.05, 1))
def test_the_image_of_an_interval_is_what_a_fine_grid_finds(coefficients, low, width):
    ends = image(tuple(coefficients), low, low + width)
    assume(max(map(abs, ends)) < 1e3)
    x = torch.linspace(low, low + width, 20001, dtype=torch.float64)
    for a, b, c in coefficients:
        x = a * x + b * x**3 + c * x**5
    size = 1 + max(map(abs, ends))
    assert ends[0] - 1e-9 * size <= x.min() and x.max() <= ends[1] + 1e-9 * size
    assert x.min() - ends[0] < 0.05 * size and ends[1] - x.max() < 0.05 * size


@settings(max_examples=40, deadline=None)
@given(st.floats(1e-4, 0.9), st.floats(1.01, 2))
def test_the_minimax_quintic_alternates_around_one_and_no_neighbour_is_nearer(low, ratio):
    high = max(1.0, low * ratio)
    triple, error = minimax(low, high)
    points = [low, *schedules.extrema(triple), high]
    assert len(points) == 4
    deviations = [value(triple, x) - 1 for x in points]
    assert deviations == pytest.approx([-error, error, -error, error], abs=1e-9)
    # A polynomial that were nearer would have to be above or below this one at alternating points.
    for i in range(3):
        moved = [*triple]
        moved[i] *= 1 + 1e-3
        low_end, high_end = image(((moved[0], moved[1], moved[2]),), low, high)
        assert max(1 - low_end, high_end - 1) > error - 1e-12


def test_the_polar_express_is_generated_as_published():
    _, sidecar = golden.load("optim/polar")
    recorded = sidecar["schedules"]["polar_express_l1e-3_safety1e-2_cushion0.02"]
    made = polar_express(10)
    for ours, theirs in zip(made[:7], recorded, strict=False):
        assert ours == pytest.approx(theirs, abs=1e-10)
    # From the eighth step on the interval has shrunk to a point, and many polynomials are equally near to 1.
    for ours, theirs in zip(made[7:], recorded[7:], strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)
        assert value(ours, 1.0) == pytest.approx(value(theirs, 1.0), abs=1e-9)
    assert schedules.polar_express(5) != made[:5] == published_polar_express(5)
    assert published_polar_express(12)[10:] == (QUINTIC, QUINTIC)


def test_each_step_of_the_polar_express_narrows_the_interval():
    low, high = 1e-3, 1.0
    for triple in polar_express(7, safety=1.0, cushion=0.0):
        assert image((triple,), low, high)[0] > low
        low, high = image((triple,), low, high)
    assert 1 - low < 1e-7 and high - 1 < 1e-7


@pytest.mark.parametrize("tol", [0.3, 2e-2, 2e-3, 1e-5, 1e-8])
@pytest.mark.parametrize("floor", [0.1, 1e-2, 1e-3, 1e-4])
def test_a_made_schedule_reaches_its_accuracy_in_the_fewest_steps(tol, floor):
    schedule = made_for(tol, floor)
    steps = len(schedule.coefficients)
    assert schedule.error(floor) <= tol
    best = Schedule(polar_express(max(1, steps - 1), floor / 1.01, 1.01, 0.02), 1.01)
    assert steps == 1 or best.error(floor) > tol
    check_escape(schedule, "bfloat16")


def test_the_default_needs_six_steps():
    assert len(made_for(2e-3, 1e-3).coefficients) == 6


@pytest.mark.parametrize(("triple", "steps"), [(CUBIC, 14), (QUINTIC, 9)])
def test_repeated_steps_are_as_few_as_possible(triple, steps):
    schedule = fewest(lambda count: Schedule((triple,) * count), 1e-3, 1e-2)
    assert schedule.coefficients == (triple,) * steps
    assert Schedule((triple,) * (steps - 1)).error(1e-2) > 1e-3


def test_an_accuracy_that_a_family_never_reaches_is_refused_with_the_nearest_one():
    with pytest.raises(UsageError, match=r"no number of steps up to 64.*nearest is 0\.3[12]"):
        fewest(lambda count: Schedule((MUON,) * count), 0.1, 1e-2)


@pytest.mark.parametrize("method", sorted(set(METHODS) - DECOMPOSITIONS - {"custom"}))
def test_the_schedule_of_every_method_passes_the_check(method):
    schedule = schedule_of(method, None, 2e-3, 1e-3)
    check_escape(schedule)
    _, high = schedule.range(1e-6)
    assert high < 1.31
    if method in CONVERGENT:
        assert schedule.error(1e-3) <= 2e-3


@pytest.mark.parametrize(
    ("triple", "reached", "limit"),
    [
        (MUON, 1.2024, 1.2637),
        (ROOT[2048, 2048], 1.2246, 1.2236),
        (ROOT[2048, 3072], 1.2353, 1.2460),
        (ROOT[2048, 8192], 1.1219, 1.1721),
        (ROOT[2048, 16384], 1.2104, 1.2644),
    ],
)
def test_reach_and_repelling_fixed_point_are_those_of_the_literature(triple, reached, limit):
    assert image((triple,), 0.0, 1.0)[1] == pytest.approx(reached, abs=1e-4)
    assert fixed_point(triple) == pytest.approx(limit, abs=1e-4)
    assert value(triple, fixed_point(triple)) == pytest.approx(fixed_point(triple))
    schedule = Schedule((triple,) * 5)
    if reached < limit:
        check_escape(schedule)
    else:
        with pytest.raises(UsageError, match=r"escape: after step 1 they reach 1\.2245.*below 1\.2235"):
            check_escape(schedule)


def test_what_the_check_refuses_runs_away():
    """The values that it warns of are real: a scalar near 0.559 times the norm."""
    x = 0.559
    for _ in range(10):
        x = value(ROOT[2048, 2048], x)
    assert not abs(x) < 1e10


def test_root_is_refused_for_the_shape_whose_coefficients_escape_and_no_other():
    schedule = schedule_of("root", None, 2e-3, 1e-3)
    assert for_shape("root", schedule, 3072, 2048, "float32").coefficients == (ROOT[2048, 3072],) * 5
    assert for_shape("root", schedule, 64, 576, "float32") == schedule == Schedule((MUON,) * 5)
    with pytest.raises(UsageError, match=r"2048 x 2048.*escape"):
        for_shape("root", schedule, 2048, 2048, "float32")


def test_cans_has_no_margin_for_the_rounding_of_bfloat16():
    check_escape(Schedule(CANS, SAFE), "float32")
    with pytest.raises(UsageError, match="escape"):
        check_escape(Schedule(CANS, SAFE), "bfloat16")


def test_steps_that_turn_singular_values_negative_are_refused():
    with pytest.raises(UsageError, match=r"negative: after step 2 they reach -0\.\d+"):
        check_escape(Schedule((MUON, (1.0, -0.9, 0.0))))


def test_coefficients_that_are_no_numbers_are_refused():
    with pytest.raises(UsageError, match="finite"):
        check_escape(Schedule(((1.5, math.nan, 0.0),)))


def test_more_steps_than_a_list_has_are_refused():
    assert schedule_of("you", 3, 2e-3, 1e-3).coefficients == YOU[:3]
    with pytest.raises(UsageError, match="has 5 steps, got steps=6"):
        schedule_of("you", 6, 2e-3, 1e-3)
