"""Models of the papers: one file a family, and this table of all sizes."""

from functools import partial
from typing import Any

from orthostream.connections import Choice
from orthostream.models.base import Model
from orthostream.models.preact_resnet import PreActResNet
from orthostream.models.vit import ViT
from orthostream.registry import Entry, Registry

__all__ = ["Model", "PreActResNet", "ViT", "create", "family", "names", "register", "table"]

VIT_PAPER = "arXiv:2010.11929, section 3.1"
RESNET_PAPER = "arXiv:1603.05027, section 3"

table: Registry[Model] = Registry(
    "model",
    {
        "vit_s": Entry(partial(ViT, embed_dim=384, depth=6, num_heads=6), "ViT, width 384, 6 blocks", VIT_PAPER),
        "vit_b": Entry(partial(ViT, embed_dim=768, depth=12, num_heads=12), "ViT, width 768, 12 blocks", VIT_PAPER),
        "vit_l": Entry(partial(ViT, embed_dim=1024, depth=24, num_heads=16), "ViT, width 1024, 24 blocks", VIT_PAPER),
        "vit_h": Entry(partial(ViT, embed_dim=1280, depth=32, num_heads=16), "ViT, width 1280, 32 blocks", VIT_PAPER),
        "preact_resnet18": Entry(
            partial(PreActResNet, block="basic", blocks_per_stage=(2, 2, 2, 2)),
            "pre-activation ResNet, 8 basic blocks",
            RESNET_PAPER,
        ),
        "preact_resnet34": Entry(
            partial(PreActResNet, block="basic", blocks_per_stage=(3, 4, 6, 3)),
            "pre-activation ResNet, 16 basic blocks",
            RESNET_PAPER,
        ),
        "preact_resnet50": Entry(
            partial(PreActResNet, block="bottleneck", blocks_per_stage=(3, 4, 6, 3)),
            "pre-activation ResNet, 16 bottleneck blocks",
            RESNET_PAPER,
        ),
        "preact_resnet101": Entry(
            partial(PreActResNet, block="bottleneck", blocks_per_stage=(3, 4, 23, 3)),
            "pre-activation ResNet, 33 bottleneck blocks",
            RESNET_PAPER,
        ),
        "preact_resnet152": Entry(
            partial(PreActResNet, block="bottleneck", blocks_per_stage=(3, 8, 36, 3)),
            "pre-activation ResNet, 50 bottleneck blocks",
            RESNET_PAPER,
        ),
    },
)

names = table.names
register = table.register


def create(name: str, *, num_classes: int, connection: Choice = "linear", **options: Any) -> Model:
    """Make a model by name.

    Args:
        name: one of :func:`names`.
        num_classes: how many logits.
        connection: a name, ``(name, options)``, an instance, a function of the site, or a table of patterns over
            site names (:func:`orthostream.connections.wire`).
        options: of this family; the numbers of the named size may be overridden, an unknown option is refused.

    Returns:
        The model, with ``sites`` and ``family``.

    Raises:
        UsageError: for an unknown name, an unknown option or a value out of range.

    Example:
        >>> import torch
        >>> model = create("vit_s", num_classes=10, connection="orthogonal", embed_dim=48, depth=2, num_heads=4)
        >>> model(torch.zeros(1, 3, 32, 32)).shape
        torch.Size([1, 10])
        >>> [site.name for site in model.sites]
        ['blocks.0.attn', 'blocks.0.mlp', 'blocks.1.attn', 'blocks.1.mlp']
    """
    return table.create(name, num_classes=num_classes, connection=connection, **options)


def family(name: str) -> str:
    """``vit`` or ``resnet``: what decides on the transforms of images.

    Raises:
        UsageError: for an unknown name.
    """
    make = table[name].make
    made = make.func if isinstance(make, partial) else make
    return str(getattr(made, "family", name))
