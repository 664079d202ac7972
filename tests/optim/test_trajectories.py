"""Recorded trajectories of the official implementation, of its baselines and of relatives."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.optim import SGD, Adam, AdamW

import golden
from orthostream import optim

QUADRATIC = "optim/traj_quadratic"
CONVNET = "optim/traj_convnet"
NAMES = ("W1", "W2", "K", "b")
STEPS = 10

SGD_RUNS = (
    "osgd_lr0.05",
    "osgd_wd0.1",
    "osgd_m0.9",
    "osgd_m0.9_wd0.1",
    "osgd_m0.9_nest",
    "osgd_m0.9_wd0.1_nest",
    "osgd_m0.9_damp0.5",
    "osgd_m0.9_maximize",
    "osgd_paper",
    "osgd_m0.9_lrdrop",
    "osgd_convonly_m0.9",
    "nsgd_m0.9",
    "cnsgd_m0.9",
    "sgd_plain_m0.9_wd0.1",
)
ADAM_RUNS = ("oadam_b0.9_0.99", "oadam_wd0.1", "oadamw_wd0.1_intended", "adam_plain")
LARS_RUNS = ("lars_plain", "olars")
EXACT = {"method": "svd", "precision": "float64", "which": "paper"}


class Quadratic(nn.Module):
    """Four parameters; the gradient of each is ``h * (p - target)``."""

    def __init__(self, tensors) -> None:
        super().__init__()
        for name in NAMES:
            setattr(self, name, nn.Parameter(tensors[f"problem/p0/{name}"].double().clone()))
        self.h = {name: tensors[f"problem/h/{name}"].double() for name in NAMES}
        self.target = {name: tensors[f"problem/target/{name}"].double() for name in NAMES}

    def set_gradients(self) -> None:
        for name, parameter in self.named_parameters():
            parameter.grad = self.h[name] * (parameter.detach() - self.target[name])


def base_optimizer(model, config):
    lr = 0.1 if isinstance(config["lr"], str) else config["lr"]
    kind = config["optim"]
    decay = config.get("weight_decay", 0)
    if kind == "sgd":
        names = ("momentum", "dampening", "nesterov", "maximize")
        given = {name: config[name] for name in names if name in config}
        return SGD(model.parameters(), lr, weight_decay=decay, **given)
    if kind == "lars":
        return optim.LARS(model.parameters(), lr, config["momentum"], decay, config["eta"])
    return {"adam": Adam, "adamw": AdamW}[kind](
        model.parameters(), lr, tuple(config["betas"]), config.get("eps", 1e-8), decay
    )


def wrap(optimizer, model, config):
    if config.get("transform", "").startswith("norm"):
        return optim.normalize(optimizer, model, kind="whole", which="paper")
    if config.get("transform", "").startswith("comp_norm"):
        return optim.normalize(optimizer, model, kind="component", which="paper")
    if isinstance(config["orth"], str):
        return optim.orthogonalize(optimizer, model, exclude=["W?"], **EXACT)
    return optim.orthogonalize(optimizer, model, **EXACT) if config["orth"] else optimizer


@pytest.mark.parametrize("name", (*SGD_RUNS, *ADAM_RUNS, *LARS_RUNS))
def test_follows_the_recorded_steps_on_a_quadratic(name):
    tensors, facts = golden.load(QUADRATIC)
    config = facts["configs"][name]
    model = Quadratic(tensors)
    optimizer = wrap(base_optimizer(model, config), model, config)
    for step in range(STEPS):
        if isinstance(config["lr"], str) and step == 5:
            optimizer.param_groups[0]["lr"] = 0.01
        model.set_gradients()
        optimizer.step()
        for key, parameter in model.named_parameters():
            golden.compare(
                parameter,
                tensors[f"{name}/{key}"][step + 1],
                config["tolerance_abs"],
                0,
                what=f"{name} {key} step {step}",
                file=QUADRATIC,
            )


@pytest.mark.parametrize(
    "name",
    [
        "f32_muon_default_lr0.02",
        "f32_muon_nonest_m0.9_wd0",
        "f32_muon_matchrms_lr0.02",
        "f32_muon_spectral_lr0.02",
    ],
)
def test_the_polar_factor_and_scale_make_up_the_recorded_steps_of_muon(name):
    """Muon orthogonalises the momentum, not the gradient: the parts of the library in the other order."""
    tensors, facts = golden.load(QUADRATIC)
    config = facts["configs"][name]
    names = {"original": "muon", "match_rms_adamw": "moonlight", "spectral_unclamped": "spectral"}
    scale = names[config["adjust_lr_fn"]]
    weights = {key: tensors[f"problem/p0/{key}"].float() for key in NAMES[:3]}
    buffers = {key: torch.zeros_like(weight) for key, weight in weights.items()}
    mu, lr = config["momentum"], config["lr"]
    for step in range(STEPS):
        for key, weight in weights.items():
            gradient = (tensors[f"problem/h/{key}"] * (weight.double() - tensors[f"problem/target/{key}"])).float()
            buffers[key].lerp_(gradient, 1 - mu)
            update = gradient.lerp(buffers[key], mu) if config["nesterov"] else buffers[key]
            matrix = optim.polar(update.flatten(1), method="muon", steps=5)
            weight.mul_(1 - lr * config["weight_decay"])
            weight.sub_(lr * optim.scale_factor(scale, *matrix.shape) * matrix.view_as(weight))
            golden.compare(
                weight.flatten(1),
                tensors[f"{name}/{key}"][step + 1].float().flatten(1),
                config["tolerance_abs"],
                0,
                what=f"{name} {key} step {step}",
                file=QUADRATIC,
            )


class ConvNet(nn.Module):
    """The recorded network."""

    def __init__(self, tensors) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(8, 6, 3, stride=2)
        self.fc = nn.Linear(6, 5)
        with torch.no_grad():
            for key, parameter in self.recorded():
                parameter.copy_(tensors[f"problem/p0/{key}"])

    def recorded(self):
        """Parameters under their recorded names."""
        for layer in ("conv1", "conv2", "fc"):
            for part in ("weight", "bias"):
                yield f"{layer}_{part[0]}", getattr(getattr(self, layer), part)

    def forward(self, x):
        x = functional.silu(self.conv1(x))
        return self.fc(functional.silu(self.conv2(x)).mean((2, 3)))


CONVNET_RUNS = {
    "osgd_lr0.01_m0.9_wd5e-4": lambda m: SGD(m.parameters(), 0.01, 0.9, weight_decay=5e-4),
    "osgd_lr0.01_m0.9_wd5e-4_nest": lambda m: SGD(m.parameters(), 0.01, 0.9, weight_decay=5e-4, nesterov=True),
    "osgd_lr0.02": lambda m: SGD(m.parameters(), 0.02),
    "oadam_lr0.01": lambda m: Adam(m.parameters(), 0.01, (0.9, 0.99)),
    "osgd_convonly": lambda m: SGD(m.parameters(), 0.01, 0.9),
    "sgd_plain": lambda m: SGD(m.parameters(), 0.01, 0.9, weight_decay=5e-4),
    "cnsgd": lambda m: SGD(m.parameters(), 0.01, 0.9),
    "nsgd": lambda m: SGD(m.parameters(), 0.01, 0.9),
}


def wrapped_for_convnet(name, model, **options):
    optimizer = CONVNET_RUNS[name](model)
    if name in ("nsgd", "cnsgd"):
        return optim.normalize(optimizer, model, kind="whole" if name == "nsgd" else "component")
    if name == "sgd_plain":
        return optimizer
    return optim.orthogonalize(optimizer, model, which="conv" if name == "osgd_convonly" else "weights", **options)


@pytest.mark.parametrize("options", [{"method": "svd"}, {"method": "eigh"}, {"tol": 1e-6}], ids=["svd", "eigh", "tol"])
@pytest.mark.parametrize("name", CONVNET_RUNS)
@pytest.mark.parametrize("loop", ["open", "closed"])
def test_follows_the_recorded_steps_of_a_convolutional_network(name, loop, options):
    if "method" not in options and not name.startswith("o"):
        pytest.skip("the iteration plays no part in this run")
    tensors, facts = golden.load(CONVNET)
    config = facts["configs"][name]
    model = ConvNet(tensors)
    optimizer = wrapped_for_convnet(name, model, **options)
    for step in range(STEPS):
        if loop == "closed":
            optimizer.zero_grad()
            (model(tensors["problem/x"]) - tensors["problem/y"]).square().mean().backward()
        else:
            for key, parameter in model.recorded():
                parameter.grad = tensors[f"{name}/rawgrad/{key}"][step].clone()
        optimizer.step()
        for key, parameter in model.recorded():
            golden.compare(
                parameter,
                tensors[f"{name}/param/{key}"][step + 1],
                config[f"tolerance_abs_{loop}_loop"],
                0,
                what=f"{name} {key} step {step}",
                file=CONVNET,
            )
