"""Layouts of checkpoints of the ViT, both ways and without loss: which there are, and which one a path holds.

Every layout is read into the names of :class:`orthostream.models.ViT` and written from them, so that four layouts need
four pairs of functions and no more. The mappings are pure functions on tensors and builtins; neither transformers
nor timm is imported but by the verification.
"""

import json
from pathlib import Path
from typing import Literal, TypeAlias

from orthostream.errors import UsageError

__all__ = ["NAMES", "Layout", "detect"]

Layout: TypeAlias = Literal["training", "authors", "hf", "timm"]

NAMES: dict[Layout, str] = {
    "training": "a checkpoint of orthostream",
    "authors": "a training checkpoint of the authors' program",
    "hf": "a Hugging Face folder of model type ortho_vit",
    "timm": "a timm vision transformer",
}


def detect(path: Path) -> Layout:
    """Which layout a path holds, judged by its files and never by running them.

    Args:
        path: a run folder, a checkpoint folder, a Hugging Face or timm folder, a ``.pt`` or a ``.safetensors`` file.

    Raises:
        UsageError: where it holds none of them.
    """
    if path.is_file():
        if path.suffix in (".pt", ".pth"):
            return "authors"
        if path.suffix == ".safetensors":
            return "timm"
    elif (path / "manifest.json").is_file() or (path / "checkpoints").is_dir():
        return "training"
    elif (path / "config.json").is_file():
        return _by_config(path / "config.json")
    elif not path.exists():
        raise UsageError(f"{path} does not exist; give a checkpoint, a run folder or a downloaded model folder")
    raise UsageError(
        f"{path} holds no layout that is known: a run folder or checkpoint has checkpoints/ or manifest.json, a "
        "Hugging Face or timm folder config.json, the authors' file ends in .pt, weights of timm in .safetensors"
    )


def _by_config(path: Path) -> Layout:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{path} is no JSON ({error}); download or save the folder again") from None
    if not isinstance(config, dict):
        raise UsageError(f"{path} holds a {type(config).__name__}, a mapping was expected")
    if config.get("model_type") == "ortho_vit":
        return "hf"
    if "architecture" in config:
        return "timm"
    raise UsageError(
        f"{path} describes model_type {config.get('model_type')!r}; 'ortho_vit' and timm's folders, which name an "
        "'architecture', can be converted"
    )
