"""The models against the authors' code: logits, gradients, optimizer steps, running statistics.

Tolerances are those of the sidecars: float32 rounding, in another order of operations than the authors'.
"""

import hashlib
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from golden import compare, load
from orthostream import connections, models
from orthostream.models.authors_layout import from_authors, to_authors

LOGITS = {"atol": 2e-5, "rtol": 0.0}
GRADIENTS = {"atol": 2e-5, "rtol": 1e-4}
RESNET = {"atol": 5e-5, "rtol": 1e-4}

VIT_CASES = list(load("ortho/vit/variants")[1]["cases"])
RESNET_CASES = [(kind, case) for kind in ("basic", "bottleneck") for case in load(f"ortho/resnet/{kind}")[1]["cases"]]


def choice_of(case: dict[str, Any], axes: tuple[int, ...]) -> Any:
    """The connection that a golden case describes in the authors' words; ``axes`` are those of "global"."""
    base, method = case.get("residual_connection", "orthogonal"), case.get("orthogonal_method", "feature")
    pattern = case.get("residual_pattern", "default")
    if method == "negative":
        return "negative"
    if pattern == "rescale_stream":
        return pattern, {"base": base, "mode": case.get("residual_rescale_mode", "scalar")}
    if pattern != "default":
        return pattern, {"base": base}
    if base == "linear":
        return "linear"
    options = {"dim": axes} if method.startswith("global") else {}
    choice = ("orthogonal", {"eps": case.get("residual_eps", 1e-6), **options})
    blocks = case.get("orthogonal_blocks")
    return choice if blocks is None else connections.only_blocks(choice, blocks)


def with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}


def golden_vit(connection: Any, weights: dict[str, Tensor]) -> models.Model:
    model = models.create(
        "vit_s",
        num_classes=5,
        connection=connection,
        image_size=16,
        patch_size=4,
        embed_dim=24,
        depth=2,
        num_heads=3,
    )
    model.load_state_dict(from_authors(weights, model))
    return model


def golden_resnet(arch: dict[str, Any], connection: Any, weights: dict[str, Tensor]) -> models.Model:
    model = models.create(
        {"basic": "preact_resnet18", "bottleneck": "preact_resnet50"}[arch["block"]],
        num_classes=arch["num_classes"],
        connection=connection,
        blocks_per_stage=arch["blocks_per_stage"],
        widths=arch["stage_widths"],
    )
    model.load_state_dict(from_authors(weights, model))
    return model


def gradients(model: models.Model) -> dict[str, Tensor]:
    """Gradients under the authors' names."""
    state = model.state_dict()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, f"{name} got no gradient"
        state[name] = parameter.grad
    return to_authors(state, model)


