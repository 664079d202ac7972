from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orthostream.errors import UsageError
from orthostream.recipe import (
    ConnectionRecipe,
    OptimizerRecipe,
    Recipe,
    Resolved,
    ScheduleRecipe,
    differences,
    dump,
    fingerprint,
    from_dict,
    load,
    to_dict,
)
from orthostream.recipe.resolve import resolve
from orthostream.recipe.save import flat
from orthostream.recipe.yaml_nodes import parse
from recipe.small_tables import TABLES
from recipe.strategies import recipes


def reloaded(text: str, tables=TABLES) -> Recipe:
    return resolve([parse(text.encode(), "saved.yaml")], tables).recipe


def with_sources(recipe: Recipe) -> Resolved:
    return Resolved(recipe, dict.fromkeys(flat(recipe), "somewhere"))


@given(recipes())
@settings(max_examples=60, deadline=None)
def test_a_saved_recipe_loads_back_equal(recipe):
    text = dump(with_sources(recipe), TABLES)
    assert reloaded(text) == recipe
    assert fingerprint(reloaded(text)) == fingerprint(recipe)
    # Without tables numbers may lose their declared type, never their value.
    assert reloaded(text, tables=None) == recipe


@given(recipes())
@settings(max_examples=30, deadline=None)
def test_dictionaries_round_trip(recipe):
    assert from_dict(to_dict(recipe), TABLES) == recipe
    assert differences(recipe, from_dict(to_dict(recipe))) == []


@given(recipes(), recipes())
@settings(max_examples=30, deadline=None)
def test_fingerprints_differ_exactly_where_there_are_differences(one, other):
    assert (fingerprint(one) == fingerprint(other)) == (differences(one, other) == [])


@given(st.integers(1, 40))
@settings(max_examples=15, deadline=None)
def test_overrides_survive_saving(tmp_path_factory, epochs):
    path = tmp_path_factory.mktemp("saved") / "a.yaml"
    path.write_text("seed: 1\n")
    resolved = load(path, [f"train.epochs={epochs}"])
    path.write_text(dump(resolved))
    assert load(path).recipe == resolved.recipe


def test_every_value_says_where_it_came_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("a.yaml").write_text("description: 'two: words'\nconnection:\n  name: orthogonal\n  dim: [1, 2]\n")
    lines = dump(load("a.yaml", ["optimizer.lr=1e-6"], TABLES), TABLES).splitlines()
    assert lines[:2] == ['description: "two: words"  # a.yaml:1', "seed: 42  # default"]
    assert "  lr: 1e-06  # command line" in lines
    assert "  dim: [1, 2]  # a.yaml:4" in lines
    # Options that nobody gave are shown, and are no part of the recipe.
    assert "  # eps: 1e-06  # default of orthogonal" in lines
    values = [line for line in lines if not line.endswith(":")]
    assert all("  # " in line for line in values)


def test_any_file_name_can_be_a_source_or_a_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    name = "a\nseed: 7 \u2028é\udcff.yaml"
    Path(name).write_text("seed: 1\n")
    resolved = load(name, ["data.source=\udcff # x"])
    saved = dump(resolved).encode()
    assert resolve([parse(saved, "saved.yaml")]).recipe == resolved.recipe
    assert resolved.recipe.data.source == "\udcff # x"


def test_differences_are_told_by_dotted_name():
    one = Recipe(optimizer=OptimizerRecipe(lr=0.1), connection=ConnectionRecipe(name="a", options={"eps": 0.5}))
    other = Recipe(
        description="other words",
        optimizer=OptimizerRecipe(lr=0.2),
        schedule=ScheduleRecipe(kind="step", decay_epochs=(1, 2)),
    )
    assert differences(one, other) == [
        "connection.name: a -> linear",
        "connection.eps: 0.5 -> (not given)",
        "optimizer.lr: 0.1 -> 0.2",
        "schedule.kind: cosine -> step",
        "schedule.decay_epochs: [] -> [1, 2]",
    ]


def test_words_about_a_run_do_not_make_another_run():
    assert fingerprint(Recipe(description="x")) == fingerprint(Recipe())
    assert fingerprint(Recipe(seed=1)) != fingerprint(Recipe())


def test_fingerprint_sees_values_and_not_how_they_were_written():
    assert len(fingerprint(Recipe())) == 64
    assert fingerprint(from_dict({"optimizer": {"weight_decay": -0.0}})) == fingerprint(from_dict({}))
    assert fingerprint(from_dict({"optimizer": {"lr": 1}})) == fingerprint(from_dict({"optimizer": {"lr": 1.0}}))


def test_wrong_dictionaries_are_refused():
    with pytest.raises(UsageError, match="recipe: unknown key 'sede' of a recipe"):
        from_dict({"sede": 1})
