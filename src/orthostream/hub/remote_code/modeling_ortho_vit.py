"""A vision transformer with linear or orthogonal residual connections, for inference and simple fine-tuning.

Orthogonal: ``y = x + u - s x`` with ``s = <x, u> / (<x, x> + eps)``, computed in float32 at least. Source: Oh et al.,
Orthogonal Residual Updates, NeurIPS 2025, arXiv:2505.11881, equations 3 to 5.

Self-contained: needs torch and transformers. What is not implemented here is refused, and a file whose weights differ
from those of the model is not loaded.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutput

from .configuration_ortho_vit import TANH_GELU, OrthoViTConfig


class Embeddings(nn.Module):
    """Images to tokens: the class token, then the patches, with their positions."""

    def __init__(self, config: OrthoViTConfig) -> None:
        super().__init__()
        size, patch = config.image_size, config.patch_size
        self.image_size = (size, size) if isinstance(size, int) else (size[0], size[1])
        patches = (self.image_size[0] // patch) * (self.image_size[1] // patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        self.position_embeddings = nn.Parameter(torch.zeros(1, 1 + patches, config.hidden_size))
        self.patch_embeddings = nn.ModuleDict(
            {"projection": nn.Conv2d(config.num_channels, config.hidden_size, patch, stride=patch)}
        )

    def forward(self, images: Tensor) -> Tensor:
        if tuple(images.shape[2:]) != self.image_size:
            raise ValueError(
                f"images of {tuple(images.shape[2:])} pixels were given, expected {self.image_size}; resize them, or "
                "load the folder with orthostream, which resamples positions"
            )
        patches = self.patch_embeddings["projection"](images).flatten(2).transpose(1, 2)
        return torch.cat([self.cls_token.expand(len(images), -1, -1), patches], dim=1) + self.position_embeddings


class SelfAttention(nn.Module):
    """Queries, keys and values, and what they mix."""

    def __init__(self, config: OrthoViTConfig) -> None:
        super().__init__()
        self.heads, self.dropout = config.num_attention_heads, config.attention_probs_dropout_prob
        self.query = nn.Linear(config.hidden_size, config.hidden_size, bias=config.qkv_bias)
        self.key = nn.Linear(config.hidden_size, config.hidden_size, bias=config.qkv_bias)
        self.value = nn.Linear(config.hidden_size, config.hidden_size, bias=config.qkv_bias)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            projection(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for projection in (self.query, self.key, self.value)
        )
        dropout = self.dropout if self.training else 0.0
        mixed = functional.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
        return mixed.transpose(1, 2).flatten(-2)


class Output(nn.Module):
    """The end of a branch."""

    def __init__(self, in_features: int, config: OrthoViTConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(in_features, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.dense(x))


class Attention(nn.Module):
    """The attention branch."""

    def __init__(self, config: OrthoViTConfig) -> None:
        super().__init__()
        self.attention = SelfAttention(config)
        self.output = Output(config.hidden_size, config)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.attention(x))


class Intermediate(nn.Module):
    """The wide half of the MLP branch."""

    def __init__(self, config: OrthoViTConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.approximate = "tanh" if config.hidden_act in TANH_GELU else "none"

    def forward(self, x: Tensor) -> Tensor:
        return functional.gelu(self.dense(x), approximate=self.approximate)


class Layer(nn.Module):
    """One block: attention, then MLP, each behind a norm; the connection adds what they return."""

    def __init__(self, config: OrthoViTConfig) -> None:
        super().__init__()

        def norm() -> nn.LayerNorm:
            return nn.LayerNorm(
                config.hidden_size, eps=config.layer_norm_eps, elementwise_affine=config.elementwise_affine_ln
            )

        self.layernorm_before, self.layernorm_after = norm(), norm()
        self.attention = Attention(config)
        self.intermediate = Intermediate(config)
        self.output = Output(config.intermediate_size, config)
        self.is_orthogonal = config.residual_connection == "orthogonal"
        self.axes, self.eps = config.projection_axes, config.residual_eps

    def forward(self, x: Tensor) -> Tensor:
        x = self.connect(x, self.attention(self.layernorm_before(x)))
        return self.connect(x, self.output(self.intermediate(self.layernorm_after(x))))

    def connect(self, x: Tensor, update: Tensor) -> Tensor:
        """The stream ``x`` after an update, both [batch, tokens, features]."""
        if not self.is_orthogonal:
            return x + update
        dtype = torch.promote_types(torch.promote_types(x.dtype, update.dtype), torch.float32)
        wide_x, wide_update = x.to(dtype), update.to(dtype)
        inner = (wide_x * wide_update).sum(self.axes, keepdim=True)
        scale = inner / ((wide_x * wide_x).sum(self.axes, keepdim=True) + self.eps)
        return (wide_x + wide_update - scale * wide_x).to(x.dtype)


class Encoder(nn.Module):
    """The blocks; its name stands in the file of the weights."""

    def __init__(self, config: OrthoViTConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))

    def forward(self, tokens: Tensor) -> tuple[Tensor, ...]:
        """The stream before the first block and after each."""
        stream = [tokens]
        for layer in self.layer:
            stream.append(layer(stream[-1]))
        return tuple(stream)


class Trunk(nn.Module):
    """Embeddings, blocks and the last norm."""

    def __init__(self, config: OrthoViTConfig) -> None:
        super().__init__()
        eps = config.layer_norm_eps if config.final_layer_norm_eps is None else config.final_layer_norm_eps
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config)
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=eps)

    def forward(self, images: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Tokens after the last norm, and the stream before the first block and after each."""
        stream = self.encoder(self.embeddings(images))
        return self.layernorm(stream[-1]), stream


