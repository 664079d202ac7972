"""What a run is: typed, frozen sections. Every field carries its meaning, unit and range.

Two sections are open: beside their own fields, ``model`` and ``connection`` take the options of the thing that they
name, inline. Which options there are is said by the tables of models and connections, which a recipe does not know.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal, get_type_hints

from orthostream.errors import UsageError
from orthostream.recipe.given import from_python
from orthostream.recipe.typed import Mismatch, convert


class SectionError(UsageError):
    """Values that a section refuses.

    Args:
        section: its name, such as ``optimizer``.
        problems: pairs of field and message.
    """

    def __init__(self, section: str, problems: list[tuple[str, str]]) -> None:
        prefix = f"{section}." if section else ""
        super().__init__("\n".join(f"{prefix}{name}: {message}" for name, message in problems))
        self.problems = problems


def setting(
    default: Any,
    meaning: str,
    *,
    unit: str = "",
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
) -> Any:
    """A field: its default, its meaning in one line, its unit, and the range of its values or items."""
    bounds = {"at least": at_least, "above": above, "at most": at_most, "below": below}
    limits = {words: bound for words, bound in bounds.items() if bound is not None}
    return field(default=default, metadata={"help": meaning, "unit": unit, "range": limits})


def out_of_range(value: Any, limits: dict[str, float]) -> str | None:
    """What is wrong with a number, or with the items of a tuple; None where nothing is."""
    if isinstance(value, tuple):
        return next((problem for item in value if (problem := out_of_range(item, limits))), None)
    if value is None:
        return None
    holds = {
        "at least": lambda bound: value >= bound,
        "above": lambda bound: value > bound,
        "at most": lambda bound: value <= bound,
        "below": lambda bound: value < bound,
    }
    if all(holds[words](bound) for words, bound in limits.items()):
        return None
    return f"must be {' and '.join(f'{words} {bound:g}' for words, bound in limits.items())}, got {value}"


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of a recipe; checks types, ranges and contradictions of its fields when it is made."""

    section: ClassVar[str] = ""
    # What an entry's signature may have although a recipe cannot set it there, and who sets it.
    elsewhere: ClassVar[dict[str, str]] = {}

    def __post_init__(self) -> None:
        problems = []
        kinds = get_type_hints(type(self))
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, Section):
                continue
            try:
                value = convert(from_python(value, self.section or "recipe"), kinds[item.name])
            except Mismatch as mismatch:
                problems.append((item.name, str(mismatch)))
                continue
            # Lists become tuples and whole numbers floats, so that equal recipes are equal in every form.
            object.__setattr__(self, item.name, value)
            if problem := out_of_range(value, item.metadata.get("range", {})):
                problems.append((item.name, problem))
        if problems := problems or list(self.contradictions()):
            raise SectionError(self.section, problems)

    def contradictions(self) -> Iterator[tuple[str, str]]:
        """Pairs of field and message for values that cannot stand together."""
        return iter(())

    def idle(self) -> Iterator[tuple[str, str]]:
        """Pairs of field and reason for fields that the other values leave without effect."""
        return iter(())


@dataclass(frozen=True, kw_only=True)
class ModelRecipe(Section):
    """The network; the options of the named model stand beside these fields."""

    section: ClassVar[str] = "model"
    elsewhere: ClassVar[dict[str, str]] = {
        "num_classes": "comes with the data set",
        "in_channels": "comes with the data set",
        "image_size": "is set as data.image_size",
        "connection": "has a section of its own",
        "perturbation": "is set as connection.perturbation",
    }

    name: str = setting("vit_s", "which model")
    gradient_checkpointing: bool = setting(False, "compute the activations of each block again in the backward pass")
    channels_last: bool = setting(False, "keep maps in memory with the channels last")
    sync_batch_norm: bool = setting(False, "batch statistics over all processes")
    options: dict[str, Any] = field(default_factory=dict[str, Any], metadata={"help": "options of this model"})


