"""A folder for the Hugging Face Hub: everything that a person needs who was not there when the model was trained.

====================================================  ==================================================
``config.json``, ``model.safetensors``                the model, in the published layout
``preprocessor_config.json``                          the transform of evaluation, where it is known
``configuration_ortho_vit.py``,                       code for use without orthostream, where it computes
``modeling_ortho_vit.py``                             this model
``golden.safetensors``                                images and the logits that belong to them
``README.md``                                         the model card
====================================================  ==================================================
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save

from orthostream.hub import OrthoViTForImageClassification, remote_code
from orthostream.hub.model_card import Card
from orthostream.hub.remote_code import configuration_ortho_vit, modeling_ortho_vit
from orthostream.layouts import ortho_vit
from orthostream.layouts.architecture import Trained
from orthostream.layouts.model_folder import write_folder
from orthostream.layouts.verify import TOLERANCE, Agreement
from orthostream.training.checkpoint import flush_folder, write_flushed

GOLDEN, CARD, PREPROCESSOR = "golden.safetensors", "README.md", "preprocessor_config.json"
GOLDEN_IMAGES, GOLDEN_SEED = 2, 0


def write_hub_folder(folder: Path, card: Card) -> tuple[str, ...]:
    """Write the folder; :func:`check_hub_folder` says whether it computes what the model does.

    Args:
        folder: a path that does not exist.
        card: the model, and all that is said about it; whether there is code for it is found out here.

    Returns:
        Notes on what the folder does not hold.

    Raises:
        UsageError: for a model that the published layout has no place for.
    """
    trained, notes = card.trained, []
    config = ortho_vit.config_of(trained.architecture, trained.labels, trained.weights["pos_embed"].dtype)
    refusal = remote_refusal(config)
    if refusal is None:
        config["auto_map"] = remote_code.AUTO_MAP
    else:
        notes.append(f"the folder holds no code for use without orthostream: {refusal}")
    if trained.labels is None:
        notes.append("names of the classes are not known; they are LABEL_0 and so on, or give --labels FILE")
    if card.preprocessor is None:
        notes.append("how images are prepared is not known; give --data NAME or --preprocessor FILE, or add the file")
    if card.licence is None:
        notes.append("the licence is left open and marked in README.md; give --licence, or fill it in")
    if card.evidence is not None and not card.is_evidence_checked:
        notes.append("whether the runs are of this model is not known: its source holds no recipe to compare with")
    write_folder(folder, ortho_vit.to_hub(trained.weights, trained.architecture), config)
    if refusal is None:
        for name in (remote_code.CONFIGURATION, remote_code.MODELLING):
            source = resources.files(remote_code).joinpath(f"{name}.py")
            write_flushed(folder / f"{name}.py", source.read_bytes())
    if card.preprocessor is not None:
        write_flushed(folder / PREPROCESSOR, (json.dumps(dict(card.preprocessor), indent=2) + "\n").encode())
    write_flushed(folder / GOLDEN, save(golden_of(trained), metadata={"format": "pt"}))
    write_flushed(folder / CARD, str(replace(card, remote_refusal=refusal)).encode())
    flush_folder(folder)
    return tuple(notes)


def check_hub_folder(folder: Path, tolerance: float = TOLERANCE) -> tuple[str, ...]:
    """Load the folder, by orthostream and by its own code, and compare logits with those in it.

    Returns:
        A line a comparison.

    Raises:
        UsageError: where they differ by more than ``tolerance`` times the largest logit.
    """
    golden = load_file(folder / GOLDEN)
    loaders = {"orthostream.hub": OrthoViTForImageClassification}
    if (folder / f"{remote_code.MODELLING}.py").exists():
        loaders["the folder's own code"] = modeling_ortho_vit.OrthoViTForImageClassification
    lines = []
    for name, loader in loaders.items():
        model = loader.from_pretrained(folder, dtype=torch.float32).eval()
        with torch.no_grad():
            logits = model(pixel_values=golden["pixel_values"]).logits
        expected = golden["logits"]
        agreement = Agreement(
            difference=(logits - expected).abs().max().item(),
            scale=max(1.0, expected.abs().max().item()),
            images=len(expected),
        )
        agreement.check(tolerance)
        lines.append(f"{name}: {agreement}")
    return tuple(lines)


def golden_of(trained: Trained) -> dict[str, torch.Tensor]:
    """Random images, and their logits by the ViT of orthostream in float32."""
    built = trained.architecture
    generator = torch.Generator().manual_seed(GOLDEN_SEED)
    images = torch.randn(GOLDEN_IMAGES, built.in_channels, *built.image_size, generator=generator)
    with torch.no_grad():
        return {"pixel_values": images, "logits": trained.model()(images)}


def remote_refusal(config: Mapping[str, Any]) -> str | None:
    """Why the code for use without orthostream does not compute a model; ``None`` where it does."""
    try:
        configuration_ortho_vit.OrthoViTConfig(**{key: value for key, value in config.items() if key != "model_type"})
    except ValueError as error:
        return str(error)
    return None
