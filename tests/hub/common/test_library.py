"""How the common tests of transformers are found, and what stands in for modules that its distribution leaves out."""

from pathlib import Path

import pytest

from hub.common import exclusions, library


def test_a_missing_folder_is_said_with_the_command_that_brings_it(monkeypatch) -> None:
    monkeypatch.delenv(library.VARIABLE, raising=False)
    reason = library.reason_to_skip()
    assert reason and f"pip download --no-deps --no-binary :all: transformers=={library.VERSION}" in reason


def test_a_folder_without_tests_or_of_another_version_is_refused(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv(library.VARIABLE, str(tmp_path))
    assert "holds no tests/test_modeling_common.py" in library.reason_to_skip()
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_modeling_common.py").touch()
    assert "not the source distribution of the installed version" in library.reason_to_skip()
    (tmp_path / "PKG-INFO").write_text("Name: transformers\nVersion: 4.0.0\n")
    assert "not the source distribution of the installed version" in library.reason_to_skip()
    (tmp_path / "PKG-INFO").write_text(f"Name: transformers\nVersion: {library.VERSION}\n")
    assert library.reason_to_skip() is None


def test_a_row_of_a_table_becomes_a_test() -> None:
    ran = []

    class Table:
        @library.Parameterized.expand([("low", 1), (2, 3), "word"])
        def test(self, *given):
            ran.append(given)

    assert Table.test is None
    Table().test_0_low()
    Table().test_1()
    Table().test_2_word()
    assert ran == [("low", 1), (2, 3), ("word",)]


@pytest.mark.parametrize("table", [exclusions.VIT, exclusions.LLAMA], ids=["vit", "llama"])
def test_every_exclusion_has_a_reason_and_says_how_the_test_fails(table) -> None:
    for name, exclusion in table.items():
        assert name.startswith("test_") and exclusion.words and len(exclusion.reason) > 10
