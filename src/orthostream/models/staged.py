"""What both families of ResNets share: a stem, stages of blocks that carry the stream, pooling and a head."""

from collections.abc import Sequence

from torch import Tensor, nn

from orthostream.connections import Site
from orthostream.errors import UsageError
from orthostream.models.base import Model
from orthostream.models.checkpointing import run_checkpointed
from orthostream.models.checks import check_counts
from orthostream.shapes import describe


class StagedModel(Model):
    """The way of images through a ResNet: ``pre``, ``expand``, the blocks of all stages, ``reduce``, mean, ``linear``.

    A family makes the parts in its ``__init__``; the stages are children under the names in ``stage_names``.
    """

    in_channels: int
    gradient_checkpointing: bool
    stage_names: list[str]
    pre: nn.Module
    linear: nn.Module

    @property
    def blocks(self) -> list[nn.Module]:
        """All blocks, in the order in which the stream passes them."""
        return [block for name in self.stage_names for block in self.get_submodule(name).children()]

    def forward(self, images: Tensor) -> Tensor:
        """Logits [batch, num_classes] of ``images`` [batch, in_channels, height, width] of any size.

        Raises:
            UsageError: for images with another number of channels than the model was made for.
        """
        return self.linear(self.features(images).mean((2, 3)))

    def features(self, images: Tensor) -> Tensor:
        """The map after the last block [batch, channels, height / s, width / s], before pooling.

        Each stage after the first halves the sides: s is 8 for four stages, 4 for three.
        """
        if images.ndim != 4 or images.shape[1] != self.in_channels:
            raise UsageError(
                f"images must be [batch, channels, height, width] with {self.in_channels} channels, "
                f"got {describe(images)}"
            )
        stream = self.begin.expand(self.pre(images))
        for block in self.blocks:
            stream = run_checkpointed(block, stream) if self.gradient_checkpointing else block(stream)
        return self.end.reduce(stream)


def resnet_sites(blocks_per_stage: Sequence[int], outputs: Sequence[int]) -> tuple[Site, ...]:
    """The sites of a ResNet, in order: one a block, at the width that the block returns."""
    places = [(stage, place) for stage, blocks in enumerate(blocks_per_stage) for place in range(blocks)]
    return tuple(
        Site(
            name=f"stage{stage + 1}.{place}.residual",
            kind="conv",
            features=outputs[stage],
            axis=1,
            index=index,
            count=len(places),
            since=place,
            block=index,
            blocks=len(places),
        )
        for index, (stage, place) in enumerate(places)
    )


def check_stages(blocks_per_stage: Sequence[int], widths: Sequence[int]) -> None:
    """Refuse stages without a width, widths without a stage, and numbers below 1.

    Raises:
        UsageError: with both lists.
    """
    for blocks in blocks_per_stage:
        check_counts(blocks_per_stage=blocks)
    for width in widths:
        check_counts(widths=width)
    if not widths or len(blocks_per_stage) != len(widths):
        raise UsageError(
            f"every stage needs its number of blocks and its width, got {len(blocks_per_stage)} of "
            f"blocks_per_stage={tuple(blocks_per_stage)} and {len(widths)} of widths={tuple(widths)}"
        )
