"""The block writes and reads in one step: its numbers are those of the verbs one by one."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from orthostream import models
from orthostream.models.vit_block import Block
from orthostream.ops import forced
from orthostream.shapes import Stream

MakeTiny = Callable[..., models.ViT]

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def verbs_one_by_one(self: Block, stream: Stream) -> Stream:
    x, note = self.attn_connection.read(stream, self.norm1)
    stream = self.attn_connection.write(stream, self.attn_update(self.attn(x)), note)
    x, note = self.mlp_connection.read(stream, self.norm2)
    return self.mlp_connection.write(stream, self.mlp_update(self.mlp(x)), note)


def numbers(model: models.ViT, images: Tensor, amp: torch.dtype | None) -> dict[str, Tensor]:
    model.zero_grad()
    torch.manual_seed(2)
    with torch.autocast(images.device.type, amp, enabled=amp is not None):
        logits = model(images)
    logits.float().square().sum().backward()
    return {"logits": logits.detach()} | {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("amp", [None, torch.bfloat16], ids=["float32", "autocast"])
@pytest.mark.parametrize("options", [{}, {"affine_norm": True, "layer_scale": 0.5, "drop_path": 0.3}], ids=["", "more"])
@pytest.mark.parametrize("connection", ["linear", "orthogonal", "rezero", "hyper_connections"])
def test_the_numbers_are_those_of_the_verbs_bit_for_bit(
    make_tiny: MakeTiny,
    images: Tensor,
    monkeypatch: pytest.MonkeyPatch,
    connection: str,
    options: dict[str, Any],
    amp: torch.dtype | None,
) -> None:
    model = make_tiny("vit", connection, **options)
    found = numbers(model, images, amp)
    monkeypatch.setattr(Block, "forward", verbs_one_by_one)
    expected = numbers(model, images, amp)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize("amp", [None, torch.bfloat16], ids=["float32", "autocast"])
@pytest.mark.parametrize("affine_norm", [False, True])
def test_kernels_give_the_numbers_of_the_verbs(
    make_tiny: MakeTiny, images: Tensor, monkeypatch: pytest.MonkeyPatch, affine_norm: bool, amp: torch.dtype | None
) -> None:
    model, images = make_tiny("vit", "orthogonal", affine_norm=affine_norm).to(DEVICE), images.to(DEVICE)
    with forced("triton"):
        found = numbers(model, images, amp)
    monkeypatch.setattr(Block, "forward", verbs_one_by_one)
    expected = numbers(model, images, amp)
    for name, value in expected.items():
        size = value.float().abs().max().item()
        # float32 sums in another order; under autocast a few roundings to bfloat16, which the interpreter cuts off
        tolerance = 1e-4 if amp is None else 5e-2
        torch.testing.assert_close(found[name], value, rtol=0, atol=tolerance * size, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("connection", ["orthogonal", "hyper_connections"])
def test_blocks_compile_to_one_graph_under_autocast(make_tiny: MakeTiny, images: Tensor, connection: str) -> None:
    torch._dynamo.reset()
    model, count = make_tiny("vit", connection, depth=3), CompileCounterWithBackend("aot_eager")
    plain = numbers(model, images, torch.bfloat16)
    for block in model.blocks:
        block.compile(backend=count, fullgraph=True)
    for _ in range(2):
        compiled = numbers(model, images, torch.bfloat16)
    # hyper connections differ in their parameters from site to site, not in their graph
    assert count.frame_count == 1
    torch.testing.assert_close(compiled["logits"], plain["logits"], rtol=2e-2, atol=2e-2)


def test_autocast_hands_the_mlp_what_its_linear_layer_takes(make_tiny: MakeTiny, images: Tensor) -> None:
    model, seen = make_tiny("vit", "orthogonal"), []
    model.blocks[0].mlp.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].dtype))
    for amp in (None, torch.bfloat16):
        numbers(model, images, amp)
    numbers(model.double(), images.double(), torch.bfloat16)
    assert seen == [torch.float32, torch.bfloat16, torch.float64]
