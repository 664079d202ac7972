"""Programs in a fresh interpreter in which some packages are not there, as on a machine without the extras."""

import os
import subprocess
import sys

from locations import REPOSITORY

HIDE = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {packages!r}:
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Refuse())
"""


def output_without(packages, program):
    """What a program prints where these packages cannot be imported; it must succeed."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", HIDE.format(packages=tuple(packages)) + program],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
