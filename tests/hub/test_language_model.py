"""The Llama that our trainer trains is that of transformers, with any connection, and like our other models."""

import subprocess
import sys

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import LlamaForCausalLM

from orthostream import analysis, build, connections, models
from orthostream.analysis.memory import kept_for_backward
from orthostream.connections import only_blocks
from orthostream.errors import UsageError
from orthostream.hub import OrthoLlamaForCausalLM
from orthostream.hub.language_model import LanguageModel

TINY = {"num_classes": 11, "context": 9, "embed_dim": 16, "depth": 2, "num_heads": 4}
TOKENS = torch.randint(11, (3, 9), generator=torch.Generator().manual_seed(1))
LABELS = torch.randint(11, (3, 9), generator=torch.Generator().manual_seed(2))


def make(connection="linear", **changes):
    torch.manual_seed(0)
    # A wide initialisation, so that the blocks do more than nothing.
    return LanguageModel(connection=connection, **{**TINY, "init_std": 0.2, **changes})


def gradients(model, logits):
    model.zero_grad()
    cross_entropy(logits, LABELS).backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("changes", [{}, {"num_kv_heads": 2, "mlp_features": 24, "rope_theta": 5e5, "norm_eps": 1e-5}])
def test_linear_is_the_librarys_own_llama_with_its_gradients(changes):
    ours = make(**changes)
    theirs = LlamaForCausalLM(ours.model.config)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    logits = ours(TOKENS)
    assert logits.shape == (3, 11, 9)
    expected = theirs(TOKENS, use_cache=False).logits.transpose(1, 2)
    assert torch.equal(logits, expected)
    own, other = gradients(ours, logits), gradients(theirs, expected)
    assert own.keys() == other.keys() and all(torch.equal(own[name], other[name]) for name in own)
    assert all(gradient.abs().max() > 0 for gradient in own.values())


@pytest.mark.parametrize("name", connections.names())
def test_the_weights_are_those_of_the_published_class(name):
    ours = make(name)
    config = ours.model.config
    config.residual_connection = name
    theirs = OrthoLlamaForCausalLM(config)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    assert torch.equal(theirs(TOKENS, use_cache=False).logits.transpose(1, 2), ours(TOKENS))


@pytest.mark.parametrize("name", connections.names())
def test_no_token_sees_a_later_one(name):
    model = make(name)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    changed = TOKENS.clone()
    changed[:, 5] = (changed[:, 5] + 1) % 11
    before, after = model(TOKENS), model(changed)
    # kernels of attention may sum in another order
    torch.testing.assert_close(after[..., :5], before[..., :5], rtol=0, atol=1e-5)
    assert (after[..., 5] - before[..., 5]).abs().max() > 1e-3


def test_connections_by_block_and_by_pattern():
    ends = make(only_blocks("orthogonal", [1]))
    assert [type(layer.attn_connection).__name__ for layer in ends.model.layers] == ["Linear", "Orthogonal"]
    mixed = make({"*.mlp": ("orthogonal", {"strength": 0.5}), "default": "linear"})
    assert [type(layer.mlp_connection).__name__ for layer in mixed.model.layers] == ["Orthogonal"] * 2
    assert [type(layer.attn_connection).__name__ for layer in mixed.model.layers] == ["Linear"] * 2
    assert not torch.equal(mixed(TOKENS), make()(TOKENS))
    streams = make("hyper_connections")
    assert streams.begin is streams.model.layers[0].begin and streams.end is streams.model.layers[1].end


@pytest.mark.parametrize("choice", [("orthogonal", {"dim": (1, 2)}), ("rescale_stream", {"dim": 1})])
def test_a_connection_that_mixes_tokens_is_refused(choice):
    with pytest.raises(UsageError, match=r"blocks\.0\.attn .* from those after it; .*connection\.dim=-1"):
        make(choice)


