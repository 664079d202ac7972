"""What the person at the terminal sees: a bar there, plain lines in a file or a pipe."""

import sys
import time
from collections.abc import Mapping
from typing import Literal, Protocol

from orthostream.errors import needs_extra

Style = Literal["auto", "bar", "lines", "none"]


class Progress(Protocol):
    """Shows how far a run is; made for rank 0, silent elsewhere."""

    def begin(self, done: int, total: int) -> None: ...

    def step(self, done: int, epoch: int) -> None: ...

    def values(self, done: int, epoch: int, values: Mapping[str, float]) -> None: ...

    def say(self, message: str) -> None: ...

    def end(self) -> None: ...


class Silent:
    """Shows nothing."""

    def begin(self, done: int, total: int) -> None: ...

    def step(self, done: int, epoch: int) -> None: ...

    def values(self, done: int, epoch: int, values: Mapping[str, float]) -> None: ...

    def say(self, message: str) -> None: ...

    def end(self) -> None: ...


class Lines:
    """A line each time values are recorded, and now and then where that takes long."""

    LONGEST_SILENCE = 20.0

    def __init__(self) -> None:
        self._total = self._first = 0
        self._begun = self._spoke = time.monotonic()

    def begin(self, done: int, total: int) -> None:
        self._first, self._total, self._begun = done, total, time.monotonic()

    def step(self, done: int, epoch: int) -> None:
        if time.monotonic() - self._spoke > self.LONGEST_SILENCE:
            self.values(done, epoch, {})

    def values(self, done: int, epoch: int, values: Mapping[str, float]) -> None:
        rate = (time.monotonic() - self._begun) / max(1, done - self._first)
        left = duration(rate * (self._total - done))
        self.say("  ".join([f"step {done}/{self._total}", f"epoch {epoch}", *shown(values), f"left {left}"]))

    def say(self, message: str) -> None:
        print(message, flush=True)
        self._spoke = time.monotonic()

    def end(self) -> None: ...


class Bar:
    """A live bar with the newest values, the rate and the time left."""

    def __init__(self) -> None:
        with needs_extra("vision"):
            from rich import progress
        self._bar = progress.Progress(
            progress.TextColumn("epoch {task.fields[epoch]}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TextColumn("{task.fields[values]}"),
            progress.TimeRemainingColumn(),
        )
        self._task = self._bar.add_task("train", total=None, epoch=0, values="")

    def begin(self, done: int, total: int) -> None:
        self._bar.update(self._task, completed=done, total=total)
        self._bar.start()

    def step(self, done: int, epoch: int) -> None:
        self._bar.update(self._task, completed=done, epoch=epoch)

    def values(self, done: int, epoch: int, values: Mapping[str, float]) -> None:
        text = "  ".join(shown(values))
        if "val/acc@1" in values:
            self.say(f"epoch {epoch}  {text}")
        else:
            self._bar.update(self._task, completed=done, epoch=epoch, values=text)

    def say(self, message: str) -> None:
        self._bar.console.print(message, markup=False, highlight=False)

    def end(self) -> None:
        self._bar.stop()


SHOWN = {
    "train/loss": "loss {:.4f}",
    "train/lr": "lr {:.3g}",
    "train/samples_per_sec": "{:.0f} samples/s",
    "val/loss": "val loss {:.4f}",
    "val/acc@1": "val acc@1 {:.2%}",
    "val/bits_per_char": "val bits per character {:.4f}",
    "val_average/acc@1": "averaged weights {:.2%}",
    "val_average/bits_per_char": "averaged weights, bits per character {:.4f}",
}


def shown(values: Mapping[str, float]) -> list[str]:
    """The few values worth a place on the line."""
    return [text.format(values[key]) for key, text in SHOWN.items() if key in values]


def duration(seconds: float) -> str:
    """``h:mm:ss``."""
    whole = max(0, round(seconds))
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def choose(style: Style, is_main: bool) -> Progress:
    """The way to show progress: ``auto`` is a bar on a terminal and lines elsewhere."""
    if not is_main or style == "none":
        return Silent()
    if style == "bar" or (style == "auto" and sys.stdout.isatty()):
        return Bar()
    return Lines()
