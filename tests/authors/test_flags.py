"""Every flag of the authors' program is accepted and reaches the field of a recipe that means the same."""

import pytest

from orthostream import connections, models
from orthostream.authors import Translation, translate
from orthostream.authors.flags import AUTHORS_FLAGS, FLAGS
from orthostream.authors.groups import GROUPS
from orthostream.authors.request import parser
from orthostream.errors import UsageError
from orthostream.recipe.save import flat

TABLES = {"model": models.table, "connection": connections.table}

# Defaults of the authors' program, from the table of its flags.
AUTHORS_DEFAULTS = {
    "project": "ortho-classifier",
    "config_file": None,
    "seed": 42,
    "results_dir": "results-classifier",
    "dataset": "mnist",
    "model": "vit",
    "preset": "B",
    "orthogonal_residual": False,
    "orthogonal_prob": None,
    "orthogonal_method": "feature",
    "orthogonal_pattern": None,
    "orthogonal_eps": 1e-6,
    "orthogonal_perturbation": None,
    "residual_pattern": "default",
    "residual_rescale_mode": "scalar",
    "mlp_dropout": 0.0,
    "drop_path": 0.0,
    "is_layernorm_classifier": False,
    "epochs": 30,
    "warmup_epoch": 5,
    "warmup_type": "linear",
    "warmup_const": 0.1,
    "max_train_steps": 600_000,
    "global_batch_size": 128,
    "grad_accumulate_steps": 1,
    "gradient_checkpointing": "none",
    "torch_compile": False,
    "torch_compile_mode": "default",
    "torch_compile_backend": "inductor",
    "use_amp": False,
    "amp_dtype": "bfloat16",
    "optimizer": "adam",
    "momentum": 0.9,
    "grad_clip": None,
    "weight_decay": 0.001,
    "adam_beta1": 0.9,
    "adam_beta2": 0.999,
    "lr": 1e-4,
    "min_lr": None,
    "lr_scheduler_type": "cos",
    "lr_scheduler_decay_epoch": None,
    "lr_scheduler_decay_ratio": 0.1,
    "log_activations": False,
    "log_interval": 50,
    "save_every_steps": 5000,
    "save_every_epochs": 10,
    "use_mixup": False,
    "mixup_alpha": 0.2,
    "label_smoothing": 0.1,
    "cutmix_alpha": 1.0,
    "cutmix_switch_prob": 0.5,
    "mixup_prob": 0.5,
    "random_erase": 0.0,
    "randaugment_N": 3,
    "randaugment_M": 7,
    "debug": False,
}

