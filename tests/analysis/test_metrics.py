"""The six statistics against the authors' values, an independent float64 evaluation, and their limits."""

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

import golden
from analysis.golden_variants import choice_of, learned_name
from orthostream import connections
from orthostream.analysis.metrics import METRICS, site_metrics
from orthostream.connections import Components, Site

# (atol, rtol). The authors formed their bfloat16 values in bfloat16 (8 bits: 0.4 % a product), ours are float32.
TOLERANCES = {"fp32": (2e-6, 1e-5), "mixed": (1e-2, 2e-2), "bf16": (1e-2, 2e-2)}


@cache
def loaded(name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors, sidecar = golden.load(f"ortho/connect/{name}")
    return tensors, sidecar["cases"]


CASES = [(name, case) for name in TOLERANCES for case, facts in loaded(name)[1].items() if facts.get("stats")]


def made_connection(facts: dict[str, Any], tensors: dict[str, Tensor]) -> connections.Connection:
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


@pytest.mark.parametrize(("name", "case"), CASES)
def test_golden_statistics(name: str, case: str) -> None:
    tensors, cases = loaded(name)
    facts = cases[case]
    x, update = tensors[f"{facts['layout']}.x"], tensors[f"{facts['layout']}.f"]
    if "noise" in facts:
        update = update + facts["perturbation"] * tensors[f"{case}.noise"]
    connection = made_connection(facts, tensors)
    got = site_metrics(x, connection.components(x, update))
    stats = dict(facts["stats"])
    expected = {f"pattern/{key}": value for key, value in stats.pop("extras").items()} | stats
    assert got.keys() == expected.keys()
    actual = torch.stack([got[key] for key in expected])
    golden.compare(
        actual, torch.tensor(list(expected.values())), *TOLERANCES[name], what=case, file=f"ortho/connect/{name}"
    )


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
    vectors = [
        tuple(piece.reshape(-1, 4)[row].tolist() for piece in (x, parallel, orthogonal, applied)) for row in range(6)
    ]
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
