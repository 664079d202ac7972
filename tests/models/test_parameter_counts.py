"""The parameter counts of the specification's table 4.3, every cell."""

from typing import Any

import pytest
import torch

from orthostream import models

COUNTS = {
    # mnist, cifar10, cifar100, tiny-imagenet, imagenet1k (table 4.3 of the specification)
    "vit_s": (10_667_914, 10_685_962, 10_720_612, 10_814_408, 11_394_280),
    "vit_b": (85_078_282, 85_114_378, 85_183_588, 85_371_080, 86_530_024),
    "vit_l": (302_291_978, 302_340_106, 302_432_356, 302_682_312, 304_227_304),
    "vit_h": (629_615_370, 629_675_530, 629_790_820, 630_103_240, 632_034_280),
    "preact_resnet18": (None, 11_176_074, 11_222_244, 11_273_544, 11_683_944),
    "preact_resnet34": (None, 21_287_946, 21_334_116, 21_385_416, 21_795_816),
    "preact_resnet50": (None, 23_535_754, 23_720_164, 23_925_064, 25_564_264),
    "preact_resnet101": (None, 42_553_994, 42_738_404, 42_943_304, 44_582_504),
    "preact_resnet152": (None, 58_220_682, 58_405_092, 58_609_992, 60_249_192),
}
# image, patch, classes, channels
DATASETS = ((28, 7, 10, 1), (32, 4, 10, 3), (32, 4, 100, 3), (64, 8, 200, 3), (224, 16, 1000, 3))
CELLS = [
    pytest.param(name, dataset, count, id=f"{name}-{dataset[0]}px-{dataset[2]}classes")
    for name, row in COUNTS.items()
    for dataset, count in zip(DATASETS, row, strict=True)
    if count is not None
]
CONV1X1_COUNTS = {
    "preact_resnet18": 11_872_394,
    "preact_resnet34": 22_545_418,
    "preact_resnet50": 43_655_306,
    "preact_resnet101": 80_499_338,
    "preact_resnet152": 110_846_090,
}


def parameters_of(name: str, **options: Any) -> int:
    with torch.device("meta"):
        model = models.create(name, **options)
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


@pytest.mark.parametrize(("name", "dataset", "count"), CELLS)
def test_parameter_count(name: str, dataset: tuple[int, int, int, int], count: int) -> None:
    image_size, patch_size, num_classes, in_channels = dataset
    options = {"image_size": image_size, "patch_size": patch_size} if name.startswith("vit") else {}
    for connection in ("linear", "orthogonal"):
        found = parameters_of(name, num_classes=num_classes, in_channels=in_channels, connection=connection, **options)
        assert found == count


@pytest.mark.parametrize("pattern", ["rezero", "rezero_constrained", "rescale_stream"])
def test_scalar_patterns_add_one_parameter_a_site(pattern: str) -> None:
    assert parameters_of("vit_s", num_classes=10, connection=pattern) == 10_685_962 + 12
    assert parameters_of("preact_resnet18", num_classes=10, connection=pattern) == 11_176_074 + 8


@pytest.mark.parametrize("name", CONV1X1_COUNTS)
def test_conv1x1_pattern_count(name: str) -> None:
    choice = ("rescale_stream", {"base": "orthogonal", "mode": "conv1x1"})
    assert parameters_of(name, num_classes=10, connection=choice) == CONV1X1_COUNTS[name]


def test_norm_head_adds_two_numbers_a_channel() -> None:
    assert parameters_of("preact_resnet18", num_classes=10, norm_head=True) == 11_176_074 + 2 * 512
