"""The vision transformer of the paper: pre-norm blocks on a stream of patch tokens.

Source: Dosovitskiy et al., An Image is Worth 16x16 Words, ICLR 2021, arXiv:2010.11929, in the form that Oh et al.,
arXiv:2505.11881, train: block norms without affine parameters, no norm after the last block but the head's.
"""

from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn

from orthostream.connections import Choice, Site, wire
from orthostream.errors import UsageError, unknown
from orthostream.models.base import Model
from orthostream.models.checkpointing import run_checkpointed
from orthostream.models.checks import check_counts, check_flags, check_fractions, check_sizes
from orthostream.models.positions import Grid, ImageSize, interpolate_positions, patch_grid
from orthostream.models.vit_block import Attention, Block, Mlp
from orthostream.shapes import describe

Pool: TypeAlias = Literal["token", "mean"]

POSITION_STD = 0.02
# Of the norm in front of the classifier, as torch and the authors' program have it; published models have 1e-6 there.
FINAL_NORM_EPS = 1e-5


class ViT(Model):
    """Patches to tokens, a trunk of blocks, and a linear head on the first token or on the mean of the patches.

    ``images -> patchify -> + positions -> [cls, patches, registers] -> expand -> blocks -> reduce -> pool ->
    LayerNorm -> Linear``. Positions are added to patches alone; the cls token starts at exactly zero.

    Args:
        num_classes: how many logits.
        connection: which rule stands at which site, as :func:`orthostream.connections.wire` takes it.
        image_size: side of the images in pixels, or (height, width).
        patch_size: side of a patch in pixels; must divide the image.
        in_channels: channels of the images.
        embed_dim: width of the stream.
        depth: how many blocks, each with two sites.
        num_heads: attention heads; must divide ``embed_dim``.
        mlp_ratio: hidden width of the MLP in units of ``embed_dim``.
        mlp_dropout: share of values dropped inside the MLP in training.
        drop_path: share of samples whose update is dropped in training, equal in all blocks.
        perturbation: scale of Gaussian noise on updates in training; ``None`` for none.
        gradient_checkpointing: compute each block again in the backward pass instead of keeping its activations.
        affine_norm: whether block norms have a gain and a bias.
        layer_scale: first value of LayerScale on every update; ``None`` for none.
        qk_norm: whether queries and keys are normed.
        pool: ``token`` classifies the cls token, ``mean`` the mean of the patch tokens.
        registers: how many learned tokens are appended (arXiv:2309.16588).
        final_norm_eps: added to the variance in the norm in front of the classifier, above 0.
        dynamic_image_size: accept images of any size that patches fill, with positions resampled at each forward.

    Raises:
        UsageError: for a value out of range, or numbers that do not divide.

    Reference:
        Oh et al., Orthogonal Residual Updates, NeurIPS 2025, arXiv:2505.11881.
    """

    family = "vit"

    def __init__(
        self,
        *,
        num_classes: int,
        connection: Choice = "linear",
        image_size: ImageSize = 32,
        patch_size: int = 4,
        in_channels: int = 3,
        embed_dim: int,
        depth: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        mlp_dropout: float = 0.0,
        drop_path: float = 0.0,
        perturbation: float | None = None,
        gradient_checkpointing: bool = False,
        affine_norm: bool = False,
        layer_scale: float | None = None,
        qk_norm: bool = False,
        pool: Pool = "token",
        registers: int = 0,
        final_norm_eps: float = FINAL_NORM_EPS,
        dynamic_image_size: bool = False,
    ) -> None:
        super().__init__()
        check_counts(num_classes=num_classes, in_channels=in_channels)
        check_counts(embed_dim=embed_dim, depth=depth, num_heads=num_heads)
        check_counts(registers=registers, at_least=0)
        check_fractions(mlp_dropout=mlp_dropout)
        check_sizes(final_norm_eps=final_norm_eps)
        if not final_norm_eps:
            raise UsageError(f"final_norm_eps must be above 0, got {final_norm_eps!r}; 0 over 0 is no number")
        check_flags(gradient_checkpointing=gradient_checkpointing, affine_norm=affine_norm)
        check_flags(qk_norm=qk_norm, dynamic_image_size=dynamic_image_size)
        if pool not in get_args(Pool):
            raise UsageError(unknown("pool", pool, get_args(Pool)))
        self.patch_size, self.pool = patch_size, pool
        self.grid = patch_grid(image_size, patch_size)
        self.gradient_checkpointing = gradient_checkpointing
        self.has_dynamic_image_size = dynamic_image_size
        self.sites = vit_sites(embed_dim, depth)
        wiring = wire(connection, self.sites)

        self.cls_token = nn.Parameter(torch.empty(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(torch.empty(1, self.grid[0] * self.grid[1], embed_dim))
        self.register_tokens = nn.Parameter(torch.empty(1, registers, embed_dim)) if registers else None
        self.reset_own_parameters()
        self.patchify = nn.Conv2d(in_channels, embed_dim, patch_size, stride=patch_size)
        self.begin = wiring.begin
        self.blocks = nn.ModuleList(
            Block(
                Attention(embed_dim, num_heads, qk_norm=qk_norm),
                Mlp(embed_dim, hidden_width(embed_dim, mlp_ratio), dropout=mlp_dropout),
                wiring.at[f"blocks.{block}.attn"],
                wiring.at[f"blocks.{block}.mlp"],
                features=embed_dim,
                affine_norm=affine_norm,
                layer_scale=layer_scale,
                drop_path=drop_path,
                perturbation=perturbation,
            )
            for block in range(depth)
        )
        self.end = wiring.end
        self.classifier = nn.Sequential(nn.LayerNorm(embed_dim, eps=final_norm_eps), nn.Linear(embed_dim, num_classes))

    def forward(self, images: Tensor) -> Tensor:
        """Logits [batch, num_classes] of ``images`` [batch, in_channels, height, width].

        Raises:
            UsageError: for images of another size or number of channels than the model was made for.
        """
        tokens = self.features(images)
        if self.pool == "token":
            return self.classifier(tokens[:, 0])
        grid = patch_grid((images.shape[2], images.shape[3]), self.patch_size)
        return self.classifier(tokens[:, 1 : 1 + grid[0] * grid[1]].mean(1))

    def features(self, images: Tensor) -> Tensor:
        """All tokens after the last block [batch, 1 + patches + registers, embed_dim], before pool and norm."""
        stream = self.begin.expand(self.embed(images))
        for block in self.blocks:
            stream = run_checkpointed(block, stream) if self.gradient_checkpointing else block(stream)
        return self.end.reduce(stream)

    def embed(self, images: Tensor) -> Tensor:
        """The tokens that the trunk begins with: cls, patches with their positions, registers."""
        positions = interpolate_positions(self.pos_embed, self.grid, self._grid_of(images))
        patches = self.patchify(images).flatten(2).transpose(1, 2) + positions
        parts = [self.cls_token.expand(images.shape[0], -1, -1), patches]
        if self.register_tokens is not None:
            parts.append(self.register_tokens.expand(images.shape[0], -1, -1))
        # The patches are a transposed view. cat copies them into a contiguous stream: with strides that change at
        # the first write, blocks compiled one by one would need a second graph.
        return torch.cat(parts, dim=1)

    def resize_positions(self, image_size: ImageSize) -> None:
        """Fit the model to another image size: its positions become a new, resampled parameter.

        Load a checkpoint at its own image size first, then call this, then build the optimizer.

        Args:
            image_size: side of the images in pixels, or (height, width).

        Raises:
            UsageError: where patches do not fill such an image.
        """
        grid = patch_grid(image_size, self.patch_size)
        with torch.no_grad():
            resampled = interpolate_positions(self.pos_embed, self.grid, grid)
        self.pos_embed = nn.Parameter(resampled.detach().clone(), requires_grad=self.pos_embed.requires_grad)
        self.grid = grid

    def reset_own_parameters(self) -> None:
        nn.init.zeros_(self.cls_token)
        nn.init.normal_(self.pos_embed, std=POSITION_STD)
        if self.register_tokens is not None:
            # Equal registers would stay equal.
            nn.init.normal_(self.register_tokens, std=POSITION_STD)

    def _grid_of(self, images: Tensor) -> Grid:
        """The grid of patches of these images; refuses images that the model was not made for."""
        channels = self.patchify.in_channels
        height, width = (side * self.patch_size for side in self.grid)
        if images.ndim != 4 or images.shape[1] != channels:
            raise UsageError(
                f"images must be [batch, channels, height, width] with {channels} channels, got {describe(images)}"
            )
        if (images.shape[2], images.shape[3]) == (height, width):
            return self.grid
        if not self.has_dynamic_image_size:
            raise UsageError(
                f"this model was made for images of {height}x{width} pixels, got {images.shape[2]}x{images.shape[3]}; "
                "resize the images, call resize_positions, or create the model with dynamic_image_size=True"
            )
        return patch_grid((images.shape[2], images.shape[3]), self.patch_size)


def vit_sites(features: int, depth: int) -> tuple[Site, ...]:
    """The sites of a ViT, in order: attention, then MLP, of each block."""
    kinds = ("attn", "mlp")
    return tuple(
        Site(
            name=f"blocks.{block}.{kind}",
            kind=kind,
            features=features,
            index=len(kinds) * block + place,
            count=len(kinds) * depth,
            since=len(kinds) * block + place,
            block=block,
            blocks=depth,
        )
        for block in range(depth)
        for place, kind in enumerate(kinds)
    )


def hidden_width(embed_dim: int, mlp_ratio: float) -> int:
    """Hidden width of the MLP.

    Raises:
        UsageError: where the ratio is no number, or leaves no whole width of 1 or more.
    """
    check_sizes(mlp_ratio=mlp_ratio)
    width = embed_dim * mlp_ratio
    # Decimal ratios are not exact in binary: 0.1 * 30 is a little more than 3.
    if width < 1 or abs(width - round(width)) > 1e-6:
        raise UsageError(f"embed_dim={embed_dim} times mlp_ratio={mlp_ratio} must be a whole width, got {width:g}")
    return round(width)
