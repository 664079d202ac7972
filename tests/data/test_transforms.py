"""The transforms against golden outputs, and what they refuse."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torchvision import transforms as v1
from torchvision.transforms import v2

from golden import compare, load
from orthostream.data.cifar import CIFAR10, CIFAR100
from orthostream.data.description import Description
from orthostream.data.transforms import LONGEST_ASPECT, evaluation_transform, train_transform
from orthostream.errors import UsageError

GOLDEN = "ortho/transforms"
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def description(family="cifar", image_size=32, mean=CIFAR10.mean, std=CIFAR10.std):
    return Description(
        name=family,
        family=family,
        classes=("a", "b"),
        channels=len(mean),
        image_size=image_size,
        patch_size=1,
        mean=mean,
        std=std,
        eval_split="test",
    )


DESCRIPTIONS = {
    "cifar10": description(),
    "cifar100": description(mean=CIFAR100.mean, std=CIFAR100.std),
    "tiny-imagenet": description("tiny_imagenet", 64, *IMAGENET),
    "imagenet1k": description("imagenet", 224, *IMAGENET),
    "mnist": description("mnist", 28, (0.0,), (1.0,)),
}
DIGITS = description("digits", 8, (0.3,), (0.4,))
CASES = [
    f"{name}.{arch}" for name in DESCRIPTIONS for arch in ("vit", "resnet18") if (name, arch) != ("mnist", "resnet18")
]


def opened(case):
    """Golden tensors, facts of a case, its image, its description and its pipeline."""
    tensors, sidecar = load(GOLDEN)
    name, arch = case.split(".")
    pixels = tensors[f"{name}.image_uint8"].numpy()
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    return tensors, sidecar["cases"][case], image, DESCRIPTIONS[name], "vit" if arch == "vit" else "resnet"


@pytest.mark.parametrize("case", CASES)
def test_golden_evaluation(case):
    tensors, facts, image, described, pipeline = opened(case)
    out = evaluation_transform(described, pipeline)(image)
    assert list(out.shape) == facts["output_shape"]
    stride = facts["stored_stride"]
    # The sidecar allows 2e-3 for resized images and 1e-5 for whole ones.
    resized = described.family in ("tiny_imagenet", "imagenet")
    compare(out[:, ::stride, ::stride], tensors[f"{case}.eval"], 2e-3 if resized else 1e-5, 0.0, what=case)
    # The sum over all pixels, where the stored ones are a part: 1e-5 of the largest sum of magnitudes.
    assert out.double().sum().item() == pytest.approx(facts["eval_sum"], abs=1e-5 * out.numel())


def as_first_version(transform):
    """The same steps in torchvision's first version, whose draws the golden outputs were made with.

    The second version's RandAugment and ColorJitter draw other numbers from the same seed. torchvision itself
    knows the first-version equivalent of each step, which keeps the parameters and the order that are tested.
    """
    steps = []
    for step in transform.transforms:
        if isinstance(step, v2.ToImage):
            steps.append(v1.ToTensor())
        elif not isinstance(step, v2.ToDtype | v2.ToPureTensor):
            steps.append(step.__prepare_scriptable__())
    return v1.Compose(steps)


@pytest.mark.parametrize("case", CASES)
def test_golden_training(case):
    tensors, facts, image, described, pipeline = opened(case)
    made_with = load(GOLDEN)[1]["versions"]["torchvision"]
    if torchvision.__version__.split("+")[0] != made_with:
        pytest.skip(
            f"draws depend on torchvision: golden outputs are of {made_with}, here is {torchvision.__version__}"
        )
    strong = {}
    if pipeline == "vit" and described.family != "mnist":
        names = {"randaugment_n": "randaugment_N", "randaugment_m": "randaugment_M", "random_erase": "random_erase"}
        strong = {ours: facts[theirs] for ours, theirs in names.items()}
    transform = as_first_version(train_transform(described, pipeline, **strong))
    stride = facts["stored_stride"]
    for seed in facts["train_seeds"]:
        torch.manual_seed(seed)
        compare(transform(image)[:, ::stride, ::stride], tensors[f"{case}.train_seed{seed}"], 1e-5, 0.0, what=case)


@pytest.mark.parametrize("case", [case for case in CASES if case.endswith("resnet18")])
def test_golden_training_directly(case):
    # Without RandAugment and colours both versions of torchvision draw the same.
    tensors, facts, image, described, pipeline = opened(case)
    stride = facts["stored_stride"]
    for seed in facts["train_seeds"]:
        torch.manual_seed(seed)
        out = train_transform(described, pipeline)(image)
        compare(out[:, ::stride, ::stride], tensors[f"{case}.train_seed{seed}"], 1e-5, 0.0, what=case)


def names(transform):
    return [type(step).__name__ for step in transform.transforms]


def test_nothing_is_in_a_pipeline_that_was_not_asked_for():
    plain = ["RandomCrop", "RandomHorizontalFlip", "ColorJitter", "ToImage", "ToDtype", "ToPureTensor", "Normalize"]
    assert names(train_transform(description(), "vit")) == plain
    strong = train_transform(description(), "vit", randaugment_n=2, randaugment_m=3, random_erase=0.5)
    assert [name for name in names(strong) if name not in plain] == ["RandAugment", "RandomErasing"]


def test_none_trains_on_what_evaluation_sees():
    image = noise(32)
    assert torch.equal(
        train_transform(description(), "none")(image), evaluation_transform(description(), "none")(image)
    )


def noise(width, height=None, channels=3):
    shape = (height or width, width, channels) if channels == 3 else (height or width, width)
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))


@pytest.mark.parametrize("pipeline", ["vit", "resnet"])
def test_digits_move_by_a_pixel_and_are_not_mirrored(pipeline):
    transform = train_transform(replace(DIGITS, mean=(0.0,), std=(1.0,)), pipeline)
    image = noise(8, channels=1)
    whole = np.pad(np.asarray(image), 1)
    torch.manual_seed(0)
    # Compared as levels, for the scale to [0, 1] rounds.
    seen = {(transform(image)[0] * 255).round().numpy().astype(np.uint8).tobytes() for _ in range(200)}
    allowed = {whole[i : i + 8, j : j + 8].tobytes() for i in range(3) for j in range(3)}
    assert len(allowed) == 9 and seen == allowed


@pytest.mark.parametrize(("family", "size"), [("cifar", 48), ("cifar", 16), ("digits", 16), ("imagenet", 64)])
@pytest.mark.parametrize("pipeline", ["vit", "resnet"])
def test_another_image_size(family, size, pipeline):
    described = replace(DIGITS if family == "digits" else description(family), image_size=size)
    image = noise(8, channels=1) if family == "digits" else noise(32)
    for transform in (train_transform(described, pipeline), evaluation_transform(described, pipeline)):
        assert transform(image).shape == (described.channels, size, size)


def test_strong_augmentation_of_digits_keeps_one_channel():
    out = train_transform(DIGITS, "vit", randaugment_n=3, randaugment_m=9, random_erase=1.0)(noise(8, channels=1))
    assert out.shape == (1, 8, 8) and out.dtype == torch.float32


@pytest.mark.parametrize(("family", "pipeline"), [("cifar", "resnet"), ("cifar", "none"), ("mnist", "vit")])
@pytest.mark.parametrize("options", [{"randaugment_n": 1}, {"random_erase": 0.1}])
def test_a_value_without_effect_is_refused(family, pipeline, options):
    described = DESCRIPTIONS["mnist"] if family == "mnist" else description()
    with pytest.raises(UsageError, match=rf"no effect in the {pipeline} pipeline of {family}"):
        train_transform(described, pipeline, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"randaugment_n": -1}, "randaugment_n=-1"),
        ({"randaugment_n": 1, "randaugment_m": 31}, "magnitude 0 to 30"),
        ({"random_erase": 1.5}, "expected 0 to 1"),
    ],
)
def test_values_out_of_range_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        train_transform(description(), "vit", **options)


def test_the_largest_magnitude_works():
    torch.manual_seed(0)
    for _ in range(20):
        train_transform(description(), "vit", randaugment_n=2, randaugment_m=30)(noise(32))


def test_an_unknown_pipeline_is_named():
    for make in (train_transform, evaluation_transform):
        with pytest.raises(UsageError, match=r"unknown augment\.pipeline 'vits'"):
            make(description(), "vits")


@pytest.mark.parametrize("pipeline", ["vit", "resnet"])
def test_cutting_a_long_image_keeps_its_centre(pipeline):
    long = noise(40 * LONGEST_ASPECT, 20)
    described = description("imagenet", 32, *IMAGENET)
    out = evaluation_transform(described, pipeline)(long)
    whole = v2.Compose(evaluation_transform(described, pipeline).transforms[1:])(long)
    # The cut leaves the centre in place, and is far from what the filter of the resize reaches. One level of 255
    # may round the other way.
    assert (out - whole).abs().max() <= 1.01 / 255 / min(described.std)


def test_transforms_can_be_sent_to_a_process():
    for transform in (
        train_transform(description(), "vit", randaugment_n=1),
        evaluation_transform(DESCRIPTIONS["imagenet1k"], "vit"),
    ):
        assert pickle.loads(pickle.dumps(transform))(noise(32)).dtype == torch.float32
