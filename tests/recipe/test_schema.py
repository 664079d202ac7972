from dataclasses import FrozenInstanceError, fields

import pytest

from orthostream.errors import UsageError
from orthostream.recipe import (
    AugmentRecipe,
    CheckpointRecipe,
    ConnectionRecipe,
    DataRecipe,
    LogRecipe,
    ModelRecipe,
    OptimizerRecipe,
    Recipe,
    ScheduleRecipe,
    StatisticsRecipe,
    TrainRecipe,
    field_help,
)
from orthostream.recipe.schema import SECTIONS


def test_defaults_are_a_valid_recipe_with_all_sections():
    recipe = Recipe()
    assert list(SECTIONS) == [
        "model",
        "connection",
        "data",
        "augment",
        "optimizer",
        "schedule",
        "train",
        "statistics",
        "checkpoint",
        "log",
    ]
    assert recipe.seed == 42
    assert recipe.connection.name == "linear"


def test_recipes_are_frozen_and_keyword_only():
    with pytest.raises(FrozenInstanceError):
        Recipe().seed = 1
    with pytest.raises(TypeError):
        OptimizerRecipe("sgd")


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        (Recipe, {"seed": -1}, "seed: must be at least 0"),
        (Recipe, {"model": "vit_s"}, "model: expected a ModelRecipe, got str"),
        (ModelRecipe, {"options": {"name": "x"}}, "model.options: name are fields of the section"),
        (ModelRecipe, {"options": [1]}, "model.options: expected a mapping, got a list"),
        (ConnectionRecipe, {"blocks": [-1]}, "connection.blocks: must be at least 0, got -1"),
        (ConnectionRecipe, {"blocks": []}, "connection.blocks: lists no block"),
        (ConnectionRecipe, {"blocks": [1, 1]}, "connection.blocks: lists a block twice: [1, 1]"),
        (ConnectionRecipe, {"blocks": [1], "probability": 0.5}, "connection.blocks: cannot stand with"),
        (ConnectionRecipe, {"probability": 1.1}, "connection.probability: must be at least 0 and at most 1, got 1.1"),
        (ConnectionRecipe, {"at_evaluation": "all"}, "connection.at_evaluation: unknown value 'all'"),
        (ConnectionRecipe, {"perturbation": -0.1}, "connection.perturbation: must be at least 0"),
        (DataRecipe, {"image_size": 0}, "data.image_size: must be at least 1, got 0"),
        (DataRecipe, {"workers": -1}, "data.workers: must be at least 0"),
        (AugmentRecipe, {"random_erase": 2}, "augment.random_erase: must be at least 0 and at most 1, got 2.0"),
        (AugmentRecipe, {"randaugment_m": 31}, "augment.randaugment_m: must be at least 0 and at most 30, got 31"),
        (AugmentRecipe, {"label_smoothing": 1.0}, "augment.label_smoothing: must be at least 0 and below 1, got 1.0"),
        (AugmentRecipe, {"mix_probability": 0.5}, "augment.mix_probability: needs augment.mixup_alpha or"),
        (OptimizerRecipe, {"name": "lion"}, "optimizer.name: unknown value 'lion'"),
        (OptimizerRecipe, {"lr": 0}, "optimizer.lr: must be above 0, got 0.0"),
        (OptimizerRecipe, {"lr": "fast"}, "optimizer.lr: expected a number, got 'fast'"),
        (OptimizerRecipe, {"betas": (0.9, 1.0)}, "optimizer.betas: must be at least 0 and below 1, got 1.0"),
        (OptimizerRecipe, {"name": "sgd", "nesterov": True, "momentum": 0}, "optimizer.nesterov: needs"),
        (ScheduleRecipe, {"kind": "step"}, "schedule.decay_epochs: lists no epoch"),
        (ScheduleRecipe, {"decay_epochs": [3, 2]}, "schedule.decay_epochs: must rise, got [3, 2]"),
        (ScheduleRecipe, {"decay_ratio": 0}, "schedule.decay_ratio: must be above 0 and at most 1, got 0.0"),
        (TrainRecipe, {"epochs": 0}, "train.epochs: must be at least 1, got 0"),
        (TrainRecipe, {"epochs": True}, "train.epochs: expected a whole number, got true"),
        (TrainRecipe, {"batch_size": 10, "accumulate": 4}, "train.batch_size: must divide by train.accumulate"),
        (TrainRecipe, {"clip_norm": 0}, "train.clip_norm: must be above 0, got 0.0"),
        (TrainRecipe, {"ema_decay": 1}, "train.ema_decay: must be above 0 and below 1, got 1.0"),
        (StatisticsRecipe, {"interval": 0}, "statistics.interval: must be at least 1, got 0"),
        (CheckpointRecipe, {"keep": 1}, "checkpoint.keep: must be at least 2, got 1"),
        (LogRecipe, {"progress": "loud"}, "log.progress: unknown value 'loud'"),
    ],
)
def test_values_out_of_range_and_contradictions_are_refused(section, values, message):
    with pytest.raises(UsageError) as caught:
        section(**values)
    assert str(caught.value).startswith(message)


