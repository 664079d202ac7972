"""``orthostream evaluate`` of a Hugging Face folder in processes of its own."""

import json

import pytest
from runs import SMALL, orthostream

from orthostream.cli import main

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A grey model for digits with untrained weights."""
    import torch

    from orthostream.hub import OrthoViTConfig, OrthoViTForImageClassification

    torch.manual_seed(0)
    config = OrthoViTConfig(
        hidden_size=12, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24, image_size=8, patch_size=4,
        num_channels=1, num_labels=10, residual_connection="orthogonal", initializer_range=0.3,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("model") / "hf"
    OrthoViTForImageClassification(config).save_pretrained(folder)
    return folder


@pytest.mark.distributed
def test_two_processes_count_the_same(model, tmp_path):
    results = []
    for ranks in (1, 2):
        out = tmp_path / f"{ranks}.json"
        text = orthostream(
            "evaluate", model, "--data", "digits", "--per-class", "--batch-size", 7, "--json", out, ranks=ranks
        )
        # One voice for all processes.
        assert text.count("n 360  top-1") == 1 and text.count("note: transform:") == 1
        results.append(json.loads(out.read_text()))
    losses = [result.pop("loss") for result in results]
    assert results[0] == results[1] and results[0]["n"] == 360
    # float64 sums in another order
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


@pytest.mark.parametrize("name", [".", "gone"])
def test_a_folder_that_is_nothing_is_refused(name, tmp_path, capsys):
    assert main(["evaluate", str(tmp_path / name), "--data", "digits"]) == 2
    assert "neither a checkpoint" in capsys.readouterr().err


def test_a_checkpoint_takes_a_path_as_its_data(tmp_path, capsys):
    run = tmp_path / "run"
    orthostream("train", *SMALL, "--run-dir", run)
    assert main(["evaluate", str(run), "--data", str(run)]) == 2
    assert "has no train folder" in capsys.readouterr().err
