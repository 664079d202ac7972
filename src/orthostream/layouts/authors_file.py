"""The ``.pt`` file of the authors' training program, read and written.

It is a pickle of ``model``, ``opt``, ``args`` (an ``argparse.Namespace``), ``train_steps``, ``opt_steps`` and
``epoch``, counted from 0. It is read by ``torch.load(weights_only=True)`` with that one class allowed, so no code in it
runs. Sizes come from the shapes, since ``args`` name a preset only; eps comes from the file's own buffers, which win
over the flag in their program too.

Source: the training checkpoints of the code of Oh et al., arXiv:2505.11881.
"""

import argparse
import io
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from orthostream.authors.connection import connection_of, flags_of, parse_method
from orthostream.authors.flags import FLAGS
from orthostream.connections import Choice, only_blocks
from orthostream.errors import UsageError
from orthostream.layouts.architecture import (
    NO_OVERRIDES,
    Architecture,
    Overrides,
    Rule,
    Trained,
    check_weights,
    count_blocks,
    image_of,
    needed,
)
from orthostream.models.authors_layout import EPS, from_authors, to_authors
from orthostream.models.vit import FINAL_NORM_EPS, ViT
from orthostream.recipe import ConnectionRecipe
from orthostream.training.checkpoint import write_flushed

LAYOUT = "the authors' file"

# (width, blocks, heads) of their presets.
PRESETS = {"S": (384, 6, 6), "B": (768, 12, 12), "L": (1024, 24, 16), "H": (1280, 32, 16)}


def read_file(path: Path, overrides: Overrides = NO_OVERRIDES) -> Trained:
    """A file of the authors' program, as our ViT has it.

    Args:
        path: of the ``.pt`` file.
        overrides: image size and heads, where the file cannot say them.

    Raises:
        UsageError: for a file that holds more than tensors, builtins and a Namespace, is cut, is not of a ViT, or does
            not say enough.
    """
    overrides.refuse(str(path), "activation")
    held = _unpickled(path)
    if not isinstance(held, dict) or not {"model", "args"} <= held.keys():
        keys = sorted(map(str, held)) if isinstance(held, dict) else type(held).__name__
        raise UsageError(f"{path} is no checkpoint of the authors' program: it holds {keys}, not model and args")
    state, flags = held["model"], {name: flag.default for name, flag in FLAGS.items()} | vars(held["args"])
    if flags["model"] != "vit":
        raise UsageError(f"{path} is of the model {flags['model']!r}; the ViT alone can be converted")
    architecture, notes = _architecture(path, state, flags, overrides)
    model = architecture.model()
    weights = from_authors(state, model)
    check_weights(weights, model.state_dict(), str(path))
    return Trained(
        architecture=architecture,
        weights=weights,
        flags=vars(held["args"]),
        step=int(held.get("opt_steps", 0)),
        epoch=held.get("epoch", 0) + 1,
        notes=tuple(notes),
    )


def write_file(path: Path, trained: Trained) -> tuple[str, ...]:
    """Write a file as the authors' program does, without the state of an optimizer, which nothing there reads.

    Returns:
        Notes on what the file cannot say.

    Raises:
        UsageError: for a part or a connection that their code has not.
    """
    architecture = trained.architecture
    architecture.refuse_parts(LAYOUT, "registers", "layer_scale", "qk_norm", "affine_norm", "mean pool")
    flags = dict(trained.flags) if trained.flags is not None else _flags_for(architecture)
    held = {
        "model": {key: tensor.cpu() for key, tensor in to_authors(trained.weights, architecture.model()).items()},
        "opt": {},
        "args": argparse.Namespace(**flags),
        "train_steps": trained.step,
        "opt_steps": trained.step,
        "epoch": max(trained.epoch - 1, 0),
    }
    buffer = io.BytesIO()
    torch.save(held, buffer)
    write_flushed(path, buffer.getvalue())
    notes = ["the state of the optimizer is left out"]
    if architecture.final_norm_eps != FINAL_NORM_EPS:
        notes.append(
            f"the norm in front of the classifier has eps {architecture.final_norm_eps:g}, and theirs always "
            f"{FINAL_NORM_EPS:g}; logits differ by what the comparison shows"
        )
    if _heads_of_preset(flags, architecture.embed_dim, architecture.depth) != architecture.num_heads:
        notes.append(
            f"their flags name presets only, and this is none; read it with --num-heads {architecture.num_heads}"
        )
    return tuple(notes)


def _unpickled(path: Path) -> Any:
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        reason = found[1] if found else str(error).splitlines()[0]
        raise UsageError(
            f"{path} was not loaded: it holds more than tensors, builtins and argparse.Namespace, and a pickle with "
            f"other classes can run any code ({reason}). Have whoever made the file save its state dict as safetensors"
        ) from None
    except (RuntimeError, EOFError, OSError) as error:
        raise UsageError(f"{path} cannot be read as a file of torch.save: {error}; download or copy it again") from None


