"""Gradient checkpointing of one block: its activations are computed again in the backward pass."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from orthostream.shapes import Stream

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def run_checkpointed(block: nn.Module, stream: Stream) -> Stream:
    """``block(stream)`` that keeps only its input for the backward pass.

    The generators are set back for the second pass, so that dropout, drop path and noise repeat, and batch
    norms update their running statistics once. Without gradients it is the plain call.

    Args:
        block: takes a stream and returns a stream.
        stream: a tensor or a tuple of tensors.

    Returns:
        The stream after the block.
    """
    if not torch.is_grad_enabled():
        return block(stream)
    if torch.compiler.is_compiling():
        # The compiled backward repeats values only, never the update of a buffer.
        return checkpoint(block, stream, use_reentrant=False)

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _scratch_statistics(block)

    return checkpoint(block, stream, use_reentrant=False, context_fn=contexts)


@contextmanager
def _scratch_statistics(block: nn.Module) -> Iterator[None]:
    """Let the batch norms of a block update copies of their running statistics, and drop these afterwards."""
    with ExitStack() as restore:
        for norm in block.modules():
            if isinstance(norm, BATCH_NORMS):
                for name, buffer in list(norm.named_buffers(recurse=False)):
                    restore.callback(setattr, norm, name, buffer)
                    setattr(norm, name, buffer.clone())
        yield
