"""Mixup and cutmix: each batch becomes a blend of itself and of its neighbours.

Sources: mixup, arXiv:1710.09412; cutmix, arXiv:1905.04899. One blend a batch, as in the authors' program.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from orthostream.data.keys import generator
from orthostream.errors import UsageError, needs_extra

with needs_extra("vision"):
    import numpy as np


@dataclass(frozen=True)
class Box:
    """Rows ``top`` to ``bottom`` and columns ``left`` to ``right`` of an image, ends excluded."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def area(self) -> int:
        """Pixels inside."""
        return (self.bottom - self.top) * (self.right - self.left)


@dataclass(frozen=True)
class Blend:
    """How a batch is mixed.

    Args:
        lam: share of the sample itself, in [0, 1]; 1 leaves it as it is.
        box: what comes from the partner, for cutmix; None for mixup.
    """

    lam: float
    box: Box | None = None


class Mixing:
    """Mixes the batches of a run: images, and labels into soft targets.

    With ``probability`` a batch is mixed, with a share ``lam ~ Beta(alpha, alpha)``: by cutmix with probability
    ``cutmix_share``, else by mixup. Where one of the alphas is 0 the other kind is always taken. The blend
    is drawn from a key of (seed, epoch, step, micro-batch), the same on all processes.

    Sample 2k is mixed with sample 2k + 1, and the last of an odd batch with itself. Neighbours stay together
    when a global batch is divided among more or fewer processes, as long as the shares are even; a batch and
    its reverse, the usual pairs, do not.

    Args:
        num_classes: K.
        mixup_alpha, cutmix_alpha: of the Beta distributions; 0 switches the kind off.
        probability: that a batch is mixed at all.
        cutmix_share: of the mixed batches, where both kinds are on.
        label_smoothing: in the targets; ``ls / K`` for each class, ``1 - ls`` more for the right one.
        seed: of the run.

    Raises:
        UsageError: for values out of range, or a probability above 0 with both kinds off.
    """

    def __init__(
        self,
        num_classes: int,
        mixup_alpha: float,
        cutmix_alpha: float,
        probability: float,
        cutmix_share: float,
        label_smoothing: float,
        seed: int,
    ) -> None:
        shares = {"mix_probability": probability, "cutmix_share": cutmix_share, "label_smoothing": label_smoothing}
        for name, value in shares.items():
            if not 0 <= value <= 1:
                raise UsageError(f"augment.{name}={value}; expected 0 to 1")
        if mixup_alpha < 0 or cutmix_alpha < 0:
            raise UsageError(
                f"augment.mixup_alpha={mixup_alpha}, augment.cutmix_alpha={cutmix_alpha}; expected 0 (off) or more"
            )
        if probability > 0 and mixup_alpha == cutmix_alpha == 0:
            raise UsageError(
                f"augment.mix_probability={probability}, but mixup_alpha and cutmix_alpha are both 0; set one of them, "
                "or mix_probability to 0"
            )
        self.num_classes, self.label_smoothing, self.seed = num_classes, label_smoothing, seed
        self.mixup_alpha, self.cutmix_alpha = mixup_alpha, cutmix_alpha
        self.probability, self.cutmix_share = probability, cutmix_share

    def __call__(self, images: Tensor, labels: Tensor, epoch: int, step: int, micro: int) -> tuple[Tensor, Tensor]:
        """Mix one micro-batch.

        Args:
            images: ``[batch, channels, height, width]``; left as they are.
            labels: int64 ``[batch]``.
            epoch: from 0.
            step: optimizer step within the epoch, from 0.
            micro: micro-batch within the step, from 0.

        Returns:
            Images, and targets ``[batch, K]`` that sum to 1, also for a batch that is not mixed. With
            probability 0 both come back as they were, and smoothing is left to the criterion.
        """
        if self.probability == 0:
            return images, labels
        blend = self.draw(generator(self.seed, "mixing", epoch, step, micro), images.shape[-2], images.shape[-1])
        targets = soft_targets(labels, self.num_classes, self.label_smoothing)
        return mix(images, targets, neighbours(len(labels), images.device), blend)

    def draw(self, rng: "np.random.Generator", height: int, width: int) -> Blend:
        """One blend, for images of this size in pixels."""
        if rng.random() >= self.probability:
            return Blend(1.0)
        has_both = self.mixup_alpha > 0 and self.cutmix_alpha > 0
        is_cutmix = rng.random() < self.cutmix_share if has_both else self.cutmix_alpha > 0
        alpha = self.cutmix_alpha if is_cutmix else self.mixup_alpha
        lam = float(rng.beta(alpha, alpha))
        if not is_cutmix:
            return Blend(lam)
        return cut(lam, height, width, int(rng.integers(height)), int(rng.integers(width)))


def cut(lam: float, height: int, width: int, row: int, column: int) -> Blend:
    """Cutmix with a box around a pixel.

    The box has sides ``sqrt(1 - lam)`` of the image's, whole pixels, and is cut off at the border; the share of
    the blend is that of the pixels that really stay.

    Args:
        lam: share that was drawn.
        height, width: of the images, in pixels.
        row, column: centre of the box.
    """
    side = (1 - lam) ** 0.5
    high, wide = int(height * side), int(width * side)
    box = Box(
        max(row - high // 2, 0),
        min(row + (high + 1) // 2, height),
        max(column - wide // 2, 0),
        min(column + (wide + 1) // 2, width),
    )
    return Blend(1 - box.area / (height * width), box)


def mix(images: Tensor, targets: Tensor, partner: Tensor, blend: Blend) -> tuple[Tensor, Tensor]:
    """Blend each sample with its partner.

    ``lam * x + (1 - lam) * x[partner]`` for mixup; for cutmix the box of ``x[partner]`` in ``x``. The targets
    follow the shares in both cases.

    Args:
        images: ``[batch, channels, height, width]``.
        targets: ``[batch, classes]``.
        partner: int64 ``[batch]``, the index of each sample's partner.
        blend: share and box.

    Returns:
        New images and targets; those given stay as they were.
    """
    if blend.lam == 1:
        return images, targets
    if blend.box is None:
        mixed = images.mul(blend.lam).add_(images[partner], alpha=1 - blend.lam)
    else:
        inside = (..., slice(blend.box.top, blend.box.bottom), slice(blend.box.left, blend.box.right))
        mixed = images.clone()
        mixed[inside] = images[inside][partner]
    return mixed, targets.mul(blend.lam).add_(targets[partner], alpha=1 - blend.lam)


def neighbours(size: int, device: torch.device) -> Tensor:
    """Partners within pairs: 1, 0, 3, 2, ...; the last of an odd batch is its own."""
    indices = torch.arange(size, device=device)
    return (indices ^ 1).clamp_(max=size - 1)


def soft_targets(labels: Tensor, num_classes: int, label_smoothing: float) -> Tensor:
    """Targets ``[batch, classes]``: ``1 - ls + ls / K`` for the right class, ``ls / K`` for the others."""
    return functional.one_hot(labels, num_classes).float().mul_(1 - label_smoothing).add_(label_smoothing / num_classes)
