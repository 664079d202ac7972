"""``orthostream data check``: exit codes by severity, what is written, and stopping."""

import json
import os
import signal
import subprocess
from io import BytesIO
from pathlib import Path
from tarfile import TarInfo
from tarfile import open as open_tar

import pytest
from PIL import Image
from runs import ENVIRONMENT, command, in_this_process, orthostream

from data.broken_files import write
from locations import REPOSITORY
from orthostream.cli import data as verb
from orthostream.cli import main
from orthostream.data.doctor import KINDS


@pytest.fixture
def call(capsys):
    return in_this_process(verb, capsys)


@pytest.fixture
def source(tmp_path):
    """Two classes in two splits, without a fault."""
    root = tmp_path / "source"
    for place, folder in enumerate(("train/a", "train/b", "val/a", "val/b")):
        (root / folder).mkdir(parents=True)
        Image.new("RGB", (20, 20), (place, 0, 0)).save(root / folder / "1.png")
    return root


def check(source, tmp_path, call, expect, *more):
    text = call("check", source, "--out", tmp_path / "out", "--workers", 2, *more, expect=expect)
    return text, json.loads((tmp_path / "out" / "report.json").read_text("utf-8"))


def test_notes_alone_are_code_0(source, tmp_path, call):
    (source / "train" / "notes.txt").write_text("x")
    text, report = check(source, tmp_path, call, 0)
    assert "0 errors, 0 warnings, 1 note in 4 images" in text and "train/notes.txt" in text
    assert report["counts"] == {"note": 1, "warning": 0, "error": 0} and report["is_whole"] and report["scanned"] == 4
    assert (tmp_path / "out" / "table.txt").read_text("utf-8") in text
    with Image.open(tmp_path / "out" / "contact_sheet.png") as sheet:
        assert sheet.format == "PNG"


def test_warnings_are_code_1(source, tmp_path, call):
    Image.new("RGB", (20, 20), (0, 0, 0)).save(source / "val" / "a" / "2.bmp")
    text, report = check(source, tmp_path, call, 1)
    assert report["kinds"] == {"leaked": 1} and "leaked" in text
    assert report["findings"] == [
        {
            "severity": "warning",
            "kind": "leaked",
            "split": "val",
            "class": "a",
            "where": "val/a/2.bmp",
            "detail": "as train/a/1.png",
        }
    ]


def test_errors_are_code_3(source, tmp_path, call):
    (source / "train" / "a" / "2.jpg").write_bytes(b"")
    _, report = check(source, tmp_path, call, 3)
    assert report["kinds"] == {"empty": 1}


@pytest.mark.parametrize("more", [("--workers", "-1"), ("--num-classes", "0")])
def test_mistakes_in_the_call_are_code_2(more, source, tmp_path, call):
    assert f"{more[0]} {more[1]}" in call("check", source, "--out", tmp_path / "out", *more, expect=2)


def test_a_source_that_is_not_there_is_code_2(tmp_path, call):
    assert "does not exist" in call("check", tmp_path / "nowhere", "--out", tmp_path / "out", expect=2)


def test_a_folder_that_cannot_be_written_is_refused_before_the_scan(source, tmp_path, call, monkeypatch):
    (tmp_path / "file").write_text("x")
    monkeypatch.setattr(verb, "list_source", lambda *args, **options: pytest.fail("scanned"))
    assert "cannot write to --out" in call("check", source, "--out", tmp_path / "file" / "out", expect=2)


def test_names_of_any_bytes_are_printed_and_written_where_only_ascii_is_spoken(tmp_path):
    root = tmp_path / os.fsdecode(b"s\xf6urce\n")
    write(root / "train" / os.fsdecode(b"\xffbroken"))
    for folder in ("train/whole", "val/whole"):
        (root / folder).mkdir(parents=True)
        Image.new("RGB", (9, 9)).save(root / folder / "1.png")
    done = subprocess.run(
        command("data", "check", root, "--out", tmp_path / "out", "--workers", "2"),
        env=ENVIRONMENT | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii:backslashreplace"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    report = json.loads((tmp_path / "out" / "report.json").read_text("utf-8"))
    assert report["source"].endswith("s\\xf6urce\n") and len(report["findings"]) > 200
    assert any(finding["where"] == "train/\\xffbroken/caf\\xe9.png" for finding in report["findings"])
    assert "\x1b" not in done.stdout


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_with_what_was_found_so_far(number, code, source, tmp_path, call, monkeypatch):
    (source / "train" / "a" / "0.png").write_bytes(b"")
    real = verb.scan

    def stopped(listed, workers, on_images, should_stop):
        def then_stop(done):
            on_images(done)
            if not should_stop():
                os.kill(os.getpid(), number)

        return real(listed, 0, then_stop, should_stop)

    monkeypatch.setattr(verb, "scan", stopped)
    text, report = check(source, tmp_path, call, code)
    assert "stopped" in text and not report["is_whole"] and report["scanned"] == 1
    assert [each["kind"] for each in report["findings"]] == ["empty"]


def test_the_real_command_leaves_no_process_behind_when_it_is_interrupted(tmp_path):
    root, held = tmp_path / "source", BytesIO()
    Image.effect_noise((1500, 1500), 50).save(held, "PNG")
    for folder in ("train/a", "train/b", "val/a"):
        (root / folder).mkdir(parents=True)
        for number in range(40):
            (root / folder / f"{number}.png").write_bytes(held.getvalue())
    process = subprocess.Popen(
        command("data", "check", root, "--out", tmp_path / "out", "--workers", "2"),
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        # Workers are there, so that the scan has begun.
        while len(children := _children(process.pid)) < 2:
            assert process.poll() is None, process.stdout.read()
        os.killpg(process.pid, signal.SIGINT)
        text, _ = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130 and "then stopped" in text, text
    assert not any(Path(f"/proc/{child}").exists() for child in children)


def _children(pid):
    try:
        return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except FileNotFoundError:
        return []


def test_labels_are_held_against_the_number_of_classes_that_is_given(tmp_path, call):
    held = BytesIO()
    Image.new("RGB", (3, 3)).save(held, "PNG")
    with open_tar(tmp_path / "val.tar", "w") as opened:
        for name, content in (("a.png", held.getvalue()), ("a.cls", b"1000")):
            entry = TarInfo(name)
            entry.size = len(content)
            opened.addfile(entry, BytesIO(content))
    check(tmp_path / "val.tar", tmp_path, call, 0)
    _, report = check(tmp_path / "val.tar", tmp_path, call, 3, "--num-classes", 1000)
    assert report["kinds"]["bad_label"] == 1


def test_help_shows_an_example_and_the_codes(capsys):
    with pytest.raises(SystemExit) as left:
        main(["data", "check", "--help"])
    text = capsys.readouterr().out
    assert left.value.code == 0 and "orthostream data check imagenet/" in text and "3 errors" in text


def test_the_document_lists_every_kind_with_its_severity_and_outcome():
    text = (REPOSITORY / "docs" / "data.md").read_text("utf-8")
    for name, kind in KINDS.items():
        row = f"| `{name}` | {kind.severity.name.lower()} | {kind.meaning} | {kind.outcome} |"
        assert row in text, row


def test_it_runs_from_the_command_line(source, tmp_path):
    assert "in 4 images" in orthostream("data", "check", source, "--out", tmp_path / "out")
