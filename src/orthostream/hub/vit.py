"""The ViT with residual connections as a transformers model, under the parameter names of the published files."""

from typing import Any

from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling, ImageClassifierOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.vit.modeling_vit import (
    ViTEmbeddings,
    ViTPooler,
    ViTPreTrainedModel,
    eager_attention_forward,
)
from transformers.utils import can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from orthostream.connections import Wiring
from orthostream.errors import UsageError
from orthostream.hub.attention import refuse_lost_weights
from orthostream.hub.configuration import OrthoViTConfig
from orthostream.hub.layer import ConnectedLayer
from orthostream.hub.loading import StrictLoading
from orthostream.hub.residual import wire_trunk
from orthostream.shapes import Stream


class OrthoViTSelfAttention(nn.Module):
    """Queries, keys and values in three projections, and the attention that the config names."""

    is_causal = False

    def __init__(self, config: OrthoViTConfig) -> None:
        super().__init__()
        features, heads = config.hidden_size, config.num_attention_heads
        if features % heads:
            raise UsageError(
                f"hidden_size={features} does not divide into num_attention_heads={heads} heads of equal width; "
                "choose a width that is a multiple of the heads"
            )
        self.config = config
        self.head_features = features // heads
        self.query = nn.Linear(features, features, bias=config.qkv_bias)
        self.key = nn.Linear(features, features, bias=config.qkv_bias)
        self.value = nn.Linear(features, features, bias=config.qkv_bias)

    def forward(self, x: Tensor, **options: Any) -> tuple[Tensor, Tensor | None]:
        """Mixed values, of the shape of ``x`` [batch, tokens, features], and the weights where they exist."""

        def by_head(projection: nn.Linear) -> Tensor:
            return projection(x).unflatten(-1, (-1, self.head_features)).transpose(1, 2)

        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        mixed, weights = attend(
            self,
            by_head(self.query),
            by_head(self.key),
            by_head(self.value),
            None,
            dropout=self.config.attention_probs_dropout_prob if self.training else 0.0,
            scaling=self.head_features**-0.5,
            **options,
        )
        return mixed.flatten(-2), weights


