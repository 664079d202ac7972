from pathlib import Path

import pytest

from orthostream.errors import UsageError
from orthostream.recipe import Recipe, Resolved, load, load_python
from recipe.small_tables import TABLES


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, so that messages name files as a user would."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def loaded(folder: Path, text: str, *overrides: str, tables=TABLES) -> Resolved:
    (folder / "a.yaml").write_text(text)
    return load("a.yaml", overrides, tables)


def refusal(folder: Path, text: str, *overrides: str, tables=TABLES) -> str:
    with pytest.raises(UsageError) as caught:
        loaded(folder, text, *overrides, tables=tables)
    return str(caught.value)


def test_values_and_their_sources(folder):
    text = "seed: 7\noptimizer:\n  lr: 1e-3\nconnection: {name: orthogonal, eps: 1e-5}\n"
    resolved = loaded(folder, text, "train.epochs=3", "connection.dim=[1, 2]")
    recipe = resolved.recipe
    assert (recipe.seed, recipe.optimizer.lr, recipe.train.epochs) == (7, 1e-3, 3)
    assert recipe.connection.options == {"eps": 1e-5, "dim": (1, 2)}
    assert resolved.sources["seed"] == "a.yaml:1"
    assert resolved.sources["optimizer.lr"] == "a.yaml:3"
    assert resolved.sources["connection.name"] == "a.yaml:4"
    assert resolved.sources["connection.eps"] == "a.yaml:4"
    assert resolved.sources["connection.dim"] == "command line"
    assert resolved.sources["train.epochs"] == "command line"
    assert resolved.sources["train.batch_size"] == "default"


def test_a_section_may_be_a_name_or_empty(folder):
    recipe = loaded(folder, "connection: orthogonal\noptimizer: sgd\ndata: cifar10\ntrain:\n").recipe
    assert recipe.connection.name == "orthogonal"
    assert recipe.optimizer.name == "sgd"
    assert recipe.data.name == "cifar10"
    assert recipe.train == Recipe().train


def test_overrides_of_the_same_section_come_together(folder):
    recipe = loaded(folder, "seed: 1\n", "connection=mixed", "connection.streams=2", "seed=5").recipe
    assert (recipe.connection.name, recipe.connection.options, recipe.seed) == ("mixed", {"streams": 2}, 5)
    recipe = loaded(folder, "seed: 1\n", "connection={name: mixed, streams: 3}").recipe
    assert recipe.connection.options == {"streams": 3}


def test_null_on_the_command_line(folder):
    text = "train:\n  max_steps: 5\nconnection: {name: orthogonal, dim: 1, eps: 1e-3}\n"
    resolved = loaded(folder, text, "train.max_steps=null", "connection.dim=null", "connection.eps=null")
    assert resolved.recipe.train.max_steps is None
    # dim may be null; eps may not, so null takes the file's value back.
    assert resolved.recipe.connection.options == {"dim": None}
    assert "connection.eps" not in resolved.sources


def test_numbers_of_options_have_the_declared_type(folder):
    options = loaded(folder, "model: {name: vit_s, ratio: 2, widths: [3], extra: [x]}\n").recipe.model.options
    assert options == {"ratio": 2.0, "widths": (3,), "extra": ("x",)}
    assert isinstance(options["ratio"], float)


