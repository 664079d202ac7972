"""BasicCNN: its layers, its size, and what it refuses."""

import pytest
import torch
from torch import nn

from orthostream import connections, models
from orthostream.errors import UsageError


def test_layers_and_parameters_are_those_of_the_paper() -> None:
    model = models.create("basic_cnn", num_classes=10)
    counts = [sum(p.numel() for p in layer.parameters()) for layer in model.layers]
    assert counts == [896, 64, 0, 9248, 64, 0, 9248, 64, 0]
    assert sum(p.numel() for p in model.linear.parameters()) == 5130
    assert sum(p.numel() for p in model.parameters()) == 24_714


def test_the_map_halves_three_times() -> None:
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    model = models.create("basic_cnn", num_classes=10)
    sides = []
    for layer in model.layers:
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(lambda module, inputs, output: sides.append(output.shape[-1]))
    assert model(images).shape == (2, 10)
    assert sides == [16, 8, 4]
    assert model.features(images).shape == (2, 32, 4, 4)
    assert (model.features(images) >= 0).all(), "the last ReLU belongs to the map"


@pytest.mark.parametrize("side", [1, 7, 8, 28, 33])
def test_any_image_size_and_channels(side: int) -> None:
    model = models.create("basic_cnn", num_classes=3, in_channels=1, image_size=side, width=4)
    model(torch.randn(2, 1, side, side)).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_reset_parameters_repeats_construction() -> None:
    torch.manual_seed(5)
    ordinary = models.create("basic_cnn", num_classes=10)
    with torch.device("meta"):
        model = models.create("basic_cnn", num_classes=10)
    model.to_empty(device="cpu")
    torch.manual_seed(5)
    model.reset_parameters()
    for key, value in ordinary.state_dict().items():
        assert torch.equal(value, model.state_dict()[key]), key


@pytest.mark.parametrize(
    "connection", [name for name in connections.names() if name != "linear"] + [("linear", {"eps": 1.0})], ids=str
)
def test_a_connection_is_refused(connection) -> None:
    with pytest.raises(UsageError, match=r"BasicCNN has no site .*resnet20"):
        models.create("basic_cnn", num_classes=10, connection=connection)


def test_the_plain_sum_is_accepted_in_every_form() -> None:
    for choice in ("linear", ("linear", {}), connections.create("linear")):
        model = models.create("basic_cnn", num_classes=10, connection=choice)
        assert model.sites == ()


def test_wrong_values_are_refused() -> None:
    with pytest.raises(UsageError, match="width must be a whole number"):
        models.create("basic_cnn", num_classes=10, width=0)
    with pytest.raises(UsageError, match="with 3 channels, got"):
        models.create("basic_cnn", num_classes=10)(torch.zeros(1, 1, 32, 32))
    with pytest.raises(UsageError, match="unknown option of model 'basic_cnn' 'drop_path'"):
        models.create("basic_cnn", num_classes=10, drop_path=0.1)
