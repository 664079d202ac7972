"""The residual connection with the sign of the update turned."""

from torch import Tensor

from orthostream.connections.base import Connection
from orthostream.shapes import Note, Stream


class Negative(Connection):
    """``y = x - u``: a control, since a branch can learn the sign.

    Reference:
        The authors' code of arXiv:2505.11881, ``orthogonal_method`` negative.
    """

    def write(self, stream: Stream, update: Tensor, note: Note = None) -> Stream:
        difference = stream - update
        return difference if difference.dtype == stream.dtype else difference.to(stream.dtype)
