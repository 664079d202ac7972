"""Evaluate a checkpoint or a Hugging Face model: top-1, top-5 and mean loss, each sample counted once.

A Hugging Face folder or hub id gets the transform of its preprocessor_config.json; without one, images are resized
to the model's size (bicubic), centre cropped and normalised as for ImageNet, the protocol of the published models.

data:
  a name: digits, cifar10, cifar100, folder, shards; --source says where it is
  a path: class folders train/ and val/ (for a Hugging Face model val/ alone will do, or the class folders
    themselves), a .tar shard or a parquet file (columns image and label), or a folder of either
  a hub id of either: timm/imagenet-1k-wds
  text, for a language model: the last tenth of --source, read with the vocabulary of the model

example:
  orthostream evaluate runs/vit_s --data cifar10 --source cifar10/ --per-class --json vit_s.json
  torchrun --nproc-per-node 2 -m orthostream.cli evaluate runs/vit_s/checkpoints/step-00000480-epoch-010
  orthostream evaluate BootsofLagrangian/ortho-vit-b-imagenet1k-hf --data timm/imagenet-1k-wds --amp bfloat16
"""

import argparse
import json
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor, nn

from orthostream import build, data, recipe
from orthostream.cli.running import on_main
from orthostream.data.batched import BatchedEvalLoader
from orthostream.data.hub import is_hub_id, no_such_place, path_reason
from orthostream.data.loader import EvalLoader
from orthostream.data.text import TextEvaluation
from orthostream.errors import UsageError, unknown
from orthostream.training import checkpoint as checkpoints
from orthostream.training.checkpoint import Checkpoint, replace_file
from orthostream.training.distributed import World, close_world, open_world
from orthostream.training.evaluate import ACCURACY, Evaluation, Score, evaluate
from orthostream.training.progress import duration
from orthostream.training.weights import load_weights

# Of the published protocol.
CARD_BATCH = 32


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``orthostream evaluate``."""
    parser.add_argument(
        "model", metavar="MODEL", help="a run folder, one of its checkpoints, a Hugging Face folder or a hub id"
    )
    parser.add_argument("--best", action="store_true", help="of a run folder: its best checkpoint, not its newest")
    parser.add_argument("--average", action="store_true", help="the averaged weights in it")
    parser.add_argument("--data", metavar="NAME|PATH|HUB_ID", help="data set; default: the one it was trained on")
    parser.add_argument("--source", help="where the data set is; default: where training found it")
    parser.add_argument("--batch-size", type=int, help="images a process and batch; of a Hugging Face model: 32")
    parser.add_argument("--workers", type=int, help="loader processes")
    parser.add_argument("--amp", choices=["none", "bfloat16", "float16"], default="none", help="autocast dtype")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--per-class", action="store_true", help="also accuracy by class and the confusion matrix")
    parser.add_argument("--json", type=Path, help="write the result to this file")


def run(options: argparse.Namespace) -> int:
    """Carry out ``orthostream evaluate``."""
    world = open_world(options.device)
    subject = _published(options, world) if _is_published(options.model) else _trained(options, world)
    show = _Count(subject.batches.total, world, "characters" if subject.is_text else "images")
    for note in subject.notes:
        show.say(f"note: {note}")
    result = evaluate(
        subject.model,
        subject.batches,
        world,
        with_confusion=options.per_class,
        autocast_dtype=build.AUTOCAST[options.amp],
        on_batch=show.add,
    )
    if world.is_main:
        print(as_text(result, subject.classes, subject.name, subject.score))
    if options.json:
        held = result.as_json() | {subject.score.key: subject.score.read(result)}
        on_main(world, lambda: replace_file(options.json, json.dumps(held, indent=1).encode()))
    close_world(world)
    return 0


@dataclass(frozen=True)
class Subject:
    """A model on its device and this process's share of the images or characters that it is judged by."""

    name: str
    model: nn.Module
    batches: EvalLoader | BatchedEvalLoader | TextEvaluation
    classes: tuple[str, ...]
    notes: tuple[str, ...]
    score: Score = ACCURACY

    @property
    def is_text(self) -> bool:
        return isinstance(self.batches, TextEvaluation)


def _trained(options: argparse.Namespace, world: World) -> Subject:
    """A checkpoint of ours: its recipe says the data, the transform and the model."""
    saved = located(Path(options.model), options.best)
    weights = weights_of(saved, options.average)
    chosen = recipe.from_dict(saved.manifest["recipe"])
    name, source = (None, options.source) if options.data is None else _data_set(options.data, options.source)
    # What was kept back and normalised by belongs to the set that it was trained on.
    known = chosen.data if name in (None, chosen.data.name) else recipe.DataRecipe(image_size=chosen.data.image_size)
    data_recipe = replace(
        known,
        name=name or chosen.data.name,
        source=source or (chosen.data.source if name in (None, chosen.data.name) else None),
        eval_batch_size=options.batch_size or chosen.data.eval_batch_size,
        workers=chosen.data.workers if options.workers is None else options.workers,
        # Each image is seen once: there is nothing to keep in memory for.
        pipeline="auto" if data.is_text(name or chosen.data.name) else "workers",
    )
    chosen = replace(chosen, data=data_recipe)
    build.check_fit(chosen)
    splits: data.Splits | data.TextSplits
    if data.is_text(data_recipe.name):
        splits = build.open_text(data_recipe, weights.get("vocabulary"))
    else:
        splits = build.open_images(data_recipe)
    model = build.build_model(chosen, splits.description)
    load_weights(model, weights, str(saved.path))
    model.to(world.device)
    for hook in build.build_hooks(chosen, model):
        hook.evaluation()
    return Subject(
        f"{saved.path}  step {saved.manifest['step']}",
        model,
        build.build_evaluation(chosen, splits, world),
        splits.description.classes,
        splits.notes,
        build.build_score(chosen),
    )


