"""Layouts of the ViT, both ways: bit-equal weights there and back, logits to rounding, and what is refused."""

import argparse
import json
import os
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

import golden
from hidden_packages import output_without
from locations import GOLDEN
from orthostream import models
from orthostream.errors import UsageError
from orthostream.layouts import detect
from orthostream.layouts.architecture import Architecture, Overrides, Trained
from orthostream.layouts.authors_file import read_file, write_file
from orthostream.layouts.model_folder import read_folder, write_folder
from orthostream.layouts.ortho_vit import config_of, from_hub, to_hub
from orthostream.layouts.run_checkpoint import trained_of, write_checkpoint
from orthostream.layouts.timm_vit import arguments_of, from_timm, to_timm
from orthostream.layouts.timm_vit import config_of as timm_config_of
from orthostream.layouts.verify import Agreement, compare, forward_of
from orthostream.training import checkpoint as checkpoints

CHECKPOINT = GOLDEN / "ortho" / "checkpoint"
PT, OFFICIAL = CHECKPOINT / "0000003.pt", CHECKPOINT / "converted_official"
THREE_HEADS = Overrides(num_heads=3)
# The recorded logits are themselves up to 5.4e-6 from the same model in float64, and ours up to 3.6e-6.
ROUNDING = {"atol": 5e-6, "rtol": 0.0}

# A connection, and options of the model.
HUB_CASES = [
    ("linear", {}),
    ("orthogonal", {}),
    (("orthogonal", {"eps": 0.75}), {"affine_norm": True}),
    (("orthogonal", {"dim": (1, 2)}), {}),
    (("orthogonal", {"strength": 0.5}), {}),
    ("negative", {}),
    (("rezero", {"base": "orthogonal"}), {}),
    ("rescale_stream", {}),
    ("hyper_connections", {}),
    ("orthogonal", {"image_size": (8, 16), "in_channels": 1}),
    ("orthogonal", {"final_norm_eps": 1e-6}),
]


def tiny(connection="linear", **options):
    """A model in which nothing has its first value, so that a key in the wrong place shows."""
    torch.manual_seed(0)
    numbers = {"image_size": 8, "patch_size": 4, "embed_dim": 12, "depth": 2, "num_heads": 3, "mlp_ratio": 2}
    model = models.create("vit_s", num_classes=5, connection=connection, **(numbers | options))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return Trained(architecture=Architecture.of(model), weights=model.state_dict())


def assert_bit_equal(actual, expected):
    assert actual.keys() == expected.keys()
    for key, tensor in expected.items():
        assert actual[key].dtype == tensor.dtype and actual[key].shape == tensor.shape, key
        assert torch.equal(actual[key].view(torch.uint8), tensor.view(torch.uint8)), key


def hub_folder(trained, path):
    write_folder(path, to_hub(trained.weights, trained.architecture), config_of(trained.architecture))
    return path


@pytest.fixture(scope="module")
def of_authors():
    return read_file(PT, THREE_HEADS)


@pytest.fixture(scope="module")
def recorded():
    return golden.load("ortho/checkpoint/io")[0]


def test_golden_authors_checkpoint_computes_what_it_computed_in_training(of_authors, recorded):
    with torch.no_grad():
        logits = of_authors.model()(recorded["images"])
    golden.compare(logits, recorded["training_logits"], **ROUNDING)
    golden.compare(logits, recorded["converted_clspos0_eps1e5_logits"], **ROUNDING)


def test_golden_converted_authors_checkpoint_is_exact_in_the_hub_model(of_authors, recorded, tmp_path):
    pytest.importorskip("transformers")
    forward = forward_of("hf", hub_folder(of_authors, tmp_path / "hf"), of_authors)
    with torch.no_grad():
        logits = forward(recorded["images"])
    golden.compare(logits, recorded["training_logits"], **ROUNDING)
    golden.compare(logits, recorded["converted_clspos0_eps1e5_logits"], **ROUNDING)


