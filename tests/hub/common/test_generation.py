"""Generation with OrthoLlama: every way of decoding that promises the words of plain greedy search keeps it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import DynamicCache, GenerationConfig

from hub.common import tiny
from orthostream import connections
from orthostream.hub import OrthoLlamaForCausalLM

each_connection = pytest.mark.parametrize("name", connections.names())
GREEDY = {"max_new_tokens": 10, "do_sample": False, "eos_token_id": None}


def generate(model: Any, ids: torch.Tensor, **options: Any) -> torch.Tensor:
    return model.generate(ids, **{"attention_mask": torch.ones_like(ids)} | GREEDY | options)


@each_connection
@pytest.mark.parametrize("cache", ["static", "dynamic"])
def test_no_kind_of_cache_changes_a_word(name: str, cache: str) -> None:
    model = tiny.model_of("llama", residual_connection=name)
    ids = tiny.tokens(2)
    plain = generate(model, ids, use_cache=False)
    assert plain.shape == (2, tiny.TOKENS + 10)
    assert len(plain[:, tiny.TOKENS :].unique()) > 5
    assert torch.equal(generate(model, ids, cache_implementation=cache), plain)


@each_connection
def test_a_static_cache_gives_the_logits_of_one_pass(name: str) -> None:
    model = tiny.model_of("llama", residual_connection=name)
    ids = tiny.tokens(2)
    found = generate(
        model, ids, cache_implementation="static", return_dict_in_generate=True, output_logits=True, max_new_tokens=5
    )
    with torch.no_grad():
        whole = model(found.sequences).logits[:, tiny.TOKENS - 1 : -1]
    torch.testing.assert_close(torch.stack(found.logits, 1), whole, atol=1e-4, rtol=1e-4)


@each_connection
def test_an_assistant_changes_no_word(name: str) -> None:
    model = tiny.model_of("llama", residual_connection=name)
    ids = tiny.tokens(1)
    plain = generate(model, ids)
    stranger = tiny.model_of("llama", seed=5, num_hidden_layers=1)
    assert torch.equal(generate(model, ids, assistant_model=stranger), plain)
    assert torch.equal(generate(model, ids, assistant_model=tiny.model_of("llama", residual_connection=name)), plain)
    assert torch.equal(generate(model, ids, prompt_lookup_num_tokens=2), plain)


def test_beams_are_the_same_with_every_cache_and_one_beam_is_greedy() -> None:
    model, ids = tiny.model_of("llama"), tiny.tokens(2)
    beams = generate(model, ids, num_beams=4, num_return_sequences=3, use_cache=False)
    assert beams.shape[0] == 6
    assert torch.equal(generate(model, ids, num_beams=4, num_return_sequences=3), beams)
    assert torch.equal(generate(model, ids, num_beams=4, num_return_sequences=3, cache_implementation="static"), beams)
    assert torch.equal(generate(model, ids, num_beams=1), generate(model, ids))

    def likelihood(sequences: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            logs = model(sequences).logits.log_softmax(-1)[:, tiny.TOKENS - 1 : -1]
        return logs.gather(-1, sequences[:, tiny.TOKENS :, None]).sum((1, 2))

    best = likelihood(beams[::3])
    assert (best >= likelihood(beams[1::3]) - 1e-4).all() and (best >= likelihood(beams[2::3]) - 1e-4).all()


def test_drawn_words_are_the_same_with_and_without_a_cache() -> None:
    model, ids = tiny.model_of("llama"), tiny.tokens(2)
    options = {"do_sample": True, "top_p": 0.9, "top_k": 20, "temperature": 0.8}
    found = []
    for more in ({}, {"use_cache": False}, {"cache_implementation": "static"}):
        torch.manual_seed(4)
        found.append(generate(model, ids, **options, **more))
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])
    torch.manual_seed(5)
    assert not torch.equal(generate(model, ids, **options), found[0])


@pytest.mark.parametrize("cache", ["static", "dynamic"])
def test_texts_of_several_lengths_in_a_padded_batch(cache: str) -> None:
    model = tiny.model_of("llama")
    texts = [tiny.tokens(1, length, seed=length)[0] for length in (3, 6, 9)]
    padded = torch.zeros(3, 9, dtype=torch.long)
    for row, text in enumerate(texts):
        padded[row, 9 - len(text) :] = text
    found = generate(model, padded, attention_mask=(padded != 0).long(), cache_implementation=cache)
    for row, text in enumerate(texts):
        assert torch.equal(found[row, 9:], generate(model, text[None])[0, len(text) :])


def test_generation_from_embeddings() -> None:
    model, ids = tiny.model_of("llama"), tiny.tokens(2)
    given = model.get_input_embeddings()(ids).detach()
    found = model.generate(inputs_embeds=given, attention_mask=torch.ones_like(ids), **GREEDY)
    assert torch.equal(found, generate(model, ids)[:, tiny.TOKENS :])


def test_a_conversation_goes_on_from_its_cache() -> None:
    model, ids = tiny.model_of("llama"), tiny.tokens(1)
    first = generate(model, ids, max_new_tokens=4, return_dict_in_generate=True)
    assert isinstance(first.past_key_values, DynamicCache)
    longer = torch.cat([first.sequences, tiny.tokens(1, 3, seed=8)], 1)
    assert torch.equal(generate(model, longer, past_key_values=first.past_key_values), generate(model, longer))


def test_what_generation_returns_on_the_way() -> None:
    model, ids = tiny.model_of("llama", attn_implementation="eager"), tiny.tokens(2)
    asked = {"output_hidden_states": True, "output_attentions": True, "output_scores": True}
    found = generate(model, ids, return_dict_in_generate=True, max_new_tokens=3, **asked)
    assert len(found.scores) == len(found.hidden_states) == len(found.attentions) == 3
    assert [tuple(step[-1].shape) for step in found.hidden_states] == [(2, tiny.TOKENS, 32), (2, 1, 32), (2, 1, 32)]
    assert [tuple(step[-1].shape) for step in found.attentions] == [
        (2, 4, queries, tiny.TOKENS + step) for step, queries in enumerate((tiny.TOKENS, 1, 1))
    ]
    assert torch.equal(torch.stack(found.scores, 1).argmax(-1), found.sequences[:, tiny.TOKENS :])


def test_an_end_stops_and_its_config_is_kept(tmp_path: Path) -> None:
    model, ids = tiny.model_of("llama"), tiny.tokens(1)
    plain = generate(model, ids)[0, tiny.TOKENS :]
    model.generation_config = GenerationConfig(max_new_tokens=10, do_sample=False, eos_token_id=plain[3].item())
    model.save_pretrained(tmp_path)
    again = OrthoLlamaForCausalLM.from_pretrained(tmp_path)
    assert again.generation_config.eos_token_id == plain[3].item()
    stop = plain.tolist().index(plain[3].item()) + 1
    assert torch.equal(again.generate(ids, pad_token_id=0)[0, tiny.TOKENS :], plain[:stop])
