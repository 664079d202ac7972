"""The six statistics of one write, from the pieces that the connection hands out. Pure: tensors in, tensors out."""

from torch import Tensor

from orthostream.connections.base import Components
from orthostream.ops.orthogonal_update.reference import accumulation_dtype

# Squared L2 norms of stream and parts, the parts' share of the stream, and the cosine; in the order of a row.
METRICS = ("x_norm2", "f_par_norm2", "f_ortho_norm2", "rho_par", "rho_ortho", "cos_x_out")

# Prefix of the numbers that only some rules have, such as the learned scalar of rezero.
EXTRA_PREFIX = "pattern/"


def site_metrics(stream_summary: Tensor, components: Components) -> dict[str, Tensor]:
    """Means over all vectors of the squared norms, energy shares and cosine at one site.

    With ``n* = |x|^2 + eps`` (``max(|x|^2, eps)`` where the pieces clamp) and ``sq(v) = max(|v|^2, eps)``, per vector::

        x_norm2       = n*                    rho_par   = sq(parallel) / n*
        f_par_norm2   = sq(parallel)          rho_ortho = sq(orthogonal) / n*
        f_ortho_norm2 = sq(orthogonal)        cos_x_out = <x, applied> / sqrt(n* sq(applied))

    Args:
        stream_summary: x, the stream before the site as one plain tensor; its vectors lie along ``components.axis``.
        components: the pieces of the write, each of the shape of ``stream_summary``.

    Returns:
        One tensor of shape ``()`` a metric, float32 or wider: the six of ``METRICS`` (norms are squared L2 norms,
        the others have no unit), then the rule's own numbers as ``pattern/<name>``.

    Reference:
        Oh et al., arXiv:2505.11881, the statistics that the authors' trainer logs under ``activation/``.
    """
    axis, eps = components.axis, components.eps
    dtype = accumulation_dtype(stream_summary, components.applied)
    x, parallel, orthogonal, applied = (
        piece.to(dtype) for piece in (stream_summary, components.parallel, components.orthogonal, components.applied)
    )

    def squared_norm(vectors: Tensor) -> Tensor:
        return vectors.square().sum(axis)

    stream2 = squared_norm(x).clamp_min(eps) if components.clamp else squared_norm(x) + eps
    parallel2, orthogonal2, applied2 = (squared_norm(v).clamp_min(eps) for v in (parallel, orthogonal, applied))
    per_vector = {
        "x_norm2": stream2,
        "f_par_norm2": parallel2,
        "f_ortho_norm2": orthogonal2,
        "rho_par": parallel2 / stream2,
        "rho_ortho": orthogonal2 / stream2,
        # The product of two squared norms leaves float32 at norms of 1e10; the product of their roots does not.
        "cos_x_out": (x * applied).sum(axis) / (stream2.sqrt() * applied2.sqrt()),
    }
    means = {name: values.mean() for name, values in per_vector.items()}
    extras = {EXTRA_PREFIX + name: value.to(dtype).reshape(()) for name, value in components.extras.items()}
    return means | extras
