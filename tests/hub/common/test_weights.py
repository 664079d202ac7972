"""Weights of the Hugging Face models: how they begin, are kept, resized, tied and moved between devices."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForImageClassification

from hub.common import tiny
from orthostream import connections
from orthostream.hub import OrthoLlamaForCausalLM, OrthoViTForImageClassification

families = pytest.mark.parametrize("family", tiny.FAMILIES)
each_connection = pytest.mark.parametrize("name", connections.names())
AUTO = {"vit": AutoModelForImageClassification, "llama": AutoModelForCausalLM}
MODEL = {"vit": OrthoViTForImageClassification, "llama": OrthoLlamaForCausalLM}
# transformers takes zero for its default
NARROW = 1e-9
CONFIG = {"vit": tiny.vit_config, "llama": tiny.llama_config}


def answer(model: Any, family: str) -> torch.Tensor:
    with torch.no_grad():
        return model(**tiny.inputs_of(family)).logits


@families
@each_connection
def test_weights_begin_within_the_range_of_the_config(family: str, name: str) -> None:
    torch.manual_seed(0)
    model = MODEL[family](CONFIG[family](residual_connection=name, initializer_range=NARROW))
    for key, parameter in model.named_parameters():
        if "connection" not in key:
            first = 1.0 if "norm" in key and key.endswith("weight") else 0.0
            torch.testing.assert_close(
                parameter, torch.full_like(parameter, first), atol=10 * NARROW, rtol=0.0, msg=key
            )
    torch.manual_seed(0)
    wide = MODEL[family](CONFIG[family](residual_connection=name, initializer_range=0.3, hidden_size=64))
    drawn = [m.weight for m in wide.modules() if isinstance(m, nn.Linear) and m.weight.numel() > 2000]
    assert len(drawn) >= 8
    # the deviation of 2000 normal numbers is known to 1.6 %
    assert all(weight.std().item() == pytest.approx(0.3, rel=0.08) for weight in drawn)


@families
@each_connection
def test_a_model_filled_from_nothing_begins_as_one_that_is_made(family: str, name: str) -> None:
    # The order of drawing is another, so draws have no width here.
    config = CONFIG[family](residual_connection=name, initializer_range=NARROW)
    made = MODEL[family](config)
    filled = MODEL[family].from_pretrained(None, config=config, state_dict={}, strict=False)
    tensors = dict(filled.named_parameters()) | dict(filled.named_buffers())
    expected = dict(made.named_parameters()) | dict(made.named_buffers())
    assert tensors.keys() == expected.keys()
    for key, tensor in expected.items():
        torch.testing.assert_close(tensors[key], tensor, atol=20 * NARROW, rtol=0.0, msg=key)


@families
@each_connection
def test_files_of_half_precision_stay_so(family: str, name: str, tmp_path: Path) -> None:
    model = tiny.model_of(family, residual_connection=name).to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    again = AUTO[family].from_pretrained(tmp_path)
    before, after = dict(model.named_buffers()), dict(again.named_buffers())
    assert before.keys() == after.keys()
    for key, tensor in after.items():
        torch.testing.assert_close(tensor.float(), before[key].float(), atol=0.0, rtol=1e-2, msg=key)
    assert {parameter.dtype for parameter in again.parameters()} == {torch.bfloat16}
    wide = AUTO[family].from_pretrained(tmp_path, dtype=torch.float32)
    assert {parameter.dtype for parameter in wide.parameters()} == {torch.float32}
    half, full = answer(again, family), answer(wide, family)
    # eight bits of mantissa, two blocks
    torch.testing.assert_close(half.float(), full, atol=0.05 * full.abs().max().item(), rtol=0.0)


@families
@pytest.mark.parametrize("buffers", [False, True], ids=["weights", "weights_and_buffers"])
@each_connection
def test_blocks_kept_on_the_disk_change_nothing(family: str, name: str, buffers: bool, tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="device maps need accelerate")
    model = tiny.model_of(family, residual_connection=name)
    model.save_pretrained(tmp_path / "model", max_shard_size="20KB")
    assert len(list((tmp_path / "model").glob("*.safetensors"))) > 1
    whole = {"vit": ("vit.embeddings", "vit.layernorm", "classifier"), "llama": ("model.embed_tokens", "model.norm")}
    blocks = {"vit": "vit.encoder.layer", "llama": "model.layers"}[family]
    places = dict.fromkeys(whole[family], "cpu") | {f"{blocks}.0": "cpu", f"{blocks}.1": "disk"}
    if family == "llama":
        places |= {"model.rotary_emb": "cpu", "lm_head": "disk"}
    moved = AUTO[family].from_pretrained(
        tmp_path / "model", device_map=places, offload_folder=tmp_path / "disk", offload_buffers=buffers
    )
    on_disk = [key for key, parameter in moved.named_parameters() if parameter.device.type == "meta"]
    assert any(key.startswith(f"{blocks}.1.") for key in on_disk)
    # twice, because what was fetched is put away again
    for _ in range(2):
        assert torch.equal(answer(moved, family), answer(model, family))
        assert on_disk == [key for key, parameter in moved.named_parameters() if parameter.device.type == "meta"]


@families
@each_connection
def test_weights_fetched_from_memory_change_nothing(family: str, name: str) -> None:
    accelerate = pytest.importorskip("accelerate", reason="weights are offloaded by accelerate")
    model = tiny.model_of(family, residual_connection=name)
    expected = answer(model, family)
    moved = accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
    for _ in range(2):
        assert all(parameter.device.type == "meta" for parameter in moved.parameters())
        assert torch.equal(answer(moved, family), expected)


def test_a_device_map_keeps_blocks_whole() -> None:
    accelerate = pytest.importorskip("accelerate", reason="device maps need accelerate")
    for family, blocks in (("vit", "vit.encoder.layer"), ("llama", "model.layers")):
        model = tiny.model_of(family, num_hidden_layers=4)
        size = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
        places = accelerate.infer_auto_device_map(
            model,
            {0: size // 2, "cpu": size * 2},
            no_split_module_classes=list(model._no_split_modules),
            offload_buffers=True,
        )
        assert len(set(places.values())) > 1, family
        assert not [key for key in places if key.startswith(blocks) and key.count(".") > blocks.count(".") + 1], places


@pytest.mark.parametrize("tied", [True, False])
def test_more_and_fewer_words(tied: bool, tmp_path: Path) -> None:
    model = tiny.model_of("llama", tie_word_embeddings=tied)
    ids, before = tiny.tokens(), answer(model, "llama")
    torch.manual_seed(1)
    model.resize_token_embeddings(tiny.WORDS + 7)
    assert model.config.vocab_size == tiny.WORDS + 7
    after = answer(model, "llama")
    assert after.shape[-1] == tiny.WORDS + 7
    assert torch.equal(after[..., : tiny.WORDS], before)
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied
    assert model(torch.full((1, 2), tiny.WORDS + 6)).logits.isfinite().all()
    model.save_pretrained(tmp_path)
    again = OrthoLlamaForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(again(ids).logits, after)
    again.resize_token_embeddings(tiny.WORDS)
    assert torch.equal(again(ids).logits, before)


def test_tied_weights_stay_tied_on_the_meta_device_and_in_training(tmp_path: Path) -> None:
    model = tiny.model_of("llama", tie_word_embeddings=True)
    model.save_pretrained(tmp_path)
    again = OrthoLlamaForCausalLM.from_pretrained(tmp_path, device_map={"": "cpu"}).train()
    assert again.lm_head.weight is again.model.embed_tokens.weight
    optimizer = torch.optim.SGD(again.parameters(), lr=0.1)
    again(tiny.tokens(), labels=tiny.tokens()).loss.backward()
    optimizer.step()
    assert torch.equal(again.lm_head.weight, again.model.embed_tokens.weight)
    assert not torch.equal(again.lm_head.weight, model.lm_head.weight)


def test_embeddings_and_heads_are_found() -> None:
    vit, llama = tiny.model_of("vit"), tiny.model_of("llama")
    assert vit.get_input_embeddings() is vit.vit.embeddings.patch_embeddings
    assert llama.get_input_embeddings() is llama.model.embed_tokens
    assert llama.get_output_embeddings() is llama.lm_head
    table = nn.Embedding(tiny.WORDS, 32)
    llama.set_input_embeddings(table)
    assert llama.model.embed_tokens is table
    for model in (vit, llama):
        assert model.base_model is getattr(model, model.base_model_prefix)


@families
def test_every_weight_in_a_file_is_contiguous_and_named_once(family: str, tmp_path: Path) -> None:
    model = tiny.model_of(family)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.data = parameter.data.t().contiguous().t()
    model.save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        keys = set(file.keys())
    assert keys == set(model.state_dict())
    # sums over a transposed matrix run in another order
    again = answer(AUTO[family].from_pretrained(tmp_path), family)
    torch.testing.assert_close(again, answer(model, family), atol=1e-5, rtol=1e-5)


def test_plans_of_tensor_parallelism_name_weights_that_exist() -> None:
    model = tiny.model_of("llama")
    modules = [name for name, _ in model.named_modules()]
    plan = model.tp_plan
    assert any("self_attn.q_proj" in pattern for pattern in plan) and "lm_head" in plan
    for pattern in plan:
        parts = pattern.split(".")
        found = [
            name
            for name in modules
            if len(name.split(".")) == len(parts)
            and all(p == "*" or p == n for p, n in zip(parts, name.split("."), strict=True))
        ]
        assert found, f"{pattern} names no module"
