"""Rectangles of noise: where they are, and what is in them."""

import pytest
import torch
from scipy import stats
from torchvision.transforms import v2

from orthostream.data.batched.draws import Draws
from orthostream.data.batched.erase import Erase

AREA, RATIO = (0.02, 0.33), (0.3, 3.3)


@pytest.mark.parametrize("shape", [(32, 32), (9, 40)])
def test_rectangles_are_drawn_as_torchvision_draws_them(shape):
    torch.manual_seed(0)
    theirs = v2.RandomErasing(1.0, AREA, RATIO, value="random")
    drawn = [theirs.make_params([torch.empty(3, *shape)]) for _ in range(1500)]
    drawn = [each for each in drawn if each["v"] is not None]
    erase = Erase(1.0, AREA, RATIO)
    is_erased, boxes = erase.draw(Draws.of(0, 0, torch.arange(6000)).uniform(erase.count), *shape)
    # Where no rectangle fits there is none, about as often.
    assert abs(is_erased.double().mean() - len(drawn) / 1500) < 0.02
    for ours, name in zip(boxes, ("i", "j", "h", "w"), strict=True):
        assert stats.ks_2samp(ours[is_erased].numpy(), [each[name] for each in drawn]).pvalue > 1e-3, name


def test_a_share_of_the_images_is_erased():
    erase = Erase(0.25, AREA, RATIO)
    is_erased, _ = erase.draw(Draws.of(1, 0, torch.arange(8000)).uniform(erase.count), 32, 32)
    assert stats.binomtest(int(is_erased.sum()), 8000, 0.25).pvalue > 1e-3


@pytest.mark.parametrize("channels", [1, 3])
def test_noise_fills_the_rectangle_and_nothing_else(channels):
    erase, draws = Erase(0.5, AREA, RATIO), Draws.of(2, 0, torch.arange(400))
    images = torch.full((400, channels, 20, 31), 7.0)
    is_erased, boxes = erase.draw(draws.uniform(erase.count), 20, 31)
    found = erase(images, draws)
    inside = []
    corners = zip(*(each.tolist() for each in boxes), strict=True)
    for image, erased, (top, left, height, width) in zip(found, is_erased.tolist(), corners, strict=True):
        place = torch.zeros(20, 31, dtype=torch.bool)
        place[top : top + height, left : left + width] = erased
        assert torch.equal(image == 7.0, ~place.expand(channels, -1, -1))
        inside.append(image[:, place].flatten())
    noise = torch.cat(inside)
    assert stats.kstest(noise[:20_000].numpy(), "norm").pvalue > 1e-3
    assert len(noise.unique()) > 0.99 * len(noise)


def test_the_noise_of_an_image_does_not_depend_on_its_batch():
    erase, samples = Erase(0.7, AREA, RATIO), torch.arange(50)
    together = erase(torch.zeros(50, 3, 16, 16), Draws.of(0, 1, samples))
    for few in samples.split(7):
        assert torch.equal(erase(torch.zeros(len(few), 3, 16, 16), Draws.of(0, 1, few)), together[few])


def test_an_image_that_is_too_small_stays_as_it_is():
    images = torch.zeros(20, 3, 1, 1)
    assert not Erase(1.0, AREA, RATIO)(images, Draws.of(0, 0, torch.arange(20))).any()
    assert Erase(0.0, AREA, RATIO)(torch.zeros(0, 3, 4, 4), Draws.of(0, 0, torch.arange(0))).shape == (0, 3, 4, 4)
