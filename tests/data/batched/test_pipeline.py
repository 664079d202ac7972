"""Transforms of single images as transforms of batches: same steps, same numbers; nothing is left out in silence."""

from dataclasses import replace

import pytest
import torch
from scipy import stats
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional

from orthostream.data.batched.draws import Draws
from orthostream.data.batched.pipeline import Unsupported, batched
from orthostream.data.description import Description
from orthostream.data.transforms import PIPELINES, evaluation_transform, train_transform
from orthostream.errors import UsageError

CIFAR = Description(
    name="cifar",
    family="cifar",
    classes=("a", "b"),
    channels=3,
    image_size=32,
    patch_size=4,
    mean=(0.49, 0.48, 0.44),
    std=(0.2, 0.21, 0.22),
    eval_split="test",
)
FAMILIES = {
    "cifar": CIFAR,
    "tiny_imagenet": replace(CIFAR, family="tiny_imagenet", image_size=24),
    "imagenet": replace(CIFAR, family="imagenet", image_size=24),
    "digits": replace(CIFAR, family="digits", channels=1, mean=(0.3,), std=(0.4,), image_size=8),
    "mnist": replace(CIFAR, family="mnist", channels=1, mean=(0.0,), std=(1.0,), image_size=28),
}


def strong(family):
    return {} if family == "mnist" else {"randaugment_n": 3, "randaugment_m": 9, "random_erase": 0.5}


@pytest.fixture
def images(pictures):
    """A stored picture of a family, many times."""

    def make(family, count):
        name = {"digits": "digit", "mnist": "mnist", "cifar": "cifar10"}.get(family, "imagenet1k")
        picture = pictures[name][:, :28, :28] if family == "mnist" else pictures[name]
        return picture.expand(count, *picture.shape)

    return make


def prepared(transform, images):
    """A batched transform and its images after the steps that are done once."""
    made = batched(transform)
    image = functional.to_pil_image(images[0])
    for step in made.before:
        image = step(image)
    pixels = functional.pil_to_tensor(image)
    return made, pixels.expand(len(images), *pixels.shape)


@pytest.mark.parametrize("pipeline", [each for each in PIPELINES if each != "twins"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_transform_has_a_batched_form(family, pipeline, images):
    options = strong(family) if pipeline == "vit" else {}
    transform = train_transform(FAMILIES[family], pipeline, **options)
    made, stored = prepared(transform, images(family, 40))
    found = made(stored, Draws.of(0, 0, torch.arange(40)))
    one = transform(functional.to_pil_image(images(family, 1)[0]))
    assert found.shape[1:] == one.shape and found.dtype == one.dtype and found.isfinite().all()
    if pipeline == "none" or family == "mnist":
        assert torch.equal(found[3], one)
    else:
        assert len({each.numpy().tobytes() for each in found}) > 2


@pytest.mark.parametrize("pipeline", ["vit", "cnn"])
@pytest.mark.parametrize("family", FAMILIES)
def test_evaluation_is_that_of_the_workers_bit_for_bit(family, pipeline, images):
    transform = evaluation_transform(FAMILIES[family], pipeline)
    made, stored = prepared(transform, images(family, 3))
    expected = transform(functional.to_pil_image(images(family, 1)[0]))
    assert torch.equal(made(stored, Draws.of(0, 0, torch.arange(3)))[1], expected)


@pytest.mark.parametrize("family", ["cifar", "imagenet", "digits"])
def test_both_pipelines_give_the_same_distribution(family, images):
    """Means, extremes and a corner of augmented images, against those of torchvision on single images."""
    transform = train_transform(FAMILIES[family], "vit", **strong(family))
    made, stored = prepared(transform, images(family, 1500))
    ours = made(stored, Draws.of(1, 0, torch.arange(1500)))
    torch.manual_seed(0)
    image = functional.to_pil_image(images(family, 1)[0])
    theirs = torch.stack([transform(image) for _ in range(500)])
    for look in (
        lambda x: x.mean((1, 2, 3)),
        lambda x: x.std((1, 2, 3)),
        lambda x: x.amax((1, 2, 3)),
        lambda x: x[:, 0, -1, -1],
        lambda x: x[:, -1].mean((1, 2)) - x[:, 0].mean((1, 2)),
    ):
        assert stats.ks_2samp(look(ours).numpy(), look(theirs).numpy()).pvalue > 1e-3


def test_samples_do_not_depend_on_their_batch(images):
    made = batched(train_transform(CIFAR, "vit", randaugment_n=9, randaugment_m=5, random_erase=0.25))
    samples = torch.randperm(90, generator=torch.Generator().manual_seed(0))
    stored = images("cifar", 90)
    whole = made(stored, Draws.of(0, 0, samples))
    for size in (1, 7, 64):
        parts = [made(stored[: len(part)], Draws.of(0, 0, part)) for part in samples.split(size)[:5]]
        assert torch.equal(torch.cat(parts), whole[: sum(map(len, parts))])


def test_stored_images_stay_as_they_are(images):
    stored = images("cifar", 30).clone()
    before = stored.clone()
    for transform in (
        train_transform(CIFAR, "vit", randaugment_n=2, randaugment_m=9, random_erase=1.0),
        v2.Compose([v2.RandAugment(0), v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5], [0.5])]),
    ):
        batched(transform)(stored, Draws.of(0, 0, torch.arange(30)))
        assert torch.equal(stored, before)


class Strange(v2.RandomHorizontalFlip):
    """A flip that may do anything."""


@pytest.mark.parametrize(
    "step",
    [
        v2.RandomRotation(9),
        v2.GaussianBlur(3),
        Strange(),
        v2.RandomCrop(32, padding=[1, 2]),
        v2.RandomCrop(32, padding=4, fill=9),
        v2.RandomCrop(32, padding=4, padding_mode="edge"),
        v2.RandomCrop(32, pad_if_needed=True),
        v2.RandomResizedCrop(32, interpolation=InterpolationMode.BICUBIC),
        v2.RandomResizedCrop(32, antialias=False),
        v2.RandAugment(2, 9, interpolation=InterpolationMode.BILINEAR),
        v2.RandAugment(2, 9, fill=128),
        v2.RandomErasing(0.5),
        v2.ToDtype(torch.float16, scale=True),
        lambda image: image,
    ],
)
def test_a_step_without_batched_form_is_named(step):
    with pytest.raises(Unsupported, match=r"has no form for whole batches; set data\.pipeline=workers"):
        batched(v2.Compose([step, v2.ToImage()]))


def test_a_step_without_chance_after_one_with_chance_is_refused():
    with pytest.raises(Unsupported, match="Resize"):
        batched(v2.Compose([v2.RandomHorizontalFlip(), v2.Resize(8)]))


def test_what_is_no_list_of_steps_is_refused():
    with pytest.raises(Unsupported, match="TwoViews has no form"):
        batched(train_transform(CIFAR, "twins"))


def test_a_crop_that_does_not_fit_is_refused():
    made = batched(v2.Compose([v2.RandomCrop(40, padding=2)]))
    with pytest.raises(UsageError, match=r"a crop of \(40, 40\) pixels does not fit into padded images of \(36, 36\)"):
        made(torch.zeros(2, 3, 32, 32, dtype=torch.uint8), Draws.of(0, 0, torch.arange(2)))
