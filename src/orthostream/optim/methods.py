"""The methods by name, and the schedule that each of them means."""

from functools import partial

from orthostream.errors import UsageError
from orthostream.optim import schedules
from orthostream.optim.schedules import Coefficients, Schedule, Triple

METHODS: dict[str, str] = {
    "auto": "the fastest way for shape and device that is within tol; completion='svd': the decomposition",
    "svd": "singular value decomposition, exact",
    "eigh": "eigendecomposition of the Gram matrix in float64, exact down to the rounding of float32",
    "newton_schulz": "cubic 1.5 x - 0.5 x^3, convergent",
    "quintic": "convergent quintic (15 x - 10 x^3 + 3 x^5) / 8",
    "polar_express": "the best quintic for each step; with tol made for it, with steps as published",
    "muon": "Muon's quintic, 5 steps; does not converge: singular values end between 0.68 and 1.13",
    "muon_refined": "Muon's quintic 8 times, then 2 x - 1.5 x^3 + 0.5 x^5 twice",
    "you": "You's 5 quintics",
    "cans": "CANS, 5 quintics that are optimal on an interval",
    "cubic5": "5 optimal cubics, two products a step",
    "root": "ROOT: Muon's form with coefficients by shape, 5 steps; does not converge",
    "custom": "coefficients of your own",
}
DECOMPOSITIONS = frozenset({"svd", "eigh"})
# Those whose number of steps follows from an accuracy.
CONVERGENT = frozenset({"auto", "newton_schulz", "quintic", "polar_express"})

# The norm is multiplied by this, so that rounding lifts no singular value out of the interval of the schedule.
SAFE = 1.01
LISTS: dict[str, Schedule] = {
    "you": Schedule(schedules.YOU),
    "cans": Schedule(schedules.CANS, SAFE),
    "cubic5": Schedule(schedules.CUBIC5),
    "muon_refined": Schedule((schedules.MUON,) * 8 + (schedules.REFINING,) * 2),
}
REPEATED: dict[str, Triple] = {
    "newton_schulz": schedules.CUBIC,
    "quintic": schedules.QUINTIC,
    "muon": schedules.MUON,
    "root": schedules.MUON,
}
USUAL_STEPS = 5


def schedule_of(method: str, steps: int | None, tol: float, floor: float, coefficients: Coefficients = ()) -> Schedule:
    """The schedule of an iteration.

    Args:
        method: a name of :data:`METHODS` that is no decomposition. ``auto`` is the Polar Express.
        steps: how many; None for as many as the accuracy needs, or as published where the method does not converge.
        tol: wanted accuracy, for methods that converge.
        floor: smallest singular value that it is meant for, in units of the norm.
        coefficients: of ``custom``.

    Raises:
        UsageError: for more steps than a list has, or an accuracy that no number of steps reaches.

    Example:
        >>> len(schedule_of("newton_schulz", None, 1e-3, 1e-2).coefficients)
        14
    """
    if method in LISTS or method == "custom":
        listed = LISTS[method] if method in LISTS else Schedule(coefficients, SAFE)
        known = len(listed.coefficients)
        if steps is not None and steps > known:
            raise UsageError(f"method={method!r} has {known} steps, got steps={steps}; give at most {known}")
        return Schedule(listed.coefficients[:steps], listed.safety)
    if method in REPEATED:
        family = partial(_repeated, REPEATED[method])
        if steps is None and method in CONVERGENT:
            return schedules.fewest(family, tol, floor)
        return family(steps or USUAL_STEPS)
    if steps is not None:
        return Schedule(schedules.published_polar_express(steps), SAFE)
    return schedules.made_for(tol, floor, SAFE)


def _repeated(triple: Triple, steps: int) -> Schedule:
    return Schedule((triple,) * steps)


def for_shape(method: str, schedule: Schedule, rows: int, columns: int, precision: str) -> Schedule:
    """The schedule for one shape: ROOT has coefficients of its own for some.

    Raises:
        UsageError: where they let singular values escape.
    """
    small, large = sorted((rows, columns))
    if method != "root" or (small, large) not in schedules.ROOT:
        return schedule
    own = Schedule((schedules.ROOT[small, large],) * len(schedule.coefficients), schedule.safety)
    schedules.check_escape(own, precision, f"method='root' for {small} x {large} matrices")
    return own
