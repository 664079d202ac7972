"""Files behind --config_file: flat with flags as keys, in the layout of a recipe, and Python."""

from pathlib import Path

import pytest

from locations import REPOSITORY
from orthostream import connections, models
from orthostream.authors import Translation, translate
from orthostream.errors import UsageError
from orthostream.recipe import Recipe, differences, load
from orthostream.recipe.save import flat

TABLES = {"model": models.table, "connection": connections.table}

# The authors' vit_s_cifar10, with the "None" that stops their own program.
FLAT = """\
dataset: cifar10
model: vit
preset: S
optimizer: adam
global_batch_size: 1024
lr: 1e-3
weight_decay: 1e-4
epochs: 300
warmup_epoch: 10
lr_scheduler_type: cos
grad_clip: None
use_mixup: true
mixup_alpha: 0.8
cutmix_alpha: 1.0
mixup_prob: 1.0
label_smoothing: 0.1
random_erase: 0.25
randaugment_N: 9
randaugment_M: 5
torch_compile: true
use_amp: false
log_activations: true
log_interval: 50
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def with_file(text: str, arguments: str = "", name: str = "a.yaml") -> Translation:
    Path(name).write_text(text)
    return translate(["--config_file", name, *arguments.split()], TABLES)


def refusal(text: str, arguments: str = "", name: str = "a.yaml") -> str:
    with pytest.raises(UsageError) as caught:
        with_file(text, arguments, name)
    return str(caught.value)


class TestFlat:
    def test_it_means_the_shipped_recipe(self):
        translation = with_file(FLAT)
        ours = load("vit_s_cifar10", tables=TABLES).recipe
        changed = {line.split(":")[0] for line in differences(ours, translation.resolved.recipe)}
        # What the authors' file leaves to the defaults of their program, and what their program cannot say.
        assert changed == {
            "model.mlp_dropout",
            "model.drop_path",
            "train.max_steps",
            "checkpoint.keep_every_epochs",
            "log.project",
        }
        assert translation.resolved.notes == ("a.yaml:11: grad_clip: 'None' is read as null",)

    def test_values_say_their_line(self):
        sources = with_file(FLAT, "--lr 0.5").resolved.sources
        assert sources["train.epochs"] == "a.yaml:8"
        assert sources["model.patch_size"] == "a.yaml:1"
        assert sources["optimizer.lr"] == "command line"
        assert sources["optimizer.momentum"] == "default of train_classifier.py"

    def test_flags_win_and_switch_off(self):
        recipe = with_file(
            FLAT + "orthogonal_residual: true\n",
            "--no_orthogonal_residual --no_torch_compile --no_use_mixup --preset B",
        ).resolved.recipe
        assert (recipe.connection.name, recipe.train.compile, recipe.model.name) == ("linear", False, "vit_b")
        assert recipe.augment.mix_probability == 0

    def test_no_orthogonal_residual_is_a_key_too(self):
        assert with_file("dataset: cifar10\nno_orthogonal_residual: true\n").resolved.recipe.connection.name == "linear"
        chosen = with_file("dataset: cifar10\nno_orthogonal_residual: true\n", "--orthogonal_residual").resolved
        assert chosen.recipe.connection.name == "orthogonal"

    @pytest.mark.parametrize("written", ["'80,120'", "80,120", "[80, 120]"])
    def test_lists_of_numbers(self, written):
        text = f"dataset: cifar10\nlr_scheduler_type: step\nlr_scheduler_decay_epoch: {written}\n"
        assert with_file(text).resolved.recipe.schedule.decay_epochs == (80, 120)
        assert with_file("dataset: cifar10\northogonal_pattern: 3\n").resolved.recipe.connection.blocks == (3,)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("dataset: cifar10\nlearning_rate: 1\n", "a.yaml:2: unknown key 'learning_rate'"),
            ("datset: cifar10\nlr: 1\n", "a.yaml:1: unknown key 'datset': did you mean dataset"),
            ("optimizer: rmsprop\n", "a.yaml:1: optimizer: unknown value 'rmsprop': known: adam, sgd"),
            ("epochs: 3.5\n", "a.yaml:1: epochs: expected a whole number, got 3.5"),
            ("lr: 1\nlr: 2\n", "a.yaml:2: 'lr' is given twice, first on line 1"),
            ("use_amp: 1\n", "a.yaml:1: use_amp: expected true or false, got 1"),
            ("use_amp: None\n", "a.yaml:1: use_amp: expected true or false, got 'None'"),
            ("lr: None\n", "a.yaml:1: lr: expected a number, got 'None'"),
            ("dataset: no\n", "a.yaml:1: dataset: expected one of mnist"),
            ("lr: 0\n", "a.yaml:1: optimizer.lr: must be above 0"),
            ("config_file: b.yaml\n", "a.yaml:1: a configuration file cannot name another one"),
            ("lr: 1\nepochs: 3\ntrain: {epochs: 3}\n", "a.yaml:3: unknown key 'train'"),
            ("- 1\n", "a.yaml:1: a configuration file is a mapping, got a list"),
        ],
    )
    def test_refusals(self, text, message):
        assert refusal(text).startswith(message)

    def test_all_mistakes_are_told(self):
        assert refusal("lr: x\nepochs: y\n", "--model z").splitlines()[0].startswith("a.yaml:1: lr")
        assert len(refusal("lr: x\nepochs: y\n", "--model z").splitlines()) == 3


class TestRecipe:
    def test_the_command_of_the_readme(self):
        arguments = "--orthogonal_residual --orthogonal_method feature --data_dir data/cifar10 --max_train_steps 20"
        file = REPOSITORY / "recipes" / "vit_s_cifar10.yaml"
        translation = translate(["--config_file", str(file), *arguments.split()], TABLES)
        assert differences(load("vit_s_cifar10", tables=TABLES).recipe, translation.resolved.recipe) == [
            "connection.name: linear -> orthogonal",
            "data.source: null -> data/cifar10",
            "train.max_steps: null -> 20",
        ]
        assert translation.run_name == "vit-S/4_orthogonal_feature_cifar10_seed42"

    @pytest.mark.parametrize(
        "name", ["vit_s_cifar10", "resnet_cifar10", "debug_vit", "debug_resnet", "vit_b_imagenet1k"]
    )
    def test_without_flags_it_is_the_recipe(self, name):
        assert translate(["--config_file", name], TABLES).resolved == load(name, tables=TABLES)

    @pytest.mark.parametrize(
        ("name", "arguments", "changes"),
        [
            ("vit_s_cifar10", "--no_orthogonal_residual", []),
            ("debug_vit", "--no_orthogonal_residual", ["connection.name: orthogonal -> linear"]),
            ("vit_s_cifar10", "--preset B", ["model.name: vit_s -> vit_b"]),
            ("vit_s_cifar10", "--dataset cifar100", ["data.name: cifar10 -> cifar100"]),
            (
                "vit_s_cifar10",
                "--dataset tiny-imagenet",
                ["model.patch_size: 4 -> 8", "data.name: cifar10 -> tiny-imagenet"],
            ),
            (
                "vit_s_cifar10",
                "--model resnet18",
                [
                    "model.name: vit_s -> preact_resnet18",
                    "model.sync_batch_norm: false -> true",
                    "model.patch_size: 4 -> (not given)",
                    "augment.randaugment_n: 9 -> 0",
                    "augment.randaugment_m: 5 -> 0",
                    "augment.random_erase: 0.25 -> 0.0",
                ],
            ),
            ("resnet_cifar10", "--model resnet34", ["model.name: preact_resnet18 -> preact_resnet34"]),
            ("resnet_cifar10", "--is_layernorm_classifier", ["model.norm_head: (not given) -> true"]),
            ("debug_vit", "--amp_dtype float16", ["train.amp: bfloat16 -> float16"]),
            ("debug_vit", "--no_use_amp", ["train.amp: bfloat16 -> none"]),
            ("vit_s_cifar10", "--log_interval 7", ["statistics.interval: 50 -> 7", "log.interval: 50 -> 7"]),
            ("vit_s_cifar10", "--no_log_activations", ["statistics.interval: 50 -> null"]),
            ("vit_s_cifar10", "--mixup_alpha 0.2", ["augment.mixup_alpha: 0.8 -> 0.2"]),
            ("vit_s_cifar10", "--no_use_mixup", ["augment.mix_probability: 1.0 -> 0.0"]),
            (
                "resnet_cifar10",
                "--use_mixup",
                [
                    "augment.mix_probability: 0.0 -> 0.5",
                    "augment.mixup_alpha: 0.0 -> 0.2",
                    "augment.cutmix_alpha: 0.0 -> 1.0",
                ],
            ),
            ("vit_s_cifar10", "--adam_beta1 0.8", ["optimizer.betas: [0.9, 0.999] -> [0.8, 0.999]"]),
            ("resnet_cifar10", "--lr_scheduler_decay_epoch 9", ["schedule.decay_epochs: [80, 120] -> [9]"]),
            ("vit_s_cifar10", "--lr_scheduler_type const", ["schedule.kind: cosine -> constant"]),
            ("vit_s_cifar10", "--orthogonal_eps 1e-3", []),
            ("debug_vit", "--orthogonal_eps 1e-3", ["connection.eps: (not given) -> 0.001"]),
            ("vit_s_cifar10", "train.epochs=9", ["train.epochs: 300 -> 9"]),
        ],
    )
    def test_flags_change_what_they_name_and_nothing_else(self, name, arguments, changes):
        resolved = translate(["--config_file", name, *arguments.split()], TABLES).resolved
        assert differences(load(name, tables=TABLES).recipe, resolved.recipe) == changes

    def test_options_of_the_connection_follow_the_flags(self):
        text = "connection: {name: orthogonal, dim: [1, 2], eps: 1e-3}\ndata: cifar10\n"
        assert with_file(text, "--orthogonal_method feature").resolved.recipe.connection.options == {
            "eps": 1e-3,
            "dim": None,
        }
        assert with_file(text, "--no_orthogonal_residual").resolved.recipe.connection.options == {}
        learned = with_file(text, "--residual_pattern rezero").resolved.recipe.connection
        assert learned.options == {"base": "orthogonal", "dim": (1, 2), "eps": 1e-3}
        # The axes of an image are others for a map.
        moved = with_file(text, "--model resnet18").resolved.recipe.connection
        assert moved.options["dim"] == (1, 2, 3)

    def test_blocks_give_way_to_a_probability(self):
        text = "connection: {name: orthogonal, blocks: [0, 1]}\ndata: cifar10\n"
        connection = with_file(text, "--orthogonal_prob 0.5").resolved.recipe.connection
        assert (connection.blocks, connection.probability) == (None, 0.5)

    def test_a_connection_that_the_flags_cannot_name(self):
        text = "connection: hyper_connections\ndata: cifar10\n"
        translation = with_file(text, "--lr 1")
        assert translation.resolved.recipe.connection.name == "hyper_connections"
        assert translation.run_name == "vit-S/4_hyper_connections_hyper_connections_cifar10_seed42"
        assert "orthogonal_eps cannot change" in refusal(text, "--orthogonal_eps 1")
        assert with_file(text, "--orthogonal_residual").resolved.recipe.connection.name == "orthogonal"
        # Its options do not vanish in silence.
        text = "connection: {name: hyper_connections, streams: 2}\ndata: cifar10\n"
        assert "connection.streams is an option of connection 'hyper_connections'" in refusal(
            text, "--orthogonal_residual"
        )

    def test_values_that_the_flags_cannot_say_stay(self):
        text = "optimizer: {name: adamw, lr: 0.1}\ntrain: {ema_decay: 0.9}\ndata: digits\n"
        recipe = with_file(text, "--epochs 3 --orthogonal_residual").resolved.recipe
        assert (recipe.optimizer.name, recipe.train.ema_decay, recipe.data.name) == ("adamw", 0.9, "digits")

    def test_mistakes_are_those_of_a_recipe(self):
        assert refusal("train: {epoch: 3}\n").startswith("a.yaml:1: unknown key 'epoch' in section 'train'")
        assert refusal("train: {epochs: 3}\nlr: 3\n").startswith(
            "a.yaml:2: unknown key 'lr' of a recipe: did you mean opt"
        )

    @pytest.mark.parametrize("text", ["model: vit_s\n", "base: b.yaml\n", "optimizer: {name: sgd}\n", "train:\n"])
    def test_the_layout_is_recognised(self, text):
        Path("b.yaml").write_text("seed: 42\n")
        assert with_file(text).resolved.recipe.train == Recipe().train


class TestPython:
    def test_flat(self):
        flat_file = "config = {'dataset': 'cifar10', 'preset': 'S', 'lr': 2 ** -10, 'orthogonal_residual': True}"
        resolved = with_file(flat_file, "--epochs 2", "a.py").resolved
        assert resolved.recipe.optimizer.lr == 2**-10
        assert (resolved.recipe.connection.name, resolved.recipe.train.epochs) == ("orthogonal", 2)
        assert resolved.sources["optimizer.lr"] == "a.py"
        assert resolved.sources["optimizer.weight_decay"] == "default of train_classifier.py"

    def test_recipe(self):
        program = "def recipe():\n    return {'data': 'cifar10', 'train': {'epochs': 5}}"
        resolved = with_file(program, "--orthogonal_residual", "a.py").resolved
        assert flat(resolved.recipe)["train.epochs"] == 5
        assert resolved.recipe.connection.name == "orthogonal"

    @pytest.mark.parametrize(
        ("program", "message"),
        [
            ("x = 1", "a.py must define one of 'recipe'"),
            ("recipe = {}\nconfig = {}", "it defines recipe and config"),
            ("config = {'lr': '1e-3'}", "a.py: lr: expected a number, got '1e-3'"),
            ("config = {'learn': 1}", "a.py: unknown key 'learn'"),
            ("raise ValueError('x')", "a.py:1: the configuration file failed with ValueError: x"),
        ],
    )
    def test_refusals(self, program, message):
        assert message in refusal(program, name="a.py")
