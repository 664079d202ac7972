"""Our ViT and timm's ``VisionTransformer``: names, shapes and the arguments that make it.

timm's block norms always have a gain and a bias; where ours have none, they are one and zero, and a file in which all
of them are is read back as a model without. timm makes its last norm with the eps of the others, 1e-6, where ours has
1e-5: ``config.json`` carries the number under ``orthostream``, and ``model.norm.eps = 1e-5`` after loading gives equal
logits.

Source: the state dict of ``timm.models.vision_transformer.VisionTransformer``, timm 1.0.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from orthostream.errors import UsageError
from orthostream.layouts.architecture import (
    NO_OVERRIDES,
    Architecture,
    Overrides,
    Trained,
    check_weights,
    count_blocks,
    image_of,
    needed,
)
from orthostream.layouts.cls_row import with_row, without_row
from orthostream.models.vit_block import BLOCK_NORM_EPS

LAYOUT = "timm's layout"

MODULES = {
    "patchify": "patch_embed.proj",
    "classifier.0": "norm",
    "classifier.1": "head",
    "attn.qkv": "attn.qkv",
    "attn.proj": "attn.proj",
    "attn.query_norm": "attn.q_norm",
    "attn.key_norm": "attn.k_norm",
    "attn_update.scale": "ls1",
    "mlp_update.scale": "ls2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
    "norm1": "norm1",
    "norm2": "norm2",
}
KEY = re.compile(r"(blocks\.\d+\.)?(.+)\.(weight|bias|gamma)")
BLOCK_NORM = re.compile(r"blocks\.\d+\.norm[12]\.(weight|bias)")

# timm's name of the only activation that ours has, and those of the same function elsewhere.
ACTIVATION = "gelu_tanh"
# Arguments of timm's class under which it computes what ours computes; any other value of them is refused.
NEUTRAL: dict[str, Any] = {
    "global_pool": "token",
    "class_token": True,
    "pos_embed": "learn",
    "reg_tokens": 0,
    "pre_norm": False,
    "final_norm": True,
    "fc_norm": None,
    "qkv_bias": True,
    "proj_bias": True,
    "scale_attn_norm": False,
    "scale_mlp_norm": False,
    "no_embed_class": False,
}
# These say the shape, which the weights say too, or act in training only.
FREE = frozenset(
    {"img_size", "patch_size", "in_chans", "num_classes", "embed_dim", "depth", "num_heads", "mlp_ratio", "act_layer"}
    | {"init_values", "qk_norm", "drop_rate", "pos_drop_rate", "patch_drop_rate", "proj_drop_rate", "attn_drop_rate"}
    | {"drop_path_rate", "weight_init", "fix_init", "dynamic_img_size", "dynamic_img_pad"}
)


def to_timm(
    weights: Mapping[str, Tensor], architecture: Architecture, *, weights_only: bool = False
) -> dict[str, Tensor]:
    """Weights of our ViT under timm's names.

    Args:
        weights: as ``ViT.state_dict`` has them.
        architecture: what they mean.
        weights_only: also for a connection other than the plain sum, with which timm computes something else.

    Raises:
        UsageError: for a part that timm has no place for, or another connection where weights alone are not wanted.
    """
    architecture.refuse_parts(LAYOUT, "registers", "mean pool")
    others = sorted({name for name, _ in architecture.rules} - {"linear"})
    if others and not weights_only:
        raise UsageError(
            f"this model has the connection {', '.join(others)}, and timm adds updates plainly: the same weights would "
            "give other logits there. Add --weights-only if the weights alone are wanted, or convert to hf"
        )
    state: dict[str, Tensor] = {}
    for key, tensor in weights.items():
        if key == "cls_token":
            state[key] = tensor
        elif key == "pos_embed":
            state[key] = with_row(tensor)
        else:
            state[_name(key)] = tensor
    if not architecture.affine_norm:
        like = weights["pos_embed"]
        for block in range(architecture.depth):
            for norm in ("norm1", "norm2"):
                state[f"blocks.{block}.{norm}.weight"] = like.new_ones(architecture.embed_dim)
                state[f"blocks.{block}.{norm}.bias"] = like.new_zeros(architecture.embed_dim)
    return state


def from_timm(
    state: Mapping[str, Tensor], config: Mapping[str, Any] | None = None, overrides: Overrides = NO_OVERRIDES
) -> Trained:
    """A state dict of timm's class, as our ViT has it.

    Args:
        state: with timm's names.
        config: the mapping in timm's ``config.json``; ``None`` for weights alone, of which ``overrides`` must say
            heads and activation.
        overrides: what no shape shows.

    Returns:
        Weights under our names, for the plain connection.

    Raises:
        UsageError: for a key that is missing, unexpected or of another shape, and for what our ViT does not compute.
    """
    architecture = _architecture(state, config, overrides)
    affine = replace(architecture, affine_norm=True)
    template = affine.template()
    check_weights(state, to_timm(template, affine), "the timm state dict")
    is_plain = all(_is_identity(key, tensor) for key, tensor in state.items() if BLOCK_NORM.fullmatch(key))
    cls_token, positions, has_row = without_row(state["cls_token"], state["pos_embed"])
    own = {"cls_token": cls_token, "pos_embed": positions}
    weights = {
        key: own[key] if key in own else state[_name(key)]
        for key in template
        if not (is_plain and BLOCK_NORM.fullmatch(key))
    }
    notes = []
    if has_row:
        notes.append(
            "the position of the class token is not zero; it was added to the class token, which is the same sum"
        )
    if is_plain:
        notes.append("all block norms have gain one and bias zero; they are read as norms without either")
    return Trained(architecture=architecture if is_plain else affine, weights=weights, notes=tuple(notes))


def arguments_of(architecture: Architecture) -> dict[str, Any]:
    """Keyword arguments with which timm's class takes the weights of :func:`to_timm`."""
    height, width = architecture.image_size
    return {
        "img_size": height if height == width else [height, width],
        "patch_size": architecture.patch_size,
        "in_chans": architecture.in_channels,
        "num_classes": architecture.num_classes,
        "global_pool": "token",
        "embed_dim": architecture.embed_dim,
        "depth": architecture.depth,
        "num_heads": architecture.num_heads,
        "mlp_ratio": architecture.hidden_features / architecture.embed_dim,
        "qk_norm": architecture.qk_norm,
        "init_values": 1.0 if architecture.layer_scale else None,
        "act_layer": ACTIVATION,
    }


