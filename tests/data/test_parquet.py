"""Parquet files as a source of evaluation: every row once, at its own label, by the split and the classes they name."""

import io
import pickle
import tarfile

import numpy as np
import pyarrow
import pytest
import torch
from huggingface_hub import constants
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pyarrow import parquet

from locations import data_folder
from orthostream import data
from orthostream.data import hub
from orthostream.data import parquet as module
from orthostream.data.errors import DataError
from orthostream.data.loader import EvalLoader
from orthostream.data.parquet import ParquetSet, split_names
from orthostream.data.transforms import evaluation_transform

NAMES = ("ant", "bee", "cat")


@pytest.fixture
def folder(tmp_path, write_cells, cells):
    """Ten images in two files of three row groups and one, beside a training file and a split without labels."""
    write_cells(
        tmp_path / "data" / "validation-00000-of-00002.parquet", *cells(range(7)), image="image", names=NAMES, rows=3
    )
    write_cells(
        tmp_path / "data" / "validation-00001-of-00002.parquet", *cells(range(7, 10)), image="image", names=NAMES
    )
    write_cells(tmp_path / "data" / "train-00000-of-00001.parquet", *cells(range(20, 23)), image="image")
    held, _ = cells(range(30, 32))
    write_cells(tmp_path / "data" / "test-00000-of-00001.parquet", held, [-1, -1], image="image", names=NAMES)
    return tmp_path


def test_every_row_has_its_label_in_any_order(folder, picture):
    splits = data.load("shards", str(folder), 8)
    found = splits.evaluation
    assert len(found) == 10 and [found.label(i) for i in range(10)] == [i % 3 for i in range(10)]
    for index in (*range(10), 9, 0, 6, 5, 7, 3, 3):
        assert np.array_equal(np.asarray(found.image(index)), picture(index, 12)), index
    assert splits.description.classes == NAMES and splits.description.eval_split == "validation"
    assert splits.description.image_size == 8 and splits.notes == ()
    assert found.where(8) == f"{folder / 'data' / 'validation-00001-of-00002.parquet'} row 1, index 8"
    with pytest.raises(DataError, match="evaluation alone"):
        len(splits.train)


@pytest.mark.parametrize("at_once", [1, 2, 64])
def test_rows_are_read_once_where_they_are_asked_for_in_order(folder, monkeypatch, at_once):
    opened = []
    real = module._Rows

    class Counted(real):
        def __init__(self, *arguments):
            opened.append(arguments[1])
            super().__init__(*arguments)

    monkeypatch.setattr(module, "_Rows", Counted)
    monkeypatch.setattr(module, "PHOTOGRAPHS_AT_ONCE", at_once)
    found = data.load("shards", str(folder)).evaluation
    for index in range(10):
        found.image(index)
    assert opened == [0, 1, 2, 0]
    found.image(1)
    assert opened == [0, 1, 2, 0, 0]


@pytest.mark.parametrize("workers", [0, 2])
def test_shares_of_processes_are_the_whole(folder, picture, workers):
    splits = data.load("shards", str(folder), 8)
    transform = evaluation_transform(splits.description, "vit")
    # An open file is handed on to forked workers and must not be used there.
    splits.evaluation.image(4)
    seen, labels = [], []
    for rank in range(3):
        batches = EvalLoader(splits.evaluation, transform, batch_size=2, rank=rank, world_size=3, workers=workers)
        for images, of_batch in batches:
            seen += list(images)
            labels += of_batch.tolist()
    expected = [transform(Image.fromarray(picture(index, 12))) for index in range(10)]
    found = [next(i for i, each in enumerate(expected) if torch.equal(image, each)) for image in seen]
    assert sorted(found) == list(range(10)) and labels == [index % 3 for index in found]


def test_a_large_row_group_is_not_held_in_memory(tmp_path, cells):
    held, labels = cells(range(400))
    # What follows a whole image is ignored by its decoder.
    held = [cell | {"bytes": cell["bytes"] + bytes(50_000)} for cell in held]
    path, layout = tmp_path / "val-0.parquet", {"compression": "none", "use_dictionary": False, "write_batch_size": 10}
    parquet.write_table(pyarrow.table({"image": held, "label": labels}), path, row_group_size=400, **layout)
    found = data.load("shards", str(path)).evaluation
    before = pyarrow.total_allocated_bytes()
    found.image(150)
    assert pyarrow.total_allocated_bytes() - before < path.stat().st_size / 2


def test_a_set_goes_to_workers_that_are_not_forked(folder, picture):
    found = data.load("shards", str(folder)).evaluation
    found.image(5)
    again = pickle.loads(pickle.dumps(found))
    assert np.array_equal(np.asarray(again.image(5)), picture(5, 12)) and again.where(5) == found.where(5)


def test_one_file_without_names_counts_classes_by_its_labels(folder, write_cells, cells):
    path = write_cells(folder / "some.parquet", *cells([4, 6]), image="image")
    splits = data.load("shards", str(path))
    assert splits.description.classes == ("0", "1") and [splits.evaluation.label(i) for i in range(2)] == [1, 0]
    assert "names no classes; as many are taken as the largest label says" in splits.notes[0]


def test_tar_files_come_first(folder, cells):
    (image,), _ = cells([0])
    with tarfile.open(folder / "val-0.tar", "w") as opened:
        for name, content in (("a.png", image["bytes"]), ("a.cls", b"2")):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            opened.addfile(entry, io.BytesIO(content))
    assert len(data.load("shards", str(folder)).evaluation) == 1


