"""Philox gives its published numbers, and what is drawn depends on its place alone."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from orthostream.data.batched.draws import Draws, between, choose, philox, running

# Of the authors' own implementation: counters, key, words.
KNOWN = [
    ((0, 0, 0, 0), 0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((2**32 - 1,) * 4, 2**64 - 1, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        0x299F31D0A4093822,
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]
CPU = torch.device("cpu")


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_philox_gives_its_published_numbers(counter, key, words):
    # Several at once, for vectors and their tails may be computed differently.
    found = philox(tuple(torch.full((9,), value) for value in counter), key)
    assert [word.tolist() for word in found] == [[word] * 9 for word in words]


@given(samples=st.lists(st.integers(0, 2**40), min_size=1, max_size=12), count=st.integers(1, 9))
def test_a_sample_draws_the_same_in_any_batch(samples, count):
    together = Draws.of(5, 3, torch.tensor(samples))
    sizes = torch.tensor([(sample * 7) % 11 for sample in samples])
    noise = together.normal(sizes, CPU).split(sizes.tolist())
    for row, sample in enumerate(samples):
        alone = Draws.of(5, 3, torch.tensor([sample]))
        assert torch.equal(alone.uniform(count)[0], together.uniform(count)[row])
        assert torch.equal(alone.normal(sizes[row : row + 1], CPU), noise[row])


def test_fewer_numbers_are_the_first_of_more():
    draws = Draws.of(0, 0, torch.arange(3))
    assert torch.equal(draws.uniform(10)[:, :3], draws.uniform(3))


def test_seeds_epochs_samples_and_steps_draw_differently():
    samples = torch.arange(4)
    draws = [Draws.of(seed, epoch, samples).at(step) for seed in (0, 1) for epoch in (0, 1) for step in (0, 1)]
    numbers = torch.cat([torch.cat([each.uniform(6).flatten(), each.normal(samples + 4, CPU)]) for each in draws])
    assert len(numbers.unique()) == len(numbers)
    # The high word of a place in the set counts too.
    assert Draws.of(0, 0, torch.tensor([5])).uniform(1) != Draws.of(0, 0, torch.tensor([5 + 2**32])).uniform(1)


def test_numbers_are_uniform_and_independent():
    numbers = Draws.of(1, 2, torch.arange(4000)).uniform(6).numpy()
    assert numbers.min() >= 0 and numbers.max() < 1
    for column in numbers.T:
        assert stats.kstest(column, "uniform").pvalue > 1e-3
    correlation = torch.corrcoef(torch.from_numpy(numbers.T)) - torch.eye(6)
    # Four standard deviations of what independent columns show.
    assert correlation.abs().max() < 4 / 4000**0.5
    neighbours = torch.corrcoef(torch.from_numpy(numbers[:, 0]).unfold(0, 2, 1).T)[0, 1]
    assert neighbours.abs() < 4 / 4000**0.5


def test_noise_is_normal():
    noise = Draws.of(1, 2, torch.arange(2000)).normal(torch.full((2000,), 10), CPU)
    assert noise.dtype == torch.float32 and len(noise) == 20_000
    assert stats.kstest(noise.numpy(), "norm").pvalue > 1e-3
    # Sines and cosines of one angle, and numbers of neighbouring samples, do not go together.
    assert (torch.corrcoef(noise.view(-1, 10).T) - torch.eye(10)).abs().max() < 4.5 / 2000**0.5


def test_normal_numbers_of_no_samples():
    none = torch.empty(0, dtype=torch.int64)
    assert Draws.of(0, 0, none).normal(none, CPU).shape == (0,)


@given(sizes=st.lists(st.integers(0, 5), max_size=6))
def test_running_numbers(sizes):
    expected = [number for size in sizes for number in range(size)]
    assert running(torch.tensor(sizes, dtype=torch.int64)).tolist() == expected


@given(uniform=st.floats(0, 1, exclude_max=True), among=st.integers(1, 2**20))
def test_whole_numbers_stay_below_their_end(uniform, among):
    # Multiples of 2**-32, as drawn.
    number = torch.tensor([uniform], dtype=torch.float64).mul(2**32).floor().mul(2.0**-32)
    assert 0 <= int(choose(number, among)) < among
    assert int(choose(number, torch.tensor([among]))) == int(choose(number, among))


def test_whole_numbers_are_equally_probable():
    found = torch.bincount(choose(Draws.of(4, 0, torch.arange(7000)).uniform(1)[:, 0], 7), minlength=7)
    assert stats.chisquare(found.numpy()).pvalue > 1e-3


def test_between_has_its_ends():
    assert between(torch.tensor([0.0, 0.5]), -3, 1).tolist() == [-3, -1]
