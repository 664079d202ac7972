"""Cosines between representations and filters: recorded values, properties, and what listens in training."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import golden
from orthostream.analysis.diagnostics import Diagnostics, Listeners
from orthostream.analysis.similarity import filter_similarity, pairwise_similarity, representation_similarity
from orthostream.errors import UsageError


def test_representations_agree_with_recorded_values() -> None:
    tensors, sidecar = golden.load("optim/diagnostics")
    found = representation_similarity(tensors["repr/x"].double())
    tolerance = sidecar["tolerance_abs"]
    golden.compare(found.mean, tensors["repr/mean_abs_cos_per_sample"], tolerance, 0.0, what="mean")
    golden.compare(found.variance, tensors["repr/var_abs_cos_per_sample"], tolerance, 0.0, what="variance")
    assert abs(found.mean.mean().item() - sidecar["mean_over_samples"]) < tolerance
    assert (found.count, found.length) == (6, 16)


def test_filters_agree_with_recorded_values() -> None:
    tensors, sidecar = golden.load("optim/diagnostics")
    found = filter_similarity(tensors["filters/w"])
    expected = sidecar["filters"]
    assert abs(found.mean.item() - expected["mean_abs_cos"]) < sidecar["tolerance_abs"]
    assert abs(tensors["filters/cosines_upper_triangle"].abs().mean().item() - found.mean.item()) < 1e-6
    assert math.isclose(found.threshold, expected["threshold_per_component_4_over_sqrt_P"])


@settings(deadline=None, max_examples=40)
@given(
    st.integers(2, 6), st.integers(1, 9), st.floats(1e-3, 1e3), st.sampled_from([1.0, -1.0]), st.integers(0, 2**31 - 1)
)
def test_scale_sign_and_order_do_not_matter(count: int, length: int, scale: float, sign: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(count, length, generator=generator, dtype=torch.float64)
    changed = vectors[torch.randperm(count, generator=generator)]
    changed[0] *= scale * sign
    plain, other = pairwise_similarity(vectors), pairwise_similarity(changed)
    torch.testing.assert_close(other.mean, plain.mean, atol=1e-12, rtol=0)
    assert 0 <= plain.mean <= 1 + 1e-12


def test_equal_channels_are_one_and_orthogonal_ones_zero() -> None:
    maps = torch.randn(3, 1, 5, 5, generator=torch.Generator().manual_seed(0)).expand(3, 4, 5, 5)
    torch.testing.assert_close(representation_similarity(maps).mean, torch.ones(3))
    basis = torch.linalg.qr(torch.randn(16, 6, dtype=torch.float64))[0].T
    assert pairwise_similarity(basis).mean < 1e-15


def test_zero_channels_are_counted_and_lower_the_mean() -> None:
    maps = torch.ones(1, 4, 2, 2)
    maps[0, 3] = 0
    found = representation_similarity(maps)
    assert found.zero.tolist() == [1]
    # 3 of the 6 pairs touch the zero channel
    assert found.mean.item() == pytest.approx(0.5)


def test_random_vectors_have_the_expected_cosine_and_stay_below_the_threshold() -> None:
    vectors = torch.randn(200, 400, generator=torch.Generator().manual_seed(0))
    found = pairwise_similarity(vectors)
    # 19,900 pairs: the standard error of the mean is below 1 % of it
    assert found.mean.item() == pytest.approx(found.expected, rel=0.03)
    assert found.threshold == pytest.approx(0.2)
    assert found.mean.item() < found.threshold


def test_low_precision_is_measured_in_float32_under_autocast() -> None:
    maps = torch.randn(2, 8, 6, 6, generator=torch.Generator().manual_seed(0)).bfloat16()
    expected = representation_similarity(maps.double()).mean
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = representation_similarity(maps).mean
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=0)


def test_what_has_no_pair_is_refused() -> None:
    with pytest.raises(UsageError, match="two vectors or more"):
        pairwise_similarity(torch.ones(1, 4))
    with pytest.raises(UsageError, match="maps"):
        representation_similarity(torch.ones(4, 4))
    with pytest.raises(UsageError, match="filters are"):
        filter_similarity(torch.ones(4))
    assert pairwise_similarity(torch.ones(2, 4)).variance.isnan()


def make_net() -> nn.Sequential:
    torch.manual_seed(0)
    relu = nn.ReLU(inplace=True)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), relu, nn.Conv2d(4, 5, 3, padding=1), relu, nn.Flatten(1)
    )


def test_diagnostics_hear_every_activation_and_leave_no_trace() -> None:
    net, images = make_net(), torch.randn(12, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    diagnostics = Diagnostics(net, samples=10)
    diagnostics.start()
    net(images).square().mean().backward()
    gradients = {name: p.grad.clone() for name, p in net.named_parameters()}
    diagnostics.stop()
    values = diagnostics.collect()

    seen = [net[:3](images)[:10]]
    # the running statistics moved again; the batch statistics used in training mode are the same
    assert values["similarity/2/mean"] == pytest.approx(representation_similarity(seen[0]).mean.mean().item())
    assert values["similarity/2#2/threshold"] == pytest.approx(4 / 6)
    assert values["dead/0.weight/exact"] == (gradients["0.weight"] == 0).sum()
    for count in ("exact", "rows", "relative", "absolute"):
        assert values[f"dead/all/{count}"] == values[f"dead/0.weight/{count}"] + values[f"dead/3.weight/{count}"]
    assert not [key for key in values if "bias" in key or "dead/1" in key]

    net.zero_grad()
    net(images).square().mean().backward()
    for name, p in net.named_parameters():
        assert torch.equal(p.grad, gradients[name]), "listening changed a gradient"
    assert not any(module._forward_hooks for module in net.modules())
    diagnostics.stop()
    assert diagnostics.collect() == values, "a second stop is harmless"


def test_diagnostics_reduce_once_and_refuse_when_nothing_was_heard() -> None:
    net = make_net()
    diagnostics = Diagnostics(net)
    with pytest.raises(UsageError, match="nothing was heard"):
        diagnostics.collect()
    both = Listeners([diagnostics])
    both.start()
    net(torch.randn(2, 3, 6, 6)).sum().backward()
    both.stop()
    calls = []

    def halve(values: torch.Tensor) -> torch.Tensor:
        calls.append(values.shape)
        return values / 2

    halved, whole = both.collect(halve), both.collect()
    assert len(calls) == 1
    assert all(halved[key] == value / 2 for key, value in whole.items())
    with pytest.raises(UsageError, match="samples=0"):
        Diagnostics(net, samples=0)
