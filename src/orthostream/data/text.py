"""A text as characters: one UTF-8 file, read whole, cut into windows for training and for evaluation."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from orthostream.data.epochs import Epochs, Micro
from orthostream.data.errors import DataError
from orthostream.data.keys import key
from orthostream.data.sampler import EpochBatches, EvalShard
from orthostream.errors import UsageError, needs_extra
from orthostream.training.evaluate import IGNORED

with needs_extra("vision"):
    import numpy as np

CONTEXT = 128
# Fixed for good: another share would be another data set.
TRAIN_TENTHS = 9
# So many strange characters a message shows.
SHOWN = 8


@dataclass(frozen=True, kw_only=True)
class TextDescription:
    """What the characters of a text are.

    Args:
        name: of the data set, as in the table.
        vocabulary: all characters, by code point; a token is an index into it.
        context: characters of a window.
        eval_split: the part that evaluations use.
    """

    name: str
    vocabulary: tuple[str, ...]
    context: int
    eval_split: str = "last tenth"

    @property
    def num_classes(self) -> int:
        """How many characters there are."""
        return len(self.vocabulary)

    @property
    def classes(self) -> tuple[str, ...]:
        """The characters as they can be printed: in quotes, a line break as ``'\\\\n'``."""
        return tuple(map(repr, self.vocabulary))


@dataclass(frozen=True)
class TextSplits:
    """Both parts of a text.

    Args:
        train: tokens to learn from, int64 ``[characters]``.
        evaluation: tokens to be judged by, likewise.
        description: facts about both.
        notes: what a reader of the results should know, one line each.
    """

    train: Tensor
    evaluation: Tensor
    description: TextDescription
    notes: tuple[str, ...] = ()


def text(
    *, source: str | None = None, context: int | None = None, vocabulary: Sequence[str] | None = None
) -> TextSplits:
    """A text by characters: the first nine tenths of a file to learn from, the last tenth to be judged by.

    The cut is after ``9 * characters // 10``. A character is a Unicode code point, line breaks as they stand in the
    file. The vocabulary is that of the whole file, so that the last tenth holds no character without a number.

    Args:
        source: a UTF-8 file.
        context: characters of a window; 128 by default.
        vocabulary: characters by token, where a model knows them already; those of the file by default.

    Raises:
        DataError: where the file is missing, unreadable, empty, not UTF-8 or shorter than a window needs, or holds a
            character that the given vocabulary does not have.

    Example:
        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile() as file:
        ...     _ = file.write(b"to be, or not to be"), file.flush()
        ...     splits = text(source=file.name, context=4)
        >>> "".join(splits.description.vocabulary)
        ' ,benort'
        >>> len(splits.train), len(splits.evaluation)
        (17, 2)

    Reference: by characters and with a last tenth held out, as A. Karpathy, char-rnn, 2015.
    """
    if context is not None and context < 1:
        raise UsageError(f"data.context is {context}; it is characters of a window, at least 1 (default {CONTEXT})")
    length = CONTEXT if context is None else context
    points = _code_points(source)
    known = np.unique(points) if vocabulary is None else np.array([ord(sign) for sign in vocabulary], np.uint32)
    if vocabulary is None and len(known) < 2:
        raise DataError(f"{source} repeats a single character; there is nothing to predict, give another file")
    tokens = _tokens(points, known, str(source))
    cut = len(tokens) * TRAIN_TENTHS // 10
    train, evaluation = tokens[:cut], tokens[cut:]
    if len(train) <= length or len(evaluation) < 2:
        raise DataError(
            f"{source} has {len(tokens)} characters, {len(train)} to train on and {len(evaluation)} to evaluate; a "
            f"window of {length} needs {length + 1} of the former and an evaluation 2 of the latter: give a longer "
            "text or a smaller data.context"
        )
    description = TextDescription(name="text", vocabulary=tuple(map(chr, known.tolist())), context=length)
    return TextSplits(train, evaluation, description)


class TextWindows(Epochs):
    """Windows of a text for training, in the order that seed and epoch fix.

    A micro-batch is tokens and those that follow them, both int64 ``[local batch, T]``.

    Window i of T characters begins at ``i T + shift``. Each epoch takes every window once, in the order of
    :class:`~.sampler.EpochBatches`, and draws its shift, from 0 to T - 1 (the last one as far as the text allows), by a
    key of (seed, epoch, i), as an image gets its crop. So neither the processes nor a resumed run changes a batch, and
    but for both ends of the text each character is expected once an epoch.

    Args:
        tokens: int64 ``[characters]``.
        context: T, characters of a window.
        seed: of the run.
        batch_size: global: windows of a step, over all processes and micro-batches.
        accumulate: micro-batches a step.
        rank: of this process.
        world_size: number of processes.

    Raises:
        UsageError: where the batch does not divide.
        DataError: where the text has fewer windows than a batch.

    Example:
        >>> windows = TextWindows(torch.arange(9), context=4, seed=0, batch_size=2)
        >>> ((characters, following),) = next(windows.epoch(0))
        >>> characters.shape, bool((following == characters + 1).all())
        (torch.Size([2, 4]), True)
    """

    def __init__(
        self,
        tokens: Tensor,
        context: int,
        *,
        seed: int,
        batch_size: int,
        accumulate: int = 1,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.tokens, self.context = tokens, context
        # The last character of the text is a label only.
        self.batches = EpochBatches(
            (len(tokens) - 1) // context,
            seed=seed,
            batch_size=batch_size,
            accumulate=accumulate,
            rank=rank,
            world_size=world_size,
        )

    def start(self, epoch: int, index: int) -> int:
        """Where a window begins in an epoch."""
        first = index * self.context
        room = min(self.context, len(self.tokens) - self.context - first)
        return first + key(self.batches.seed, "augmentation", epoch, index) % room

    def _steps(self, epoch: int, start_step: int) -> Iterator[tuple[Micro, ...]]:
        step: list[Micro] = []
        for places in self.batches.micro_batches(epoch, start_step):
            starts = torch.tensor([self.start(*place) for place in places])
            where = starts[:, None] + torch.arange(self.context)
            step.append((self.tokens[where], self.tokens[where + 1]))
            if len(step) == self.batches.accumulate:
                yield tuple(step)
                step = []


class TextEvaluation:
    """The share of one process in an evaluation: every character but the first is predicted exactly once.

    Windows lie side by side and are shared out as :class:`~.sampler.EvalShard` says. A character is predicted from
    those before it in its window, T at most. The last window is filled up; what fills it has the label ``IGNORED``.

    Args:
        tokens: int64 ``[characters]``.
        context: T, characters of a window.
        batch_size: windows of this process at a time; the last batch may be smaller.
        rank: of this process.
        world_size: number of processes.

    Raises:
        UsageError: for a batch size below 1.

    Example:
        >>> ((characters, following),) = TextEvaluation(torch.arange(6), context=3, batch_size=8)
        >>> following.tolist()
        [[1, 2, 3], [4, 5, -100]]
    """

    def __init__(self, tokens: Tensor, context: int, *, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        # What all processes together must see.
        self.total = len(tokens) - 1
        count = -(-self.total // context)
        self.inputs = _filled(tokens[:-1], count, context, 0)
        self.labels = _filled(tokens[1:], count, context, IGNORED)
        self._shard = EvalShard(count, rank, world_size, batch_size)

    def __iter__(self) -> Iterator[Micro]:
        for windows in self._shard:
            yield self.inputs[windows], self.labels[windows]

    def __len__(self) -> int:
        """Batches of this process."""
        return len(self._shard)


def _filled(tokens: Tensor, windows: int, context: int, filling: int) -> Tensor:
    """Windows side by side, ``[windows, context]``."""
    missing = windows * context - len(tokens)
    return torch.nn.functional.pad(tokens, (0, missing), value=filling).view(windows, context)


def _code_points(source: str | None) -> "np.ndarray[tuple[int], np.dtype[np.uint32]]":
    """The code points of a file, in its order."""
    if source is None:
        raise DataError("data.source is missing; for text it is the path of a UTF-8 file")
    path = Path(source).expanduser()
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"data.source {source!r} does not exist ({path.absolute()}); give a UTF-8 text file") from None
    except IsADirectoryError:
        raise DataError(f"data.source {source!r} is a folder; give one UTF-8 text file in it") from None
    except OSError as error:
        raise DataError(f"data.source {source!r} cannot be read: {error.strerror}; give a UTF-8 text file") from error
    if not content:
        raise DataError(f"{source} is empty; give a UTF-8 text file with something in it")
    try:
        decoded = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{source} is not UTF-8: byte {error.start} is 0x{content[error.start]:02x} ({error.reason}); convert it "
            f"first, such as: iconv -f latin1 -t utf-8 {source}"
        ) from None
    return np.frombuffer(decoded.encode("utf-32-le"), np.dtype("<u4")).astype(np.uint32)


def _tokens(
    points: "np.ndarray[tuple[int], np.dtype[np.uint32]]",
    known: "np.ndarray[tuple[int], np.dtype[np.uint32]]",
    source: str,
) -> Tensor:
    """Each code point as its place in the vocabulary, which is sorted."""
    strange = np.setdiff1d(points, known)
    if len(strange):
        shown = ", ".join(repr(chr(point)) for point in strange[:SHOWN].tolist())
        more = f" and {len(strange) - SHOWN} more" if len(strange) > SHOWN else ""
        raise DataError(
            f"{source} holds characters that the model has no number for: {shown}{more}; its vocabulary is that of the "
            f"{len(known)} characters it was trained on, so give a text that keeps to them"
        )
    return torch.from_numpy(np.searchsorted(known, points).astype(np.int64))
