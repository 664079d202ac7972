"""The config of a vision transformer with linear or orthogonal residual connections (arXiv:2505.11881).

Self-contained: needs torch and transformers. The library orthostream loads the same folder without this file, has
fused operations and all other connections: pip install 'orthostream[hub]', then import orthostream.hub.
"""

from typing import Any

from transformers import PretrainedConfig

ELSEWHERE = "this file does not implement it; load the folder with orthostream: import orthostream.hub"

# Spellings of files written before 2025-10-01.
OLD_CONNECTIONS = {"identity": "linear"}
OLD_METHODS = {"channel": "feature"}

TANH_GELU = ("gelu_fast", "gelu_new", "gelu_pytorch_tanh", "gelu_python_tanh")


class OrthoViTConfig(PretrainedConfig):
    """Sizes of the ViT, and the residual connection of its blocks.

    Args:
        hidden_size: width of the stream.
        num_hidden_layers: how many blocks.
        num_attention_heads: heads; must divide the width.
        intermediate_size: width inside the MLP.
        hidden_act: ``gelu``, or its tanh form under one of its names.
        hidden_dropout_prob: at the end of both branches, in training.
        attention_probs_dropout_prob: of attention weights, in training.
        initializer_range: standard deviation of new weights.
        layer_norm_eps: of the norms in blocks.
        final_layer_norm_eps: of the norm after the last block; ``None`` for ``layer_norm_eps``.
        image_size: pixels a side, or (height, width).
        patch_size: pixels a side of a patch.
        num_channels: channels of the images.
        qkv_bias: whether queries, keys and values have a bias.
        elementwise_affine_ln: whether norms in blocks have a gain and a bias.
        residual_connection: ``linear`` or ``orthogonal``.
        orthogonal_method: ``feature`` projects over the axis ``residual_connection_dim`` alone, ``global`` over all
            axes from it on.
        residual_connection_dim: an axis of [batch, tokens, features].
        residual_eps: added to the squared norm.
        residual_options: must be empty.
        residual_perturbation: must be ``None``.

    Raises:
        ValueError: for anything that the model beside this file does not compute.
    """

    model_type = "ortho_vit"

    def __init__(
        self,
        hidden_size: int = 768,
        num_hidden_layers: int = 12,
        num_attention_heads: int = 12,
        intermediate_size: int = 3072,
        hidden_act: str = "gelu",
        hidden_dropout_prob: float = 0.0,
        attention_probs_dropout_prob: float = 0.0,
        initializer_range: float = 0.02,
        layer_norm_eps: float = 1e-12,
        final_layer_norm_eps: float | None = None,
        image_size: int | list[int] = 224,
        patch_size: int = 16,
        num_channels: int = 3,
        qkv_bias: bool = True,
        elementwise_affine_ln: bool = False,
        residual_connection: str = "linear",
        orthogonal_method: str = "feature",
        residual_connection_dim: int = -1,
        residual_eps: float = 1e-6,
        residual_options: dict[str, Any] | None = None,
        residual_perturbation: float | None = None,
        **others: Any,
    ) -> None:
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.intermediate_size = intermediate_size
        self.hidden_act = hidden_act
        self.hidden_dropout_prob = hidden_dropout_prob
        self.attention_probs_dropout_prob = attention_probs_dropout_prob
        self.initializer_range = initializer_range
        self.layer_norm_eps = layer_norm_eps
        self.final_layer_norm_eps = final_layer_norm_eps
        self.image_size = image_size
        self.patch_size = patch_size
        self.num_channels = num_channels
        self.qkv_bias = qkv_bias
        self.elementwise_affine_ln = elementwise_affine_ln
        self.residual_connection = OLD_CONNECTIONS.get(residual_connection, residual_connection)
        self.orthogonal_method = OLD_METHODS.get(orthogonal_method, orthogonal_method)
        self.residual_connection_dim = residual_connection_dim
        self.residual_eps = residual_eps
        self.residual_options = residual_options
        self.residual_perturbation = residual_perturbation
        for key in others:
            if key.startswith(("residual_", "orthogonal_")):
                raise ValueError(f"the config has the key {key!r}; {ELSEWHERE}")
        self._refuse()
        super().__init__(**others)

    @property
    def projection_axes(self) -> tuple[int, ...]:
        """Axes of the inner products of the orthogonal connection on [batch, tokens, features].

        Raises:
            ValueError: where the batch would be among them.
        """
        first = self.residual_connection_dim % 3 if -3 <= self.residual_connection_dim < 3 else 0
        if first == 0:
            raise ValueError(
                f"residual_connection_dim={self.residual_connection_dim} is the batch, or no axis of "
                "[batch, tokens, features]; expected -1 for the features, or 1 for the tokens"
            )
        return (first,) if self.orthogonal_method == "feature" else tuple(range(first, 3))

    def _refuse(self) -> None:
        if self.residual_connection not in ("linear", "orthogonal"):
            raise ValueError(f"residual_connection={self.residual_connection!r}: {ELSEWHERE}")
        if self.orthogonal_method not in ("feature", "global"):
            raise ValueError(f"orthogonal_method={self.orthogonal_method!r}; expected feature or global")
        if self.residual_options:
            raise ValueError(f"residual_options={self.residual_options}: {ELSEWHERE}")
        if self.residual_perturbation is not None:
            raise ValueError(f"residual_perturbation={self.residual_perturbation} belongs to training; set it to null")
        if self.hidden_act != "gelu" and self.hidden_act not in TANH_GELU:
            raise ValueError(f"hidden_act={self.hidden_act!r}: {ELSEWHERE}")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size={self.hidden_size} does not divide into num_attention_heads={self.num_attention_heads}"
            )
        _ = self.projection_axes
