"""Folders for the Hub, their own code, and graphs: the same logits everywhere, and refusals instead of other models."""

import ast
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor

import golden
from locations import GOLDEN
from orthostream import models
from orthostream.data.description import Description
from orthostream.data.transforms import evaluation_transform
from orthostream.errors import UsageError
from orthostream.hub import OrthoViTForImageClassification
from orthostream.hub import remote_code as shipped
from orthostream.hub.export import check_hub_folder, write_hub_folder
from orthostream.hub.export_graph import GRAPHS, write_graph
from orthostream.hub.export_preprocessor import preprocessor_of, read_preprocessor
from orthostream.hub.model_card import TO_FILL, Card
from orthostream.hub.remote_code import configuration_ortho_vit, modeling_ortho_vit
from orthostream.layouts.architecture import Architecture, Trained

RemoteConfig = configuration_ortho_vit.OrthoViTConfig
RemoteModel = modeling_ortho_vit.OrthoViTForImageClassification

PUBLISHED = GOLDEN / "ortho" / "hf_vit"
CASES = ("linear", "feature", "global", "global_dim1", "feature_affine_gelu")
SIZES = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 48}
SMALL = {**SIZES, "image_size": 16, "patch_size": 4, "num_labels": 5, "initializer_range": 0.2}

# A connection, and options of the model; all of them are in the folder's own code.
OWN_CODE = {
    "linear": ("linear", {}),
    "feature": ("orthogonal", {}),
    "affine": (("orthogonal", {"eps": 0.75}), {"affine_norm": True}),
    "global": (("orthogonal", {"dim": (1, 2)}), {}),
    "tokens": (("orthogonal", {"dim": 1}), {}),
    "oblong": ("orthogonal", {"image_size": (8, 16), "in_channels": 1}),
}

# A fresh interpreter that has no orthostream: loads each folder as a stranger would.
STRANGER = """
import sys

sys.modules["orthostream"] = None
import json
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageClassification

found = {}
for folder in sys.argv[1:]:
    model = AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=True)
    golden = load_file(folder + "/golden.safetensors")
    with torch.no_grad():
        output = model(golden["pixel_values"], labels=torch.zeros(2, dtype=torch.long), output_hidden_states=True)
    loss = torch.nn.functional.cross_entropy(golden["logits"], torch.zeros(2, dtype=torch.long))
    model.save_pretrained(folder + "/again")
    again = AutoModelForImageClassification.from_pretrained(folder + "/again", trust_remote_code=True)
    with torch.no_grad():
        repeated = again(golden["pixel_values"]).logits
    found[folder] = {
        "module": type(model).__module__,
        "training": model.training,
        "difference": (output.logits - golden["logits"]).abs().max().item(),
        "loss": (output.loss - loss).abs().item(),
        "streams": len(output.hidden_states),
        "again": (repeated - output.logits).abs().max().item(),
        "labels": model.config.id2label,
    }
assert not [name for name in sys.modules if name.startswith("orthostream.")]
print(json.dumps(found))
"""


def tiny(connection="linear", **options):
    """A model in which nothing has its first value."""
    torch.manual_seed(0)
    numbers = {"image_size": 8, "patch_size": 4, "embed_dim": 12, "depth": 2, "num_heads": 3, "mlp_ratio": 2}
    model = models.create("vit_s", num_classes=5, connection=connection, **(numbers | options))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return Trained(architecture=Architecture.of(model), weights=model.state_dict(), labels=tuple("abcde"))


def exported(folder, trained, **said):
    return write_hub_folder(folder, Card(title="tiny", trained=trained, **said))


