"""Evaluation counts each sample once and agrees with recorded counts."""

import math

import pytest
import torch
from torch import nn

from golden import load
from orthostream.errors import UsageError
from orthostream.training.distributed import World
from orthostream.training.evaluate import evaluate

ALONE = World(0, 1, torch.device("cpu"))


class Batches(list):
    """Ready batches and the number of samples they should hold."""

    def __init__(self, images, labels, size):
        super().__init__(zip(images.split(size), labels.split(size), strict=True))
        self.total = len(labels)


@pytest.mark.parametrize("case", ["c10", "c3"])
@pytest.mark.parametrize("size", [1, 4, 23])
def test_recorded_counts(case, size):
    tensors, sidecar = load("ortho/eval_and_mixup")
    expected = sidecar["cases"][case]
    result = evaluate(nn.Identity(), Batches(tensors[f"{case}.logits"], tensors[f"{case}.labels"], size), ALONE)
    assert (result.n, result.top1, result.top5) == (expected["n"], expected["top1"], expected["top5"])
    # the recorded loss was summed in float32
    assert result.loss == pytest.approx(expected["val_loss"], rel=1e-6)
    assert result.k == min(5, tensors[f"{case}.logits"].shape[1])


def test_confusion_and_rates_by_class():
    logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 3.0, 1.0], [0.0, 3.0, 1.0]])
    labels = torch.tensor([0, 0, 1])
    result = evaluate(nn.Identity(), Batches(logits, labels, 2), ALONE, with_confusion=True)
    assert result.confusion == ((1, 1, 0), (0, 1, 0), (0, 0, 0))
    assert result.per_class == (0.5, 1.0, None)
    assert result.as_json()["acc@1"] == pytest.approx(2 / 3)


def test_a_wrong_count_stops():
    batches = Batches(torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64), 2)
    batches.total = 5
    with pytest.raises(UsageError, match="saw 4 samples of a split of 5"):
        evaluate(nn.Identity(), batches, ALONE)


def test_the_mode_of_the_model_is_left_as_it_was():
    model = nn.Dropout(0.5)
    logits = torch.randn(4, 3)
    result = evaluate(model, Batches(logits, torch.zeros(4, dtype=torch.int64), 4), ALONE)
    assert model.training
    expected = nn.functional.cross_entropy(logits, torch.zeros(4, dtype=torch.int64))
    assert math.isclose(result.loss, float(expected), rel_tol=1e-6)
