"""Pictures to change, and how far two results are apart."""

import pytest
import torch
from sklearn.datasets import load_digits

from golden import load


def real_pictures() -> dict[str, torch.Tensor]:
    """Images of data sets, of odd sizes and of 1 and 3 channels, with noise, a ramp and a single colour."""
    pictures = {}
    for name, pixels in load("ortho/transforms")[0].items():
        if name.endswith(".image_uint8"):
            # Odd sides, and no larger than a test needs.
            pictures[name.removesuffix(".image_uint8")] = pixels.permute(2, 0, 1)[:, :41, :63].contiguous()
    digit = torch.from_numpy(load_digits().images[7]).mul(15.9).to(torch.uint8)[None]
    seeded = torch.Generator().manual_seed(0)
    return {
        **pictures,
        "digit": digit,
        "noise": torch.randint(0, 256, (3, 33, 17), dtype=torch.uint8, generator=seeded),
        "grey noise": torch.randint(0, 256, (1, 9, 20), dtype=torch.uint8, generator=seeded),
        "ramp": torch.arange(3 * 32 * 32).view(3, 32, 32).div(12).to(torch.uint8),
        "one colour": torch.tensor([3, 77, 255], dtype=torch.uint8).view(3, 1, 1).expand(3, 8, 8).contiguous(),
        "tiny": torch.randint(0, 256, (3, 2, 5), dtype=torch.uint8, generator=seeded),
        "pixel": torch.tensor([9, 8, 7], dtype=torch.uint8).view(3, 1, 1),
    }


@pytest.fixture(scope="session")
def pictures() -> dict[str, torch.Tensor]:
    """uint8 ``[channels, height, width]`` by name."""
    return real_pictures()


@pytest.fixture(scope="session")
def compare_levels():
    """Assert that two images are within some levels, and that few pixels differ at all."""

    def check(ours, theirs, *, levels=1.0, share=0.0, what=""):
        assert ours.shape == theirs.shape and ours.dtype == theirs.dtype, what
        away = (ours.double() - theirs.double()).abs()
        if away.numel() == 0:
            return
        assert away.max() <= levels, f"{what}: {away.max()} levels apart"
        differing = (away > 0).double().mean().item()
        assert differing <= share, f"{what}: {differing:.2%} of the pixels differ"

    return check
