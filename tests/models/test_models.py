"""What both families promise, with every connection."""

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from orthostream import connections, models
from orthostream.errors import UsageError

FAMILIES = ("vit", "resnet", "bottleneck")
MakeTiny = Callable[..., models.Model]


def loss_of(model: nn.Module, images: Tensor) -> Tensor:
    """A scalar that depends on every logit of every image."""
    logits = model(images)
    weights = torch.linspace(-1, 1, logits.numel(), dtype=logits.dtype).reshape(logits.shape)
    return (logits * weights).sum()


def gradients_of(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    model.zero_grad(set_to_none=True)
    loss_of(model, images).backward()
    found = {}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, f"{name} got no gradient"
        found[name] = parameter.grad
    return found


def wake(model: nn.Module) -> None:
    """Move the parameters of connections away from their first values, some of which hide whole branches."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, connections.Connection):
                for parameter in module.parameters():
                    parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator).to(parameter.dtype))


@pytest.mark.parametrize("connection", connections.names())
@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_gets_a_gradient(make_tiny: MakeTiny, images: Tensor, family: str, connection: str) -> None:
    model = make_tiny(family, connection)
    wake(model)
    for name, gradient in gradients_of(model, images).items():
        assert gradient.isfinite().all(), name
        # biases in front of a batch norm have no influence, those of connections do
        if "connection" in name:
            assert gradient.count_nonzero() > 0, f"{name} has a gradient of zero"


@pytest.mark.parametrize("connection", connections.names())
@pytest.mark.parametrize("family", FAMILIES)
def test_equal_seeds_give_equal_models(make_tiny: MakeTiny, family: str, connection: str) -> None:
    first, second = make_tiny(family, connection), make_tiny(family, connection)
    assert first.sites == second.sites
    assert list(first.state_dict()) == list(second.state_dict())
    for key, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[key]), key


@pytest.mark.parametrize(
    ("family", "connection"),
    [*product(FAMILIES, connections.names()), ("resnet", ("rescale_stream", {"mode": "conv1x1"}))],
    ids=str,
)
def test_meta_construction_ends_like_ordinary_construction(
    make_tiny: MakeTiny, images: Tensor, family: str, connection: Any
) -> None:
    ordinary = make_tiny(family, connection)
    with torch.device("meta"):
        model = make_tiny(family, connection)
    model.to_empty(device="cpu")
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            # whatever stays unset must be seen
            tensor.fill_(77)
    torch.manual_seed(0)
    model.reset_parameters()
    for key, value in ordinary.state_dict().items():
        assert torch.equal(value, model.state_dict()[key]), key
    # buffers outside the state dict as well
    assert torch.equal(ordinary(images), model(images))


@pytest.mark.parametrize("connection", connections.names())
@pytest.mark.parametrize("family", FAMILIES)
def test_channels_last_gives_the_same_numbers(
    make_tiny: MakeTiny, images: Tensor, family: str, connection: str
) -> None:
    model = make_tiny(family, connection).double()
    wake(model)
    plain = gradients_of(model, images.double())
    model.to(memory_format=torch.channels_last)
    last = gradients_of(model, images.double().to(memory_format=torch.channels_last))
    for name, gradient in plain.items():
        # float64, another order of sums
        torch.testing.assert_close(last[name], gradient, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("connection", ["linear", "orthogonal", "hyper_connections"])
@pytest.mark.parametrize("family", ["vit", "resnet"])
@pytest.mark.parametrize("is_checkpointed", [False, True])
def test_compiles_to_one_graph_with_equal_numbers(
    make_tiny: MakeTiny, images: Tensor, family: str, connection: str, is_checkpointed: bool
) -> None:
    eager = make_tiny(family, connection, drop_path=0.25)
    other = make_tiny(family, connection, drop_path=0.25, gradient_checkpointing=is_checkpointed)
    torch._dynamo.reset()
    compiled = torch.compile(other, backend="aot_eager", fullgraph=True)
    torch.manual_seed(3)
    expected = gradients_of(eager, images)
    torch.manual_seed(3)
    loss_of(compiled, images).backward()
    found = dict(other.named_parameters())
    for name, gradient in expected.items():
        # float32; the compiled orthogonal update is the plain formula, the eager one the closed form
        torch.testing.assert_close(found[name].grad, gradient, atol=1e-4, rtol=1e-3, msg=name)
    for name, buffer in eager.named_buffers():
        torch.testing.assert_close(other.get_buffer(name), buffer, atol=1e-5, rtol=1e-5, msg=name)


@pytest.mark.parametrize("connection", ["linear", "orthogonal", "hyper_connections"])
def test_blocks_compiled_one_by_one_share_a_graph(make_tiny: MakeTiny, images: Tensor, connection: str) -> None:
    torch._dynamo.reset()
    model = make_tiny("vit", connection, depth=4)
    graphs = []

    def count(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    for block in model.blocks:
        block.compile(backend=count, fullgraph=True)
    model(images)
    assert len(graphs) == 1


@pytest.mark.parametrize("connection", connections.names())
@pytest.mark.parametrize("family", FAMILIES)
def test_checkpointing_gives_equal_gradients_and_statistics(
    make_tiny: MakeTiny, images: Tensor, family: str, connection: str
) -> None:
    random_parts = {"drop_path": 0.4, "perturbation": 0.1}
    plain = make_tiny(family, connection, **random_parts)
    checkpointed = make_tiny(family, connection, gradient_checkpointing=True, **random_parts)
    for model in (plain, checkpointed):
        wake(model)
    torch.manual_seed(3)
    expected = gradients_of(plain, images)
    torch.manual_seed(3)
    found = gradients_of(checkpointed, images)
    for name, gradient in expected.items():
        assert torch.equal(found[name], gradient), name
    # running statistics moved once, not a second time in the recomputation
    for name, buffer in plain.named_buffers():
        assert torch.equal(checkpointed.get_buffer(name), buffer), name


@pytest.mark.parametrize("family", FAMILIES)
def test_random_parts_act_in_training_alone(make_tiny: MakeTiny, images: Tensor, family: str) -> None:
    plain = make_tiny(family, "orthogonal").eval()
    for options in ({"drop_path": 0.5}, {"perturbation": 0.5}):
        model = make_tiny(family, "orthogonal", **options)
        assert not torch.equal(model.train()(images), model(images)), f"{options} changed nothing in training"
        model.load_state_dict(plain.state_dict())
        assert torch.equal(model.eval()(images), plain(images))


@pytest.mark.parametrize("family", FAMILIES)
def test_hyper_connections_start_as_the_plain_residual(make_tiny: MakeTiny, images: Tensor, family: str) -> None:
    streams = 4
    plain = make_tiny(family, "linear").double()
    hyper = make_tiny(family, ("hyper_connections", {"streams": streams})).double()
    expected = plain.features(images.double())
    # The reduced stream is the sum of equal copies. float64; the sums of a mixing run in another order.
    torch.testing.assert_close(hyper.features(images.double()) / streams, expected, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("connection", connections.names())
@pytest.mark.parametrize("family", FAMILIES)
def test_a_black_image_and_an_empty_batch_stay_finite(make_tiny: MakeTiny, family: str, connection: str) -> None:
    model = make_tiny(family, connection)
    for name, gradient in gradients_of(model, torch.zeros(2, 3, 8, 8)).items():
        assert gradient.isfinite().all(), name
    assert model.eval()(torch.zeros(0, 3, 8, 8)).shape == (0, 5)


@pytest.mark.parametrize("connection", connections.names())
@pytest.mark.parametrize("family", FAMILIES)
def test_autocast_in_bfloat16(make_tiny: MakeTiny, images: Tensor, family: str, connection: str) -> None:
    model = make_tiny(family, connection).eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(images)
    exact = model(images)
    # bfloat16 keeps 8 bits; a dozen layers, each rounding once, on logits of order one
    scale = exact.abs().max().item()
    torch.testing.assert_close(logits.float(), exact, atol=0.05 * scale + 0.02, rtol=0.0)


@pytest.mark.parametrize("family", FAMILIES)
def test_connections_can_differ_by_site(make_tiny: MakeTiny, images: Tensor, family: str) -> None:
    first = make_tiny(family, "linear").sites[0].name
    mixed = make_tiny(family, {first: "orthogonal", "default": "linear"})
    kinds = [type(module).__name__ for module in mixed.modules() if isinstance(module, connections.Connection)]
    # the first site's, and the one that begins the trunk
    assert kinds.count("Orthogonal") == 2
    assert gradients_of(mixed, images)


@pytest.mark.parametrize("family", FAMILIES)
def test_sites_name_modules_and_connections(make_tiny: MakeTiny, family: str) -> None:
    model = make_tiny(family, "orthogonal")
    modules = dict(model.named_modules())
    for index, site in enumerate(model.sites):
        assert site.name in modules
        assert (site.index, site.count) == (index, len(model.sites))
    at_sites = {m.site.name for m in modules.values() if isinstance(m, connections.Connection)}
    assert at_sites == {site.name for site in model.sites} | {"begin", "end"}


def test_the_table_refuses_what_it_does_not_know() -> None:
    with pytest.raises(UsageError, match=r"did you mean vit_"):
        models.create("vit_x", num_classes=10)
    with pytest.raises(UsageError, match=r"unknown option of model 'vit_s' 'drop_paths'.*drop_path"):
        models.create("vit_s", num_classes=10, drop_paths=0.1)
    with pytest.raises(UsageError, match="unknown option of model 'preact_resnet18' 'patch_size'"):
        models.create("preact_resnet18", num_classes=10, patch_size=4)
    with pytest.raises(UsageError, match="unknown connection"):
        models.create("vit_s", num_classes=10, connection="ortogonal")


def test_state_dict_of_a_plain_connection_adds_no_key(make_tiny: MakeTiny) -> None:
    for family in FAMILIES:
        linear, orthogonal = (list(make_tiny(family, name).state_dict()) for name in ("linear", "orthogonal"))
        assert linear == orthogonal
        assert not [key for key in linear if "connection" in key or key.startswith(("begin", "end"))]
