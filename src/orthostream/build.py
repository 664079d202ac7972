"""A recipe becomes data, model, optimizer and trainer: the one place where the parts meet."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from orthostream import connections, data, models
from orthostream.analysis import Recording
from orthostream.connections.switching import StepSwitch
from orthostream.data.description import Description
from orthostream.data.loader import EvalLoader, TrainLoader
from orthostream.data.mixing import Mixing
from orthostream.data.transforms import Pipeline, evaluation_transform, train_transform
from orthostream.errors import UsageError
from orthostream.recipe import OptimizerRecipe, Recipe
from orthostream.registry import Registry
from orthostream.training.distributed import World
from orthostream.training.ema import WeightAverage
from orthostream.training.schedule import Schedule
from orthostream.training.settings import Settings, StepHook
from orthostream.training.wrap import wrap

# What each open section of a recipe may name; the recipe loader checks names and options against these.
TABLES: dict[str, Registry[Any]] = {"model": models.table, "connection": connections.table, "data": data.table}

AUTOCAST = {"none": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Data:
    """The loaders of one process and what they hold."""

    description: Description
    train: TrainLoader
    evaluation: EvalLoader
    notes: tuple[str, ...]


def build_data(recipe: Recipe, world: World) -> Data:
    """Open the data set and make its loaders.

    Raises:
        UsageError: where it is not there, or the batch size does not fit it.
    """
    chosen, augment = recipe.data, recipe.augment
    splits = data.load(chosen.name, chosen.source, chosen.image_size)
    on_cuda = world.device.type == "cuda"
    train = TrainLoader(
        splits.train,
        train_transform(
            splits.description,
            pipeline_of(recipe),
            randaugment_n=augment.randaugment_n,
            randaugment_m=augment.randaugment_m,
            random_erase=augment.random_erase,
        ),
        seed=recipe.seed,
        batch_size=recipe.train.batch_size,
        accumulate=recipe.train.accumulate,
        rank=world.rank,
        world_size=world.size,
        workers=chosen.workers,
        pin_memory=on_cuda,
    )
    return Data(splits.description, train, build_evaluation(recipe, splits, world), tuple(splits.notes))


def pipeline_of(recipe: Recipe) -> Pipeline:
    """Whose transforms the images go through: by default those of the model's family."""
    chosen = recipe.augment.pipeline
    family = models.family(recipe.model.name)
    if chosen != "auto":
        return chosen
    if family not in ("vit", "resnet"):
        raise UsageError(
            f"no transforms belong to model {recipe.model.name!r}; set augment.pipeline to vit, resnet or none"
        )
    return "vit" if family == "vit" else "resnet"


def build_evaluation(recipe: Recipe, splits: data.Splits, world: World) -> EvalLoader:
    """The loader of the evaluation split: this process's share."""
    return EvalLoader(
        splits.evaluation,
        evaluation_transform(splits.description, pipeline_of(recipe)),
        batch_size=recipe.data.eval_batch_size,
        rank=world.rank,
        world_size=world.size,
        workers=recipe.data.workers,
    )


def build_model(recipe: Recipe, description: Description) -> nn.Module:
    """The model of a recipe for a data set, on the CPU.

    Raises:
        UsageError: where an option does not fit the model or the data.
    """
    chosen, connection = recipe.model, recipe.connection
    choice: Any = (connection.name, connection.options)
    if connection.blocks is not None:
        choice = connections.only_blocks(choice, connection.blocks)
    facts = {
        "image_size": description.image_size,
        "patch_size": description.patch_size,
        "in_channels": description.channels,
        "gradient_checkpointing": chosen.gradient_checkpointing,
        "perturbation": connection.perturbation,
    }
    known = models.table.options(chosen.name)
    fitting = {name: value for name, value in facts.items() if name in known}
    model = models.create(
        chosen.name, num_classes=len(description.classes), connection=choice, **{**fitting, **chosen.options}
    )
    return model.to(memory_format=torch.channels_last) if chosen.channels_last else model


def build_optimizer(recipe: OptimizerRecipe, model: nn.Module) -> Optimizer:
    """The optimizer over all parameters in one group, as in the paper: biases and norms decay too."""
    parameters = list(model.parameters())
    if recipe.name == "sgd":
        return SGD(
            parameters,
            recipe.lr,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            nesterov=recipe.nesterov,
            fused=True,
        )
    kind = {"adam": Adam, "adamw": AdamW}[recipe.name]
    return kind(parameters, recipe.lr, recipe.betas, recipe.eps, recipe.weight_decay, fused=True)