def test_golden_without_the_key_for_eps_the_difference_of_the_official_converter_comes_back(of_authors, recorded):
    published = replace(of_authors, architecture=replace(of_authors.architecture, final_norm_eps=1e-6))
    with torch.no_grad():
        logits = published.model()(recorded["images"])
    golden.compare(logits, recorded["converted_clspos0_logits"], **ROUNDING)


def test_golden_official_folder_reproduces_its_logits(recorded, tmp_path):
    trained = from_hub(*read_folder(OFFICIAL))
    assert trained.architecture.final_norm_eps == 1e-6 and "position of the class token" in trained.notes[0]
    with torch.no_grad():
        logits = trained.model()(recorded["images"])
        golden.compare(logits, recorded["converted_official_logits"], **ROUNDING)
        # and once more after it was written by us
        pytest.importorskip("transformers")
        again = forward_of("hf", hub_folder(trained, tmp_path / "hf"), trained)(recorded["images"])
    golden.compare(again, recorded["converted_official_logits"], **ROUNDING)


@pytest.mark.parametrize("name", ["linear", "feature", "global", "global_dim1"])
def test_golden_published_variants(name):
    folder = GOLDEN / "ortho" / "hf_vit"
    if not folder.is_dir():
        pytest.skip("the golden files hf_vit are not in this checkout")
    tensors, _ = golden.load("ortho/hf_vit/io")
    with torch.no_grad():
        logits = from_hub(*read_folder(folder / name)).model()(tensors["pixel_values"])
    golden.compare(logits, tensors[f"{name}.logits"], **ROUNDING)


def test_golden_hub_weights_of_the_authors_checkpoint_are_those_of_the_official_converter(of_authors):
    ours, theirs = to_hub(of_authors.weights, of_authors.architecture), load_file(OFFICIAL / "model.safetensors")
    row = "vit.embeddings.position_embeddings"
    assert not ours[row][:, 0].any() and theirs[row][:, 0].any()
    ours[row], theirs[row] = ours[row][:, 1:].clone(), theirs[row][:, 1:].clone()
    assert_bit_equal(ours, theirs)


@pytest.mark.parametrize(("connection", "options"), HUB_CASES, ids=str)
def test_to_the_hub_and_back(connection, options, tmp_path):
    trained = tiny(connection, **options)
    folder = hub_folder(trained, tmp_path / "hf")
    assert detect(folder) == "hf"
    back = from_hub(*read_folder(folder))
    assert_bit_equal(back.weights, trained.weights)
    # the two spellings of a rule compute the same: no difference at all
    assert compare(trained.model(), back.model(), trained.architecture).difference == 0
    state, config = read_folder(folder)
    assert_bit_equal(to_hub(back.weights, back.architecture), state)
    assert config_of(back.architecture) == config
    pytest.importorskip("transformers")
    compare(trained.model(), forward_of("hf", folder, back), trained.architecture).check(1e-6)


@pytest.mark.parametrize(
    "options", [{}, {"affine_norm": True}, {"layer_scale": 0.5, "qk_norm": True}, {"image_size": (8, 16)}], ids=str
)
def test_to_timm_and_back(options, tmp_path):
    timm = pytest.importorskip("timm")
    trained = tiny("linear", **options)
    folder = tmp_path / "timm"
    write_folder(folder, to_timm(trained.weights, trained.architecture), timm_config_of(trained.architecture))
    assert detect(folder) == "timm"
    back = from_timm(*read_folder(folder))
    assert back.architecture == trained.architecture
    assert_bit_equal(back.weights, trained.weights)
    assert_bit_equal(to_timm(back.weights, back.architecture), read_folder(folder)[0])
    compare(trained.model(), forward_of("timm", folder, back), trained.architecture).check(1e-6)
    # as its users load it; eps of the last norm is what its arguments cannot say
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    as_made = compare(trained.model(), model, trained.architecture)
    model.norm.eps = 1e-5
    compare(trained.model(), model, trained.architecture).check(1e-6)
    assert as_made.difference > 0
    # weights alone, where a person says what no shape shows
    overrides = Overrides(num_heads=3, activation="gelu_tanh", image_size=options.get("image_size"))
    assert_bit_equal(from_timm(load_file(folder / "model.safetensors"), None, overrides).weights, trained.weights)


