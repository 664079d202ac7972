"""A text by characters: what a token is, which windows a step has, and that an evaluation predicts each once."""

import random
from itertools import chain, product
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from locations import data_folder
from orthostream import data
from orthostream.data.errors import DataError
from orthostream.data.text import TextEvaluation, TextWindows, text
from orthostream.errors import UsageError
from orthostream.training.evaluate import IGNORED


def written(folder: Path, content: str | bytes) -> str:
    path = folder / "text.txt"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


LINES = "Größe, 東京 and \U0001f600:\r\n\tto be or not to be?\n" * 7


def test_a_token_is_the_place_of_a_character_in_the_sorted_vocabulary(tmp_path):
    splits = text(source=written(tmp_path, LINES), context=5)
    vocabulary = splits.description.vocabulary
    assert list(vocabulary) == sorted(set(LINES))
    tokens = torch.cat([splits.train, splits.evaluation])
    assert tokens.dtype == torch.int64 and "".join(vocabulary[token] for token in tokens) == LINES
    assert len(splits.train) == len(LINES) * 9 // 10
    assert splits.description.num_classes == len(vocabulary) and splits.description.context == 5
    assert "'\\n'" in splits.description.classes


def test_the_vocabulary_is_that_of_the_whole_file_and_the_default_window_128(tmp_path):
    splits = text(source=written(tmp_path, "ab" * 500 + "z" * 10))
    assert splits.description.vocabulary == ("a", "b", "z") and splits.description.context == 128
    assert 2 not in splits.train and 2 in splits.evaluation


def test_a_known_vocabulary_keeps_its_numbers(tmp_path):
    splits = text(source=written(tmp_path, "cab" * 20), context=4, vocabulary=["a", "b", "c", "d"])
    assert splits.train[:3].tolist() == [2, 0, 1] and splits.description.num_classes == 4
    with pytest.raises(DataError, match=r"no number for: 'b', 'c'; its vocabulary is that of the 1 characters"):
        text(source=written(tmp_path, "cab" * 20), context=4, vocabulary=["a"])


