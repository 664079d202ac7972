"""Folders of ``config.json`` and ``model.safetensors``, as Hugging Face and timm have them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from orthostream.errors import UsageError, needs_extra
from orthostream.training.checkpoint import flush_folder, write_flushed

with needs_extra("vision"):
    from safetensors import SafetensorError
    from safetensors.torch import load_file, save

WEIGHTS, CONFIG = "model.safetensors", "config.json"


def read_folder(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights and description of a folder.

    Raises:
        UsageError: where one is missing or cannot be read.
    """
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            there = ", ".join(sorted(path.name for path in folder.iterdir())[:6]) or "nothing"
            raise UsageError(
                f"{folder} has no {name} (it has {there}); a model folder has {CONFIG} and one {WEIGHTS}. "
                "Pickled and sharded weights are not read: save the model again with save_pretrained"
            )
    return read_tensors(folder / WEIGHTS), json.loads((folder / CONFIG).read_text(encoding="utf-8"))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a ``.safetensors`` file.

    Raises:
        UsageError: where the file is cut or no such file.
    """
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UsageError(f"{path} cannot be read as safetensors: {error}; download or save it again") from None


def write_folder(folder: Path, state: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """Make a new folder of weights and description, flushed to disk."""
    folder.mkdir()
    # Parts of a split tensor share their memory, which the format refuses.
    own = {key: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for key, tensor in state.items()}
    # transformers loads no file without this mark.
    write_flushed(folder / WEIGHTS, save(own, metadata={"format": "pt"}))
    write_flushed(folder / CONFIG, (json.dumps(config, indent=2) + "\n").encode())
    flush_folder(folder)
