"""Groups of runs side by side: mean and spread over seeds, and differences seed by seed."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from orthostream.analysis.runs import Run
from orthostream.analysis.student_t import deviation, interval95, mean
from orthostream.analysis.text_table import aligned
from orthostream.errors import UsageError

# The paper reports "five runs, five best epochs each".
BEST_EPOCHS = 5


@dataclass(frozen=True)
class Measure:
    """One number that a finished run has.

    Args:
        title: its name in tables.
        unit: of the values as they are shown.
        difference_unit: of differences as they are shown.
        scale: what a stored value is multiplied by for showing.
        digits: after the decimal point, as shown.
        higher_is_better: the direction of a win.
        read: the stored value of a run; None where it has none.
    """

    title: str
    unit: str
    difference_unit: str
    scale: float
    digits: int
    higher_is_better: bool
    read: Callable[[Run], float | None]

    def shown(self, value: float | None, *, signed: bool = False) -> str:
        """A stored value, or a difference, as text without its unit."""
        if value is None:
            return "-"
        return f"{value * self.scale:{'+' if signed else ''}.{self.digits}f}"


@dataclass(frozen=True)
class Spread:
    """One measure of one group.

    Args:
        measure: which.
        by_seed: stored values of the finished runs; None where a run has no value, or one that is not finite.
        mean: over the seeds with a value; None without any.
        std: over the same with n - 1; None below two values.
    """

    measure: Measure
    by_seed: Mapping[int, float | None]
    mean: float | None
    std: float | None

    @property
    def values(self) -> dict[int, float]:
        """What the mean is taken over, by seed."""
        return {seed: value for seed, value in self.by_seed.items() if value is not None}

    @property
    def n(self) -> int:
        """How many seeds count."""
        return len(self.values)

    @property
    def seeds_text(self) -> str:
        """Each seed with its value, or a dash."""
        return ", ".join(f"{seed}: {self.measure.shown(value)}" for seed, value in self.by_seed.items())

    def __str__(self) -> str:
        return with_spread(self.measure, self.mean, self.std)


@dataclass(frozen=True)
class Paired:
    """One measure of one group minus that of the baseline, over the seeds that both have.

    Args:
        measure: which.
        by_seed: stored differences.
        mean: of the differences.
        std: of the differences with n - 1.
        interval: 95 % t interval of the mean difference; None below two or above thirty seeds.
        better: seeds that favour the group.
        worse: seeds that favour the baseline.
    """

    measure: Measure
    by_seed: Mapping[int, float]
    mean: float | None
    std: float | None
    interval: tuple[float, float] | None
    better: int
    worse: int

    @property
    def n(self) -> int:
        """How many seeds both groups have."""
        return len(self.by_seed)

    @property
    def verdict(self) -> str:
        """How many seeds favour which side."""
        equal = self.n - self.better - self.worse
        return f"{self.better} better, {self.worse} worse" + (f", {equal} equal" if equal else "")

    @property
    def interval_text(self) -> str:
        """The two ends of the interval, or a dash."""
        if self.interval is None:
            return "-"
        low, high = (self.measure.shown(end, signed=True) for end in self.interval)
        return f"{low} to {high}"

    @property
    def seeds_text(self) -> str:
        """Each seed with its difference."""
        return ", ".join(f"{seed}: {self.measure.shown(d, signed=True)}" for seed, d in self.by_seed.items())

    def __str__(self) -> str:
        return with_spread(self.measure, self.mean, self.std, signed=True)


@dataclass(frozen=True)
class Missing:
    """A cell of the comparison that does not count, and why."""

    label: str
    seed: int
    reason: str


def with_spread(measure: Measure, average: float | None, std: float | None, *, signed: bool = False) -> str:
    """``mean ± std`` as text; the mean alone where one value has no spread."""
    text = measure.shown(average, signed=signed)
    return text if std is None else f"{text} ± {measure.shown(std)}"


def last_epoch(key: str) -> Callable[[Run], float | None]:
    """Reader of a value at the last epoch."""
    return lambda run: _finite(run.epochs[-1].get(key)) if run.epochs else None


def best_epochs(key: str, count: int, *, higher_is_better: bool = True) -> Callable[[Run], float | None]:
    """Reader of the mean of a run's ``count`` best epochs; None where it has no more epochs than that."""

    def read(run: Run) -> float | None:
        values = sorted(value for row in run.epochs if (value := _finite(row.get(key))) is not None)
        best = values[-count:] if higher_is_better else values[:count]
        return mean(best) if len(values) > count or count == 1 else None

    return read


def seconds(run: Run) -> float | None:
    """Time spent training, without evaluation and set-up."""
    return _finite((run.result or {}).get("seconds"))


def _accuracy(title: str, read: Callable[[Run], float | None]) -> Measure:
    return Measure(title, "%", "points", 100.0, 2, True, read)


def _bits(title: str, read: Callable[[Run], float | None]) -> Measure:
    return Measure(title, "bits", "bits", 1.0, 4, False, read)


OF_TRAINING = (
    Measure("training loss, last epoch", "nats", "nats", 1.0, 4, False, last_epoch("train/epoch_loss")),
    Measure("training time", "s", "s", 1.0, 1, False, seconds),
)

MEASURES = (
    _accuracy("top-1, last epoch", last_epoch("val/acc@1")),
    _accuracy("top-1, best epoch", best_epochs("val/acc@1", 1)),
    _accuracy(f"top-1, {BEST_EPOCHS} best epochs", best_epochs("val/acc@1", BEST_EPOCHS)),
    _accuracy("top-1 of averaged weights, last epoch", last_epoch("val_average/acc@1")),
    Measure("validation loss, last epoch", "nats", "nats", 1.0, 4, False, last_epoch("val/loss")),
    *OF_TRAINING,
)

