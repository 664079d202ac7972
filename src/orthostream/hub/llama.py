"""Llama with residual connections as a transformers model: its own parts, with a connection where it adds."""

from typing import Any

from torch import nn
from transformers.models.llama.modeling_llama import (
    LlamaDecoderLayer,
    LlamaForCausalLM,
    LlamaModel,
    LlamaPreTrainedModel,
    LlamaRMSNorm,
    LlamaRotaryEmbedding,
)

from orthostream.connections import Wiring
from orthostream.errors import UsageError
from orthostream.hub.attention import refuse_lost_weights
from orthostream.hub.configuration import OrthoLlamaConfig
from orthostream.hub.layer import ConnectedLayer
from orthostream.hub.loading import StrictLoading
from orthostream.hub.residual import wire_trunk
from orthostream.shapes import Stream


class OrthoLlamaDecoderLayer(ConnectedLayer, LlamaDecoderLayer):
    """One block of Llama with a connection in the place of each addition."""

    def __init__(self, config: OrthoLlamaConfig, wiring: Wiring, block: int) -> None:
        super().__init__(config, block)
        self.connect(wiring, block, config.num_hidden_layers)

    def forward(self, hidden_states: Stream, **options: Any) -> Stream:
        refuse_lost_weights(self.self_attn.config, options)
        return self.run(
            hidden_states,
            self.input_layernorm,
            lambda x: self.self_attn(x, **options)[0],
            self.post_attention_layernorm,
            self.mlp,
        )


class OrthoLlamaModel(StrictLoading, LlamaModel):
    """Llama without a head: embeddings, blocks, final norm. ``forward`` is that of ``LlamaModel``.

    Hidden states between the blocks of a connection with several streams are [batch, tokens, streams, features].

    Args:
        config: sizes and connection.

    Raises:
        UsageError: for a connection that lets a token see later ones, or options that it does not have.

    Example:
        >>> import torch
        >>> config = OrthoLlamaConfig(
        ...     vocab_size=16, hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        ...     residual_connection="orthogonal",
        ... )
        >>> OrthoLlamaModel(config)(torch.tensor([[3, 1, 4]])).last_hidden_state.shape
        torch.Size([1, 3, 8])

    Reference:
        The published ``ortho_llama`` files of arXiv:2505.11881.
    """

    config: OrthoLlamaConfig
    _no_split_modules = ("OrthoLlamaDecoderLayer",)
    left_behind = ("lm_head.",)

    def __init__(self, config: OrthoLlamaConfig) -> None:
        # Llama's own would make all its layers first, only for them to be replaced.
        LlamaPreTrainedModel.__init__(self, config)
        wiring = wire_trunk(config)
        _refuse_later_tokens(wiring, config)
        self.padding_idx, self.vocab_size = config.pad_token_id, config.vocab_size
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, self.padding_idx)
        self.layers = nn.ModuleList(
            OrthoLlamaDecoderLayer(config, wiring, block) for block in range(config.num_hidden_layers)
        )
        self.norm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.rotary_emb = LlamaRotaryEmbedding(config=config)
        self.gradient_checkpointing = False
        self.post_init()


class OrthoLlamaForCausalLM(StrictLoading, LlamaForCausalLM):
    """Llama with the head that predicts the next token. ``forward`` and ``generate`` are those of ``LlamaForCausalLM``.

    Args:
        config: sizes and connection.

    Raises:
        UsageError: as for :class:`OrthoLlamaModel`.

    Example:
        >>> config = OrthoLlamaConfig(
        ...     vocab_size=16, hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
        ... )
        >>> OrthoLlamaForCausalLM(config).lm_head
        Linear(in_features=8, out_features=16, bias=False)

    Reference:
        The published ``ortho_llama`` files of arXiv:2505.11881.
    """

    config: OrthoLlamaConfig
    _no_split_modules = ("OrthoLlamaDecoderLayer",)

    def __init__(self, config: OrthoLlamaConfig) -> None:
        LlamaPreTrainedModel.__init__(self, config)
        self.model = OrthoLlamaModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()


def _refuse_later_tokens(wiring: Wiring, config: OrthoLlamaConfig) -> None:
    for name, connection in wiring.at.items():
        if connection.mixes_tokens:
            raise UsageError(
                f"{connection} at {name} takes its inner products over tokens: earlier logits would depend on later "
                "tokens, and a KV cache could not be used. A causal model takes them over the features; "
                f"set residual_connection_dim=-1, got {config.residual_connection_dim} "
                f"with orthogonal_method={config.orthogonal_method!r}"
            )
