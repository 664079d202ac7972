"""torchvision's networks under our interface: same parameters, same numbers, and clear refusals."""

import pytest
import torch
from torchvision import models as torchvision_models

from orthostream import models
from orthostream.errors import UsageError

COUNTS = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "densenet121": 7_978_856,
    "densenet161": 28_681_000,
    "resnext50_32x4d": 25_028_904,
    "wide_resnet50_2": 68_883_240,
}


@pytest.mark.parametrize("name", COUNTS)
def test_with_the_head_of_imagenet_it_is_torchvisions_network(name: str) -> None:
    with torch.device("meta"):
        model = models.create(name, num_classes=10, head_classes=1000)
        theirs = torchvision_models.get_model(name)
    assert sum(p.numel() for p in model.parameters()) == COUNTS[name]
    shapes = {key: value.shape for key, value in model.network.state_dict().items()}
    assert shapes == {key: value.shape for key, value in theirs.state_dict().items()}


@pytest.mark.parametrize("name", ["resnet18", "densenet121"])
def test_numbers_are_torchvisions(name: str) -> None:
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(7)
    model = models.create(name, num_classes=10).eval()
    torch.manual_seed(7)
    theirs = torchvision_models.get_model(name, num_classes=10).eval()
    assert torch.equal(model(images), theirs(images))
    # what follows the map is pooling and the dense layer, in every one of them
    head = model.network.classifier if name.startswith("dense") else model.network.fc
    torch.testing.assert_close(head(model.features(images).mean((2, 3))), model(images))


@pytest.mark.parametrize("name", ["resnet18", "densenet121"])
def test_reset_parameters_repeats_construction(name: str) -> None:
    torch.manual_seed(7)
    ordinary = models.create(name, num_classes=4)
    with torch.device("meta"):
        model = models.create(name, num_classes=4)
    model.to_empty(device="cpu")
    torch.manual_seed(7)
    model.reset_parameters()
    for key, value in ordinary.state_dict().items():
        assert torch.equal(value, model.state_dict()[key]), key


def test_refusals() -> None:
    with pytest.raises(UsageError, match="TorchvisionNet has no site"):
        models.create("resnet18", num_classes=10, connection="orthogonal")
    with pytest.raises(UsageError, match="takes RGB images, and the data has 1 channels"):
        models.create("resnet18", num_classes=10, in_channels=1)
    with pytest.raises(UsageError, match="head_classes must be a whole number, 10 or more, got 5"):
        models.create("resnet18", num_classes=10, head_classes=5)
