"""What a ViT computes with its weights, in numbers that every layout can be asked for."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, nn

from orthostream.connections import Choice, Connection
from orthostream.errors import UsageError
from orthostream.models.positions import Grid, ImageSize, patch_grid
from orthostream.models.vit import FINAL_NORM_EPS, Pool, ViT, vit_sites
from orthostream.models.vit_block import Block

# A connection as `connections.create` takes it.
Rule: TypeAlias = tuple[str, Mapping[str, Any]]

HALVES_OF_A_BLOCK = ("attn", "mlp")


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """All that decides on the logits of a ViT beside its weights.

    Args:
        num_classes: how many logits.
        image_size: (height, width) in pixels.
        patch_size: side of a patch in pixels.
        in_channels: channels of the images.
        embed_dim: width of the stream.
        depth: how many blocks.
        num_heads: attention heads.
        hidden_features: width inside the MLP.
        rules: the connection of every site, in order.
        affine_norm: whether block norms have a gain and a bias.
        layer_scale: whether updates are scaled by learned factors.
        qk_norm: whether queries and keys are normed.
        pool: what is classified.
        registers: how many learned tokens are appended.
        final_norm_eps: of the norm in front of the classifier.
    """

    num_classes: int
    image_size: tuple[int, int]
    patch_size: int
    in_channels: int
    embed_dim: int
    depth: int
    num_heads: int
    hidden_features: int
    rules: tuple[Rule, ...]
    affine_norm: bool = False
    layer_scale: bool = False
    qk_norm: bool = False
    pool: Pool = "token"
    registers: int = 0
    final_norm_eps: float = FINAL_NORM_EPS

    @classmethod
    def of(cls, model: ViT) -> "Architecture":
        """The architecture of a model that is there."""
        width, depth, first = model.cls_token.shape[-1], len(model.blocks), cast(Block, model.blocks[0])
        return cls(
            num_classes=cast(nn.Linear, model.classifier[1]).out_features,
            image_size=(model.grid[0] * model.patch_size, model.grid[1] * model.patch_size),
            patch_size=model.patch_size,
            in_channels=model.patchify.in_channels,
            embed_dim=width,
            depth=depth,
            num_heads=first.attn.num_heads,
            hidden_features=first.mlp.fc1.out_features,
            rules=tuple(
                _rule_of(getattr(block, f"{half}_connection")) for block in model.blocks for half in HALVES_OF_A_BLOCK
            ),
            affine_norm=first.norm1.elementwise_affine,
            layer_scale=hasattr(first.attn_update, "scale"),
            qk_norm=isinstance(first.attn.query_norm, nn.LayerNorm),
            pool=model.pool,
            registers=0 if model.register_tokens is None else model.register_tokens.shape[1],
            final_norm_eps=cast(nn.LayerNorm, model.classifier[0]).eps,
        )

    def model(self) -> ViT:
        """A new model of this architecture, on the CPU unless a ``torch.device`` context says otherwise."""
        sites = vit_sites(self.embed_dim, self.depth)
        choice: Choice = {site.name: rule for site, rule in zip(sites, self.rules, strict=True)}
        return ViT(
            num_classes=self.num_classes,
            connection=choice,
            image_size=self.image_size,
            patch_size=self.patch_size,
            in_channels=self.in_channels,
            embed_dim=self.embed_dim,
            depth=self.depth,
            num_heads=self.num_heads,
            mlp_ratio=self.hidden_features / self.embed_dim,
            affine_norm=self.affine_norm,
            # The factors come with the weights; this is what they would start from.
            layer_scale=1.0 if self.layer_scale else None,
            qk_norm=self.qk_norm,
            pool=self.pool,
            registers=self.registers,
            final_norm_eps=self.final_norm_eps,
        )

    def template(self) -> dict[str, Tensor]:
        """Names and shapes of the weights, as tensors without memory."""
        with torch.device("meta"):
            return self.model().state_dict()

    def one_rule(self, layout: str) -> Rule:
        """The connection of all sites.

        Raises:
            UsageError: where sites differ, which ``layout`` has no words for.
        """
        first = self.rules[0]
        if any(rule != first for rule in self.rules):
            names = sorted({name for name, _ in self.rules})
            raise UsageError(
                f"{layout} describes one connection for all blocks, and this model has different ones "
                f"({', '.join(names)}); keep it in the training layout"
            )
        return first

    def rule_by_block(self, layout: str) -> tuple[Rule, tuple[int, ...] | None]:
        """One connection, and the blocks that have it where the others are linear; ``None`` for all.

        Raises:
            UsageError: for any other arrangement, which ``layout`` has no words for.
        """
        plain: Rule = ("linear", {})
        rule = next((each for each in self.rules if each != plain), plain)
        blocks = tuple(sorted({number // 2 for number, each in enumerate(self.rules) if each == rule}))
        if self.rules != tuple(rule if number // 2 in blocks else plain for number in range(len(self.rules))):
            raise UsageError(
                f"{layout} has one connection, in all blocks or in some and linear in the others; this model has "
                "another arrangement, which none of the layouts describes"
            )
        return rule, None if len(blocks) == self.depth else blocks

    def refuse_parts(self, layout: str, *parts: str) -> None:
        """Refuse parts of the model that a layout has no place for.

        Args:
            layout: what the message calls it.
            parts: of ``registers``, ``layer_scale``, ``qk_norm``, ``affine_norm``, ``mean pool``.

        Raises:
            UsageError: naming those that the model has.
        """
        has = {
            "registers": self.registers > 0,
            "layer_scale": self.layer_scale,
            "qk_norm": self.qk_norm,
            "affine_norm": self.affine_norm,
            "mean pool": self.pool == "mean",
        }
        if found := [part for part in parts if has[part]]:
            raise UsageError(f"{layout} has no place for {', '.join(found)}; keep this model in the training layout")


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A model as every layout is read: weights under our names, and what they mean.

    Args:
        architecture: what the weights mean.
        weights: as ``ViT.state_dict`` has them.
        labels: names of the classes, where the source knows them.
        recipe: of the run, in builtins, where the source knows it.
        flags: of the authors' program, where the source knows them.
        step: optimizer steps taken, where the source knows them.
        epoch: finished epochs, likewise.
        notes: what a person should know: what was decided in reading, what could not be carried over.
    """

    architecture: Architecture
    weights: dict[str, Tensor]
    labels: tuple[str, ...] | None = None
    recipe: Mapping[str, Any] | None = None
    flags: Mapping[str, Any] | None = None
    step: int = 0
    epoch: int = 0
    notes: tuple[str, ...] = ()

    def model(self) -> ViT:
        """The model with its weights, in float32 and in evaluation."""
        model = self.architecture.model()
        check_weights(self.weights, model.state_dict(), "the weights")
        model.load_state_dict(self.weights)
        return model.float().eval()


