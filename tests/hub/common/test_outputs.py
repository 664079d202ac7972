"""What the Hugging Face models return: the same whatever the batch, the implementation, the mask's type, the export."""

import copy
from typing import Any

import pytest
import torch
from torch.nn import functional

from hub.common import tiny
from orthostream import connections

families = pytest.mark.parametrize("family", tiny.FAMILIES)
each_connection = pytest.mark.parametrize("name", connections.names())
# Two blocks in float32, with sums in another order.
ROUNDING = {"atol": 1e-4, "rtol": 1e-4}


def gradients(model: Any, **inputs: Any) -> dict[str, torch.Tensor]:
    model(**inputs).loss.backward()
    return {key: parameter.grad for key, parameter in model.named_parameters() if parameter.grad is not None}


@families
@each_connection
def test_a_sample_does_not_see_its_neighbours(family: str, name: str) -> None:
    model = tiny.model_of(family, residual_connection=name)
    inputs = tiny.inputs_of(family)
    with torch.no_grad():
        together = model(**inputs).logits
        for row in range(tiny.BATCH):
            alone = model(**{key: value[row : row + 1] for key, value in inputs.items()}).logits
            torch.testing.assert_close(together[row : row + 1], alone, **ROUNDING)


@families
@each_connection
def test_gradients_reach_all_that_is_returned_on_the_way(family: str, name: str) -> None:
    model = tiny.model_of(family, residual_connection=name, attn_implementation="eager")
    outputs = model(**tiny.inputs_of(family), output_hidden_states=True, output_attentions=True)
    on_the_way = [*outputs.hidden_states[:-1], *outputs.attentions]
    assert len(on_the_way) == 4
    for tensor in on_the_way:
        tensor.retain_grad()
    outputs.logits.square().sum().backward()
    for tensor in on_the_way:
        assert tensor.grad is not None and tensor.grad.shape == tensor.shape and tensor.grad.abs().sum() > 0


@families
@each_connection
def test_a_tuple_holds_what_the_named_output_holds(family: str, name: str) -> None:
    model = tiny.model_of(family, residual_connection=name, attn_implementation="eager")
    asked = {"output_hidden_states": True, "output_attentions": True, "labels": tiny.labels_of(family)}
    if family == "llama":
        asked["use_cache"] = False
    with torch.no_grad():
        named = model(**tiny.inputs_of(family), **asked)
        plain = model(**tiny.inputs_of(family), **asked, return_dict=False)
    assert list(named) == ["loss", "logits", "hidden_states", "attentions"]
    assert len(plain) == len(named.to_tuple()) == 4
    for first, second in zip(plain, named.to_tuple(), strict=True):
        if isinstance(first, torch.Tensor):
            assert torch.equal(first, second)
        else:
            assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_config_may_ask_for_tuples() -> None:
    model = tiny.model_of("vit")
    with torch.no_grad():
        expected = model(**tiny.inputs_of("vit")).logits
        model.config.return_dict = False
        (logits,) = model(**tiny.inputs_of("vit"))
        assert torch.equal(logits, expected)
        assert torch.equal(model(**tiny.inputs_of("vit"), return_dict=True).logits, expected)


@families
@each_connection
def test_fused_attention_has_the_logits_and_the_gradients_of_eager_attention(family: str, name: str) -> None:
    eager = tiny.model_of(family, residual_connection=name, attn_implementation="eager")
    fused = copy.deepcopy(eager)
    fused.set_attn_implementation("sdpa")
    inputs = tiny.inputs_of(family) | {"labels": tiny.labels_of(family)}
    if family == "llama":
        inputs["attention_mask"] = (torch.arange(tiny.TOKENS) >= torch.tensor([[0], [2], [4]])).long()
    with torch.no_grad():
        seen = inputs["attention_mask"].bool() if family == "llama" else slice(None)
        torch.testing.assert_close(fused(**inputs).logits[seen], eager(**inputs).logits[seen], **ROUNDING)
    if family == "llama":
        # what padding predicts is not defined, so it is left out of the loss
        inputs["labels"] = inputs["labels"].masked_fill(~seen, -100)
        inputs["labels"][torch.arange(tiny.BATCH), torch.tensor([0, 2, 4])] = -100
    expected, got = gradients(eager, **inputs), gradients(fused, **inputs)
    assert expected.keys() == got.keys()
    for key, gradient in expected.items():
        torch.testing.assert_close(got[key], gradient, atol=1e-3 * gradient.abs().max().item() + 1e-6, rtol=1e-3)


@families
@pytest.mark.parametrize(
    "options",
    [
        {"activation_checkpointing_kwargs": {"use_reentrant": True}},
        {"activation_checkpointing_kwargs": {"use_reentrant": False}},
        {"every_n_layers": 2},
        {"offload": True},
    ],
    ids=["reentrant", "saved_tensors", "every_second_layer", "offloaded"],
)
def test_every_kind_of_checkpointing_keeps_the_gradients(family: str, options: dict[str, Any]) -> None:
    model = tiny.model_of(family, residual_connection="hyper_connections").train()
    checkpointed = copy.deepcopy(model)
    checkpointed.activation_checkpointing_enable(**options)
    # the reentrant kind needs an input that asks for a gradient
    checkpointed.enable_input_require_grads()
    assert checkpointed.is_activation_checkpointing
    inputs = tiny.inputs_of(family) | {"labels": tiny.labels_of(family)}
    torch.manual_seed(2)
    expected = gradients(model, **inputs)
    torch.manual_seed(2)
    got = gradients(checkpointed, **inputs)
    assert expected.keys() == got.keys()
    for key, gradient in expected.items():
        torch.testing.assert_close(got[key], gradient, atol=1e-6, rtol=1e-5)
    checkpointed.activation_checkpointing_disable()
    assert not checkpointed.is_activation_checkpointing


