"""Recordings of whole models: the authors' keys, all of them and no others, with the authors' values."""

from typing import Any

import pytest
import torch
from torch import Tensor

import golden
from analysis.golden_variants import choice_of
from orthostream import connections, models
from orthostream.analysis import record
from orthostream.models.authors_layout import from_authors

# Means over hundreds of float32 values behind the sidecars' tolerance for logits: 5e-5 absolute, 1e-4 relative.
TOLERANCE = (5e-5, 1e-4)

VIT = golden.load("ortho/vit/variants")[1]
RESNETS = {kind: golden.load(f"ortho/resnet/{kind}")[1] for kind in ("basic", "bottleneck")}
RESNET_CASES = [(kind, name) for kind, sidecar in RESNETS.items() for name in sidecar["cases"]]


def with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}


def learned(case: dict[str, Any]) -> dict[str, Tensor]:
    return {key: torch.tensor([value]) for key, value in case.get("pattern_parameters", {}).items()}


def golden_vit(case: dict[str, Any], **options: Any) -> tuple[models.Model, Tensor]:
    tensors, _ = golden.load("ortho/vit/train")
    weights = with_prefix(tensors, "w.") | learned(case)
    for key in weights:
        if key.endswith("residual_eps"):
            weights[key] = torch.full((1,), case["residual_eps"])
    # On tokens the authors' "global" has dim=-1, which is the feature form.
    choice: Any = choice_of(case, (-1,))
    if case["orthogonal_blocks"] is not None:
        choice = connections.only_blocks(choice, case["orthogonal_blocks"])
    numbers = {"image_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 3}
    model = models.create("vit_s", num_classes=5, connection=choice, **numbers, **options)
    model.load_state_dict(from_authors(weights, model))
    return model, tensors["images"]


def golden_resnet(kind: str, name: str) -> tuple[models.Model, Tensor]:
    tensors, sidecar = golden.load(f"ortho/resnet/{kind}")
    case, arch = sidecar["cases"][name], sidecar["arch"]
    of_case = {key: value for key, value in with_prefix(tensors, f"{name}.").items() if key.startswith("stage")}
    model = models.create(
        {"basic": "preact_resnet18", "bottleneck": "preact_resnet50"}[kind],
        num_classes=arch["num_classes"],
        connection=choice_of(case, (1, 2, 3)),
        blocks_per_stage=arch["blocks_per_stage"],
        widths=arch["stage_widths"],
    )
    model.load_state_dict(from_authors(with_prefix(tensors, "w.") | learned(case) | of_case, model))
    return model, tensors["images"]


def recorded(model: models.Model, images: Tensor) -> dict[str, float]:
    with record(model) as recording:
        model.train()(images)
    return recording.collect()


def assert_golden(values: dict[str, float], stats: dict[str, float], file: str) -> None:
    assert values.keys() == stats.keys()
    actual = torch.tensor([values[key] for key in stats])
    golden.compare(actual, torch.tensor(list(stats.values())), *TOLERANCE, what="statistics", file=file)


@pytest.mark.parametrize("name", VIT["cases"])
def test_golden_vit_statistics(name: str) -> None:
    case = VIT["cases"][name]
    assert_golden(recorded(*golden_vit(case)), case["stats"], "ortho/vit/variants")


def test_golden_vit_statistics_under_gradient_checkpointing() -> None:
    case = VIT["cases"]["orthogonal_feature"]
    stats = golden.load("ortho/vit/train")[1]["stats_orthogonal_feature"]
    model, images = golden_vit(case, gradient_checkpointing=True)
    with record(model) as recording:
        model.train()(images).sum().backward()
    assert_golden(recording.collect(), stats, "ortho/vit/train")


@pytest.mark.parametrize(("kind", "name"), [(k, n) for k, n in RESNET_CASES if RESNETS[k]["cases"][n]["stats"]])
def test_golden_resnet_statistics(kind: str, name: str) -> None:
    stats = RESNETS[kind]["cases"][name]["stats"]
    assert_golden(recorded(*golden_resnet(kind, name)), stats, f"ortho/resnet/{kind}")


@pytest.mark.parametrize(("kind", "name"), [(k, n) for k, n in RESNET_CASES if not RESNETS[k]["cases"][n]["stats"]])
def test_global_projection_is_measured_as_it_is_applied(kind: str, name: str) -> None:
    """The authors' code cannot measure the global form on maps, so the definition stands in for golden values."""
    model, images = golden_resnet(kind, name)
    applied: list[tuple[Tensor, Tensor]] = []
    for module in model.modules():
        if isinstance(module, connections.Connection) and "write" in module.site.verbs:
            module.__dict__["write"] = spied(module, applied)
    with torch.no_grad():
        model.train()(images)
    for module in model.modules():
        module.__dict__.pop("write", None)
    values = recorded(model, images)
    assert len(applied) == sum(key.endswith("/x_norm2") and "/block" in key for key in values)
    for block, (x, change) in enumerate(applied):
        place = f"activation/conv/block{block:02d}"
        # Behind the ReLU of the stem some vectors are zero: eps is all they have.
        n = x.double().square().sum(1) + 1e-6
        assert values[f"{place}/x_norm2"] == pytest.approx(n.mean().item(), rel=1e-5)
        orthogonal = change.double().square().sum(1)
        # The change is a difference of float32 streams, so it is known to 1e-6 of the stream.
        assert values[f"{place}/f_ortho_norm2"] == pytest.approx(orthogonal.mean().item(), rel=1e-4)
        assert values[f"{place}/rho_ortho"] == pytest.approx((orthogonal / n).mean().item(), rel=1e-3)


def spied(connection: connections.Connection, applied: list[tuple[Tensor, Tensor]]) -> Any:
    def write(stream: Tensor, update: Tensor, note: Any = None) -> Tensor:
        after = type(connection).write(connection, stream, update, note)
        applied.append((stream, after - stream))
        return after

    return write
