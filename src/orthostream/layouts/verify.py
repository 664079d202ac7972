"""Whether two layouts compute the same: both models are built, each by its own library, and shown the same images."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from orthostream.errors import UsageError
from orthostream.layouts import Layout
from orthostream.layouts.architecture import Architecture, Trained
from orthostream.layouts.model_folder import WEIGHTS, read_tensors
from orthostream.layouts.timm_vit import arguments_of

# Rounding of float32 through a few dozen blocks, relative to the largest logit, stays well below this.
TOLERANCE = 1e-5
IMAGES = 4
SEED = 0

Forward = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Agreement:
    """How far two models are from each other.

    Args:
        difference: largest difference of two logits.
        scale: the largest logit, or 1 where all are smaller.
        images: how many were compared.
    """

    difference: float
    scale: float
    images: int

    def __str__(self) -> str:
        return f"largest difference {self.difference:.3g}, largest logit {self.scale:.3g}, {self.images} images"

    def check(self, tolerance: float) -> None:
        """Refuse a difference beyond ``tolerance`` times the scale.

        Raises:
            UsageError: with the difference.
        """
        # Written so that NaN is refused too.
        if not self.difference <= tolerance * self.scale:
            raise UsageError(
                f"the converted model computes something else: {self}; at most {tolerance:g} of the largest logit is "
                "rounding, so nothing was written. If the notes above explain the difference, allow it with --tolerance"
            )


def compare(source: Forward, target: Forward, architecture: Architecture) -> Agreement:
    """Logits of both models on random images, in float32.

    Args:
        source: images [batch, channels, height, width] to logits.
        target: likewise.
        architecture: says which images they take.
    """
    generator = torch.Generator().manual_seed(SEED)
    images = torch.randn(IMAGES, architecture.in_channels, *architecture.image_size, generator=generator)
    with torch.no_grad():
        expected, actual = source(images), target(images)
    if actual.shape != expected.shape:
        raise UsageError(f"the converted model returns {list(actual.shape)} logits, the source {list(expected.shape)}")
    return Agreement(
        difference=(actual - expected).abs().max().item(), scale=max(1.0, expected.abs().max().item()), images=IMAGES
    )


def forward_of(layout: Layout, path: Path, trained: Trained) -> Forward:
    """The model in a path as its own library computes it.

    Args:
        layout: of the path.
        path: of the files, which are loaded anew where another library reads them.
        trained: what was read from it; our own model is made from this.

    Raises:
        UsageError: where that library is not installed.
    """
    if layout == "hf":
        return _hub_forward(path)
    if layout == "timm":
        return _timm_forward(path, trained.architecture)
    return trained.model()


def _hub_forward(folder: Path) -> Forward:
    from orthostream.hub import OrthoViTForImageClassification

    model = OrthoViTForImageClassification.from_pretrained(folder, dtype=torch.float32).eval()
    return lambda images: model(pixel_values=images).logits


def _timm_forward(path: Path, architecture: Architecture) -> Forward:
    try:
        from timm.models.vision_transformer import VisionTransformer
    except ImportError:
        raise UsageError(
            "logits are compared with timm's own model, and timm is not installed; "
            "install it with: pip install timm, or go without the comparison by --no-verify"
        ) from None

    arguments = arguments_of(architecture)
    model = VisionTransformer(**arguments)
    model.load_state_dict(read_tensors(path / WEIGHTS if path.is_dir() else path))
    model.norm.eps = architecture.final_norm_eps
    return model.float().eval()