@dataclass(frozen=True, kw_only=True)
class Overrides:
    """What a person says of a source that does not say it itself.

    Args:
        image_size: (height, width) in pixels; square where left out.
        num_heads: attention heads, which no shape shows.
        activation: of the MLP; weights alone do not show it.
    """

    image_size: tuple[int, int] | None = None
    num_heads: int | None = None
    activation: str | None = None

    def refuse(self, source: str, *options: str) -> None:
        """Refuse options that a source answers itself.

        Raises:
            UsageError: naming the option.
        """
        for option in options:
            if getattr(self, option) is not None:
                raise UsageError(f"{source} says its {option} itself; leave out --{option.replace('_', '-')}")


NO_OVERRIDES = Overrides()


def check_weights(given: Mapping[str, Tensor], expected: Mapping[str, Tensor], source: str) -> None:
    """Every key is there, none is too many, and all have their shape.

    Raises:
        UsageError: naming what differs.
    """
    shapes = [
        f"{key} {list(given[key].shape)} instead of {list(expected[key].shape)}"
        for key in sorted(given.keys() & expected.keys())
        if given[key].shape != expected[key].shape
    ]
    parts = {
        "missing": sorted(expected.keys() - given.keys()),
        "unexpected": sorted(given.keys() - expected.keys()),
        "of another shape": shapes,
    }
    if found := [f"{len(keys)} {word}: {_shown(keys)}" for word, keys in parts.items() if keys]:
        raise UsageError(
            f"{source} does not fit its own description; {'; '.join(found)}. "
            "The file is of another model or incomplete; nothing was converted"
        )


def needed(state: Mapping[str, Tensor], key: str, dimensions: int, source: str) -> Tensor:
    """A tensor that the description of a model is read from.

    Raises:
        UsageError: where it is missing, or has another number of dimensions.
    """
    if key not in state:
        raise UsageError(f"{source} has no tensor {key!r}, so it is no such vision transformer; nothing was converted")
    if state[key].ndim != dimensions:
        raise UsageError(f"{source}: {key} has the shape {list(state[key].shape)}, expected {dimensions} dimensions")
    return state[key]


def image_of(tokens: int, patch_size: int, given: ImageSize | None, source: str) -> Grid:
    """(height, width) of the images that have so many patches: as given, or else square.

    Raises:
        UsageError: where the given size has another number of patches, or a square has not that many.
    """
    if given is not None:
        grid = patch_grid(given, patch_size)
        if grid[0] * grid[1] != tokens:
            raise UsageError(
                f"{source} has positions for {tokens} patches of {patch_size} pixels, and images of {given} have "
                f"{grid[0]} x {grid[1]}; give the --image-size that was trained"
            )
        return grid[0] * patch_size, grid[1] * patch_size
    side = math.isqrt(tokens)
    if side * side != tokens:
        raise UsageError(
            f"{source} has positions for {tokens} patches, which is no square; give --image-size HEIGHT WIDTH"
        )
    return side * patch_size, side * patch_size


def count_blocks(keys: Sequence[str], prefix: str) -> int:
    """How many blocks the keys ``<prefix><number>.`` speak of."""
    numbers = {key.removeprefix(prefix).partition(".")[0] for key in keys if key.startswith(prefix)}
    return 1 + max((int(number) for number in numbers if number.isdecimal()), default=-1)


def _rule_of(connection: Connection) -> Rule:
    if connection.spec is None:
        raise UsageError(
            f"the options of a {type(connection).__name__} made by hand are not known; make it with connections.create"
        )
    name, options = connection.spec
    return name, dict(options)


def _shown(keys: Sequence[str]) -> str:
    more = f" and {len(keys) - 4} more" if len(keys) > 4 else ""
    return ", ".join(keys[:4]) + more
