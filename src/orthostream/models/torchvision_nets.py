"""torchvision's ImageNet classifiers under the interface of our models, unchanged."""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from orthostream.connections import Choice
from orthostream.errors import UsageError, needs_extra, unknown
from orthostream.models.checks import check_counts
from orthostream.models.without_sites import ModelWithoutSites

CHANNELS = 3


class TorchvisionNet(ModelWithoutSites):
    """A ResNet, ResNeXt, Wide ResNet or DenseNet of torchvision with its ImageNet stem and initial values.

    Its residual additions stand inside torchvision's blocks, so that it carries no connection. The network itself is
    the attribute ``network``, whose ``state_dict`` has torchvision's keys.

    Args:
        num_classes: classes of the data.
        connection: ``linear`` alone.
        in_channels: 3, as torchvision's stems take.
        network: name of the function in :mod:`torchvision.models`.
        head_classes: how many logits, ``num_classes`` or more; left out, ``num_classes``. The experiments of
            arXiv:2202.07052 on CIFAR-10 kept the 1000 logits of ImageNet, 990 of which no label ever names.

    Raises:
        UsageError: for another connection, images that are not RGB, or a head smaller than the number of classes.
        MissingExtraError: without torchvision.

    Reference:
        He et al., arXiv:1512.03385; Xie et al., arXiv:1611.05431; Zagoruyko and Komodakis, arXiv:1605.07146; Huang et
        al., arXiv:1608.06993; as torchvision has them.

    Example:
        >>> model = TorchvisionNet(num_classes=10, network="resnet18", head_classes=1000)
        >>> sum(parameter.numel() for parameter in model.parameters())
        11689512
    """

    def __init__(
        self,
        *,
        num_classes: int,
        connection: Choice = "linear",
        in_channels: int = CHANNELS,
        network: str,
        head_classes: int | None = None,
    ) -> None:
        super().__init__(connection, in_channels)
        check_counts(num_classes=num_classes)
        if in_channels != CHANNELS:
            raise UsageError(
                f"torchvision's {network} takes RGB images, and the data has {in_channels} channels; choose "
                "preact_resnet18, resnet20 or basic_cnn"
            )
        if head_classes is not None:
            check_counts(at_least=num_classes, head_classes=head_classes)
        self._made_as = (network, num_classes if head_classes is None else head_classes)
        self.network = torchvision_network(*self._made_as)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [batch, head_classes] of ``images`` [batch, 3, height, width] of 32 pixels a side or more.

        Raises:
            UsageError: for images with another number of channels.
        """
        self.check_images(images)
        return self.network(images)

    def features(self, images: Tensor) -> Tensor:
        """The map before pooling [batch, channels, height / 32, width / 32]."""
        self.check_images(images)
        if hasattr(self.network, "features"):
            # torchvision's DenseNet applies its last ReLU in forward.
            return functional.relu(self.network.features(images))
        x = images
        for name, part in self.network.named_children():
            if name == "avgpool":
                break
            x = part(x)
        return x

    def reset_parameters(self) -> None:
        """Set every parameter and buffer as a new network has them; torchvision does so in its constructors alone."""
        self.network.load_state_dict(torchvision_network(*self._made_as).state_dict())


def torchvision_network(network: str, classes: int) -> Any:
    """A network of torchvision with fresh weights.

    Raises:
        MissingExtraError: without torchvision.
        UsageError: for a name that torchvision does not have.
    """
    # Here and not above: the table of models must not need torchvision.
    with needs_extra("vision"):
        from torchvision import models
    if network not in models.list_models():
        raise UsageError(unknown("network of torchvision", network, models.list_models()))
    made: nn.Module = models.get_model(network, weights=None, num_classes=classes)
    return made
