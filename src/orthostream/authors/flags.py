"""The flags of the authors' training program: name, kind, default and meaning, and the field of a recipe.

Source: ``train_classifier.py`` of the code of Oh et al., arXiv:2505.11881, as of October 2025.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

DATASETS = Literal[
    "mnist", "cifar10", "cifar100", "imagenet1k", "imagenet1k-latents", "tiny-imagenet", "tiny-imagenet-randaug"
]
MODELS = Literal["vit", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152"]
PATTERNS = Literal["default", "none", "rezero", "rezero_constrained", "rescale_stream"]
# Block indices and epochs are written as "0,2,4"; YAML makes a number of a single one.
NumberList = str | int | tuple[int, ...] | None


@dataclass(frozen=True)
class Flag:
    """One flag.

    Args:
        name: without its dashes.
        kind: annotation of its value; bool makes a pair of switches, ``--name`` and ``--no_name``.
        default: of the authors' program.
        meaning: for ``--help``.
        place: the field of a recipe that takes its value as it is; None where several flags meet.
        words: where the values of that field are called otherwise.
    """

    name: str
    kind: Any
    default: Any
    meaning: str
    place: str | None = None
    words: Mapping[str, Any] = field(default_factory=dict[str, Any])


SCHEDULES = {"cos": "cosine", "lin": "linear", "const": "constant", "step": "step"}

AUTHORS_FLAGS = (
    Flag("project", str, "ortho-classifier", "project of the tracker", "log.project"),
    Flag("config_file", str | None, None, "recipe, YAML or Python; a Python file is run, so it can do anything"),
    Flag("seed", int, 42, "of every random choice", "seed"),
    Flag("results_dir", str, "results-classifier", "parent of the run folders"),
    Flag("dataset", DATASETS, "mnist", "data set", "data.name"),
    Flag("model", MODELS, "vit", "architecture"),
    Flag("preset", Literal["S", "B", "L", "H"], "B", "size of the ViT"),
    Flag("orthogonal_residual", bool, False, "orthogonal updates instead of plain sums"),
    Flag("orthogonal_prob", float | None, None, "chance of a block to be orthogonal in a step"),
    Flag("orthogonal_method", str, "feature", "feature, global or negative"),
    Flag("orthogonal_pattern", NumberList, None, "these blocks are orthogonal, the rest linear, such as 0,2,4"),
    Flag("orthogonal_eps", float, 1e-6, "added to the squared norm"),
    Flag("orthogonal_perturbation", float | None, None, "scale of noise on updates", "connection.perturbation"),
    Flag("residual_pattern", PATTERNS, "default", "what is learned at each connection"),
    Flag("residual_rescale_mode", Literal["scalar", "conv1x1"], "scalar", "for rescale_stream"),
    Flag("mlp_dropout", float, 0.0, "dropout in the MLPs of a ViT"),
    Flag("drop_path", float, 0.0, "stochastic depth of a ViT, the same in all blocks"),
    Flag("is_layernorm_classifier", bool, False, "LayerNorm before the head of a ResNet"),
    Flag("epochs", int, 30, "length of the run", "train.epochs"),
    Flag("warmup_epoch", int, 5, "length of the warm-up in epochs", "schedule.warmup_epochs"),
    Flag("warmup_type", Literal["linear", "const"], "linear", "of a step schedule"),
    Flag("warmup_const", float, 0.1, "factor of a constant warm-up", "schedule.warmup_factor"),
    Flag("max_train_steps", int, 600_000, "stop after so many optimizer steps", "train.max_steps"),
    Flag("global_batch_size", int, 128, "images a step, over all ranks and micro-batches", "train.batch_size"),
    Flag("grad_accumulate_steps", int, 1, "micro-batches a step", "train.accumulate"),
    Flag(
        "gradient_checkpointing",
        Literal["none", "torch", "unsloth"],
        "none",
        "compute the activations of each block again",
        "model.gradient_checkpointing",
        {"none": False, "torch": True, "unsloth": True},
    ),
    Flag("torch_compile", bool, False, "compile the model", "train.compile"),
    Flag(
        "torch_compile_mode",
        Literal["default", "reduce-overhead", "max-autotune"],
        "default",
        "of torch.compile",
        "train.compile_mode",
    ),
    Flag(
        "torch_compile_backend",
        Literal["inductor", "aot_eager", "aot_ts"],
        "inductor",
        "of torch.compile",
        "train.compile_backend",
    ),
    Flag("use_amp", bool, False, "autocast of the training forward"),
    Flag("amp_dtype", Literal["bfloat16", "float16"], "bfloat16", "of autocast"),
    Flag("optimizer", Literal["sgd", "adam"], "adam", "adam adds weight decay to the gradient", "optimizer.name"),
    Flag("momentum", float, 0.9, "of sgd", "optimizer.momentum"),
    Flag("grad_clip", float | None, None, "largest norm of the whole gradient", "train.clip_norm"),
    Flag("weight_decay", float, 0.001, "of all parameters", "optimizer.weight_decay"),
    Flag("adam_beta1", float, 0.9, "of adam"),
    Flag("adam_beta2", float, 0.999, "of adam"),
    Flag("lr", float, 1e-4, "peak learning rate", "optimizer.lr"),
    Flag("min_lr", float | None, None, "floor after the warm-up", "schedule.min_lr"),
    Flag("lr_scheduler_type", Literal["cos", "lin", "const", "step"], "cos", "schedule", "schedule.kind", SCHEDULES),
    Flag("lr_scheduler_decay_epoch", NumberList, None, "epochs of a step schedule, such as 80,120"),
    Flag("lr_scheduler_decay_ratio", float, 0.1, "factor of each decay", "schedule.decay_ratio"),
    Flag("log_activations", bool, False, "statistics of the stream"),
    Flag("log_interval", int, 50, "steps between rows of the log, and between statistics", "log.interval"),
    Flag("save_every_steps", int, 5000, "steps between checkpoints", "checkpoint.every_steps"),
    Flag("save_every_epochs", int, 10, "epochs between checkpoints"),
    Flag("use_mixup", bool, False, "mixup and cutmix"),
    Flag("mixup_alpha", float, 0.2, "of mixup"),
    Flag("label_smoothing", float, 0.1, "with and without mixup", "augment.label_smoothing"),
    Flag("cutmix_alpha", float, 1.0, "of cutmix"),
    Flag("cutmix_switch_prob", float, 0.5, "chance of cutmix instead of mixup"),
    Flag("mixup_prob", float, 0.5, "chance to mix a batch"),
    Flag("random_erase", float, 0.0, "chance to erase a rectangle (ViT)"),
    Flag("randaugment_N", int, 3, "RandAugment operations an image (ViT)"),
    Flag("randaugment_M", int, 7, "RandAugment magnitude (ViT)"),
    Flag("debug", bool, False, "log everything"),
)

# What the authors' program does not have.
OUR_FLAGS = (
    Flag("data_dir", str | None, None, "folder of the data set; without it, its own place", "data.source"),
    Flag("num_workers", int, 4, "loader processes of each rank", "data.workers"),
    Flag("run_dir", str | None, None, "the run folder itself, instead of a new one in --results_dir"),
    Flag("resume", bool, False, "go on with the run in --run_dir"),
    Flag("overwrite", bool, False, "delete the run in --run_dir first"),
    Flag("device", Literal["auto", "cpu", "cuda"], "auto", "auto: a GPU where there is one", "train.device"),
    Flag("deterministic", bool, False, "refuse operations whose result varies", "train.deterministic"),
)

FLAGS = {flag.name: flag for flag in (*AUTHORS_FLAGS, *OUR_FLAGS)}