def _published(options: argparse.Namespace, world: World) -> Subject:
    """A Hugging Face folder or hub id: its config and preprocessor say the classes, the size and the transform."""
    if options.data is None:
        raise UsageError(
            f"{options.model} does not say what it was trained on; give --data, such as folder, shards, cifar10, a "
            "path or timm/imagenet-1k-wds"
        )
    if options.best or options.average:
        raise UsageError(f"--best and --average choose among checkpoints, and {options.model} is none; leave them out")
    name, source = _data_set(options.data, options.source)
    # Here and not above: a checkpoint of ours needs no transformers.
    from orthostream.hub import evaluation as hub

    published = hub.open_published(options.model)
    splits = hub.open_data(name, source, max(published.image_size))
    notes = hub.check_fits(published, splits.description)
    transform, origin = hub.transform_of(published, splits.description)
    batches = EvalLoader(
        splits.evaluation,
        transform,
        batch_size=options.batch_size or CARD_BATCH,
        rank=world.rank,
        world_size=world.size,
        workers=options.workers or 0,
        pin_memory=world.device.type == "cuda",
    )
    notes = (*published.notes, *splits.notes, *notes, f"transform: {origin}")
    return Subject(published.name, published.model.to(world.device), batches, published.classes, notes)


def _is_published(given: str) -> bool:
    """Whether this is a Hugging Face folder or hub id, not a checkpoint or run folder of ours.

    Raises:
        UsageError: where it is no path that is there and no hub id.
    """
    path = Path(given).expanduser()
    if not path.exists() and not is_hub_id(given):
        raise UsageError(no_such_place(given, "a run folder, a checkpoint, a Hugging Face folder or a hub id"))
    return (path / "config.json").is_file() if path.exists() else True


def _data_set(given: str, source: str | None) -> tuple[str, str | None]:
    """Name and source of a data set: as named, or seen from a path or hub id in the place of the name.

    Raises:
        UsageError: where it is neither, or both are sources.
    """
    if given in data.names():
        return given, source
    path = Path(given).expanduser()
    if source is not None or not (path.exists() or is_hub_id(given)):
        reason = path_reason(given) if source is None else None
        raise UsageError(
            unknown("data set", given, data.names())
            + "; or give a path or a hub id of shards as --data alone"
            + (f". It does not exist and is no hub id, since {reason}" if reason else "")
        )
    shards = ("*.tar", "*.parquet", "*/*.parquet")
    is_folder = path.is_dir() and not any(any(path.glob(pattern)) for pattern in shards)
    return "folder" if is_folder else "shards", given


class _Count:
    """Says on the error stream how far the first process is; the result alone goes to the output."""

    INTERVAL = 10.0

    def __init__(self, total: int, world: World, unit: str) -> None:
        self.is_main, self.size, self.unit = world.is_main, world.size, unit
        self.total, self.done = total, 0
        self.begun = self.spoke = time.monotonic()

    def add(self, labels: int) -> None:
        # The other processes have as many samples each, within one.
        self.done = min(self.total, self.done + labels * self.size)
        now = time.monotonic()
        if now - self.spoke >= self.INTERVAL:
            self.spoke = now
            left = duration((now - self.begun) / self.done * (self.total - self.done))
            self.say(f"{self.done} of {self.total} {self.unit}  left {left}")

    def say(self, message: str) -> None:
        if self.is_main:
            print(message, file=sys.stderr, flush=True)


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


def weights_of(saved: Checkpoint, wants_average: bool) -> dict[str, Tensor]:
    """The weights of a checkpoint, or their average over training.

    Raises:
        UsageError: where it holds no average.
    """
    if not wants_average:
        return saved.weights
    if saved.average is None:
        raise UsageError(f"{saved.path} holds no averaged weights; leave out --average")
    return saved.average


def as_text(result: Evaluation, classes: tuple[str, ...], name: str, score: Score = ACCURACY) -> str:
    """The result for the terminal."""
    judged = "" if score is ACCURACY else f"  {score.key} {score.read(result):.4f}"
    lines = [
        name,
        f"n {result.n}  top-1 {result.rates['acc@1']:.2%} ({result.top1})  "
        f"top-{result.k} {result.rates['acc@5']:.2%} ({result.top5})  loss {result.loss:.4f}{judged}",
    ]
    if result.per_class is not None:
        width = max(len(name) for name in classes)
        rates = ["-" if rate is None else f"{rate:.2%}" for rate in result.per_class]
        lines += [f"  {name:<{width}}  {rate}" for name, rate in zip(classes, rates, strict=True)]
    return "\n".join(lines)
