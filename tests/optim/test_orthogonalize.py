"""The wrapper on ordinary optimizers: what it changes, what it leaves, and what it survives."""

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim import SGD, Adam, AdamW

from orthostream import optim
from orthostream.errors import UsageError


def small_net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, groups=2),
        nn.Flatten(),
        nn.Linear(8 * 16, 5),
    )


def loss_of(model, seed=1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(4, 3, 8, 8, generator=generator)
    return model(x).square().mean()


def set_gradients(model, seed=1) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def exact(gradient) -> torch.Tensor:
    """The polar factor of a flattened gradient, by the decomposition."""
    u, _, vh = torch.linalg.svd(gradient.flatten(1).double(), full_matrices=False)
    return (u @ vh).view_as(gradient)


def is_orthonormal(gradient, tolerance=2e-3) -> bool:
    values = torch.linalg.svdvals(gradient.flatten(1).double())
    return bool((values - 1).abs().max() < tolerance)


OPTIMIZERS = {
    "sgd": lambda p: SGD(p, 0.05, momentum=0.9, weight_decay=1e-2),
    "sgd foreach": lambda p: SGD(p, 0.05, momentum=0.9, foreach=True),
    "sgd fused": lambda p: SGD(p, 0.05, momentum=0.9, fused=True),
    "adam": lambda p: Adam(p, 0.01),
    "adamw": lambda p: AdamW(p, 0.01, weight_decay=0.1),
    "adamw fused": lambda p: AdamW(p, 0.01, weight_decay=0.1, fused=True),
    "adam capturable-free foreach": lambda p: Adam(p, 0.01, foreach=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 0.01),
    "lars": lambda p: optim.LARS(p, 0.1),
}


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_any_optimizer_steps_as_if_it_had_been_given_polar_factors(make):
    wrapped_model, plain_model = small_net(), small_net()
    wrapped = optim.orthogonalize(make(wrapped_model.parameters()), wrapped_model, method="svd")
    plain = make(plain_model.parameters())
    for step in range(4):
        set_gradients(wrapped_model, step)
        set_gradients(plain_model, step)
        for parameter in plain_model.parameters():
            if parameter.ndim > 1:
                parameter.grad = exact(parameter.grad).float()
        wrapped.step()
        plain.step()
        for ours, theirs in zip(wrapped_model.parameters(), plain_model.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_switched_off_it_is_the_plain_optimizer_bit_for_bit(make):
    wrapped_model, plain_model = small_net(), small_net()
    wrapped = optim.orthogonalize(make(wrapped_model.parameters()), wrapped_model)
    wrapped.param_groups[0]["orthogonalize"] = False
    plain = make(plain_model.parameters())
    for step in range(3):
        for model, optimizer in ((wrapped_model, wrapped), (plain_model, plain)):
            set_gradients(model, step)
            optimizer.step()
    for ours, theirs in zip(wrapped_model.parameters(), plain_model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert optim.transformation(wrapped).counts().steps == 0


def test_the_default_is_within_two_thousandths_of_the_polar_factor():
    model = small_net()
    optimizer = optim.orthogonalize(SGD(model.parameters(), 0.1), model)
    set_gradients(model)
    before = {name: p.grad.clone() for name, p in model.named_parameters()}
    optimizer.step()
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            error = (parameter.grad - exact(before[name])).norm() / min(parameter.grad.flatten(1).shape) ** 0.5
            assert error < 2e-3, name
        else:
            assert torch.equal(parameter.grad, before[name])


def test_groups_have_a_switch_each():
    model = small_net()
    head = list(model[-1].parameters())
    trunk = [p for p in model.parameters() if all(p is not q for q in head)]
    optimizer = optim.orthogonalize(
        SGD([{"params": trunk}, {"params": head, "orthogonalize": False}], 0.1), model, grouped="apart"
    )
    set_gradients(model)
    raw = head[0].grad.clone()
    optimizer.step()
    assert torch.equal(head[0].grad, raw)
    assert is_orthonormal(model[0].weight.grad)


def test_a_group_that_is_added_later_takes_part():
    model, late = small_net(), nn.Linear(6, 4)
    whole = nn.ModuleList([model, late])
    optimizer = optim.orthogonalize(SGD(model.parameters(), 0.1), whole)
    optimizer.add_param_group({"params": late.parameters()})
    set_gradients(whole)
    optimizer.step()
    assert is_orthonormal(late.weight.grad)
    assert "1.weight" in optim.transformation(optimizer).table()


def test_gradients_are_replaced_in_their_own_memory_and_order():
    model = small_net().to(memory_format=torch.channels_last)
    optimizer = optim.orthogonalize(SGD(model.parameters(), 0.1), model, method="svd")
    weight = model[0].weight
    weight.grad = torch.randn(8, 3, 3, 3).to(memory_format=torch.channels_last)
    raw, address, strides = weight.grad.clone(), weight.grad.data_ptr(), weight.grad.stride()
    optimizer.step()
    assert (weight.grad.data_ptr(), weight.grad.stride()) == (address, strides)
    torch.testing.assert_close(weight.grad, exact(raw).float(), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("as_keyword", [False, True])
def test_a_closure_is_transformed_inside_the_step_and_its_loss_comes_back(as_keyword):
    model, twin = small_net(), small_net()
    optimizer = optim.orthogonalize(SGD(model.parameters(), 0.05), model)
    direct = optim.orthogonalize(SGD(twin.parameters(), 0.05), twin)

    def closure():
        optimizer.zero_grad()
        loss = loss_of(model)
        loss.backward()
        return loss

    loss = optimizer.step(closure=closure) if as_keyword else optimizer.step(closure)
    expected = loss_of(twin)
    expected.backward()
    direct.step()
    assert loss.item() == expected.item()
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_lbfgs_evaluates_its_closure_many_times_and_each_is_transformed():
    model = nn.Linear(6, 3, bias=False)
    optimizer = optim.orthogonalize(torch.optim.LBFGS(model.parameters(), 0.1, max_iter=5), model)

    def closure():
        optimizer.zero_grad()
        loss = model(torch.eye(6)).square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert optim.transformation(optimizer).counts().steps >= 5


@pytest.mark.parametrize("fused", [False, True])
def test_the_gradient_scaler_changes_nothing(fused):
    """A fused step unscales by itself, after the gradient was replaced."""
    scaled, plain = small_net(), small_net()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    results = []
    for model, scales in ((scaled, True), (plain, False)):
        optimizer = optim.orthogonalize(SGD(model.parameters(), 0.05, momentum=0.9, fused=fused), model, method="svd")
        for seed in range(3):
            optimizer.zero_grad()
            loss = loss_of(model, seed)
            if scales:
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()
            else:
                loss.backward()
                optimizer.step()
        results.append([p.detach().clone() for p in model.parameters()])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_a_step_that_the_scaler_skips_leaves_weights_alone():
    model = small_net()
    before = copy.deepcopy(model.state_dict())
    optimizer = optim.orthogonalize(SGD(model.parameters(), 0.05, fused=True), model)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(model(torch.full((4, 3, 8, 8), torch.inf)).sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name])
    assert scaler.get_scale() == 512


def test_clipping_and_accumulation_by_a_factor_change_nothing():
    gradients = []
    for factor in (1.0, 1e-3, 7.0):
        model = small_net()
        optimizer = optim.orthogonalize(SGD(model.parameters(), 0.05), model)
        (loss_of(model) * factor).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        gradients.append(model[-1].weight.grad.clone())
    for gradient in gradients[1:]:
        torch.testing.assert_close(gradient, gradients[0], atol=1e-4, rtol=1e-3)


def test_schedulers_drive_the_rate():
    model = small_net()
    optimizer = optim.orthogonalize(SGD(model.parameters(), 1.0), model)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    moves = []
    for seed in range(3):
        set_gradients(model, seed)
        before = model[0].weight.detach().clone()
        optimizer.step()
        scheduler.step()
        moves.append(float((model[0].weight.detach() - before).norm()))
    torch.testing.assert_close(torch.tensor(moves), torch.tensor([1.0, 0.5, 0.25]) * 8**0.5, atol=1e-3, rtol=1e-3)


class TestGradientsThatAreNoOrdinaryMatrix:
    def model(self):
        torch.manual_seed(0)
        return nn.ModuleDict({"a": nn.Linear(5, 4, bias=False), "b": nn.Linear(5, 4, bias=False)})

    def test_without_gradient_is_skipped_and_counted(self):
        model = self.model()
        optimizer = optim.orthogonalize(SGD(model.parameters(), 1.0), model)
        model["a"].weight.grad = torch.randn(4, 5)
        before = model["b"].weight.detach().clone()
        optimizer.step()
        assert torch.equal(model["b"].weight, before)
        counts = optim.transformation(optimizer).counts()
        assert (counts.transformed, counts.without_gradient) == (1, 1)

    def test_zero_stays_zero_and_is_counted(self):
        model = self.model()
        optimizer = optim.orthogonalize(SGD(model.parameters(), 1.0), model)
        model["a"].weight.grad, model["b"].weight.grad = torch.randn(4, 5), torch.zeros(4, 5)
        before = model["b"].weight.detach().clone()
        optimizer.step()
        assert torch.equal(model["b"].weight, before)
        assert optim.transformation(optimizer).counts().zero == 1

    @pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
    @pytest.mark.parametrize("method", ["auto", "svd", "eigh", "polar_express"])
    def test_pass_lets_it_be_seen_and_spares_the_neighbour(self, bad, method):
        model = self.model()
        optimizer = optim.orthogonalize(SGD(model.parameters(), 1.0), model, method=method)
        set_gradients(model)
        model["a"].weight.grad[1, 2] = bad
        optimizer.step()
        assert model["a"].weight.isnan().all()
        assert is_orthonormal(model["b"].weight.grad)
        assert optim.transformation(optimizer).counts().non_finite == 1

    def test_skip_leaves_parameter_and_state_alone(self):
        model = self.model()
        optimizer = optim.orthogonalize(Adam(model.parameters(), 0.1), model, non_finite="skip")
        set_gradients(model)
        optimizer.step()
        before, state = model["a"].weight.detach().clone(), copy.deepcopy(optimizer.state[model["a"].weight])
        set_gradients(model, 2)
        model["a"].weight.grad[0, 0] = torch.nan
        given = model["a"].weight.grad
        optimizer.step()
        assert torch.equal(model["a"].weight, before)
        assert all(torch.equal(optimizer.state[model["a"].weight][key], value) for key, value in state.items())
        assert model["a"].weight.grad is given
        assert optimizer.state[model["b"].weight]["step"] == 2

    def test_raise_stops_before_anything_changed(self):
        model = self.model()
        optimizer = optim.orthogonalize(SGD(model.parameters(), 1.0), model, non_finite="raise")
        set_gradients(model)
        model["b"].weight.grad[0, 0] = torch.inf
        before = copy.deepcopy(model.state_dict())
        with pytest.raises(FloatingPointError, match=r"b\.weight"):
            optimizer.step()
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

    @settings(max_examples=40, deadline=None)
    @given(
        rows=st.integers(1, 9),
        columns=st.integers(1, 9),
        exponent=st.integers(-30, 30),
        method=st.sampled_from(["auto", "svd", "polar_express"]),
    )
    def test_size_of_the_gradient_does_not_matter(self, rows, columns, exponent, method):
        layer = nn.Linear(columns, rows, bias=False)
        optimizer = optim.orthogonalize(SGD(layer.parameters(), 0.0), layer, method=method)
        raw = torch.eye(rows, columns) + 0.1 * torch.randn(rows, columns)
        layer.weight.grad = raw * 10.0**exponent
        optimizer.step()
        torch.testing.assert_close(layer.weight.grad, exact(raw).float(), atol=5e-3, rtol=0)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
    def test_every_precision(self, dtype):
        layer = nn.Linear(16, 8, bias=False, dtype=dtype)
        optimizer = optim.orthogonalize(SGD(layer.parameters(), 0.1), layer)
        layer.weight.grad = torch.randn(8, 16, dtype=dtype)
        raw = layer.weight.grad.clone()
        optimizer.step()
        assert layer.weight.grad.dtype == dtype
        torch.testing.assert_close(layer.weight.grad.double(), exact(raw.float()).double(), atol=1e-2, rtol=0)

    def test_a_sparse_gradient_is_refused_by_name(self):
        model = nn.ModuleDict({"words": nn.Embedding(10, 4, sparse=True), "out": nn.Linear(4, 2)})
        optimizer = optim.orthogonalize(SGD(model.parameters(), 0.1), model, include=["words*"])
        model["out"](model["words"](torch.tensor([1, 2]))).sum().backward()
        with pytest.raises(UsageError, match=r"words\.weight is sparse"):
            optimizer.step()


def test_a_state_dict_makes_the_round_trip_and_one_without_the_switch_loads():
    def stepped(optimizer, model, seed):
        set_gradients(model, seed)
        optimizer.step()
        return [p.detach().clone() for p in model.parameters()]

    model = small_net()
    optimizer = optim.orthogonalize(Adam(model.parameters(), 0.01), model)
    stepped(optimizer, model, 0)
    saved, weights = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(model.state_dict())
    expected = stepped(optimizer, model, 1)
    without = copy.deepcopy(saved)
    del without["param_groups"][0]["orthogonalize"]
    for state in (saved, without):
        fresh = small_net()
        fresh.load_state_dict(weights)
        other = optim.orthogonalize(Adam(fresh.parameters(), 0.01), fresh)
        other.load_state_dict(state)
        assert all(torch.equal(a, b) for a, b in zip(stepped(other, fresh, 1), expected, strict=True))
    assert saved["param_groups"][0]["orthogonalize"] is True


def test_a_saved_switch_wins_on_loading():
    model = small_net()
    optimizer = optim.orthogonalize(SGD(model.parameters(), 0.1), model)
    state = optimizer.state_dict()
    state["param_groups"][0]["orthogonalize"] = False
    optimizer.load_state_dict(state)
    set_gradients(model)
    raw = model[0].weight.grad.clone()
    optimizer.step()
    assert torch.equal(model[0].weight.grad, raw)


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))], ids=["deepcopy", "pickle"]
)
def test_a_copy_keeps_the_transformation(duplicate):
    model = small_net()
    optimizer = optim.orthogonalize(SGD(model.parameters(), 0.1, momentum=0.9), model)
    set_gradients(model)
    optimizer.step()
    other_model, other = duplicate((model, optimizer))
    for m, o in ((model, optimizer), (other_model, other)):
        set_gradients(m, 5)
        o.step()
    for ours, theirs in zip(model.parameters(), other_model.parameters(), strict=True):
        assert torch.equal(ours, theirs) and ours is not theirs
    assert is_orthonormal(other_model[0].weight.grad)


