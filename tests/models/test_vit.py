"""The ViT: its order of parameters, its optional parts, its stream, and what it refuses."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from orthostream import connections, models
from orthostream.errors import UsageError
from orthostream.models.vit_block import Attention, Mlp

MakeTiny = Callable[..., models.ViT]


def test_parameters_stand_in_the_authors_order(make_tiny: MakeTiny) -> None:
    def linear(path: str) -> list[str]:
        return [f"{path}.weight", f"{path}.bias"]

    expected = ["cls_token", "pos_embed", *linear("patchify")]
    for block in range(2):
        for name in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"):
            expected += linear(f"blocks.{block}.{name}")
        expected += [f"blocks.{block}.attn_connection.alpha", f"blocks.{block}.mlp_connection.alpha"]
    expected += [*linear("classifier.0"), *linear("classifier.1")]
    assert [name for name, _ in make_tiny("vit", "rezero").named_parameters()] == expected


def test_first_values() -> None:
    torch.manual_seed(0)
    model = models.create("vit_s", num_classes=10, depth=1)
    assert model.cls_token.count_nonzero() == 0
    # 24576 draws: their standard deviation scatters by 0.5 %
    assert model.pos_embed.std().item() == pytest.approx(0.02, rel=0.03)
    assert model.classifier[0].eps == 1e-5
    block = model.blocks[0]
    assert (block.norm1.eps, block.norm1.weight, block.norm2.eps, block.norm2.weight) == (1e-6, None, 1e-6, None)


def test_attention_is_softmax_attention() -> None:
    torch.manual_seed(0)
    attention = Attention(6, 2).double()
    x = torch.randn(2, 5, 6, dtype=torch.float64)
    query, key, value = (part.reshape(2, 5, 2, 3).transpose(1, 2) for part in attention.qkv(x).split(6, dim=-1))
    weights = (query @ key.transpose(-1, -2) / 3**0.5).softmax(-1)
    expected = attention.proj((weights @ value).transpose(1, 2).reshape(2, 5, 6))
    # float64 rounding
    torch.testing.assert_close(attention(x), expected, atol=1e-13, rtol=1e-13)


def test_mlp_has_the_tanh_gelu_and_two_dropouts() -> None:
    torch.manual_seed(0)
    mlp = Mlp(3, 7, dropout=0.5).double().eval()
    x = torch.randn(2, 3, dtype=torch.float64)
    hidden = mlp.fc1(x)
    inner = (2 / torch.pi) ** 0.5 * (hidden + 0.044715 * hidden**3)
    expected = mlp.fc2(0.5 * hidden * (1 + inner.tanh()))
    torch.testing.assert_close(mlp(x), expected, atol=1e-13, rtol=1e-13)
    with torch.no_grad():
        for parameter, value in (
            (mlp.fc1.weight, 0.0),
            (mlp.fc1.bias, 1.0),
            (mlp.fc2.weight, 1.0),
            (mlp.fc2.bias, 0.0),
        ):
            parameter.fill_(value)
    unit = 4 * mlp.act(torch.ones(1, dtype=torch.float64)).item()
    kept = mlp.train()(torch.zeros(1000, 3, dtype=torch.float64)) / unit
    # of the seven equal hidden values the first dropout keeps some, each doubled; the second keeps or drops their
    # sum, doubled again: whole numbers, and zero far more often than all seven dropped at once (0.8 %)
    torch.testing.assert_close(kept, kept.round(), atol=1e-12, rtol=0.0)
    assert set(kept.round().int().unique().tolist()) == set(range(8))
    assert (kept == 0).double().mean().item() == pytest.approx(0.5, abs=0.05)


def test_norms_of_tokens_never_shrink_in_an_orthogonal_trunk(make_tiny: MakeTiny, images: Tensor) -> None:
    model = make_tiny("vit", "orthogonal", depth=6).double()
    stream = model.begin.expand(model.embed(images.double()))
    norms = [stream.norm(dim=-1)]
    for block in model.blocks:
        stream = block(stream)
        norms.append(stream.norm(dim=-1))
    for before, after in pairwise(norms):
        # |y|^2 = |x|^2 + |u_orthogonal|^2 + 2 eps s: eps alone could shorten it, by about 1e-6
        assert (after >= before - 1e-6).all()
    assert (norms[-1] > norms[0] + 0.1).all()


def test_norms_of_tokens_can_shrink_in_a_linear_trunk(make_tiny: MakeTiny, images: Tensor) -> None:
    model = make_tiny("vit", "linear", depth=6).double()
    stream = model.embed(images.double())
    norms = [stream.norm(dim=-1)]
    for block in model.blocks:
        stream = block(stream)
        norms.append(stream.norm(dim=-1))
    assert any((after < before - 1e-6).any() for before, after in pairwise(norms))


def test_the_stream_is_contiguous_after_the_embedding(make_tiny: MakeTiny, images: Tensor) -> None:
    model = make_tiny("vit")
    assert model.embed(images).is_contiguous()
    model.to(memory_format=torch.channels_last)
    assert model.embed(images.to(memory_format=torch.channels_last)).is_contiguous()


OPTIONS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "affine_norm": (
        {"affine_norm": True},
        {f"blocks.{b}.norm{n}.{kind}" for b in (0, 1) for n in (1, 2) for kind in ("weight", "bias")},
    ),
    "layer_scale": (
        {"layer_scale": 0.1},
        {f"blocks.{b}.{branch}_update.scale.gamma" for b in (0, 1) for branch in ("attn", "mlp")},
    ),
    "qk_norm": (
        {"qk_norm": True},
        {f"blocks.{b}.attn.{n}_norm.{kind}" for b in (0, 1) for n in ("query", "key") for kind in ("weight", "bias")},
    ),
    "registers": ({"registers": 3}, {"register_tokens"}),
    "mean pool": ({"pool": "mean"}, set()),
}


@pytest.mark.parametrize("connection", ["linear", "orthogonal", "hyper_connections"])
@pytest.mark.parametrize("name", OPTIONS)
def test_optional_parts(make_tiny: MakeTiny, images: Tensor, name: str, connection: str) -> None:
    options, keys = OPTIONS[name]
    plain, model = make_tiny("vit", connection), make_tiny("vit", connection, **options)
    assert set(model.state_dict()) - set(plain.state_dict()) == keys
    model.load_state_dict(plain.state_dict(), strict=False)
    logits = model(images)
    if name == "affine_norm":
        # gain one and bias zero: the same function
        torch.testing.assert_close(logits, plain(images), atol=1e-6, rtol=1e-5)
    else:
        assert not torch.allclose(logits, plain(images), atol=1e-3)
    logits.square().sum().backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name


def test_layer_scale_of_one_changes_nothing(make_tiny: MakeTiny, images: Tensor) -> None:
    plain, scaled = make_tiny("vit", "orthogonal"), make_tiny("vit", "orthogonal", layer_scale=1.0)
    assert torch.equal(scaled(images), plain(images))


def test_eps_of_the_norm_in_front_of_the_classifier(make_tiny: MakeTiny, images: Tensor) -> None:
    plain, other = make_tiny("vit", "orthogonal"), make_tiny("vit", "orthogonal", final_norm_eps=0.5)
    assert plain.classifier[0].eps == 1e-5
    assert [module.eps for module in other.modules() if isinstance(module, torch.nn.LayerNorm)] == [1e-6] * 4 + [0.5]
    other.load_state_dict(plain.state_dict())
    token = plain.features(images)[:, 0]
    normed = (token - token.mean(-1, keepdim=True)) / (token.var(-1, unbiased=False, keepdim=True) + 0.5).sqrt()
    norm, head = plain.classifier
    torch.testing.assert_close(other(images), head(normed * norm.weight + norm.bias))
    assert not torch.allclose(other(images), plain(images), atol=1e-3)


def test_mean_pool_takes_the_patches_alone(make_tiny: MakeTiny, images: Tensor) -> None:
    model = make_tiny("vit", pool="mean", registers=2)
    tokens = model.features(images)
    assert tokens.shape == (4, 1 + 4 + 2, 12)
    expected = model.classifier(tokens[:, 1:5].mean(1))
    torch.testing.assert_close(model(images), expected, atol=0.0, rtol=0.0)


def test_resized_positions(make_tiny: MakeTiny, images: Tensor) -> None:
    model = make_tiny("vit", "orthogonal").eval()
    expected = model(images)
    model.resize_positions(8)
    assert torch.equal(model(images), expected)
    model.resize_positions((12, 16))
    assert model.pos_embed.shape == (1, 12, 12)
    assert model(torch.zeros(2, 3, 12, 16)).shape == (2, 5)
    assert "pos_embed" in dict(model.named_parameters())
    with pytest.raises(UsageError, match="made for images of 12x16 pixels, got 8x8"):
        model(images)


def test_dynamic_image_size_equals_resized_positions(make_tiny: MakeTiny, images: Tensor) -> None:
    dynamic, fixed = make_tiny("vit", dynamic_image_size=True), make_tiny("vit")
    assert torch.equal(dynamic(images), fixed(images))
    larger = torch.randn(2, 3, 12, 20, generator=torch.Generator().manual_seed(5))
    fixed.resize_positions((12, 20))
    assert torch.equal(dynamic(larger), fixed(larger))
    dynamic(larger).sum().backward()
    assert dynamic.pos_embed.grad is not None
    assert dynamic.pos_embed.grad.count_nonzero() > 0
    with pytest.raises(UsageError, match="does not divide into patches of 4x4"):
        dynamic(torch.zeros(1, 3, 10, 12))


def test_sites_of_a_vit() -> None:
    with torch.device("meta"):
        model = models.create("vit_s", num_classes=10)
    assert model.family == "vit"
    assert [site.name for site in model.sites[:3]] == ["blocks.0.attn", "blocks.0.mlp", "blocks.1.attn"]
    last = model.sites[-1]
    assert last == connections.Site(
        name="blocks.5.mlp", kind="mlp", features=384, index=11, count=12, since=11, block=5, blocks=6
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 30}, r"30x30 pixels does not divide into patches of 4x4: 30 / 4 = 7.5"),
        ({"image_size": (32, 30)}, r"32x30 pixels"),
        ({"image_size": (32, 32, 3)}, r"one side in pixels or \(height, width\)"),
        ({"patch_size": 0}, "patch_size must be a whole number, 1 or more, got 0"),
        ({"num_heads": 5}, "embed_dim=384 does not divide into num_heads=5"),
        ({"depth": 0}, "depth must be a whole number, 1 or more, got 0"),
        ({"depth": 2.0}, "depth must be a whole number, 1 or more, got 2.0"),
        ({"num_classes": 0}, "num_classes must be"),
        ({"in_channels": "3"}, "in_channels must be a whole number, 1 or more, got '3'"),
        ({"registers": -1}, "registers must be a whole number, 0 or more, got -1"),
        ({"mlp_ratio": 0.001}, "mlp_ratio=0.001 must be a whole width"),
        ({"mlp_dropout": 1.0}, "mlp_dropout must be a number from 0 up to but not including 1, got 1.0"),
        ({"drop_path": -0.1}, "drop_path must be a number from 0"),
        ({"perturbation": float("inf")}, "perturbation must be a finite number"),
        ({"layer_scale": -1.0}, "layer_scale must be a finite number"),
        ({"pool": "max"}, "unknown pool 'max'"),
        ({"qk_norm": "false"}, "qk_norm must be true or false, got 'false'"),
        ({"final_norm_eps": 0.0}, r"final_norm_eps must be above 0, got 0\.0"),
        ({"final_norm_eps": None}, "final_norm_eps must be above 0, got None"),
        ({"final_norm_eps": -1e-6}, "final_norm_eps must be a finite number"),
    ],
)
def test_refused_numbers(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        models.create("vit_s", **{"num_classes": 10, **options})


def test_refused_images(make_tiny: MakeTiny) -> None:
    model = make_tiny("vit")
    with pytest.raises(UsageError, match=r"with 3 channels, got float32\[2, 1, 8, 8\]"):
        model(torch.zeros(2, 1, 8, 8))
    with pytest.raises(UsageError, match=r"got float32\[3, 8, 8\]"):
        model(torch.zeros(3, 8, 8))
    with pytest.raises(UsageError, match=r"made for images of 8x8 pixels, got 12x12.*dynamic_image_size=True"):
        model(torch.zeros(2, 3, 12, 12))