def smoothed_loss(logits: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(logits, labels, label_smoothing=0.1)


@pytest.mark.parametrize("prefix", ["init", "w"])
def test_vit_logits_loss_and_gradients(prefix: str) -> None:
    tensors, _ = load("ortho/vit/train")
    model = golden_vit("orthogonal", with_prefix(tensors, f"{prefix}."))
    logits = model(tensors["images"])
    loss = smoothed_loss(logits, tensors["labels"])
    loss.backward()
    expected = with_prefix(tensors, {"init": "init_out.", "w": "orthogonal."}[prefix])
    compare(logits, expected.pop("logits"), **LOGITS)
    compare(loss.reshape(1), expected.pop("loss"), **LOGITS)
    actual = gradients(model)
    for key, gradient in with_prefix(expected, "grad.").items():
        compare(actual[key], gradient, **GRADIENTS, what=key)


def test_vit_initial_weights_follow_the_authors_rule() -> None:
    tensors, _ = load("ortho/vit/train")
    golden = with_prefix(tensors, "init.")
    torch.manual_seed(0)
    model = golden_vit("linear", golden)
    model.reset_parameters()
    ours = to_authors(model.state_dict(), model)
    assert list(ours.keys() - golden.keys()) == []
    for key, expected in golden.items():
        if expected.unique().numel() == 1:
            # constants: the cls token, norms
            compare(ours[key], expected, atol=0.0, rtol=0.0, what=key)
        elif expected.numel() >= 200:
            # draws: a sample's standard deviation scatters by 1 / sqrt(2 n), at most 5 %; four times that
            assert ours[key].std().item() == pytest.approx(expected.std().item(), rel=0.2), key


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_vit_optimizer_step(optimizer: str) -> None:
    tensors, _ = load("ortho/vit/train")
    model = golden_vit("orthogonal", with_prefix(tensors, "w."))
    step: torch.optim.Optimizer
    if optimizer == "sgd":
        step = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    else:
        step = torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=1e-3)
    smoothed_loss(model(tensors["images"]), tensors["labels"]).backward()
    decayed = {
        name: parameter.grad + 1e-3 * parameter.detach()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    step.step()
    state = model.state_dict()
    for key, expected in with_prefix(tensors, f"{optimizer}_step.").items():
        # Adam's first step is lr times the sign of the gradient, which rounding decides where it is near zero.
        where = decayed[key].abs() > 1e-6 if optimizer == "adam" else None
        compare(state[key], expected, **GRADIENTS, what=key, where=where)


@pytest.mark.parametrize("name", VIT_CASES)
def test_vit_variants(name: str) -> None:
    tensors, sidecar = load("ortho/vit/variants")
    common, _ = load("ortho/vit/train")
    case = sidecar["cases"][name]
    weights = with_prefix(common, "w.")
    for key in weights:
        if key.endswith("residual_eps"):
            weights[key] = torch.full((1,), case["residual_eps"])
    weights |= {key: torch.tensor([value]) for key, value in case["pattern_parameters"].items()}
    # The authors' "global" on tokens has dim=-1, which is the feature form.
    model = golden_vit(choice_of(case, axes=(-1,)), weights)
    logits = model(common["images"])
    loss = smoothed_loss(logits, common["labels"])
    loss.backward()
    compare(logits, tensors[f"{name}.logits"], **LOGITS)
    assert loss.item() == pytest.approx(case["loss"], abs=2e-5)
    actual = gradients(model)
    for key, gradient in with_prefix(tensors, f"{name}.grad.").items():
        compare(actual[key], gradient, **GRADIENTS, what=key)


@pytest.mark.parametrize(("kind", "name"), RESNET_CASES)
def test_resnet_variants(kind: str, name: str) -> None:
    tensors, sidecar = load(f"ortho/resnet/{kind}")
    case = sidecar["cases"][name]
    weights = with_prefix(tensors, "w.")
    weights |= {key: torch.tensor([value]) for key, value in case.get("pattern_parameters", {}).items()}
    weights |= {key: value for key, value in with_prefix(tensors, f"{name}.").items() if key.startswith("stage")}
    model = golden_resnet(sidecar["arch"], choice_of(case, axes=(1, 2, 3)), weights)
    with torch.no_grad():
        compare(model.eval()(tensors["images"]), tensors[f"{name}.eval_logits"], **RESNET)
    logits = model.train()(tensors["images"])
    compare(logits, tensors[f"{name}.train_logits"], **RESNET)
    loss = functional.cross_entropy(logits, tensors["labels"])
    loss.backward()
    assert loss.item() == pytest.approx(case["loss"], rel=1e-4, abs=5e-5)
    actual = gradients(model)
    for key, gradient in with_prefix(tensors, f"{name}.grad.").items():
        compare(actual[key], gradient, **RESNET, what=key)


@pytest.mark.parametrize("kind", ["basic", "bottleneck"])
def test_resnet_sgd_step_and_running_statistics(kind: str) -> None:
    tensors, sidecar = load(f"ortho/resnet/{kind}")
    model = golden_resnet(sidecar["arch"], "orthogonal", with_prefix(tensors, "w."))
    step = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    functional.cross_entropy(model(tensors["images"]), tensors["labels"]).backward()
    step.step()
    state = to_authors(model.state_dict(), model)
    expected = with_prefix(tensors, "sgd_step.")
    assert state.keys() == expected.keys()
    for key in expected:
        compare(state[key], expected[key], **RESNET, what=key)


def fill(model: models.Model, seed: int) -> dict[str, Tensor]:
    """The deterministic weights of the golden file, under the authors' names (its sidecar gives the rule)."""
    state = to_authors(model.state_dict(), model)
    for index, key in enumerate(sorted(state)):
        if key.endswith(("num_batches_tracked", "residual_eps")):
            continue
        shape = tuple(state[key].shape)
        drawn = np.random.RandomState(seed + index).standard_normal(shape)
        if len(shape) >= 2:
            drawn = drawn * np.sqrt(2 / np.prod(shape[1:]))
        elif key.endswith("running_var"):
            drawn = 1 + 0.1 * np.abs(drawn)
        elif key.endswith("weight"):
            drawn = 1 + 0.1 * drawn
        else:
            drawn = 0.1 * drawn
        state[key] = torch.from_numpy(drawn.astype(np.float32))
    return state


FULL_CASES = {
    "vit_S_cifar10": ("vit_s", 10),
    "resnet18_cifar10": ("preact_resnet18", 10),
    "resnet34_cifar100": ("preact_resnet34", 100),
    "resnet50_cifar10": ("preact_resnet50", 10),
}


@pytest.mark.parametrize("name", FULL_CASES)
def test_full_width_logits(name: str) -> None:
    tensors, sidecar = load("ortho/full/logits")
    case, seed = sidecar["cases"][name], sidecar["seed"]
    size, num_classes = FULL_CASES[name]
    filled: dict[str, Tensor] = {}
    for connection in ("orthogonal", "linear"):
        model = models.create(size, num_classes=num_classes, connection=connection)
        filled = filled or fill(model, seed)
        model.load_state_dict(from_authors(filled, model))
        images = torch.from_numpy(
            np.random.RandomState(seed).standard_normal((2, 3, case["img"], case["img"])).astype(np.float32)
        )
        for mode in ("eval", "train"):
            key = f"{name}.{connection}.{mode}_logits"
            if key in tensors:
                with torch.no_grad():
                    logits = model.train(mode == "train")(images)
                # the sidecar's tolerance: 1e-4 of the largest logit, the depth times float32 rounding
                compare(logits, tensors[key], atol=1e-4 * tensors[key].abs().max().item(), rtol=0.0, what=key)
    assert len(filled) == case["num_state_keys"]
    assert sum(parameter.numel() for parameter in model.parameters()) == case["trainable_parameters"]
    digest = hashlib.sha256()
    for key in sorted(filled):
        if not key.endswith("num_batches_tracked"):
            digest.update(filled[key].contiguous().numpy().tobytes())
    # the same bytes as the authors' model held, so keys, shapes and their order agree
    assert digest.hexdigest() == case["sha256_of_float32_bytes_in_sorted_key_order_without_num_batches_tracked"]
