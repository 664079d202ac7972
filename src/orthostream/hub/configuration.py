"""Configs of the Hugging Face models: those of ViT and Llama, with the keys of the residual connection."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import LlamaConfig, ViTConfig

from orthostream.hub.residual import ResidualKeys


@strict
class OrthoViTConfig(ResidualKeys, ViTConfig):
    """A ViT with a residual connection; keys of ``ViTConfig`` and those of :class:`~.residual.ResidualKeys`.

    The defaults of ``ViTConfig`` do not describe the published models, which have ``hidden_act="gelu_fast"`` and
    ``layer_norm_eps=1e-6``; their files say so.

    Args:
        elementwise_affine_ln: whether the norms before attention and MLP have a gain and a bias.
        final_layer_norm_eps: of the norm after the last block; ``None`` for ``layer_norm_eps``. Models trained with
            orthostream have 1e-5 there and 1e-6 in the blocks.

    Raises:
        UsageError: as for :class:`~.residual.ResidualKeys`.

    Example:
        >>> OrthoViTConfig(residual_connection="orthogonal", orthogonal_method="channel").orthogonal_method
        'feature'

    Reference:
        The published ``ortho_vit`` files of arXiv:2505.11881; ``final_layer_norm_eps`` is ours.
    """

    model_type = "ortho_vit"

    elementwise_affine_ln: bool = False
    final_layer_norm_eps: float | int | None = None

    def __post_init__(self, **others: Any) -> None:
        super().__post_init__(**others)


@strict
class OrthoLlamaConfig(ResidualKeys, LlamaConfig):
    """A Llama with a residual connection; keys of ``LlamaConfig`` and those of :class:`~.residual.ResidualKeys`.

    A connection that lets a token see later ones is refused where the model is made.

    Raises:
        UsageError: as for :class:`~.residual.ResidualKeys`.

    Example:
        >>> OrthoLlamaConfig(residual_connection="orthogonal", rope_theta=5e5).rope_parameters["rope_theta"]
        500000.0

    Reference:
        The published ``ortho_llama`` files of arXiv:2505.11881.
    """

    model_type = "ortho_llama"
