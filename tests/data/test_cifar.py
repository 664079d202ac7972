"""CIFAR from parquet files and archives: the pixels, the order, and what is said where something is amiss."""

import hashlib
import pickle

import numpy as np
import pytest
import torch
from pyarrow import parquet
from torchvision import datasets

from locations import data_folder
from orthostream import data
from orthostream.data.cifar import CIFAR10, CIFAR100
from orthostream.data.errors import DataError

# The decoded arrays (N, 32, 32, 3), as published with the data.
OFFICIAL_PIXELS = {
    "train": "47af8b02cfcfb6cdf3dbbd1969ad7f1b70f4413f6f80f437b020ee4e5bc8304a",
    "evaluation": "f9b1e2130bab680db56eb06d886f7f1ad0f1183907ceff4659d1735c890f5b04",
}


def pixels(split):
    return split.images.permute(0, 2, 3, 1).contiguous().numpy()


@pytest.mark.parametrize(("name", "kind"), [("cifar10", CIFAR10), ("cifar100", CIFAR100)])
def test_parquet_files_are_read_in_order_without_loss(name, kind, tmp_path, write_cifar, picture):
    splits = data.load(name, str(write_cifar(tmp_path, name)))
    assert np.array_equal(pixels(splits.train), np.stack([picture(i) for i in range(7)]))
    assert np.array_equal(pixels(splits.evaluation), np.stack([picture(i) for i in (7, 8, 9)]))
    assert splits.train.labels.tolist() == list(range(7)) and splits.evaluation.labels.tolist() == [7, 8, 9]
    facts = splits.description
    assert facts.classes == kind.classes and (facts.channels, facts.image_size, facts.patch_size) == (3, 32, 4)
    assert splits.train.image(3).mode == "RGB" and np.array_equal(np.asarray(splits.train.image(3)), picture(3))
    assert splits.notes == (
        "train: 7 of the official 50,000 images; results do not compare",
        "test: 3 of the official 10,000 images; results do not compare",
    )


def test_files_may_lie_one_folder_down(tmp_path, write_cifar):
    write_cifar(tmp_path / "plain_text")
    assert len(data.load("cifar10", str(tmp_path)).train) == 7
    write_cifar(tmp_path / "other")
    with pytest.raises(DataError, match="several folders: other, plain_text"):
        data.load("cifar10", str(tmp_path))


def test_an_image_size_is_taken_over(tmp_path, write_cifar):
    facts = data.load("cifar10", str(write_cifar(tmp_path)), 64).description
    assert (facts.image_size, facts.patch_size) == (64, 8)


def test_a_missing_file_of_a_split_is_noticed(tmp_path, write_cifar):
    (write_cifar(tmp_path) / "train-00001-of-00002.parquet").unlink()
    with pytest.raises(DataError, match="1 train files, but their names speak of 2; complete the download"):
        data.load("cifar10", str(tmp_path))


def test_a_missing_split_is_named_with_what_is_there(tmp_path, write_cifar):
    (write_cifar(tmp_path) / "test-00000-of-00001.parquet").rename(tmp_path / "held-out.parquet")
    with pytest.raises(DataError, match=r"no test-\*\.parquet in .*it holds: held-out\.parquet, train-00000"):
        data.load("cifar10", str(tmp_path))


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ({"bytes": b"<html>", "path": "x"}, r"train-0\.parquet row 1 \(6 bytes\)"),
        ({"bytes": None, "path": "x"}, "row 1 holds no image bytes"),
        (None, "row 1 holds no image bytes"),
    ],
)
def test_an_unreadable_row_is_named(cell, message, tmp_path, write_cifar, write_cells):
    folder = write_cifar(tmp_path)
    good = _first_cell(folder)
    for file in folder.glob("train-*"):
        file.unlink()
    write_cells(folder / "train-0.parquet", [good, cell], [0, 1])
    with pytest.raises(DataError, match=message):
        data.load("cifar10", str(folder))