class OrthoViTForImageClassification(PreTrainedModel):
    """The ViT with a linear head on the class token.

    Args:
        config: sizes and connection.

    Raises:
        ValueError: for an attention implementation other than sdpa.
    """

    config_class = OrthoViTConfig
    base_model_prefix = "vit"
    main_input_name = "pixel_values"
    _no_split_modules = ("Embeddings", "Layer")
    _supports_sdpa = True

    def __init__(self, config: OrthoViTConfig) -> None:
        super().__init__(config)
        if config._attn_implementation != "sdpa":
            raise ValueError(
                f"attn_implementation={config._attn_implementation!r} was asked for, and this file has 'sdpa' alone; "
                "leave it out, or load the folder with orthostream"
            )
        self.num_labels = config.num_labels
        self.vit = Trunk(config)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """Logits, and the cross entropy where labels are given.

        Args:
            pixel_values: [batch, channels, height, width], cast to the dtype of the weights.
            labels: [batch] classes.
            output_hidden_states: return the embeddings and the stream after each block, before the last norm.
            output_attentions: must be left out.
            return_dict: ``False`` for a tuple.

        Returns:
            ``loss``, ``logits`` [batch, num_labels] and ``hidden_states``, where they exist.

        Raises:
            ValueError: for attention weights, or another loss than that of one class an image.
        """
        if output_attentions or self.config.output_attentions:
            raise ValueError("attention weights are not computed here; load the folder with orthostream")
        if labels is not None and self.config.problem_type not in (None, "single_label_classification"):
            raise ValueError(f"the loss of {self.config.problem_type!r} is not implemented here; use orthostream")
        if labels is not None and (labels.ndim != 1 or labels.is_floating_point()):
            raise ValueError(f"labels must be [batch] classes, got {labels.dtype} of shape {tuple(labels.shape)}")
        tokens, stream = self.vit(pixel_values.to(self.classifier.weight.dtype))
        logits = self.classifier(tokens[:, 0])
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        output = ImageClassifierOutput(
            loss=None if labels is None else functional.cross_entropy(logits.float(), labels),
            logits=logits,
            hidden_states=stream if output_hidden_states else None,
        )
        return output.to_tuple() if return_dict is False else output

    @classmethod
    def from_pretrained(cls, *args: Any, output_loading_info: bool = False, **options: Any) -> Any:
        """As in transformers, but weights that are missing in the file, or unknown to the model, are an error.

        Raises:
            ValueError: naming them.
        """
        model, info = super().from_pretrained(*args, output_loading_info=True, **options)
        missing, unexpected = sorted(info["missing_keys"]), sorted(info["unexpected_keys"])
        if missing or unexpected:
            raise ValueError(
                f"the weights do not fit this model; missing: {missing}, unexpected: {unexpected}; check config.json "
                "against model.safetensors"
            )
        return (model, info) if output_loading_info else model

    def _init_weights(self, module: nn.Module) -> None:
        std = self.config.initializer_range
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.trunc_normal_(module.weight, std=std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm) and module.elementwise_affine:
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, Embeddings):
            nn.init.zeros_(module.cls_token)
            nn.init.trunc_normal_(module.position_embeddings, std=std)
