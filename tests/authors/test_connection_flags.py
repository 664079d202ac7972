"""The authors' flags of the residual connection, alone and together."""

import pytest

from orthostream import connections, models
from orthostream.authors import translate
from orthostream.authors.connection import Method, parse_method
from orthostream.errors import UsageError
from orthostream.recipe import ConnectionRecipe

TABLES = {"model": models.table, "connection": connections.table}


def chosen(arguments: str) -> tuple[ConnectionRecipe, tuple[str, ...]]:
    resolved = translate(["--dataset", "cifar10", *arguments.split()], TABLES).resolved
    return resolved.recipe.connection, resolved.notes


@pytest.mark.parametrize(
    ("text", "method"),
    [
        ("feature", Method(projection="feature")),
        ("channel", Method(projection="feature")),
        ("GLOBAL", Method(projection="global")),
        ("negative", Method(projection="negative")),
        ("identity", Method(base="linear")),
        ("orthogonal", Method(base="orthogonal")),
        ("rezero", Method(base="linear", pattern="rezero")),
        ("Orthogonal-ReZero", Method(base="orthogonal", pattern="rezero")),
        ("linear_rescale_stream", Method(base="linear", pattern="rescale_stream")),
        ("orthogonal_rezero_constrained", Method(base="orthogonal", pattern="rezero_constrained")),
        ("identity-rezero", Method(base="linear", pattern="rezero")),
    ],
)
def test_method_strings(text, method):
    assert parse_method(text) == method


@pytest.mark.parametrize("text", ["", "featur", "orthogonal_", "negative_rezero", "orthogonal_orthogonal"])
def test_other_method_strings_are_refused(text):
    with pytest.raises(UsageError, match="unknown orthogonal_method"):
        parse_method(text)


@pytest.mark.parametrize(
    ("arguments", "name", "options"),
    [
        ("", "linear", {}),
        ("--orthogonal_method feature", "linear", {}),
        ("--orthogonal_residual", "orthogonal", {"eps": 1e-6}),
        ("--orthogonal_residual --orthogonal_method channel", "orthogonal", {"eps": 1e-6}),
        ("--orthogonal_residual --residual_pattern none", "orthogonal", {"eps": 1e-6}),
        ("--orthogonal_method negative", "negative", {}),
        ("--residual_pattern rezero", "rezero", {"base": "linear"}),
        ("--orthogonal_residual --residual_pattern rezero", "rezero", {"base": "orthogonal", "eps": 1e-6}),
        ("--orthogonal_method orthogonal-rezero", "rezero", {"base": "orthogonal", "eps": 1e-6}),
        ("--orthogonal_method rezero --residual_pattern rezero", "rezero", {"base": "linear"}),
        ("--orthogonal_method orthogonal --orthogonal_eps 1e-3", "orthogonal", {"eps": 1e-3}),
        ("--residual_pattern rezero_constrained", "rezero_constrained", {"base": "linear", "eps": 1e-6}),
        (
            "--orthogonal_residual --residual_pattern rescale_stream",
            "rescale_stream",
            {"base": "orthogonal", "eps": 1e-6, "mode": "scalar"},
        ),
        (
            "--model resnet18 --orthogonal_residual --residual_pattern rescale_stream --residual_rescale_mode conv1x1",
            "rescale_stream",
            {"base": "orthogonal", "eps": 1e-6, "mode": "conv1x1"},
        ),
    ],
)
def test_combinations(arguments, name, options):
    connection, notes = chosen(arguments)
    assert (connection.name, connection.options) == (name, options)
    assert notes == ()
    site = connections.Site(axis=1, features=4) if "--model" in arguments else None
    connections.create(connection.name, site=site, **connection.options)


@pytest.mark.parametrize(
    ("model", "axes"),
    [("vit", (1, 2)), ("resnet18", (1, 2, 3))],
)
def test_global_gets_the_axes_of_one_image(model, axes):
    connection, notes = chosen(f"--model {model} --orthogonal_residual --orthogonal_method global")
    assert connection.options["dim"] == axes
    assert len(notes) == 1
    assert str(list(axes)) in notes[0]
    connection, notes = chosen(
        f"--model {model} --orthogonal_residual --orthogonal_method global --residual_pattern rezero"
    )
    assert (connection.name, connection.options["dim"]) == ("rezero", axes)