def test_statistics_at_every_site():
    model = make("orthogonal")
    logits = model(TOKENS)
    with analysis.record(model) as recording:
        assert torch.equal(model(TOKENS), logits)
    rows = recording.table()
    assert [row["site"] for row in rows] == [site.name for site in model.sites]
    assert [row["site"] for row in rows][:2] == ["blocks.0.attn", "blocks.0.mlp"]
    embedded = model.model.embed_tokens(TOKENS).detach()
    assert rows[0]["x_norm2"] == pytest.approx(float(embedded.square().sum(-1).mean()), rel=1e-5)
    assert "activation/attn/block01/x_norm2" in recording.collect()


def test_checkpointed_blocks_compute_the_same_and_keep_less():
    plain, light = make("orthogonal"), make("orthogonal", gradient_checkpointing=True)
    assert all(layer.gradient_checkpointing for layer in light.model.layers)
    kept, own = [], []
    for model in (plain, light):
        with kept_for_backward() as seen:
            logits = model(TOKENS)
        kept.append(seen.bytes)
        own.append(gradients(model, logits))
    assert all(torch.equal(own[0][name], own[1][name]) for name in own[0])
    assert kept[1] < 0.6 * kept[0]


@pytest.mark.parametrize("name", connections.names())
def test_a_model_made_without_values_gets_those_of_a_new_one(name):
    expected = make(name)
    with torch.device("meta"):
        model = make(name)
    assert all(parameter.is_meta for parameter in model.parameters())
    model.to_empty(device="cpu")
    torch.manual_seed(0)
    model.reset_parameters()
    for own, other in (
        (model.state_dict(), expected.state_dict()),
        (dict(model.named_buffers()), dict(expected.named_buffers())),
    ):
        assert own.keys() == other.keys() and all(torch.equal(own[key], other[key]) for key in own)
    assert torch.equal(model(TOKENS), expected(TOKENS))


def test_new_matrices_have_the_stated_deviation():
    model = make(embed_dim=128, depth=1, init_std=0.05)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2 and len(parameter) > 11:
            # thousands of draws or more: five standard errors
            assert abs(float(parameter.detach().std()) - 0.05) < 5 * 0.05 / (2 * parameter.numel()) ** 0.5, name
    assert model.model.layers[0].mlp.gate_proj.out_features == 352
    assert torch.equal(model.model.norm.weight, torch.ones(128))


MISTAKES = {
    "heads": ({"num_heads": 3}, r"embed_dim=16 .* num_heads=3"),
    "odd heads": ({"num_heads": 16}, "even width"),
    "heads of keys": ({"num_kv_heads": 3}, r"num_heads=4 .* num_kv_heads=3"),
    "depth": ({"depth": 0}, "depth must be a whole number, 1 or more, got 0"),
    "width": ({"mlp_features": 0}, "mlp_features"),
    "dropout": ({"attention_dropout": 1.0}, "attention_dropout"),
    "deviation": ({"init_std": 0.0}, r"init_std=0\.0"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_value_out_of_range_is_refused(mistake):
    changes, message = MISTAKES[mistake]
    with pytest.raises(UsageError, match=message):
        make(**changes)


def test_what_are_no_tokens_is_refused():
    with pytest.raises(UsageError, match=r"dtype int64, got float32\[3, 9\]"):
        make()(TOKENS.float())
    with pytest.raises(UsageError, match=r"got int64\[3\]"):
        make()(TOKENS[:, 0])


def test_the_table_of_models_makes_it():
    assert "llama" in build.TABLES["model"].names() and models.family("llama") == LanguageModel.family
    model = models.create("llama", connection="orthogonal", **TINY)
    assert isinstance(model, LanguageModel) and isinstance(model, models.Model)
    expected = {
        "num_classes",
        "connection",
        "context",
        "embed_dim",
        "depth",
        "num_heads",
        "num_kv_heads",
        "mlp_features",
    }
    assert expected <= set(models.table.options("llama"))


def test_without_transformers_the_extra_is_named_and_other_models_work():
    program = f"""
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "transformers":
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Refuse())
from orthostream import build, models
models.create("vit_s", num_classes=3, embed_dim=8, depth=1, num_heads=2)
try:
    models.create("llama", **{TINY!r})
except ImportError as error:
    print(type(error).__name__, error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("MissingExtraError") and "pip install 'orthostream[hub]'" in done.stdout
