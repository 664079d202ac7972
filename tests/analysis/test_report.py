"""The page is complete in itself, escapes everything, says what is missing, and shows the numbers."""

import base64
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from analysis.synthetic_runs import write_run
from orthostream.analysis.compare import Comparison
from orthostream.analysis.report import render, write_report
from orthostream.analysis.runs import find_runs, grouped, read_run, read_runs

HOSTILE = "<script>alert('x')</script>\"'&{{ 7*7 }}{% raw %}"
VOID = {"meta", "img", "source", "br"}


class Page(HTMLParser):
    """Tags, attributes and text of a page; refuses what is not closed."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == [], f"not closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.text += data

    @property
    def words(self) -> str:
        return " ".join(self.text.split())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    for connection in ("linear", "orthogonal"):
        for seed in range(2):
            write_run(root / f"{connection}-{seed}", connection, seed, epochs=6, depth=2)
    return root


@pytest.fixture(scope="module")
def comparison(folder: Path) -> Comparison:
    return Comparison(grouped(read_runs(find_runs(folder)).read))


def test_page_asks_for_nothing_from_outside(comparison: Comparison) -> None:
    html = render(comparison, title="A title", commands=["make demo"])
    page = Page(html)
    addresses = [
        value or ""
        for _, attributes in page.tags
        for name, value in attributes.items()
        if name in ("src", "srcset", "href")
    ]
    assert addresses
    assert all(address.startswith("data:image/png;base64,") for address in addresses)
    assert not {"script", "link", "iframe", "object", "form", "base"} & {tag for tag, _ in page.tags}
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert not re.search(r"url\(|@import|https?:", html)
    policies = [
        attributes["content"]
        for tag, attributes in page.tags
        if attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


def test_page_shows_what_was_run_and_what_came_out(comparison: Comparison) -> None:
    page = Page(render(comparison, title="A title", commands=["make demo"]))
    last = comparison.measures[0]
    for label in comparison.labels:
        spread = comparison.spread(label, last)
        assert f"{label} {spread} % (n = 2)" in page.words
    pair = comparison.paired("orthogonal", last)
    assert f"orthogonal minus linear: {pair} points" in page.words
    assert pair.seeds_text in page.words
    for text in (
        "A title",
        "make demo",
        "AMD EPYC 7R13 Processor",
        "2.15.0",
        "a small ViT on digits",
        "812,042",
        "# command line",
    ):
        assert text in page.words
    for run in comparison.runs:
        assert f"orthostream train {run.folder / 'recipe.yaml'} --run-dir" in page.words
    assert "partial" not in page.words


def test_pictures_come_for_light_and_dark_paper_with_words(comparison: Comparison) -> None:
    page = Page(render(comparison, title="A title"))
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    sources = [attributes for tag, attributes in page.tags if tag == "source"]
    # Four curves, four profiles, and the stream's norm over training once a group.
    assert len(images) == len(sources) == 10
    assert all(attributes["media"] == "(prefers-color-scheme: dark)" for attributes in sources)
    assert all(
        "linear" in (attributes["alt"] or "") or "orthogonal" in (attributes["alt"] or "") for attributes in images
    )
    for attributes, name in [(images[0], "src"), (sources[0], "srcset")]:
        data = base64.b64decode((attributes[name] or "").removeprefix("data:image/png;base64,"), validate=True)
        assert data.startswith(b"\x89PNG")
    assert images[0]["src"] != sources[0]["srcset"]


def test_hostile_names_are_text(comparison: Comparison) -> None:
    runs = {
        seed: replace(
            run,
            label=HOSTILE,
            folder=Path("runs") / HOSTILE,
            recipe={**run.recipe, "description": HOSTILE},
            recipe_text=HOSTILE,
            versions={HOSTILE: HOSTILE},
            notes=[HOSTILE],
        )
        for seed, run in comparison.groups["linear"].items()
    }
    hostile = Comparison(
        {"linear": comparison.groups["linear"], HOSTILE: runs},
        failed={(HOSTILE, 9): HOSTILE},
        unreadable={Path(HOSTILE): HOSTILE},
    )
    html = render(hostile, title=HOSTILE, commands=[HOSTILE])
    page = Page(html)
    assert "<script" not in html
    assert "script" not in {tag for tag, _ in page.tags}
    # Nothing was evaluated either: the braces stand where they stood.
    assert page.text.count("{{ 7*7 }}{% raw %}") >= 10
    assert " 49" not in page.words


def test_partial_report_says_so(folder: Path, tmp_path: Path) -> None:
    started = read_run(write_run(tmp_path / "started", "orthogonal", 1, finished=False))
    cells = {"linear": {0: read_run(folder / "linear-0"), 1: read_run(folder / "linear-1")}, "orthogonal": {1: started}}
    partial = Comparison(cells, unreadable={tmp_path / "broken": "versions.json is missing"})
    page = Page(render(partial, title="A title"))
    assert "This report is partial." in page.words
    assert "orthogonal, seed 0: there is no run of this seed" in page.words
    assert "orthogonal, seed 1: not finished: 6 evaluated epochs" in page.words
    assert "versions.json is missing" in page.words
    assert "orthogonal - % (n = 0)" in page.words


def test_runs_under_way_and_without_statistics(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run", finished=False, statistics=False))
    page = Page(render(Comparison({"linear": {0: run}}), title="Under way"))
    assert "No run is finished yet." in page.words
    assert "No statistics of the stream were recorded" in page.words
    assert [attributes["alt"] for tag, attributes in page.tags if tag == "img"] != []


def test_no_run_at_all() -> None:
    page = Page(render(Comparison({}, failed={("linear", 0): "killed"}), title="Nothing"))
    assert "linear, seed 0: killed" in page.words


def test_names_that_are_no_text_can_be_written(comparison: Comparison, tmp_path: Path) -> None:
    # How Python shows a file name whose bytes are no UTF-8.
    odd = Comparison(comparison.groups, unreadable={Path("caf\udce9"): "damaged"})
    path = write_report(tmp_path / "new" / "report.html", odd, title="A title")
    assert "caf\\udce9: damaged" in path.read_text(encoding="utf-8")
