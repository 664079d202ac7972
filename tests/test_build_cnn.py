"""What recipes of networks without sites become: their data, what listens to them, and what they refuse."""

import pytest
import torch

from orthostream import build, recipe
from orthostream.data import DataError
from orthostream.errors import UsageError
from orthostream.training.distributed import World

ALONE = World(0, 1, torch.device("cpu"))
DIGITS = {
    "data.name": "digits",
    "data.held_out": "37",
    "data.mean": "[0.2]",
    "data.std": "[0.5]",
    "data.workers": "0",
    "train.batch_size": "100",
}


def made(*overrides):
    words = DIGITS | dict(override.split("=", 1) for override in overrides)
    chosen = recipe.load(
        "ortho_grad_cifar10", [f"{field}={value}" for field, value in words.items()], build.TABLES
    ).recipe
    loaders = build.build_data(chosen, ALONE)
    return chosen, loaders, build.build_model(chosen, loaders.description)


def test_images_held_out_are_not_trained_on_and_normalised_as_told():
    _, loaders, _ = made()
    assert (loaders.train.size, loaders.evaluation.total) == (1400, 360)
    assert (loaders.description.mean, loaders.description.std) == ((0.2,), (0.5,))
    assert any("held out" in note for note in loaders.notes)
    images, _ = next(loaders.train.epoch(0))[0]
    # black is (0 - 0.2) / 0.5, white (1 - 0.2) / 0.5
    assert images.min().item() == pytest.approx(-0.4)
    assert images.max().item() <= 1.6 + 1e-6
    _, held_out, _ = made("data.evaluate_on=held_out")
    assert (held_out.train.size, held_out.evaluation.total) == (1400, 37)


def test_transforms_follow_the_family_of_the_model():
    for model in ("basic_cnn", "resnet20", "resnet18"):
        chosen = recipe.load("ortho_grad_cifar10", [f"model={model}", "augment.pipeline=auto"], build.TABLES).recipe
        assert build.pipeline_of(chosen) == "cnn"
    chosen = recipe.load("resnet_cifar10", [], build.TABLES).recipe
    assert build.pipeline_of(chosen) == "resnet"


def test_statistics_need_something_to_hear():
    chosen, _, model = made()
    assert build.build_statistics(chosen, model) is None
    chosen, _, model = made("statistics.interval=1")
    with pytest.raises(UsageError, match=r"'basic_cnn' has no sites to take statistics of.*diagnostics=true"):
        build.build_statistics(chosen, model)
    chosen, loaders, model = made("statistics.interval=1", "statistics.diagnostics=true", "model=resnet20")
    listeners = build.build_statistics(chosen, model)
    assert listeners is not None
    images, labels = next(loaders.train.epoch(0))[0]
    listeners.start()
    torch.nn.functional.cross_entropy(model(images[:8]), labels[:8]).backward()
    listeners.stop()
    values = listeners.collect()
    assert "activation/all/mean/x_norm2" in values and "dead/all/exact" in values
    # the stem and two ReLUs in each of nine blocks
    assert len([key for key in values if key.startswith("similarity/") and key.endswith("/mean")]) == 19


def test_diagnostics_refuse_modules_that_are_not_called_plainly():
    words = ("statistics.interval=1", "statistics.diagnostics=true", "model=resnet20")
    for other in ("train.compile=true", "model.gradient_checkpointing=true"):
        chosen, _, model = made(*words, other)
        with pytest.raises(UsageError, match=r"set both to false"):
            build.build_statistics(chosen, model)
    with pytest.raises(UsageError, match=r"needs statistics\.interval"):
        made("statistics.diagnostics=true")


def test_what_a_network_does_not_have_is_refused():
    with pytest.raises(UsageError, match="model 'basic_cnn' has no gradient_checkpointing"):
        made("model.gradient_checkpointing=true")
    with pytest.raises(UsageError, match="model 'basic_cnn' has no perturbation"):
        made("connection.perturbation=0.1")
    with pytest.raises(UsageError, match="BasicCNN has no site"):
        made("connection=orthogonal")
    with pytest.raises(UsageError, match="takes RGB images"):
        made("model=resnet18")
    with pytest.raises(UsageError, match=r"data\.std has 3 numbers"):
        made("data.std=[0.1,0.1,0.1]")
    with pytest.raises(DataError, match="leaves none"):
        made("data.held_out=1437")


def test_connections_join_the_additions_of_resnet20():
    _, _, model = made("model=resnet20", "connection=orthogonal")
    assert len(model.sites) == 9
