"""Changes of colours: their draws, and each image's own order."""

import pytest
import torch
from scipy import stats
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from orthostream.data.batched.draws import Draws
from orthostream.data.batched.jitter import ColourJitter

OTHER = v2.ColorJitter(0.4, 0.4, 0.4, 0.1)
JITTER = ColourJitter(OTHER.brightness, OTHER.contrast, OTHER.saturation, OTHER.hue)
CHANGES = (
    functional.adjust_brightness,
    functional.adjust_contrast,
    functional.adjust_saturation,
    functional.adjust_hue,
)


def drawn(jitter, count):
    return jitter.draw(Draws.of(0, 0, torch.arange(count)).uniform(jitter.count))


@pytest.mark.parametrize("is_byte", [True, False])
def test_each_image_is_changed_by_its_factors_in_its_order(is_byte, pictures, compare_levels):
    images = torch.stack([pictures["cifar10"], pictures["ramp"]] * 24)
    images = images if is_byte else images / 255
    orders, factors = drawn(JITTER, len(images))
    expected = []
    for sample, image in enumerate(images):
        for which in orders[:, sample].tolist():
            image = CHANGES[which](image, factors[which, sample].item())
        expected.append(image)
    found = JITTER(images, Draws.of(0, 0, torch.arange(len(images))).uniform(JITTER.count))
    # A level between two changes can be more after the next one.
    compare_levels(found, torch.stack(expected), levels=3 if is_byte else 1e-5, share=0.001 if is_byte else 1)


def test_orders_and_factors_are_drawn_as_torchvision_draws_them():
    torch.manual_seed(0)
    others = [OTHER.make_params([]) for _ in range(2000)]
    orders, factors = drawn(JITTER, 8000)
    for values, name in zip(factors, ("brightness", "contrast", "saturation", "hue"), strict=True):
        assert stats.ks_2samp(values.numpy(), [each[f"{name}_factor"] for each in others]).pvalue > 1e-3
    places = torch.tensor([64, 16, 4, 1])
    ours = torch.bincount((orders * places[:, None]).sum(0), minlength=256)
    theirs = torch.bincount(torch.tensor([(each["fn_idx"] * places).sum() for each in others]), minlength=256)
    counts = torch.stack([ours, theirs])[:, ours > 0]
    assert counts.shape[1] == 24 and counts.sum() == 10_000
    assert stats.chi2_contingency(counts.numpy()).pvalue > 1e-3


def test_what_is_off_changes_nothing(pictures):
    images = pictures["noise"][None].expand(30, -1, -1, -1)
    draws = Draws.of(0, 0, torch.arange(30))
    assert torch.equal(ColourJitter(None, None, None, None)(images, draws.uniform(5)), images)
    only = ColourJitter(None, (0.5, 1.5), None, None)
    _, factors = only.draw(draws.uniform(5))
    found = only(images, draws.uniform(5))
    for image, factor in zip(found, factors[1].tolist(), strict=True):
        assert torch.equal(image, functional.adjust_contrast(images[0], factor))