def test_a_model_trained_in_timm():
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    arguments = arguments_of(tiny().architecture)
    model = timm.models.vision_transformer.VisionTransformer(**arguments).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    trained = from_timm(model.state_dict(), {"architecture": "vit_base_patch16_224", "model_args": arguments})
    assert trained.architecture.affine_norm and trained.architecture.final_norm_eps == 1e-6
    compare(model, trained.model(), trained.architecture).check(1e-6)


@pytest.mark.parametrize(
    ("connection", "options"),
    [
        *HUB_CASES[:7],
        HUB_CASES[-1],
        ("linear", {"pool": "mean", "registers": 2}),
        ("linear", {"layer_scale": 0.1, "qk_norm": True}),
    ],
    ids=str,
)
def test_to_our_checkpoint_and_back(connection, options, tmp_path):
    trained = tiny(connection, **options)
    write_checkpoint(tmp_path / "step-00000007", replace(trained, step=7))
    assert detect(tmp_path / "step-00000007") == "training"
    back = trained_of(checkpoints.load(tmp_path / "step-00000007"))
    assert back.step == 7
    assert_bit_equal(back.weights, trained.weights)
    assert compare(trained.model(), back.model(), trained.architecture).difference == 0


def test_blocks_of_two_kinds_go_to_layouts_that_know_them(tmp_path):
    trained = tiny({"blocks.1.*": "orthogonal", "default": "linear"})
    write_checkpoint(tmp_path / "ours", trained)
    write_file(tmp_path / "theirs.pt", trained)
    for back in (trained_of(checkpoints.load(tmp_path / "ours")), read_file(tmp_path / "theirs.pt", THREE_HEADS)):
        assert [name for name, _ in back.architecture.rules] == ["linear", "linear", "orthogonal", "orthogonal"]
        assert compare(trained.model(), back.model(), trained.architecture).difference == 0
    with pytest.raises(UsageError, match=r"one connection for all blocks.*linear, orthogonal"):
        config_of(trained.architecture)
    halves = tiny({"*.attn": "orthogonal", "*.mlp": "linear"})
    for write, name in ((write_checkpoint, "a"), (write_file, "b.pt")):
        with pytest.raises(UsageError, match="another arrangement"):
            write(tmp_path / name, halves)


@pytest.mark.parametrize(
    "connection",
    ["linear", "orthogonal", "negative", "rezero", "rezero_constrained", ("orthogonal", {"eps": 0.75})],
    ids=str,
)
def test_to_the_authors_file_and_back(connection, tmp_path):
    trained = tiny(connection)
    notes = write_file(tmp_path / "a.pt", trained)
    assert any("--num-heads 3" in note for note in notes)
    back = read_file(tmp_path / "a.pt", THREE_HEADS)
    assert_bit_equal(back.weights, trained.weights)
    assert compare(trained.model(), back.model(), trained.architecture).difference == 0


def test_the_authors_file_comes_back_bit_by_bit(of_authors, tmp_path):
    hub = from_hub(*read_folder(hub_folder(of_authors, tmp_path / "hf")))
    write_file(tmp_path / "a.pt", replace(hub, flags=of_authors.flags, step=3, epoch=1))
    with torch.serialization.safe_globals([argparse.Namespace]):
        first, second = (torch.load(path, weights_only=True) for path in (PT, tmp_path / "a.pt"))
    assert_bit_equal(second["model"], {key: first["model"][key] for key in second["model"]})
    assert first["model"].keys() == second["model"].keys()
    assert all(first[key] == second[key] for key in ("args", "train_steps", "opt_steps", "epoch"))


