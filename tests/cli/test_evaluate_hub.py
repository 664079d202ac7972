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


@pytest.mark.parametrize(("name", "message"), [(".", "neither a checkpoint"), ("gone", "does not exist")])
def test_a_folder_that_is_nothing_is_refused(name, message, tmp_path, capsys):
    assert main(["evaluate", str(tmp_path / name), "--data", "digits"]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("./vit_s", "it begins with '.'"),
        ("runs/vit_s", "there is a folder 'runs' here"),
        ("models/vit_s.pt", "it ends in '.pt'"),
    ],
)
def test_a_mistyped_path_is_not_asked_of_the_hub(given, reason, model, tmp_path, monkeypatch, capsys):
    from orthostream.data import hub

    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    monkeypatch.setattr(hub, "_silence", lambda *a: pytest.fail("the hub was asked"))
    for words in (["evaluate", given, "--data", "digits"], ["evaluate", str(model), "--data", given]):
        assert main(words) == 2
        said = capsys.readouterr().err
        assert given in said and "oes not exist" in said and reason in said
    assert main(["convert", given, "--to", "hf", "--out", "out"]) == 2
    assert "does not exist" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


@pytest.mark.distributed
def test_two_processes_count_the_rows_of_parquet_files_once(tmp_path):
    """Nine images in row groups of two, shared by two processes with a worker each."""
    import io

    import numpy as np
    import pyarrow
    from PIL import Image
    from pyarrow import parquet

    from orthostream.hub import OrthoViTConfig, OrthoViTForImageClassification

    config = OrthoViTConfig(
        hidden_size=12, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24, image_size=8, patch_size=4,
        num_labels=3, residual_connection="orthogonal", initializer_range=0.3,
    )  # fmt: skip
    OrthoViTForImageClassification(config).save_pretrained(tmp_path / "hf")
    cells = []
    for index in range(9):
        held = io.BytesIO()
        Image.fromarray(np.random.default_rng(index).integers(0, 256, (9, 8, 3), dtype=np.uint8)).save(held, "PNG")
        cells.append({"bytes": held.getvalue(), "path": None})
    table = pyarrow.table({"image": cells, "label": [index % 3 for index in range(9)]})
    parquet.write_table(table, tmp_path / "val.parquet", row_group_size=2)
    words = ["evaluate", str(tmp_path / "hf"), "--data", str(tmp_path / "val.parquet"), "--batch-size", "2"]
    words += ["--workers", "1", "--per-class", "--device", "cpu", "--json"]
    assert main([*words, str(tmp_path / "1.json")]) == 0
    assert "names no classes" in orthostream(*words, tmp_path / "2.json", ranks=2)
    results = [json.loads((tmp_path / f"{ranks}.json").read_text()) for ranks in (1, 2)]
    losses = [result.pop("loss") for result in results]
    assert results[0] == results[1] and results[0]["n"] == 9
    assert [sum(row) for row in results[0]["confusion"]] == [3, 3, 3]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_a_checkpoint_takes_a_path_as_its_data(tmp_path, capsys):
    run = tmp_path / "run"
    orthostream("train", *SMALL, "--run-dir", run)
    assert main(["evaluate", str(run), "--data", str(run)]) == 2
    assert "has no train folder" in capsys.readouterr().err
