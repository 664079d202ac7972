"""Orthogonal gradients from a recipe, for models and connections of the library, and through the command line."""

import pytest
import torch
from runs import SMALL, orthostream, start, wait_for, weights
from safetensors.torch import load as from_safetensors

from orthostream import build, connections, models, optim, recipe
from orthostream.errors import UsageError
from orthostream.training.distributed import World

ALONE = World(0, 1, torch.device("cpu"))


def chosen(*assignments):
    return recipe.load("demo", list(assignments), build.TABLES).recipe


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "lars"])
@pytest.mark.parametrize("change", ["optimizer.orthogonalize=weights", "optimizer.normalize=component"])
def test_every_optimizer_of_a_recipe_takes_it(name, change):
    options = chosen(f"optimizer.name={name}", change).optimizer
    model = torch.nn.Linear(5, 3)
    optimizer = build.build_optimizer(options, model, ALONE)
    model.weight.grad, model.bias.grad = torch.randn(3, 5), torch.randn(3)
    optimizer.step()
    assert optim.transformation(optimizer).counts().transformed == 1


@pytest.mark.parametrize("connection", connections.names())
@pytest.mark.parametrize("name", ["vit_s", "preact_resnet18"])
def test_with_every_connection(name, connection):
    sizes = (
        {"embed_dim": 8, "depth": 1, "num_heads": 2, "image_size": 8, "patch_size": 4}
        if name == "vit_s"
        else {"base_width": 4}
    )
    known = models.table.options(name)
    model = models.create(name, num_classes=3, connection=connection, **{k: v for k, v in sizes.items() if k in known})
    optimizer = build.build_optimizer(chosen("optimizer.name=sgd", "optimizer.orthogonalize=weights").optimizer, model)
    side = 8 if name == "vit_s" else 16
    model(torch.randn(2, 3, side, side)).square().mean().backward()
    optimizer.step()
    counts = optim.transformation(optimizer).counts()
    assert counts.transformed > 3 and counts.non_finite == 0
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_options_reach_the_rule():
    options = chosen(
        "optimizer.orthogonalize=paper",
        "optimizer.polar_method=polar_express",
        "optimizer.polar_steps=7",
        "optimizer.polar_completion=partial",
        "optimizer.scale=muon",
    ).optimizer
    held = optim.transformation(build.build_optimizer(options, torch.nn.Linear(4, 4), ALONE))
    assert (held.rule.polar.method, held.rule.polar.steps, held.scale) == ("polar_express", 7, "muon")
    assert held.selector.which == "paper"


def test_both_changes_of_gradients_at_once_are_refused():
    with pytest.raises(UsageError, match=r"optimizer\.normalize: cannot stand with optimizer\.orthogonalize"):
        chosen("optimizer.orthogonalize=weights", "optimizer.normalize=whole")


def test_options_without_effect_are_said():
    notes = recipe.load("demo", ["optimizer.polar_steps=3"], build.TABLES).notes
    assert any("optimizer.polar_steps has no effect while optimizer.orthogonalize is none" in note for note in notes)


ORTHOGONAL = (*SMALL, "optimizer.orthogonalize=weights", "optimizer.name=sgd", "optimizer.lr=0.01")


def test_a_run_that_is_stopped_resumes_to_the_uninterrupted_one(tmp_path):
    whole, run = tmp_path / "whole", tmp_path / "run"
    orthostream("train", *ORTHOGONAL, "--run-dir", whole)
    process = start("train", *ORTHOGONAL, "--run-dir", run)
    wait_for(lambda: (run / "metrics.jsonl").exists() and len((run / "metrics.jsonl").read_bytes()) > 0, process)
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 143
    orthostream("train", run / "recipe.yaml", "--run-dir", run, "--resume")
    assert weights(run) == weights(whole)


def test_two_ranks_share_the_work_and_stay_close_to_one(tmp_path):
    for ranks in (1, 2):
        orthostream("train", *ORTHOGONAL, "train.max_steps=6", "--run-dir", tmp_path / str(ranks), ranks=ranks)
    one, two = (from_safetensors(weights(tmp_path / str(ranks))) for ranks in (1, 2))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, atol=1e-4, rtol=1e-3)


def test_the_plan_names_what_is_orthogonalised(tmp_path):
    text = orthostream("train", *SMALL, "optimizer.orthogonalize=weights", "--plan", "--run-dir", tmp_path / "run")
    assert "tensors are chosen" in text