def test_half_precision_keeps_its_bits(tmp_path):
    trained = tiny("orthogonal")
    half = replace(trained, weights={key: tensor.bfloat16() for key, tensor in trained.weights.items()})
    state = to_hub(half.weights, half.architecture)
    assert all(tensor.dtype == torch.bfloat16 for tensor in state.values())
    assert_bit_equal(from_hub(state, config_of(half.architecture)).weights, half.weights)


def test_published_files_go_to_our_checkpoint_and_back_with_their_eps(tmp_path):
    state, config = read_folder(OFFICIAL)
    assert config["layer_norm_eps"] == 1e-6 and "final_layer_norm_eps" not in config
    published = from_hub(state, config)
    notes = write_checkpoint(tmp_path / "ours", published)
    assert not any("eps" in note for note in notes)
    back = trained_of(checkpoints.load(tmp_path / "ours"))
    assert back.recipe["model"]["final_norm_eps"] == 1e-6
    assert replace(back.architecture, rules=()) == replace(published.architecture, rules=())
    assert compare(published.model(), back.model(), back.architecture).difference == 0
    assert from_hub(*read_folder(hub_folder(back, tmp_path / "hf"))).architecture == published.architecture


def test_the_authors_file_has_no_place_for_another_eps(tmp_path):
    notes = write_file(tmp_path / "a.pt", tiny("orthogonal", final_norm_eps=1e-6))
    assert any("eps 1e-06, and theirs always 1e-05" in note for note in notes)
    assert not any("eps" in note for note in write_file(tmp_path / "b.pt", tiny("orthogonal")))


@pytest.mark.parametrize("make", [to_hub, to_timm])
def test_missing_unexpected_and_misshapen_keys_are_named(make):
    trained = tiny()
    state = make(trained.weights, trained.architecture)
    read, config = (
        (from_hub, config_of(trained.architecture))
        if make is to_hub
        else (from_timm, timm_config_of(trained.architecture))
    )
    gone = next(key for key in state if key.endswith("fc2.bias") or key.endswith("1.output.dense.bias"))
    with pytest.raises(UsageError, match=f"1 missing: {gone}"):
        read({key: tensor for key, tensor in state.items() if key != gone}, config)
    with pytest.raises(UsageError, match=r"1 unexpected: pooler\.dense\.bias"):
        read(state | {"pooler.dense.bias": torch.zeros(12)}, config)
    with pytest.raises(UsageError, match=rf"1 of another shape: {gone} \[3\] instead of \[12\]"):
        read(state | {gone: torch.zeros(3)}, config)


def test_what_the_authors_file_cannot_say(tmp_path):
    with pytest.raises(UsageError, match=r"preset S.*width 24 and 2 blocks.*give --num-heads"):
        read_file(PT)
    with pytest.raises(UsageError, match=r"positions for 16 patches of 4 pixels.*5 x 4"):
        read_file(PT, Overrides(num_heads=3, image_size=(20, 16)))
    assert read_file(PT, Overrides(num_heads=3, image_size=(8, 32))).architecture.image_size == (8, 32)


def changed_pt(path, **flags):
    with torch.serialization.safe_globals([argparse.Namespace]):
        held = torch.load(PT, weights_only=True)
    vars(held["args"]).update(flags)
    torch.save(held, path)
    return path


def test_flags_of_the_authors_file(tmp_path):
    """Their program trains the feature form under the name global, and old files say channel."""
    for method in ("global", "channel"):
        trained = read_file(changed_pt(tmp_path / f"{method}.pt", orthogonal_method=method), THREE_HEADS)
        assert {name for name, _ in trained.architecture.rules} == {"orthogonal"}
        assert all("dim" not in options for _, options in trained.architecture.rules)
        assert bool(trained.notes) == (method == "global")
    with pytest.raises(UsageError, match="the model 'resnet18'; the ViT alone"):
        read_file(changed_pt(tmp_path / "resnet.pt", model="resnet18"), THREE_HEADS)
    # the buffer in the file wins over the flag, as it does where their program loads it
    trained = read_file(changed_pt(tmp_path / "eps.pt", orthogonal_eps=0.5), THREE_HEADS)
    assert {options["eps"] for _, options in trained.architecture.rules} == {1e-6}


