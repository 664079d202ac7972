"""What a run is: typed, frozen sections. Every field carries its meaning, unit and range.

Two sections are open: beside their own fields, ``model`` and ``connection`` take the options of the thing that they
name, inline. Which options there are is said by the tables of models and connections, which a recipe does not know.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from orthostream.recipe.section import Section, kinds_of, setting


@dataclass(frozen=True, kw_only=True)
class ModelRecipe(Section):
    """The network; the options of the named model stand beside these fields."""

    section: ClassVar[str] = "model"
    elsewhere: ClassVar[Mapping[str, str]] = {
        "num_classes": "comes with the data set",
        "in_channels": "comes with the data set",
        "image_size": "is set as data.image_size",
        "context": "is set as data.context",
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

    def remarks(self) -> Iterator[tuple[str, str]]:
        if self.probability is None:
            yield "at_evaluation", "has no effect without connection.probability"


@dataclass(frozen=True, kw_only=True)
class DataRecipe(Section):
    """What is learned from."""

    section: ClassVar[str] = "data"

    name: str = setting("digits", "which data set")
    source: str | None = setting(
        None,
        "folder of parquet files, of the original archive or of classes, a hub id, or a text file; null: the set's own",
    )
    image_size: int | None = setting(None, "side of the images; null: the set's own", unit="pixels", at_least=1)
    context: int | None = setting(None, "of a window of text; null: the set's own", unit="characters", at_least=1)
    held_out: int = setting(0, "training images kept back from training", unit="images", at_least=0)
    evaluate_on: Literal["official", "held_out"] = setting(
        "official", "the set's own evaluation split, or the training images kept back"
    )
    mean: tuple[float, ...] | None = setting(None, "of each channel, for values in [0, 1]; null: the set's own")
    std: tuple[float, ...] | None = setting(None, "likewise; images are divided by it", above=0)
    apply_rotation: bool = setting(False, "turn photographs as the camera noted in EXIF")
    most_pixels: int = setting(
        178_956_970, "an image with more is refused", unit="pixels", at_least=1, at_most=178_956_970
    )
    on_bad_image: Literal["stop", "skip"] = setting(
        "stop", "an unreadable training image: stop, or take another for it, up to one in a thousand"
    )
    pipeline: Literal["auto", "workers", "batched"] = setting(
        "auto", "how images are augmented: one by one in workers, or whole batches on the device; auto: by the data"
    )
    workers: int = setting(0, "loader processes of each rank; 0 loads in the training process", at_least=0)
    eval_batch_size: int = setting(256, "evaluation batch of each rank", unit="images or windows", at_least=1)


@dataclass(frozen=True, kw_only=True)
class AugmentRecipe(Section):
    """How images and targets are changed in training."""

    section: ClassVar[str] = "augment"

    pipeline: Literal["auto", "vit", "resnet", "cnn", "twins", "none"] = setting(
        "auto", "which transforms; auto: by the model"
    )
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

    def remarks(self) -> Iterator[tuple[str, str]]:
        if not self.randaugment_n:
            yield "randaugment_m", "has no effect while augment.randaugment_n is 0"
        if not self.mix_probability:
            for name in ("mixup_alpha", "cutmix_alpha"):
                yield name, "has no effect while augment.mix_probability is 0"
        if not (self.mix_probability and self.mixup_alpha and self.cutmix_alpha):
            yield "cutmix_share", "has no effect unless both mixup and cutmix are on"


@dataclass(frozen=True, kw_only=True)
class OptimizerRecipe(Section):
    """How weights move."""

    section: ClassVar[str] = "optimizer"

    name: Literal["sgd", "adam", "adamw", "lars"] = setting(
        "adam", "adam adds weight decay to the gradient, adamw does not; lars adapts the rate of each layer"
    )
    lr: float = setting(1e-3, "peak learning rate", above=0)
    weight_decay: float = setting(0.0, "of all parameters; lars: of weights", at_least=0)
    betas: tuple[float, float] = setting((0.9, 0.999), "adam, adamw: decay of both averages", at_least=0, below=1)
    momentum: float = setting(0.9, "sgd, lars: momentum", at_least=0, below=1)
    nesterov: bool = setting(False, "sgd: Nesterov's form of momentum")
    eps: float = setting(1e-8, "adam, adamw: added to the denominator", at_least=0)
    trust: float = setting(0.001, "lars: factor on the ratio of norms", above=0)
    vector_lr: float = setting(1.0, "lars: share of the learning rate that biases and norms have", above=0)
    orthogonalize: Literal["none", "weights", "paper", "conv", "muon", "timm"] = setting(
        "none", "which gradients become their polar factor before the step; weights: of all layers"
    )
    normalize: Literal["none", "whole", "component"] = setting(
        "none", "divide gradients by their norm instead: of the whole tensor, or of each component"
    )
    equal_length: bool = setting(False, "normalize: results are as long as polar factors, so that steps compare")
    polar_method: str = setting("auto", "orthogonalize: how polar factors are computed")
    polar_steps: int | None = setting(None, "orthogonalize: steps of an iteration; null: by accuracy", at_least=1)
    polar_tol: float | None = setting(None, "orthogonalize: wanted accuracy; null: the method's own", above=0)
    polar_completion: Literal["partial", "svd"] = setting(
        "partial", "orthogonalize: directions without gradient stay zero, or are filled as an SVD does"
    )
    polar_precision: Literal["float32", "bfloat16", "float64"] = setting("float32", "orthogonalize: of the iteration")
    scale: Literal["none", "muon", "moonlight", "spectral"] = setting(
        "none", "orthogonalize: convention of a factor by shape"
    )

    def contradictions(self) -> Iterator[tuple[str, str]]:
        if self.name == "sgd" and self.nesterov and not self.momentum:
            yield "nesterov", "needs optimizer.momentum above 0"
        if self.orthogonalize != "none" and self.normalize != "none":
            yield "normalize", "cannot stand with optimizer.orthogonalize; set one of them to none"

    def remarks(self) -> Iterator[tuple[str, str]]:
        used = {
            "sgd": {"momentum", "nesterov"},
            "adam": {"betas", "eps"},
            "adamw": {"betas", "eps"},
            "lars": {"momentum", "trust", "vector_lr"},
        }
        for name in ("betas", "eps", "momentum", "nesterov", "trust", "vector_lr"):
            if name not in used[self.name]:
                yield name, f"has no effect with optimizer {self.name}"
        if self.normalize == "none":
            yield "equal_length", "has no effect while optimizer.normalize is none"
        if self.orthogonalize == "none":
            for name in ("polar_method", "polar_steps", "polar_tol", "polar_completion", "polar_precision", "scale"):
                yield name, "has no effect while optimizer.orthogonalize is none"


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

    def remarks(self) -> Iterator[tuple[str, str]]:
        if self.kind != "step":
            for name in ("decay_epochs", "decay_ratio"):
                yield name, f"has no effect with schedule {self.kind}"
        if not self.warmup_epochs:
            for name in ("warmup", "first_step"):
                yield name, "has no effect without warm-up epochs"
        if not self.warmup_epochs or self.warmup == "linear":
            yield "warmup_factor", "has no effect without a constant warm-up"


@dataclass(frozen=True, kw_only=True)
class TrainRecipe(Section):
    """How long, how large the steps, and in which arithmetic."""

    section: ClassVar[str] = "train"

    epochs: int = setting(30, "length of the run", unit="epochs", at_least=1)
    max_steps: int | None = setting(None, "stop after so many optimizer steps, if that comes first", at_least=1)
    batch_size: int = setting(128, "of a step, over all ranks and micro-batches", unit="images or windows", at_least=1)
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

    def remarks(self) -> Iterator[tuple[str, str]]:
        if not self.compile:
            for name in ("compile_mode", "compile_backend"):
                yield name, "has no effect while train.compile is false"


@dataclass(frozen=True, kw_only=True)
class StatisticsRecipe(Section):
    """What is measured of the stream."""

    section: ClassVar[str] = "statistics"

    interval: int | None = setting(None, "between samplings of the stream; null: off", unit="steps", at_least=1)
    diagnostics: bool = setting(
        False, "at the same steps: similarity of representations, temporarily dead parameters (arXiv:2202.07052)"
    )

    def contradictions(self) -> Iterator[tuple[str, str]]:
        if self.diagnostics and self.interval is None:
            yield "diagnostics", "needs statistics.interval, the steps at which they are taken"


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
    best: bool = setting(True, "the checkpoint with the best accuracy, or fewest bits per character, stays")


@dataclass(frozen=True, kw_only=True)
class LogRecipe(Section):
    """Where values go."""

    section: ClassVar[str] = "log"

    interval: int = setting(50, "between rows of the log", unit="steps", at_least=1)
    tensorboard: bool = setting(False, "also write TensorBoard files")
    wandb: bool = setting(False, "also send values to Weights & Biases")
    project: str = setting("orthostream", "project there")
    progress: Literal["auto", "bar", "lines", "none"] = setting("auto", "on the terminal; auto: a bar on a terminal")

    def remarks(self) -> Iterator[tuple[str, str]]:
        if not self.wandb:
            yield "project", "has no effect while log.wandb is false"


@dataclass(frozen=True, kw_only=True)
class Recipe(Section):
    """Everything that a run needs."""

    description: str = setting("", "what the run is; the first line is shown in lists")
    seed: int = setting(42, "of every random choice", at_least=0, at_most=2**63 - 1)
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

    def remarks(self) -> Iterator[tuple[str, str]]:
        if self.schedule.warmup_epochs >= self.train.epochs:
            yield (
                "schedule.warmup_epochs",
                f"is {self.schedule.warmup_epochs}, and training ends after {self.train.epochs}: the learning rate "
                "never leaves the warm-up",
            )


SECTIONS: dict[str, type[Section]] = {
    name: kind for name, kind in kinds_of(Recipe).items() if isinstance(kind, type) and issubclass(kind, Section)
}
