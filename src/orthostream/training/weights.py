"""Weights from a file into a model: all of them, or an error that names what differs."""

from collections.abc import Mapping

from torch import Tensor, nn

from orthostream.training.checkpoint import CheckpointError


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Load a ``state_dict`` strictly, naming every key that is missing, too many or of another shape.

    Raises:
        CheckpointError: where the tensors are not those of the model.
    """
    own = model.state_dict()
    missing = sorted(own.keys() - weights.keys())
    surplus = sorted(weights.keys() - own.keys())
    shapes = [
        f"{name} {tuple(weights[name].shape)} instead of {tuple(own[name].shape)}"
        for name in sorted(own.keys() & weights.keys())
        if own[name].shape != weights[name].shape
    ]
    if missing or surplus or shapes:
        parts = [("missing", missing), ("unexpected", surplus), ("of another shape", shapes)]
        found = "; ".join(f"{len(names)} {word}: {', '.join(names[:4])}" for word, names in parts if names)
        raise CheckpointError(f"{source} does not hold the weights of this model: {found}")
    model.load_state_dict(weights)
