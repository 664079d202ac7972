"""One block of the vision transformer: attention and MLP, each behind a norm and in front of a connection."""

from torch import Tensor, nn
from torch.nn import functional

from orthostream.connections import Connection
from orthostream.errors import UsageError
from orthostream.models.regularise import before_write
from orthostream.ops.autocast import autocast_dtype
from orthostream.shapes import Stream

BLOCK_NORM_EPS = 1e-6


class Attention(nn.Module):
    """Multi-head self-attention over tokens, with one fused projection for queries, keys and values.

    Args:
        features: width of the tokens.
        num_heads: how many heads share it; must divide it.
        qk_norm: whether queries and keys pass a LayerNorm over the width of a head (arXiv:2302.05442).

    Raises:
        UsageError: where heads do not divide the width.
    """

    def __init__(self, features: int, num_heads: int, *, qk_norm: bool = False) -> None:
        super().__init__()
        if features % num_heads:
            raise UsageError(
                f"embed_dim={features} does not divide into num_heads={num_heads} heads of equal width "
                f"({features} / {num_heads} = {features / num_heads:g}); choose a width that is a multiple of the heads"
            )
        self.num_heads, self.head_features = num_heads, features // num_heads
        self.qkv = nn.Linear(features, 3 * features)
        self.proj = nn.Linear(features, features)
        self.query_norm = nn.LayerNorm(self.head_features, eps=BLOCK_NORM_EPS) if qk_norm else nn.Identity()
        self.key_norm = nn.LayerNorm(self.head_features, eps=BLOCK_NORM_EPS) if qk_norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """``x`` and the result are [batch, tokens, features]."""
        batch, tokens, features = x.shape
        split = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, self.head_features)
        # each [batch, heads, tokens, head features]
        query, key, value = split.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = functional.scaled_dot_product_attention(self.query_norm(query), self.key_norm(key), value)
        return self.proj(mixed.transpose(1, 2).reshape(batch, tokens, features))


class Mlp(nn.Module):
    """Two linear maps around a GELU in its tanh form, with dropout after the GELU and after the second map.

    Args:
        features: width of the tokens.
        hidden_features: width between the two maps.
        dropout: share of values dropped in training.
    """

    def __init__(self, features: int, hidden_features: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.fc1 = nn.Linear(features, hidden_features)
        self.act = nn.GELU(approximate="tanh")
        self.fc2 = nn.Linear(hidden_features, features)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """``x`` and the result are [batch, tokens, features]."""
        return self.dropout(self.fc2(self.dropout(self.act(self.fc1(x)))))


class Block(nn.Module):
    """Attention, then MLP, each a branch that meets the stream at its own site.

    The write of attention and the norm of the MLP are one ``write_read``; the write of the MLP and the norm of the next
    block stay two, since that norm belongs to another module, which may be sharded or checkpointed on its own.

    Args:
        attn: the attention branch, without its norm.
        mlp: the MLP branch, without its norm.
        attn_connection: the rule at the site of attention.
        mlp_connection: the rule at the site of the MLP.
        features: width of the tokens.
        affine_norm: whether the two norms have a gain and a bias.
        layer_scale: first value of LayerScale; ``None`` for none.
        drop_path: share of samples whose update is dropped in training.
        perturbation: scale of the noise on updates in training; ``None`` for none.
    """

    def __init__(
        self,
        attn: Attention,
        mlp: Mlp,
        attn_connection: Connection,
        mlp_connection: Connection,
        *,
        features: int,
        affine_norm: bool = False,
        layer_scale: float | None = None,
        drop_path: float = 0.0,
        perturbation: float | None = None,
    ) -> None:
        super().__init__()

        def update_chain() -> nn.Sequential:
            return before_write(
                features=features, layer_scale=layer_scale, drop_path=drop_path, perturbation=perturbation
            )

        self.norm1 = nn.LayerNorm(features, eps=BLOCK_NORM_EPS, elementwise_affine=affine_norm)
        self.attn = attn
        self.norm2 = nn.LayerNorm(features, eps=BLOCK_NORM_EPS, elementwise_affine=affine_norm)
        self.mlp = mlp
        self.attn_update = update_chain()
        self.mlp_update = update_chain()
        self.attn_connection = attn_connection
        self.mlp_connection = mlp_connection

    def forward(self, stream: Stream) -> Stream:
        x, note = self.attn_connection.read(stream, self.norm1)
        update = self.attn_update(self.attn(x))
        stream, x, note = self.attn_connection.write_read(
            stream, update, note, self.mlp_connection, self.norm2, autocast_dtype(update)
        )
        return self.mlp_connection.write(stream, self.mlp_update(self.mlp(x)), note)
