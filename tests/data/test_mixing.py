"""Mixup and cutmix against timm's golden batches and its distribution, and their independence of the processes."""

import numpy as np
import pytest
import torch
from timm.data.mixup import Mixup, cutmix_bbox_and_lam
from torch.nn import functional

from golden import compare, load
from orthostream.data.mixing import Blend, Box, Mixing, cut, mix, neighbours, soft_targets
from orthostream.errors import UsageError

GOLDEN = "ortho/eval_and_mixup"
CASES = [f"mixup{i}" for i in range(6)]


def mixing(**changed):
    options = {
        "num_classes": 5,
        "mixup_alpha": 0.8,
        "cutmix_alpha": 1.0,
        "probability": 1.0,
        "cutmix_share": 0.5,
        "label_smoothing": 0.1,
        "seed": 3,
    }
    return Mixing(**{**options, **changed})


def batch(size, height=6, width=8):
    rng = torch.Generator().manual_seed(size)
    return torch.rand(size, 3, height, width, generator=rng), torch.randint(0, 5, (size,), generator=rng)


def timms_blend(facts, height, width):
    """The blend that timm draws from NumPy's global generator, in its order of draws."""
    rng = np.random.RandomState(facts["numpy_seed"])
    if rng.rand() >= facts["prob"]:
        return Blend(1.0)
    is_cutmix = rng.rand() < facts["switch_prob"]
    alpha = facts["cutmix_alpha" if is_cutmix else "mixup_alpha"]
    lam = float(rng.beta(alpha, alpha))
    return cut(lam, height, width, rng.randint(0, height), rng.randint(0, width)) if is_cutmix else Blend(lam)


@pytest.mark.parametrize("case", CASES)
def test_golden_batches(case):
    tensors, sidecar = load(GOLDEN)
    facts = sidecar["cases"][case]
    images, labels = tensors[f"{case}.x"], tensors[f"{case}.y"]
    blend = timms_blend(facts, *images.shape[-2:])
    targets = soft_targets(labels, facts["num_classes"], facts["label_smoothing"])
    # timm pairs a batch with its reverse.
    flipped = torch.arange(len(labels)).flip(0)
    mixed, mixed_targets = mix(images, targets, flipped, blend)
    # float32 sums of two products, in one or the other order
    compare(mixed, tensors[f"{case}.x_out"], 1e-6, 1e-6, what=case)
    compare(mixed_targets, tensors[f"{case}.y_out"], 1e-6, 1e-6, what=case)
    loss = functional.cross_entropy(tensors[f"{case}.logits"], mixed_targets)
    # Means of logarithms of four samples, of order 1.
    compare(loss[None], tensors[f"{case}.soft_ce"], 1e-5, 1e-5, what=case)


def test_the_golden_cases_cover_mixup_cutmix_and_none():
    cases = load(GOLDEN)[1]["cases"]
    blends = [timms_blend(cases[case], 10, 8) for case in CASES]
    kinds = {"none" if b.lam == 1 else "mixup" if b.box is None else "cutmix" for b in blends}
    assert kinds == {"none", "mixup", "cutmix"}


@pytest.mark.parametrize("lam", [0.0, 0.1, 0.37, 0.5, 0.81, 0.999])
@pytest.mark.parametrize("shape", [(7, 10), (32, 32), (1, 5)])
def test_boxes_are_timms(lam, shape, monkeypatch):
    height, width = shape
    for row in range(height):
        for column in range(width):
            centre = iter([row, column])
            monkeypatch.setattr(np.random, "randint", lambda *a, centre=centre, **k: next(centre))
            (top, bottom, left, right), corrected = cutmix_bbox_and_lam((1, 3, *shape), lam)
            blend = cut(lam, height, width, row, column)
            assert blend.box == Box(top, bottom, left, right)
            assert blend.lam == pytest.approx(corrected, abs=1e-12)


