"""The recipes that ship: the values of the authors' files, and a head that says what a reader must know."""

import pytest

from locations import REPOSITORY
from orthostream import build, connections
from orthostream.recipe import Recipe, Resolved, load, names

TABLES = {name: build.TABLES[name] for name in ("model", "connection")}
VIT = {
    "optimizer.name": "adam",
    "schedule.kind": "cosine",
    "schedule.warmup_epochs": 10,
    "train.epochs": 300,
    "train.compile": True,
    "train.amp": "none",
    "train.clip_norm": None,
    "augment.mix_probability": 1.0,
    "augment.mixup_alpha": 0.8,
    "augment.cutmix_alpha": 1.0,
    "augment.label_smoothing": 0.1,
    "augment.random_erase": 0.25,
    "augment.randaugment_n": 9,
    "augment.randaugment_m": 5,
    "optimizer.weight_decay": 1e-4,
    "train.batch_size": 1024,
    "train.accumulate": 1,
    "optimizer.lr": 1e-3,
    "statistics.interval": 50,
    "log.interval": 50,
    "connection.name": "linear",
    "model.name": "vit_s",
    "checkpoint.every_steps": 5000,
    "checkpoint.every_epochs": 10,
}
RESNET = {
    "model.name": "preact_resnet18",
    "model.sync_batch_norm": True,
    "connection.name": "linear",
    "optimizer.name": "sgd",
    "optimizer.momentum": 0.9,
    "optimizer.lr": 0.1,
    "optimizer.weight_decay": 5e-4,
    "schedule.kind": "step",
    "schedule.warmup_epochs": 0,
    "schedule.decay_epochs": (80, 120),
    "schedule.decay_ratio": 0.2,
    "train.epochs": 200,
    "train.batch_size": 128,
    "train.accumulate": 1,
    "train.clip_norm": 1.0,
    "train.compile": False,
    "train.amp": "none",
    "augment.mix_probability": 0.0,
    "augment.random_erase": 0.0,
    "augment.randaugment_n": 0,
    "augment.label_smoothing": 0.0,
    "statistics.interval": 100,
    "log.interval": 100,
}
DEBUG = {
    "connection.name": "orthogonal",
    "train.compile": True,
    "train.amp": "bfloat16",
    "statistics.interval": 5,
    "log.interval": 5,
    "checkpoint.every_steps": 50_000,
    "checkpoint.every_epochs": 300,
}
EXPECTED = {
    "vit_s_cifar10": VIT | {"data.name": "cifar10"},
    "vit_b_cifar10": VIT | {"data.name": "cifar10", "model.name": "vit_b"},
    "vit_s_cifar100": VIT | {"data.name": "cifar100"},
    "vit_s_tiny": VIT | {"data.name": "tiny-imagenet", "optimizer.lr": 5e-4},
    "vit_s_imagenet1k": VIT
    | {"data.name": "imagenet1k", "optimizer.lr": 5e-4, "train.batch_size": 4096, "augment.randaugment_m": 9},
    "vit_b_imagenet1k": VIT
    | {
        "data.name": "imagenet1k",
        "model.name": "vit_b",
        "optimizer.lr": 1e-4,
        "optimizer.weight_decay": 1e-3,
        "optimizer.betas": (0.9, 0.999),
        "train.batch_size": 4096,
        "train.accumulate": 2,
        "augment.randaugment_m": 9,
    },
    "resnet_cifar10": RESNET | {"data.name": "cifar10", "statistics.interval": 50, "log.interval": 50},
    "resnet_cifar100": RESNET | {"data.name": "cifar100"},
    "resnet_tiny": RESNET | {"data.name": "tiny-imagenet"},
    "resnet_imagenet1k": RESNET
    | {
        "data.name": "imagenet1k",
        "schedule.decay_ratio": 0.1,
        "train.clip_norm": 5.0,
        # The authors' default, which ends this run and none of the others.
        "train.max_steps": 600_000,
    },
    "debug_vit": VIT | DEBUG | {"data.name": "cifar10", "train.epochs": 2, "schedule.warmup_epochs": 1},
    "debug_resnet": RESNET | DEBUG | {"data.name": "cifar10", "augment.label_smoothing": 0.1},
}
PATCHES = {"cifar10": 4, "cifar100": 4, "tiny-imagenet": 8, "imagenet1k": 16}
NUMBERS = {
    "vit_s_cifar10": ["89.82 ± 0.34", "90.61 ± 0.21"],
    "vit_b_cifar10": ["87.28 ± 0.41", "88.73 ± 6.06"],
    "vit_s_cifar100": ["71.92 ± 0.24", "73.86 ± 0.31"],
    "vit_s_tiny": ["51.30 ± 0.40", "52.57 ± 0.71"],
    "vit_s_imagenet1k": ["70.76 ± 0.26", "72.53 ± 0.49"],
    "vit_b_imagenet1k": ["73.27 ± 0.58", "77.05 ± 0.21"],
    "resnet_cifar10": ["95.06 ± 0.15", "95.26 ± 0.12", "95.49 ± 0.09", "95.75 ± 0.13"],
    "resnet_cifar100": ["77.67 ± 0.28", "77.87 ± 0.27", "78.92 ± 0.31", "78.97 ± 0.04"],
    "resnet_tiny": ["62.04 ± 0.29", "62.65 ± 0.14", "64.61 ± 0.24", "65.46 ± 0.30"],
}


