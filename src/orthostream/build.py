"""A recipe becomes data, model, optimizer and trainer: the one place where the parts meet."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from orthostream import connections, data, models, optim
from orthostream.analysis import Recording
from orthostream.analysis.diagnostics import Diagnostics, Listeners
from orthostream.connections import Choice
from orthostream.connections.switching import StepSwitch
from orthostream.data.batched import BatchedEvalLoader, BatchedTrainLoader, choose_pipeline
from orthostream.data.decode import Decoding
from orthostream.data.decoded_by import decoded_by
from orthostream.data.description import Description
from orthostream.data.held_out import hold_out, normalised_by
from orthostream.data.loader import EvalLoader, TrainLoader
from orthostream.data.mixing import Mixing
from orthostream.data.text import TextDescription, TextEvaluation, TextSplits, TextWindows
from orthostream.data.transforms import Pipeline, evaluation_transform, train_transform
from orthostream.errors import UsageError
from orthostream.recipe import AugmentRecipe, DataRecipe, ModelRecipe, OptimizerRecipe, Recipe
from orthostream.registry import Registry
from orthostream.training.distributed import World
from orthostream.training.ema import WeightAverage
from orthostream.training.evaluate import ACCURACY, Score
from orthostream.training.schedule import Schedule
from orthostream.training.settings import Mix, Settings, StepHook
from orthostream.training.wrap import wrap


def llama(
    *,
    num_classes: int,
    connection: Choice = "linear",
    context: int = 128,
    embed_dim: int = 384,
    depth: int = 6,
    num_heads: int = 6,
    num_kv_heads: int | None = None,
    mlp_features: int | None = None,
    rope_theta: float = 10_000.0,
    norm_eps: float = 1e-6,
    init_std: float = 0.02,
    attention_dropout: float = 0.0,
    gradient_checkpointing: bool = False,
) -> models.Model:
    """A causal Llama on tokens; arguments as for :class:`orthostream.hub.language_model.LanguageModel`.

    Raises:
        MissingExtraError: without transformers.
        UsageError: for a value out of range.
    """
    given = dict(locals())
    # Here and not above: transformers is an extra, and takes seconds that no other model should wait for.
    from orthostream.hub.language_model import LanguageModel

    return LanguageModel(**given)


# Its class needs transformers, which models do not know; so its row joins the table where the parts meet.
models.register("llama", llama, "Llama, width 384, 6 blocks, on characters; needs transformers", "arXiv:2302.13971")

# What each open section of a recipe may name; the recipe loader checks names and options against these.
TABLES: dict[str, Registry[Any]] = {"model": models.table, "connection": connections.table, "data": data.table}

PIPELINE_OF: dict[str, Pipeline] = {"vit": "vit", "resnet": "resnet", "cnn": "cnn", "twins": "twins"}
AUTOCAST = {"none": None, "bfloat16": torch.bfloat16, "float16": torch.float16}

# Of text: the fewer bits the next character needs, the better; the loss is in nats.
BITS_PER_CHARACTER = Score(key="bits_per_char", read=lambda result: result.loss / math.log(2), higher_is_better=False)
# What a recipe may say of text; the other fields of these sections are made for images.
TEXT_FIELDS = {
    "data": ("name", "source", "context", "workers", "eval_batch_size"),
    "model": ("name", "gradient_checkpointing", "options"),
    "augment": ("label_smoothing",),
}


@dataclass(frozen=True)
class Data:
    """The loaders of one process and what they hold."""

    description: Description | TextDescription
    train: TrainLoader | BatchedTrainLoader | TextWindows
    evaluation: EvalLoader | BatchedEvalLoader | TextEvaluation
    notes: tuple[str, ...]


def check_fit(recipe: Recipe) -> None:
    """Refuse sections of a recipe that do not belong together, before any work.

    Raises:
        UsageError: naming all that does not fit.
    """
    if problems := list(_misfits(recipe)):
        raise UsageError("\n".join(problems))


def is_language_model(name: str) -> bool:
    """Whether a model takes tokens instead of images, as its options say."""
    return "context" in models.table.options(name)


def _misfits(recipe: Recipe) -> Iterator[str]:
    model, chosen = recipe.model.name, recipe.data.name
    is_text = data.is_text(chosen)
    if is_text != is_language_model(model):
        takes, holds = ("images", "characters") if is_text else ("characters", "images")
        fitting = [name for name in models.names() if is_language_model(name) == is_text]
        yield (
            f"model {model!r} takes {takes}, and data set {chosen!r} holds {holds}; choose other data, or a model such "
            f"as {', '.join(fitting[:3])}"
        )
    if not is_text and recipe.data.context is not None:
        yield f"data.context is for windows of text, and data set {chosen!r} holds images; leave it out"
    if is_text:
        sections: dict[str, ModelRecipe | DataRecipe | AugmentRecipe] = {
            "model": recipe.model,
            "data": recipe.data,
            "augment": recipe.augment,
        }
        strange = [
            f"{section}.{item.name}"
            for section, given in sections.items()
            for item in fields(given)
            if item.name not in TEXT_FIELDS[section] and getattr(given, item.name) != item.default
        ]
        if strange:
            yield f"{', '.join(strange)}: for images, and data set {chosen!r} holds characters; leave out"


def build_data(recipe: Recipe, world: World) -> Data:
    """Open the data set and make its loaders.

    Raises:
        UsageError: where it is not there, does not fit the model, or the batch size does not fit it.
    """
    check_fit(recipe)
    if data.is_text(recipe.data.name):
        return _build_text(recipe, world)
    chosen, augment = recipe.data, recipe.augment
    splits = open_images(chosen)
    transform = train_transform(
        splits.description,
        pipeline_of(recipe),
        randaugment_n=augment.randaugment_n,
        randaugment_m=augment.randaugment_m,
        random_erase=augment.random_erase,
    )
    loading = choose_pipeline(chosen.pipeline, splits.train, transform, may_skip=chosen.on_bad_image == "skip")
    options: dict[str, Any] = {
        "seed": recipe.seed,
        "batch_size": recipe.train.batch_size,
        "accumulate": recipe.train.accumulate,
        "rank": world.rank,
        "world_size": world.size,
    }
    train: TrainLoader | BatchedTrainLoader
    if loading.loading == "batched":
        train = BatchedTrainLoader(splits.train, transform, device=world.device, **options)
    else:
        train = TrainLoader(
            splits.train,
            transform,
            workers=chosen.workers,
            pin_memory=world.device.type == "cuda",
            on_bad_image=chosen.on_bad_image,
            **options,
        )
    unused = ", so data.workers is not used" if loading.loading == "batched" and chosen.workers else ""
    notes = (*splits.notes, f"data.pipeline: {loading.loading}: {loading.reason}{unused}")
    return Data(splits.description, train, build_evaluation(recipe, splits, world), notes)


def _build_text(recipe: Recipe, world: World) -> Data:
    splits = open_text(recipe.data)
    train = TextWindows(
        splits.train,
        splits.description.context,
        seed=recipe.seed,
        batch_size=recipe.train.batch_size,
        accumulate=recipe.train.accumulate,
        rank=world.rank,
        world_size=world.size,
    )
    return Data(splits.description, train, build_evaluation(recipe, splits, world), tuple(splits.notes))


def open_images(recipe: DataRecipe) -> data.Splits:
    """The splits of a data set of images, with what a recipe keeps back and normalises by.

    Raises:
        UsageError: where the data set is not there, or cannot be divided or normalised so.
    """
    splits = data.load(recipe.name, recipe.source, recipe.image_size)
    splits = decoded_by(splits, Decoding(recipe.apply_rotation, recipe.most_pixels))
    return hold_out(normalised_by(splits, recipe.mean, recipe.std), recipe.held_out, recipe.evaluate_on)


def open_text(recipe: DataRecipe, code_points: Tensor | None = None) -> TextSplits:
    """Both parts of a text.

    Args:
        recipe: says where it is.
        code_points: of the characters that a model knows, int64 ``[characters]``; None takes those of the text.

    Raises:
        UsageError: where the text is not there, or holds a character that the model does not know.
    """
    vocabulary = None if code_points is None else [chr(point) for point in code_points.tolist()]
    return data.load_text(recipe.name, recipe.source, recipe.context, vocabulary)


def pipeline_of(recipe: Recipe) -> Pipeline:
    """Whose transforms the images go through: by default those of the model's family."""
    chosen = recipe.augment.pipeline
    if chosen != "auto":
        return chosen
    family = models.family(recipe.model.name)
    if family not in PIPELINE_OF:
        raise UsageError(
            f"no transforms belong to model {recipe.model.name!r}; set augment.pipeline to one of "
            f"{', '.join([*PIPELINE_OF.values(), 'none'])}"
        )
    return PIPELINE_OF[family]