@pytest.mark.parametrize("alphas", [(0.8, 1.0), (0.8, 0.0), (0.0, 1.0)])
@pytest.mark.parametrize("probability", [1.0, 0.6])
def test_blends_have_timms_distribution(alphas, probability):
    count, shape = 6000, (4, 3, 16, 16)
    ours = mixing(mixup_alpha=alphas[0], cutmix_alpha=alphas[1], probability=probability, cutmix_share=0.3)
    rng = np.random.default_rng(0)
    drawn = [ours.draw(rng, *shape[-2:]) for _ in range(count)]
    theirs = Mixup(*alphas, prob=probability, switch_prob=0.3, num_classes=5)
    np.random.seed(1)  # noqa: NPY002
    expected = []
    for _ in range(count):
        lam, is_cutmix = theirs._params_per_batch()
        if is_cutmix:
            _, lam = cutmix_bbox_and_lam(shape, lam)
        expected.append((lam, is_cutmix))
    for is_cutmix in (False, True):
        mine = np.sort([b.lam for b in drawn if (b.box is not None) == is_cutmix])
        other = np.sort([lam for lam, flag in expected if flag == is_cutmix])
        # Counts: five standard deviations of a difference of two binomials with at most count / 4 variance.
        assert abs(len(mine) - len(other)) <= 5 * (count / 2) ** 0.5
        if not len(mine) or not len(other):
            assert not len(mine) and not len(other)
            continue
        # Kolmogorov-Smirnov: 1.95 sqrt((n + m) / (n m)) is exceeded by chance once in a thousand.
        grid = np.concatenate([mine, other])
        gap = np.searchsorted(mine, grid, "right") / len(mine) - np.searchsorted(other, grid, "right") / len(other)
        assert np.abs(gap).max() < 1.95 * ((len(mine) + len(other)) / (len(mine) * len(other))) ** 0.5


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8])
@pytest.mark.parametrize("options", [{"mixup_alpha": 0.0}, {"cutmix_alpha": 0.0}, {}])
def test_any_batch_size_keeps_shape_range_and_mass(size, options):
    images, labels = batch(size)
    before = images.clone()
    for step in range(5):
        mixed, targets = mixing(**options)(images, labels, 0, step, 0)
        assert mixed.shape == images.shape and mixed.dtype == images.dtype
        assert targets.shape == (size, 5) and targets.dtype == torch.float32
        # Sums of five float32 numbers below 1.
        assert torch.allclose(targets.sum(1), torch.ones(size), atol=1e-6)
        # A blend lies between the two images; one rounding of float32.
        assert mixed.min() >= before.min() - 1e-6 and mixed.max() <= before.max() + 1e-6
        assert torch.equal(images, before), "the loader's batch is left alone"


def test_the_last_of_an_odd_batch_is_its_own_partner():
    assert neighbours(5, torch.device("cpu")).tolist() == [1, 0, 3, 2, 4]
    images, labels = batch(5)
    mixed, targets = mixing(cutmix_alpha=0.0)(images, labels, 0, 0, 0)
    # lam x + (1 - lam) x is x up to rounding.
    assert torch.allclose(mixed[4], images[4], atol=1e-6)
    assert torch.allclose(targets[4], soft_targets(labels, 5, 0.1)[4], atol=1e-6)
    assert not torch.allclose(mixed[:4], images[:4], atol=1e-3)


@pytest.mark.parametrize("world_size", [2, 4])
@pytest.mark.parametrize("options", [{"mixup_alpha": 0.0}, {"cutmix_alpha": 0.0}])
def test_processes_together_mix_as_one_alone(world_size, options):
    images, labels = batch(16)
    for step in range(3):
        alone = mixing(**options)(images, labels, 1, step, 0)
        shares = [
            mixing(**options)(*share, 1, step, 0)
            for share in zip(images.chunk(world_size), labels.chunk(world_size), strict=True)
        ]
        for whole, parts in zip(alone, zip(*shares, strict=True), strict=True):
            assert torch.equal(whole, torch.cat(parts))


def test_each_micro_batch_has_a_blend_of_its_own_that_nothing_else_changes():
    images, labels = batch(4)
    places = [(epoch, step, micro) for epoch in range(2) for step in range(2) for micro in range(2)]
    state, legacy = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    # Mixup alone: its shares are real numbers, while boxes of few pixels may well repeat.
    blend = mixing(cutmix_alpha=0.0)
    first = {place: blend(images, labels, *place)[1] for place in places}
    again = {place: blend(images, labels, *place)[1] for place in reversed(places)}
    assert all(torch.equal(first[place], again[place]) for place in places)
    assert len({first[place].numpy().tobytes() for place in places}) == len(places)
    assert not torch.equal(first[0, 0, 0], mixing(cutmix_alpha=0.0, seed=4)(images, labels, 0, 0, 0)[1])
    assert torch.equal(state, torch.get_rng_state())
    assert np.array_equal(legacy, np.random.get_state()[1])  # noqa: NPY002


def test_without_mixing_labels_stay_numbers():
    images, labels = batch(4)
    same_images, same_labels = mixing(probability=0.0)(images, labels, 0, 0, 0)
    assert same_images is images and same_labels is labels


def test_a_batch_that_is_not_mixed_still_has_soft_targets():
    images, labels = batch(4)
    rare = mixing(probability=1e-9)
    same, targets = rare(images, labels, 0, 0, 0)
    assert torch.equal(same, images)
    # Cross entropy with label smoothing and with these targets is the same number, up to float32 rounding.
    logits = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    smoothed = functional.cross_entropy(logits, labels, label_smoothing=0.1)
    assert functional.cross_entropy(logits, targets).item() == pytest.approx(smoothed.item(), abs=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"probability": 1.1}, r"mix_probability=1\.1"),
        ({"cutmix_share": -0.1}, r"cutmix_share=-0\.1"),
        ({"label_smoothing": 2.0}, r"label_smoothing=2\.0"),
        ({"mixup_alpha": -1.0}, r"mixup_alpha=-1\.0"),
        ({"mixup_alpha": 0.0, "cutmix_alpha": 0.0}, "both 0"),
    ],
)
def test_values_out_of_range_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        mixing(**options)