def test_all_problems_of_a_section_are_told_at_once():
    with pytest.raises(UsageError) as caught:
        TrainRecipe(epochs=0, batch_size=0)
    assert len(str(caught.value).splitlines()) == 2


def test_equal_in_every_form():
    assert OptimizerRecipe(lr=1, betas=[0.9, 0.99]) == OptimizerRecipe(lr=1.0, betas=(0.9, 0.99))
    assert isinstance(OptimizerRecipe(lr=1).lr, float)
    assert ModelRecipe(options={"widths": [1, 2]}).options == {"widths": (1, 2)}


OF_POLAR_FACTORS = {"polar_method", "polar_steps", "polar_tol", "polar_completion", "polar_precision", "scale"}


@pytest.mark.parametrize(
    ("section", "idle"),
    [
        (ConnectionRecipe(), {"at_evaluation"}),
        (ConnectionRecipe(probability=0.5), set()),
        (AugmentRecipe(), {"randaugment_m", "mixup_alpha", "cutmix_alpha", "cutmix_share"}),
        (AugmentRecipe(randaugment_n=1, mix_probability=1, mixup_alpha=1), {"cutmix_share"}),
        (AugmentRecipe(randaugment_n=1, mix_probability=1, mixup_alpha=1, cutmix_alpha=1), set()),
        (OptimizerRecipe(name="sgd"), {"betas", "eps", "trust", "vector_lr", "equal_length", *OF_POLAR_FACTORS}),
        (OptimizerRecipe(name="sgd", orthogonalize="conv"), {"betas", "eps", "trust", "vector_lr", "equal_length"}),
        (
            OptimizerRecipe(name="adamw", normalize="whole"),
            {"momentum", "nesterov", "trust", "vector_lr", *OF_POLAR_FACTORS},
        ),
        (OptimizerRecipe(name="lars", normalize="whole"), {"betas", "eps", "nesterov", *OF_POLAR_FACTORS}),
        (ScheduleRecipe(), {"decay_epochs", "decay_ratio", "warmup", "warmup_factor", "first_step"}),
        (ScheduleRecipe(kind="step", decay_epochs=[1], warmup_epochs=1, warmup="constant"), set()),
        (TrainRecipe(), {"compile_mode", "compile_backend"}),
        (TrainRecipe(compile=True), set()),
        (LogRecipe(), {"project"}),
        (LogRecipe(wandb=True), set()),
        (Recipe(), set()),
        (Recipe(schedule=ScheduleRecipe(warmup_epochs=30)), {"schedule.warmup_epochs"}),
    ],
)
def test_values_without_effect_are_known(section, idle):
    assert {name for name, _ in section.remarks()} == idle


def test_every_field_says_what_it_means():
    described = {line.place: line for line in field_help()}
    expected = {"description", "seed"}
    for name, section in SECTIONS.items():
        expected |= {f"{name}.{item.name}" for item in fields(section) if item.name != "options"}
    assert set(described) == expected
    assert all(line.meaning for line in described.values())
    assert described["train.timeout"].meaning.endswith("[seconds]")
    assert described["optimizer.betas"].kind == "a list of 2 numbers, at least 0 and below 1"
    assert described["train.amp"].kind == "one of none, bfloat16, float16"
