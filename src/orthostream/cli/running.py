"""A resolved recipe trained in a run folder, by one process or by those that torchrun started."""

import gc
import json
import os
import signal
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, TypeVar

import torch

from orthostream import __version__, build, recipe
from orthostream.errors import UsageError
from orthostream.recipe import Recipe, Resolved
from orthostream.training import checkpoint as checkpoints
from orthostream.training import progress
from orthostream.training.checkpoint import Checkpoint
from orthostream.training.distributed import World, close_world, open_world
from orthostream.training.progress import Progress, duration
from orthostream.training.randomness import make_deterministic, seed_everything
from orthostream.training.records import MetricsFile, Records, TensorBoard, Tracker, WeightsAndBiases
from orthostream.training.run_folder import RunFolder, versions
from orthostream.training.settings import Outcome
from orthostream.training.signals import stop_requests
from orthostream.training.trainer import Trainer

T = TypeVar("T")


def run_recipe(
    resolved: Resolved,
    *,
    run_dir: Path | Callable[[], Path],
    resume: bool = False,
    overwrite: bool = False,
    allow_change: Collection[str] = (),
) -> int:
    """Train a recipe and leave its results in a folder.

    Args:
        resolved: the recipe and where each value came from.
        run_dir: the folder, or a function that makes a new one; called by rank 0 alone.
        resume: go on with the run in it.
        overwrite: delete the run in it first.
        allow_change: dotted fields in which the recipe may differ from that of the run.

    Returns:
        The exit code: 0 finished; 143 or 130 stopped by SIGTERM or Ctrl-C after saving.

    Raises:
        UsageError: for anything the caller can mend; the same on every process.
    """
    chosen = resolved.recipe
    world = open_world(chosen.train.device, chosen.train.timeout)
    code = _run(resolved, world, run_dir, resume, overwrite, allow_change)
    # Model and optimizer are gone with that call, so that gloo's threads hold nothing of this process.
    gc.collect()
    close_world(world)
    if world.is_distributed:
        sys.stdout.flush()
        sys.stderr.flush()
        # gloo can abort in its own teardown at interpreter exit although all is done and saved.
        os._exit(code)
    return code


def _run(
    resolved: Resolved,
    world: World,
    run_dir: Path | Callable[[], Path],
    resume: bool,
    overwrite: bool,
    allow_change: Collection[str],
) -> int:
    chosen = resolved.recipe
    if chosen.train.deterministic:
        make_deterministic()
    if world.device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    show = progress.choose(chosen.log.progress, world.is_main)
    folder = on_main(world, lambda: RunFolder(_made(run_dir), resume=resume, overwrite=overwrite))
    if folder is not None and resume:
        refuse_changes(chosen, folder.path, allow_change)
    loaders = build.build_data(chosen, world)
    for note in [*resolved.notes, *loaders.notes, *build.remarks(chosen, world)]:
        show.say(f"note: {note}")
    seed_everything(chosen.seed, world.rank)
    parts = build.trainer_parts(chosen, loaders, world)
    facts = versions(world.device, __version__)
    saved = _newest(world, folder, show) if resume else None
    records = Records(None, [])
    if folder is not None:
        step = 0 if saved is None else int(saved.manifest["step"])
        records = open_records(chosen, folder, resolved, facts, is_new=not resume, step=step)
    trainer = Trainer(
        **parts,
        world=world,
        folder=folder.checkpoints if folder is not None else Path(),
        records=records,
        progress=show,
        details={"versions": facts, "recipe": recipe.to_dict(chosen), "recipe_sha256": recipe.fingerprint(chosen)},
    )
    if saved is not None:
        trainer.resume(saved)
        show.say(f"resumed from {saved.path} at step {trainer.position.step}, epoch {trainer.position.epoch}")
    else:
        records.rewind(0)
    try:
        with stop_requests() as stop:
            outcome = trainer.fit(stop)
    finally:
        records.close()
        loaders.train.close()
    if folder is not None:
        _conclude(outcome, folder, parts["model"], show)
        folder.close()
    return 128 + outcome.signal if outcome.signal else 0


def on_main(world: World, action: Callable[[], T]) -> T | None:
    """Do something on rank 0 alone; where it is refused, every process learns why and stops alike."""
    result, refusal = None, ""
    if world.is_main:
        try:
            result = action()
        except UsageError as error:
            refusal = str(error)
    refusal = world.share(refusal)
    if refusal:
        raise UsageError(refusal)
    return result


def refuse_changes(chosen: Recipe, folder: Path, allow_change: Collection[str]) -> None:
    """A run goes on with the recipe that it began with.

    Raises:
        UsageError: with the list of differences.
    """
    begun = recipe.load(folder / "recipe.yaml").recipe
    changed = [line for line in recipe.differences(begun, chosen) if line.split(":")[0] not in allow_change]
    if changed:
        listed = "\n  ".join(changed)
        raise UsageError(
            f"the recipe differs from the one that {folder} was begun with:\n  {listed}\nresume with that "
            f"recipe (orthostream train {folder / 'recipe.yaml'} --run-dir {folder} --resume), use another folder, "
            "or name each field that may change with --allow-change FIELD"
        )


def open_records(
    chosen: Recipe, folder: RunFolder, resolved: Resolved, facts: dict[str, Any], *, is_new: bool, step: int
) -> Records:
    """Open the places where values go; a new run first writes its recipe, with the source of each value."""
    if is_new:
        folder.write("recipe.yaml", recipe.dump(resolved))
    folder.write("versions.json", json.dumps(facts, indent=1))
    trackers: list[tuple[str, Tracker]] = []
    if chosen.log.tensorboard:
        trackers.append(("TensorBoard", TensorBoard(folder.path / "tensorboard", step)))
    if chosen.log.wandb:
        config = recipe.to_dict(chosen)
        trackers.append(("W&B", WeightsAndBiases(chosen.log.project, folder.path.name, folder.path, config)))
    return Records(MetricsFile(folder.path / "metrics.jsonl"), trackers)


def _newest(world: World, folder: RunFolder | None, show: Progress) -> Checkpoint | None:
    """The newest checkpoint that is valid, the same on every process; None where the run has none yet."""
    newest: Checkpoint | None = None
    if folder is not None:
        newest, notes = checkpoints.newest(folder.checkpoints)
        for note in notes:
            show.say(f"note: {note}")
        if newest is None:
            show.say("note: the run was stopped before its first checkpoint and starts again")
    found = world.share(newest.path if newest is not None else None)
    return newest if world.is_main or found is None else checkpoints.load(found)


def _conclude(outcome: Outcome, folder: RunFolder, model: torch.nn.Module, show: Progress) -> None:
    """Say how the run ended, and write ``result.json`` where it is finished."""
    place = outcome.position
    if not outcome.is_finished:
        name = signal.Signals(outcome.signal).name
        show.say(
            f"stopped by {name} at step {place.step} (epoch {place.epoch}); saved. Go on with: "
            f"orthostream train {folder.path / 'recipe.yaml'} --run-dir {folder.path} --resume"
        )
        return
    result = {
        "finished": True,
        "steps": place.step,
        "epochs": place.epoch,
        "best": place.best,
        "final": outcome.final,
        "seconds": place.seconds,
        "skipped_steps": place.skipped,
        "parameters": sum(p.numel() for p in model.parameters()),
    }
    folder.write("result.json", json.dumps(result, indent=1))
    show.say(f"finished {place.step} steps in {duration(place.seconds)}; results in {folder.path}")


def _made(run_dir: Path | Callable[[], Path]) -> Path:
    return run_dir if isinstance(run_dir, Path) else run_dir()
