"""Barlow Twins: two views of an image, one network, and representations whose components do not repeat each other.

Source: Zbontar, Jing, Misra, LeCun and Deny, arXiv:2103.03230.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce
from torch.nn import functional

from orthostream.connections import Choice
from orthostream.errors import UsageError
from orthostream.models.checks import check_counts
from orthostream.models.torchvision_nets import torchvision_network
from orthostream.models.without_sites import ModelWithoutSites
from orthostream.shapes import describe

CHANNELS = 3
VIEWS = 2


class BarlowTwins(ModelWithoutSites):
    """A torchvision ResNet, a projector behind it, and a linear probe that shows what it has learned.

    In training it takes pairs of views ``[batch, 2, 3, height, width]`` and returns, side by side, the normalised
    projections of both and the probe's logits of both, for :class:`BarlowTwinsLoss`. Each view passes the network on
    its own, so that batch statistics are of one view. In evaluation it takes images and returns the probe's logits.
    The probe sees features without a gradient: it learns from the labels, and nothing else does.

    Args:
        num_classes: of the probe.
        connection: ``linear`` alone.
        in_channels: 3, as torchvision's stems take.
        network: name of a ResNet in :mod:`torchvision.models`.
        projector: width of each layer of the projector; batch norm and ReLU stand between them.

    Raises:
        UsageError: for another connection, images that are not RGB, or a network without a dense layer ``fc``.

    Reference:
        arXiv:2103.03230, section 2 and appendix A. Differs: the paper trains linear classifiers afterwards; the probe
        learns along, so that its accuracy is that of a moving target.
    """

    family = "twins"

    def __init__(
        self,
        *,
        num_classes: int,
        connection: Choice = "linear",
        in_channels: int = CHANNELS,
        network: str = "resnet50",
        projector: Sequence[int] = (8192, 8192, 8192),
    ) -> None:
        super().__init__(connection, in_channels)
        check_counts(num_classes=num_classes)
        for width in projector:
            check_counts(projector=width)
        if in_channels != CHANNELS or not projector:
            raise UsageError(
                f"barlow_twins takes RGB images and a projector of one layer or more, got {in_channels} channels and "
                f"projector={tuple(projector)}"
            )
        self.network, self.num_classes = network, num_classes
        self.backbone = torchvision_network(network, num_classes)
        if not isinstance(getattr(self.backbone, "fc", None), nn.Linear):
            raise UsageError(f"barlow_twins takes a ResNet of torchvision, whose last layer is fc; got {network!r}")
        features = self.backbone.fc.in_features
        self.backbone.fc = nn.Identity()
        self.projector = nn.Sequential()
        widths = [features, *projector]
        for before, width in pairwise(widths[:-1]):
            self.projector += nn.Sequential(
                nn.Linear(before, width, bias=False), nn.BatchNorm1d(width), nn.ReLU(inplace=True)
            )
        self.projector.append(nn.Linear(widths[-2], widths[-1], bias=False))
        # Zero mean and unit variance of each component over the batch, as the loss is defined.
        self.normalise = nn.BatchNorm1d(widths[-1], affine=False)
        self.probe = nn.Linear(features, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """In training [batch, 2 dimensions + 2 classes] of pairs of views; else logits [batch, num_classes].

        An evaluation of pairs looks at the first view.

        Raises:
            UsageError: for images that are no pairs in training, or have another number of channels.
        """
        if not self.training:
            return self.probe(self.backbone(images[:, 0] if images.ndim == 5 else images))
        if images.ndim != 5 or images.shape[1:3] != (VIEWS, self.in_channels):
            raise UsageError(
                f"barlow_twins trains on pairs of views [batch, {VIEWS}, {self.in_channels}, height, width], got "
                f"{describe(images)}; set augment.pipeline to twins"
            )
        found = [self.backbone(images[:, view]) for view in range(VIEWS)]
        projections = [self.normalise(self.projector(each)) for each in found]
        return torch.cat([*projections, *(self.probe(each.detach()) for each in found)], 1)

    def features(self, images: Tensor) -> Tensor:
        """The pooled features [batch, features] that stay when projector and probe are thrown away."""
        self.check_images(images)
        return self.backbone(images)

    def reset_parameters(self) -> None:
        """Set every parameter and buffer as a new model has them; torchvision does so in its constructors alone."""
        fresh = torchvision_network(self.network, self.num_classes)
        fresh.fc = nn.Identity()
        self.backbone.load_state_dict(fresh.state_dict())
        for part in (*self.projector, self.normalise, self.probe):
            if isinstance(part, nn.Linear | nn.BatchNorm1d):
                part.reset_parameters()


class BarlowTwinsLoss(nn.Module):
    """Cross-correlation of two views against the identity.

    With projections ``a, b`` of zero mean and unit variance over a batch of N, ``C = a^T b / N`` and

        loss = sum_i (1 - C_ii)^2 + redundancy * sum_{i != j} C_ij^2

    Over several processes N is the whole batch and C is summed over them. The probe's cross entropy gives gradients to
    the probe alone and adds nothing to the value.

    Args:
        classes: logits of the probe.
        redundancy: weight of the off-diagonal part.

    Reference:
        arXiv:2103.03230, equations 1 and 2.

    Example:
        >>> a = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
        >>> logits = torch.zeros(4, 2)
        >>> BarlowTwinsLoss(classes=2)(torch.cat([a, a, logits, logits], 1), torch.zeros(4, dtype=torch.long))
        tensor(0.)
    """

    def __init__(self, classes: int, redundancy: float = 0.0051) -> None:
        super().__init__()
        self.classes, self.redundancy = classes, redundancy

    def forward(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """The loss of what :class:`BarlowTwins` returns in training, and class numbers [batch]."""
        width = outputs.shape[1] // VIEWS - self.classes
        a, b = outputs[:, :width], outputs[:, width : 2 * width]
        first, second = outputs[:, 2 * width : -self.classes], outputs[:, -self.classes :]
        processes = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
        correlation = a.T @ b / (len(a) * processes)
        if processes > 1:
            correlation = all_reduce(correlation)  # type: ignore[no-untyped-call]
        diagonal = correlation.diagonal()
        off_diagonal = correlation.square().sum() - diagonal.square().sum()
        probing = functional.cross_entropy(first, labels) + functional.cross_entropy(second, labels)
        return (diagonal - 1).square().sum() + self.redundancy * off_diagonal + (probing - probing.detach())
