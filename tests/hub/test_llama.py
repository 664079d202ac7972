"""OrthoLlama: the saved models of the authors, the cache, and that no token sees a later one."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import LlamaForCausalLM, pipeline

import golden
from locations import GOLDEN
from orthostream import analysis, connections
from orthostream.errors import UsageError
from orthostream.hub import OrthoLlamaConfig, OrthoLlamaForCausalLM, OrthoLlamaModel

FOLDER = GOLDEN / "ortho" / "hf_llama"
CASES = ("linear", "feature", "global")


def make(**changes: Any) -> OrthoLlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "residual_connection": "orthogonal"}
    # A wide initialisation, so that the blocks do more than nothing.
    return OrthoLlamaForCausalLM(OrthoLlamaConfig(**{"initializer_range": 0.2} | sizes | heads | changes)).eval()


def saved(case: str, **options: Any) -> OrthoLlamaForCausalLM:
    return OrthoLlamaForCausalLM.from_pretrained(FOLDER / case, **options)


def tokens(*shape: int) -> Tensor:
    return torch.randint(3, 32, shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("case", CASES)
def test_golden(case: str, attention: str) -> None:
    tensors, _ = golden.load("ortho/hf_llama/io")
    model = saved(case, attn_implementation=attention)
    ids, mask = tensors["input_ids"], tensors["attention_mask"]
    with torch.no_grad():
        outputs = model(ids, labels=ids)
        masked = model(ids, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0)).logits
    golden.compare(outputs.logits, tensors[f"{case}.logits"], atol=5e-5, rtol=0.0, what=f"{case}.logits")
    golden.compare(outputs.loss.reshape(1), tensors[f"{case}.loss"], atol=5e-5, rtol=0.0, what=f"{case}.loss")
    where = mask.bool()[..., None].expand_as(masked)
    golden.compare(masked, tensors[f"{case}.masked_logits"], atol=5e-5, rtol=0.0, what="masked", where=where)


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_golden_greedy(case: str, use_cache: bool) -> None:
    tensors, _ = golden.load("ortho/hf_llama/io")
    ids = saved(case).generate(
        tensors["input_ids"][:1], max_new_tokens=6, do_sample=False, use_cache=use_cache, eos_token_id=None
    )
    assert torch.equal(ids, tensors[f"{case}.greedy_ids"])


def test_linear_is_the_librarys_own_llama() -> None:
    ids = tokens(2, 9)
    assert torch.equal(saved("linear")(ids).logits, LlamaForCausalLM.from_pretrained(FOLDER / "linear")(ids).logits)
    assert not torch.allclose(saved("feature")(ids).logits, saved("linear")(ids).logits, atol=1e-2)


@pytest.mark.parametrize("name", connections.names())
def test_no_token_sees_a_later_one_and_the_cache_changes_nothing(name: str) -> None:
    model = make(residual_connection=name)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        ids = tokens(2, 8)
        changed = ids.clone()
        changed[:, -1] = (changed[:, -1] + 1) % 32
        logits, other = model(ids).logits, model(changed).logits
        torch.testing.assert_close(other[:, :-1], logits[:, :-1], atol=1e-5, rtol=0.0)
        assert (other[:, -1] - logits[:, -1]).abs().max() > 0.01
        first = model(ids[:, :5], use_cache=True)
        rest = model(ids[:, 5:], past_key_values=first.past_key_values, use_cache=True)
    torch.testing.assert_close(torch.cat([first.logits, rest.logits], 1), logits, atol=1e-5, rtol=0.0)


@pytest.mark.parametrize(
    "changes",
    [
        {"orthogonal_method": "global", "residual_connection_dim": 1},
        {"orthogonal_method": "global", "residual_connection_dim": -2},
        {"orthogonal_method": "feature", "residual_connection_dim": 1},
        {"residual_connection": "rescale_stream", "residual_options": {"dim": [1, 2]}},
    ],
)
def test_projections_over_tokens_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="later tokens"):
        make(**changes)


@pytest.mark.parametrize("dim", [-1, 2])
@pytest.mark.parametrize("method", ["feature", "global"])
def test_all_spellings_of_the_features_agree(method: str, dim: int) -> None:
    ids = tokens(1, 6)
    got = make(orthogonal_method=method, residual_connection_dim=dim)(ids).logits
    assert torch.equal(got, make()(ids).logits)


def test_tied_embeddings_are_stored_once(tmp_path: Path) -> None:
    model = make(tie_word_embeddings=True)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    model.save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert "lm_head.weight" not in file.keys()  # noqa: SIM118 - no mapping
    again = OrthoLlamaForCausalLM.from_pretrained(tmp_path)
    assert again.lm_head.weight is again.model.embed_tokens.weight
    assert torch.equal(again(tokens(1, 6)).logits, model(tokens(1, 6)).logits)


def test_left_padding_changes_no_continuation() -> None:
    model = make(pad_token_id=0, max_position_embeddings=64)
    ids = tokens(1, 6)
    padded = torch.cat([torch.zeros(1, 3, dtype=torch.long), ids], 1)
    mask = (torch.arange(9) >= 3).long()[None]
    options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None}
    plain = model.generate(ids, **options)[:, 6:]
    assert torch.equal(model.generate(padded, attention_mask=mask, **options)[:, 9:], plain)
    beams = model.generate(ids, num_beams=3, **options)
    assert torch.equal(beams, model.generate(ids, num_beams=3, use_cache=False, **options))


def test_hidden_states_and_attention_weights() -> None:
    model = make(attn_implementation="eager")
    outputs = model(tokens(2, 7), output_hidden_states=True, output_attentions=True)
    assert [tuple(each.shape) for each in outputs.hidden_states] == [(2, 7, 16)] * 3
    assert [tuple(each.shape) for each in outputs.attentions] == [(2, 4, 7, 7)] * 2
    assert torch.equal(outputs.hidden_states[0], model.get_input_embeddings()(tokens(2, 7)))
    with pytest.raises(UsageError, match="set_attn_implementation"):
        make(attn_implementation="sdpa")(tokens(1, 4), output_attentions=True)


def test_gradient_checkpointing_keeps_the_gradients() -> None:
    model = make().train()
    checkpointed = copy.deepcopy(model)
    checkpointed.gradient_checkpointing_enable()
    for each in (model, checkpointed):
        each(tokens(2, 8), labels=tokens(2, 8)).loss.backward()
    for (key, first), second in zip(model.named_parameters(), checkpointed.parameters(), strict=True):
        assert torch.equal(first.grad, second.grad), key
        assert first.grad.abs().sum() > 0, key


def test_rope_of_old_and_new_configs() -> None:
    assert saved("feature").config.rope_parameters["rope_theta"] == 10000.0
    config = OrthoLlamaConfig(rope_theta=5e5, rope_scaling=None, torch_dtype="bfloat16")
    assert config.rope_parameters["rope_theta"] == 5e5 and config.dtype == torch.bfloat16


def test_model_without_a_head() -> None:
    bare = OrthoLlamaModel.from_pretrained(FOLDER / "feature")
    whole = saved("feature")
    ids = tokens(2, 6)
    assert torch.equal(whole.lm_head(bare(ids).last_hidden_state), whole(ids).logits)


def test_recordings_listen() -> None:
    model = saved("feature")
    with analysis.record(model) as recording, torch.no_grad():
        model(tokens(1, 5))
    assert len(recording.table()) == 2 * model.config.num_hidden_layers


def test_a_compiled_model_agrees() -> None:
    model, ids = saved("feature"), tokens(2, 6)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        got = compiled(ids, use_cache=False).logits
        torch.testing.assert_close(got, model(ids, use_cache=False).logits, atol=1e-5, rtol=0.0)


def test_autocast_agrees_to_half_precision() -> None:
    model, ids = make(), tokens(2, 6)
    with torch.no_grad():
        wide = model(ids).logits
        with torch.autocast("cpu", torch.bfloat16):
            half = model(ids).logits
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), wide, atol=0.04 * wide.abs().max().item(), rtol=0.0)


def test_pipeline_generates(tmp_path: Path) -> None:
    # The folder names no class of a tokenizer: the one that the model type is registered with reads it.
    words = {f"w{index}": index for index in range(32)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    model = make()
    model.save_pretrained(tmp_path)
    options = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None}
    told = pipeline("text-generation", model=str(tmp_path), device="cpu")("w3 w5 w9", **options)[0]["generated_text"]
    expected = model.generate(torch.tensor([[3, 5, 9]]), **options)[0]
    # this tokenizer has no decoder, which would know where words end
    assert told.replace(" ", "") == "".join(f"w{index}" for index in expected)
