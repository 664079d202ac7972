"""Reading and writing parallel streams as one reads it in the paper; autograd differentiates it.

Streams are rows here: ``[..., n, C]``, any order of memory. Source: Zhu et al., Hyper-Connections, ICLR 2025,
arXiv:2409.19606, equations 1 to 5.
"""

from functools import reduce

import torch
from torch import Tensor

from orthostream.ops.autocast import autocast_off


def read(streams: Tensor, weights: Tensor) -> Tensor:
    """``sum_i w_i X_i`` in the accumulation dtype, rounded once to the dtype of the streams; unchecked."""
    rows, weights = widened(streams, weights)
    with autocast_off(rows):
        return (weights.unsqueeze(-2) @ rows).squeeze(-2).to(streams.dtype)


def write(streams: Tensor, update: Tensor, mixing: Tensor, weights: Tensor) -> Tensor:
    """``M X + b (outer) u`` in the accumulation dtype, rounded once to the dtype of the streams; unchecked."""
    rows, update, mixing, weights = widened(streams, update, mixing, weights)
    with autocast_off(rows):
        return torch.addcmul(mixing @ rows, weights.unsqueeze(-1), update.unsqueeze(-2)).to(streams.dtype)


def widened(*tensors: Tensor) -> list[Tensor]:
    """The tensors in their accumulation dtype: float32, or float64 where one of them is float64."""
    dtype = reduce(torch.promote_types, (tensor.dtype for tensor in tensors), torch.float32)
    return [tensor.to(dtype) for tensor in tensors]
