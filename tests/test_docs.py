"""What the documents claim: tests that they name exist, code that they show runs, links lead somewhere."""

import re

import pytest
import torch

from locations import REPOSITORY

DOCUMENTS = sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").glob("*.md")])


def test_every_defect_has_its_tests():
    text = (REPOSITORY / "docs" / "defects.md").read_text()
    numbers = [int(number) for number in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)]
    assert numbers == list(range(1, 37))
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text)
    assert len(named) > 40
    for file, function in named:
        assert re.search(rf"^ *def {function}\(", (REPOSITORY / file).read_text(), re.MULTILINE), f"{file}::{function}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text()):
        assert (document.parent / target).exists(), target


def test_the_examples_of_the_readme_run():
    blocks = re.findall(r"```python\n(.*?)```", (REPOSITORY / "README.md").read_text(), re.DOTALL)
    assert blocks
    names = {"x": torch.randn(2, 8), "f": torch.randn(2, 8), "images": torch.randn(2, 3, 32, 32)}
    for block in blocks:
        exec(block, names)


def test_the_readme_lists_every_connection():
    from orthostream import connections

    text = (REPOSITORY / "README.md").read_text()
    assert all(f"| `{name}` |" in text for name in connections.names())
