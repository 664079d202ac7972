"""Models of the papers: one file a family, and this table of all sizes."""

from functools import partial
from typing import Any

from orthostream.connections import Choice
from orthostream.models.barlow_twins import BarlowTwins, BarlowTwinsLoss
from orthostream.models.base import Model
from orthostream.models.basic_cnn import BasicCNN
from orthostream.models.cifar_resnet import CifarResNet
from orthostream.models.preact_resnet import PreActResNet
from orthostream.models.torchvision_nets import TorchvisionNet
from orthostream.models.vit import ViT
from orthostream.registry import Entry, Registry

__all__ = [
    "BarlowTwins",
    "BarlowTwinsLoss",
    "BasicCNN",
    "CifarResNet",
    "Model",
    "PreActResNet",
    "TorchvisionNet",
    "ViT",
    "create",
    "family",
    "names",
    "register",
    "table",
]

VIT_PAPER = "arXiv:2010.11929, section 3.1"
RESNET_PAPER = "arXiv:1603.05027, section 3"
CIFAR_RESNET_PAPER = "arXiv:1512.03385, section 4.2"
ORTHOGONAL_GRADIENTS_PAPER = "arXiv:2202.07052, section 3"

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
        "basic_cnn": Entry(BasicCNN, "three strided convolutions and a dense layer", ORTHOGONAL_GRADIENTS_PAPER),
        "barlow_twins": Entry(
            BarlowTwins, "two views of an image through one network, with a linear probe", "arXiv:2103.03230"
        ),
        "resnet20": Entry(
            partial(CifarResNet, blocks_per_stage=(3, 3, 3)),
            "post-activation ResNet for CIFAR, 9 blocks",
            CIFAR_RESNET_PAPER,
        ),
        "resnet44": Entry(
            partial(CifarResNet, blocks_per_stage=(7, 7, 7)),
            "post-activation ResNet for CIFAR, 21 blocks",
            CIFAR_RESNET_PAPER,
        ),
        "resnet18": Entry(
            partial(TorchvisionNet, network="resnet18"), "torchvision's ResNet, 8 basic blocks", "arXiv:1512.03385"
        ),
        "resnet34": Entry(
            partial(TorchvisionNet, network="resnet34"), "torchvision's ResNet, 16 basic blocks", "arXiv:1512.03385"
        ),
        "resnet50": Entry(
            partial(TorchvisionNet, network="resnet50"),
            "torchvision's ResNet, 16 bottleneck blocks",
            "arXiv:1512.03385",
        ),
        "resnext50_32x4d": Entry(
            partial(TorchvisionNet, network="resnext50_32x4d"),
            "torchvision's ResNeXt, 16 blocks of 32 groups",
            "arXiv:1611.05431",
        ),
        "wide_resnet50_2": Entry(
            partial(TorchvisionNet, network="wide_resnet50_2"),
            "torchvision's Wide ResNet, 16 bottleneck blocks of double width",
            "arXiv:1605.07146",
        ),
        "densenet121": Entry(
            partial(TorchvisionNet, network="densenet121"),
            "torchvision's DenseNet, 58 dense layers, growth 32",
            "arXiv:1608.06993",
        ),
        "densenet161": Entry(
            partial(TorchvisionNet, network="densenet161"),
            "torchvision's DenseNet, 78 dense layers, growth 48",
            "arXiv:1608.06993",
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
    """``vit``, ``resnet``, ``cnn`` or ``twins``: what decides on the transforms of images.

    Raises:
        UsageError: for an unknown name.
    """
    make = table[name].make
    made = make.func if isinstance(make, partial) else make
    return str(getattr(made, "family", name))