# The arguments, and what they must set.
REACHES = {
    "project": ("--project mine", {"log.project": "mine"}),
    "seed": ("--seed 3", {"seed": 3}),
    "dataset": ("--dataset tiny-imagenet", {"data.name": "tiny-imagenet", "model.patch_size": 8}),
    "model": ("--model resnet34", {"model.name": "preact_resnet34", "model.sync_batch_norm": True}),
    "preset": ("--preset L", {"model.name": "vit_l"}),
    "orthogonal_residual": ("--orthogonal_residual", {"connection.name": "orthogonal"}),
    "orthogonal_prob": ("--orthogonal_prob 0.25", {"connection.name": "orthogonal", "connection.probability": 0.25}),
    "orthogonal_method": ("--orthogonal_residual --orthogonal_method global", {"connection.dim": [1, 2]}),
    "orthogonal_pattern": ("--orthogonal_pattern 0,2", {"connection.name": "orthogonal", "connection.blocks": [0, 2]}),
    "orthogonal_eps": ("--orthogonal_residual --orthogonal_eps 1e-3", {"connection.eps": 1e-3}),
    "orthogonal_perturbation": ("--orthogonal_perturbation 0.1", {"connection.perturbation": 0.1}),
    "residual_pattern": ("--residual_pattern rezero", {"connection.name": "rezero", "connection.base": "linear"}),
    "residual_rescale_mode": (
        "--model resnet18 --residual_pattern rescale_stream --residual_rescale_mode conv1x1",
        {"connection.name": "rescale_stream", "connection.mode": "conv1x1"},
    ),
    "mlp_dropout": ("--mlp_dropout 0.1", {"model.mlp_dropout": 0.1}),
    "drop_path": ("--drop_path 0.2", {"model.drop_path": 0.2}),
    "is_layernorm_classifier": ("--model resnet18 --is_layernorm_classifier", {"model.norm_head": True}),
    "epochs": ("--epochs 7", {"train.epochs": 7}),
    "warmup_epoch": ("--warmup_epoch 2", {"schedule.warmup_epochs": 2}),
    "warmup_type": (
        "--lr_scheduler_type step --lr_scheduler_decay_epoch 3 --warmup_type const",
        {"schedule.warmup": "constant"},
    ),
    "warmup_const": ("--warmup_const 0.3", {"schedule.warmup_factor": 0.3}),
    "max_train_steps": ("--max_train_steps 20", {"train.max_steps": 20}),
    "global_batch_size": ("--global_batch_size 64", {"train.batch_size": 64}),
    "grad_accumulate_steps": ("--grad_accumulate_steps 4", {"train.accumulate": 4}),
    "gradient_checkpointing": ("--gradient_checkpointing unsloth", {"model.gradient_checkpointing": True}),
    "torch_compile": ("--torch_compile", {"train.compile": True}),
    "torch_compile_mode": ("--torch_compile_mode max-autotune", {"train.compile_mode": "max-autotune"}),
    "torch_compile_backend": ("--torch_compile_backend aot_eager", {"train.compile_backend": "aot_eager"}),
    "use_amp": ("--use_amp", {"train.amp": "bfloat16"}),
    "amp_dtype": ("--use_amp --amp_dtype float16", {"train.amp": "float16"}),
    "optimizer": ("--optimizer sgd", {"optimizer.name": "sgd"}),
    "momentum": ("--optimizer sgd --momentum 0.5", {"optimizer.momentum": 0.5}),
    "grad_clip": ("--grad_clip 1.0", {"train.clip_norm": 1.0}),
    "weight_decay": ("--weight_decay 0.05", {"optimizer.weight_decay": 0.05}),
    "adam_beta1": ("--adam_beta1 0.8", {"optimizer.betas": [0.8, 0.999]}),
    "adam_beta2": ("--adam_beta2 0.99", {"optimizer.betas": [0.9, 0.99]}),
    "lr": ("--lr 5e-4", {"optimizer.lr": 5e-4}),
    "min_lr": ("--min_lr 1e-6", {"schedule.min_lr": 1e-6}),
    "lr_scheduler_type": ("--lr_scheduler_type lin", {"schedule.kind": "linear"}),
    "lr_scheduler_decay_epoch": (
        "--lr_scheduler_type step --lr_scheduler_decay_epoch 80,120",
        {"schedule.kind": "step", "schedule.decay_epochs": [80, 120]},
    ),
    "lr_scheduler_decay_ratio": ("--lr_scheduler_decay_ratio 0.2", {"schedule.decay_ratio": 0.2}),
    "log_activations": ("--log_activations", {"statistics.interval": 50}),
    "log_interval": ("--log_activations --log_interval 5", {"statistics.interval": 5, "log.interval": 5}),
    "save_every_steps": ("--save_every_steps 100", {"checkpoint.every_steps": 100}),
    "save_every_epochs": (
        "--save_every_epochs 3",
        {"checkpoint.every_epochs": 3, "checkpoint.keep_every_epochs": 3},
    ),
    "use_mixup": ("--use_mixup", {"augment.mix_probability": 0.5}),
    "mixup_alpha": ("--use_mixup --mixup_alpha 0.8", {"augment.mixup_alpha": 0.8}),
    "label_smoothing": ("--label_smoothing 0.3", {"augment.label_smoothing": 0.3}),
    "cutmix_alpha": ("--use_mixup --cutmix_alpha 0.7", {"augment.cutmix_alpha": 0.7}),
    "cutmix_switch_prob": ("--use_mixup --cutmix_switch_prob 0.1", {"augment.cutmix_share": 0.1}),
    "mixup_prob": ("--use_mixup --mixup_prob 1.0", {"augment.mix_probability": 1.0}),
    "random_erase": ("--random_erase 0.25", {"augment.random_erase": 0.25}),
    "randaugment_N": ("--randaugment_N 9", {"augment.randaugment_n": 9}),
    "randaugment_M": ("--randaugment_M 5", {"augment.randaugment_m": 5}),
    "data_dir": ("--data_dir cifar", {"data.source": "cifar"}),
    "num_workers": ("--num_workers 2", {"data.workers": 2}),
    "device": ("--device cpu", {"train.device": "cpu"}),
    "deterministic": ("--deterministic", {"train.deterministic": True}),
}
# What is about the run and not about the recipe, with the attribute of the translation that carries it.
OUTSIDE = {
    "config_file": None,
    "results_dir": "results_dir",
    "run_dir": "run_dir",
    "resume": "resume",
    "overwrite": "overwrite",
    "debug": "debug",
}


