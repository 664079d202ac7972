"""``orthostream export`` as a person uses it: what it says, what it writes, and what it leaves alone."""

import json
import shutil

import pytest
import torch
from PIL import Image
from runs import SMALL, in_this_process, newest, orthostream
from safetensors.torch import load_file, save_file

from locations import GOLDEN
from orthostream.cli import export as verb

pytest.importorskip("transformers")

PT = GOLDEN / "ortho" / "checkpoint" / "0000003.pt"
AUTHORS = (PT, "--num-heads", 3)
MARK = "FILL IN BEFORE PUBLISHING"


@pytest.fixture
def export(capsys):
    """``export(*words, expect=0)``: all output of a call in this process."""
    return in_this_process(verb, capsys)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two finished runs on digits, with averaged weights, that differ in their seed."""
    folder = tmp_path_factory.mktemp("trained") / "runs"
    for seed in (1, 2):
        orthostream("train", *SMALL, "train.ema_decay=0.9", f"seed={seed}", "--run-dir", folder / f"seed{seed}")
    return folder


def test_a_run_becomes_a_folder(runs, export, tmp_path):
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    out = tmp_path / "digits"
    said = export(runs / "seed1", "--to", "hub-folder", "--out", out)
    assert "orthostream.hub: largest difference" in said and "the folder's own code: largest difference" in said
    assert "note: the licence is left open" in said and "wrote a folder for the Hub" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["digits"]
    assert sorted(path.name for path in out.iterdir()) == [
        "README.md",
        "config.json",
        "configuration_ortho_vit.py",
        "golden.safetensors",
        "model.safetensors",
        "modeling_ortho_vit.py",
        "preprocessor_config.json",
    ]
    config = json.loads((out / "config.json").read_text())
    assert config["id2label"] == {str(digit): str(digit) for digit in range(10)}
    assert config["auto_map"]["AutoConfig"] == "configuration_ortho_vit.OrthoViTConfig"
    assert json.loads((out / "preprocessor_config.json").read_text())["image_mean"] == [0.3048]
    card = (out / "README.md").read_text()
    result = json.loads((runs / "seed1" / "result.json").read_text())["final"]
    assert f"| top-1, last epoch | orthogonal | 1 | {100 * result['val/acc@1']:.2f} | % |" in card
    assert "over 360 evaluated images" in card and card.count(MARK) == 2
    assert 'connection.name: "orthogonal"' in card and "data.source" not in card and str(tmp_path) not in card

    # A pipeline would make it RGB, which the card says.
    assert "turns every image into RGB" in card
    image = Image.fromarray(torch.arange(64, dtype=torch.uint8).view(8, 8).numpy() * 4)
    inputs = AutoImageProcessor.from_pretrained(out)(image, return_tensors="pt")
    assert AutoModelForImageClassification.from_pretrained(out)(**inputs).logits.shape == (1, 10)


def test_numbers_of_several_runs_have_their_spread(runs, export, tmp_path):
    options = ("--runs", runs, "--licence", "apache-2.0", "--title", "Digits")
    said = export(runs / "seed2", "--best", "--to", "hub-folder", "--out", tmp_path / "hub", *options)
    card = (tmp_path / "hub" / "README.md").read_text()
    assert "licence" not in said and MARK not in card and 'license: "apache-2.0"' in card and "# Digits" in card
    assert "best top-1 of its run" in card
    (line,) = [line for line in card.splitlines() if line.startswith("| top-1, last epoch |")]
    assert "| orthogonal | 2 |" in line and " ± " in line and "1: " in line and "2: " in line


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("name: orthogonal", "name: linear", "connection.name: orthogonal -> linear"),
        ("depth: 2", "depth: 3", "model.depth: 2 -> 3"),
        ("name: digits", "name: cifar10", "data.name: digits -> cifar10"),
        ("workers: 0", "workers: 2", None),
        ("epochs: 2", "epochs: 3", None),
    ],
)
def test_runs_of_another_recipe_are_no_evidence(before, after, said, runs, export, tmp_path):
    other = shutil.copytree(runs / "seed2", tmp_path / "other")
    text = (other / "recipe.yaml").read_text()
    assert text.count(before) == 1
    (other / "recipe.yaml").write_text(text.replace(before, after))
    words = (runs / "seed1", "--to", "hub-folder", "--out", tmp_path / "hub", "--runs", runs / "seed1", other)
    if said is None:
        export(*words)
        return
    refused = export(*words, expect=2)
    assert f"the run {other} is of another recipe than these weights ({said})" in refused
    assert not (tmp_path / "hub").exists()


def test_runs_beside_a_source_without_a_recipe_are_marked(runs, export, tmp_path):
    said = export(*AUTHORS, "--to", "hub-folder", "--out", tmp_path / "hub", "--runs", runs)
    assert "whether the runs are of this model is not known" in said
    assert "is the word of whoever exported it" in (tmp_path / "hub" / "README.md").read_text()


def test_averaged_weights(runs, export, tmp_path):
    said = export(runs / "seed1", "--average", "--to", "hub-folder", "--out", tmp_path / "hub")
    assert "orthostream.hub: largest difference" in said
    state = load_file(tmp_path / "hub" / "model.safetensors")
    folder = newest(runs / "seed1")
    for name, is_same in (("average", True), ("model", False)):
        weights = load_file(folder / f"{name}.safetensors")["classifier.1.weight"]
        assert torch.equal(state["classifier.weight"], weights) == is_same
    card = (tmp_path / "hub" / "README.md").read_text()
    assert "(averaged over steps)" in card and "| top-1 of averaged weights, last epoch |" in card


def test_timm_sources(export, tmp_path):
    """A model made in timm, as its own folder and as bare weights, computes after the export what it does there."""
    pytest.importorskip("timm")
    from timm.models.vision_transformer import VisionTransformer
    from transformers import AutoModelForImageClassification

    arguments = {
        "img_size": 16, "patch_size": 4, "num_classes": 7, "embed_dim": 24, "depth": 2, "num_heads": 3,
        "act_layer": "gelu_tanh",
    }  # fmt: skip
    torch.manual_seed(0)
    model = VisionTransformer(**arguments).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    source = tmp_path / "timm"
    source.mkdir()
    save_file(model.state_dict(), source / "model.safetensors")
    (source / "config.json").write_text(json.dumps({"architecture": "vit_tiny", "model_args": arguments}))
    bare = (source / "model.safetensors", "--num-heads", 3, "--activation", "gelu_tanh")
    assert "is none" in export(source, "--average", "--to", "hub-folder", "--out", tmp_path / "no", expect=2)
    for name, words in (("folder", (source,)), ("bare", bare)):
        said = export(*words, "--to", "hub-folder", "--out", tmp_path / name)
        assert "connection linear" in said and "the folder's own code: largest difference" in said
        golden = load_file(tmp_path / name / "golden.safetensors")
        exported = AutoModelForImageClassification.from_pretrained(tmp_path / name)
        with torch.no_grad():
            expected, found = model(golden["pixel_values"]), exported(golden["pixel_values"]).logits
        # float32 rounding of logits of about one
        torch.testing.assert_close(golden["logits"], expected, atol=2e-6, rtol=0.0)
        torch.testing.assert_close(found, expected, atol=2e-6, rtol=0.0)
        assert json.loads((tmp_path / name / "config.json").read_text())["final_layer_norm_eps"] == 1e-6


def test_a_source_without_a_recipe(export, tmp_path):
    from transformers import pipeline

    said = export(*AUTHORS, "--to", "hub-folder", "--out", tmp_path / "bare")
    assert "names of the classes are not known" in said and "how images are prepared is not known" in said
    assert not (tmp_path / "bare" / "preprocessor_config.json").exists()
    classes = len(json.loads((tmp_path / "bare" / "config.json").read_text())["id2label"])
    (tmp_path / "labels").write_text("".join(f"class {number}\n" for number in range(classes)))
    side = json.loads((tmp_path / "bare" / "config.json").read_text())["image_size"]
    prepared = {"image_processor_type": "ViTImageProcessor", "size": {"height": side, "width": side}}
    (tmp_path / "prepare.json").write_text(json.dumps(prepared))
    options = ("--labels", tmp_path / "labels", "--preprocessor", tmp_path / "prepare.json")
    export(*AUTHORS, "--to", "hub-folder", "--out", tmp_path / "told", *options)
    assert json.loads((tmp_path / "told" / "config.json").read_text())["id2label"]["1"] == "class 1"
    classify = pipeline("image-classification", model=str(tmp_path / "told"))
    found = classify(Image.new("RGB", (50, 40), "red"))
    assert {each["label"] for each in found} <= {f"class {number}" for number in range(classes)}
    # a folder is exported again with what it holds
    export(tmp_path / "told", "--to", "hub-folder", "--out", tmp_path / "again")
    for name in ("config.json", "preprocessor_config.json", "model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "told" / name).read_bytes(), name
    first, second = (load_file(tmp_path / name / "golden.safetensors") for name in ("told", "again"))
    assert torch.equal(first["logits"], second["logits"])


def test_what_does_not_fit_is_refused(runs, export, tmp_path):
    words = ("--to", "hub-folder", "--out", tmp_path / "no")
    (tmp_path / "labels").write_text("one\ntwo\n")
    assert "there are 2 names" in export(*AUTHORS, *words, "--labels", tmp_path / "labels", expect=2)
    assert "cannot be read" in export(*AUTHORS, *words, "--labels", tmp_path / "none", expect=2)
    assert "images of 1 channels" in export(*AUTHORS, *words, "--data", "digits", expect=2)
    assert "no preprocessor_config.json" in export(
        *AUTHORS, *words, "--preprocessor", GOLDEN / "ortho" / "checkpoint" / "io.json", expect=2
    )
    missing = export(runs / "seed1", *words, "--data-source", tmp_path / "nowhere", expect=2)
    assert "both --preprocessor FILE and --labels FILE" in missing
    assert "no run at or below" in export(*AUTHORS, *words, "--runs", tmp_path, expect=2)
    # a comparison that fails leaves nothing behind
    assert "computes something else" in export(runs / "seed1", *words, "--tolerance", -1, expect=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["labels"]


def test_unfinished_runs_are_no_evidence(runs, export, tmp_path):
    shutil.copytree(runs / "seed1", tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    words = (tmp_path / "run", "--to", "hub-folder", "--out", tmp_path / "hub")
    assert "is finished; leave out --runs" in export(*words, "--runs", tmp_path / "run", expect=2)
    export(*words)
    assert f"**{MARK}**: no run with results" in (tmp_path / "hub" / "README.md").read_text()


def test_what_exists_stays(export, tmp_path):
    out = tmp_path / "hub"
    export(*AUTHORS, "--to", "hub-folder", "--out", out)
    (out / "note.txt").write_text("mine")
    assert "--force" in export(*AUTHORS, "--to", "hub-folder", "--out", out, expect=2)
    assert (out / "note.txt").exists()
    export(*AUTHORS, "--to", "hub-folder", "--out", out, "--force")
    assert not (out / "note.txt").exists()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "note.txt").write_text("mine")
    assert "replaces only" in export(*AUTHORS, "--to", "hub-folder", "--out", tmp_path / "other", "--force", expect=2)
    assert (tmp_path / "other" / "note.txt").exists()


def test_torch_export(export, tmp_path):
    out = tmp_path / "model.pt2"
    assert "verification: largest difference" in export(*AUTHORS, "--to", "torch_export", "--out", out)
    tensors = load_file(GOLDEN / "ortho" / "checkpoint" / "io.safetensors")
    images = next(tensor for tensor in tensors.values() if tensor.ndim == 4)
    assert torch.export.load(out).module()(images[:1]).shape[0] == 1
    before = out.read_bytes()
    assert "--force" in export(*AUTHORS, "--to", "torch_export", "--out", out, expect=2)
    assert "ends in .pt2" in export(*AUTHORS, "--to", "torch_export", "--out", tmp_path / "m.onnx", expect=2)
    assert "belongs to --to hub-folder" in export(
        *AUTHORS, "--to", "torch_export", "--out", tmp_path / "b.pt2", "--licence", "mit", expect=2
    )
    assert "computes something else" in export(
        *AUTHORS, "--to", "torch_export", "--out", out, "--force", "--tolerance", -1, expect=2
    )
    assert out.read_bytes() == before and sorted(path.name for path in tmp_path.iterdir()) == ["model.pt2"]