def build_evaluation(
    recipe: Recipe, splits: data.Splits | TextSplits, world: World
) -> EvalLoader | BatchedEvalLoader | TextEvaluation:
    """The batches of the evaluation split: this process's share."""
    if isinstance(splits, TextSplits):
        return TextEvaluation(
            splits.evaluation,
            splits.description.context,
            batch_size=recipe.data.eval_batch_size,
            rank=world.rank,
            world_size=world.size,
        )
    transform = evaluation_transform(splits.description, pipeline_of(recipe))
    options: dict[str, Any] = {
        "batch_size": recipe.data.eval_batch_size,
        "rank": world.rank,
        "world_size": world.size,
    }
    if choose_pipeline(recipe.data.pipeline, splits.evaluation, transform).loading == "batched":
        return BatchedEvalLoader(splits.evaluation, transform, device=world.device, **options)
    return EvalLoader(splits.evaluation, transform, workers=recipe.data.workers, **options)


def build_model(recipe: Recipe, description: Description | TextDescription) -> nn.Module:
    """The model of a recipe for a data set, on the CPU.

    A model of characters carries its vocabulary, code points int64 ``[characters]``, in a buffer of that name: without
    it nobody could say what its tokens are.

    Raises:
        UsageError: where an option does not fit the model or the data.
    """
    chosen, connection = recipe.model, recipe.connection
    choice: Any = (connection.name, connection.options)
    if connection.blocks is not None:
        choice = connections.only_blocks(choice, connection.blocks)
    facts: dict[str, Any] = {
        "gradient_checkpointing": chosen.gradient_checkpointing,
        "perturbation": connection.perturbation,
    }
    if isinstance(description, TextDescription):
        facts["context"] = description.context
    else:
        facts |= {
            "image_size": description.image_size,
            "patch_size": description.patch_size,
            "in_channels": description.channels,
        }
    known = models.table.options(chosen.name)
    for name, is_asked in (
        ("gradient_checkpointing", chosen.gradient_checkpointing),
        ("perturbation", connection.perturbation is not None),
    ):
        if is_asked and name not in known:
            raise UsageError(f"model {chosen.name!r} has no {name}; leave it out, or choose another model")
    fitting = {name: value for name, value in facts.items() if name in known}
    model = models.create(
        chosen.name, num_classes=len(description.classes), connection=choice, **{**fitting, **chosen.options}
    )
    if isinstance(description, TextDescription):
        model.register_buffer("vocabulary", torch.tensor([ord(sign) for sign in description.vocabulary]))
    return model.to(memory_format=torch.channels_last) if chosen.channels_last else model