def translated(arguments: str) -> Translation:
    # mnist, the default, is not augmented.
    dataset = "" if "--dataset" in arguments else "--dataset cifar10 "
    return translate((dataset + arguments).split(), TABLES)


def test_the_table_has_the_authors_flags_and_defaults():
    assert {flag.name: flag.default for flag in AUTHORS_FLAGS} == AUTHORS_DEFAULTS


@pytest.mark.parametrize("flag", REACHES)
def test_each_flag_reaches_its_field(flag):
    arguments, expected = REACHES[flag]
    assert f"--{flag}" in arguments
    before, after = flat(translated("").resolved.recipe), translated(arguments).resolved
    values = flat(after.recipe)
    assert {place: values[place] for place in expected} == expected
    assert any(before.get(place) != value for place, value in expected.items()), "the flag changes something"
    assert all(after.sources[place] == "command line" for place in expected)


def test_no_flag_is_dead():
    assert {*REACHES, *OUTSIDE} == set(FLAGS)
    read = {name for name, flag in FLAGS.items() if flag.place} | {name for group in GROUPS for name in group.flags}
    assert set(FLAGS) - read == set(OUTSIDE)


def test_what_is_about_the_run():
    chosen = translated("--results_dir out --run_dir out/mine --resume --debug")
    assert (str(chosen.results_dir), str(chosen.run_dir)) == ("out", "out/mine")
    assert chosen.resume
    assert chosen.debug
    assert not chosen.overwrite
    assert translated("--run_dir out --overwrite").overwrite


@pytest.mark.parametrize("switch", [name for name, flag in FLAGS.items() if flag.kind is bool])
def test_every_switch_can_be_switched_off(switch):
    helped = parser().format_help()
    assert f"--{switch}" in helped
    assert f"--no_{switch}" in helped
    extra = " --run_dir x" if switch in ("resume", "overwrite") else ""
    on, off = translated(f"--{switch}{extra}"), translated(f"--no_{switch}{extra}")
    if switch in OUTSIDE:
        assert (getattr(on, OUTSIDE[switch]), getattr(off, OUTSIDE[switch])) == (True, False)
    with pytest.raises(UsageError, match="not allowed with argument"):
        translated(f"--{switch} --no_{switch}{extra}")


def test_without_flags_the_recipe_has_the_authors_defaults():
    values = flat(translate(["--dataset", "cifar10"], TABLES).resolved.recipe)
    expected = {
        "seed": 42,
        "model.name": "vit_b",
        "model.patch_size": 4,
        "connection.name": "linear",
        "optimizer.name": "adam",
        "optimizer.lr": 1e-4,
        "optimizer.weight_decay": 1e-3,
        "schedule.kind": "cosine",
        "schedule.warmup_epochs": 5,
        "schedule.first_step": "zero",
        "train.epochs": 30,
        "train.max_steps": 600_000,
        "train.batch_size": 128,
        "augment.mix_probability": 0.0,
        "augment.label_smoothing": 0.1,
        "augment.randaugment_n": 3,
        "augment.randaugment_m": 7,
        "statistics.interval": None,
        "checkpoint.every_steps": 5000,
        "log.project": "ortho-classifier",
    }
    assert {place: values[place] for place in expected} == expected


def test_values_nobody_gave_say_whose_default_they_are():
    resolved = translated("--lr 1e-3").resolved
    assert resolved.sources["optimizer.lr"] == "command line"
    assert resolved.sources["optimizer.weight_decay"] == "default of train_classifier.py"
    assert resolved.sources["optimizer.eps"] == "default"
    assert resolved.notes == ()