def _first_cell(folder):
    return parquet.read_table(folder / "train-00000-of-00002.parquet")["img"][0].as_py()


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({"label": "fine_label"}, "no column label; it has: img, fine_label"),
        ({"image": "image"}, "no column img; it has: image, label"),
        ({"names": ["airplane", "automobile", "cat"]}, "other classes than expected: 'cat' is class 2"),
        ({"names": ["airplane"]}, "other classes than expected: 1 for 10"),
        ({"labels": [10]}, "label 10 at index 0 is out of range"),
        ({"labels": [None]}, "rows without a label"),
    ],
)
def test_files_of_another_kind_are_refused(written, message, tmp_path, write_cifar, write_cells):
    folder = write_cifar(tmp_path)
    cell = _first_cell(folder)
    for file in folder.glob("train-*"):
        file.unlink()
    write_cells(folder / "train-0.parquet", [cell], written.pop("labels", [0]), **written)
    with pytest.raises(DataError, match=message):
        data.load("cifar10", str(folder))


def test_images_of_another_size_are_refused(tmp_path, write_cifar):
    with pytest.raises(DataError, match="row 0: image of 16x16 pixels, expected 32x32"):
        data.load("cifar10", str(write_cifar(tmp_path, size=16)))


def test_a_damaged_file_is_named(tmp_path, write_cifar):
    path = write_cifar(tmp_path) / "train-00001-of-00002.parquet"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match=r"cannot read .*train-00001-of-00002\.parquet.*download it again"):
        data.load("cifar10", str(tmp_path))


def test_what_is_no_source_is_refused_with_the_ways_to_get_the_data(tmp_path):
    with pytest.raises(DataError, match=r"no folder .*hub id uoft-cs/cifar10, .*cifar-10-python\.tar\.gz"):
        data.load("cifar10", str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match=r"holds neither train-\*\.parquet .* nor cifar-100-python/"):
        data.load("cifar100", str(tmp_path))
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(b"")
    with pytest.raises(DataError, match="is a file; give the folder"):
        data.load("cifar10", str(tmp_path / "cifar-10-python.tar.gz"))


@pytest.fixture
def archive(tmp_path, monkeypatch, picture):
    """A tiny archive in the official layout, whose digests torchvision is told to be the official ones."""
    root = tmp_path / "archive" / CIFAR10.archive
    root.mkdir(parents=True)

    def write(name, content):
        (root / name).write_bytes(pickle.dumps(content))
        return name, hashlib.md5((root / name).read_bytes()).hexdigest()

    def batch(indices):
        rows = np.stack([picture(i).transpose(2, 0, 1).ravel() for i in indices])
        return {"data": rows, "labels": [i % 10 for i in indices]}

    reader = datasets.CIFAR10
    train = [write("data_batch_1", batch((0, 1))), write("data_batch_2", batch((2,)))]
    monkeypatch.setattr(reader, "train_list", train)
    monkeypatch.setattr(reader, "test_list", [write("test_batch", batch((3, 4)))])
    name, digest = write("batches.meta", {"label_names": list(CIFAR10.classes)})
    monkeypatch.setattr(reader, "meta", {"filename": name, "key": "label_names", "md5": digest})
    return root


def test_the_original_archive_gives_the_same_pixels(archive, picture):
    for source in (archive.parent, archive):
        splits = data.load("cifar10", str(source))
        assert np.array_equal(pixels(splits.train), np.stack([picture(i) for i in range(3)]))
        assert splits.train.labels.tolist() == [0, 1, 2] and splits.evaluation.labels.tolist() == [3, 4]


def test_a_changed_archive_is_not_unpickled(archive):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("the pickle was opened",))

    (archive / "data_batch_2").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(DataError, match="not the complete official archive"):
        data.load("cifar10", str(archive.parent))


@pytest.mark.slow
def test_all_of_cifar10_has_the_official_pixels():
    splits = data.load("cifar10", str(data_folder("cifar10")))
    for name, digest in OFFICIAL_PIXELS.items():
        split = getattr(splits, name)
        assert hashlib.sha256(pixels(split).tobytes()).hexdigest() == digest
        assert len(set(torch.bincount(split.labels).tolist())) == 1, "all classes have the same count"
    assert splits.notes == ()
    values = splits.train.images.double() / 255
    assert values.mean((0, 2, 3)).tolist() == pytest.approx(CIFAR10.mean, abs=1e-4)
    assert values.std((0, 2, 3)).tolist() == pytest.approx(CIFAR10.std, abs=1e-4)


def test_the_first_images_of_cifar100_are_what_their_labels_say():
    splits = data.load("cifar100", str(data_folder("cifar100")))
    assert len(splits.description.classes) == 100 and list(CIFAR100.classes) == sorted(CIFAR100.classes)
    assert torch.bincount(splits.train.labels, minlength=100).min() > 0
    assert len(splits.train) == 50_000 or any("results do not compare" in note for note in splits.notes)