def test_without_orthostream(tmp_path):
    folders = {name: tmp_path / name for name in OWN_CODE}
    for name, (connection, options) in OWN_CODE.items():
        exported(folders[name], tiny(connection, **options))
    done = subprocess.run(
        [sys.executable, "-c", STRANGER, *map(str, folders.values())],
        env={**os.environ, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    for name, folder in folders.items():
        got = found[str(folder)]
        assert got["module"].startswith("transformers_modules.") and not got["training"], name
        assert got["difference"] <= 1e-6 and got["loss"] <= 1e-6 and got["again"] == 0, (name, got)
        assert got["streams"] == 3 and list(got["labels"].values()) == list("abcde"), name


def test_golden_files_differ_by_connection(tmp_path):
    logits = {}
    for name in ("linear", "feature", "global", "tokens"):
        connection, options = OWN_CODE[name]
        exported(tmp_path / name, tiny(connection, **options))
        logits[name] = load_file(tmp_path / name / "golden.safetensors")["logits"]
    for name in ("linear", "global", "tokens"):
        assert (logits[name] - logits["feature"]).abs().max() > 1e-3, name


@pytest.mark.parametrize("case", CASES)
def test_own_code_loads_published_models(case):
    tensors, _ = golden.load("ortho/hf_vit/io")
    model = RemoteModel.from_pretrained(PUBLISHED / case)
    with torch.no_grad():
        output = model(tensors["pixel_values"], labels=tensors["labels"], output_hidden_states=True)
    got = {"logits": output.logits, "loss": output.loss.reshape(1), "hidden_last": output.hidden_states[-1]}
    for name, tensor in got.items():
        golden.compare(tensor, tensors[f"{case}.{name}"], atol=1e-5, rtol=0.0, what=f"{case}.{name}")


def test_own_code_trains_like_the_library():
    ours = OrthoViTForImageClassification.from_pretrained(PUBLISHED / "feature")
    theirs = RemoteModel.from_pretrained(PUBLISHED / "feature")
    images = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    for model in (ours, theirs):
        model(images, labels=torch.tensor([0, 1, 2])).loss.backward()
    gradients = dict(ours.named_parameters())
    for name, parameter in theirs.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name].grad, atol=1e-5, rtol=1e-4, msg=name)


