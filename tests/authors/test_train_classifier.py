"""The script itself: help, mistakes and exit codes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from locations import REPOSITORY


def ran(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(REPOSITORY / "train_classifier.py"), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "src")}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


def test_help_lists_the_flags(tmp_path):
    result = ran("--help", folder=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "--orthogonal_residual" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--config_file", "a.yaml"), "error: a.yaml:2: epochs: expected a whole number, got 'ten'\n"),
        (("data.name=nowhere",), "error: command line: unknown data set 'nowhere'"),
    ],
)
def test_mistakes_end_with_a_message_and_code_2(arguments, message, tmp_path):
    (tmp_path / "a.yaml").write_text("dataset: cifar10\nepochs: ten\n")
    result = ran(*arguments, folder=tmp_path)
    assert result.returncode == 2
    assert result.stderr.startswith(message)
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "results-classifier").exists()
