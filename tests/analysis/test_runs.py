"""Run folders are read as they were written; what is damaged is refused by name, what a kill leaves is not."""

import json
import math
from pathlib import Path

import pytest

from analysis.synthetic_runs import write_run
from orthostream.analysis.runs import find_runs, grouped, read_run, read_runs
from orthostream.analysis.site_rows import LoggedSite, site_series
from orthostream.errors import UsageError


def test_reads_what_was_written(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run", "orthogonal", seed=3, epochs=5, depth=2))
    assert run.label == "orthogonal"
    assert run.seed == 3
    assert run.is_finished
    assert [row["epoch"] for row in run.epochs] == [0, 1, 2, 3, 4]
    assert [row["step"] for row in run.statistics] == [20, 40, 60, 80, 100]
    assert run.train[0]["train/lr"] == 1e-3
    assert run.recipe["model"] == {"name": "vit_s", "depth": 2}
    assert "# command line" in run.recipe_text
    assert run.versions["torch"] == "2.15.0"
    assert run.result is not None and run.result["parameters"] == 812_042
    assert run.notes == []


def test_a_killed_run_is_read_up_to_its_last_whole_line(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", finished=False)
    metrics = folder / "metrics.jsonl"
    whole = read_run(folder)
    metrics.write_text(metrics.read_text() + '{"kind": "train", "step": 999, "trai')
    run = read_run(folder)
    assert not run.is_finished
    assert (run.train, run.epochs, run.statistics) == (whole.train, whole.epochs, whole.statistics)
    assert run.notes == ["the last line of metrics.jsonl was cut off and is left out"]


def test_a_line_that_looks_whole_but_lacks_its_end_is_not_trusted(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", finished=False)
    metrics = folder / "metrics.jsonl"
    # A value cut off inside its digits is still JSON once the brace is there; only the line break says it is whole.
    metrics.write_text(metrics.read_text() + '{"kind": "train", "step": 999}')
    assert all(row["step"] != 999 for row in read_run(folder).train)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("metrics.jsonl", '{"kind": "train", "step": 1}\nnonsense\n{"kind": "train", "step": 2}\n', r"metrics.jsonl:2"),
        ("metrics.jsonl", '{"step": 1}\n', r"metrics.jsonl:1.*'kind'"),
        ("metrics.jsonl", b"\xff\xfe\n", "cannot be read"),
        ("metrics.jsonl", None, "is missing"),
        ("recipe.yaml", "a: [", "not YAML"),
        ("recipe.yaml", "model: vit_s\n", "integer 'seed'"),
        ("recipe.yaml", "!!python/object/apply:os.system ['true']\n", "not YAML"),
        ("versions.json", "[]", "expected an object"),
        ("result.json", '{"finished": tr', "not JSON"),
    ],
)
def test_damage_is_refused_by_name(tmp_path: Path, file: str, content: str | bytes | None, message: str) -> None:
    folder = write_run(tmp_path / "run")
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(UsageError, match=message):
        read_run(folder)


def test_an_unreadable_run_is_reported_beside_the_others(tmp_path: Path) -> None:
    good = write_run(tmp_path / "runs" / "a", seed=0)
    bad = write_run(tmp_path / "runs" / "b", seed=1)
    (bad / "versions.json").unlink()
    found = read_runs(find_runs(tmp_path))
    assert [run.folder for run in found.read] == [good]
    assert list(found.unreadable) == [bad]
    assert "versions.json is missing" in found.unreadable[bad]


def test_find_runs(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / name) for name in ("b/seed1", "a", "b/seed0")]
    (folders[0] / "checkpoints" / "step-1").mkdir(parents=True)
    (folders[0] / "checkpoints" / "step-1" / "recipe.yaml").touch()
    assert find_runs(tmp_path) == sorted(folders)
    assert find_runs(folders[0]) == [folders[0]]
    with pytest.raises(UsageError, match="no run at or below"):
        find_runs(tmp_path / "elsewhere")


def test_groups_are_named_by_what_differs(tmp_path: Path) -> None:
    runs = [
        read_run(write_run(tmp_path / f"{connection}-{depth}-{seed}", connection, seed, depth=depth))
        for connection in ("orthogonal", "linear")
        for depth in (2, 3)
        for seed in (1, 0)
    ]
    groups = grouped(runs)
    # The plain residual first: it is what the others are compared with.
    assert list(groups) == [
        "model.depth=2 linear", "model.depth=3 linear", "model.depth=2 orthogonal", "model.depth=3 orthogonal"
    ]  # fmt: skip
    assert all(list(cells) == [0, 1] for cells in groups.values())
    assert all(run.label == label for label, cells in groups.items() for run in cells.values())
    one = [run for run in runs if run.recipe["connection"] == {"name": "linear"} and run.recipe["model"]["depth"] == 2]
    assert list(grouped(one)) == ["linear"]


def test_two_runs_of_one_cell_are_refused(tmp_path: Path) -> None:
    runs = [read_run(write_run(tmp_path / name)) for name in ("one", "two")]
    with pytest.raises(UsageError, match=r"one and .*two are runs of the same recipe"):
        grouped(runs)


def test_site_series(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", epochs=2, depth=2)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    sampled = [row for row in rows if row["kind"] == "statistics"]
    # What was not finite is written as null.
    sampled[1]["activation/mlp/block01/x_norm2"] = None
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in sampled))
    series = site_series(read_run(folder), "x_norm2")
    assert series is not None
    assert series.sites == [LoggedSite("attn", 0), LoggedSite("mlp", 0), LoggedSite("attn", 1), LoggedSite("mlp", 1)]
    assert series.steps == [20, 40]
    assert series.values[0][2] == sampled[0]["activation/attn/block01/x_norm2"]
    assert math.isnan(series.values[1][3])
    assert site_series(read_run(folder), "pattern/alpha") is None