def test_without_tables_names_and_options_are_taken_as_they_are(folder):
    text = "model: {name: mine, x: 1e-3}\nconnection: {name: other, y: [1]}\n"
    resolved = loaded(folder, text, tables=None)
    assert resolved.recipe.model.options == {"x": 1e-3}
    assert resolved.recipe.connection.options == {"y": (1,)}
    assert resolved.sources["connection.y"] == "a.yaml:2"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- 1\n", "a.yaml:1: a recipe is a mapping of sections, got a list"),
        ("modle: vit_s\n", "a.yaml:1: unknown key 'modle' of a recipe: did you mean model? known: augment"),
        ("\nlr: 1\n", "a.yaml:2: unknown key 'lr' of a recipe: did you mean optimizer.lr? known: "),
        ("train:\n  epoch: 3\n", "a.yaml:2: unknown key 'epoch' in section 'train': did you mean epochs? known: "),
        ("train: 5\n", "a.yaml:1: section 'train' is a mapping of its fields, got 5"),
        ("model: [vit_s]\n", "a.yaml:1: section 'model' is a mapping of its fields, got a list"),
        ("connection: no\n", "a.yaml:1: connection.name: expected a text, got no, which YAML reads as false"),
        ("train:\n  epochs: ten\n", "a.yaml:2: train.epochs: expected a whole number, got 'ten'"),
        ("train:\n  epochs: 0\n", "a.yaml:2: train.epochs: must be at least 1, got 0"),
        ("train:\n  epochs: null\n", "a.yaml:2: train.epochs: expected a whole number, got null"),
        ("train:\n  batch_size: 7\n  accumulate: 2\n", "a.yaml:2: train.batch_size: must divide by train.accumulate"),
        ("connection: orthogonl\n", "a.yaml:1: unknown connection 'orthogonl': did you mean orthogonal? known: "),
        (
            "connection:\n  name: orthogonal\n  epss: 1\n",
            "a.yaml:3: unknown key 'epss' for connection 'orthogonal': did you mean eps? known: at_evaluation",
        ),
        ("connection:\n  name: orthogonal\n  eps: x\n", "a.yaml:3: connection.eps: expected a number, got 'x'"),
        ("connection: {name: mixed, norm: rsm}\n", "a.yaml:1: connection.norm: unknown value 'rsm': did you mean rms?"),
        ("connection: demanding\n", "a.yaml:1: connection 'demanding' needs the option connection.width"),
        ("connection: {name: demanding, width: 1, hook: x}\n", "a.yaml:1: unknown key 'hook' for connection"),
        ("model: {num_classes: 3}\n", "a.yaml:1: model.num_classes cannot be set here: it comes with the data set"),
        ("model: {image_size: 3}\n", "a.yaml:1: model.image_size cannot be set here: it is set as data.image_size"),
        ("connection: {eps: 1e-6}\n", "a.yaml:1: unknown key 'eps' for connection 'linear'"),
    ],
)
def test_refusals_name_file_line_and_what_is_known(folder, text, message):
    assert refusal(folder, text).startswith(message)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["epochs"], "command line: 'epochs' is not of the form field=value"),
        (["=3"], "command line: '=3' is not of the form field=value"),
        (["train.=3"], "command line: 'train.=3' is not of the form field=value"),
        (["a.b.c=3"], "command line: a.b.c: a field is seed, description or section.name"),
        (["seed.x=3"], "command line: seed.x: a field is seed, description or section.name"),
        (["seed=1", "seed=2"], "command line: seed is given twice"),
        (["connection=a", "connection.name=b"], "command line: connection.name is given twice"),
        (["train.epoch=3"], "command line: unknown key 'epoch' in section 'train': did you mean epochs?"),
        (["base=x"], "command line: unknown key 'base' of a recipe"),
        (["optimizer.lr=fast"], "command line: optimizer.lr: expected a number, got 'fast'"),
        (["train.epochs="], "command line: train.epochs: expected a whole number, got ''"),
        (["train=3"], "command line: section 'train' is a mapping of its fields, got 3"),
        (
            ["connection.blocks=2"],
            "command line: connection.blocks: expected a list of whole numbers, got 2; write [2]",
        ),
    ],
)
def test_refusals_of_the_command_line(folder, overrides, message):
    assert refusal(folder, "seed: 1\n", *overrides).startswith(message)


def test_options_of_the_file_do_not_vanish_with_its_name(folder):
    text = "connection:\n  name: mixed\n  streams: 2\n  eps: 1e-3\n"
    assert refusal(folder, text, "connection=orthogonal") == (
        "a.yaml:3: connection.streams is an option of connection 'mixed', but 'orthogonal' was chosen (command line), "
        "which has no such option; take it back with connection.streams=null on the command line, or remove it here"
    )
    resolved = loaded(folder, text, "connection=orthogonal", "connection.streams=null")
    # eps exists in both, and stays.
    assert resolved.recipe.connection.options == {"eps": 1e-3}
    assert "connection.streams" not in resolved.sources


def test_null_for_an_option_that_was_never_there_is_unknown(folder):
    assert "unknown key 'streams'" in refusal(folder, "connection: orthogonal\n", "connection.streams=null")


def test_all_mistakes_of_a_file_are_told_in_the_order_of_its_lines(folder):
    text = "train:\n  epochs: x\n  foo: 1\nseed: y\noptimizer: {name: zzz}\nmodel: {num_classes: 1}\n"
    lines = refusal(folder, text, "log.interval=0").splitlines()
    assert [line.split(": ")[0] for line in lines] == [f"a.yaml:{i}" for i in (2, 3, 4, 5, 6)] + ["command line"]


def test_names_without_options_are_checked_where_there_is_a_table(folder):
    tables = {"data": TABLES["connection"]}
    assert refusal(folder, "data: cifar\n", tables=tables).startswith("a.yaml:1: unknown connection 'cifar'")
    assert refusal(folder, "seed: 1\n", tables=tables).startswith("default: unknown connection 'digits'")


def test_values_without_effect_are_noted(folder):
    text = "optimizer:\n  name: adam\n  momentum: 0.5\nschedule: {warmup_epochs: 3}\n"
    assert loaded(folder, text, "train.epochs=3", "log.project=mine").notes == (
        "a.yaml:3: optimizer.momentum has no effect with optimizer adam",
        "command line: log.project has no effect while log.wandb is false",
        "a.yaml:4: schedule.warmup_epochs is 3, and training ends after 3: the learning rate never leaves the warm-up",
    )
    # A value that is the default anyway misleads nobody.
    assert loaded(folder, "optimizer: {momentum: 0.9}\n").notes == ()