def build_optimizer(recipe: OptimizerRecipe, model: nn.Module, world: World | None = None) -> Optimizer:
    """The optimizer over all parameters in one group, as in the paper: biases and norms decay too.

    Args:
        recipe: its kind, rates, and what is done to gradients before its step.
        model: the plain module.
        world: processes with equal gradients, which share the work of orthogonalisation.
    """
    optimizer = _plain_optimizer(recipe, list(model.parameters()))
    process_group = dist.group.WORLD if world is not None and world.is_distributed else None
    if recipe.normalize != "none":
        return optim.normalize(
            optimizer,
            model,
            kind=recipe.normalize,
            equal_length=recipe.equal_length,
            process_group=process_group,
        )
    if recipe.orthogonalize == "none":
        return optimizer
    return optim.orthogonalize(
        optimizer,
        model,
        which=recipe.orthogonalize,
        scale=recipe.scale,
        process_group=process_group,
        method=recipe.polar_method,
        steps=recipe.polar_steps,
        tol=recipe.polar_tol,
        completion=recipe.polar_completion,
        precision=recipe.polar_precision,
    )


def _plain_optimizer(recipe: OptimizerRecipe, parameters: list[nn.Parameter]) -> Optimizer:
    if recipe.name == "sgd":
        return SGD(
            parameters,
            recipe.lr,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            nesterov=recipe.nesterov,
            fused=True,
        )
    if recipe.name == "lars":
        groups: list[dict[str, Any]] = [
            {"params": [p for p in parameters if p.ndim != 1]},
            {"params": [p for p in parameters if p.ndim == 1], "lr_share": recipe.vector_lr},
        ]
        return optim.LARS(groups, recipe.lr, recipe.momentum, recipe.weight_decay, recipe.trust)
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
        score=build_score(recipe),
    )


