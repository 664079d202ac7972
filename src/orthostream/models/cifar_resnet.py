"""The post-activation ResNets for CIFAR, with parameter-free shortcuts.

Source: He et al., Deep Residual Learning for Image Recognition, CVPR 2016, arXiv:1512.03385, section 4.2.
"""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from orthostream.connections import Choice, Connection, wire
from orthostream.errors import UsageError
from orthostream.models.checks import check_counts, check_flags
from orthostream.models.regularise import before_write
from orthostream.models.staged import StagedModel, check_stages, resnet_sites
from orthostream.shapes import Stream


class KaimingConv2d(nn.Conv2d):
    """A 3x3 convolution without bias, its weights normal with variance ``2 / fan_in``."""

    def __init__(self, channels: int, width: int, stride: int = 1) -> None:
        super().__init__(channels, width, 3, stride, padding=1, bias=False)

    def reset_parameters(self) -> None:
        nn.init.kaiming_normal_(self.weight)


class KaimingLinear(nn.Linear):
    """A dense layer, its weights normal with variance ``2 / fan_in``; the bias is torch's own."""

    def reset_parameters(self) -> None:
        super().reset_parameters()
        nn.init.kaiming_normal_(self.weight)


class ZeroPadding(nn.Module):
    """Option A: every ``stride``-th pixel, and channels of zeros, half of them on each side.

    Args:
        channels: of the input.
        width: channels of the result, no fewer.
        stride: between the pixels that stay.
    """

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        before = (width - channels) // 2
        self.channels = (before, width - channels - before)
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, *self.channels))


class Block(nn.Module):
    """Two convolutions, the site where they meet the stream, and the ReLU behind it.

    Where the shape changes, the branch sees the raw input and the update is written on the projected stream, as in
    the pre-activation networks.

    Args:
        residual: the branch.
        connection: the rule at this site.
        shortcut: of the stream to the new shape; ``None`` where the shape stays.
        update: what acts on the update before the write.
    """

    def __init__(
        self, residual: nn.Sequential, connection: Connection, shortcut: ZeroPadding | None, update: nn.Sequential
    ) -> None:
        super().__init__()
        self.residual = residual
        self.shortcut = shortcut
        self.update = update
        self.connection = connection
        self.activation = nn.ReLU()

    def forward(self, stream: Stream) -> Stream:
        if self.shortcut is None:
            x, note = self.connection.read(stream)
        else:
            x = self.connection.summary(stream)
            stream = self.connection.project(stream, self.shortcut)
            _, note = self.connection.read(stream)
        return self.activation(self.connection.write(stream, self.update(self.residual(x)), note))


class CifarResNet(StagedModel):
    """3x3 stem, stages of two-convolution blocks with a ReLU after each addition, average pooling, and a dense layer.

    The first block of every stage but the first halves the resolution. With ``n`` blocks a stage the network has
    ``6 n + 2`` layers with weights: 269,722 parameters for 20 layers and 658,586 for 44, for RGB images and ten
    classes.

    The ReLU stands on the stream itself, so that a connection must carry one plain tensor; rules with parallel
    streams or a history are refused.

    Args:
        num_classes: how many logits.
        connection: which rule stands at which addition, as :func:`orthostream.connections.wire` takes it.
        in_channels: channels of the images.
        blocks_per_stage: how many blocks each stage has.
        widths: width of each stage, none smaller than the one before; the stem has the first.
        drop_path: share of samples whose update is dropped in training, equal in all blocks.
        perturbation: scale of Gaussian noise on updates in training; ``None`` for none.
        gradient_checkpointing: compute each block again in the backward pass instead of keeping its activations.

    Raises:
        UsageError: for a value out of range, stages and widths that differ in number, or a connection whose stream is
            not one tensor.

    Reference:
        He et al., arXiv:1512.03385, section 4.2, with the option-A shortcuts of section 4.1 and normal initial values
        after He et al., arXiv:1502.01852, equation 10, in the dense layer too.

    Example:
        >>> model = CifarResNet(num_classes=10, blocks_per_stage=(3, 3, 3))
        >>> sum(parameter.numel() for parameter in model.parameters())
        269722
    """

    family = "cnn"

    def __init__(
        self,
        *,
        num_classes: int,
        connection: Choice = "linear",
        in_channels: int = 3,
        blocks_per_stage: Sequence[int],
        widths: Sequence[int] = (16, 32, 64),
        drop_path: float = 0.0,
        perturbation: float | None = None,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        check_counts(num_classes=num_classes, in_channels=in_channels)
        check_flags(gradient_checkpointing=gradient_checkpointing)
        check_stages(blocks_per_stage, widths)
        if list(widths) != sorted(widths):
            raise UsageError(f"shortcuts add channels and take none away: widths must not fall, got {tuple(widths)}")
        self.in_channels = in_channels
        self.gradient_checkpointing = gradient_checkpointing
        self.sites = resnet_sites(blocks_per_stage, widths)
        wiring = wire(connection, self.sites)
        if wiring.begin.layout != ("plain",):
            raise UsageError(
                f"{type(self).__name__} has a ReLU on the stream behind each addition, so that the stream must be one "
                f"plain tensor, got a connection that carries {wiring.begin.layout}; use it with preact_resnet18 or "
                "vit_s, or choose a rule with a plain stream, such as orthogonal"
            )

        self.pre = nn.Sequential(
            KaimingConv2d(in_channels, widths[0]), nn.BatchNorm2d(widths[0]), nn.ReLU(inplace=True)
        )
        self.begin = wiring.begin
        self.stage_names = [f"stage{number}" for number in range(1, len(widths) + 1)]
        channels = widths[0]
        for stage, (name, width) in enumerate(zip(self.stage_names, widths, strict=True)):
            blocks = nn.Sequential()
            for place in range(blocks_per_stage[stage]):
                stride = 2 if stage > 0 and place == 0 else 1
                is_reshaped = stride != 1 or channels != width
                residual = nn.Sequential(
                    KaimingConv2d(channels, width, stride),
                    nn.BatchNorm2d(width),
                    nn.ReLU(inplace=True),
                    KaimingConv2d(width, width),
                    nn.BatchNorm2d(width),
                )
                blocks.append(
                    Block(
                        residual,
                        wiring.at[f"{name}.{place}.residual"],
                        ZeroPadding(channels, width, stride) if is_reshaped else None,
                        before_write(features=width, drop_path=drop_path, perturbation=perturbation),
                    )
                )
                channels = width
            self.add_module(name, blocks)
        self.end = wiring.end
        self.linear = KaimingLinear(channels, num_classes)