BITS = _bits("bits per character, last epoch", last_epoch("val/bits_per_char"))

# Of runs on text: bits are the loss in another unit, and what is chosen among epochs are the fewest.
TEXT_MEASURES = (
    BITS,
    _bits("bits per character, best epoch", best_epochs("val/bits_per_char", 1, higher_is_better=False)),
    _bits("bits per character of averaged weights, last epoch", last_epoch("val_average/bits_per_char")),
    _accuracy("next character right, last epoch", last_epoch("val/acc@1")),
    *OF_TRAINING,
)


class Comparison:
    """Groups of runs, one a setting, compared seed by seed with the first group.

    A run counts when it is finished. What does not count is named in ``missing``, and every mean is given with the
    number of seeds it was taken over.

    Args:
        groups: runs by label and seed; the first label is the baseline.
        failed: cells that were asked for and left no readable run, with the reason.
        unreadable: folders that could not be read, with the reason, where their cell is not known.

    Raises:
        UsageError: where there is no group; the message lists what could not be read.
    """

    def __init__(
        self,
        groups: Mapping[str, Mapping[int, Run]],
        *,
        failed: Mapping[tuple[str, int], str] | None = None,
        unreadable: Mapping[Path, str] | None = None,
    ) -> None:
        failed = failed or {}
        self.groups = {label: dict(sorted(groups.get(label, {}).items())) for label in _labels(groups, failed)}
        if not self.groups:
            reasons = "".join(f"\n  {folder}: {reason}" for folder, reason in (unreadable or {}).items())
            raise UsageError(f"nothing to compare: there is no run that can be read{reasons}")
        self.labels = list(self.groups)
        self.baseline = self.labels[0]
        self.seeds = sorted({seed for cells in self.groups.values() for seed in cells} | {seed for _, seed in failed})
        self.unreadable = dict(unreadable or {})
        self.missing = [
            Missing(label, seed, failed.get((label, seed)) or _why_missing(self.groups[label].get(seed)))
            for label in self.labels
            for seed in self.seeds
            if not self._counts(label, seed)
        ]

    @property
    def runs(self) -> list[Run]:
        """All runs, finished or not, by group and seed."""
        return [run for cells in self.groups.values() for run in cells.values()]

    @property
    def measures(self) -> list[Measure]:
        """The measures that a finished run has a value of; those of text where a run has bits per character."""
        is_text = any(self.spread(label, BITS).n for label in self.labels)
        measures = TEXT_MEASURES if is_text else MEASURES
        return [m for m in measures if any(self.spread(label, m).n for label in self.labels)]

    def finished(self, label: str) -> dict[int, Run]:
        """The runs of a group that count, by seed."""
        return {seed: run for seed, run in self.groups[label].items() if run.is_finished}

    def spread(self, label: str, measure: Measure) -> Spread:
        """Mean and spread of a measure over the seeds of a group."""
        by_seed = {seed: measure.read(run) for seed, run in self.finished(label).items()}
        values = [value for value in by_seed.values() if value is not None]
        return Spread(measure, by_seed, mean(values), deviation(values))

    def paired(self, label: str, measure: Measure) -> Paired:
        """A group minus the baseline, seed by seed."""
        own, base = self.spread(label, measure).values, self.spread(self.baseline, measure).values
        differences = {seed: value - base[seed] for seed, value in own.items() if seed in base}
        values = [*differences.values()]
        gains = values if measure.higher_is_better else [-value for value in values]
        return Paired(
            measure,
            differences,
            mean(values),
            deviation(values),
            interval95(values),
            sum(gain > 0 for gain in gains),
            sum(gain < 0 for gain in gains),
        )

    def table(self) -> str:
        """The comparison as aligned text: values, paired differences, and what is missing."""
        rows = [
            [m.title if label == self.baseline else "", label, str(s.n), str(s), m.unit, s.seeds_text]
            for m in self.measures
            for label, s in [(label, self.spread(label, m)) for label in self.labels]
        ]
        parts = [aligned(["measure", "group", "n", "mean ± std", "unit", "each seed"], rows, "llrrll")]
        for label in self.labels[1:]:
            first = f"{label} minus {self.baseline}"
            header = [first, "n", "mean ± std", "unit", "95 % interval", "seeds", "each seed"]
            pairs = [self.paired(label, m) for m in self.measures]
            rows = [
                [p.measure.title, str(p.n), str(p), p.measure.difference_unit, p.interval_text, p.verdict, p.seeds_text]
                for p in pairs
            ]
            parts.append(aligned(header, rows, "lrrlrll"))
        absent = [f"missing: {cell.label} seed {cell.seed}: {cell.reason}" for cell in self.missing]
        absent += [f"unreadable: {folder}: {reason}" for folder, reason in self.unreadable.items()]
        if absent:
            parts.append("\n".join(absent))
        return "\n\n".join(parts)

    def _counts(self, label: str, seed: int) -> bool:
        run = self.groups[label].get(seed)
        return run is not None and run.is_finished


def _labels(groups: Mapping[str, object], failed: Mapping[tuple[str, int], str]) -> list[str]:
    return list(dict.fromkeys([*groups, *(label for label, _ in failed)]))


def _why_missing(run: Run | None) -> str:
    if run is None:
        return "there is no run of this seed"
    return f"not finished: {len(run.epochs)} evaluated epochs in {run.folder}"


def _finite(value: object) -> float | None:
    """A number; None for what is missing or was not finite."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
