"""What a run would do, before it does it."""

import shutil
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from orthostream import build, optim, recipe
from orthostream.analysis.memory import Kept, kept_for_backward
from orthostream.data import Description
from orthostream.data.contact_sheet import write_contact_sheet
from orthostream.data.text import TextDescription
from orthostream.recipe import Resolved
from orthostream.training.distributed import World, close_world, open_world
from orthostream.training.progress import duration
from orthostream.training.randomness import seed_everything
from orthostream.training.step import Stepper

TIMED_STEPS = 3
# Characters of a text that a plan shows.
SHOWN = 60


def show_plan(resolved: Resolved, image: Path) -> None:
    """Print the resolved recipe with sources, sizes, steps, learning rates, FLOPs, memory, disk and time.

    Args:
        resolved: the recipe.
        image: where a PNG of the first augmented images goes; of a text the beginning of a window is printed instead.
    """
    chosen = resolved.recipe
    world = open_world(chosen.train.device, chosen.train.timeout)
    loaders = build.build_data(chosen, world)
    seed_everything(chosen.seed, world.rank)
    parts = build.trainer_parts(chosen, loaders, world)
    model = parts["model"]
    first = next(loaders.train.epoch(0))
    if world.is_main:
        print(recipe.dump(resolved, build.TABLES))
        for note in [*resolved.notes, *loaders.notes, *build.remarks(chosen, world)]:
            print(f"note: {note}")
        if (chosen.optimizer.orthogonalize, chosen.optimizer.normalize) != ("none", "none"):
            print(f"\n{optim.transformation(parts['optimizer']).table()}\n")
        sample = show_sample(loaders.description, first[0], image)
    seconds, kept = time_a_step(parts, loaders, world)
    if world.is_main:
        flops = forward_flops(model, first[0][0][:1].to(world.device))
        rows = plan_rows(resolved, loaders, parts, world, flops, seconds, kept)
        rows.append(sample)
        width = max(len(name) for name, _ in rows)
        print("\n".join(f"{name:<{width}}  {text}" for name, text in rows))
    loaders.train.close()
    close_world(world)


def show_sample(
    description: Description | TextDescription, batch: tuple[torch.Tensor, torch.Tensor], image: Path
) -> tuple[str, str]:
    """Show what the model gets to see first; the line of the plan that says so."""
    inputs, labels = batch
    if isinstance(description, TextDescription):
        shown = "".join(description.vocabulary[token] for token in inputs[0, :SHOWN].tolist())
        return "text", f"the first window begins with {shown!r}"
    if inputs.ndim == 5:
        # Pairs of views: each view is a picture.
        inputs, labels = inputs.flatten(0, 1), labels.repeat_interleave(inputs.shape[1])
    write_contact_sheet(image, inputs, description, labels)
    return "images", f"the first augmented ones are in {image}"


def plan_rows(
    resolved: Resolved, loaders: build.Data, parts: dict[str, Any], world: World, flops: int, seconds: float, kept: int
) -> list[tuple[str, str]]:
    """Name and text of each line of the plan."""
    chosen, settings, schedule = resolved.recipe, parts["settings"], parts["schedule"]
    total, model = settings.total_steps, chosen.model.name
    parameters = sum(p.numel() for p in parts["model"].parameters())
    unit, held = "image", f"{loaders.train.size} training, {loaders.evaluation.total} evaluation images"
    if isinstance(loaders.description, TextDescription):
        unit = "window"
        held = (
            f"{loaders.train.size:,} training windows of {loaders.description.context} characters, "
            f"{loaders.evaluation.total:,} evaluation characters, {loaders.description.num_classes} different ones"
        )
    per_sample = f"{flops / 1e9:.3f} G forward per {unit} (a multiply-add counts two)"
    timed = f"{seconds:.3f} s a step on {world.device} (median of {TIMED_STEPS} after a warm-up)"
    return [
        ("data", f"{loaders.description.name}: {held}"),
        ("model", f"{model}, {parameters:,} parameters, {chosen.connection.name} connection"),
        ("batch", batch_arithmetic(chosen.train.batch_size, world.size, chosen.train.accumulate, unit)),
        ("steps", f"{total:,} optimizer steps: {settings.steps_per_epoch} an epoch, {chosen.train.epochs} epochs"),
        ("learning rate", "  ".join(f"{step}: {schedule(step):.3g}" for step in milestones(total))),
        ("FLOPs", f"{per_sample}, about {3 * flops / 1e9:.3f} G with the backward pass"),
        ("memory", memory_estimate(parts, world, kept)),
        ("disk", disk_estimate(parts, settings.keep)),
        ("time", f"{timed}, without evaluation: {duration(seconds * total)} in all"),
    ]


