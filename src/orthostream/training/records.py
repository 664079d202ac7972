"""Where the values of a run go: ``metrics.jsonl`` always, TensorBoard and W&B where asked."""

import json
import math
import secrets
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from orthostream.errors import needs_extra


class Tracker(Protocol):
    """An outside place for values; the local file stays complete whatever happens to it."""

    def write(self, step: int, values: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class MetricsFile:
    """One JSON object a line: ``{"kind", "step", "epoch", <key>: <number or null>}``.

    A non-finite value is written as null. On resume the file is cut back to where the checkpoint was
    taken, so that it equals that of an uninterrupted run.

    Args:
        path: the file; made where it does not exist, appended to where it does.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab")

    def write(self, kind: str, step: int, epoch: int, values: Mapping[str, float]) -> None:
        plain = {key: value if math.isfinite(value) else None for key, value in values.items()}
        row = {"kind": kind, "step": step, "epoch": epoch, **plain}
        self._file.write(json.dumps(row).encode() + b"\n")
        self._file.flush()

    def position(self) -> int:
        """Bytes written."""
        return self._file.tell()

    def rewind(self, position: int) -> None:
        """Forget what was written after ``position``."""
        self._file.truncate(position)
        self._file.seek(position)

    def close(self) -> None:
        self._file.close()


class Records:
    """Sends each row to the file and to all trackers; away from rank 0 it does nothing.

    Args:
        file: ``metrics.jsonl``, or None away from rank 0.
        trackers: outside places. One that raises is dropped with a single warning.
    """

    def __init__(self, file: MetricsFile | None, trackers: list[tuple[str, Tracker]]) -> None:
        self._file = file
        self._trackers = trackers

    def write(self, kind: str, step: int, epoch: int, values: Mapping[str, float]) -> None:
        """Record values that belong to optimizer step ``step``, counted from 1."""
        if self._file is None:
            return
        self._file.write(kind, step, epoch, values)
        self._tell(lambda tracker: tracker.write(step, {**values, "epoch": epoch}))

    def position(self) -> int:
        return 0 if self._file is None else self._file.position()

    def rewind(self, position: int) -> None:
        if self._file is not None:
            self._file.rewind(position)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._tell(lambda tracker: tracker.close())

    def _tell(self, act: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._trackers):
            try:
                act(tracker)
            # Whatever an outside service does, training goes on.
            except Exception as error:
                self._trackers.remove((name, tracker))
                print(
                    f"warning: {name} failed and is left out from here on ({error}); metrics.jsonl is complete",
                    file=sys.stderr,
                )


class TensorBoard:
    """Writes scalars to an event file."""

    def __init__(self, folder: Path, first_step: int) -> None:
        with needs_extra("tensorboard"):
            from torch.utils.tensorboard import SummaryWriter  # type: ignore[attr-defined,unused-ignore]
        self._writer: Any = SummaryWriter(str(folder), purge_step=first_step)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        for key, value in values.items():
            self._writer.add_scalar(key, value, step)

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """Sends values to a W&B run; a resumed run goes on under the identifier kept in its folder."""

    def __init__(self, project: str, name: str, folder: Path, config: Mapping[str, Any]) -> None:
        with needs_extra("wandb"):
            import wandb
        kept = folder / "wandb" / "id"
        if not kept.exists():
            kept.parent.mkdir(exist_ok=True)
            kept.write_text(secrets.token_hex(8))
        self._run: Any = wandb.init(
            project=project, name=name, id=kept.read_text(), dir=str(folder), config=dict(config), resume="allow"
        )

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({**values, "train/step": step})

    def close(self) -> None:
        self._run.finish()
