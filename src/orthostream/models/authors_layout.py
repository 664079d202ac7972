"""State dicts in the layout of the authors' training code, both ways and without loss.

Names agree, but for two things. Their blocks hold the parameters of a connection themselves, and keep eps in a
buffer::

    theirs                                                  here
    blocks.0._pattern_params.attn_alpha                     blocks.0.attn_connection.alpha
    stage1.0._pattern_params.conv_theta                     stage1.0.connection.theta
    stage1.0._pattern_modules.conv_rescale_proj.weight      stage1.0.connection.rescale_proj.weight
    blocks.0.residual_eps, stage1.0.residual_eps            an option of the connection

Source: the training checkpoints of the code of Oh et al., arXiv:2505.11881.
"""

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from orthostream.connections import Connection
from orthostream.errors import UsageError
from orthostream.models.base import Model

EPS = "residual_eps"

# A parameter of a connection: block, tag (absent in a ResNet, where their tag is "conv"), name.
CONNECTION_KEY = re.compile(r"(blocks\.\d+|stage\d+\.\d+)\.(?:(attn|mlp)_)?connection\.(.+)")
PATTERN_PARAMETERS = frozenset({"alpha", "theta", "rescale_alpha"})
PATTERN_MODULES = frozenset({"rescale_proj.weight"})

# Keys that both layouts share.
SHARED_KEY = re.compile(
    r"cls_token|pos_embed|patchify\.(weight|bias)|classifier\.[01]\.(weight|bias)"
    r"|blocks\.\d+\.(attn\.(qkv|proj)|mlp\.fc[12])\.(weight|bias)"
    r"|(pre\.[01]|stage\d+\.\d+\.residual\.\d+)\.(weight|bias|running_mean|running_var|num_batches_tracked)"
    r"|stage\d+\.\d+\.shortcut\.(weight|bias)|linear\.([01]\.)?(weight|bias)"
)


def from_authors(state: Mapping[str, Tensor], model: Model) -> dict[str, Tensor]:
    """A state dict of the authors' training code, renamed for ``model``.

    Args:
        state: their state dict, without the prefixes of DDP and torch.compile.
        model: of the same sizes and with the connection that was trained; tells which keys must be there.

    Returns:
        A state dict that ``model.load_state_dict`` takes as it is; tensors are those of ``state``.

    Raises:
        UsageError: for a key that is missing or unknown, or where a stored eps is not that of the connection.
    """
    names = {theirs: ours for ours, theirs in _their_names(model.state_dict()).items()}
    eps_keys = {f"{block}.{EPS}": eps for block, eps in _eps_of_blocks(model).items()}
    missing = sorted((names.keys() | eps_keys.keys()) - state.keys())
    unexpected = sorted(state.keys() - names.keys() - eps_keys.keys())
    if missing or unexpected:
        raise UsageError(
            "the state dict does not fit the model in the authors' layout; "
            f"missing: {_shown(missing)}; not known to the model: {_shown(unexpected)}. "
            "Create the model with the sizes and the connection that were trained"
        )
    for key, eps in eps_keys.items():
        if eps is not None and state[key].item() != _as_float32(eps):
            raise UsageError(
                f"{key} is {state[key].item():g}, but the connection there uses eps={eps:g}; create the model with "
                f"connection=(name, {{'eps': {state[key].item():g}}})"
            )
    return {ours: state[theirs] for theirs, ours in names.items()}


def to_authors(state: Mapping[str, Tensor], model: Model) -> dict[str, Tensor]:
    """A state dict of ``model``, renamed for the authors' training code.

    Args:
        state: ``model.state_dict()``, or one with the same keys (averaged weights).
        model: tells eps and shapes.

    Returns:
        Their state dict; tensors are those of ``state``, and the eps buffers are new.

    Raises:
        UsageError: where the model has a part that their code has not, keys of ``state`` are not those of the
            model, or the two connections of a block differ in eps.
    """
    names = _their_names(model.state_dict())
    missing, unexpected = sorted(names.keys() - state.keys()), sorted(state.keys() - names.keys())
    if missing or unexpected:
        raise UsageError(
            f"the state dict is not one of this model; missing: {_shown(missing)}; "
            f"not known to the model: {_shown(unexpected)}"
        )
    renamed = {theirs: state[ours] for ours, theirs in names.items()}
    # Their ViT blocks store one number as a vector, their ResNet blocks as a scalar.
    shape = (1,) if model.family == "vit" else ()
    for block, eps in _eps_of_blocks(model).items():
        renamed[f"{block}.{EPS}"] = torch.full(shape, Connection.eps if eps is None else eps)
    return renamed


def _their_names(ours: Iterable[str]) -> dict[str, str]:
    """The authors' name of each of our keys."""
    names = {key: _their_name(key) for key in ours}
    homeless = sorted(key for key, theirs in names.items() if theirs is None)
    if homeless:
        raise UsageError(
            f"the authors' layout has no place for {_shown(homeless)}; it holds the plain ViT and ResNet of their "
            "code, with the linear, orthogonal, negative, rezero, rezero_constrained and rescale_stream connections"
        )
    return {key: theirs for key, theirs in names.items() if theirs is not None}


def _their_name(key: str) -> str | None:
    if SHARED_KEY.fullmatch(key):
        return key
    match = CONNECTION_KEY.fullmatch(key)
    if match is None:
        return None
    block, tag, name = match.groups()
    for holder, known in (("_pattern_params", PATTERN_PARAMETERS), ("_pattern_modules", PATTERN_MODULES)):
        if name in known:
            return f"{block}.{holder}.{tag or 'conv'}_{name}"
    return None


def _eps_of_blocks(model: Model) -> dict[str, float | None]:
    """Eps of each block by its path; ``None`` where the rule has no eps of its own, so that any value fits."""
    found: dict[str, set[float]] = {}
    for path, module in model.named_modules():
        # begin and end stand at the root, outside any block
        if isinstance(module, Connection) and "." in path:
            block = found.setdefault(path.rpartition(".")[0], set())
            if "eps" in vars(module):
                block.add(module.eps)
    for path, values in found.items():
        if len(values) > 1:
            raise UsageError(
                f"the connections of {path} use eps {sorted(values)}, and the authors' layout stores one a block"
            )
    return {path: next(iter(values), None) for path, values in found.items()}


def _as_float32(value: float) -> float:
    return torch.tensor(value, dtype=torch.float32).item()


def _shown(keys: list[str]) -> str:
    more = f" and {len(keys) - 4} more" if len(keys) > 4 else ""
    return (", ".join(keys[:4]) or "nothing") + more
