"""Kernels compiled for real architectures, without a device: registers suffice, accesses are 16 bytes wide."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("compiled.py")

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")


@pytest.mark.parametrize(
    "arch", [90, pytest.param(80, marks=pytest.mark.slow), pytest.param(100, marks=pytest.mark.slow)]
)
def test_kernels_fit_into_registers_with_wide_accesses(arch) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(arch)], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = done.stdout.splitlines()[2:]
    assert {row.split()[0] for row in rows} >= {"_forward", "_backward", "_partial_sums", "_forward_long"}
    for row in rows:
        # 7 x 7 pixels start at odd addresses; kernels for streams reach wide accesses where registers leave room.
        if "7, 7" not in row and "streams" not in row:
            assert "128]" in row.split("] ")[-2] + "]", row
