"""A recipe becomes the parts that it names."""

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW

from orthostream import build, recipe
from orthostream.connections.orthogonal import Orthogonal
from orthostream.errors import UsageError
from orthostream.training.distributed import World

ALONE = World(0, 1, torch.device("cpu"))
TINY = ("model.embed_dim=16", "model.depth=2", "model.num_heads=2")


def made(*overrides, world=ALONE):
    chosen = recipe.load("demo", [*TINY, *overrides], tables=build.TABLES).recipe
    loaders = build.build_data(chosen, world)
    return chosen, build.trainer_parts(chosen, loaders, world)


@pytest.mark.parametrize(("name", "kind"), [("sgd", SGD), ("adam", Adam), ("adamw", AdamW)])
def test_optimizers(name, kind):
    _, parts = made(f"optimizer.name={name}", "optimizer.lr=0.5", "optimizer.weight_decay=0.25")
    optimizer = parts["optimizer"]
    (group,) = optimizer.param_groups
    assert type(optimizer) is kind and (group["lr"], group["weight_decay"]) == (0.5, 0.25)
    # one group of all parameters in the order of the model, as in the paper
    assert [id(p) for p in group["params"]] == [id(p) for p in parts["model"].parameters()]


def test_blocks_and_options_of_a_connection():
    _, parts = made("connection=orthogonal", "connection.eps=0.5", "connection.blocks=[1]")
    sites = {m.site.name: m for m in parts["model"].modules() if isinstance(m, Orthogonal) and "write" in m.site.verbs}
    assert sorted(sites) == ["blocks.1.attn", "blocks.1.mlp"]
    assert all(connection.eps == 0.5 for connection in sites.values())


def test_the_data_set_decides_shapes():
    _, parts = made()
    model = parts["model"]
    assert model.patchify.weight.shape == (16, 1, 2, 2)
    assert model.classifier[1].out_features == 10


def test_mixing_takes_over_the_label_smoothing():
    plain, mixed = (
        made("augment.label_smoothing=0.2", *more)[1]
        for more in ((), ("augment.mix_probability=1.0", "augment.mixup_alpha=0.8"))
    )
    assert plain["criterion"].label_smoothing == 0.2 and plain["mix"] is None
    assert mixed["criterion"].label_smoothing == 0.0 and mixed["mix"] is not None


def test_a_cut_epoch_counts_as_long_as_it_is_in_the_schedule():
    chosen, parts = made("train.max_steps=10", "schedule.warmup_epochs=2")
    assert parts["settings"].total_steps == 10
    assert parts["schedule"](5) == pytest.approx(chosen.optimizer.lr * 5 / 20)


def test_a_probability_makes_a_hook_and_statistics_a_recording():
    _, parts = made("connection=orthogonal", "connection.probability=0.5", "statistics.interval=3")
    assert len(parts["hooks"]) == 1 and parts["statistics"] is not None
    _, parts = made("statistics.interval=null")
    assert parts["hooks"] == [] and parts["statistics"] is None


def test_a_probability_without_a_dial_is_refused():
    with pytest.raises(UsageError, match="strength"):
        made("connection=linear", "connection.probability=0.5")


def test_averages_channels_last_and_noise():
    _, parts = made("train.ema_decay=0.9", "connection.perturbation=0.1")
    assert parts["average"].decay == 0.9
    model = parts["model"].train()
    x = torch.randn(2, 1, 8, 8)
    assert not torch.equal(model(x), model(x))
    assert torch.equal(model.eval()(x), model(x))
    chosen = recipe.load("resnet_cifar10", ["model.channels_last=true", "model.widths=[4,4,4,4]"], build.TABLES).recipe
    description = build.data.load("digits").description
    resnet = build.build_model(chosen, description)
    convolution = next(m for m in resnet.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3))
    assert convolution.weight.is_contiguous(memory_format=torch.channels_last)


def test_synchronised_statistics_on_cpus_are_spoken_of():
    chosen = recipe.load("resnet_cifar10", [], build.TABLES).recipe
    assert build.remarks(chosen, ALONE) == []
    (remark,) = build.remarks(chosen, World(0, 2, torch.device("cpu")))
    assert "CUDA only" in remark and "64 images" in remark