def build_schedule(recipe: Recipe, steps_per_epoch: int) -> Schedule:
    """The learning rate of each step.

    An epoch that ``max_steps`` cuts short counts as that long, as in the authors' program.
    """
    schedule, limit = recipe.schedule, recipe.train.max_steps
    return Schedule(
        lr=recipe.optimizer.lr,
        kind=schedule.kind,
        steps_per_epoch=steps_per_epoch if limit is None else min(steps_per_epoch, limit),
        epochs=recipe.train.epochs,
        warmup_epochs=schedule.warmup_epochs,
        warmup=schedule.warmup,
        warmup_factor=schedule.warmup_factor,
        min_lr=schedule.min_lr,
        decay_epochs=schedule.decay_epochs,
        decay_ratio=schedule.decay_ratio,
        first_step=schedule.first_step,
    )


def build_settings(recipe: Recipe, steps_per_epoch: int) -> Settings:
    """Lengths and intervals of the loop."""
    train, saving = recipe.train, recipe.checkpoint
    return Settings(
        epochs=train.epochs,
        steps_per_epoch=steps_per_epoch,
        max_steps=train.max_steps,
        accumulate=train.accumulate,
        batch_size=train.batch_size,
        clip_norm=train.clip_norm,
        autocast_dtype=AUTOCAST[train.amp],
        log_interval=recipe.log.interval,
        statistics_interval=recipe.statistics.interval,
        eval_every=train.eval_every,
        save_every_steps=saving.every_steps,
        save_every_epochs=saving.every_epochs,
        keep=saving.keep,
        keep_every_epochs=saving.keep_every_epochs,
        keep_best=saving.best,
    )


def build_mix(recipe: Recipe, classes: int) -> Mixing | None:
    """Mixup and cutmix, where the recipe asks for them."""
    augment = recipe.augment
    if augment.mix_probability == 0:
        return None
    return Mixing(
        num_classes=classes,
        mixup_alpha=augment.mixup_alpha,
        cutmix_alpha=augment.cutmix_alpha,
        probability=augment.mix_probability,
        cutmix_share=augment.cutmix_share,
        label_smoothing=augment.label_smoothing,
        seed=recipe.seed,
    )


def build_criterion(recipe: Recipe) -> nn.Module:
    """Cross entropy, a mean over samples; mixed targets carry the label smoothing already."""
    is_mixed = recipe.augment.mix_probability > 0
    return nn.CrossEntropyLoss(label_smoothing=0.0 if is_mixed else recipe.augment.label_smoothing)


def build_hooks(recipe: Recipe, model: nn.Module) -> list[StepHook]:
    """What changes the model between steps."""
    connection = recipe.connection
    if connection.probability is None:
        return []
    return [StepSwitch(model.modules(), connection.probability, recipe.seed, connection.at_evaluation)]


def remarks(recipe: Recipe, world: World) -> list[str]:
    """What the recipe asks for and this hardware cannot do, where training goes on without it."""
    asks = recipe.model.sync_batch_norm and models.family(recipe.model.name) == "resnet"
    if asks and world.is_distributed and world.device.type == "cpu":
        return [
            "model.sync_batch_norm: torch has synchronised batch statistics on CUDA only; here each process "
            f"normalises its own {recipe.train.batch_size // world.size // recipe.train.accumulate} images"
        ]
    return []


def trainer_parts(recipe: Recipe, loaders: Data, world: World) -> dict[str, Any]:
    """Everything that the trainer takes and the recipe decides, as keyword arguments."""
    model = build_model(recipe, loaders.description).to(world.device)
    if recipe.model.sync_batch_norm and world.is_distributed and world.device.type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
    train = recipe.train
    compiler = {"mode": train.compile_mode, "backend": train.compile_backend} if train.compile else None
    if compiler is not None and train.compile_backend != "inductor":
        compiler.pop("mode")
    steps = loaders.train.steps_per_epoch
    return {
        "model": model,
        "called": wrap(model, world, compiler),
        "optimizer": build_optimizer(recipe.optimizer, model),
        "schedule": build_schedule(recipe, steps),
        "criterion": build_criterion(recipe),
        "train_batches": loaders.train,
        "evaluation_batches": loaders.evaluation,
        "settings": build_settings(recipe, steps),
        "mix": build_mix(recipe, len(loaders.description.classes)),
        "average": WeightAverage(model, train.ema_decay) if train.ema_decay is not None else None,
        "statistics": Recording(model) if recipe.statistics.interval else None,
        "hooks": build_hooks(recipe, model),
    }
