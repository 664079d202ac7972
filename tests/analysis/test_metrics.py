"""The six statistics against the authors' values, an independent float64 evaluation, and their limits."""

import json
from functools import cache

import pytest
import torch
from analysis.golden_variants import choice_of, learned_name
from locations import GOLDEN
from safetensors.torch import load_file
from torch import Tensor

from orthostream import connections
from orthostream.analysis.metrics import METRICS, site_metrics
from orthostream.connections import Components, Site

# Golden bfloat16 values were formed by the authors in bfloat16 (8 bits: 0.4 % a product); ours in float32.
TOLERANCES = {"fp32": {"rtol": 1e-5, "atol": 2e-6}, "mixed": {"rtol": 2e-2, "atol": 1e-2}, "bf16": {"rtol": 2e-2, "atol": 1e-2}}


@cache
def golden(name: str) -> tuple[dict, dict[str, Tensor]]:
    folder = GOLDEN / "ortho" / "connect"
    return json.loads((folder / f"{name}.json").read_text())["cases"], load_file(folder / f"{name}.safetensors")


def golden_cases() -> list[tuple[str, str]]:
    return [
        (name, case)
        for name in TOLERANCES
        if (GOLDEN / "ortho" / "connect" / f"{name}.json").exists()
        for case, facts in golden(name)[0].items()
        if facts.get("stats")
    ]


def made_connection(facts: dict, tensors: dict[str, Tensor]) -> connections.Connection:
    axis = -1 if facts["layout"] == "btd" else 1
    width = tensors[f"{facts['layout']}.x"].shape[axis]
    name, options = choice_of(facts, tuple(facts["reduce_dims"]))
    connection = connections.create(name, site=Site(axis=axis, features=width), **options)
    if facts.get("params"):
        value = facts["params"].get(learned_name(connection))
        learned = tensors[f"{facts['layout']}.proj_weight"] if value is None else torch.tensor(value)
        with torch.no_grad():
            next(connection.parameters()).copy_(learned)
    return connection


@pytest.mark.parametrize(("file", "case"), golden_cases())
def test_golden_statistics(file: str, case: str) -> None:
    cases, tensors = golden(file)
    facts = cases[case]
    x, update = tensors[f"{facts['layout']}.x"], tensors[f"{facts['layout']}.f"]
    if "noise" in facts:
        update = update + facts["perturbation"] * tensors[f"{case}.noise"]
    connection = made_connection(facts, tensors)
    got = {key: value.item() for key, value in site_metrics(x, connection.components(x, update)).items()}
    stats = dict(facts["stats"])
    expected = {f"pattern/{key}": value for key, value in stats.pop("extras").items()} | stats
    assert got.keys() == expected.keys()
    torch.testing.assert_close(
        torch.tensor([got[key] for key in expected]), torch.tensor(list(expected.values())), **TOLERANCES[file]
    )


def test_golden_files_are_there() -> None:
    assert len(golden_cases()) >= 20


@pytest.mark.parametrize("clamp", [True, False])
def test_definition_in_float64(clamp: bool) -> None:
    """Vector by vector with Python's own arithmetic, at an eps large enough that its place matters."""
    torch.manual_seed(0)
    eps = 3.0
    x, parallel, orthogonal, applied = (torch.randn(2, 3, 4, dtype=torch.float64) for _ in range(4))
    x[0, 0] = 0
    applied[1, 1] = 0
    got = site_metrics(x, Components(parallel, orthogonal, applied, -1, eps, clamp))
    totals = dict.fromkeys(METRICS, 0.0)
    vectors = [tuple(piece.reshape(-1, 4)[row].tolist() for piece in (x, parallel, orthogonal, applied)) for row in range(6)]
    for vector_x, vector_parallel, vector_orthogonal, vector_applied in vectors:
        squared = sum(v * v for v in vector_x)
        n = max(squared, eps) if clamp else squared + eps
        sq = [max(sum(v * v for v in vector), eps) for vector in (vector_parallel, vector_orthogonal, vector_applied)]
        dot = sum(a * b for a, b in zip(vector_x, vector_applied, strict=True))
        values = (n, sq[0], sq[1], sq[0] / n, sq[1] / n, dot / (n * sq[2]) ** 0.5)
        for name, value in zip(METRICS, values, strict=True):
            totals[name] += value / len(vectors)
    assert {name: value.item() for name, value in got.items()} == pytest.approx(totals, rel=1e-12)


def test_half_precision_is_widened_before_squaring() -> None:
    x = torch.full((1, 2, 64), 300.0, dtype=torch.float16)
    pieces = Components(x, x, x, -1, 1e-6, True)
    got = site_metrics(x, pieces)
    # 64 * 300^2 = 5.76e6 is far above the largest float16, 65504.
    assert got["x_norm2"].item() == 64 * 300.0**2
    assert got["cos_x_out"].item() == pytest.approx(1, abs=1e-6)
    assert all(value.dtype == torch.float32 for value in got.values())


def test_cosine_of_huge_streams_is_finite() -> None:
    # |x|^2 = 4e30: the product of two such squared norms overflows float32.
    x = torch.full((1, 1, 4), 1e15)
    assert site_metrics(x, Components(x, x, x, -1, 1e-6, False))["cos_x_out"].item() == pytest.approx(1, abs=1e-6)