def test_a_subclass_whose_step_calls_its_parent_is_right():
    class Mine(SGD):
        def step(self, closure=None):
            return super().step(closure)

    model, twin = small_net(), small_net()
    ours = optim.orthogonalize(Mine(model.parameters(), 0.1), model, method="svd")
    theirs = optim.orthogonalize(SGD(twin.parameters(), 0.1), twin, method="svd")
    for m, o in ((model, ours), (twin, theirs)):
        set_gradients(m)
        o.step()
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_nothing_of_torch_is_changed():
    before = {name: getattr(torch.optim, name) for name in dir(torch.optim)}
    step = SGD.__dict__.get("step")
    model = small_net()
    optim.orthogonalize(SGD(model.parameters(), 0.1), model)
    plain = SGD(small_net().parameters(), 0.1)
    assert before == {name: getattr(torch.optim, name) for name in dir(torch.optim)}
    assert SGD.__dict__["step"].__qualname__ == step.__qualname__
    assert "orthogonalize" not in plain.param_groups[0] and not plain._optimizer_step_pre_hooks


class TestRefusals:
    def test_wrapping_twice(self):
        model = small_net()
        optimizer = optim.orthogonalize(SGD(model.parameters(), 0.1), model)
        with pytest.raises(UsageError, match="already"):
            optim.orthogonalize(optimizer, model)
        with pytest.raises(UsageError, match="already"):
            optim.normalize(optimizer, model, kind="whole")

    def test_no_optimizer(self):
        with pytest.raises(UsageError, match=r"torch\.optim\.Optimizer, got Sequential"):
            optim.orthogonalize(small_net())

    def test_nothing_to_do(self):
        model = nn.BatchNorm1d(3)
        with pytest.raises(UsageError, match="no tensor"):
            optim.orthogonalize(SGD(model.parameters(), 0.1), model)

    def test_unknown_options(self):
        model = small_net()
        for options, text in (
            ({"method": "svdd"}, "did you mean"),
            ({"which": "all"}, "known: conv, muon, paper"),
            ({"scale": "big"}, "known:"),
            ({"non_finite": "ignore"}, "known: pass, raise, skip"),
            ({"grouped": "no"}, "known: apart, together"),
            ({"exclude": ["nothing.*"]}, "matches no parameter"),
        ):
            with pytest.raises(UsageError, match=text):
                optim.orthogonalize(SGD(model.parameters(), 0.1), model, **options)

    def test_a_plain_optimizer_has_no_counts(self):
        with pytest.raises(UsageError, match="orthogonalize first"):
            optim.transformation(SGD(small_net().parameters(), 0.1))


