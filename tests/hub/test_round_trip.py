"""The whole way to a published number, by the real command line: checkpoint, conversion, evaluation in new processes.

The model has random weights; the images are real. Each image has a class of its own, so that a row of the confusion
matrix is the prediction of one image.
"""

import json
import subprocess

import pytest
import torch
from runs import ENVIRONMENT, command

from locations import data_folder
from orthostream import data, models
from orthostream.data.transforms import evaluation_transform
from orthostream.layouts.architecture import Architecture, Trained
from orthostream.layouts.run_checkpoint import trained_of, write_checkpoint
from orthostream.training import checkpoint as checkpoints

pytest.importorskip("transformers")

CLASSES = 1000
SMALL = {"embed_dim": 48, "depth": 2, "num_heads": 3, "patch_size": 32}
VIT_B = {"embed_dim": 768, "depth": 12, "num_heads": 12, "patch_size": 16}


def orthostream(*words):
    """What a call says; minutes for a ViT-B."""
    done = subprocess.run(command(*words), env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def random_checkpoint(folder, sizes):
    """A checkpoint of a ViT whose predictions differ from image to image."""
    torch.manual_seed(0)
    model = models.create("vit_b", num_classes=CLASSES, image_size=224, connection="orthogonal", **sizes)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3 / max(1, parameter.shape[-1]) ** 0.5)
    write_checkpoint(folder, Trained(architecture=Architecture.of(model), weights=model.state_dict()))
    return folder


def predictions(path):
    """The predicted class of the image of each class that has one, each image counted once."""
    result = json.loads(path.read_text())
    found = {}
    for label, row in enumerate(result["confusion"]):
        assert sum(row) in (0, 1), f"class {label} was counted {sum(row)} times"
        if any(row):
            found[label] = row.index(1)
    assert len(found) == result["n"]
    assert result["top1"] == sum(label == guess for label, guess in found.items())
    return found


@pytest.mark.parametrize(
    "sizes",
    [
        pytest.param(SMALL, id="small"),
        pytest.param(VIT_B, id="vit_b", marks=[pytest.mark.slow, pytest.mark.timeout(7200)]),
    ],
)
def test_a_checkpoint_becomes_a_published_model_with_equal_predictions(sizes, tmp_path):
    root = data_folder("imagenet-1k-sample")
    saved = random_checkpoint(tmp_path / "checkpoint", sizes)
    said = orthostream("convert", saved, "--to", "hf", "--out", tmp_path / "hf")
    (compared,) = [line for line in said.splitlines() if line.startswith("verification: largest difference")]
    found = {}
    for name, place in (("shards", root / "wds"), ("folders", root / "val")):
        out = tmp_path / f"{name}.json"
        said = orthostream("evaluate", tmp_path / "hf", "--data", place, "--per-class", "--json", out)
        found[name] = predictions(out)
        (count,) = [line for line in said.splitlines() if line.startswith("n ")]
        print(f"{name}: {count}, {len(set(found[name].values()))} different predictions")
    assert (len(found["shards"]), len(found["folders"])) == (120, CLASSES)
    # A model that says the same whatever it sees would agree with anything.
    assert len(set(found["folders"].values())) > 50
    assert found["shards"] == {label: found["folders"][label] for label in found["shards"]}
    before = predicted_here(trained_of(checkpoints.load(saved)).model(), root / "wds")
    assert before == found["shards"]
    print(f"{compared}; {len(before)} predictions of the checkpoint are those of the published model")


def predicted_here(model, place):
    """The class that a model predicts in this process for the image of each class."""
    shards = data.load("shards", str(place), 224)
    transform = evaluation_transform(shards.description, "vit")
    found = {}
    with torch.no_grad():
        for index in range(len(shards.evaluation)):
            logits = model(transform(shards.evaluation.image(index))[None])
            found[shards.evaluation.label(index)] = int(logits.argmax())
    return found