def test_blocks():
    connection, notes = chosen("--orthogonal_pattern 0,2,4 --orthogonal_residual")
    assert (connection.name, connection.blocks, notes) == ("orthogonal", (0, 2, 4), ())
    connection, notes = chosen("--orthogonal_pattern 3")
    assert (connection.name, connection.blocks) == ("orthogonal", (3,))
    assert notes[0].startswith("orthogonal_pattern makes blocks orthogonal without orthogonal_residual")
    # ResNets have blocks here too; in the authors' program the flag crashes on them.
    connection, _ = chosen("--model resnet18 --orthogonal_pattern 0,7 --orthogonal_method global")
    assert (connection.blocks, connection.options["dim"]) == ((0, 7), (1, 2, 3))


def test_probability():
    connection, notes = chosen("--orthogonal_residual --orthogonal_prob 0.5")
    assert (connection.name, connection.probability, connection.at_evaluation) == ("orthogonal", 0.5, "orthogonal")
    assert notes[0].startswith("orthogonal_prob is drawn once an optimizer step")
    connection, notes = chosen("--orthogonal_residual --orthogonal_prob 0.5 --orthogonal_pattern 0,1")
    assert (connection.blocks, connection.probability) == (None, 0.5)
    assert notes[0].startswith("orthogonal_pattern has no effect")


@pytest.mark.parametrize(
    ("arguments", "note"),
    [
        ("--orthogonal_method global", "orthogonal_method global has no effect without orthogonal_residual"),
        ("--orthogonal_eps 1e-3", "orthogonal_eps has no effect without orthogonal_residual"),
        ("--residual_rescale_mode conv1x1", "residual_rescale_mode has no effect without residual_pattern"),
        ("--residual_pattern rescale_stream", "rescale_stream drops the parallel part of updates on the linear base"),
    ],
)
def test_notes(arguments, note):
    assert chosen(arguments)[1][0].startswith(note)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--orthogonal_residual --orthogonal_method negative", "negative cannot stand with orthogonal_residual"),
        ("--residual_pattern rezero --orthogonal_method negative", "negative cannot stand with residual_pattern"),
        ("--orthogonal_pattern 0 --orthogonal_method negative", "negative cannot stand with orthogonal_pattern"),
        ("--orthogonal_prob 0.5 --orthogonal_method negative", "negative cannot stand with orthogonal_prob"),
        ("--orthogonal_method rezero --residual_pattern rescale_stream", "'rezero' and residual_pattern"),
        ("--orthogonal_method identity --orthogonal_residual", "'identity' and orthogonal_residual contradict"),
        ("--orthogonal_method orthogonal --no_orthogonal_residual", "and no_orthogonal_residual contradict"),
        ("--orthogonal_pattern 0 --residual_pattern rezero", "orthogonal_pattern switches between"),
        ("--orthogonal_prob 0.5 --residual_pattern rezero", "orthogonal_prob switches between"),
        ("--residual_pattern rescale_stream --residual_rescale_mode conv1x1", "conv1x1 needs a ResNet"),
        ("--orthogonal_pattern 0,x", "orthogonal_pattern is a list of whole numbers"),
        ("--orthogonal_pattern 0,-1", "orthogonal_pattern is a list of whole numbers"),
        ("--orthogonal_pattern 1,1", "connection.blocks: lists a block twice"),
        ("--orthogonal_prob 1.5", "command line: connection.probability: must be at least 0 and at most 1"),
        ("--residual_pattern rezro", "command line: residual_pattern: unknown value 'rezro': did you mean rezero"),
    ],
)
def test_conflicts_are_refused(arguments, message):
    with pytest.raises(UsageError) as caught:
        chosen(arguments)
    assert message in str(caught.value)