class OrthoViTProjection(nn.Module):
    """A linear map and dropout: the end of a branch."""

    def __init__(self, in_features: int, config: OrthoViTConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(in_features, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.dense(x))


class OrthoViTAttention(nn.Module):
    """The attention branch: self-attention and its projection."""

    def __init__(self, config: OrthoViTConfig) -> None:
        super().__init__()
        self.attention = OrthoViTSelfAttention(config)
        self.output = OrthoViTProjection(config.hidden_size, config)

    def forward(self, x: Tensor, **options: Any) -> Tensor:
        return self.output(self.attention(x, **options)[0])


class OrthoViTIntermediate(nn.Module):
    """The wide half of the MLP branch."""

    def __init__(self, config: OrthoViTConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACT2FN[config.hidden_act]

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.dense(x))


class OrthoViTLayer(ConnectedLayer, GradientCheckpointingLayer):
    """One block: attention, then MLP, each behind a norm and in front of a connection."""

    def __init__(self, config: OrthoViTConfig, wiring: Wiring, block: int) -> None:
        super().__init__()

        def norm() -> nn.LayerNorm:
            return nn.LayerNorm(
                config.hidden_size, eps=config.layer_norm_eps, elementwise_affine=config.elementwise_affine_ln
            )

        self.layernorm_before = norm()
        self.attention = OrthoViTAttention(config)
        self.layernorm_after = norm()
        self.intermediate = OrthoViTIntermediate(config)
        self.output = OrthoViTProjection(config.intermediate_size, config)
        self.connect(wiring, block, config.num_hidden_layers)

    def forward(self, stream: Stream, **options: Any) -> Stream:
        return self.run(
            stream,
            self.layernorm_before,
            lambda x: self.attention(x, **options),
            self.layernorm_after,
            lambda x: self.output(self.intermediate(x)),
        )


class OrthoViTEncoder(nn.Module):
    """The trunk; its name stands in the published files."""

    def __init__(self, config: OrthoViTConfig) -> None:
        super().__init__()
        wiring = wire_trunk(config)
        self.layer = nn.ModuleList(OrthoViTLayer(config, wiring, block) for block in range(config.num_hidden_layers))

    def forward(self, tokens: Tensor, **options: Any) -> Tensor:
        for layer in self.layer:
            tokens = layer(tokens, **options)
        return tokens


class OrthoViTPreTrainedModel(StrictLoading, ViTPreTrainedModel):
    """What all ViT classes share: config, strict loading, where hidden states and attention weights are taken."""

    config: OrthoViTConfig
    _no_split_modules = ("ViTEmbeddings", "OrthoViTLayer")
    _can_record_outputs = {"hidden_states": OrthoViTLayer, "attentions": OrthoViTSelfAttention}  # noqa: RUF012


class OrthoViTModel(OrthoViTPreTrainedModel):
    """The ViT without a head: embeddings, blocks, final norm, and a pooler.

    Args:
        config: sizes and connection.
        add_pooling_layer: whether the class token passes a linear map and an activation at the end. Files of
            classifiers hold no pooler; give ``False`` to load them here.

    Raises:
        UsageError: for heads that do not divide the width, or options that the connection does not have.

    Example:
        >>> import torch
        >>> config = OrthoViTConfig(
        ...     hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=8,
        ...     patch_size=4, residual_connection="orthogonal",
        ... )
        >>> OrthoViTModel(config)(torch.zeros(1, 3, 8, 8)).last_hidden_state.shape
        torch.Size([1, 5, 8])

    Reference:
        The published ``ortho_vit`` files of arXiv:2505.11881.
    """

    left_behind = ("classifier.",)

    def __init__(self, config: OrthoViTConfig, add_pooling_layer: bool = True) -> None:
        super().__init__(config)
        eps = config.layer_norm_eps if config.final_layer_norm_eps is None else config.final_layer_norm_eps
        self.embeddings = ViTEmbeddings(config)
        self.encoder = OrthoViTEncoder(config)
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=eps)
        self.pooler = ViTPooler(config) if add_pooling_layer else None
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self, pixel_values: Tensor, interpolate_pos_encoding: bool | None = None, **options: Any
    ) -> BaseModelOutputWithPooling:
        """Tokens after the final norm.

        Args:
            pixel_values: [batch, channels, height, width], cast to the dtype of the weights.
            interpolate_pos_encoding: accept images of another size, with positions resampled.
            options: ``output_hidden_states``, ``output_attentions`` (eager attention), ``return_dict``, and those of
                the attention implementation.

        Returns:
            ``last_hidden_state`` [batch, 1 + patches, features], ``pooler_output`` [batch, pooler features] and what
            was asked for. Hidden states are the embeddings and the stream after each block, before the final norm;
            between the blocks of a connection with several streams they are [batch, tokens, streams, features].
        """
        refuse_lost_weights(self.config, options)
        pixel_values = pixel_values.to(self.embeddings.patch_embeddings.projection.weight.dtype)
        tokens = self.embeddings(pixel_values, interpolate_pos_encoding=bool(interpolate_pos_encoding))
        tokens = self.layernorm(self.encoder(tokens, **options))
        return BaseModelOutputWithPooling(
            last_hidden_state=tokens, pooler_output=None if self.pooler is None else self.pooler(tokens)
        )


class OrthoViTForImageClassification(OrthoViTPreTrainedModel):
    """The ViT with a linear head on the class token.

    Args:
        config: sizes, connection and ``num_labels``; without labels the head is the identity.

    Raises:
        UsageError: as for :class:`OrthoViTModel`.

    Example:
        >>> config = OrthoViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
        >>> OrthoViTForImageClassification(config).classifier
        Linear(in_features=8, out_features=2, bias=True)

    Reference:
        The published ``ortho_vit`` files of arXiv:2505.11881.
    """

    def __init__(self, config: OrthoViTConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.vit = OrthoViTModel(config, add_pooling_layer=False)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels) if config.num_labels else nn.Identity()
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        interpolate_pos_encoding: bool | None = None,
        **options: Any,
    ) -> ImageClassifierOutput:
        """Logits, and the loss where labels are given.

        Args:
            pixel_values: [batch, channels, height, width].
            labels: [batch] classes; [batch, labels] zeros and ones for ``multi_label_classification``; numbers for
                ``regression``. ``config.problem_type`` says which; where it is not set, the dtype does.
            interpolate_pos_encoding: accept images of another size, with positions resampled.
            options: as for :meth:`OrthoViTModel.forward`.

        Returns:
            ``loss``, ``logits`` [batch, num_labels], and what was asked for.
        """
        # The config may ask for tuples: of this model, not of the one inside.
        outputs = self.vit(pixel_values, interpolate_pos_encoding=interpolate_pos_encoding, return_dict=True, **options)
        logits = self.classifier(outputs.last_hidden_state[:, 0])
        loss = None if labels is None else self.loss_function(labels, logits, self.config, **options)
        return ImageClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )
