"""The post-activation ResNets for CIFAR: sizes, an independent forward pass, and connections at their additions."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from orthostream import analysis, connections, models
from orthostream.errors import UsageError

SITE = connections.Site(features=4, axis=1)
PLAIN = [name for name in connections.names() if connections.create(name, site=SITE).layout == ("plain",)]
OTHER = [name for name in connections.names() if name not in PLAIN]
TINY: dict[str, Any] = {"blocks_per_stage": (2, 1), "widths": (4, 7)}


def tiny(connection: Any = "linear", **options: Any) -> models.CifarResNet:
    torch.manual_seed(0)
    return models.create("resnet20", num_classes=5, connection=connection, **(TINY | options))


@pytest.fixture
def images() -> Tensor:
    return torch.randn(4, 3, 9, 9, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("name", "layers", "count"), [("resnet20", 20, 269_722), ("resnet44", 44, 658_586)])
def test_published_sizes(name: str, layers: int, count: int) -> None:
    with torch.device("meta"):
        model = models.create(name, num_classes=10)
    assert sum(isinstance(module, nn.Conv2d | nn.Linear) for module in model.modules()) == layers
    assert sum(p.numel() for p in model.parameters()) == count
    # 0.27 M and 0.66 M in table 6 of arXiv:1512.03385
    assert round(count / 1e6, 2) == {"resnet20": 0.27, "resnet44": 0.66}[name]


def test_forward_is_that_of_the_paper_written_out(images: Tensor) -> None:
    model = tiny().double().eval()
    weights = model.state_dict()

    def norm(x: Tensor, name: str) -> Tensor:
        mean, var, scale, shift = (
            weights[f"{name}.{key}"].view(1, -1, 1, 1) for key in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-5).sqrt() * scale + shift

    x = functional.conv2d(images.double(), weights["pre.0.weight"], padding=1)
    x = norm(x, "pre.1").relu()
    for name, stride, padding in (("stage1.0", 1, 0), ("stage1.1", 1, 0), ("stage2.0", 2, 3)):
        y = functional.conv2d(x, weights[f"{name}.residual.0.weight"], stride=stride, padding=1)
        y = norm(y, f"{name}.residual.1").relu()
        y = norm(functional.conv2d(y, weights[f"{name}.residual.3.weight"], padding=1), f"{name}.residual.4")
        if padding:
            # 4 channels become 7: one of zeros before, two behind
            zeros = x.new_zeros(len(x), padding, 5, 5)
            x = torch.cat([zeros[:, :1], x[:, :, ::2, ::2], zeros[:, 1:]], 1)
        x = (x + y).relu()
    expected = x.mean((2, 3)) @ weights["linear.weight"].T + weights["linear.bias"]
    # float64; the batch norm sums in another order
    torch.testing.assert_close(model(images.double()), expected, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(model.features(images.double()), x, atol=1e-12, rtol=1e-12)


def test_initial_weights_are_kaiming_normal() -> None:
    torch.manual_seed(0)
    model = models.create("resnet44", num_classes=10)
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            fan_in = module.weight[0].numel()
            expected = (2 / fan_in) ** 0.5
            # six standard errors of a standard deviation of n normal numbers, expected / sqrt(2 n)
            slack = 6 * expected / (2 * module.weight.numel()) ** 0.5
            assert abs(module.weight.std().item() - expected) < slack, name
        if isinstance(module, nn.Conv2d):
            assert module.bias is None


@pytest.mark.parametrize("connection", PLAIN)
def test_additions_take_a_connection(images: Tensor, connection: str) -> None:
    model = tiny(connection)
    assert [site.name for site in model.sites] == ["stage1.0.residual", "stage1.1.residual", "stage2.0.residual"]
    with analysis.record(model) as recording:
        model(images).square().sum().backward()
    assert [row["site"] for row in recording.table()] == [site.name for site in model.sites]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_orthogonal_updates_are_orthogonal_and_change_the_result(images: Tensor) -> None:
    orthogonal = tiny("orthogonal").double().eval()
    block = orthogonal.blocks[1]
    stream = torch.rand(2, 4, 5, 5, dtype=torch.float64)
    update = torch.randn(2, 4, 5, 5, dtype=torch.float64)
    written = block.connection.write(stream, update) - stream
    # float64; eps in the denominator leaves <x, u> eps / (<x, x> + eps)
    assert (stream * written).sum(1).abs().max() < 1e-5
    plain = tiny("linear").double().eval()
    plain.load_state_dict(orthogonal.state_dict())
    assert not torch.allclose(plain(images.double()), orthogonal(images.double()))


@pytest.mark.parametrize("connection", OTHER)
def test_streams_of_several_tensors_are_refused(connection: str) -> None:
    with pytest.raises(UsageError, match="ReLU on the stream"):
        tiny(connection)


def test_reset_parameters_repeats_construction(images: Tensor) -> None:
    choice = ("rescale_stream", {"mode": "conv1x1"})
    ordinary = tiny(choice)
    with torch.device("meta"):
        model = tiny(choice)
    model.to_empty(device="cpu")
    torch.manual_seed(0)
    model.reset_parameters()
    for key, value in ordinary.state_dict().items():
        assert torch.equal(value, model.state_dict()[key]), key
    assert torch.equal(ordinary(images), model(images))


def test_checkpointing_changes_no_gradient_and_no_statistic(images: Tensor) -> None:
    results = []
    for is_checkpointed in (False, True):
        model = tiny("orthogonal", gradient_checkpointing=is_checkpointed, drop_path=0.4)
        torch.manual_seed(3)
        model(images).square().sum().backward()
        results.append({**{n: p.grad for n, p in model.named_parameters()}, **dict(model.named_buffers())})
    for name, value in results[0].items():
        assert torch.equal(value, results[1][name]), name


def test_wrong_values_are_refused(images: Tensor) -> None:
    with pytest.raises(UsageError, match="widths must not fall"):
        tiny(widths=(8, 4))
    with pytest.raises(UsageError, match="blocks_per_stage"):
        tiny(blocks_per_stage=(2, 0))
    with pytest.raises(UsageError, match="with 3 channels, got"):
        tiny()(images[:, :1])


def test_compiles_to_one_graph(images: Tensor) -> None:
    model = tiny("orthogonal")
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    model.eval()
    # float32; compiled orthogonal updates are the plain formula
    torch.testing.assert_close(compiled(images), model(images), atol=1e-5, rtol=1e-5)