@pytest.mark.parametrize(("grouped", "blocks"), [("together", 1), ("apart", 2)])
def test_grouped_convolutions_both_ways(grouped, blocks):
    model = small_net()
    optimizer = optim.orthogonalize(SGD(model.parameters(), 0.1), model, grouped=grouped, method="svd")
    set_gradients(model)
    raw = model[3].weight.grad.clone()
    optimizer.step()
    expected = torch.cat([exact(part) for part in raw.chunk(blocks)])
    torch.testing.assert_close(model[3].weight.grad, expected.float(), atol=1e-5, rtol=1e-4)


def test_parts_of_a_fused_weight_are_matrices_of_their_own():
    model = nn.ModuleDict({"qkv": nn.Linear(6, 12)})
    optimizer = optim.orthogonalize(SGD(model.parameters(), 0.1), model, blocks={"qkv.weight": 3}, method="svd")
    set_gradients(model)
    raw = model["qkv"].weight.grad.clone()
    optimizer.step()
    expected = torch.cat([exact(part) for part in raw.chunk(3)])
    torch.testing.assert_close(model["qkv"].weight.grad, expected.float(), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("scale", "value"),
    [("none", 1.0), ("muon", 2.0**0.5), ("moonlight", 0.2 * 8**0.5), ("spectral", 2.0**0.5)],
)
def test_scale_conventions(scale, value):
    layer = nn.Linear(4, 8, bias=False)
    optimizer = optim.orthogonalize(SGD(layer.parameters(), 0.1), layer, scale=scale, method="svd")
    layer.weight.grad = torch.randn(8, 4)
    raw = layer.weight.grad.clone()
    optimizer.step()
    torch.testing.assert_close(layer.weight.grad, exact(raw).float() * value, atol=1e-5, rtol=1e-4)