class TestBase:
    def test_a_recipe_changes_another_one(self, folder):
        (folder / "below").mkdir()
        (folder / "below" / "base.yaml").write_text("seed: 1\noptimizer: {lr: 0.5, weight_decay: 0.1}\n")
        resolved = loaded(folder, "base: below/base.yaml\noptimizer:\n  lr: 0.25\n")
        assert resolved.recipe.optimizer.lr == 0.25
        assert resolved.recipe.optimizer.weight_decay == 0.1
        assert resolved.sources["seed"] == "below/base.yaml:1"
        assert resolved.sources["optimizer.lr"] == "a.yaml:3"

    def test_bases_of_bases_are_relative_to_their_own_file(self, folder):
        (folder / "x").mkdir()
        (folder / "x" / "one.yaml").write_text("base: ../two.yaml\nseed: 1\n")
        (folder / "two.yaml").write_text("seed: 2\ntrain: {epochs: 9}\n")
        resolved = loaded(folder, "base: x/one.yaml\n")
        assert (resolved.recipe.seed, resolved.recipe.train.epochs) == (1, 9)
        assert resolved.sources["train.epochs"] == "two.yaml:2"

    @pytest.mark.parametrize("start", ["a.yaml", "b.yaml"])
    def test_loops_are_refused(self, folder, start):
        (folder / "b.yaml").write_text(f"base: {start}\n")
        assert "is a base of itself" in refusal(folder, "base: b.yaml\n")

    @pytest.mark.parametrize(
        ("base", "message"),
        [
            ("c.yaml", "a.yaml:2: base 'c.yaml' is not at "),
            ("c.py", "a.yaml:2: base is the path of a .yaml file, got 'c.py'"),
            ("3", "a.yaml:2: base is the path of a .yaml file, got 3"),
        ],
    )
    def test_wrong_bases_are_refused(self, folder, base, message):
        (folder / "c.py").write_text("raise SystemExit('this must not run')")
        assert refusal(folder, f"seed: 1\nbase: {base}\n").startswith(message)

    def test_mistakes_are_found_in_the_file_that_made_them(self, folder):
        (folder / "b.yaml").write_text("train:\n  epochs: x\n")
        assert refusal(folder, "base: b.yaml\n").startswith("b.yaml:2: train.epochs: expected a whole number")

    def test_options_of_the_base_do_not_vanish_with_its_name(self, folder):
        (folder / "b.yaml").write_text("connection: {name: mixed, streams: 2}\n")
        text = "base: b.yaml\nconnection:\n  name: orthogonal\n"
        assert "but 'orthogonal' was chosen (a.yaml:3)" in refusal(folder, text)
        assert loaded(folder, text + "  streams: null\n").recipe.connection.options == {}


class TestPython:
    @pytest.mark.parametrize(
        "program",
        [
            "recipe = {'seed': 3, 'connection': {'name': 'orthogonal', 'dim': (1, 2)}}",
            "def recipe():\n    return {'seed': 3, 'connection': {'name': 'orthogonal', 'dim': [1, 2]}}",
            "from orthostream.recipe import *\n"
            "recipe = Recipe(seed=3, connection=ConnectionRecipe(name='orthogonal', options={'dim': (1, 2)}))",
        ],
        ids=["dict", "function", "Recipe"],
    )
    def test_what_a_file_may_define(self, folder, program):
        (folder / "a.py").write_text(program)
        for resolved in (load("a.py", ["train.epochs=2"], TABLES), load_python("a.py", ["train.epochs=2"], TABLES)):
            assert resolved.recipe.seed == 3
            assert resolved.recipe.connection.options == {"dim": (1, 2)}
            assert resolved.recipe.train.epochs == 2
            assert resolved.sources["seed"] == "a.py"
            assert resolved.sources["train.epochs"] == "command line"
            assert resolved.sources["train.batch_size"] == "default"

    @pytest.mark.parametrize(
        ("program", "message"),
        [
            ("x = 1", "a.py does not define 'recipe'"),
            ("recipe = 3", "a.py: 'recipe' is a dict, a Recipe, or a function that returns one, got 3"),
            ("recipe = {'seed': object()}", "a.py: a recipe holds null, true, false, numbers"),
            ("recipe = {1: 2}", "a.py: names in a recipe are text, got 1"),
            ("recipe = {'sede': 1}", "a.py: unknown key 'sede' of a recipe: did you mean seed"),
            ("recipe = {'optimizer': {'lr': '1e-3'}}", "a.py: optimizer.lr: expected a number, got '1e-3'"),
            ("\nrecipe = 1 / 0", "a.py:2: the configuration file failed with ZeroDivisionError"),
            ("\n\nrecipe = (", "a.py:3: "),
            ("def recipe():\n    return {}['x']", "a.py:2: the configuration file failed with KeyError: 'x'"),
            (
                "from orthostream.recipe import *\nrecipe = Recipe(optimizer=OptimizerRecipe(lr=0))",
                "a.py:2: optimizer.lr: must be above 0, got 0.0",
            ),
        ],
    )
    def test_refusals(self, folder, program, message):
        (folder / "a.py").write_text(program)
        with pytest.raises(UsageError) as caught:
            load_python("a.py", (), TABLES)
        assert str(caught.value).startswith(message)

    def test_a_missing_file_is_refused(self, folder):
        with pytest.raises(UsageError, match="there is no configuration file at"):
            load_python("b.py")
