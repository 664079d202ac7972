"""An optimizer whose gradients go through a rule before each step, by the optimizer's own hooks."""

import functools
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypeVar, get_args

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from orthostream.errors import UsageError, unknown
from orthostream.optim.distributed import Execution, Replicated, Sharded, alone, shard_group
from orthostream.optim.matrices import Layout
from orthostream.optim.rule import Chunk, Rule
from orthostream.optim.scale import factor
from orthostream.optim.selection import Choice, Selector, named_parameters, table

NonFinite: TypeAlias = Literal["pass", "skip", "raise"]
AnyOptimizer = TypeVar("AnyOptimizer", bound=Optimizer)

# Floating-point operations of a step from which processes share them: a gather costs more than a small network's work.
LEAST_SHARED = 2e9
# Where an optimizer keeps its transformation.
ATTRIBUTE = "_gradient_transformation"


@dataclass(frozen=True)
class Counts:
    """What happened so far, summed over steps and tensors.

    Args:
        steps: steps with at least one gradient to transform.
        transformed: gradients that were replaced, those counted below among them.
        zero: gradients that were zero and stayed so.
        non_finite: gradients with NaN or infinite elements.
        without_gradient: chosen parameters that had none.
    """

    steps: int
    transformed: int
    zero: int
    non_finite: int
    without_gradient: int