def build_score(recipe: Recipe) -> Score:
    """What evaluations of a recipe are judged by: accuracy on images, bits per character on text."""
    return BITS_PER_CHARACTER if data.is_text(recipe.data.name) else ACCURACY


def unmixed(images: Tensor, labels: Tensor, epoch: int, step: int, micro: int) -> tuple[Tensor, Tensor]:
    """The batch as it is, for models whose outputs in training are no logits: an accuracy of them would mislead."""
    return images, labels


def build_mix(recipe: Recipe, classes: int) -> Mix | None:
    """Mixup and cutmix, where the recipe asks for them."""
    augment = recipe.augment
    if models.family(recipe.model.name) == "twins":
        return unmixed
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


def build_criterion(recipe: Recipe, classes: int) -> nn.Module:
    """Cross entropy, a mean over samples, where mixed targets carry the label smoothing already; or the model's own.

    Raises:
        UsageError: for mixing or smoothing of labels that the loss does not look at.
    """
    if models.family(recipe.model.name) == "twins":
        if recipe.augment.mix_probability or recipe.augment.label_smoothing:
            raise UsageError(
                f"model {recipe.model.name!r} does not learn from labels; set augment.mix_probability and "
                "augment.label_smoothing to 0"
            )
        return models.BarlowTwinsLoss(classes)
    is_mixed = recipe.augment.mix_probability > 0
    return nn.CrossEntropyLoss(label_smoothing=0.0 if is_mixed else recipe.augment.label_smoothing)


def build_hooks(recipe: Recipe, model: nn.Module) -> list[StepHook]:
    """What changes the model between steps."""
    connection = recipe.connection
    if connection.probability is None:
        return []
    return [StepSwitch(model.modules(), connection.probability, recipe.seed, connection.at_evaluation)]


def build_statistics(recipe: Recipe, model: nn.Module) -> Listeners | None:
    """What listens to the model at the steps that the recipe samples; None where it samples none.

    Raises:
        UsageError: where there is nothing to hear, or compiled or repeated forwards would be heard wrongly.
    """
    if recipe.statistics.interval is None:
        return None
    wants = recipe.statistics.diagnostics
    if wants and (recipe.train.compile or recipe.model.gradient_checkpointing):
        raise UsageError(
            "statistics.diagnostics listens at modules, which train.compile and model.gradient_checkpointing call "
            "otherwise; set both to false, or statistics.diagnostics=false"
        )
    has_sites = bool(getattr(model, "sites", True))
    if not (wants or has_sites):
        raise UsageError(
            f"model {recipe.model.name!r} has no sites to take statistics of; set statistics.interval=null, or "
            "statistics.diagnostics=true"
        )
    return Listeners([*([Recording(model)] if has_sites else []), *([Diagnostics(model)] if wants else [])])


def remarks(recipe: Recipe, world: World) -> list[str]:
    """What the recipe asks for and this hardware or data cannot do, where training goes on without it."""
    if recipe.data.workers and data.is_text(recipe.data.name):
        return [f"data.workers={recipe.data.workers} has no effect on text, which is in memory"]
    asks = recipe.model.sync_batch_norm and models.family(recipe.model.name) in ("resnet", "cnn", "twins")
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
        "optimizer": build_optimizer(recipe.optimizer, model, world),
        "schedule": build_schedule(recipe, steps),
        "criterion": build_criterion(recipe, len(loaders.description.classes)),
        "train_batches": loaders.train,
        "evaluation_batches": loaders.evaluation,
        "settings": build_settings(recipe, steps),
        "mix": build_mix(recipe, len(loaders.description.classes)),
        "average": WeightAverage(model, train.ema_decay) if train.ema_decay is not None else None,
        "statistics": build_statistics(recipe, model),
        "hooks": build_hooks(recipe, model),
    }
