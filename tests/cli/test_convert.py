"""``orthostream convert`` as a person uses it: what it says, what it writes, and what it leaves alone."""

import argparse
import json
import shutil

import pytest
import torch
from runs import SMALL, in_this_process, newest, orthostream
from safetensors.torch import load_file, save_file

from locations import GOLDEN
from orthostream.cli import convert as verb
from orthostream.layouts import verify

CHECKPOINT = GOLDEN / "ortho" / "checkpoint"
PT, OFFICIAL = CHECKPOINT / "0000003.pt", CHECKPOINT / "converted_official"


@pytest.fixture
def convert(capsys):
    """``convert(*words, expect=0)``: all output of a call in this process."""
    return in_this_process(verb, capsys)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run on digits, with averaged weights."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    orthostream("train", *SMALL, "train.ema_decay=0.9", "--run-dir", folder)
    return folder


def content(folder):
    """Names and bytes of all files of a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_goes_to_the_hub_and_back(trained, convert, tmp_path):
    pytest.importorskip("transformers")
    said = convert(trained, "--to", "hf", "--out", tmp_path / "hf")
    assert "a checkpoint of orthostream" in said and "connection orthogonal" in said
    assert "verification: largest difference" in said and "wrote a Hugging Face folder" in said
    assert "a Hugging Face folder of model type ortho_vit" in convert(
        tmp_path / "hf", "--to", "training", "--out", tmp_path / "back"
    )
    first, second = load_file(newest(trained) / "model.safetensors"), load_file(tmp_path / "back" / "model.safetensors")
    assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)
    for path, result in ((trained, "a.json"), (tmp_path / "back", "b.json")):
        orthostream("evaluate", path, "--data", "digits", "--json", tmp_path / result)
    # The recipe of the run has larger batches, so the mean loss is summed in another order.
    first, second = (json.loads((tmp_path / name).read_text()) for name in ("a.json", "b.json"))
    assert first == pytest.approx(second, rel=1e-12)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "b.json", "back", "hf"]


def test_averaged_and_best_weights(trained, convert, tmp_path):
    pytest.importorskip("transformers")
    convert(trained, "--average", "--to", "hf", "--out", tmp_path / "average")
    convert(trained, "--best", "--to", "hf", "--out", tmp_path / "best")
    key = "classifier.weight"
    average = load_file(newest(trained) / "average.safetensors")["classifier.1.weight"]
    assert torch.equal(load_file(tmp_path / "average" / "model.safetensors")[key], average)
    assert not torch.equal(load_file(tmp_path / "best" / "model.safetensors")[key], average)
    assert "--best and --average choose" in convert(
        OFFICIAL, "--best", "--to", "training", "--out", tmp_path / "no", expect=2
    )


def test_the_authors_file_goes_round_all_layouts(convert, tmp_path):
    pytest.importorskip("transformers")
    convert(PT, "--num-heads", 3, "--to", "hf", "--out", tmp_path / "hf")
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["final_layer_norm_eps"] == 1e-5
    convert(tmp_path / "hf", "--to", "training", "--out", tmp_path / "ours")
    said = convert(tmp_path / "ours", "--to", "authors", "--out", tmp_path / "back.pt")
    assert "read it with --num-heads 3" in said and "largest difference 0," in said
    with torch.serialization.safe_globals([argparse.Namespace]):
        first, second = (torch.load(path, weights_only=True)["model"] for path in (PT, tmp_path / "back.pt"))
    assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_the_official_conversion_is_read_with_its_own_eps(convert, tmp_path):
    pytest.importorskip("transformers")
    said = convert(OFFICIAL, "--to", "training", "--out", tmp_path / "ours")
    assert "position of the class token is not zero" in said and "eps" not in said
    assert "verification: largest difference" in convert(tmp_path / "ours", "--to", "hf", "--out", tmp_path / "back")
    first, second = (json.loads((folder / "config.json").read_text()) for folder in (OFFICIAL, tmp_path / "back"))
    assert first["layer_norm_eps"] == second["final_layer_norm_eps"] == 1e-6
    # the authors' program has 1e-5 there: more than rounding, and told
    words = (OFFICIAL, "--to", "authors", "--out", tmp_path / "theirs.pt")
    assert "eps 1e-06, and theirs always 1e-05" in convert(*words)
    (tmp_path / "theirs.pt").unlink()
    refused = convert(*words, "--tolerance", 1e-8, expect=2)
    assert "computes something else" in refused and not (tmp_path / "theirs.pt").exists()


def test_timm(convert, tmp_path):
    pytest.importorskip("timm")
    pytest.importorskip("transformers")
    said = convert(PT, "--num-heads", 3, "--to", "timm", "--out", tmp_path / "no", expect=2)
    assert "timm adds updates plainly" in said and not (tmp_path / "no").exists()
    said = convert(PT, "--num-heads", 3, "--to", "timm", "--weights-only", "--out", tmp_path / "timm")
    assert "verification: left out: timm does not compute this connection" in said
    bare = tmp_path / "timm" / "model.safetensors"
    assert "exact GELU" in convert(bare, "--to", "hf", "--out", tmp_path / "hf", expect=2)
    options = ("--num-heads", 3, "--activation", "gelu_tanh")
    assert "connection linear" in convert(bare, *options, "--to", "hf", "--out", tmp_path / "hf")
    # now without an orthogonal update, both sides can be compared
    assert "largest difference" in convert(tmp_path / "hf", "--to", "timm", "--out", tmp_path / "again")


def test_what_exists_stays(convert, tmp_path):
    pytest.importorskip("transformers")
    words = (PT, "--num-heads", 3, "--to", "hf", "--out")
    out = tmp_path / "hf"
    convert(*words, out)
    (out / "note.txt").write_text("mine")
    before = content(out)
    assert "exists; choose another --out, or replace it with --force" in convert(*words, out, expect=2)
    assert content(out) == before
    convert(*words, out, "--force")
    assert content(out).keys() == {"config.json", "model.safetensors"}
    other = tmp_path / "photos"
    other.mkdir()
    (other / "a.jpg").write_bytes(b"1")
    assert "something else, and --force replaces only" in convert(*words, other, "--force", expect=2)
    assert content(other) == {"a.jpg": b"1"}
    source = tmp_path / "source"
    shutil.copytree(OFFICIAL, source)
    for place in (source, tmp_path):
        said = convert(source, "--to", "hf", "--out", place, "--force", expect=2)
        assert "is or holds the source" in said and (source / "config.json").is_file()


def test_a_dry_run_and_a_failed_one_leave_nothing(convert, tmp_path, monkeypatch):
    pytest.importorskip("transformers")
    words = (PT, "--num-heads", 3, "--to", "hf", "--out", tmp_path / "deep" / "hf")
    said = convert(*words, "--dry-run")
    assert "verification: largest difference" in said and "was not written" in said
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(verify.Agreement, "check", lambda *_: (_ for _ in ()).throw(verb.UsageError("too far")))
    assert "too far" in convert(*words, expect=2)
    assert list((tmp_path / "deep").iterdir()) == []
    assert "whether the logits agree is not known" in convert(*words, "--no-verify")


def test_a_wrong_conversion_is_not_written(convert, tmp_path, monkeypatch):
    """The comparison sees a single number in the wrong place."""
    pytest.importorskip("transformers")
    from orthostream.layouts import ortho_vit

    right = ortho_vit.to_hub

    def wrong(weights, architecture):
        state = right(weights, architecture)
        name = "vit.embeddings.position_embeddings"
        return state | {name: state[name].roll(1, dims=1)} if not state[name].is_meta else state

    monkeypatch.setattr(ortho_vit, "to_hub", wrong)
    said = convert(PT, "--num-heads", 3, "--to", "hf", "--out", tmp_path / "hf", expect=2)
    assert "the converted model computes something else" in said and list(tmp_path.iterdir()) == []


def test_mistakes(convert, tmp_path):
    out = ("--out", tmp_path / "out")
    assert "give --num-heads" in convert(PT, "--to", "hf", *out, expect=2)
    assert "does not exist" in convert(tmp_path / "gone", "--to", "hf", *out, expect=2)
    assert "says its num_heads itself" in convert(OFFICIAL, "--num-heads", 3, "--to", "training", *out, expect=2)
    assert "ends in .pt" in convert(OFFICIAL, "--to", "authors", *out, expect=2)
    assert "--weights-only belongs to --to timm" in convert(OFFICIAL, "--to", "hf", "--weights-only", *out, expect=2)
    assert "--image-size is one side" in convert(PT, "--to", "hf", *out, "--image-size", 1, 2, 3, expect=2)
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    assert "has no tensor 'patch_embed.proj.weight'" in convert(
        tmp_path / "a.safetensors", "--to", "hf", *out, expect=2
    )
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]