class Harmful:
    def __reduce__(self):
        return os.mkdir, ("harm",)


def test_a_pickle_with_other_classes_is_not_loaded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with torch.serialization.safe_globals([argparse.Namespace]):
        held = torch.load(PT, weights_only=True)
    torch.save({**held, "args": Harmful()}, tmp_path / "harmful.pt")
    with pytest.raises(UsageError, match=r"was not loaded.*argparse\.Namespace.*mkdir"):
        read_file(tmp_path / "harmful.pt", THREE_HEADS)
    assert not (tmp_path / "harm").exists()
    (tmp_path / "cut.pt").write_bytes(PT.read_bytes()[:5000])
    with pytest.raises(UsageError, match=r"cannot be read as a file of torch\.save"):
        read_file(tmp_path / "cut.pt", THREE_HEADS)
    torch.save({"state_dict": {}}, tmp_path / "other.pt")
    with pytest.raises(UsageError, match=r"no checkpoint of the authors' program: it holds \['state_dict'\]"):
        read_file(tmp_path / "other.pt")


def test_what_other_layouts_have_no_place_for():
    registers = tiny(registers=2)
    for write in (lambda t: to_timm(t.weights, t.architecture), lambda t: to_hub(t.weights, t.architecture)):
        with pytest.raises(UsageError, match="has no place for registers"):
            write(registers)
        with pytest.raises(UsageError, match="has no place for mean pool"):
            write(tiny(pool="mean"))
    with pytest.raises(UsageError, match="no place for layer_scale, qk_norm"):
        config_of(tiny(layer_scale=0.1, qk_norm=True).architecture)


def test_an_orthogonal_model_goes_to_timm_as_weights_only():
    trained = tiny("orthogonal")
    with pytest.raises(UsageError, match=r"connection orthogonal, and timm adds updates plainly.*--weights-only"):
        to_timm(trained.weights, trained.architecture)
    state = to_timm(trained.weights, trained.architecture, weights_only=True)
    assert_bit_equal(from_timm(state, timm_config_of(trained.architecture)).weights, trained.weights)
    learned = tiny("rezero")
    with pytest.raises(UsageError, match=r"no place for blocks\.0\.attn_connection\.alpha"):
        to_timm(learned.weights, learned.architecture, weights_only=True)


def test_what_timm_does_not_say_or_says_otherwise():
    trained = tiny()
    state, config = to_timm(trained.weights, trained.architecture), timm_config_of(trained.architecture)
    with pytest.raises(UsageError, match=r"exact GELU.*--activation gelu_tanh"):
        from_timm(state)
    with pytest.raises(UsageError, match="give --num-heads"):
        from_timm(state, None, Overrides(activation="gelu_tanh"))
    with pytest.raises(UsageError, match=r"config\.json says its num_heads itself"):
        from_timm(state, config, THREE_HEADS)
    with pytest.raises(UsageError, match="'global_pool': 'avg'"):
        from_timm(state, config | {"model_args": config["model_args"] | {"global_pool": "avg"}})
    with pytest.raises(UsageError, match="'no_embed_class': True"):
        from_timm(state, config | {"model_args": config["model_args"] | {"no_embed_class": True}})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'.*tanh form"),
        ({"layer_norm_eps": 1e-12}, "layer_norm_eps is 1e-12"),
        ({"residual_connection": "ortogonal"}, "did you mean orthogonal"),
        ({"orthogonal_method": "globl"}, "did you mean global"),
        ({"residual_connection_dim": 0}, "residual_connection_dim=0"),
        ({"residual_perturbation": 0.1}, "residual_perturbation=0.1"),
        ({"residual_connection": "rezero", "residual_eps": 1e-3}, "would not reach 'rezero'; give its options in"),
        ({"residual_options": {"eps": 1e-3}}, "give it as residual_eps instead"),
        ({"elementwise_affine_ln": True}, "8 missing: .*layernorm_after"),
        ({"num_hidden_layers": 3}, "12 missing: vit.encoder.layer.2"),
    ],
    ids=str,
)
def test_configs_that_do_not_describe_the_weights(change, message):
    trained = tiny("orthogonal")
    config = config_of(trained.architecture) | change
    with pytest.raises(UsageError, match=message):
        from_hub(to_hub(trained.weights, trained.architecture), config)