@dataclass(frozen=True, kw_only=True)
class ConnectionRecipe(Section):
    """How branches meet the stream; the options of the named connection stand beside these fields."""

    section: ClassVar[str] = "connection"

    name: str = setting("linear", "which connection")
    blocks: tuple[int, ...] | None = setting(None, "blocks that have it, from 0; the rest is linear", at_least=0)
    probability: float | None = setting(
        None, "chance of a block to have it in a step; linear otherwise", at_least=0, at_most=1
    )
    at_evaluation: Literal["orthogonal", "linear", "last"] = setting(
        "orthogonal", "with a probability: what evaluations use; this connection, linear, or the last draw"
    )
    perturbation: float | None = setting(
        None, "scale of normal noise on updates, in training only", unit="of the update", at_least=0
    )
    options: dict[str, Any] = field(default_factory=dict[str, Any], metadata={"help": "options of this connection"})

    def contradictions(self) -> Iterator[tuple[str, str]]:
        if self.blocks is not None and self.probability is not None:
            yield "blocks", "cannot stand with connection.probability, which draws anew for every block; remove one"
        if self.blocks == ():
            yield "blocks", "lists no block; choose the connection 'linear' instead"
        if self.blocks and len(set(self.blocks)) < len(self.blocks):
            yield "blocks", f"lists a block twice: {list(self.blocks)}"

    def idle(self) -> Iterator[tuple[str, str]]:
        if self.probability is None:
            yield "at_evaluation", "without connection.probability"


@dataclass(frozen=True, kw_only=True)
class DataRecipe(Section):
    """What is learned from."""

    section: ClassVar[str] = "data"

    name: str = setting("digits", "which data set")
    source: str | None = setting(
        None, "folder of parquet files, of the original archive or of classes, or a hub id; null: the set's own"
    )
    image_size: int | None = setting(None, "side of the images; null: the set's own", unit="pixels", at_least=1)
    workers: int = setting(0, "loader processes of each rank; 0 loads in the training process", at_least=0)
    eval_batch_size: int = setting(256, "evaluation batch of each rank", unit="images", at_least=1)


@dataclass(frozen=True, kw_only=True)
class AugmentRecipe(Section):
    """How images and targets are changed in training."""

    section: ClassVar[str] = "augment"

    pipeline: Literal["auto", "vit", "resnet", "none"] = setting("auto", "which transforms; auto: by the model")
    randaugment_n: int = setting(0, "RandAugment operations an image; 0: off", at_least=0)
    randaugment_m: int = setting(0, "RandAugment magnitude", at_least=0, at_most=30)
    random_erase: float = setting(0.0, "chance to erase a rectangle of an image", at_least=0, at_most=1)
    mix_probability: float = setting(0.0, "chance to mix a batch by mixup or cutmix", at_least=0, at_most=1)
    mixup_alpha: float = setting(0.0, "mixup shares are drawn from Beta(alpha, alpha); 0: no mixup", at_least=0)
    cutmix_alpha: float = setting(0.0, "cutmix areas are drawn from Beta(alpha, alpha); 0: no cutmix", at_least=0)
    cutmix_share: float = setting(0.5, "where both are on: share of mixed batches with cutmix", at_least=0, at_most=1)
    label_smoothing: float = setting(0.0, "share of the target spread over all classes", at_least=0, below=1)

    def contradictions(self) -> Iterator[tuple[str, str]]:
        if self.mix_probability > 0 and not (self.mixup_alpha or self.cutmix_alpha):
            yield "mix_probability", "needs augment.mixup_alpha or augment.cutmix_alpha above 0"

    def idle(self) -> Iterator[tuple[str, str]]:
        if not self.randaugment_n:
            yield "randaugment_m", "while augment.randaugment_n is 0"
        if not self.mix_probability:
            yield from ((name, "while augment.mix_probability is 0") for name in ("mixup_alpha", "cutmix_alpha"))
        if not (self.mix_probability and self.mixup_alpha and self.cutmix_alpha):
            yield "cutmix_share", "unless both mixup and cutmix are on"
        if self.pipeline == "none":
            for name in ("randaugment_n", "randaugment_m", "random_erase"):
                yield name, "with augment.pipeline none"


