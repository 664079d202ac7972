"""Our ViT and the published Hugging Face layout ``ortho_vit``: names, shapes and ``config.json``.

========================================  =========================================================
ours                                      published
========================================  =========================================================
``cls_token``                             ``vit.embeddings.cls_token``
``pos_embed`` [1, N, D]                   rows 1 to N of ``vit.embeddings.position_embeddings``
(nothing)                                 row 0, zero
``patchify``                              ``vit.embeddings.patch_embeddings.projection``
``blocks.i.attn.qkv``                     ``vit.encoder.layer.i.attention.attention.{query,key,value}``
``blocks.i.attn.proj``                    ``vit.encoder.layer.i.attention.output.dense``
``blocks.i.mlp.fc1``, ``fc2``             ``vit.encoder.layer.i.intermediate.dense``, ``output.dense``
``blocks.i.norm1``, ``norm2``             ``vit.encoder.layer.i.layernorm_before``, ``layernorm_after``
``classifier.0``, ``classifier.1``        ``vit.layernorm``, ``classifier``
``blocks.i.attn_connection``              ``vit.encoder.layer.i.attn_connection``; ``mlp_connection`` likewise
``begin``, ``end``                        ``begin`` of the first layer, ``end`` of the last
========================================  =========================================================

Source: the models ``BootsofLagrangian/ortho-vit-b-imagenet1k-hf`` and ``linear-vit-b-imagenet1k-hf`` of Oh et al.,
arXiv:2505.11881. Ours are the last two rows, the key ``residual_options`` for connections that published files do not
have, and ``final_layer_norm_eps``, since training norms with 1e-5 in front of the classifier and with 1e-6 in blocks;
where that is absent, both are ``layer_norm_eps``, as in the published files.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from orthostream.errors import UsageError
from orthostream.layouts.architecture import Architecture, Trained, check_weights
from orthostream.layouts.cls_row import with_row, without_row
from orthostream.layouts.residual_keys import keys_of, rule_of
from orthostream.models.vit_block import BLOCK_NORM_EPS

LAYOUT = "the ortho_vit layout"

MODULES = {
    "patchify": "vit.embeddings.patch_embeddings.projection",
    "attn.proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "classifier.0": "vit.layernorm",
    "classifier.1": "classifier",
}
CLS, POSITIONS = "vit.embeddings.cls_token", "vit.embeddings.position_embeddings"
QKV = re.compile(r"blocks\.(\d+)\.attn\.qkv\.(weight|bias)")
IN_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)\.(weight|bias)")
CONNECTION = re.compile(r"blocks\.(\d+)\.((?:attn|mlp)_connection\..+)")
END = re.compile(r"(begin|end)\..+")

# Four names of one function, GELU in its tanh form.
TANH_GELU = ("gelu_fast", "gelu_new", "gelu_pytorch_tanh", "gelu_python_tanh")

# What transformers assumes where a key of its ViT is absent, and Oh et al. where their key of the norms is.
DEFAULTS: dict[str, Any] = {
    "image_size": 224,
    "patch_size": 16,
    "num_channels": 3,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "qkv_bias": True,
    "elementwise_affine_ln": False,
}


def from_hub(state: Mapping[str, Tensor], config: Mapping[str, Any]) -> Trained:
    """A published state dict and its ``config.json``, as our ViT has them.

    Args:
        state: with the published names.
        config: the mapping in ``config.json``.

    Returns:
        Weights under our names; those that need no change are the given tensors.

    Raises:
        UsageError: for a key that is missing, unexpected or of another shape, and for what our ViT does not compute.
    """
    architecture = architecture_of(config)
    has_qkv_bias = bool(_value(config, "qkv_bias"))
    template = architecture.template()
    expected = to_hub(template, architecture)
    if not has_qkv_bias:
        expected = {key: value for key, value in expected.items() if not _is_qkv_bias(key)}
    check_weights(state, expected, "the ortho_vit state dict")
    cls_token, positions, has_row = without_row(state[CLS], state[POSITIONS])
    weights: dict[str, Tensor] = {}
    for key, shape in template.items():
        if key == "cls_token":
            weights[key] = cls_token
        elif key == "pos_embed":
            weights[key] = positions
        elif QKV.fullmatch(key) and key.endswith("bias") and not has_qkv_bias:
            weights[key] = torch.zeros(shape.shape, dtype=positions.dtype)
        elif QKV.fullmatch(key):
            weights[key] = torch.cat([state[name] for name in _qkv_names(key)])
        else:
            weights[key] = state[_name(key, architecture.depth)]
    notes = []
    if has_row:
        notes.append(
            "the position of the class token is not zero; it was added to the class token, which is the same sum"
        )
    if not has_qkv_bias:
        notes.append("queries, keys and values have no bias there; here they have one of zero")
    return Trained(architecture=architecture, weights=weights, labels=_labels_of(config), notes=tuple(notes))


def to_hub(weights: Mapping[str, Tensor], architecture: Architecture) -> dict[str, Tensor]:
    """Weights of our ViT under the published names.

    Raises:
        UsageError: for a part that the published layout has no place for.
    """
    architecture.refuse_parts(LAYOUT, "registers", "layer_scale", "qk_norm", "mean pool")
    state: dict[str, Tensor] = {}
    for key, tensor in weights.items():
        if key == "cls_token":
            state[CLS] = tensor
        elif key == "pos_embed":
            state[POSITIONS] = with_row(tensor)
        elif QKV.fullmatch(key):
            state.update(zip(_qkv_names(key), tensor.chunk(3), strict=True))
        else:
            state[_name(key, architecture.depth)] = tensor
    return state


def architecture_of(config: Mapping[str, Any]) -> Architecture:
    """The architecture that a ``config.json`` describes.

    Raises:
        UsageError: for what our ViT does not compute, such as the exact GELU.
    """
    activation, eps = _value(config, "hidden_act"), _value(config, "layer_norm_eps")
    if activation not in TANH_GELU:
        raise UsageError(
            f"hidden_act is {activation!r}, and our ViT has the tanh form of GELU ({', '.join(TANH_GELU)}); "
            "load this folder with orthostream.hub instead of converting it"
        )
    if eps != BLOCK_NORM_EPS:
        raise UsageError(
            f"layer_norm_eps is {eps:g}, and the blocks of our ViT norm with {BLOCK_NORM_EPS:g}; "
            "load this folder with orthostream.hub instead of converting it"
        )
    side, depth = _value(config, "image_size"), _value(config, "num_hidden_layers")
    labels = config.get("id2label")
    return Architecture(
        num_classes=len(labels) if labels is not None else config.get("num_labels", 2),
        image_size=(side, side) if isinstance(side, int) else (side[0], side[1]),
        patch_size=_value(config, "patch_size"),
        in_channels=_value(config, "num_channels"),
        embed_dim=_value(config, "hidden_size"),
        depth=depth,
        num_heads=_value(config, "num_attention_heads"),
        hidden_features=_value(config, "intermediate_size"),
        rules=(rule_of(config),) * (2 * depth),
        affine_norm=_value(config, "elementwise_affine_ln"),
        final_norm_eps=config.get("final_layer_norm_eps") or eps,
    )


def config_of(
    architecture: Architecture, labels: Sequence[str] | None = None, dtype: torch.dtype = torch.float32
) -> dict[str, Any]:
    """The ``config.json`` of an architecture.

    Args:
        architecture: of the weights that lie beside it.
        labels: names of the classes; ``LABEL_0`` and so on where left out.
        dtype: of the weights.

    Raises:
        UsageError: for a connection or a part that the published layout has no words for.
    """
    architecture.refuse_parts(LAYOUT, "registers", "layer_scale", "qk_norm", "mean pool")
    names = list(labels or [f"LABEL_{number}" for number in range(architecture.num_classes)])
    if len(names) != architecture.num_classes:
        raise UsageError(f"{len(names)} class names were given for {architecture.num_classes} classes")
    height, width = architecture.image_size
    return {
        "architectures": ["OrthoViTForImageClassification"],
        "model_type": "ortho_vit",
        "image_size": height if height == width else [height, width],
        "patch_size": architecture.patch_size,
        "num_channels": architecture.in_channels,
        "hidden_size": architecture.embed_dim,
        "num_hidden_layers": architecture.depth,
        "num_attention_heads": architecture.num_heads,
        "intermediate_size": architecture.hidden_features,
        "hidden_act": "gelu_fast",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "initializer_range": 0.02,
        "layer_norm_eps": BLOCK_NORM_EPS,
        "final_layer_norm_eps": architecture.final_norm_eps,
        "qkv_bias": True,
        "encoder_stride": architecture.patch_size,
        "elementwise_affine_ln": architecture.affine_norm,
        **keys_of(architecture.one_rule(LAYOUT), LAYOUT),
        "residual_perturbation": None,
        "id2label": {str(number): name for number, name in enumerate(names)},
        "label2id": {name: number for number, name in enumerate(names)},
        "dtype": str(dtype).removeprefix("torch."),
    }


def _labels_of(config: Mapping[str, Any]) -> tuple[str, ...] | None:
    labels = config.get("id2label")
    if labels is None:
        return None
    by_number = {int(number): str(name) for number, name in labels.items()}
    if sorted(by_number) != list(range(len(by_number))):
        raise UsageError(f"id2label of config.json must number the classes from 0 on, got {sorted(by_number)[:8]}")
    return tuple(by_number[number] for number in range(len(by_number)))


def _value(config: Mapping[str, Any], key: str) -> Any:
    return config.get(key, DEFAULTS[key])


def _name(key: str, depth: int) -> str:
    """The published name of one of our keys that needs no other change."""
    if match := CONNECTION.fullmatch(key):
        return f"vit.encoder.layer.{match[1]}.{match[2]}"
    if match := END.fullmatch(key):
        return f"vit.encoder.layer.{0 if match[1] == 'begin' else depth - 1}.{key}"
    if match := IN_BLOCK.fullmatch(key):
        block, module, kind = match.groups()
        if module in MODULES:
            return f"vit.encoder.layer.{block}.{MODULES[module]}.{kind}"
    module, _, kind = key.rpartition(".")
    if module in MODULES:
        return f"{MODULES[module]}.{kind}"
    raise UsageError(f"{LAYOUT} has no place for {key}; keep this model in the training layout")


def _qkv_names(key: str) -> list[str]:
    match = QKV.fullmatch(key)
    assert match is not None
    block, kind = match.groups()
    return [f"vit.encoder.layer.{block}.attention.attention.{part}.{kind}" for part in ("query", "key", "value")]


def _is_qkv_bias(key: str) -> bool:
    return ".attention.attention." in key and key.endswith(".bias")
