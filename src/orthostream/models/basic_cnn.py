"""The small convolutional network of Tuddenham et al., arXiv:2202.07052, section 3: three strided convolutions."""

from torch import Tensor, nn

from orthostream.connections import Choice
from orthostream.models.checks import check_counts
from orthostream.models.without_sites import ModelWithoutSites

LAYERS = 3


class BasicCNN(ModelWithoutSites):
    """Three times [3x3 convolution with stride 2, batch norm, ReLU], then a dense layer on the flattened map.

    Each convolution has a bias and halves the resolution, rounded up. Initial values are torch's own. For 32x32 RGB
    images and ten classes it has 24,714 parameters.

    Args:
        num_classes: how many logits.
        connection: ``linear`` alone; the network has no additions.
        in_channels: channels of the images.
        image_size: pixels a side; the dense layer fits no other size.
        width: channels of each convolution.

    Raises:
        UsageError: for a value below 1, or another connection.

    Reference:
        Tuddenham, Prugel-Bennett, Hare, Orthogonalising gradients to speed up neural network optimisation,
        arXiv:2202.07052, section 3.

    Example:
        >>> model = BasicCNN(num_classes=10)
        >>> sum(parameter.numel() for parameter in model.parameters())
        24714
    """

    def __init__(
        self,
        *,
        num_classes: int,
        connection: Choice = "linear",
        in_channels: int = 3,
        image_size: int = 32,
        width: int = 32,
    ) -> None:
        super().__init__(connection, in_channels)
        check_counts(num_classes=num_classes, in_channels=in_channels, image_size=image_size, width=width)
        self.layers = nn.Sequential()
        side, channels = image_size, in_channels
        for _ in range(LAYERS):
            self.layers += nn.Sequential(
                nn.Conv2d(channels, width, 3, stride=2, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
            )
            side, channels = -(-side // 2), width
        self.linear = nn.Linear(width * side * side, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [batch, num_classes] of ``images`` [batch, in_channels, image_size, image_size].

        Raises:
            UsageError: for images with another number of channels than the model was made for.
        """
        return self.linear(self.features(images).flatten(1))

    def features(self, images: Tensor) -> Tensor:
        """The map after the last ReLU [batch, width, image_size / 8, image_size / 8]."""
        self.check_images(images)
        return self.layers(images)
