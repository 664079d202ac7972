import pytest

from orthostream.errors import UsageError
from orthostream.recipe.yaml_nodes import DEEPEST, LARGEST_FILE, MOST_ALIASES, parse, parse_value


def read(text: str):
    return parse(text.encode(), "file.yaml").plain()


def refusal(data: bytes | str) -> str:
    with pytest.raises(UsageError) as caught:
        parse(data.encode() if isinstance(data, str) else data, "file.yaml")
    return str(caught.value)


def test_every_value_knows_its_line():
    tree = parse(b"a: 1\n\nb:\n  c: x\n  d: [1,\n    2]\n", "file.yaml")
    assert tree.value["a"].source == "file.yaml:1"
    # A mapping stands where its key stands.
    assert tree.value["b"].source == "file.yaml:3"
    assert tree.value["b"].value["c"].source == "file.yaml:4"
    assert [item.source for item in tree.value["b"].value["d"].value] == ["file.yaml:5", "file.yaml:6"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("1E5", 1e5),
        ("+1.5e+2", 150.0),
        (".5", 0.5),
        ("1.", 1.0),
        ("1_000", 1000),
        ("-7", -7),
        ("0", 0),
        ("-.inf", float("-inf")),
        ("yes", True),
        ("Off", False),
        ("~", None),
        ("", None),
        ("null", None),
        ("'no'", "no"),
        # YAML 1.1 would make 10, 90 and a date of these.
        ("012", "012"),
        ("1:30", "1:30"),
        ("2020-01-01", "2020-01-01"),
        ("0x10", "0x10"),
        ("1e", "1e"),
        ("!!str 5", "5"),
        ("!!float 3", 3.0),
    ],
)
def test_scalars(text, value):
    read_back = read(f"a: {text}\n")["a"]
    assert read_back == value
    assert type(read_back) is type(value)


def test_byte_order_mark_and_windows_line_ends_are_read():
    tree = parse(b"\xef\xbb\xbfa: 1\r\nb: 2\r\n", "file.yaml")
    assert tree.plain() == {"a": 1, "b": 2}
    assert tree.value["b"].line == 2


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("", "file.yaml is empty"),
        ("# only a comment\n", "file.yaml is empty"),
        ("a: 1\nb: 2\na: 3\n", "file.yaml:3: 'a' is given twice, first on line 1"),
        ("a:\n  b: 1\n  b: 1\n", "file.yaml:3: 'b' is given twice, first on line 2"),
        ("a:\n\tb: 1\n", "file.yaml:2: a tab cannot stand here; indent with spaces"),
        ("a: [1, 2\nb: 3\n", "file.yaml:2: "),
        ("a: 'x\n", "file.yaml:2: found unexpected end of stream"),
        ("a: 1\n---\nb: 2\n", "file.yaml:2: a second document begins here"),
        ("a: \x07\n", "file.yaml:1: character 0x7 is not allowed"),
        (b"a: 1\nb: \xff\n", "file.yaml:2: byte 0xff is not UTF-8"),
        ("a: 1\n".encode("utf-16"), "file.yaml is encoded in UTF-16"),
        ("a: *b\n", "file.yaml:1: found undefined alias"),
        ("no: 1\n", "file.yaml:1: a name was expected, got no; write it in quotes: 'no'"),
        ("1: 2\n", "file.yaml:1: a name was expected, got 1"),
        ("[a]: 2\n", "file.yaml:1: a name was expected, got a list"),
        ("x: 1\na: !!python/name:os.system ''\n", "file.yaml:2: the tag 'tag:yaml.org,2002:python/name:os.system'"),
        ("a: !!python/object/apply:os.system [ls]\n", "is not allowed; a recipe is plain data"),
        ("a: !mine 1\n", "the tag '!mine' is not allowed"),
        ("a: !!binary aGk=\n", "is not allowed"),
        ("a: !!set {x, y}\n", "is not allowed"),
        ("a: !!int x\n", "file.yaml:1: 'x' is no int"),
        ("a: !!bool perhaps\n", "file.yaml:1: 'perhaps' is no bool"),
    ],
)
def test_refusals_name_file_and_line(data, message):
    assert message in refusal(data)


def test_merge_keys_are_ordinary_unknown_keys():
    assert read("a: &x {b: 1}\nc: {<<: *x}\n")["c"] == {"<<": {"b": 1}}


def test_size_is_limited():
    assert "a recipe has at most" in refusal(b"#" * (LARGEST_FILE + 1))


def test_depth_is_limited_before_python_runs_out_of_stack():
    assert "is nested deeper than 20 levels" in refusal("a: " + "[" * 5000)
    # The outermost mapping is one level.
    inner = DEEPEST - 1
    assert read("a: " + "[" * (inner - 1) + "1" + "]" * (inner - 1))


def test_aliases_are_followed_but_not_without_end():
    assert read("a: &x [1, 2]\nb: *x\n")["b"] == (1, 2)
    within = "a: &x 1\nb: [" + ", ".join(["*x"] * MOST_ALIASES) + "]\n"
    assert len(read(within)["b"]) == MOST_ALIASES
    assert "aliases are followed more than 100 times" in refusal(within.replace("[*x", "[*x, *x"))


def test_exponential_aliases_are_refused():
    lines = ["a0: &a0 [1, 1]", *(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 40))]
    assert "aliases are followed more than" in refusal("\n".join(lines))


def test_an_anchor_that_contains_itself_is_refused():
    assert "file.yaml:1: the anchor here contains an alias of itself" in refusal("a: &x [*x]\n")


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 1e-3), ("[0, 2]", (0, 2)), ("null", None), ("", ""), ("no", False), ("{a: 1}", {"a": 1}), ("[", "[")],
)
def test_values_of_the_command_line(text, value):
    given = parse_value(text)
    assert given.plain() == value
    assert given.source == "command line"
    assert given.text == text
