"""The suite that loads models, on a tiny one; nothing here looks at how long anything takes."""

import pytest
import torch

pytest.importorskip("benchmarks", reason="benchmarks stand in the repository, not in the package")
pytest.importorskip("transformers")

from benchmarks import loading
from benchmarks.cases import Setting, Skip
from benchmarks.suites import SUITES
from benchmarks.suites import load as suite

TINY = suite.Model(
    "tiny",
    {
        "hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24, "image_size": 8,
        "patch_size": 4, "num_labels": 5,
    },
)  # fmt: skip


def test_both_sides_load_as_many_weights(tmp_path) -> None:
    folders = suite.saved(TINY, tmp_path)
    models = {side: loading.load(side, folder) for side, folder in folders.items()}
    assert {side: type(model).__name__ for side, model in models.items()} == {side: side for side in folders}
    sizes = {sum(parameter.numel() for parameter in model.parameters()) for model in models.values()}
    assert len(sizes) == 1
    assert {parameter.dtype for model in models.values() for parameter in model.parameters()} == {torch.float32}


def test_a_process_of_its_own(tmp_path) -> None:
    folders = suite.saved(TINY, tmp_path)
    found = loading.in_own_process(loading.THEIRS, folders[loading.THEIRS])
    # An interpreter with torch and nothing else needs more than 50 MB, and this one less than all memory.
    assert found.seconds > 0 and 50e6 < found.peak < 1e11
    with pytest.raises(RuntimeError, match=f"the process that loads {loading.OURS} failed"):
        loading.in_own_process(loading.OURS, tmp_path / "gone")


def test_rows_of_both_ways(monkeypatch) -> None:
    peaks = {loading.THEIRS: iter([5e6, 1e6, 3e6]), loading.OURS: iter([2e6, 2e6, 2e6])}
    order = []

    def first(side, folder):
        assert (folder / "model.safetensors").is_file()
        order.append(side)
        return loading.First(1.0 if side == loading.THEIRS else 2.0, next(peaks[side]))

    monkeypatch.setattr(suite, "in_own_process", first)
    again, fresh = suite.measure(TINY, Setting(torch.device("cpu"), rounds=3, compiles=False))
    assert (again.base, again.other, again.rounds) == (loading.THEIRS, loading.OURS, 3)
    assert again.base_ms > 0 and again.peak_mb_base is None
    assert (fresh.ratio, fresh.peak_mb_base, fresh.peak_mb_other) == (2.0, 3.0, 2.0)
    assert order == [loading.THEIRS, loading.OURS, loading.OURS, loading.THEIRS, loading.THEIRS, loading.OURS]


def test_it_is_skipped_on_a_gpu() -> None:
    with pytest.raises(Skip, match="--device cpu"):
        SUITES["load"](torch.device("cuda"))