def _architecture(
    path: Path, state: Mapping[str, Tensor], flags: Mapping[str, Any], overrides: Overrides
) -> tuple[Architecture, list[str]]:
    """Sizes from the shapes, heads from the preset or from the person, connections from flags and eps buffers."""
    source = str(path)
    patch = needed(state, "patchify.weight", 4, source)
    positions = needed(state, "pos_embed", 3, source)
    hidden = needed(state, "blocks.0.mlp.fc1.weight", 2, source)
    width, depth = patch.shape[0], count_blocks(list(state), "blocks.")
    heads = overrides.num_heads or _heads_of_preset(flags, width, depth)
    if heads is None:
        raise UsageError(
            f"{path}: its args say preset {flags['preset']}, and its tensors have width {width} and {depth} blocks, "
            "which is another size; no shape shows the attention heads, so give --num-heads"
        )
    rules, notes = _rules(path, state, flags, depth)
    tokens = positions.shape[1]
    return Architecture(
        num_classes=needed(state, "classifier.1.weight", 2, source).shape[0],
        image_size=image_of(tokens, patch.shape[-1], overrides.image_size, source),
        patch_size=patch.shape[-1],
        in_channels=patch.shape[1],
        embed_dim=width,
        depth=depth,
        num_heads=heads,
        hidden_features=hidden.shape[0],
        rules=rules,
    ), notes


def _heads_of_preset(flags: Mapping[str, Any], width: int, depth: int) -> int | None:
    preset = PRESETS.get(str(flags.get("preset")))
    return preset[2] if preset is not None and preset[:2] == (width, depth) else None


def _rules(
    path: Path, state: Mapping[str, Tensor], flags: Mapping[str, Any], depth: int
) -> tuple[tuple[Rule, ...], list[str]]:
    notes = []
    flags = dict(flags)
    if parse_method(flags["orthogonal_method"]).projection == "global":
        flags["orthogonal_method"] = "feature"
        notes.append(
            "args say orthogonal_method global; their program trains feature under that name, which is what is read"
        )
    meaning = connection_of(flags, (), "tokens")
    values = {place.removeprefix("connection."): value for place, value in meaning.fields.items()}
    name, blocks = values.pop("name"), values.pop("blocks", None)
    if (probability := values.pop("probability", None)) is not None:
        notes.append(
            f"blocks were orthogonal with probability {probability}; all are read as orthogonal, and what their "
            "evaluations used, the last draw, is not in the file"
        )
    choice: Choice = (name, values)
    if blocks is not None:
        choice = only_blocks(choice, blocks)
    eps = [_eps(path, state, block, flags["orthogonal_eps"]) for block in range(depth)]
    rules: list[Rule] = []
    for number, (rule, options) in enumerate(_resolved(choice, depth)):
        rules.append((rule, {**options, "eps": eps[number // 2]} if "eps" in options else options))
    return tuple(rules), notes


def _resolved(choice: Choice, depth: int) -> tuple[Rule, ...]:
    """What a choice means at each site, read off a model that costs nothing to make."""
    with torch.device("meta"):
        model = ViT(num_classes=1, embed_dim=1, depth=depth, num_heads=1, connection=choice)
    return Architecture.of(model).rules


def _eps(path: Path, state: Mapping[str, Tensor], block: int, given: float) -> float:
    """Eps of a block as it is stored; the shortest number that is the same in float32."""
    stored = needed(state, f"blocks.{block}.{EPS}", 1, str(path)).float()
    # Nine digits tell any two numbers of float32 apart.
    candidates = [given, *(float(f"{stored.item():.{digits}g}") for digits in range(1, 10))]
    return next(value for value in candidates if torch.equal(stored, torch.full_like(stored, value)))


def _flags_for(architecture: Architecture) -> dict[str, Any]:
    """The authors' flags that mean an architecture; those of training have their defaults."""
    (name, options), blocks = architecture.rule_by_block(LAYOUT)
    flags = flags_of(ConnectionRecipe(name=name, options=dict(options), blocks=blocks))
    if flags is None or "dim" in options or options.get("strength", 1.0) != 1.0:
        raise UsageError(
            f"{LAYOUT} has no flags for the connection {name!r} with {dict(options)}; keep it in the training layout"
        )
    if blocks is not None:
        flags["orthogonal_pattern"] = ",".join(map(str, blocks))
    size = (architecture.embed_dim, architecture.depth, architecture.num_heads)
    preset = {numbers: preset for preset, numbers in PRESETS.items()}.get(size, FLAGS["preset"].default)
    theirs = {flag: value.default for flag, value in FLAGS.items() if flag not in ("run_dir", "resume", "overwrite")}
    return {**theirs, **flags, "preset": preset, "model": "vit"}