@dataclass(frozen=True, kw_only=True)
class OptimizerRecipe(Section):
    """How weights move."""

    section: ClassVar[str] = "optimizer"

    name: Literal["sgd", "adam", "adamw"] = setting("adam", "adam adds weight decay to the gradient, adamw does not")
    lr: float = setting(1e-3, "peak learning rate", above=0)
    weight_decay: float = setting(0.0, "of all parameters", at_least=0)
    betas: tuple[float, float] = setting((0.9, 0.999), "adam, adamw: decay of both averages", at_least=0, below=1)
    momentum: float = setting(0.9, "sgd: momentum", at_least=0, below=1)
    nesterov: bool = setting(False, "sgd: Nesterov's form of momentum")
    eps: float = setting(1e-8, "adam, adamw: added to the denominator", at_least=0)

    def contradictions(self) -> Iterator[tuple[str, str]]:
        if self.name == "sgd" and self.nesterov and not self.momentum:
            yield "nesterov", "needs optimizer.momentum above 0"

    def idle(self) -> Iterator[tuple[str, str]]:
        for name in ("betas", "eps") if self.name == "sgd" else ("momentum", "nesterov"):
            yield name, f"with optimizer {self.name}"


@dataclass(frozen=True, kw_only=True)
class ScheduleRecipe(Section):
    """The learning rate of each step."""

    section: ClassVar[str] = "schedule"

    kind: Literal["cosine", "linear", "constant", "step"] = setting("cosine", "shape after the warm-up")
    warmup_epochs: int = setting(0, "length of the warm-up", unit="epochs", at_least=0)
    warmup: Literal["linear", "constant"] = setting("linear", "rise from 0, or stay at warmup_factor")
    warmup_factor: float = setting(0.1, "constant warm-up: share of the peak rate", at_least=0, at_most=1)
    min_lr: float | None = setting(None, "floor after the warm-up", unit="learning rate", at_least=0)
    decay_epochs: tuple[int, ...] = setting((), "step: when to decay, from the start", unit="epochs", at_least=0)
    decay_ratio: float = setting(0.1, "step: factor of each decay", above=0, at_most=1)
    first_step: Literal["zero", "one"] = setting("zero", "factor of step t in the warm-up of W steps: t/W or (t+1)/W")

    def contradictions(self) -> Iterator[tuple[str, str]]:
        if self.kind == "step" and not self.decay_epochs:
            yield "decay_epochs", "lists no epoch, so a step schedule would never decay; list some, or take 'constant'"
        if list(self.decay_epochs) != sorted(set(self.decay_epochs)):
            yield "decay_epochs", f"must rise, got {list(self.decay_epochs)}"

    def idle(self) -> Iterator[tuple[str, str]]:
        if self.kind != "step":
            yield from ((name, f"with schedule {self.kind}") for name in ("decay_epochs", "decay_ratio"))
        if not self.warmup_epochs:
            yield from ((name, "without warm-up epochs") for name in ("warmup", "first_step"))
        if not self.warmup_epochs or self.warmup == "linear":
            yield "warmup_factor", "without a constant warm-up"