@families
def test_frozen_embeddings_let_gradients_of_adapters_through(family: str) -> None:
    model = tiny.model_of(family).train()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    adapter = (model.vit.encoder.layer if family == "vit" else model.model.layers)[0]
    trained = next(each for each in adapter.parameters() if each.ndim == 2).requires_grad_(True)
    model.activation_checkpointing_enable({"use_reentrant": True})
    model.enable_input_require_grads()
    model(**tiny.inputs_of(family), labels=tiny.labels_of(family)).loss.backward()
    assert trained.grad is not None and trained.grad.abs().sum() > 0


@families
@each_connection
def test_an_exported_program_agrees(family: str, name: str) -> None:
    model = tiny.model_of(family, residual_connection=name)
    inputs = tiny.inputs_of(family) | ({"use_cache": False} if family == "llama" else {})
    program = torch.export.export(model, (), inputs, strict=False)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(**inputs).logits, model(**inputs).logits, **ROUNDING)


@families
def test_a_model_of_half_precision_answers_in_it(family: str) -> None:
    model = tiny.model_of(family)
    with torch.no_grad():
        wide = model(**tiny.inputs_of(family)).logits
        half = model.to(torch.bfloat16)(**tiny.inputs_of(family), output_hidden_states=True)
    assert {each.dtype for each in half.hidden_states} == {torch.bfloat16}
    torch.testing.assert_close(half.logits.float(), wide, atol=0.05 * wide.abs().max().item(), rtol=0.0)


@each_connection
def test_embeddings_in_the_place_of_words(name: str) -> None:
    model, ids = tiny.model_of("llama", residual_connection=name), tiny.tokens()
    with torch.no_grad():
        given = model(inputs_embeds=model.get_input_embeddings()(ids)).logits
        assert torch.equal(given, model(input_ids=ids).logits)


def test_one_of_words_and_embeddings_must_be_given() -> None:
    model, ids = tiny.model_of("llama"), tiny.tokens()
    with pytest.raises(ValueError, match="exactly one"):
        model(input_ids=ids, inputs_embeds=model.get_input_embeddings()(ids))
    with pytest.raises(ValueError, match="exactly one"):
        model()


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("dtype", [torch.bool, torch.int32, torch.int64, torch.float32], ids=str)
def test_padding_on_either_side_and_masks_of_any_type(attention: str, dtype: torch.dtype) -> None:
    model, ids = tiny.model_of("llama", attn_implementation=attention), tiny.tokens(1)
    junk = torch.full((1, 4), 7)
    real, none = torch.ones_like(ids), torch.zeros_like(junk)
    with torch.no_grad():
        expected = model(ids).logits
        right = model(torch.cat([ids, junk], 1), attention_mask=torch.cat([real, none], 1).to(dtype)).logits
        left_mask = torch.cat([none, real], 1)
        places = (left_mask.cumsum(1) - 1).clamp(min=0)
        left = model(torch.cat([junk, ids], 1), attention_mask=left_mask.to(dtype), position_ids=places).logits
    torch.testing.assert_close(right[:, : tiny.TOKENS], expected, **ROUNDING)
    torch.testing.assert_close(left[:, 4:], expected, **ROUNDING)


@each_connection
def test_two_texts_packed_into_a_row_do_not_see_each_other(name: str) -> None:
    model = tiny.model_of("llama", residual_connection=name)
    first, second = tiny.tokens(1), tiny.tokens(1, seed=2)
    places = torch.arange(tiny.TOKENS)[None]
    with torch.no_grad():
        packed = model(torch.cat([first, second], 1), position_ids=torch.cat([places, places], 1), use_cache=False)
        torch.testing.assert_close(packed.logits[:, : tiny.TOKENS], model(first).logits, **ROUNDING)
        torch.testing.assert_close(packed.logits[:, tiny.TOKENS :], model(second).logits, **ROUNDING)


def test_the_loss_of_words_is_that_of_the_next_one() -> None:
    model, ids = tiny.model_of("llama"), tiny.tokens()
    labels = ids.clone()
    labels[:, :4] = -100
    outputs = model(ids, labels=labels)
    expected = functional.cross_entropy(outputs.logits[:, 3:-1].flatten(0, 1), ids[:, 4:].flatten())
    torch.testing.assert_close(outputs.loss, expected)
    counted = model(ids, labels=labels, num_items_in_batch=torch.tensor(30))
    torch.testing.assert_close(counted.loss, expected * labels[:, 1:].ne(-100).sum() / 30)


def test_logits_of_the_last_words_alone() -> None:
    model, ids = tiny.model_of("llama"), tiny.tokens()
    with torch.no_grad():
        whole = model(ids).logits
        torch.testing.assert_close(model(ids, logits_to_keep=2).logits, whole[:, -2:], **ROUNDING)
        chosen = torch.tensor([1, 4])
        torch.testing.assert_close(model(ids, logits_to_keep=chosen).logits, whole[:, chosen], **ROUNDING)
