"""The command line on text: plan, train, evaluate, compare, and what is refused."""

import json
import math
import re

import pytest
import torch
from runs import orthostream, rows
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

from orthostream import data, recipe
from orthostream.cli import main
from orthostream.hub import OrthoLlamaForCausalLM

SMALL = (
    "llama_shakespeare",
    "model.embed_dim=16",
    "model.depth=2",
    "model.num_heads=2",
    "connection=orthogonal",
    "data.context=16",
    "train.epochs=2",
    "train.batch_size=16",
    "schedule.warmup_epochs=0",
    "statistics.interval=10",
    "log.interval=10",
    "log.progress=lines",
)
TEXT = "".join(f"{number * number % 97} bottles stand on {number * 7 % 31} walls\n" for number in range(200))
EVALUATED = len(TEXT) - len(TEXT) * 9 // 10 - 1


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "input.txt"
    path.write_text(TEXT)
    return path


@pytest.fixture(scope="module")
def run(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert main(["train", *SMALL, f"data.source={source}", "--run-dir", str(folder)]) == 0
    return folder


def refused(capsys, *arguments):
    """The message of a call that ends with code 2."""
    assert main([str(argument) for argument in arguments]) == 2
    return capsys.readouterr().err


def test_a_run_ends_with_its_bits_and_keeps_the_best(run):
    result = json.loads((run / "result.json").read_text())
    assert result["final"]["val/n"] == EVALUATED
    assert result["final"]["val/bits_per_char"] == pytest.approx(result["final"]["val/loss"] / math.log(2))
    bits = [row["val/bits_per_char"] for row in rows(run) if row["kind"] == "epoch"]
    assert result["best"]["val/bits_per_char"] == min(bits)


def test_the_plan_shows_windows_and_text_and_no_image(source, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", *SMALL, f"data.source={source}", "--plan"]) == 0
    said = capsys.readouterr().out
    letters = len(set(TEXT))
    windows = (len(TEXT) * 9 // 10 - 1) // 16
    assert (
        f"{windows} training windows of 16 characters, {EVALUATED} evaluation characters, {letters} different" in said
    )
    assert "16 = 1 processes x 1 micro-batches x 16 windows" in said and "forward per window" in said
    (shown,) = re.findall(r"the first window begins with '(.*)'", said)
    assert shown.encode().decode("unicode_escape") in TEXT
    assert list(tmp_path.iterdir()) == []


def test_an_evaluation_is_that_of_the_end_of_training(run, tmp_path, capsys):
    assert main(["evaluate", str(run), "--json", str(tmp_path / "result.json"), "--per-class"]) == 0
    said, final = capsys.readouterr().out, json.loads((run / "result.json").read_text())["final"]
    assert re.search(rf"n {EVALUATED}  .* loss \d\.\d{{4}}  bits_per_char {final['val/bits_per_char']:.4f}\n", said)
    assert "\n  '\\n'  " in said
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["n"], result["loss"]) == (EVALUATED, pytest.approx(final["val/loss"], rel=1e-12))
    assert result["bits_per_char"] == pytest.approx(final["val/bits_per_char"], rel=1e-12)
    assert sum(map(sum, result["confusion"])) == EVALUATED


def test_another_text_is_read_with_the_vocabulary_of_the_run(run, tmp_path, capsys):
    other = tmp_path / "other.txt"
    other.write_text("walls on bottles " * 60)
    assert main(["evaluate", str(run), "--data", "text", "--source", str(other)]) == 0
    assert f"n {len(other.read_text()) // 10 - 1}  " in capsys.readouterr().out
    other.write_text("Wände und Flaschen " * 60)
    said = refused(capsys, "evaluate", run, "--data", "text", "--source", other)
    assert "no number for: 'F', 'W', 'c', 'h', 'u', 'ä'" in said
    assert "'llama' takes characters" in refused(capsys, "evaluate", run, "--data", "digits")


def test_a_comparison_is_in_bits(source, tmp_path, capsys):
    out = tmp_path / "out"
    kept = [each for each in SMALL[1:] if not each.startswith(("connection", "statistics"))]
    small = [f"data.source={source}", "statistics.interval=null", *kept]
    arguments = [
        "compare",
        SMALL[0],
        *small,
        "--vary",
        "connection=linear,orthogonal",
        "--seeds",
        "1",
        "--jobs",
        "2",
        "--out",
        str(out),
    ]
    assert main(arguments) == 0
    table = capsys.readouterr().out
    final = [
        json.loads((out / f"{name}-seed42" / "result.json").read_text())["final"] for name in ("linear", "orthogonal")
    ]
    first, second = (each["val/bits_per_char"] for each in final)
    assert re.search(rf"\nbits per character, last epoch +linear +1 +{first:.4f}  bits +42: {first:.4f}", table)
    assert re.search(rf"\nbits per character, last epoch +1 +{second - first:+.4f}  bits ", table)
    assert "next character right" in table and "top-1" not in table
    page = (out / "report.html").read_text()
    assert "Bits per character, last epoch:" in page
    figures = {path.name for path in (out / "figures").iterdir()}
    assert {"val_bits_per_char.png", "val_acc1.png", "train_epoch_loss.png"} <= figures


@pytest.fixture(scope="module")
def folder(run, tmp_path_factory):
    """The run as a folder of transformers."""
    out = tmp_path_factory.mktemp("folder") / "llama"
    assert main(["convert", str(run), "--to", "hf", "--out", str(out)]) == 0
    return out


def test_a_run_becomes_a_folder_of_transformers(run, folder):
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert isinstance(model, OrthoLlamaForCausalLM) and model.config.residual_connection == "orthogonal"
    tokens = tokenizer(TEXT, return_tensors="pt").input_ids
    assert tokenizer.decode(tokens[0]) == TEXT and len(tokens[0]) == len(TEXT)
    # the windows of an evaluation, by transformers' own loss: the same bits
    held_out = tokens[0, len(TEXT) * 9 // 10 :]
    losses = []
    with torch.no_grad():
        for start in range(0, len(held_out) - 1, 16):
            window = held_out[start : start + 17]
            logits = model(window[None, :-1]).logits[0]
            losses.append(functional.cross_entropy(logits.double(), window[1:], reduction="sum"))
    bits = float(sum(losses)) / EVALUATED / math.log(2)
    assert bits == pytest.approx(json.loads((run / "result.json").read_text())["final"]["val/bits_per_char"], rel=1e-6)


def test_the_pipeline_writes_text(folder):
    (written,) = pipeline("text-generation", model=str(folder))("5 bottles", max_new_tokens=12, do_sample=False)
    text = written["generated_text"]
    assert text.startswith("5 bottles") and len(text) == 21 and set(text) <= set(TEXT)
    with pytest.raises(Exception, match="Missing"):
        AutoTokenizer.from_pretrained(folder)("Ä")


def test_what_a_folder_cannot_be_is_refused(run, source, tmp_path, capsys):
    out = tmp_path / "out"
    assert "there is --to hf alone, not timm" in refused(capsys, "convert", run, "--to", "timm", "--out", out)
    assert "--num-heads says nothing" in refused(capsys, "convert", run, "--to", "hf", "--num-heads", 2, "--out", out)
    assert "no averaged weights" in refused(capsys, "convert", run, "--to", "hf", "--average", "--out", out)
    said = refused(capsys, "export", run, "--to", "hub-folder", "--out", out)
    assert "is of a language model" in said and "--to hf" in said
    some = tmp_path / "some"
    assert (
        main(
            [
                "train",
                *SMALL,
                f"data.source={source}",
                "connection.blocks=[1]",
                "train.max_steps=1",
                "--run-dir",
                str(some),
            ]
        )
        == 0
    )
    assert "one connection for all blocks" in refused(capsys, "convert", some, "--to", "hf", "--out", out)
    assert not out.exists()
    assert main(["convert", str(run), "--to", "hf", "--dry-run", "--out", str(out)]) == 0 and not out.exists()


def test_what_does_not_fit_is_refused_before_anything_is_written(tmp_path, capsys):
    given = ("llama_shakespeare", f"data.source={tmp_path / 'nowhere.txt'}")
    assert "does not exist" in refused(capsys, "train", *given, "--run-dir", tmp_path / "run")
    said = refused(capsys, "compare", *given, "--vary", "data=text,digits", "--out", tmp_path / "out")
    assert "'llama' takes characters, and data set 'digits' holds images" in said
    assert not (tmp_path / "out").exists()
    assert "source is missing" in refused(capsys, "train", "llama_shakespeare", "--run-dir", tmp_path / "run")


def test_the_lists_name_it():
    assert re.search(r"^llama .*needs transformers", orthostream("list", "models"), re.MULTILINE)
    assert "text" in data.names() and "llama_shakespeare" in recipe.names()