def test_the_order_of_parameters_does_not_matter():
    model, twin = small_net(), small_net()
    forward = optim.orthogonalize(SGD(list(model.parameters()), 0.1), model)
    backward = optim.orthogonalize(SGD(list(twin.parameters())[::-1], 0.1), twin)
    for m, o in ((model, forward), (twin, backward)):
        set_gradients(m)
        o.step()
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=2e-6, rtol=0)


@pytest.mark.parametrize("kind", ["whole", "component"])
def test_normalised_baselines(kind):
    layer = nn.Linear(5, 4)
    optimizer = optim.normalize(SGD(layer.parameters(), 0.1), layer, kind=kind)
    set_gradients(layer)
    layer.weight.grad[2] = 0
    raw, bias = layer.weight.grad.clone(), layer.bias.grad.clone()
    optimizer.step()
    norms = raw.norm() if kind == "whole" else raw.norm(dim=1, keepdim=True)
    expected = torch.where(raw == 0, 0, raw / norms)
    torch.testing.assert_close(layer.weight.grad, expected)
    assert torch.equal(layer.bias.grad, bias)
    assert optimizer.param_groups[0]["normalize"] is True


def test_a_compiled_step_gives_the_same_weights():
    model, twin = small_net(), small_net()
    results = []
    for m, compiles in ((model, True), (twin, False)):
        optimizer = optim.orthogonalize(SGD(m.parameters(), 0.1, momentum=0.9), m)
        step = torch.compile(optimizer.step, backend="eager") if compiles else optimizer.step
        for seed in range(3):
            set_gradients(m, seed)
            step()
        results.append([p.detach().clone() for p in m.parameters()])
        assert optim.transformation(optimizer).counts().steps == 3
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)