@dataclass(frozen=True, kw_only=True)
class TrainRecipe(Section):
    """How long, how large the steps, and in which arithmetic."""

    section: ClassVar[str] = "train"

    epochs: int = setting(30, "length of the run", unit="epochs", at_least=1)
    max_steps: int | None = setting(None, "stop after so many optimizer steps, if that comes first", at_least=1)
    batch_size: int = setting(128, "of a step, over all ranks and micro-batches", unit="images", at_least=1)
    accumulate: int = setting(1, "micro-batches of each rank in a step", at_least=1)
    clip_norm: float | None = setting(None, "largest L2 norm of the whole gradient; null: no clipping", above=0)
    amp: Literal["none", "bfloat16", "float16"] = setting("none", "autocast of the training forward")
    compile: bool = setting(False, "compile the model; the first steps wait for it")
    compile_mode: Literal["default", "reduce-overhead", "max-autotune"] = setting("default", "of torch.compile")
    compile_backend: Literal["inductor", "aot_eager"] = setting("inductor", "of torch.compile")
    ema_decay: float | None = setting(None, "decay of averaged weights, per step; null: none", above=0, below=1)
    deterministic: bool = setting(False, "refuse operations whose result varies from run to run")
    device: Literal["auto", "cpu", "cuda"] = setting("auto", "auto: a GPU where there is one")
    timeout: int = setting(1800, "longest wait of one rank for another", unit="seconds", at_least=1)
    eval_every: int = setting(1, "between evaluations; the last epoch is always evaluated", unit="epochs", at_least=1)

    def contradictions(self) -> Iterator[tuple[str, str]]:
        if self.batch_size % self.accumulate:
            yield (
                "batch_size",
                f"must divide by train.accumulate, got {self.batch_size} / {self.accumulate} = "
                f"{self.batch_size / self.accumulate:g}",
            )

    def idle(self) -> Iterator[tuple[str, str]]:
        if not self.compile:
            yield from ((name, "while train.compile is false") for name in ("compile_mode", "compile_backend"))


@dataclass(frozen=True, kw_only=True)
class StatisticsRecipe(Section):
    """What is measured of the stream."""

    section: ClassVar[str] = "statistics"

    interval: int | None = setting(None, "between samplings of the stream; null: off", unit="steps", at_least=1)


@dataclass(frozen=True, kw_only=True)
class CheckpointRecipe(Section):
    """What is saved, and what stays."""

    section: ClassVar[str] = "checkpoint"

    every_steps: int | None = setting(None, "between checkpoints; null: none by steps", unit="steps", at_least=1)
    every_epochs: int | None = setting(1, "between checkpoints; null: none by epochs", unit="epochs", at_least=1)
    # The newest one may be the one that a power cut spoilt.
    keep: int = setting(2, "newest checkpoints that stay", at_least=2)
    keep_every_epochs: int | None = setting(
        None, "checkpoints at multiples of this stay for good; null: none", unit="epochs", at_least=1
    )
    best: bool = setting(True, "the checkpoint with the best accuracy stays")


@dataclass(frozen=True, kw_only=True)
class LogRecipe(Section):
    """Where values go."""

    section: ClassVar[str] = "log"

    interval: int = setting(50, "between rows of the log", unit="steps", at_least=1)
    tensorboard: bool = setting(False, "also write TensorBoard files")
    wandb: bool = setting(False, "also send values to Weights & Biases")
    project: str = setting("orthostream", "project there")
    progress: Literal["auto", "bar", "lines", "none"] = setting("auto", "on the terminal; auto: a bar on a terminal")

    def idle(self) -> Iterator[tuple[str, str]]:
        if not self.wandb:
            yield "project", "while log.wandb is false"


@dataclass(frozen=True, kw_only=True)
class Recipe(Section):
    """Everything that a run needs."""

    description: str = setting("", "what the run is; the first line is shown in lists")
    seed: int = setting(42, "of every random choice", at_least=-(2**63), at_most=2**63 - 1)
    model: ModelRecipe = field(default_factory=ModelRecipe)
    connection: ConnectionRecipe = field(default_factory=ConnectionRecipe)
    data: DataRecipe = field(default_factory=DataRecipe)
    augment: AugmentRecipe = field(default_factory=AugmentRecipe)
    optimizer: OptimizerRecipe = field(default_factory=OptimizerRecipe)
    schedule: ScheduleRecipe = field(default_factory=ScheduleRecipe)
    train: TrainRecipe = field(default_factory=TrainRecipe)
    statistics: StatisticsRecipe = field(default_factory=StatisticsRecipe)
    checkpoint: CheckpointRecipe = field(default_factory=CheckpointRecipe)
    log: LogRecipe = field(default_factory=LogRecipe)


SECTIONS: dict[str, type[Section]] = {
    name: kind for name, kind in get_type_hints(Recipe).items() if isinstance(kind, type) and issubclass(kind, Section)
}
