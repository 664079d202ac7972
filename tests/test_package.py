"""The package as it is installed: what the wheel holds, and what importing it needs."""

import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from hidden_packages import output_without
from locations import REPOSITORY

EXTRAS = ("torchvision", "numpy", "PIL", "yaml", "safetensors", "sklearn", "datasets", "rich", "matplotlib", "jinja2")
FIRST_STEPS = ("train", "demo", "train.max_steps=3", "log.interval=1", "log.progress=lines", "--run-dir", "run")


def clean_environment():
    """The environment without what points at the checkout."""
    return {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}


def test_importing_needs_torch_alone():
    program = """
import orthostream, torch
x = torch.randn(2, 4)
assert orthostream.ops.orthogonal_update(x, x).shape == x.shape
model = orthostream.models.create("vit_s", num_classes=3, embed_dim=8, depth=1, num_heads=2, connection="orthogonal")
with orthostream.analysis.record(model) as recording:
    model(torch.zeros(1, 3, 32, 32))
print(len(recording.table()))
try:
    import orthostream.data
except ImportError as error:
    print(error)
"""
    printed = output_without(EXTRAS, program)
    assert printed.startswith("2\n") and "pip install 'orthostream[vision]'" in printed


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from the checkout without the network."""
    out = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(REPOSITORY)]
    subprocess.run(build, check=True, capture_output=True, text=True)
    (made,) = out.glob("*.whl")
    return made


def environment(folder: Path) -> Path:
    """The Python of a new, empty virtual environment."""
    venv.create(folder, with_pip=True, symlinks=True)
    return folder / "bin" / "python"


def run_first_steps(python: Path, folder: Path) -> None:
    """The first steps of the demo, by the installed command, in an empty folder."""
    folder.mkdir()
    where = subprocess.run(
        [python, "-c", "import orthostream; print(orthostream.__file__)"],
        cwd=folder,
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert str(python.parents[1]) in where and str(REPOSITORY) not in where
    done = subprocess.run(
        [python.with_name("orthostream"), *FIRST_STEPS],
        cwd=folder,
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((folder / "run" / "result.json").read_text())["steps"] == 3


def test_the_wheel_runs_the_demo_outside_the_checkout(wheel, tmp_path):
    """The wheel alone is installed; what it depends on is lent by this environment, to save minutes."""
    python = environment(tmp_path / "environment")
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", wheel], check=True, capture_output=True)
    own = next((tmp_path / "environment").glob("lib/python*/site-packages"))
    # Paths in a .pth file come after the environment's own packages, and .pth files found there are not read,
    # so an editable installation of the checkout stays out of sight.
    (own / "lent.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    run_first_steps(python, tmp_path / "elsewhere")


@pytest.mark.slow
def test_the_wheel_installs_with_all_it_needs(wheel, tmp_path):
    """The same with every dependency installed by pip, from nothing."""
    python = environment(tmp_path / "environment")
    subprocess.run([python, "-m", "pip", "install", "--quiet", f"{wheel}[vision,report]"], check=True)
    run_first_steps(python, tmp_path / "elsewhere")