def value(recipe: Recipe, place: str):
    section, _, name = place.partition(".")
    return getattr(getattr(recipe, section), name)


def shipped(name: str) -> Resolved:
    # The tables of data sets are left out: some sets come with a later release.
    return load(name, tables=TABLES)


def test_there_are_no_others():
    others = {"demo", "llama_shakespeare", "barlow_twins_imagenet1k"}
    others |= {"ortho_grad_cifar10", "ortho_grad_resnet20_tuned", "ortho_grad_imagenet1k"}
    assert set(names()) == {*EXPECTED, *others}


@pytest.mark.parametrize("name", EXPECTED)
def test_values_are_those_of_the_authors_files(name):
    resolved = shipped(name)
    assert {place: value(resolved.recipe, place) for place in EXPECTED[name]} == EXPECTED[name]
    if resolved.recipe.model.name.startswith("vit"):
        assert resolved.recipe.model.options == {"patch_size": PATCHES[resolved.recipe.data.name]}
    assert resolved.notes == (), "no value without effect"


@pytest.mark.parametrize("name", [*EXPECTED, "demo"])
def test_the_head_says_numbers_command_and_hardware(name):
    head = (REPOSITORY / "recipes" / f"{name}.yaml").read_text().partition("\ndescription:")[0]
    for word in ("Paper:", "Command:", "Hardware:"):
        assert word in head
    assert f"orthostream train {name}" in head or name == "demo"
    for number in NUMBERS.get(name, []):
        assert number in head
    if name != "demo":
        assert "Corrected:" in head
        assert "Not known:" in head


@pytest.mark.parametrize("name", [*EXPECTED, "demo"])
def test_every_connection_can_be_chosen_over_a_recipe(name):
    for connection in connections.names():
        chosen = load(name, [f"connection={connection}"], TABLES)
        assert chosen.recipe.connection.name == connection


def test_the_command_in_the_head_of_the_resnets_works():
    resolved = load("resnet_cifar10", ["model=preact_resnet34", "connection=orthogonal"], TABLES)
    assert resolved.recipe.model.name == "preact_resnet34"


def test_the_demo_is_a_small_vit_on_digits():
    recipe = shipped("demo").recipe
    assert (recipe.data.name, recipe.connection.name, recipe.model.name) == ("digits", "linear", "vit_s")
    assert recipe.model.options["embed_dim"] <= 128