class Transformation:
    """A rule, the parameters that it applies to, and the hooks by which it reaches an optimizer.

    Args:
        rule: replaces matrices.
        selector: says which tensors are taken.
        group_key: name of the switch in each parameter group; a group without it is on.
        scale: convention of a factor on the result (:func:`orthostream.optim.scale.factor`).
        non_finite: what becomes of a gradient with NaN or infinite elements: ``pass`` lets NaN through to the
            optimizer, as without the transformation; ``skip`` leaves this parameter and its state alone in this
            step; ``raise`` stops. The last two make the host wait for the device once a step.
        process_group: processes with equal gradients that share the work, as under DDP.
    """

    def __init__(
        self,
        rule: Rule,
        selector: Selector,
        *,
        group_key: str,
        scale: str = "none",
        non_finite: NonFinite = "pass",
        process_group: Any = None,
    ) -> None:
        if non_finite not in get_args(NonFinite):
            raise UsageError(unknown("policy for non-finite gradients", non_finite, get_args(NonFinite)))
        factor(scale, 1, 1)
        self.rule, self.selector, self.group_key = rule, selector, group_key
        self.scale, self.non_finite, self.process_group = scale, non_finite, process_group
        self._choices: dict[Tensor, Choice] = {}
        self._model: weakref.ref[nn.Module] | None = None
        self._work: dict[tuple[int, ...], list[_Work]] = {}
        self._left_out: list[tuple[Tensor, Tensor]] = []
        self._steps = self._transformed = self._without_gradient = 0

    def attach(self, optimizer: AnyOptimizer, model: nn.Module | None) -> AnyOptimizer:
        """Register the hooks.

        Raises:
            UsageError: where the optimizer has a transformation already, or no tensor is chosen.
        """
        if hasattr(optimizer, ATTRIBUTE):
            raise UsageError(
                f"this {type(optimizer).__name__} has its gradients transformed already; wrap an optimizer once"
            )
        self._model = weakref.ref(model) if model is not None else None
        self._choose(optimizer)
        if not any(choice.is_chosen for choice in self._choices.values()):
            raise UsageError(
                f"no tensor of this {type(optimizer).__name__} is chosen by {self.selector}:\n{self.table()}"
            )
        optimizer.defaults.setdefault(self.group_key, True)
        for group in optimizer.param_groups:
            group.setdefault(self.group_key, True)
        self.hook(optimizer)
        return optimizer

    def hook(self, optimizer: Optimizer) -> None:
        """Connect to an optimizer whose groups have the switch."""
        optimizer.register_step_pre_hook(self._before_step)
        optimizer.register_step_post_hook(self._after_step)
        optimizer.register_load_state_dict_pre_hook(self._before_load)
        setattr(optimizer, ATTRIBUTE, self)
        # Copies and pickles of an optimizer leave its hooks behind; ours must not be lost without a word.
        setattr(optimizer, "__reduce_ex__", functools.partial(_reduce, optimizer))  # noqa: B010

    @property
    def choices(self) -> list[Choice]:
        """The decision on every tensor."""
        return list(self._choices.values())

    def table(self) -> str:
        """The decision on every tensor, one line each."""
        return table(self.choices)

    def counts(self) -> Counts:
        """What happened so far; waits for the device."""
        zero = bad = 0
        for works in self._work.values():
            for work in works:
                zero += int(work.zero.sum())
                bad += int(work.bad.sum())
        return Counts(self._steps, self._transformed, zero, bad, self._without_gradient)

    def _choose(self, optimizer: Optimizer) -> None:
        model = self._model() if self._model is not None else None
        named = list(named_parameters(optimizer.param_groups, model))
        choices = self.selector.select(named, model)
        self._choices = {parameter: choice for (_, parameter), choice in zip(named, choices, strict=True)}

    def _before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> Any:
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if closure is None:
            self._transform(optimizer)
            return None
        if len(args) > 1:
            return (args[0], self._after_closure(optimizer, closure), *args[2:]), kwargs
        return args, {**kwargs, "closure": self._after_closure(optimizer, closure)}

    def _after_closure(self, optimizer: Optimizer, closure: Callable[[], Any]) -> Callable[[], Any]:
        """A closure computes gradients anew, inside the step: they are transformed there, each time."""

        def evaluated() -> Any:
            loss = closure()
            self._transform(optimizer)
            return loss

        return evaluated

    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        for parameter, gradient in self._left_out:
            parameter.grad = gradient
        self._left_out.clear()

    def _before_load(self, optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        """A state that was saved without the switch keeps the present one."""
        groups = [
            {self.group_key: now[self.group_key], **saved}
            for saved, now in zip(state["param_groups"], optimizer.param_groups, strict=False)
        ]
        return {**state, "param_groups": [*groups, *state["param_groups"][len(groups) :]]}

    @torch.compiler.disable(recursive=True)  # type: ignore[no-untyped-call]
    @torch.no_grad()
    def _transform(self, optimizer: Optimizer) -> None:
        active = self._active(optimizer)
        if not active:
            return
        key = tuple(map(id, active))
        if key not in self._work:
            self._work[key] = self._divide(active)
        self._steps += 1
        # A fused step divides gradients by this; what it is given must still be the result after that.
        loss_scale = getattr(optimizer, "grad_scale", None)
        for work in self._work[key]:
            self._transformed += len(work.parameters)
            self._replace(work, loss_scale)

    def _active(self, optimizer: Optimizer) -> list[Tensor]:
        """The chosen parameters that have gradients, in groups that are switched on."""
        active = []
        for group in optimizer.param_groups:
            if not group.get(self.group_key, True):
                continue
            for parameter in group["params"]:
                choice = self._choices.get(parameter)
                if choice is None:
                    self._choose(optimizer)
                    choice = self._choices[parameter]
                if not choice.is_chosen:
                    continue
                if parameter.grad is None:
                    self._without_gradient += 1
                elif parameter.grad.is_sparse:
                    raise UsageError(
                        f"the gradient of {choice.name} is sparse, and a polar factor is dense; make the embedding "
                        f"with sparse=False, or leave it out with exclude=[{choice.name!r}]"
                    )
                else:
                    active.append(parameter)
        return active

    def _divide(self, parameters: Sequence[Tensor]) -> "list[_Work]":
        """Parameters by device and by the processes that hold their shards, each with its division into chunks."""
        kinds: dict[tuple[torch.device, Any], list[Tensor]] = {}
        for parameter in parameters:
            group = shard_group(self._choices[parameter].name, parameter) if isinstance(parameter, DTensor) else None
            kinds.setdefault((parameter.device, group), []).append(parameter)
        works = []
        for (device, group), members in kinds.items():
            layouts = [layout for p in members if (layout := self._choices[p].layout) is not None]
            factors = [factor(self.scale, layout.rows, layout.columns) for layout in layouts]
            chunks = self.rule.plan([layout.matrix for layout in layouts], device)
            execution: Execution = alone
            if group is not None:
                execution = Sharded(group)
            elif self.process_group is not None and sum(chunk.cost for chunk in chunks) >= LEAST_SHARED:
                execution = Replicated(self.process_group)
                execution.check_equal([self._choices[p].name for p in members], [_local(p.grad) for p in members])
            tally = torch.zeros(2, len(members), dtype=torch.int64, device=device)
            works.append(_Work(members, layouts, chunks, execution, factors, tally[0], tally[1]))
        return works

    def _replace(self, work: "_Work", loss_scale: Tensor | None) -> None:
        gradients = [_local(parameter.grad) for parameter in work.parameters]
        results, norms = work.execution(self.rule, work.chunks, work.layouts, gradients)
        # Zero gradients have zero results and non-finite ones NaN: the norms tell of both.
        zero, bad = norms == 0, ~norms.isfinite()
        work.zero.add_(zero)
        work.bad.add_(bad)
        factors = work.factors
        if any(value != 1 for value in factors):
            torch._foreach_mul_(results, factors)
        if loss_scale is not None:
            torch._foreach_mul_(results, loss_scale.to(results[0].device))
        torch._foreach_copy_(gradients, results)
        if self.non_finite != "pass" and bool(bad.any()):
            self._leave_out([p for p, is_bad in zip(work.parameters, bad.tolist(), strict=True) if is_bad])

    def _leave_out(self, parameters: Sequence[Tensor]) -> None:
        names = ", ".join(self._choices[parameter].name for parameter in parameters)
        if self.non_finite == "raise":
            raise FloatingPointError(f"non-finite gradients of {names}; no parameter was changed")
        for parameter in parameters:
            assert parameter.grad is not None
            self._left_out.append((parameter, parameter.grad))
            parameter.grad = None

    def __getstate__(self) -> dict[str, Any]:
        # Without what belongs to this process or is found again at the next step. A copy works for itself, with the
        # same results.
        return {**self.__dict__, "_model": None, "_work": {}, "_left_out": [], "process_group": None}


def transformation(optimizer: Optimizer) -> Transformation:
    """The transformation of an optimizer's gradients: its table and its counts.

    Raises:
        UsageError: where it has none.
    """
    found = getattr(optimizer, ATTRIBUTE, None)
    if not isinstance(found, Transformation):
        raise UsageError(f"this {type(optimizer).__name__} is not wrapped; pass it to optim.orthogonalize first")
    return found


@dataclass(frozen=True)
class _Work:
    """Parameters that are transformed together, and the standing answers about them."""

    parameters: list[Tensor]
    layouts: list[Layout]
    chunks: tuple[Chunk, ...]
    execution: Execution
    factors: list[float]
    zero: Tensor
    bad: Tensor


def _local(gradient: Any) -> Tensor:
    """The part of a gradient that this process holds, sharing its memory."""
    return gradient.to_local() if isinstance(gradient, DTensor) else gradient


def _reduce(optimizer: Optimizer, protocol: Any) -> Any:
    return _rebuild, (type(optimizer), optimizer.__getstate__(), getattr(optimizer, ATTRIBUTE))


def _rebuild(kind: type[Optimizer], state: dict[str, Any], held: Transformation) -> Optimizer:
    optimizer = kind.__new__(kind)
    optimizer.__setstate__(state)
    held.hook(optimizer)
    return optimizer