def test_own_code_imports_torch_and_base_classes_alone():
    allowed = {
        ("typing", "Any"),
        ("torch", None),
        ("torch", "Tensor"),
        ("torch", "nn"),
        ("torch.nn", "functional"),
        ("transformers", "PretrainedConfig"),
        ("transformers", "PreTrainedModel"),
        ("transformers.modeling_outputs", "ImageClassifierOutput"),
        ("configuration_ortho_vit", "TANH_GELU"),
        ("configuration_ortho_vit", "OrthoViTConfig"),
    }
    for module in (configuration_ortho_vit, modeling_ortho_vit):
        for node in ast.walk(ast.parse(Path(module.__file__).read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                assert {(name.name, None) for name in node.names} <= allowed
            elif isinstance(node, ast.ImportFrom):
                assert {(node.module, name.name) for name in node.names} <= allowed


@pytest.mark.parametrize(
    "changes",
    [
        {"residual_connection": "rezero"},
        {"residual_connection": "orthogonl"},
        {"orthogonal_method": "local"},
        {"residual_connection_dim": 0},
        {"residual_connection_dim": 3},
        {"residual_options": {"strength": 0.5}},
        {"residual_perturbation": 0.1},
        {"residual_epsilon": 1e-3},
        {"hidden_act": "relu"},
        {"num_attention_heads": 5},
    ],
)
def test_own_code_refuses_configs(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        RemoteConfig(**SMALL | {"residual_connection": "orthogonal"} | changes)


def test_own_code_refuses_calls(tmp_path):
    model = RemoteModel(RemoteConfig(**SMALL))
    images = torch.zeros(2, 3, 16, 16)
    with pytest.raises(ValueError, match=r"expected \(16, 16\)"):
        model(torch.zeros(2, 3, 32, 32))
    with pytest.raises(ValueError, match="attention weights"):
        model(images, output_attentions=True)
    with pytest.raises(ValueError, match="labels must be"):
        model(images, labels=torch.zeros(2, 5))
    with pytest.raises(TypeError):
        model(images, interpolate_pos_encoding=True)
    with pytest.raises(ValueError, match="eager"):
        RemoteModel.from_pretrained(PUBLISHED / "feature", attn_implementation="eager")
    model.config.problem_type = "regression"
    with pytest.raises(ValueError, match="regression"):
        model(images, labels=torch.zeros(2, dtype=torch.long))


@pytest.mark.parametrize("change", ["missing", "unexpected"])
def test_own_code_refuses_other_weights(change, tmp_path):
    exported(tmp_path / "hub", tiny("orthogonal"))
    path = tmp_path / "hub" / "model.safetensors"
    state = load_file(path)
    if change == "missing":
        del state["vit.encoder.layer.1.output.dense.bias"]
    else:
        state["vit.encoder.layer.1.gain"] = torch.ones(1)
    save_file(state, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"layer\.1\.(output\.dense\.bias|gain)"):
        RemoteModel.from_pretrained(tmp_path / "hub")


@pytest.mark.parametrize("connection", ["rezero", ("orthogonal", {"strength": 0.5}), "hyper_connections"])
def test_other_connections_come_without_code(connection, tmp_path):
    notes = exported(tmp_path / "hub", tiny(connection))
    assert any("no code for use without orthostream" in note for note in notes)
    assert not list((tmp_path / "hub").glob("*.py"))
    assert "auto_map" not in json.loads((tmp_path / "hub" / "config.json").read_text())
    card = (tmp_path / "hub" / "README.md").read_text()
    assert "Without orthostream this model cannot be loaded" in card and "trust_remote_code" not in card
    (line,) = check_hub_folder(tmp_path / "hub")
    assert line.startswith("orthostream.hub: largest difference")


def test_changed_weights_are_found(tmp_path):
    exported(tmp_path / "hub", tiny("orthogonal"))
    assert len(check_hub_folder(tmp_path / "hub")) == 2
    path = tmp_path / "hub" / "model.safetensors"
    state = load_file(path)
    state["classifier.bias"][0] += 0.01
    save_file(state, path, metadata={"format": "pt"})
    with pytest.raises(UsageError, match="computes something else"):
        check_hub_folder(tmp_path / "hub")


def test_files_are_copied_unchanged(tmp_path):
    exported(tmp_path / "hub", tiny("orthogonal"))
    for name, module in ((shipped.CONFIGURATION, configuration_ortho_vit), (shipped.MODELLING, modeling_ortho_vit)):
        assert (tmp_path / "hub" / f"{name}.py").read_bytes() == Path(module.__file__).read_bytes()


@pytest.mark.parametrize(
    ("family", "channels", "size", "stored"),
    [
        ("digits", 1, 8, (8, 8)),
        ("digits", 1, 16, (8, 8)),
        ("cifar", 3, 32, (32, 32)),
        ("tiny_imagenet", 3, 32, (64, 50)),
        ("imagenet", 3, 64, (90, 121)),
        ("imagenet", 3, 64, (40, 50)),
    ],
)
def test_the_preprocessor_is_the_evaluation_transform(family, channels, size, stored, tmp_path):
    description = Description(
        name=family,
        family=family,
        classes=("a",),
        channels=channels,
        image_size=size,
        patch_size=4,
        mean=(0.4, 0.5, 0.6)[:channels],
        std=(0.25, 0.3, 0.2)[:channels],
        eval_split="",
    )
    shape = (*stored, 3) if channels == 3 else stored
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    image = Image.fromarray(pixels.numpy())
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(preprocessor_of(description)))
    assert read_preprocessor(tmp_path / "preprocessor_config.json") == preprocessor_of(description)
    expected = evaluation_transform(description, "vit")(image)
    # Pillow as in evaluation; resized tensors are one level of 255 off.
    for backend, tolerance in (("pil", 1e-6), ("torchvision", 1.01 / 255 / 0.2)):
        processor = AutoImageProcessor.from_pretrained(tmp_path, backend=backend)
        got = processor(image, return_tensors="pt")["pixel_values"][0]
        torch.testing.assert_close(got, expected, atol=tolerance, rtol=0.0, msg=backend)


def test_the_card_marks_what_is_open(tmp_path):
    card = str(Card(title="a\nb", trained=tiny("orthogonal")))
    assert card.startswith(f"---\n# license: {TO_FILL}\n")
    # licence twice, images, numbers, recipe
    assert card.count(TO_FILL) == 5 and "# a b\n" in card
    card = str(Card(title="t", trained=tiny(), licence='x"\nevil: 1', preprocessor={"size": 8}))
    assert 'license: "x\\"\\nevil: 1"' in card and "\nevil" not in card and card.count(TO_FILL) == 2


@pytest.mark.parametrize("connection", ["orthogonal", "rezero"])
def test_torch_export(connection, tmp_path):
    trained = tiny(connection)
    agreement = write_graph(tmp_path / "m.pt2", trained, "torch_export")
    assert agreement.difference <= 1e-6
    program, model = GRAPHS["torch_export"].read(tmp_path / "m.pt2"), trained.model()
    images = torch.randn(3, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(program(images), model(images), atol=1e-6, rtol=0.0)


def test_a_wrong_graph_is_refused(tmp_path):
    with pytest.raises(UsageError, match="computes something else"):
        write_graph(tmp_path / "m.pt2", tiny(), "torch_export", tolerance=-1.0)


def test_onnx(tmp_path):
    missing = [name for name in GRAPHS["onnx"].needs if importlib.util.find_spec(name) is None]
    if missing:
        with pytest.raises(UsageError, match=f"pip install {' '.join(missing)}"):
            write_graph(tmp_path / "m.onnx", tiny("orthogonal"), "onnx")
        return
    assert write_graph(tmp_path / "m.onnx", tiny("orthogonal"), "onnx").difference <= 1e-5
