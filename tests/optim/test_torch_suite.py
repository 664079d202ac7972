"""What torch's own tests ask of an optimizer, asked of wrapped ones, over the configurations that torch tests with."""

import copy
import io

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, ExponentialLR, LinearLR, OneCycleLR, ReduceLROnPlateau

from orthostream import optim

# torch's list of the configurations that it tests; the module needs a package that torch itself does without.
pytest.importorskip("expecttest", reason="torch's list of test cases imports expecttest; install orthostream[dev]")
from torch.testing._internal.common_optimizers import optim_db

KINDS = {info.optim_cls.__name__: info for info in optim_db if info.optim_cls.__name__ in ("SGD", "Adam", "AdamW")}
IMPLEMENTATIONS = ("forloop", "foreach", "fused")


def configurations():
    for name, info in KINDS.items():
        for made in info.optim_inputs_func(device="cpu"):
            yield pytest.param(info.optim_cls, made.kwargs, id=f"{name}-{made.desc}")


def for_implementation(kwargs, implementation):
    kept = {key: value for key, value in kwargs.items() if key not in ("foreach", "fused")}
    if implementation == "fused" and isinstance(kept.get("lr"), torch.Tensor) and kept["lr"].ndim:
        pytest.skip("a fused step takes rates without axes")
    return kept | {name: name == implementation for name in ("foreach", "fused")}


def make(kind, kwargs, implementation="foreach", seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(2, 6, 3), nn.Tanh(), nn.Flatten(), nn.Linear(24, 3))
    kwargs = for_implementation(copy.deepcopy(kwargs), implementation)
    if isinstance(kwargs.get("lr"), torch.Tensor) and implementation == "foreach" and not kwargs.get("capturable"):
        kwargs["foreach"] = False
    return model, optim.orthogonalize(kind(model.parameters(), **kwargs), model)


