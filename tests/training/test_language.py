"""The loop on text: predictions at every token, bits per character, and the same promises as on images."""

import json
import math
import random
import signal
from dataclasses import replace

import pytest
import torch
from test_trainer import StopAfter, assert_same, everything, rows
from torch import nn
from torch.nn import functional
from toy import CPU

from orthostream import build, recipe
from orthostream.errors import UsageError
from orthostream.recipe import Recipe
from orthostream.training import checkpoint as checkpoints
from orthostream.training.evaluate import ACCURACY, IGNORED, Score, evaluate
from orthostream.training.progress import shown
from orthostream.training.records import MetricsFile, Records
from orthostream.training.step import Stepper
from orthostream.training.trainer import Trainer
from ranks import on_ranks

WORDS = ("to", "be", "or", "not", "that", "is", "the", "question", "whether", "tis", "nobler", "in", "mind", "suffer")
TINY = {
    "model.embed_dim": "16",
    "model.depth": "2",
    "model.num_heads": "2",
    "data.context": "8",
    "train.batch_size": "8",
    "train.epochs": "2",
    "schedule.warmup_epochs": "0",
    "log.interval": "4",
    "statistics.interval": "3",
}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A text of 70 windows: 61 to train on, 8 to evaluate."""
    path = tmp_path_factory.mktemp("text") / "input.txt"
    generator = random.Random(0)
    path.write_text(" ".join(generator.choice(WORDS) for _ in range(200))[:560])
    return path


def chosen(source, *overrides) -> Recipe:
    """The recipe that ships, made tiny; an override wins over what stands before it."""
    given = {"data.source": str(source), **TINY, **dict(each.split("=", 1) for each in overrides)}
    return recipe.load("llama_shakespeare", [f"{k}={v}" for k, v in given.items()], tables=build.TABLES).recipe


def trainer(source, folder, *overrides, world=CPU):
    """A trainer in ``folder``; the same call makes the same trainer."""
    made = chosen(source, *overrides)
    loaders = build.build_data(made, world)
    torch.manual_seed(1)
    parts = build.trainer_parts(made, loaders, world)
    folder.mkdir(parents=True, exist_ok=True)
    records = Records(MetricsFile(folder / "metrics.jsonl") if world.is_main else None, [])
    return Trainer(**parts, world=world, folder=folder / "checkpoints", records=records)


class Ready(list):
    """Ready batches and the number of predictions they should hold."""

    def __init__(self, *batches):
        super().__init__(batches)
        self.total = sum(int((labels != IGNORED).sum()) for _, labels in batches)


def test_an_evaluation_counts_the_predictions_at_all_tokens_but_those_left_out():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 7, 5, generator=generator)
    labels = torch.randint(7, (3, 5), generator=generator)
    labels[2, 3:] = IGNORED
    result = evaluate(
        nn.Identity(), Ready((logits[:2], labels[:2]), (logits[2:], labels[2:])), CPU, with_confusion=True
    )
    is_counted = labels != IGNORED
    flat, wanted = logits.transpose(1, 2)[is_counted], labels[is_counted]
    assert result.n == 13 == len(wanted)
    assert result.top1 == int((flat.argmax(1) == wanted).sum())
    assert result.top5 == int((flat.topk(5).indices == wanted[:, None]).sum())
    assert result.loss == pytest.approx(float(functional.cross_entropy(flat.double(), wanted)), rel=1e-12)
    expected = torch.zeros(7, 7, dtype=torch.int64)
    for label, logit in zip(wanted.tolist(), flat, strict=True):
        expected[label, logit.argmax()] += 1
    assert torch.equal(torch.tensor(result.confusion), expected)


def test_tokens_counted_twice_or_not_at_all_stop_the_evaluation():
    batches = Ready((torch.randn(2, 3, 4), torch.zeros(2, 4, dtype=torch.int64)))
    batches.total = 7
    with pytest.raises(UsageError, match="saw 8 samples of a split of 7"):
        evaluate(nn.Identity(), batches, CPU)


def test_bits_per_character_are_the_loss_by_the_logarithm_of_two():
    classes = 8
    batches = Ready((torch.zeros(2, classes, 4), torch.randint(classes, (2, 4))))
    result = evaluate(nn.Identity(), batches, CPU)
    # each of eight characters as likely as the others: three bits
    assert build.BITS_PER_CHARACTER.read(result) == pytest.approx(3.0, rel=1e-12)
    log = build.BITS_PER_CHARACTER.as_log(result, "val_average")
    assert log.keys() == {f"val_average/{key}" for key in ("loss", "acc@1", "acc@5", "n", "bits_per_char")}
    assert log["val_average/loss"] == pytest.approx(3 * math.log(2), rel=1e-12)
    assert ACCURACY.as_log(result) == result.as_log()
    assert "val bits per character 3.0000" in shown(build.BITS_PER_CHARACTER.as_log(result))


def test_scores_know_their_direction():
    bits = build.BITS_PER_CHARACTER
    assert bits.is_better(2.0, than=2.1) and not bits.is_better(2.1, than=2.0) and not bits.is_better(2.0, than=2.0)


class Constant(nn.Module):
    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, inputs):
        return self.logits[: len(inputs)]


def test_a_step_counts_the_right_tokens_and_takes_the_mean_over_all():
    generator = torch.Generator().manual_seed(0)
    model = Constant(torch.randn(2, 5, 3, generator=generator))
    labels = torch.randint(5, (2, 3), generator=generator)
    stepper = Stepper(
        model,
        torch.optim.SGD(model.parameters(), lr=1.0, fused=True),
        nn.CrossEntropyLoss(),
        mix=None,
        device=torch.device("cpu"),
        accumulate=1,
        clip_norm=None,
        autocast_dtype=None,
    )
    gradient = stepper.gradient(((labels, labels),), 0, 0, lambda: None)
    logits = model.logits.detach().transpose(1, 2).reshape(-1, 5)
    assert gradient.seen == 6 and int(gradient.correct) == int((logits.argmax(1) == labels.flatten()).sum())
    assert float(gradient.loss) == pytest.approx(float(functional.cross_entropy(logits, labels.flatten())), rel=1e-6)


def test_a_run_on_text_learns_and_logs_bits(source, tmp_path):
    made = trainer(source, tmp_path, "connection=orthogonal", "optimizer.lr=1e-2", "train.epochs=6")
    outcome = made.fit()
    assert outcome.is_finished and outcome.position.step == 6 * (62 // 8)
    epochs = [row for row in rows(tmp_path) if row["kind"] == "epoch"]
    assert all(row["val/bits_per_char"] == pytest.approx(row["val/loss"] / math.log(2)) for row in epochs)
    assert all(row["val/n"] == 55 for row in epochs)
    letters = len(made.model.vocabulary)
    assert epochs[0]["val/bits_per_char"] < math.log2(letters) + 0.5
    assert epochs[-1]["val/bits_per_char"] < epochs[0]["val/bits_per_char"] - 0.5
    trained = [row for row in rows(tmp_path) if row["kind"] == "train"]
    assert all(0 <= row["train/acc@1"] <= 1 for row in trained) and trained[-1]["train/loss"] < trained[0]["train/loss"]
    statistics = [row for row in rows(tmp_path) if row["kind"] == "statistics"]
    assert len(statistics) == outcome.position.step // 3 and "activation/mlp/block01/cos_x_out" in statistics[0]


def test_the_best_checkpoint_is_the_one_with_the_fewest_bits(source, tmp_path):
    made = trainer(source, tmp_path, "train.epochs=4")
    held = iter([3.0, 2.0, 2.5, 2.75])
    accuracies = []

    def worse_then_better(result):
        accuracies.append(result.rates["acc@1"])
        return next(held)

    score = Score(key="bits_per_char", read=worse_then_better, higher_is_better=False)
    made.settings = replace(made.settings, score=score)
    made.fit()
    assert len(accuracies) == 4
    best = json.loads((tmp_path / "checkpoints" / "best.json").read_text())
    assert best["val/bits_per_char"] == 2.0 and best["epoch"] == 1
    assert "epoch-002" in best["checkpoint"] and (tmp_path / "checkpoints" / best["checkpoint"]).is_dir()


SETTINGS = {
    "plain": (),
    "averaged, accumulated, clipped": ("train.ema_decay=0.9", "train.accumulate=2", "train.clip_norm=0.5"),
    "checkpointed, with dropout": ("model.gradient_checkpointing=true", "model.attention_dropout=0.2"),
    "bfloat16": ("train.amp=bfloat16",),
    "streams": ("connection=hyper_connections",),
    "a switch": ("connection.probability=0.5",),
    "a part of the blocks": ("connection.blocks=[1]",),
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
# inside the first epoch, at its end, and in the second one
@pytest.mark.parametrize("stop_after", [3, 7, 12])
def test_a_resumed_run_is_the_uninterrupted_one(source, tmp_path, settings, stop_after):
    given = ("connection=orthogonal", *settings)
    whole = trainer(source, tmp_path / "whole", *given)
    assert whole.fit().is_finished
    expected = everything(whole)

    first = trainer(source, tmp_path / "parts", *given)
    stopped = first.fit(StopAfter(stop_after))
    assert not stopped.is_finished and stopped.signal == signal.SIGTERM

    torch.manual_seed(77)
    second = trainer(source, tmp_path / "parts", *given)
    saved, _ = checkpoints.newest(tmp_path / "parts" / "checkpoints")
    assert saved is not None and saved.manifest["step"] == stop_after
    second.resume(saved)
    assert second.fit().is_finished
    assert_same(everything(second), expected)
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole")
    assert second.position.best == whole.position.best and "bits_per_char" in str(second.position.best)


def _trained(world, source, folder, overrides):
    made = trainer(source, folder / str(world.rank), *overrides, world=world)
    outcome = made.fit()
    return {key: value.clone() for key, value in made.model.state_dict().items()}, outcome.final


@pytest.mark.distributed
@pytest.mark.parametrize("overrides", [(), ("train.accumulate=2", "model.gradient_checkpointing=true")])
def test_two_ranks_train_and_evaluate_as_one(source, tmp_path, overrides):
    given = ("connection=orthogonal", "optimizer.name=sgd", "optimizer.lr=0.3", *overrides)
    ((one, alone),) = on_ranks(1, tmp_path, _trained, source, tmp_path / "one", given)
    (first, final), (second, _) = on_ranks(2, tmp_path, _trained, source, tmp_path / "two", given)
    for name in one:
        assert torch.equal(first[name], second[name])
        # float32 steps whose sums run in another order
        torch.testing.assert_close(first[name], one[name], rtol=1e-4, atol=1e-6)
    assert final["val/n"] == alone["val/n"] == 55
    assert final["val/bits_per_char"] == pytest.approx(alone["val/bits_per_char"], rel=1e-5)


def test_accumulation_is_the_mean_over_micro_batches(source, tmp_path):
    def gradient(accumulate):
        made = trainer(source, tmp_path / str(accumulate), f"train.accumulate={accumulate}")
        made.stepper.gradient(next(made.train_batches.epoch(0)), 0, 0, lambda: None)
        return [parameter.grad for parameter in made.model.parameters()]

    for one, two in zip(gradient(1), gradient(2), strict=True):
        # two sums of four windows instead of one of eight, float32
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-7)


def test_a_compiled_run_is_the_plain_one_within_rounding(source, tmp_path):
    torch._dynamo.reset()
    given = ("connection=orthogonal", "optimizer.name=sgd", "optimizer.lr=0.1", "train.epochs=1")
    plain = trainer(source, tmp_path / "plain", *given)
    compiled = trainer(source, tmp_path / "compiled", *given, "train.compile=true", "train.compile_backend=aot_eager")
    plain.fit()
    compiled.fit()
    for name, value in plain.model.state_dict().items():
        torch.testing.assert_close(compiled.model.state_dict()[name], value, rtol=1e-4, atol=1e-5)
    bits = [made.final["val/bits_per_char"] for made in (plain, compiled)]
    assert bits[0] == pytest.approx(bits[1], rel=1e-4)


MISFITS = {
    "a vit on text": (
        ("model=vit_s",),
        r"'vit_s' takes images, and data set 'text' holds characters; choose other data, or a model such as llama",
    ),
    "a llama on images": (
        ("data=digits", "data.context=null"),
        r"'llama' takes characters, and data set 'digits' holds images.*vit_s",
    ),
    "a window of images": (("data=digits",), r"data\.context is for windows of text"),
    "an image size of text": (("data.image_size=32",), r"data\.image_size: for images"),
    "crops of text": (
        ("augment.pipeline=vit", "augment.randaugment_n=2", "augment.random_erase=0.1"),
        r"augment\.pipeline, augment\.randaugment_n, augment\.random_erase: for images",
    ),
    "mixed text": (
        ("augment.mix_probability=1", "augment.mixup_alpha=0.8"),
        r"augment\.mix_probability, augment\.mixup_alpha: for images",
    ),
    "maps of text": (("model.channels_last=true",), r"model\.channels_last: for images"),
    "images kept back": (("data.held_out=5",), r"data\.held_out: for images"),
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_what_does_not_fit_is_refused_before_the_data_is_opened(misfit):
    overrides, message = MISFITS[misfit]
    made = chosen("nowhere.txt", *overrides)
    with pytest.raises(UsageError, match=message):
        build.build_data(made, CPU)


def test_options_of_other_models_are_refused(source):
    with pytest.raises(UsageError, match="'patch_size' for model 'llama'"):
        chosen(source, "model.patch_size=4")
    with pytest.raises(UsageError, match=r"cannot be set here: it is set as data\.context"):
        chosen(source, "model.context=4")
    noisy = chosen(source, "connection.perturbation=0.1")
    with pytest.raises(UsageError, match="'llama' has no perturbation"):
        build.build_model(noisy, build.build_data(noisy, CPU).description)


def test_label_smoothing_bends_the_training_loss_alone(source, tmp_path):
    made = trainer(source, tmp_path, "augment.label_smoothing=0.1", "train.epochs=1")
    assert made.stepper.criterion.label_smoothing == 0.1
    made.fit()
    assert made.final["val/bits_per_char"] == pytest.approx(made.final["val/loss"] / math.log(2))


def test_workers_are_spoken_of(source):
    (remark,) = build.remarks(chosen(source, "data.workers=2"), CPU)
    assert "no effect on text" in remark


def test_the_vocabulary_travels_with_the_weights(source):
    made = chosen(source)
    description = build.build_data(made, CPU).description
    model = build.build_model(made, description)
    assert "".join(map(chr, model.state_dict()["vocabulary"])) == "".join(description.vocabulary)
    text = build.open_text(made.data, model.vocabulary)
    assert text.description == description
