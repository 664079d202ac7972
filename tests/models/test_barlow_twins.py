"""Barlow Twins: the loss written out, what the probe learns from, two processes, and the views."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from orthostream import build, data, models, recipe
from orthostream.data.transforms import evaluation_transform, train_transform
from orthostream.errors import UsageError
from orthostream.training.distributed import World
from orthostream.training.step import Stepper
from ranks import on_ranks

ALONE = World(0, 1, torch.device("cpu"))
SMALL = {"network": "resnet18", "projector": (12, 8)}


def made(classes: int = 3) -> models.BarlowTwins:
    torch.manual_seed(0)
    model = models.create("barlow_twins", num_classes=classes, **SMALL)
    assert isinstance(model, models.BarlowTwins)
    return model


def pairs(count: int = 6) -> torch.Tensor:
    return torch.randn(count, 2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def loss_written_out(a: torch.Tensor, b: torch.Tensor, redundancy: float) -> float:
    count, width = a.shape
    total = 0.0
    for i in range(width):
        for j in range(width):
            entry = sum(a[n, i].item() * b[n, j].item() for n in range(count)) / count
            total += (1 - entry) ** 2 if i == j else redundancy * entry**2
    return total


def test_the_loss_is_that_of_the_paper() -> None:
    a, b = torch.randn(2, 5, 4, dtype=torch.float64)
    logits = torch.randn(5, 6, dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 0, 1])
    found = models.BarlowTwinsLoss(classes=3, redundancy=0.1)(torch.cat([a, b, logits], 1), labels)
    assert found.item() == pytest.approx(loss_written_out(a, b, 0.1))


def test_outputs_are_projections_normalised_over_the_batch_and_logits() -> None:
    model, views = made(), pairs()
    outputs = model(views)
    assert outputs.shape == (6, 2 * 8 + 2 * 3)
    for projection in (outputs[:, :8], outputs[:, 8:16]):
        torch.testing.assert_close(projection.mean(0), torch.zeros(8), atol=1e-5, rtol=0)
        # eps of the batch norm, 1e-5, against variances of about 1e-2
        torch.testing.assert_close(projection.var(0, correction=0), torch.ones(8), atol=2e-2, rtol=0)
    model.eval()
    assert model(views[:, 0]).shape == (6, 3)
    assert torch.equal(model(views), model(views[:, 0])), "an evaluation of pairs looks at the first view"
    assert model.features(views[:, 1]).shape == (6, 512)


def test_labels_move_the_probe_alone_and_the_loss_does_not_show_them() -> None:
    gradients = []
    for label in (0, 1):
        model = made()
        loss = models.BarlowTwinsLoss(classes=3)(model(pairs()), torch.full((6,), label))
        loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()} | {"loss": loss.detach()})
    for name, value in gradients[0].items():
        assert value is not None, name
        assert torch.equal(value, gradients[1][name]) != name.startswith("probe"), name


def test_a_few_steps_lower_the_loss_and_teach_the_probe() -> None:
    model, views = made(), pairs(8)
    labels = torch.arange(8) % 3
    criterion = models.BarlowTwinsLoss(classes=3)
    stepper = Stepper(
        model,
        torch.optim.SGD(model.parameters(), lr=1e-2),
        criterion,
        mix=build.unmixed,
        device=torch.device("cpu"),
        accumulate=1,
        clip_norm=None,
        autocast_dtype=None,
    )
    losses = []
    for _ in range(6):
        gradient = stepper.gradient(((views, labels),), 0, 0, lambda: None)
        assert gradient.correct is None, "outputs in training are no logits"
        losses.append(gradient.loss.item())
        stepper.update(1e-2)
    assert losses[-1] < 0.9 * losses[0]


def on_a_share(world: World, outputs: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    share = outputs.chunk(world.size)[world.rank].clone().requires_grad_()
    loss = models.BarlowTwinsLoss(classes=3)(share, labels.chunk(world.size)[world.rank])
    loss.backward()
    assert share.grad is not None
    return loss.detach(), share.grad


def test_two_processes_have_the_loss_and_the_gradient_of_one(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(8, 2 * 4 + 2 * 3, generator=generator, dtype=torch.float64)
    labels = torch.arange(8) % 3
    whole = outputs.clone().requires_grad_()
    loss = models.BarlowTwinsLoss(classes=3)(whole, labels)
    loss.backward()
    assert whole.grad is not None
    shares = on_ranks(2, tmp_path, on_a_share, outputs, labels)
    for found, _ in shares:
        torch.testing.assert_close(found, loss.detach())
    # averaged over processes, as DDP does with the gradients of weights, it is that of the whole batch
    torch.testing.assert_close(torch.cat([gradient for _, gradient in shares]) / 2, whole.grad)


def test_vectors_have_their_share_of_the_rate_at_every_step() -> None:
    chosen = recipe.load("barlow_twins_imagenet1k", ["data.name=folder"], build.TABLES).recipe
    model = made()
    optimizer = build.build_optimizer(chosen.optimizer, model)
    stepper = Stepper(
        model,
        optimizer,
        nn.Identity(),
        mix=None,
        device=torch.device("cpu"),
        accumulate=1,
        clip_norm=None,
        autocast_dtype=None,
    )
    stepper.update(0.5)
    weights, vectors = optimizer.param_groups
    # 0.2 for weights and 0.0048 for biases in the public code
    assert (weights["lr"], vectors["lr"]) == (0.5, pytest.approx(0.5 * 0.0048 / 0.2))
    assert all(p.ndim == 1 for p in vectors["params"]) and all(p.ndim > 1 for p in weights["params"])
    assert len(weights["params"]) + len(vectors["params"]) == len([*model.parameters()])


def test_the_loss_of_a_recipe() -> None:
    overrides = ["data.name=folder", "model.network=resnet18", "model.projector=[12,8]"]
    chosen = recipe.load("barlow_twins_imagenet1k", overrides, build.TABLES).recipe
    criterion = build.build_criterion(chosen, 7)
    assert isinstance(criterion, models.BarlowTwinsLoss) and criterion.classes == 7
    assert build.pipeline_of(chosen) == "twins"
    mixed = recipe.load("barlow_twins_imagenet1k", [*overrides, "augment.label_smoothing=0.1"], build.TABLES).recipe
    with pytest.raises(UsageError, match="does not learn from labels"):
        build.build_criterion(mixed, 7)


def test_views_are_two_different_pictures_of_one_image() -> None:
    described = replace(data.load("digits").description, family="imagenet", channels=3, image_size=48)
    described = replace(described, mean=(0.0,) * 3, std=(1.0,) * 3)
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    transform = train_transform(described, "twins")
    torch.manual_seed(0)
    first = transform(Image.fromarray(pixels))
    assert first.shape == (2, 3, 48, 48) and first.dtype == torch.float32
    assert not torch.equal(first[0], first[1])
    assert first.min() >= 0 and first.max() <= 1 + 1e-6
    torch.manual_seed(0)
    assert torch.equal(first, transform(Image.fromarray(pixels))), "seeded by torch alone"
    assert evaluation_transform(described, "twins")(Image.fromarray(pixels)).shape == (3, 48, 48)


def test_wrong_calls_are_refused() -> None:
    with pytest.raises(UsageError, match=r"pairs of views .*augment\.pipeline to twins"):
        made()(torch.zeros(2, 3, 32, 32))
    with pytest.raises(UsageError, match="takes a ResNet of torchvision"):
        models.create("barlow_twins", num_classes=3, network="densenet121")
    with pytest.raises(UsageError, match="unknown network of torchvision 'resnet19'"):
        models.create("barlow_twins", num_classes=3, network="resnet19")
    with pytest.raises(UsageError, match="a projector of one layer or more"):
        models.create("barlow_twins", num_classes=3, network="resnet18", projector=())
    with pytest.raises(UsageError, match="BarlowTwins has no site"):
        models.create("barlow_twins", num_classes=3, network="resnet18", connection="orthogonal")


def test_reset_parameters_repeats_construction() -> None:
    ordinary = made()
    with torch.device("meta"):
        model = models.create("barlow_twins", num_classes=3, **SMALL)
    model.to_empty(device="cpu")
    torch.manual_seed(0)
    model.reset_parameters()
    for key, value in ordinary.state_dict().items():
        assert torch.equal(value, model.state_dict()[key]), key
