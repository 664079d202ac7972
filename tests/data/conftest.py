"""Small data sets written to disk."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from orthostream.data.cifar import CIFAR10, CIFAR100


def noise(index: int, size: int = 32) -> np.ndarray:
    """An RGB image of its own for each index."""
    return np.random.default_rng(index).integers(0, 256, (size, size, 3), dtype=np.uint8)


def encoded(pixels: np.ndarray, kind: str) -> bytes:
    """Image bytes without loss."""
    held = io.BytesIO()
    Image.fromarray(pixels).save(held, kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {}))
    return held.getvalue()


@pytest.fixture
def picture():
    """The function that makes the images of :func:`write_cifar`, by index."""
    return noise


@pytest.fixture
def cells():
    """Image cells of a parquet file and labels, by the numbers of the images; the class is the number modulo 3."""

    def make(indices):
        held = [{"bytes": encoded(noise(index, 12), "PNG"), "path": f"{index}.png"} for index in indices]
        return held, [index % 3 for index in indices]

    return make


@pytest.fixture
def write_cells():
    """Write a parquet file of the Hugging Face layout from image cells and labels, in groups of ``rows`` rows."""

    def write(path: Path, cells, labels, *, image="img", label="label", names=None, rows=None) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
        table = pyarrow.table({image: pyarrow.array(cells, kind), label: pyarrow.array(labels, pyarrow.int64())})
        if names is not None:
            features = {image: {"_type": "Image"}, label: {"_type": "ClassLabel", "names": list(names)}}
            table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
        parquet.write_table(table, path, row_group_size=rows)
        return path

    return write


@pytest.fixture
def write_cifar(write_cells):
    """Write a folder of parquet files as CIFAR has them: 7 training images in two files, 3 test images."""

    def write(folder: Path, name: str = "cifar10", size: int = 32) -> Path:
        kind = {"cifar10": CIFAR10, "cifar100": CIFAR100}[name]
        shards = {
            "train-00000-of-00002": range(4),
            "train-00001-of-00002": range(4, 7),
            "test-00000-of-00001": (7, 8, 9),
        }
        for shard, indices in shards.items():
            # Both lossless formats, for the hub has PNG and other copies have WebP.
            cells = [{"bytes": encoded(noise(i, size), ("PNG", "WEBP")[i % 2]), "path": f"{i}.png"} for i in indices]
            labels = [i % len(kind.classes) for i in indices]
            write_cells(folder / f"{shard}.parquet", cells, labels, label=kind.label_column, names=kind.classes)
        return folder

    return write


@pytest.fixture
def write_folder():
    """Write class folders: ``{"train/cat/1.png": (width, height), ...}``."""

    def write(root: Path, files) -> Path:
        for index, (name, shape) in enumerate(files.items()):
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng(index).integers(0, 256, (shape[1], shape[0], 3), dtype=np.uint8)
            Image.fromarray(pixels).save(path)
        return root

    return write
