"""The plain residual connection."""

from torch import Tensor

from orthostream.connections.base import Connection
from orthostream.shapes import Note, Stream


class Linear(Connection):
    """``y = x + u``: one addition, nothing else; the neutral setting of every other rule.

    Reference:
        He et al., Deep Residual Learning for Image Recognition, CVPR 2016, arXiv:1512.03385, equation 1.
    """

    def write(self, stream: Stream, update: Tensor, note: Note = None) -> Stream:
        # An update that is wider than the stream (float32 into bfloat16) must not widen the stream.
        total = stream + update
        return total if total.dtype == stream.dtype else total.to(stream.dtype)
