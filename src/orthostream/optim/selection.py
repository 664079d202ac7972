"""Which weights are orthogonalised, and why: a decision for every tensor, with its reason."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from math import prod
from typing import Any, Literal, TypeAlias, get_args

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from orthostream.errors import UsageError, unknown
from orthostream.optim.matrices import Layout

Which: TypeAlias = Literal["weights", "paper", "conv", "muon", "timm"]
Grouping: TypeAlias = Literal["together", "apart"]

# timm's rule by shape: smallest side and largest ratio of sides.
TIMM_SIDE, TIMM_RATIO = 4, 128


@dataclass(frozen=True)
class Choice:
    """What happens to one tensor.

    Args:
        name: of the parameter; its place in the optimizer where no name is known.
        shape: of the tensor.
        layout: how it is seen as matrices; None leaves it as it is.
        reason: why.
    """

    name: str
    shape: tuple[int, ...]
    layout: Layout | None
    reason: str

    @property
    def is_chosen(self) -> bool:
        return self.layout is not None


@dataclass(frozen=True, kw_only=True)
class Selector:
    """A rule that says for every tensor whether it is orthogonalised.

    =========  =====================================================================================
    which      takes
    =========  =====================================================================================
    weights    weights of layers with two axes or more; no embeddings, position or class tokens
    paper      every tensor with two axes or more (arXiv:2202.07052, official code)
    conv       weights of convolutions (section 3.5 of the paper)
    muon       as ``weights``, without the first convolution and the last linear layer
    timm       by shape: two sides above 1 at the front, smaller side >= 4, ratio of sides <= 128
    =========  =====================================================================================

    Args:
        which: one of the presets above.
        include: patterns of names (``fnmatch``) that are taken all the same.
        exclude: patterns of names that are left out; stronger than ``include``.
        blocks: number of equal parts of the first axis by pattern, for fused weights:
            ``{"*.qkv.weight": 3}``.
        grouped: filters of a grouped convolution as one matrix, as the official code does, or each group ``apart``.

    Raises:
        UsageError: for an unknown preset.
    """

    which: Which = "weights"
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    blocks: Mapping[str, int] | None = None
    grouped: Grouping = "together"

    def __post_init__(self) -> None:
        if self.which not in get_args(Which):
            raise UsageError(unknown("selection", self.which, get_args(Which)))
        if self.grouped not in get_args(Grouping):
            raise UsageError(unknown("treatment of grouped convolutions", self.grouped, get_args(Grouping)))
        for name in ("include", "exclude"):
            if isinstance(getattr(self, name), str):
                raise UsageError(f"{name} takes a list of patterns, got the text {getattr(self, name)!r}")

    def select(self, parameters: Iterable[tuple[str, Tensor]], model: nn.Module | None = None) -> list[Choice]:
        """Decide on every parameter.

        Args:
            parameters: names and tensors.
            model: whose layers say what a tensor is. Without it only shapes speak, and a table of embeddings
                looks like the weight of a layer.

        Raises:
            UsageError: for a pattern that matches nothing, or a preset that needs a model.
        """
        if self.which == "muon" and model is None:
            raise UsageError("selection 'muon' must know the first convolution and the head; pass the model")
        owners = _owners(model) if model is not None else {}
        ends = _ends(model) if self.which == "muon" and model is not None else {}
        named = list(parameters)
        self._check_patterns([name for name, _ in named])
        return [self._choice(name, tensor, owners.get(id(tensor)), ends.get(id(tensor))) for name, tensor in named]

    def _check_patterns(self, names: Sequence[str]) -> None:
        for kind, patterns in (("include", self.include), ("exclude", self.exclude), ("blocks", self.blocks or {})):
            for pattern in patterns:
                if not any(fnmatchcase(name, pattern) for name in names):
                    shown = ", ".join(names[:4])
                    raise UsageError(f"{kind} pattern {pattern!r} matches no parameter; names are like {shown}")

    def _choice(self, name: str, tensor: Tensor, owner: "_Owner | None", end: str | None) -> Choice:
        shape = tuple(tensor.shape)
        left = Choice(name, shape, None, "")
        if tensor.ndim < 2:
            return replace(left, reason="fewer than two axes")
        if tensor.is_complex():
            return replace(left, reason="complex")
        if pattern := _first_match(name, self.exclude):
            return replace(left, reason=f"excluded by {pattern!r}")
        pattern = _first_match(name, self.include)
        is_taken, reason = (True, f"included by {pattern!r}") if pattern else self._by_preset(tensor, owner)
        if end is not None and not pattern:
            is_taken, reason = False, end
        if not is_taken:
            return replace(left, reason=reason)
        return replace(left, layout=Layout(shape, self._blocks(name, owner)), reason=reason)

    def _by_preset(self, tensor: Tensor, owner: "_Owner | None") -> tuple[bool, str]:
        if self.which == "paper":
            return True, "two axes or more"
        if self.which == "timm":
            return _by_timm(tensor)
        if self.which == "conv":
            if owner is None:
                return tensor.ndim > 3, f"{tensor.ndim} axes" + ("" if tensor.ndim > 3 else ", no convolution")
            return owner.is_convolution, owner.what
        if owner is None:
            is_token = tensor.ndim > 2 and tensor.shape[0] == 1
            return not is_token, "first axis of 1: a token or positions" if is_token else "two axes or more"
        return owner.is_weight, owner.what

    def _blocks(self, name: str, owner: "_Owner | None") -> int:
        pattern = _first_match(name, self.blocks or {})
        if pattern:
            return (self.blocks or {})[pattern]
        return owner.groups if owner is not None and self.grouped == "apart" else 1


def table(choices: Sequence[Choice]) -> str:
    """One line a tensor: chosen or not, name, shape, matrices, reason."""
    header = ("", "parameter", "shape", "matrices", "why")
    rows = [
        (
            "yes" if choice.is_chosen else "no",
            choice.name,
            "x".join(map(str, choice.shape)) or "scalar",
            "" if choice.layout is None else " x ".join(map(str, choice.layout.matrix)),
            choice.reason,
        )
        for choice in choices
    ]
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in [header, *rows]]
    taken = [choice for choice in choices if choice.is_chosen]
    weights = sum(prod(choice.shape) for choice in taken)
    every = sum(prod(choice.shape) for choice in choices)
    lines.append(f"{len(taken)} of {len(choices)} tensors are chosen, {weights:,} of {every:,} numbers")
    return "\n".join(line.rstrip() for line in lines)


@dataclass(frozen=True)
class _Owner:
    """What layer a parameter belongs to."""

    what: str
    is_weight: bool
    is_convolution: bool = False
    groups: int = 1


def _owners(model: nn.Module) -> dict[int, _Owner]:
    return {
        id(parameter): _owner(module, own_name)
        for module in model.modules()
        for own_name, parameter in module.named_parameters(recurse=False)
    }


def _owner(module: nn.Module, own_name: str) -> _Owner:
    kind = type(module).__name__
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return _Owner(f"embedding ({kind})", False)
    if isinstance(module, _NormBase | nn.LayerNorm | nn.GroupNorm | nn.RMSNorm):
        return _Owner(f"scale of a norm ({kind})", False)
    if isinstance(module, _ConvNd):
        # The rows of a transposed convolution are its inputs; its groups lie in the first axis all the same.
        transposed = ", rows are inputs" if isinstance(module, _ConvTransposeNd) else ""
        return _Owner(f"convolution ({kind}{transposed})", True, True, module.groups)
    if own_name == "weight" or own_name.startswith(("weight_", "in_proj_weight", "q_proj", "k_proj", "v_proj")):
        return _Owner(f"weight of a layer ({kind})", True)
    return _Owner(f"bare parameter of {kind}, not the weight of a layer", False)


def _ends(model: nn.Module) -> dict[int, str]:
    """The first convolution and the last linear layer."""
    convolutions = [module for module in model.modules() if isinstance(module, _ConvNd)]
    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    ends = {id(convolutions[0].weight): "first convolution"} if convolutions else {}
    return ends | ({id(linears[-1].weight): "head: the last linear layer"} if linears else {})


def _by_timm(tensor: Tensor) -> tuple[bool, str]:
    rows, columns = tensor.shape[0], prod(tensor.shape[1:])
    small, large = min(rows, columns), max(rows, columns)
    if tensor.shape[0] == 1 or tensor.shape[1] == 1:
        return False, "one of the first two axes is 1"
    if small < TIMM_SIDE:
        return False, f"smaller side {small} < {TIMM_SIDE}"
    if large > TIMM_RATIO * small:
        return False, f"ratio of sides {large / small:.0f} > {TIMM_RATIO}"
    return True, "a matrix by its shape"


def _first_match(name: str, patterns: Iterable[str]) -> str | None:
    return next((pattern for pattern in patterns if fnmatchcase(name, pattern)), None)


def named_parameters(groups: Sequence[Mapping[str, Any]], model: nn.Module | None) -> Iterator[tuple[str, Tensor]]:
    """The parameters of an optimizer with the best names there are.

    From the model, else those that the optimizer was given, else group and place.
    """
    # A compiled model adds a prefix that nobody writes into a pattern.
    names = {id(p): _plain(name) for name, p in model.named_parameters()} if model is not None else {}
    for index, group in enumerate(groups):
        given = group.get("param_names") or [f"groups.{index}.{place}" for place in range(len(group["params"]))]
        for name, parameter in zip(given, group["params"], strict=True):
            yield names.get(id(parameter), str(name)), parameter


def _plain(name: str) -> str:
    return ".".join(part for part in name.split(".") if part != "_orig_mod")
