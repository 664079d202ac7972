from pathlib import Path

import pytest

from locations import REPOSITORY
from orthostream.errors import UsageError
from orthostream.recipe import find, names
from orthostream.recipe import load as load_recipe


def test_packaged_recipes_are_those_of_the_repository():
    listed = names()
    assert sorted(listed) == sorted(path.stem for path in (REPOSITORY / "recipes").glob("*.yaml"))
    assert all(listed.values()), "each has a description"
    assert all("\n" not in line for line in listed.values())


@pytest.mark.parametrize("name", ["demo", "demo.yaml"])
def test_a_packaged_recipe_is_found_from_anywhere(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find(name).read_text() == (REPOSITORY / "recipes" / "demo.yaml").read_text()
    # Messages and saved recipes name it by its place in the repository.
    assert load_recipe(name).sources["data.name"].startswith("recipes/demo.yaml:")


def test_a_path_wins_over_a_packaged_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("demo.yaml").write_text("seed: 77\n")
    assert load_recipe("demo.yaml").recipe.seed == 77
    Path("demo").mkdir()
    assert load_recipe("demo").recipe.seed != 77


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("dmeo", "unknown recipe 'dmeo': did you mean demo"),
        ("nowhere/x.yaml", "there is no recipe at "),
        ("recipes/demo.yaml", "the library brings one of that name, given as 'demo'"),
        ("demo.py", "there is no recipe at "),
        ("notes.txt", "a recipe is a .yaml or a .py file"),
    ],
)
def test_what_is_not_there_is_refused(name, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("notes.txt").write_text("seed: 1\n")
    with pytest.raises(UsageError) as caught:
        find(name)
    assert message in str(caught.value)