def test_fields_of_a_recipe_can_be_set_beside_flags():
    recipe = translated("log.wandb=true --lr 1e-3 train.ema_decay=0.99 --epochs 2").resolved.recipe
    assert (recipe.log.wandb, recipe.train.ema_decay, recipe.optimizer.lr, recipe.train.epochs) == (True, 0.99, 1e-3, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--modle vit", "command line: unknown flag '--modle': did you mean --model"),
        ("--orthogonal", "command line: unknown flag '--orthogonal'"),
        ("--model vti", "command line: model: unknown value 'vti': did you mean vit?"),
        ("--epochs 3.5", "command line: epochs: expected a whole number, got 3.5"),
        ("--lr fast --epochs x", "command line: lr: expected a number, got 'fast'\ncommand line: epochs: expected"),
        ("--lr", "command line: argument --lr: expected one argument"),
        ("--lr 0", "command line: optimizer.lr: must be above 0, got 0.0"),
        ("--global_batch_size 9 --grad_accumulate_steps 2", "command line: train.batch_size: must divide by"),
        ("--use_mixup --mixup_alpha 0 --cutmix_alpha 0", "command line: augment.mix_probability: needs"),
        ("--lr_scheduler_type step", "default of train_classifier.py: schedule.decay_epochs: lists no epoch"),
        ("--lr_scheduler_decay_epoch 80;120", "lr_scheduler_decay_epoch is a list of whole numbers such as 0,2,4"),
        ("--torch_compile_backend aot_ts", "command line: torch_compile_backend aot_ts is not supported"),
        ("--dataset imagenet1k-latents", "command line: dataset imagenet1k-latents is not supported"),
        ("--dataset tiny-imagenet-randaug", "command line: dataset tiny-imagenet-randaug is not supported"),
        ("--resume", "--resume and --overwrite need the run folder"),
        ("file", "command line: 'file' is not of the form field=value"),
        ("--gradient_checkpointing null", "command line: gradient_checkpointing: unknown value 'null'"),
    ],
)
def test_refusals(arguments, message):
    with pytest.raises(UsageError) as caught:
        translated(arguments)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("arguments", "note"),
    [
        ("--gradient_checkpointing unsloth", "gradient_checkpointing unsloth: each block is computed again by torch"),
        ("--max_train_steps 3", "max_train_steps: 3 optimizer steps and no more"),
        ("--orthogonal_perturbation 0.1", "orthogonal_perturbation is added in training only"),
        ("--save_every_steps 10", "save_every_steps: of these checkpoints the newest two stay"),
        ("--grad_clip None", "command line: grad_clip: 'None' is read as null"),
        ("--warmup_type const", "warmup_type const is for lr_scheduler_type step alone"),
        ("--amp_dtype float16", "amp_dtype has no effect without use_amp"),
        ("--mixup_alpha 0.8", "mixup_alpha: no effect without use_mixup"),
        ("--is_layernorm_classifier", "is_layernorm_classifier has no effect on vit"),
        ("--model resnet18 --drop_path 0.1", "drop_path has no effect on resnet18"),
        ("--model resnet18 --preset S", "preset has no effect on resnet18 beyond the name of the run"),
        ("--model resnet18 --random_erase 0.25", "random_erase: dropped"),
        ("--dataset mnist --randaugment_N 9", "randaugment_N: dropped"),
        ("--momentum 0.5", "command line: optimizer.momentum has no effect with optimizer adam"),
    ],
)
def test_decisions_and_flags_without_effect_are_noted(arguments, note):
    notes = translated(arguments).resolved.notes
    assert len(notes) == 1
    assert notes[0].startswith(note)


def test_resnets_are_not_erased():
    augment = translated("--model resnet18 --random_erase 0.25 --randaugment_N 9").resolved.recipe.augment
    assert (augment.random_erase, augment.randaugment_n, augment.randaugment_m) == (0.0, 0, 0)


def test_help_says_that_python_files_are_run(capsys):
    with pytest.raises(SystemExit) as caught:
        translate(["--help"])
    assert caught.value.code == 0
    assert "is run: it can do anything" in capsys.readouterr().out
