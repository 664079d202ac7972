"""What acts on an update between its branch and the write: LayerScale, drop path and noise.

All three change the update alone, before the connection sees it. A dropped sample therefore has a zero
update, and the connection still applies whatever mixing of the stream it has.
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn

from orthostream.models.checks import check_fractions, check_sizes


class LayerScale(nn.Module):
    """``gamma * u``, one learned factor a feature.

    Args:
        features: width of the update, its last axis.
        start: first value of every factor.

    Reference:
        Touvron et al., Going deeper with Image Transformers, ICCV 2021, arXiv:2103.17239, section 2.1.
    """

    def __init__(self, features: int, start: float) -> None:
        super().__init__()
        self.start = float(start)
        self.gamma = nn.Parameter(torch.empty(features))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set every factor to its first value."""
        nn.init.constant_(self.gamma, self.start)

    def forward(self, update: Tensor) -> Tensor:
        """``update`` [..., features], scaled."""
        return self.gamma * update


class DropPath(nn.Module):
    """In training, a zero update for a sample with probability ``rate``; the others are divided by ``1 - rate``.

    Args:
        rate: share of samples dropped, in [0, 1); the same in every block.

    Raises:
        UsageError: for a rate outside [0, 1).

    Reference:
        Huang et al., Deep Networks with Stochastic Depth, ECCV 2016, arXiv:1603.09382, equation 2.
        Differs: kept updates are scaled up in training, so that evaluation needs no factor, and the rate does
        not grow with depth (as in the authors' code of arXiv:2505.11881).
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        check_fractions(drop_path=rate)
        self.rate = float(rate)

    def forward(self, update: Tensor) -> Tensor:
        """``update`` [batch, ...]; whole samples are dropped, the identity in evaluation."""
        if not self.training:
            return update
        per_sample = (update.shape[0],) + (1,) * (update.ndim - 1)
        # Drawn in float32 whatever the dtype: a half-precision uniform number can round up to 1.
        is_kept = torch.rand(per_sample, device=update.device) >= self.rate
        return update * is_kept.to(update.dtype).div(1 - self.rate)

    def extra_repr(self) -> str:
        return f"rate={self.rate:g}"


class UpdateNoise(nn.Module):
    """In training, ``u + scale * N(0, 1)``; gradients pass to the update alone.

    Args:
        scale: standard deviation of the noise, in the units of the update.

    Raises:
        UsageError: for a negative or infinite scale.

    Reference:
        The perturbation of the authors' code of arXiv:2505.11881.
        Differs: off in evaluation, where their code draws noise too.
    """

    def __init__(self, scale: float) -> None:
        super().__init__()
        check_sizes(perturbation=scale)
        self.scale = float(scale)

    def forward(self, update: Tensor) -> Tensor:
        """``update`` of any shape, with noise in training."""
        return update + self.scale * torch.randn_like(update) if self.training else update

    def extra_repr(self) -> str:
        return f"scale={self.scale:g}"


def before_write(
    *, features: int, layer_scale: float | None = None, drop_path: float = 0.0, perturbation: float | None = None
) -> nn.Sequential:
    """The chain on one site's update: LayerScale, then drop path, then noise; what is off is not in it.

    Args:
        features: width of the update.
        layer_scale: first value of the learned factors; ``None`` for none.
        drop_path: share of samples dropped in training.
        perturbation: scale of the noise in training; ``None`` for none.

    Returns:
        A chain without parameters unless LayerScale is on; empty, and free of cost, where all is off.

    Raises:
        UsageError: for a value out of range.
    """
    check_fractions(drop_path=drop_path)
    check_sizes(layer_scale=layer_scale, perturbation=perturbation)
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    if layer_scale is not None:
        parts["scale"] = LayerScale(features, layer_scale)
    if drop_path > 0:
        parts["drop_path"] = DropPath(drop_path)
    if perturbation is not None and perturbation > 0:
        parts["noise"] = UpdateNoise(perturbation)
    return nn.Sequential(parts)
