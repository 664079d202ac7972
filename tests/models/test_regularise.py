"""What acts on an update before it is written."""

import pytest
import torch

from orthostream.errors import UsageError
from orthostream.models.regularise import DropPath, LayerScale, UpdateNoise, before_write


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_drop_path_drops_whole_samples(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    update = torch.ones(4000, 3, 2, dtype=dtype)
    dropped = DropPath(0.25)(update)
    assert dropped.dtype == dtype
    kept = dropped[:, 0, 0] != 0
    assert torch.equal(dropped, (kept[:, None, None] * torch.tensor(1 / 0.75, dtype=dtype)).expand_as(dropped))
    # 4000 draws: the share scatters by 0.7 %; five times that
    assert kept.float().mean().item() == pytest.approx(0.75, abs=0.035)


def test_drop_path_is_the_identity_in_evaluation() -> None:
    update = torch.randn(3, 4)
    assert DropPath(0.9).eval()(update) is update


def test_noise_has_its_scale_and_passes_gradients_to_the_update() -> None:
    torch.manual_seed(0)
    update = torch.zeros(100, 100, requires_grad=True)
    noisy = UpdateNoise(0.3)(update)
    # 10000 draws: their standard deviation scatters by 0.7 %
    assert noisy.std().item() == pytest.approx(0.3, rel=0.03)
    noisy.sum().backward()
    assert torch.equal(update.grad, torch.ones_like(update))
    assert UpdateNoise(0.3).eval()(update) is update


def test_layer_scale_is_one_factor_a_feature() -> None:
    scale = LayerScale(3, 0.5)
    with torch.no_grad():
        scale.gamma[1] = 2.0
    assert torch.equal(scale(torch.ones(2, 3)), torch.tensor([[0.5, 2.0, 0.5]] * 2))


def test_chain_holds_what_is_on_in_its_order() -> None:
    assert len(before_write(features=4)) == 0
    update = torch.randn(2, 4)
    assert before_write(features=4)(update) is update
    full = before_write(features=4, layer_scale=0.1, drop_path=0.1, perturbation=0.1)
    assert [type(part) for part in full] == [LayerScale, DropPath, UpdateNoise]
    assert list(full.state_dict()) == ["scale.gamma"]
    assert len(before_write(features=4, drop_path=0.0, perturbation=0.0)) == 0


def test_a_dropped_sample_still_has_noise() -> None:
    chain = before_write(features=4, drop_path=0.999, perturbation=1.0)
    torch.manual_seed(0)
    assert chain(torch.zeros(2, 4)).count_nonzero() == 8


@pytest.mark.parametrize("options", [{"drop_path": 1.0}, {"perturbation": -0.1}, {"layer_scale": float("nan")}])
def test_refused_values(options: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        before_write(features=4, **options)
