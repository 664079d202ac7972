"""Evaluate a checkpoint: top-1, top-5 and mean loss, each sample counted once.

example:
  orthostream evaluate runs/vit_s --data cifar10 --source cifar10/ --per-class --json vit_s.json
  torchrun --nproc-per-node 2 -m orthostream.cli evaluate runs/vit_s/checkpoints/step-00000480-epoch-010
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

from orthostream import build, data, recipe
from orthostream.cli.running import on_main
from orthostream.errors import UsageError
from orthostream.training import checkpoint as checkpoints
from orthostream.training.checkpoint import Checkpoint, replace_file
from orthostream.training.distributed import close_world, open_world
from orthostream.training.evaluate import Evaluation, evaluate
from orthostream.training.weights import load_weights


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``orthostream evaluate``."""
    parser.add_argument("checkpoint", metavar="CHECKPOINT", type=Path, help="a run folder or one of its checkpoints")
    parser.add_argument("--best", action="store_true", help="of a run folder: its best checkpoint, not its newest")
    parser.add_argument("--average", action="store_true", help="the averaged weights in it")
    parser.add_argument("--data", metavar="NAME", help="data set; default: the one it was trained on")
    parser.add_argument("--source", help="where the data set is; default: where training found it")
    parser.add_argument("--batch-size", type=int, help="images a process and batch")
    parser.add_argument("--workers", type=int, help="loader processes")
    parser.add_argument("--amp", choices=["none", "bfloat16", "float16"], default="none", help="autocast dtype")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--per-class", action="store_true", help="also accuracy by class and the confusion matrix")
    parser.add_argument("--json", type=Path, help="write the result to this file")


def run(options: argparse.Namespace) -> int:
    """Carry out ``orthostream evaluate``."""
    world = open_world(options.device)
    saved = located(options.checkpoint, options.best)
    weights = saved.weights
    if options.average:
        if saved.average is None:
            raise UsageError(f"{saved.path} holds no averaged weights; leave out --average")
        weights = saved.average
    chosen = recipe.from_dict(saved.manifest["recipe"])
    data_recipe = replace(
        chosen.data,
        name=options.data or chosen.data.name,
        source=options.source or (chosen.data.source if options.data in (None, chosen.data.name) else None),
        eval_batch_size=options.batch_size or chosen.data.eval_batch_size,
        workers=chosen.data.workers if options.workers is None else options.workers,
    )
    chosen = replace(chosen, data=data_recipe)
    splits = data.load(data_recipe.name, data_recipe.source, data_recipe.image_size)
    model = build.build_model(chosen, splits.description)
    load_weights(model, weights, str(saved.path))
    model.to(world.device)
    for hook in build.build_hooks(chosen, model):
        hook.evaluation()
    batches = build.build_evaluation(chosen, splits, world)
    result = evaluate(
        model,
        batches,
        world,
        with_confusion=options.per_class,
        autocast_dtype=build.AUTOCAST[options.amp],
    )
    if world.is_main:
        print(as_text(result, splits.description.classes, saved))
    if options.json:
        on_main(world, lambda: replace_file(options.json, json.dumps(result.as_json(), indent=1).encode()))
    close_world(world)
    return 0


def located(path: Path, wants_best: bool) -> Checkpoint:
    """The checkpoint that a path names.

    Raises:
        UsageError: where it names none.
    """
    if (path / "manifest.json").is_file():
        return checkpoints.load(path)
    root = path / "checkpoints"
    if wants_best:
        best = checkpoints.pointed(root, "best.json")
        if best is None:
            raise UsageError(f"{path} has no best checkpoint; leave out --best for the newest one")
        return checkpoints.load(best)
    newest, _ = checkpoints.newest(root)
    if newest is None:
        raise UsageError(
            f"{path} is neither a checkpoint (a folder with manifest.json) nor a run folder with a valid one in it"
        )
    return newest


def as_text(result: Evaluation, classes: tuple[str, ...], saved: Checkpoint) -> str:
    """The result for the terminal."""
    lines = [
        f"{saved.path}  step {saved.manifest['step']}",
        f"n {result.n}  top-1 {result.rates['acc@1']:.2%} ({result.top1})  "
        f"top-{result.k} {result.rates['acc@5']:.2%} ({result.top5})  loss {result.loss:.4f}",
    ]
    if result.per_class is not None:
        width = max(len(name) for name in classes)
        rates = ["-" if rate is None else f"{rate:.2%}" for rate in result.per_class]
        lines += [f"  {name:<{width}}  {rate}" for name, rate in zip(classes, rates, strict=True)]
    return "\n".join(lines)