def batch_arithmetic(batch_size: int, processes: int, accumulate: int, unit: str = "image") -> str:
    """How the global batch is divided."""
    local = batch_size // (processes * accumulate)
    return f"{batch_size} = {processes} processes x {accumulate} micro-batches x {local} {unit}s"


def milestones(total: int) -> list[int]:
    """Steps at which the plan prints the learning rate."""
    return sorted({0, 1, total // 20, total // 4, total // 2, 3 * total // 4, total - 1} & set(range(total)))


def time_a_step(parts: dict[str, Any], loaders: build.Data, world: World) -> tuple[float, int]:
    """Median seconds of a few real optimizer steps, loading included, and the bytes that a step keeps for backward.

    The weights do move; a plan never saves them.
    """
    stepper = Stepper(
        parts["called"],
        parts["optimizer"],
        parts["criterion"],
        mix=parts["mix"],
        device=world.device,
        accumulate=parts["settings"].accumulate,
        clip_norm=parts["settings"].clip_norm,
        autocast_dtype=parts["settings"].autocast_dtype,
    )
    batches = loaders.train.epoch(0)
    parts["model"].train()
    if world.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(world.device)
    times, kept = [], 0
    for step in range(min(1 + TIMED_STEPS, parts["settings"].steps_per_epoch)):
        begun = time.monotonic()
        with kept_for_backward() if step == 0 else nullcontext(Kept()) as seen:
            stepper.gradient(next(batches), 0, step, lambda: None)
        kept = max(kept, seen.bytes)
        stepper.update(parts["schedule"](step))
        if world.device.type == "cuda":
            torch.cuda.synchronize(world.device)
        times.append(time.monotonic() - begun)
    # The first step warms up workers, allocators and compilers.
    timed = sorted(times[1:] or times)
    return timed[len(timed) // 2], kept


def forward_flops(model: nn.Module, sample: torch.Tensor) -> int:
    """FLOPs of matrix products, convolutions and attention for one image or window."""
    counter = FlopCounterMode(display=False)
    was_training = model.training
    model.eval()
    with torch.no_grad(), counter:
        model(sample)
    model.train(was_training)
    return int(counter.get_total_flops())


def memory_estimate(parts: dict[str, Any], world: World, kept: int) -> str:
    """Memory of weights, gradients, optimizer state and what a step keeps for backward; measured peak on CUDA."""
    weights = tensor_bytes(parts["model"].state_dict())
    gradients = sum(p.numel() * p.element_size() for p in parts["model"].parameters())
    moments = tensor_bytes(
        {f"{i}.{key}": value for i, held in enumerate(parts["optimizer"].state.values()) for key, value in held.items()}
    )
    text = f"{(weights + gradients + moments) / 1e6:.0f} MB of weights, gradients and optimizer state a process"
    text += f", {kept / 1e6:.0f} MB kept for backward"
    if world.device.type == "cuda":
        text += f"; measured peak {torch.cuda.max_memory_allocated(world.device) / 1e9:.2f} GB"
    return text


def disk_estimate(parts: dict[str, Any], keep: int) -> str:
    """Bytes of the checkpoints that stay, against what is free."""
    state = parts["optimizer"].state.values()
    moments = sum(tensor_bytes(held) for held in state)
    weights = tensor_bytes(parts["model"].state_dict())
    one = weights * (2 if parts["average"] is not None else 1) + moments
    free = shutil.disk_usage(Path.cwd()).free
    return f"{one / 1e6:.0f} MB a checkpoint, up to {keep + 2} at a time; {free / 1e9:.1f} GB free here"


def tensor_bytes(tensors: dict[str, Any]) -> int:
    """Bytes of the tensors among the values."""
    return sum(t.numel() * t.element_size() for t in tensors.values() if isinstance(t, torch.Tensor))