def closure_of(model, optimizer, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randn(8, 2, 4, 4, generator=generator), torch.randn(8, 3, generator=generator)

    def closure():
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        return loss

    return closure


def steps(model, optimizer, count=3):
    closure = closure_of(model, optimizer)
    for _ in range(count):
        closure()
        optimizer.step()
    return [p.detach().clone() for p in model.parameters()]


def assert_equal(ours, theirs, **tolerance):
    for a, b in zip(ours, theirs, strict=True):
        if tolerance:
            torch.testing.assert_close(a, b, **tolerance)
        else:
            assert torch.equal(a, b)


@pytest.mark.parametrize(("kind", "kwargs"), list(configurations()))
class TestEveryConfiguration:
    def test_the_implementations_agree(self, kind, kwargs):
        results = [steps(*make(kind, kwargs, implementation)) for implementation in IMPLEMENTATIONS]
        for other in results[1:]:
            assert_equal(other, results[0], atol=1e-5, rtol=1e-4)

    def test_a_state_dict_makes_the_round_trip_through_a_file(self, kind, kwargs):
        model, optimizer = make(kind, kwargs)
        steps(model, optimizer)
        file = io.BytesIO()
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
        file.seek(0)
        saved = torch.load(file, weights_only=True)
        other_model, other = make(kind, kwargs, seed=1)
        other_model.load_state_dict(saved["model"])
        other.load_state_dict(saved["optimizer"])
        assert_equal(steps(other_model, other), steps(model, optimizer))

    def test_loading_from_a_plain_optimizer(self, kind, kwargs):
        model, optimizer = make(kind, kwargs)
        kept = for_implementation(copy.deepcopy(kwargs), "forloop")
        plain = kind(model.parameters(), **kept)
        closure_of(model, plain)()
        plain.step()
        optimizer.load_state_dict(plain.state_dict())
        assert optimizer.param_groups[0]["orthogonalize"] is True
        before = optim.transformation(optimizer).counts().transformed
        steps(model, optimizer, 1)
        assert optim.transformation(optimizer).counts().transformed == before + 2

    def test_a_closure_gives_its_loss_and_the_same_step(self, kind, kwargs):
        model, optimizer = make(kind, kwargs)
        loss = optimizer.step(closure_of(model, optimizer))
        twin, direct = make(kind, kwargs)
        expected = closure_of(twin, direct)()
        direct.step()
        assert torch.equal(loss, expected)
        assert_equal(model.parameters(), twin.parameters())

    def test_nothing_happens_without_gradients(self, kind, kwargs):
        model, optimizer = make(kind, kwargs)
        before = copy.deepcopy(list(model.parameters()))
        optimizer.step()
        assert_equal(model.parameters(), before)
        assert not optimizer.state

    def test_copies_and_groups_with_rates_of_their_own(self, kind, kwargs):
        model, _ = make(kind, kwargs)
        kept = for_implementation(copy.deepcopy(kwargs), "forloop")
        groups = [{"params": [p], "lr": 1e-3 * (i + 1)} for i, p in enumerate(model.parameters())]
        optimizer = optim.orthogonalize(kind(groups, **kept), model)
        steps(model, optimizer, 1)
        twin_model, twin = copy.deepcopy((model, optimizer))
        assert [group["lr"] for group in twin.param_groups] == [group["lr"] for group in optimizer.param_groups]
        assert_equal(steps(twin_model, twin), steps(model, optimizer))

    def test_it_prints_and_its_hooks_are_called_in_order(self, kind, kwargs):
        model, optimizer = make(kind, kwargs)
        assert "orthogonalize: True" in repr(optimizer)
        seen = []
        optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
        optimizer.register_step_post_hook(lambda *_: seen.append("after"))
        steps(model, optimizer, 1)
        assert seen == ["before", "after"]


@pytest.mark.parametrize("kind", [info.optim_cls for info in KINDS.values()], ids=KINDS)
@pytest.mark.parametrize(
    "scheduler",
    [
        lambda o: ExponentialLR(o, 0.5),
        lambda o: LinearLR(o, 0.1, total_iters=3),
        lambda o: CosineAnnealingLR(o, 4),
        lambda o: OneCycleLR(o, 0.1, total_steps=5, cycle_momentum=False),
        lambda o: ReduceLROnPlateau(o, patience=0),
    ],
    ids=["exponential", "linear", "cosine", "one cycle", "plateau"],
)
def test_schedulers_set_the_rates_that_they_set_on_a_plain_optimizer(kind, scheduler):
    rates = []
    for wraps in (True, False):
        model = nn.Linear(4, 3)
        optimizer = kind(model.parameters(), lr=0.1)
        if wraps:
            optimizer = optim.orthogonalize(optimizer, model)
        made = scheduler(optimizer)
        seen = []
        for _ in range(4):
            model(torch.ones(1, 4)).sum().backward()
            optimizer.step()
            made.step(*([1.0] if isinstance(made, ReduceLROnPlateau) else []))
            seen.append(optimizer.param_groups[0]["lr"])
        rates.append(seen)
    assert rates[0] == rates[1] and len(set(rates[0])) > 1


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("kind", [info.optim_cls for info in KINDS.values()], ids=KINDS)
def test_the_loss_goes_down(kind, implementation):
    model, optimizer = make(kind, {"lr": 0.01}, implementation)
    closure = closure_of(model, optimizer)
    first = closure().item()
    for _ in range(30):
        optimizer.step(closure)
    assert closure().item() < 0.7 * first


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
@pytest.mark.parametrize("kind", [info.optim_cls for info in KINDS.values()], ids=KINDS)
def test_a_capturable_step_is_captured_in_a_graph(kind):
    kwargs = (
        {"lr": torch.tensor(0.01, device="cuda"), "capturable": True} if kind is not torch.optim.SGD else {"lr": 0.01}
    )
    torch.manual_seed(0)
    models = [nn.Linear(24, 12, device="cuda") for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    gradients = [torch.randn_like(p) for p in models[0].parameters()]
    optimizers = [optim.orthogonalize(kind(m.parameters(), **kwargs), m) for m in models]

    def set_gradients(model):
        for parameter, gradient in zip(model.parameters(), gradients, strict=True):
            if parameter.grad is None:
                parameter.grad = gradient.clone()
            else:
                parameter.grad.copy_(gradient)

    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for model, optimizer in zip(models, optimizers, strict=True):
            for _ in range(3):
                set_gradients(model)
                optimizer.step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        set_gradients(models[0])
        optimizers[0].step()
    for _ in range(3):
        graph.replay()
        set_gradients(models[1])
        optimizers[1].step()
    for ours, theirs in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)