def test_files_that_do_not_fit_are_refused(tmp_path, write_cells, cells):
    def refused(message, held, labels, name="val-0.parquet", **options):
        path = write_cells(tmp_path / name, held, labels, **{"image": "image", **options})
        with pytest.raises(DataError, match=message):
            data.load("shards", str(path))

    held, labels = cells(range(3))
    refused("has no column image; it has: img, label.*--data cifar10 --source", held, labels, image="img")
    refused("has no column label; it has: image, fine_label", held, labels, label="fine_label")
    refused("label -1 at index 0 is out of range", held, [-1, -1, -1], names=NAMES)
    refused("label 3 at index 2 is out of range.*3 classes allow 0 to 2", held, [0, 1, 3], names=NAMES)
    refused("rows without a label", held, [0, None, 1])
    refused("holds no sample", [], [])
    path = write_cells(tmp_path / "val-1.parquet", [{"bytes": None, "path": "x.png"}, held[0]], [0, 1], image="image")
    found = data.load("shards", str(path)).evaluation
    with pytest.raises(DataError, match=r"val-1\.parquet row 0, index 0 holds no image bytes"):
        found.image(0)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match="download it again"):
        data.load("shards", str(path))


def test_a_file_that_is_damaged_later_is_named(folder):
    found = data.load("shards", str(folder)).evaluation
    path = folder / "data" / "validation-00000-of-00002.parquet"
    path.write_bytes(b"PAR1" + bytes(100))
    with pytest.raises(DataError, match=r"cannot read .*validation-00000.*download it again"):
        found.image(0)


def test_files_of_one_set_name_the_same_classes(tmp_path, write_cells, cells):
    write_cells(tmp_path / "val-0.parquet", *cells(range(3)), image="image", names=NAMES)
    write_cells(tmp_path / "val-1.parquet", *cells(range(3)), image="image", names=("ant", "cat", "bee"))
    with pytest.raises(DataError, match=r"val-1\.parquet has other classes than expected: 'cat' is class 1"):
        data.load("shards", str(tmp_path))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["train-0.parquet", "x.tar"], r"no shard of an evaluation split.*train-0\.parquet, x\.tar"),
        (["a/val-0.parquet", "b/val-0.parquet"], "val split in several folders: a, b; name one"),
        (["val-00000-of-00003.parquet", "val-00001-of-00003.parquet"], "2 val files, but their names speak of 3"),
        (["README.md"], "tar and parquet files: none"),
    ],
)
def test_folders_and_repositories_without_one_split_are_refused(names, message, tmp_path, monkeypatch):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(DataError, match=message):
        data.load("shards", str(tmp_path))
    # before anything is downloaded
    monkeypatch.setattr(hub, "_silence", lambda *a: None)
    monkeypatch.setattr(hub, "list_repo_files", lambda *a, **k: names)
    monkeypatch.setattr(hub, "snapshot_download", lambda *a, **k: pytest.fail("something was downloaded"))
    with pytest.raises(DataError, match=message):
        data.load("shards", "somebody/set")


def test_only_the_evaluation_split_of_a_repository_is_fetched(folder, monkeypatch):
    asked = []
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*.parquet")]
    monkeypatch.setattr(hub, "_silence", lambda *a: None)
    monkeypatch.setattr(hub, "list_repo_files", lambda *a, **k: names)
    monkeypatch.setattr(hub, "snapshot_download", lambda *a, **k: asked.append(k) or str(folder))
    assert len(data.load("shards", "somebody/set").evaluation) == 10
    assert asked[0]["allow_patterns"] == [f"data/validation-0000{number}-of-00002.parquet" for number in range(2)]


def test_an_earlier_download_is_used_and_said(folder, tmp_path, monkeypatch):
    root = tmp_path / "cache" / "datasets--somebody--set"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text("0" * 40)
    (root / "snapshots").mkdir()
    (root / "snapshots" / ("0" * 40)).symlink_to(folder)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    splits = data.load("shards", "somebody/set")
    assert len(splits.evaluation) == 10 and "hub's cache" in splits.notes[0]


@given(st.lists(st.sampled_from(["", "data/", "deep/er/"]), min_size=1, max_size=3), st.integers(1, 4))
def test_names_of_a_split_are_those_of_one_folder(folders, count):
    """Those in the source itself win over those one folder below; deeper ones never count."""
    names = [f"{place}val-{number}.parquet" for place in set(folders) for number in range(count)]
    found = split_names([*names, "data/train-0.parquet"], "val", "set")
    place = next((each for each in ("", "data/") if each in folders), None)
    assert found == ([] if place is None else [f"{place}val-{number}.parquet" for number in range(count)])


def test_real_photographs_of_parquet_files():
    root = data_folder("tiny-imagenet")
    splits = data.load("shards", str(root))
    assert splits.description.eval_split == "valid" and len(splits.evaluation) == 2000
    assert splits.description.num_classes == 200 and splits.description.classes[0] == "n01443537"
    assert torch.bincount(splits.evaluation.labels).tolist() == [10] * 200
    assert {splits.evaluation.image(index).size for index in range(0, 2000, 97)} == {(64, 64)}
    assert isinstance(splits.evaluation, ParquetSet)
