"""Where tests find golden tensors and real data."""

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
GOLDEN = Path(__file__).resolve().parent / "golden"


def data_folder(name: str) -> Path:
    """Folder of a real data set, or a skip that says why."""
    root = Path(os.environ.get("ORTHOSTREAM_DATA", REPOSITORY.parent / "shared" / "data"))
    folder = root / name
    if not folder.exists():
        pytest.skip(f"real data {name!r} is not at {root}; set ORTHOSTREAM_DATA to the folder that holds it")
    return folder