MISTAKES = {
    "empty": (b"", "is empty"),
    "not UTF-8": ("Größe".encode("latin1") * 99, r"not UTF-8: byte 2 is 0xf6.*iconv"),
    "one character": (b"a" * 999, "single character"),
    "shorter than a window": (b"abcdefghij", r"9 to train on and 1 to evaluate; a window of 8 needs 9"),
    "one short of a window": (b"abcdefgh" + b"i", r"8 to train on"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_file_that_is_no_text_is_refused(tmp_path, mistake):
    content, message = MISTAKES[mistake]
    with pytest.raises(DataError, match=message):
        text(source=written(tmp_path, content), context=8)


def test_a_source_that_is_no_file_is_refused(tmp_path):
    with pytest.raises(DataError, match="source is missing"):
        text()
    with pytest.raises(DataError, match=r"nowhere\.txt' does not exist"):
        text(source=str(tmp_path / "nowhere.txt"))
    with pytest.raises(DataError, match="is a folder; give one UTF-8 text file"):
        text(source=str(tmp_path))
    with pytest.raises(UsageError, match=r"data\.context is 0"):
        text(source=written(tmp_path, LINES), context=0)


def test_the_shortest_text_has_one_window_and_one_prediction(tmp_path):
    splits = text(source=written(tmp_path, "abcdefghijk"), context=8)
    windows = TextWindows(splits.train, 8, seed=0, batch_size=1)
    assert (len(splits.train), windows.size) == (9, 1)
    ((inputs, labels),) = next(windows.epoch(0))
    assert inputs[0].tolist() == [*range(8)] and labels[0].tolist() == [*range(1, 9)]
    assert TextEvaluation(splits.evaluation, 8, batch_size=1).total == 1


def test_images_and_texts_are_opened_by_their_own_function(tmp_path):
    assert data.is_text("text") and not data.is_text("digits")
    assert data.load_text(source=written(tmp_path, LINES), context=5).description.name == "text"
    with pytest.raises(DataError, match=r"'text' holds characters, and images are needed; choose one of digits, "):
        data.load("text", written(tmp_path, LINES))
    with pytest.raises(DataError, match=r"'digits' holds images.*choose one of text"):
        data.load_text("digits")


# Positions as tokens, so that a window shows where it lies.
LONG = torch.arange(1003)


def steps(world_size=1, accumulate=1, *, seed=3, epoch=0, start_step=0, tokens=LONG, context=16, batch_size=12):
    """The global batch of each step: where its windows begin, in the order micro-batch, process, window."""
    shares = [
        list(
            TextWindows(
                tokens,
                context,
                seed=seed,
                batch_size=batch_size,
                accumulate=accumulate,
                rank=rank,
                world_size=world_size,
            ).epoch(epoch, start_step)
        )
        for rank in range(world_size)
    ]
    return [
        [start for micros in zip(*step, strict=True) for inputs, _ in micros for start in inputs[:, 0].tolist()]
        for step in zip(*shares, strict=True)
    ]


@pytest.mark.parametrize(("world_size", "accumulate"), list(product([1, 2, 3], [1, 2])))
def test_the_global_batch_does_not_depend_on_how_it_is_shared(world_size, accumulate):
    alone = steps()
    assert steps(world_size, accumulate) == alone and [len(step) for step in alone] == [12] * 5


@pytest.mark.parametrize("start", range(6))
def test_any_step_can_be_the_first(start):
    assert steps(2, 2, epoch=1, start_step=start) == steps(2, 2, epoch=1)[start:]


def test_a_step_that_the_epoch_does_not_have_is_refused():
    with pytest.raises(UsageError, match="steps 0 to 4, it cannot start at 6"):
        steps(start_step=6)


def test_an_epoch_takes_each_window_once_moved_by_a_shift_of_its_own():
    (first,) = steps(batch_size=62)
    (second,) = steps(batch_size=62, epoch=1)
    (other,) = steps(batch_size=62, seed=4)
    for starts in (first, second, other):
        assert sorted(start // 16 for start in starts) == [*range(62)]
    moves = [{start // 16: start % 16 for start in starts} for starts in (first, second, other)]
    assert moves[0] != moves[1] != moves[2] and moves[0] != moves[2]
    assert len(set(moves[0].values())) > 8


def test_labels_follow_their_tokens():
    ((inputs, labels),) = next(TextWindows(LONG, 16, seed=0, batch_size=62).epoch(0))
    assert inputs.shape == (62, 16) and torch.equal(labels, inputs + 1)
    assert torch.equal(inputs[:, 1:], inputs[:, :-1] + 1)


def test_each_character_is_expected_once_an_epoch_but_at_the_ends():
    tokens, context, epochs = torch.arange(60), 5, 2000
    seen = torch.zeros(60)
    for epoch in range(epochs):
        ((inputs, _),) = next(TextWindows(tokens, context, seed=0, batch_size=11).epoch(epoch))
        seen += torch.bincount(inputs.flatten(), minlength=60)
    middle = seen[context : 10 * context] / epochs
    # at most one a window and epoch: binomial, five standard deviations
    assert (middle - 1).abs().max() < 5 * (2 * 0.25 / epochs) ** 0.5
    assert seen[0] > 0 and seen[58] > 0 and seen[59] == 0


@given(size=st.integers(6, 80), context=st.integers(1, 5), seed=st.integers(0, 2**63 - 1), epoch=st.integers(0, 9))
def test_every_window_lies_in_the_text(size, context, seed, epoch):
    tokens = torch.arange(size)
    for ((inputs, labels),) in TextWindows(tokens, context, seed=seed, batch_size=1).epoch(epoch):
        assert torch.equal(inputs[0], torch.arange(int(inputs[0, 0]), int(inputs[0, 0]) + context))
        assert torch.equal(labels, inputs + 1) and int(labels[0, -1]) < size


def test_too_few_windows_for_a_batch_are_refused():
    with pytest.raises(DataError, match="has 62 samples, fewer than one global batch of 63"):
        TextWindows(LONG, 16, seed=0, batch_size=63)


@given(
    size=st.integers(2, 60),
    context=st.integers(1, 9),
    batch_size=st.integers(1, 5),
    world_size=st.sampled_from([1, 2, 3]),
)
def test_an_evaluation_predicts_every_character_but_the_first_once(size, context, batch_size, world_size):
    tokens = torch.arange(size)
    shares = [
        TextEvaluation(tokens, context, batch_size=batch_size, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    batches = list(chain(*shares))
    assert sum(map(len, shares)) == len(batches)
    labels = torch.cat([labels.flatten() for _, labels in batches])
    inputs = torch.cat([inputs.flatten() for inputs, _ in batches])
    is_counted = labels != IGNORED
    assert sorted(labels[is_counted].tolist()) == [*range(1, size)]
    assert torch.equal(inputs[is_counted] + 1, labels[is_counted])
    assert all(share.total == size - 1 for share in shares) and all(len(inputs) <= batch_size for inputs, _ in batches)
    # what fills the last window is a token like any other
    assert inputs.min() >= 0


def test_an_evaluation_batch_below_one_is_refused():
    with pytest.raises(UsageError, match="eval_batch_size=0"):
        TextEvaluation(LONG, 16, batch_size=0)


def test_tinyshakespeare():
    splits = text(source=str(data_folder("tinyshakespeare") / "input.txt"))
    assert splits.description.num_classes == 65
    assert (len(splits.train), len(splits.evaluation)) == (1_003_854, 111_540)
    vocabulary = splits.description.vocabulary
    assert "".join(vocabulary[token] for token in splits.train[:14]) == "First Citizen:"
    place = random.Random(0).randrange(111_000)
    evaluation = TextEvaluation(splits.evaluation, 128, batch_size=900)
    assert evaluation.total == 111_539 and evaluation.inputs.flatten()[place] == splits.evaluation[place]
