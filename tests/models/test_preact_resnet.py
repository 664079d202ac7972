"""The pre-activation ResNet: its shapes and sites, its projections, and what it refuses."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from orthostream import connections, models
from orthostream.errors import UsageError

MakeTiny = Callable[..., models.PreActResNet]


def test_layers_of_a_basic_net() -> None:
    with torch.device("meta"):
        model = models.create("preact_resnet18", num_classes=10)
    first = model.stage1[0].residual
    assert [type(layer).__name__ for layer in first] == ["BatchNorm2d", "ReLU", "Conv2d"] * 2
    assert all(conv.bias is not None for conv in model.modules() if isinstance(conv, nn.Conv2d))
    assert model.stage1[0].shortcut is None
    assert [model.get_submodule(f"stage{n}.0.residual.2").stride for n in (1, 2, 3, 4)] == [(1, 1)] + 3 * [(2, 2)]
    assert [model.get_submodule(f"stage{n}.0.shortcut").stride for n in (2, 3, 4)] == 3 * [(2, 2)]


def test_layers_of_a_bottleneck_net() -> None:
    with torch.device("meta"):
        model = models.create("preact_resnet50", num_classes=10)
    # the stride is in the first 1x1, and stage 1 widens, so it has a projection too
    assert [model.stage2[0].residual[at].stride for at in (2, 5, 8)] == [(2, 2), (1, 1), (1, 1)]
    assert [model.stage2[0].residual[at].kernel_size for at in (2, 5, 8)] == [(1, 1), (3, 3), (1, 1)]
    assert model.stage1[0].shortcut.weight.shape == (256, 64, 1, 1)
    assert model.stage1[0].shortcut.stride == (1, 1)


def test_sites_of_a_resnet() -> None:
    with torch.device("meta"):
        model = models.create("preact_resnet34", num_classes=10)
    assert model.family == "resnet"
    assert model.sites[3] == connections.Site(
        name="stage2.0.residual", kind="conv", features=128, axis=1, index=3, count=16, since=0, block=3, blocks=16
    )
    assert [site.since for site in model.sites] == [0, 1, 2, 0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 0, 1, 2]
    assert [block.connection.site.name for block in model.blocks] == [site.name for site in model.sites]


def test_update_is_orthogonal_to_the_projected_stream(make_tiny: MakeTiny, images: Tensor) -> None:
    model = make_tiny("resnet", "orthogonal").double()
    block = model.stage2[0]
    x = model.stage1(model.pre(images.double()))
    shortcut = block.shortcut(x)
    change = block(x) - shortcut
    # <x, y - x> = eps * s, and s is of order one
    assert (shortcut * change).sum(1).abs().max() < 1e-4
    assert (shortcut * block.residual(x)).sum(1).abs().max() > 1e-2


def test_the_branch_sees_the_raw_input(make_tiny: MakeTiny, images: Tensor) -> None:
    model = make_tiny("bottleneck", "linear").double()
    block = model.stage2[0]
    x = model.stage1(model.pre(images.double()))
    torch.testing.assert_close(block(x), block.shortcut(x) + block.residual(x), atol=1e-13, rtol=1e-13)


def test_head(make_tiny: MakeTiny, images: Tensor) -> None:
    plain, normed = make_tiny("resnet"), make_tiny("resnet", norm_head=True)
    assert set(normed.state_dict()) - set(plain.state_dict()) == {
        f"linear.{layer}.{kind}" for layer in (0, 1) for kind in ("weight", "bias")
    }
    pooled = normed.features(images).mean((2, 3))
    expected = normed.linear[1](nn.functional.layer_norm(pooled, (6,), eps=1e-5))
    # a training forward twice: batch statistics are the same, float32 rounding
    torch.testing.assert_close(normed(images), expected, atol=1e-6, rtol=1e-5)


def test_any_image_size(make_tiny: MakeTiny) -> None:
    model = make_tiny("resnet", "orthogonal").eval()
    for size in ((1, 1), (5, 9), (32, 32)):
        assert model(torch.zeros(2, 3, *size)).shape == (2, 5)


def test_sync_batch_norm_keeps_keys(make_tiny: MakeTiny) -> None:
    model = make_tiny("resnet", "orthogonal")
    keys = list(model.state_dict())
    assert list(nn.SyncBatchNorm.convert_sync_batchnorm(model).state_dict()) == keys


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"blocks_per_stage": (2, 2)}, r"got 2 of blocks_per_stage=\(2, 2\) and 4 of widths=\(64, 128, 256, 512\)"),
        ({"blocks_per_stage": (), "widths": ()}, "every stage needs"),
        ({"widths": (64, 128, 256, 0)}, "widths must be a whole number, 1 or more, got 0"),
        ({"block": "wide"}, "unknown block 'wide'"),
        ({"in_channels": 0}, "in_channels must be"),
        ({"norm_head": "no"}, "norm_head must be true or false, got 'no'"),
        ({"drop_path": 1.5}, "drop_path must be a number from 0"),
    ],
)
def test_refused_numbers(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        models.create("preact_resnet18", num_classes=10, **options)


def test_refused_images(make_tiny: MakeTiny) -> None:
    with pytest.raises(UsageError, match=r"with 3 channels, got float32\[2, 1, 8, 8\]"):
        make_tiny("resnet")(torch.zeros(2, 1, 8, 8))
