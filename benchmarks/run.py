"""Run benchmarks: ``python -m benchmarks.run SUITE``, or ``all`` for everything on the device at hand.

    augment     augmentation of whole batches against two worker processes
    load        from_pretrained of our ViT-B against that of transformers, on the CPU
    memory      bytes that one connection keeps for the backward pass
    ops         the orthogonal update alone, against a device copy, the plain formula and torch.compile
    optimizer   steps with orthogonal gradients of whole networks, against plain SGD, a loop of SVDs, and Muon
    pair        write and norm in one operation against one after the other
    polar       how near each method comes to the polar factor
    sharing     the step of an orthogonalised optimizer on several processes
    step        training steps, and the table of overheads
    statistics  training steps that take statistics of every site

All sides of a case live in one process and take turns, so that whatever else the machine does falls on all alike. A
row holds two sides: medians of both, the median of the ratios of neighbouring turns, and the 20 % and 80 % quantiles
of each. Rows are appended to ``benchmarks/results.csv`` with commit, hardware and versions. A case that fails is
reported and the next one runs; the exit status is then 1.
"""

import argparse
import gc
import sys
import time
import traceback
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import torch

from benchmarks.cases import Case, Failure, Setting, Skip
from benchmarks.overhead import overhead_table
from benchmarks.rows import RESULTS, Row, append, context, described
from benchmarks.suites import SUITES

ROUNDS = {"ops": 25, "pair": 25}
ROUNDS_OF_STEPS = 11


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    device = torch.device(options.device)
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
    facts = context(device)
    if options.commit:
        facts["commit"] = options.commit
    print(", ".join(f"{name} {value}" for name, value in facts.items()), flush=True)
    run = Run(options.results, facts, options.minutes)
    for suite in SUITES if options.suite == "all" else [options.suite]:
        # On the CPU an operation compiles for longer than all of its turns take.
        compiles = options.compile if options.compile is not None else device.type == "cuda" or suite == "step"
        rounds = options.rounds or ROUNDS.get(suite, ROUNDS_OF_STEPS)
        try:
            cases = [case for case in SUITES[suite](device) if options.only in case.name]
        except Skip as reason:
            print(f"{suite}: skipped: {reason}", flush=True)
            continue
        run.cases(suite, cases, Setting(device, rounds, compiles))
    return run.finish()


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("suite", choices=[*SUITES, "all"])
    made.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    made.add_argument("--rounds", type=at_least_two, help="turns of each side")
    made.add_argument("--only", default="", metavar="TEXT", help="cases whose name has this text")
    made.add_argument(
        "--compile", action=argparse.BooleanOptionalAction, help="sides under torch.compile (off for ops on the CPU)"
    )
    made.add_argument("--minutes", type=float, help="begin no case after so many")
    made.add_argument("--results", type=Path, default=RESULTS, help="where rows are appended")
    made.add_argument("--commit", default="", help="of the sources, where git is not at hand")
    return made


def at_least_two(text: str) -> int:
    """A number of turns from which quantiles can be taken."""
    if int(text) < 2:
        raise argparse.ArgumentTypeError("quantiles need 2 rounds or more")
    return int(text)


class Run:
    """Cases one after the other, and what became of them.

    Args:
        results: file of rows.
        facts: columns that all rows share.
        minutes: after which no case begins; None for no limit.
    """

    def __init__(self, results: Path, facts: dict[str, object], minutes: float | None = None) -> None:
        self.results, self.facts, self.minutes = results, facts, minutes
        self.begun = time.monotonic()
        self.rows: list[Row] = []
        self.failed: list[str] = []

    def cases(self, suite: str, cases: list[Case], setting: Setting) -> None:
        """Measure cases of one suite."""
        begun = time.monotonic()
        for done, case in enumerate(cases):
            if self.minutes is not None and self.seconds() > 60 * self.minutes:
                self.failed += [f"{suite}: {left.name}: no time was left" for left in cases[done:]]
                break
            self.case(suite, case, setting)
            used = time.monotonic() - begun
            left = used / (done + 1) * (len(cases) - done - 1)
            print(
                f"  {suite}: {done + 1} of {len(cases)} cases, {used:.0f} s used, about {left:.0f} s to go", flush=True
            )

    def case(self, suite: str, case: Case, setting: Setting) -> None:
        """Measure one case; whatever it raises is reported."""
        try:
            for outcome in case.measure(setting):
                if isinstance(outcome, Failure):
                    self.report(f"{suite}: {case.name}: {outcome}", outcome.error)
                else:
                    self.rows.append(outcome)
                    print(described(outcome), flush=True)
                    append(outcome, self.facts, self.results)
        except Exception as error:
            self.report(f"{suite}: {case.name}: {Failure('whole case', error)}", error)
        finally:
            clear(setting.device)

    def report(self, what: str, error: Exception) -> None:
        self.failed.append(what)
        traceback.print_exception(error)
        print(f"FAILED {what}", flush=True)

    def seconds(self) -> float:
        """Since the run began."""
        return time.monotonic() - self.begun

    def finish(self) -> int:
        """Print what sums up, and give the exit status."""
        if any(row.suite == "step" for row in self.rows):
            print(f"\n{overhead_table(self.rows)}\n")
        print(f"{len(self.rows)} rows in {self.seconds():.0f} s, appended to {self.results}")
        print_all("not measured:", self.failed)
        return 1 if self.failed else 0


def print_all(heading: str, lines: Iterable[str]) -> None:
    for index, line in enumerate(lines):
        print(f"{heading}\n  {line}" if index == 0 else f"  {line}")


def clear(device: torch.device) -> None:
    """Let go of what a case compiled and allocated."""
    torch._dynamo.reset()
    gc.collect()
    if device.type == "cuda":
        # After an error on the device every call fails; the next case says so itself.
        with suppress(Exception):
            torch.cuda.empty_cache()


if __name__ == "__main__":
    sys.exit(main())