def test_old_words_and_missing_bias():
    trained = tiny("orthogonal")
    state = to_hub(trained.weights, trained.architecture)
    config = config_of(trained.architecture)
    assert from_hub(state, config | {"orthogonal_method": "channel"}).architecture.rules[0][0] == "orthogonal"
    assert from_hub(state, config | {"residual_connection": "identity"}).architecture.rules[0][0] == "linear"
    plain = {key: tensor for key, tensor in state.items() if not key.endswith(("query.bias", "key.bias", "value.bias"))}
    read = from_hub(plain, config | {"qkv_bias": False})
    assert not read.weights["blocks.0.attn.qkv.bias"].any()
    with pytest.raises(UsageError, match="6 missing"):
        from_hub(plain, config)


def test_class_names_travel(tmp_path):
    trained = tiny()
    config = config_of(trained.architecture, ["a", "b", "c", "d", "e"])
    assert from_hub(to_hub(trained.weights, trained.architecture), config).labels == ("a", "b", "c", "d", "e")
    with pytest.raises(UsageError, match="2 class names were given for 5"):
        config_of(trained.architecture, ["a", "b"])


@pytest.mark.parametrize("name", ["nothing", "empty", "model.bin", "bert", "broken"])
def test_unknown_sources_are_refused(name, tmp_path):
    path = tmp_path / name
    if name == "empty":
        path.mkdir()
    elif name == "model.bin":
        path.write_bytes(b"")
    elif name != "nothing":
        path.mkdir()
        (path / "config.json").write_text(json.dumps({"model_type": "bert"}) if name == "bert" else "{")
    with pytest.raises(UsageError, match=r"does not exist|no layout that is known|model_type 'bert'|no JSON"):
        detect(path)


def test_folders_without_their_parts_are_refused(tmp_path):
    folder = hub_folder(tiny(), tmp_path / "hf")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UsageError, match=r"has no model.safetensors \(it has config.json, pytorch_model.bin\)"):
        read_folder(folder)
    (folder / "model.safetensors").write_bytes(b"\x00" * 100)
    with pytest.raises(UsageError, match="cannot be read as safetensors"):
        read_folder(folder)


def test_a_difference_or_nan_fails_the_verification():
    Agreement(1e-5, 1.0, 4).check(1e-5)
    for difference in (2e-5, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="nothing was written"):
            Agreement(difference, 1.0, 4).check(1e-5)


def test_the_mappings_need_neither_transformers_nor_timm(tmp_path):
    hub_folder(tiny(), tmp_path / "hf")
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    program = f"""
from pathlib import Path
from orthostream.layouts import model_folder, ortho_vit, timm_vit, verify
trained = ortho_vit.from_hub(*model_folder.read_folder(Path({str(tmp_path / "hf")!r})))
timm_vit.to_timm(trained.weights, trained.architecture)
try:
    verify.forward_of("hf", Path({str(tmp_path / "hf")!r}), trained)
except ImportError as error:
    print(error)
try:
    verify.forward_of("timm", Path("nowhere"), trained)
except ValueError as error:
    print(error)
"""
    printed = output_without(("transformers", "timm"), program)
    assert "pip install 'orthostream[hub]'" in printed and "pip install timm" in printed
