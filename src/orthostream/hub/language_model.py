"""OrthoLlama as the trainer has its models: tokens to logits, with sites, features and any connection."""

from typing import Any, cast

import torch
from torch import Tensor

from orthostream.connections import Choice, Connection, wire
from orthostream.errors import UsageError
from orthostream.hub.configuration import OrthoLlamaConfig
from orthostream.hub.layer import ConnectedLayer
from orthostream.hub.llama import OrthoLlamaForCausalLM
from orthostream.models.base import Model
from orthostream.models.checks import check_counts, check_fractions
from orthostream.models.vit import vit_sites
from orthostream.shapes import describe

# Llama's gated MLP has three matrices; 8/3 of the width makes it as large as one of two matrices at 4.
MLP_RATIO, MLP_MULTIPLE = (8, 3), 32


class LanguageModel(Model):
    """A causal Llama that predicts, at each token, the one that follows.

    ``tokens -> embedding -> expand -> blocks -> reduce -> RMSNorm -> Linear``, a block being attention with rotary
    positions and a gated MLP, each behind an RMSNorm. The parts are those of transformers, under the names of
    :class:`~orthostream.hub.OrthoLlamaForCausalLM`: with the connection ``linear`` it is ``LlamaForCausalLM``. The
    embedding and the head are not tied.

    Args:
        num_classes: how many tokens there are.
        connection: which rule stands at which site, as :func:`orthostream.connections.wire` takes it; one that lets a
            token see later ones is refused.
        context: tokens that it is trained on at a time; what a config calls ``max_position_embeddings``.
        embed_dim: width of the stream.
        depth: how many blocks, each with two sites.
        num_heads: attention heads; must divide ``embed_dim``.
        num_kv_heads: heads of keys and values; must divide ``num_heads``. ``None`` for as many.
        mlp_features: hidden width of the MLP. ``None`` for 8/3 of the width, rounded up to a multiple of 32.
        rope_theta: base of the rotary positions' wavelengths.
        norm_eps: of every RMSNorm.
        init_std: standard deviation of all new matrices.
        attention_dropout: share of attention weights dropped in training.
        gradient_checkpointing: compute each block again in the backward pass instead of keeping its activations.

    Raises:
        UsageError: for a value out of range, numbers that do not divide, or a connection that mixes tokens.

    Example:
        >>> model = LanguageModel(num_classes=16, connection="orthogonal", context=8, embed_dim=8, depth=1, num_heads=2)
        >>> model(torch.tensor([[3, 1, 4, 1, 5]])).shape
        torch.Size([1, 16, 5])

    Reference:
        Touvron et al., LLaMA, arXiv:2302.13971; the connections of Oh et al., arXiv:2505.11881.
    """

    family = "llama"

    def __init__(
        self,
        *,
        num_classes: int,
        connection: Choice,
        context: int,
        embed_dim: int,
        depth: int,
        num_heads: int,
        num_kv_heads: int | None = None,
        mlp_features: int | None = None,
        rope_theta: float = 10_000.0,
        norm_eps: float = 1e-6,
        init_std: float = 0.02,
        attention_dropout: float = 0.0,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        key_heads = num_heads if num_kv_heads is None else num_kv_heads
        hidden = _hidden_features(embed_dim) if mlp_features is None else mlp_features
        check_counts(num_classes=num_classes, context=context, embed_dim=embed_dim, depth=depth, num_heads=num_heads)
        check_counts(num_kv_heads=key_heads, mlp_features=hidden)
        check_fractions(attention_dropout=attention_dropout)
        _check_heads(embed_dim, num_heads, key_heads)
        if not (init_std > 0 and rope_theta > 1 and norm_eps > 0):
            raise UsageError(
                f"init_std={init_std} and norm_eps={norm_eps} must be above 0, rope_theta={rope_theta} above 1"
            )
        self.sites = vit_sites(embed_dim, depth)
        wiring = wire(connection, self.sites)
        for name, each in wiring.at.items():
            if each.mixes_tokens:
                raise UsageError(
                    f"{each} at {name} takes its inner products over tokens, so that a character would be predicted "
                    "from those after it; a language model takes them over the features: connection.dim=-1, or left out"
                )
        sizes: dict[str, Any] = {
            "vocab_size": num_classes,
            "hidden_size": embed_dim,
            "intermediate_size": hidden,
            "num_hidden_layers": depth,
            "num_attention_heads": num_heads,
            "num_key_value_heads": key_heads,
            "max_position_embeddings": context,
            "rope_theta": float(rope_theta),
            "rms_norm_eps": norm_eps,
            "initializer_range": init_std,
            "attention_dropout": attention_dropout,
            # Characters have no marks of beginning and end.
            "bos_token_id": None,
            "eos_token_id": None,
        }
        # Made without values, which reset_parameters draws once, as after any meta construction.
        with torch.device("meta"):
            causal = OrthoLlamaForCausalLM(OrthoLlamaConfig(**sizes))
        self.model, self.lm_head = causal.model, causal.lm_head
        for block, layer in enumerate(self.model.layers):
            cast(ConnectedLayer, layer).connect(wiring, block, depth)
        if gradient_checkpointing:
            self.model.activation_checkpointing_enable({"use_reentrant": False})
        if torch.get_default_device().type != "meta":
            self.to_empty(device=torch.get_default_device())
            self.reset_parameters()

    @property
    def begin(self) -> Connection:  # type: ignore[override]
        """The connection that expands; the first block holds it."""
        return cast(Connection, cast(ConnectedLayer, self.model.layers[0]).begin)

    @property
    def end(self) -> Connection:  # type: ignore[override]
        """The connection that reduces; the last block holds it."""
        return cast(Connection, cast(ConnectedLayer, self.model.layers[-1]).end)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits [batch, num_classes, tokens] of ``tokens`` [batch, tokens], int64; classes are axis 1 as in torch.

        Raises:
            UsageError: for anything but whole numbers in two axes.
        """
        logits: Tensor = self.lm_head(self.features(tokens))
        return logits.transpose(1, 2)

    def features(self, tokens: Tensor) -> Tensor:
        """The reduced stream after the last block and the final norm [batch, tokens, embed_dim]."""
        if tokens.ndim != 2 or tokens.is_floating_point():
            raise UsageError(f"tokens must be [batch, tokens] of dtype int64, got {describe(tokens)}")
        hidden: Tensor = self.model(input_ids=tokens, use_cache=False).last_hidden_state
        return hidden

    def reset_parameters(self) -> None:
        """Set every parameter and buffer as a new model has them; needed after meta construction."""
        # transformers' own rules, by the kind of each module, children first.
        self.apply(self.model._init_weights)


def _hidden_features(embed_dim: int) -> int:
    factor, divisor = MLP_RATIO
    return -(-embed_dim * factor // (divisor * MLP_MULTIPLE)) * MLP_MULTIPLE


def _check_heads(embed_dim: int, num_heads: int, key_heads: int) -> None:
    if embed_dim % num_heads or (embed_dim // num_heads) % 2:
        raise UsageError(
            f"embed_dim={embed_dim} must divide into num_heads={num_heads} heads of equal, even width, since rotary "
            "positions turn pairs of features"
        )
    if num_heads % key_heads:
        raise UsageError(f"num_heads={num_heads} must be a multiple of num_kv_heads={key_heads}")
