"""Pre-activation ResNets for small and large images, with a 3x3 stem.

Source: He et al., Identity Mappings in Deep Residual Networks, ECCV 2016, arXiv:1603.05027, in the form that Oh et al.,
arXiv:2505.11881, train: every convolution has a bias, and nothing stands between the last block and the pooling.
"""

from collections.abc import Sequence
from typing import Literal, TypeAlias, get_args

from torch import nn

from orthostream.connections import Choice, Connection, wire
from orthostream.errors import UsageError, unknown
from orthostream.models.checks import check_counts, check_flags
from orthostream.models.regularise import before_write
from orthostream.models.staged import StagedModel, check_stages, resnet_sites
from orthostream.shapes import Stream

Kind: TypeAlias = Literal["basic", "bottleneck"]

# Width of a block's output in units of its stage's width.
EXPANSION: dict[str, int] = {"basic": 1, "bottleneck": 4}


class Block(nn.Module):
    """One branch of convolutions, and the site where it meets the stream.

    Where the shape changes, the branch sees the raw input, the stream is projected, and the update is written
    on the projected stream; the note is therefore read after the projection.

    Args:
        residual: the branch, with its own norms.
        connection: the rule at this site.
        shortcut: projection of the stream to the new shape; ``None`` where the shape stays.
        update: what acts on the update before the write.
    """

    def __init__(
        self, residual: nn.Sequential, connection: Connection, shortcut: nn.Conv2d | None, update: nn.Sequential
    ) -> None:
        super().__init__()
        self.residual = residual
        self.shortcut = shortcut
        self.update = update
        self.connection = connection

    def forward(self, stream: Stream) -> Stream:
        if self.shortcut is None:
            x, note = self.connection.read(stream)
        else:
            x = self.connection.summary(stream)
            stream = self.connection.project(stream, self.shortcut)
            _, note = self.connection.read(stream)
        return self.connection.write(stream, self.update(self.residual(x)), note)


class PreActResNet(StagedModel):
    """3x3 stem, stages of pre-activation blocks, global average pooling, and a linear head.

    The first block of every stage but the first halves the resolution.

    Args:
        num_classes: how many logits.
        connection: which rule stands at which site, as :func:`orthostream.connections.wire` takes it.
        in_channels: channels of the images.
        block: ``basic`` (two 3x3 convolutions) or ``bottleneck`` (1x1 with the stride, 3x3, 1x1 to four times the
            width).
        blocks_per_stage: how many blocks each stage has.
        widths: width of each stage; the stem has the first.
        drop_path: share of samples whose update is dropped in training, equal in all blocks.
        perturbation: scale of Gaussian noise on updates in training; ``None`` for none.
        gradient_checkpointing: compute each block again in the backward pass instead of keeping its activations.
        norm_head: whether a LayerNorm stands before the linear head.

    Raises:
        UsageError: for a value out of range, or stages and widths that differ in number.

    Reference:
        Oh et al., Orthogonal Residual Updates, NeurIPS 2025, arXiv:2505.11881.
    """

    family = "resnet"

    def __init__(
        self,
        *,
        num_classes: int,
        connection: Choice = "linear",
        in_channels: int = 3,
        block: Kind,
        blocks_per_stage: Sequence[int],
        widths: Sequence[int] = (64, 128, 256, 512),
        drop_path: float = 0.0,
        perturbation: float | None = None,
        gradient_checkpointing: bool = False,
        norm_head: bool = False,
    ) -> None:
        super().__init__()
        check_counts(num_classes=num_classes, in_channels=in_channels)
        check_flags(gradient_checkpointing=gradient_checkpointing, norm_head=norm_head)
        if block not in get_args(Kind):
            raise UsageError(unknown("block", block, get_args(Kind)))
        check_stages(blocks_per_stage, widths)
        self.in_channels = in_channels
        self.gradient_checkpointing = gradient_checkpointing
        outputs = [EXPANSION[block] * width for width in widths]
        self.sites = resnet_sites(blocks_per_stage, outputs)
        wiring = wire(connection, self.sites)

        self.pre = nn.Sequential(
            nn.Conv2d(in_channels, widths[0], 3, padding=1), nn.BatchNorm2d(widths[0]), nn.ReLU(inplace=True)
        )
        self.begin = wiring.begin
        self.stage_names = [f"stage{number}" for number in range(1, len(widths) + 1)]
        channels = widths[0]
        for stage, name in enumerate(self.stage_names):
            blocks = nn.Sequential()
            for place in range(blocks_per_stage[stage]):
                stride = 2 if stage > 0 and place == 0 else 1
                is_reshaped = stride != 1 or channels != outputs[stage]
                blocks.append(
                    Block(
                        branch(block, channels, widths[stage], stride),
                        wiring.at[f"{name}.{place}.residual"],
                        nn.Conv2d(channels, outputs[stage], 1, stride) if is_reshaped else None,
                        before_write(features=outputs[stage], drop_path=drop_path, perturbation=perturbation),
                    )
                )
                channels = outputs[stage]
            self.add_module(name, blocks)
        self.end = wiring.end
        head = nn.Linear(channels, num_classes)
        self.linear = nn.Sequential(nn.LayerNorm(channels), head) if norm_head else head


def branch(block: Kind, channels: int, width: int, stride: int) -> nn.Sequential:
    """The convolutions of one block, each behind its batch norm and ReLU.

    Args:
        block: which form.
        channels: channels of the input.
        width: width of the stage; a bottleneck returns four times as many channels.
        stride: of the first convolution.
    """
    if block == "basic":
        return nn.Sequential(
            *_pre_activated(nn.Conv2d(channels, width, 3, stride, padding=1)),
            *_pre_activated(nn.Conv2d(width, width, 3, padding=1)),
        )
    return nn.Sequential(
        *_pre_activated(nn.Conv2d(channels, width, 1, stride)),
        *_pre_activated(nn.Conv2d(width, width, 3, padding=1)),
        *_pre_activated(nn.Conv2d(width, EXPANSION[block] * width, 1)),
    )


def _pre_activated(convolution: nn.Conv2d) -> tuple[nn.Module, ...]:
    return nn.BatchNorm2d(convolution.in_channels), nn.ReLU(inplace=True), convolution