def config_of(architecture: Architecture) -> dict[str, Any]:
    """The ``config.json`` with which ``timm.create_model("local-dir:FOLDER", pretrained=True)`` loads the weights."""
    arguments = arguments_of(architecture)
    return {
        # Any of timm's names of this class does; the arguments say the rest.
        "architecture": "vit_base_patch16_224",
        "num_classes": architecture.num_classes,
        "global_pool": "token",
        # num_classes and in_chans come to timm by pretrained_cfg, and may not come twice.
        "model_args": {key: value for key, value in arguments.items() if value is not None and key != "num_classes"},
        "pretrained_cfg": {
            "num_classes": architecture.num_classes,
            "input_size": [architecture.in_channels, *architecture.image_size],
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
        "orthostream": {"final_norm_eps": architecture.final_norm_eps},
    }


def remarks(architecture: Architecture) -> tuple[str, ...]:
    """What timm's arguments cannot say of an architecture."""
    eps = architecture.final_norm_eps
    if eps == BLOCK_NORM_EPS:
        return ()
    return (f"timm gives its last norm another eps; set model.norm.eps = {eps:g} after loading for equal logits",)


def _architecture(state: Mapping[str, Tensor], config: Mapping[str, Any] | None, overrides: Overrides) -> Architecture:
    """The architecture without affine block norms; shapes from the tensors, the rest from the description."""
    source = "the timm state dict"
    patch = needed(state, "patch_embed.proj.weight", 4, source)
    positions = needed(state, "pos_embed", 3, source)
    hidden = needed(state, "blocks.0.mlp.fc1.weight", 2, source).shape[0]
    head = needed(state, "head.weight", 2, source)
    arguments = {} if config is None else _arguments_in(config)
    if config is not None:
        overrides.refuse("config.json", *(key for key in ("num_heads", "activation") if _said(arguments, key)))
    activation = overrides.activation or arguments.get("act_layer", "gelu")
    if activation != ACTIVATION:
        raise UsageError(
            f"timm's activation is {activation!r} here (its default is the exact GELU), and our ViT has the tanh form; "
            f"give --activation {ACTIVATION} if that is what was trained"
        )
    heads = overrides.num_heads or arguments.get("num_heads")
    if heads is None:
        raise UsageError("no shape shows how many attention heads the timm model has; give --num-heads")
    side = overrides.image_size or arguments.get("img_size")
    depth = count_blocks(list(state), "blocks.")
    return Architecture(
        num_classes=head.shape[0],
        image_size=image_of(
            positions.shape[1] - 1, patch.shape[-1], tuple(side) if isinstance(side, list) else side, source
        ),
        patch_size=patch.shape[-1],
        in_channels=patch.shape[1],
        embed_dim=patch.shape[0],
        depth=depth,
        num_heads=heads,
        hidden_features=hidden,
        rules=(("linear", {}),) * (2 * depth),
        layer_scale="blocks.0.ls1.gamma" in state,
        qk_norm="blocks.0.attn.q_norm.weight" in state,
        # timm makes every norm with one eps.
        final_norm_eps=(config or {}).get("orthostream", {}).get("final_norm_eps", BLOCK_NORM_EPS),
    )


def _arguments_in(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The arguments of timm's class in its ``config.json``, none of which may change what is computed."""
    arguments = dict(config.get("model_args") or {})
    if "global_pool" in config:
        arguments.setdefault("global_pool", config["global_pool"])
    strange = {
        key: value
        for key, value in arguments.items()
        if key not in FREE and (key not in NEUTRAL or value != NEUTRAL[key])
    }
    if strange:
        raise UsageError(
            f"timm's arguments {strange} make a model that our ViT does not compute; it cannot be converted"
        )
    return arguments


def _said(arguments: Mapping[str, Any], option: str) -> bool:
    return {"num_heads": "num_heads", "activation": "act_layer"}[option] in arguments


def _is_identity(key: str, tensor: Tensor) -> bool:
    neutral = torch.ones_like(tensor) if key.endswith("weight") else torch.zeros_like(tensor)
    return torch.equal(tensor, neutral)


def _name(key: str) -> str:
    """timm's name of one of our keys."""
    match = KEY.fullmatch(key)
    if match is None or match[2] not in MODULES:
        raise UsageError(f"{LAYOUT} has no place for {key}; keep this model in the training layout")
    return f"{match[1] or ''}{MODULES[match[2]]}.{match[3]}"
