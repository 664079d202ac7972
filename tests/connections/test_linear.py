"""The plain residual is one addition and keeps nothing for backward."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from orthostream import connections


class Operations(TorchDispatchMode):
    """Names of the operations that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, operation, types, arguments=(), keywords=None):
        self.names.append(str(operation))
        return operation(*arguments, **(keywords or {}))


def test_writing_is_one_addition() -> None:
    linear = connections.create("linear")
    with Operations() as operations:
        linear.write(torch.randn(2, 3), torch.randn(2, 3))
    assert [name for name in operations.names if "randn" not in name] == ["aten.add.Tensor"]


def test_nothing_is_kept_for_backward() -> None:
    kept: list[torch.Tensor] = []
    x, update = (torch.randn(2, 3, requires_grad=True) for _ in range(2))
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        connections.create("linear").write(x, update)
    assert not kept
