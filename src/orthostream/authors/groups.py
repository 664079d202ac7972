"""Groups of the authors' flags that mean something together, both ways: flags to fields, and a recipe to flags."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from orthostream.authors.connection import CHOOSING_FLAGS, Meaning, Stream, connection_of, flags_of, number_list
from orthostream.authors.flags import FLAGS
from orthostream.recipe import Recipe

PATCH_SIZES = {"mnist": 7, "cifar10": 4, "cifar100": 4, "tiny-imagenet": 8, "imagenet1k": 16}
NOT_FOR_RESNETS = ("mlp_dropout", "drop_path")
VIT_ONLY_AUGMENTS = ("random_erase", "randaugment_N", "randaugment_M")

Values = Mapping[str, Any]
Chosen = Collection[str]


@dataclass(frozen=True)
class Group:
    """Flags that meet in the same fields.

    Args:
        places: fields that the group may set, each with the flags that decide it, the most telling one first.
        meaning: from the values of all flags, and the names of those that were given, to fields.
        flags_of: from a recipe to the flags that mean the same; None where none do.
        choosing: flags of which each makes sense whatever stood there before.
        exclusive: fields that become null where the group does not mean them.
    """

    places: Mapping[str, tuple[str, ...]]
    meaning: Callable[[Values, Chosen], Meaning]
    flags_of: Callable[[Recipe], dict[str, Any] | None]
    choosing: tuple[str, ...] = ()
    exclusive: tuple[str, ...] = ()

    @property
    def flags(self) -> set[str]:
        """All flags that decide anything here."""
        return {flag for flags in self.places.values() for flag in flags}


def stream_of(values: Values) -> Stream:
    """What the chosen model carries."""
    return "tokens" if values["model"] == "vit" else "maps"


def _model(values: Values, chosen: Chosen) -> Meaning:
    fields: dict[str, Any] = {"model.sync_batch_norm": values["model"] != "vit"}
    if values["model"] == "vit":
        fields["model.name"] = f"vit_{values['preset'].lower()}"
        fields |= {f"model.{name}": values[name] for name in NOT_FOR_RESNETS}
        if values["dataset"] in PATCH_SIZES:
            fields["model.patch_size"] = PATCH_SIZES[values["dataset"]]
        idle = ["is_layernorm_classifier"]
    else:
        fields["model.name"] = f"preact_{values['model']}"
        fields["model.norm_head"] = values["is_layernorm_classifier"]
        idle = ["preset", *NOT_FOR_RESNETS]
    meaning = Meaning(fields)
    for name in _given(idle, values, chosen):
        extra = " beyond the name of the run" if name == "preset" else ""
        meaning = meaning.noting(f"{name} has no effect on {values['model']}{extra}, as in the authors' program")
    return meaning


def _given(names: Iterable[str], values: Values, chosen: Chosen) -> list[str]:
    """Which of these flags someone set to another value than the default."""
    return [name for name in names if name in chosen and values[name] != FLAGS[name].default]


def _flags_of_model(recipe: Recipe) -> dict[str, Any] | None:
    family, _, size = recipe.model.name.partition("_")
    options = recipe.model.options
    if family == "vit" and size in ("s", "b", "l", "h"):
        own = {name: options[name] for name in NOT_FOR_RESNETS if name in options}
        return {"model": "vit", "preset": size.upper(), **own}
    if family == "preact" and size.startswith("resnet"):
        return {"model": size, "is_layernorm_classifier": options.get("norm_head", False)}
    return None


def _augment(values: Values, chosen: Chosen) -> Meaning:
    places = ("augment.random_erase", "augment.randaugment_n", "augment.randaugment_m")
    # mnist is not augmented at all.
    if values["model"] == "vit" and values["dataset"] != "mnist":
        fields = dict(zip(places, (values[name] for name in VIT_ONLY_AUGMENTS), strict=True))
        # A magnitude of nothing would only be remarked upon.
        if not fields["augment.randaugment_n"]:
            fields["augment.randaugment_m"] = 0
        return Meaning(fields)
    meaning = Meaning(dict.fromkeys(places, 0))
    if dropped := [name for name in VIT_ONLY_AUGMENTS if values[name] not in (0, FLAGS[name].default)]:
        names = ", ".join(dropped)
        return meaning.noting(f"{names}: dropped, as the authors' program has no such transforms for ResNets and mnist")
    return meaning


def _flags_of_augment(recipe: Recipe) -> dict[str, Any]:
    augment = recipe.augment
    return {
        "random_erase": augment.random_erase,
        "randaugment_N": augment.randaugment_n,
        "randaugment_M": augment.randaugment_m,
    }


def _mixing(values: Values, chosen: Chosen) -> Meaning:
    if values["use_mixup"]:
        fields = {
            "augment.mix_probability": values["mixup_prob"],
            "augment.mixup_alpha": values["mixup_alpha"],
            "augment.cutmix_alpha": values["cutmix_alpha"],
            "augment.cutmix_share": values["cutmix_switch_prob"],
        }
        return Meaning(fields)
    meaning = Meaning({"augment.mix_probability": 0.0})
    idle = _given(("mixup_alpha", "cutmix_alpha", "mixup_prob", "cutmix_switch_prob"), values, chosen)
    return meaning.noting(f"{', '.join(idle)}: no effect without use_mixup") if idle else meaning


def _flags_of_mixing(recipe: Recipe) -> dict[str, Any]:
    augment = recipe.augment
    if not augment.mix_probability:
        return {"use_mixup": False}
    return {
        "use_mixup": True,
        "mixup_prob": augment.mix_probability,
        "mixup_alpha": augment.mixup_alpha,
        "cutmix_alpha": augment.cutmix_alpha,
        "cutmix_switch_prob": augment.cutmix_share,
    }


def _autocast(values: Values, chosen: Chosen) -> Meaning:
    if values["use_amp"]:
        return Meaning({"train.amp": values["amp_dtype"]})
    meaning = Meaning({"train.amp": "none"})
    idle = _given(("amp_dtype",), values, chosen)
    return meaning.noting("amp_dtype has no effect without use_amp") if idle else meaning


def _flags_of_autocast(recipe: Recipe) -> dict[str, Any]:
    return {"use_amp": False} if recipe.train.amp == "none" else {"use_amp": True, "amp_dtype": recipe.train.amp}


def _statistics(values: Values, chosen: Chosen) -> Meaning:
    return Meaning({"statistics.interval": values["log_interval"] if values["log_activations"] else None})


def _flags_of_statistics(recipe: Recipe) -> dict[str, Any]:
    return {"log_activations": recipe.statistics.interval is not None, "log_interval": recipe.log.interval}


def _warmup(values: Values, chosen: Chosen) -> Meaning:
    if values["warmup_type"] == "const" and values["lr_scheduler_type"] == "step":
        return Meaning({"schedule.warmup": "constant"})
    meaning = Meaning({"schedule.warmup": "linear"})
    if values["warmup_type"] == "const":
        return meaning.noting(
            "warmup_type const is for lr_scheduler_type step alone, as in their program; it is linear"
        )
    return meaning


def _flags_of_warmup(recipe: Recipe) -> dict[str, Any]:
    schedule = recipe.schedule
    names = {ours: theirs for theirs, ours in FLAGS["lr_scheduler_type"].words.items()}
    warmup = "const" if schedule.warmup == "constant" else "linear"
    return {"warmup_type": warmup, "lr_scheduler_type": names[schedule.kind]}


def _decay(values: Values, chosen: Chosen) -> Meaning:
    flag = "lr_scheduler_decay_epoch"
    return Meaning({"schedule.decay_epochs": number_list(values[flag], flag)})


def _betas(values: Values, chosen: Chosen) -> Meaning:
    return Meaning({"optimizer.betas": [values["adam_beta1"], values["adam_beta2"]]})


def _epoch_checkpoints(values: Values, chosen: Chosen) -> Meaning:
    epochs = values["save_every_epochs"]
    return Meaning({"checkpoint.every_epochs": epochs, "checkpoint.keep_every_epochs": epochs})


CONNECTION_OPTIONS = {
    "connection.base": ("orthogonal_residual", "orthogonal_method", "residual_pattern"),
    "connection.dim": ("orthogonal_method", "model"),
    "connection.eps": ("orthogonal_eps",),
    "connection.mode": ("residual_rescale_mode",),
    "connection.blocks": ("orthogonal_pattern",),
    "connection.probability": ("orthogonal_prob",),
}
MODEL_OPTIONS = {
    "model.patch_size": ("dataset", "model"),
    "model.mlp_dropout": ("mlp_dropout",),
    "model.drop_path": ("drop_path",),
    "model.norm_head": ("is_layernorm_classifier",),
}

MODEL = Group(
    places={"model.name": ("model", "preset"), "model.sync_batch_norm": ("model",), **MODEL_OPTIONS},
    meaning=_model,
    flags_of=_flags_of_model,
    choosing=("model",),
    exclusive=tuple(MODEL_OPTIONS),
)
CONNECTION = Group(
    places={"connection.name": CHOOSING_FLAGS, **CONNECTION_OPTIONS},
    meaning=lambda values, chosen: connection_of(values, chosen, stream_of(values)),
    flags_of=lambda recipe: flags_of(recipe.connection),
    choosing=CHOOSING_FLAGS,
    exclusive=tuple(CONNECTION_OPTIONS),
)
AUGMENT = Group(
    places={
        "augment.random_erase": ("random_erase", "model", "dataset"),
        "augment.randaugment_n": ("randaugment_N", "model", "dataset"),
        "augment.randaugment_m": ("randaugment_M", "randaugment_N", "model", "dataset"),
    },
    meaning=_augment,
    flags_of=_flags_of_augment,
)
MIXING = Group(
    places={
        "augment.mix_probability": ("mixup_prob", "use_mixup"),
        "augment.mixup_alpha": ("mixup_alpha", "use_mixup"),
        "augment.cutmix_alpha": ("cutmix_alpha", "use_mixup"),
        "augment.cutmix_share": ("cutmix_switch_prob", "use_mixup"),
    },
    meaning=_mixing,
    flags_of=_flags_of_mixing,
)
AUTOCAST = Group(
    places={"train.amp": ("use_amp", "amp_dtype")},
    meaning=_autocast,
    flags_of=_flags_of_autocast,
)
STATISTICS = Group(
    places={"statistics.interval": ("log_activations", "log_interval")},
    meaning=_statistics,
    flags_of=_flags_of_statistics,
)
WARMUP = Group(
    places={"schedule.warmup": ("warmup_type", "lr_scheduler_type")},
    meaning=_warmup,
    flags_of=_flags_of_warmup,
)
DECAY = Group(
    places={"schedule.decay_epochs": ("lr_scheduler_decay_epoch",)},
    meaning=_decay,
    flags_of=lambda recipe: {"lr_scheduler_decay_epoch": recipe.schedule.decay_epochs},
)
BETAS = Group(
    places={"optimizer.betas": ("adam_beta1", "adam_beta2")},
    meaning=_betas,
    flags_of=lambda recipe: dict(zip(("adam_beta1", "adam_beta2"), recipe.optimizer.betas, strict=True)),
)
EPOCH_CHECKPOINTS = Group(
    places=dict.fromkeys(("checkpoint.every_epochs", "checkpoint.keep_every_epochs"), ("save_every_epochs",)),
    meaning=_epoch_checkpoints,
    flags_of=lambda recipe: {"save_every_epochs": recipe.checkpoint.every_epochs},
)

GROUPS = (
    MODEL,
    CONNECTION,
    AUGMENT,
    MIXING,
    AUTOCAST,
    STATISTICS,
    WARMUP,
    DECAY,
    BETAS,
    EPOCH_CHECKPOINTS,
)
