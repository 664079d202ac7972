"""Saving and loading: bit-equal, by the Auto classes, and never with a weight that no file gave."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
)

from locations import GOLDEN
from orthostream.connections import Connection
from orthostream.errors import UsageError
from orthostream.hub import (
    OrthoLlamaConfig,
    OrthoLlamaForCausalLM,
    OrthoLlamaModel,
    OrthoViTConfig,
    OrthoViTForImageClassification,
    OrthoViTModel,
)

VIT, LLAMA = GOLDEN / "ortho" / "hf_vit", GOLDEN / "ortho" / "hf_llama"
FOLDERS = [*(VIT / case for case in ("linear", "feature", "feature_affine_gelu")), LLAMA / "feature"]

IN_A_FRESH_PROCESS = """
import sys, torch, orthostream.hub
from transformers import AutoModelForImageClassification, AutoModelForCausalLM
auto = AutoModelForImageClassification if sys.argv[1] == "vit" else AutoModelForCausalLM
# The config names code of the repository; it is absent, and would not be run.
model = auto.from_pretrained(sys.argv[2], trust_remote_code=True)
torch.save(model(torch.load(sys.argv[3], weights_only=True)).logits, sys.argv[4])
print(type(model).__module__)
"""


def load(folder: Path, **options: Any) -> Any:
    return (OrthoViTForImageClassification if folder.parent == VIT else OrthoLlamaForCausalLM).from_pretrained(
        folder, **options
    )


def given(folder: Path) -> Tensor:
    tensors = load_file(folder.parent / "io.safetensors")
    return tensors["pixel_values"] if folder.parent == VIT else tensors["input_ids"]


def edited(source: Path, target: Path, *, config: dict[str, Any] | None = None, **weights: Tensor | None) -> Path:
    """A copy of a saved model with keys of its config changed, and weights changed or (``None``) removed."""
    shutil.copytree(source, target)
    state = load_file(target / "model.safetensors")
    changed = {key: state.get(key) if key not in weights else weights[key] for key in state | weights}
    save_file({key: value for key, value in changed.items() if value is not None}, target / "model.safetensors")
    keys = json.loads((target / "config.json").read_text()) | (config or {})
    (target / "config.json").write_text(json.dumps(keys))
    return target


@pytest.mark.parametrize(
    ("stand_in", "words"),
    [
        ("None", "MissingExtraError: transformers is not installed.*orthostream\\[hub\\]"),
        ("types.SimpleNamespace(__version__='4.57.1')", "UsageError: .*needs transformers 5 or newer, found 4.57.1"),
    ],
)
def test_transformers_missing_or_too_old_is_said(stand_in: str, words: str) -> None:
    program = f"import sys, types; sys.modules['transformers'] = {stand_in}; import orthostream; import orthostream.hub"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert re.search(words, done.stderr), done.stderr


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: f"{folder.parent.name}-{folder.name}")
def test_round_trip_is_bit_equal(folder: Path, tmp_path: Path) -> None:
    model = load(folder)
    model.save_pretrained(tmp_path / "again")
    before, after = load_file(folder / "model.safetensors"), load_file(tmp_path / "again" / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    again = type(model).from_pretrained(tmp_path / "again")
    assert torch.equal(again(given(folder)).logits, model(given(folder)).logits)
    assert "auto_map" not in json.loads((tmp_path / "again" / "config.json").read_text())


@pytest.mark.parametrize("folder", [VIT / "feature", LLAMA / "feature"], ids=["vit", "llama"])
def test_auto_classes_in_a_fresh_process(folder: Path, tmp_path: Path) -> None:
    kind = "vit" if folder.parent == VIT else "llama"
    torch.save(given(folder), tmp_path / "input.pt")
    arguments = [kind, str(folder), str(tmp_path / "input.pt"), str(tmp_path / "logits.pt")]
    done = subprocess.run(
        [sys.executable, "-c", IN_A_FRESH_PROCESS, *arguments],
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"orthostream.hub.{kind}"
    assert torch.equal(torch.load(tmp_path / "logits.pt", weights_only=True), load(folder)(given(folder)).logits)


def test_auto_classes_know_the_models() -> None:
    assert isinstance(AutoConfig.from_pretrained(VIT / "feature"), OrthoViTConfig)
    assert isinstance(AutoConfig.from_pretrained(LLAMA / "feature"), OrthoLlamaConfig)
    assert isinstance(AutoModel.from_pretrained(VIT / "feature", add_pooling_layer=False), OrthoViTModel)
    assert isinstance(AutoModel.from_pretrained(LLAMA / "feature"), OrthoLlamaModel)
    assert isinstance(AutoModelForImageClassification.from_pretrained(VIT / "feature"), OrthoViTForImageClassification)
    assert isinstance(AutoModelForCausalLM.from_pretrained(LLAMA / "feature"), OrthoLlamaForCausalLM)


def test_a_preprocessor_without_a_class_is_that_of_vit(tmp_path: Path) -> None:
    folder = edited(VIT / "feature", tmp_path / "named")
    (folder / "preprocessor_config.json").write_text(json.dumps({"size": {"height": 16, "width": 16}}))
    assert type(AutoImageProcessor.from_pretrained(folder)).__name__ == "ViTImageProcessor"


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: f"{folder.parent.name}-{folder.name}")
def test_no_memory_is_left_without_a_value(folder: Path, poisoned: None) -> None:
    # The published code kept eps in a buffer that no file holds; filled from the meta device it was never set.
    model = load(folder)
    for key, tensor in [*model.named_parameters(), *model.named_buffers()]:
        assert not tensor.is_meta and tensor.isfinite().all(), key
    for module in model.modules():
        if isinstance(module, Connection):
            assert all(buffer.dtype == torch.float32 and buffer == 1 for buffer in module.buffers())
    assert model(given(folder)).logits.isfinite().all()


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: f"{folder.parent.name}-{folder.name}")
def test_half_precision(folder: Path) -> None:
    model = load(folder, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    logits, wide = model(given(folder)).logits, load(folder)(given(folder)).logits
    assert logits.dtype == torch.bfloat16
    # bfloat16 has 8 bits: a few roundings of 2**-8 of the largest value.
    torch.testing.assert_close(logits.float(), wide, atol=0.04 * wide.abs().max().item(), rtol=0.0)
    for module in model.modules():
        if isinstance(module, Connection):
            assert all(buffer.dtype == torch.float32 for buffer in module.buffers())


def test_the_old_name_of_the_dtype(tmp_path: Path) -> None:
    folder = edited(VIT / "feature", tmp_path / "half", config={"torch_dtype": "bfloat16"})
    assert OrthoViTForImageClassification.from_pretrained(folder).dtype == torch.bfloat16


def test_device_map() -> None:
    pytest.importorskip("accelerate", reason="device_map needs accelerate")
    for folder in (VIT / "feature", LLAMA / "feature"):
        mapped = load(folder, device_map="auto")
        assert torch.equal(mapped(given(folder)).logits, load(folder)(given(folder)).logits)


def test_old_spellings_compute_the_same(tmp_path: Path) -> None:
    folder = edited(VIT / "feature", tmp_path / "old", config={"orthogonal_method": "channel"})
    images = given(VIT / "feature")
    old = OrthoViTForImageClassification.from_pretrained(folder)
    assert torch.equal(old(images).logits, load(VIT / "feature")(images).logits)
    folder = edited(VIT / "linear", tmp_path / "identity", config={"residual_connection": "identity"})
    old = OrthoViTForImageClassification.from_pretrained(folder)
    assert torch.equal(old(images).logits, load(VIT / "linear")(images).logits)


def test_a_missing_weight_is_named(tmp_path: Path) -> None:
    key = "vit.encoder.layer.1.attention.attention.query.weight"
    folder = edited(VIT / "feature", tmp_path / "model", **{key: None})
    with pytest.raises(UsageError, match=f"missing in the file: {key}"):
        OrthoViTForImageClassification.from_pretrained(folder)
    with pytest.raises(UsageError, match=key):
        AutoModelForImageClassification.from_pretrained(folder)
    _, info = OrthoViTForImageClassification.from_pretrained(folder, strict=False, output_loading_info=True)
    assert info["missing_keys"] == {key}


@pytest.mark.parametrize("key", ["vit.encoder.layer.7.output.dense.bias", "classifier.scale", "vit.pooler.dense.bias"])
def test_an_unexpected_weight_is_named(key: str, tmp_path: Path) -> None:
    folder = edited(VIT / "feature", tmp_path / "model", **{key: torch.zeros(24)})
    with pytest.raises(UsageError, match=f"not known to the model: {key}"):
        OrthoViTForImageClassification.from_pretrained(folder)


def test_an_unexpected_weight_of_llama_is_named(tmp_path: Path) -> None:
    folder = edited(LLAMA / "feature", tmp_path / "model", **{"lm_head.bias": torch.zeros(48)})
    with pytest.raises(UsageError, match=r"lm_head\.bias"):
        OrthoLlamaForCausalLM.from_pretrained(folder)


def test_norms_that_the_config_has_and_the_file_has_not(tmp_path: Path) -> None:
    folder = edited(VIT / "feature", tmp_path / "model", config={"elementwise_affine_ln": True})
    with pytest.raises(UsageError, match=r"layernorm_before\.weight"):
        OrthoViTForImageClassification.from_pretrained(folder)


def test_another_number_of_labels_must_be_asked_for() -> None:
    with pytest.raises(UsageError, match=r"classifier\.weight \(\[5, 24\], the model has \[7, 24\]\)"):
        OrthoViTForImageClassification.from_pretrained(VIT / "feature", num_labels=7)
    model = OrthoViTForImageClassification.from_pretrained(VIT / "feature", num_labels=7, ignore_mismatched_sizes=True)
    stored = load_file(VIT / "feature" / "model.safetensors")
    assert model.classifier.weight.shape == (7, 24) and model.classifier.weight.isfinite().all()
    assert torch.equal(model.vit.embeddings.cls_token, stored["vit.embeddings.cls_token"])


def test_shapes_alone_are_freed_by_ignoring_sizes(tmp_path: Path) -> None:
    folder = edited(VIT / "feature", tmp_path / "model", **{"classifier.bias": None})
    with pytest.raises(UsageError, match=r"classifier\.bias"):
        OrthoViTForImageClassification.from_pretrained(folder, ignore_mismatched_sizes=True)


def test_a_trunk_out_of_a_classifier(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"pooler\.dense\.bias.*add_pooling_layer=False"):
        OrthoViTModel.from_pretrained(VIT / "feature")
    trunk = OrthoViTModel.from_pretrained(VIT / "feature", add_pooling_layer=False)
    whole = load(VIT / "feature")
    images = given(VIT / "feature")
    assert torch.equal(whole.classifier(trunk(images).last_hidden_state[:, 0]), whole(images).logits)
    trunk.save_pretrained(tmp_path)
    with pytest.raises(UsageError, match=r"classifier\.bias"):
        OrthoViTForImageClassification.from_pretrained(tmp_path)
