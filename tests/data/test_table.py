"""The table of data sets, and the facts that follow from an image size."""

import pytest

from orthostream import data
from orthostream.data.description import default_patch
from orthostream.errors import UsageError
from orthostream.registry import Registry


def test_names():
    assert data.names() == ["digits", "cifar10", "cifar100", "folder", "shards", "text"]


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(UsageError, match="did you mean cifar10"):
        data.load("cifar-10")


def test_an_outsider_adds_a_set(monkeypatch):
    monkeypatch.setattr(data, "table", Registry("data set", dict(data.table)))
    data.table.register("mine", lambda *, source=None, image_size=None: (source, image_size), "mine")
    assert data.load("mine", "there", 9) == ("there", 9)


@pytest.mark.parametrize(("size", "patch"), [(32, 4), (64, 8), (224, 16), (28, 2), (96, 8), (7, 1), (256, 16)])
def test_the_papers_patches(size, patch):
    assert default_patch(size) == patch


@pytest.mark.parametrize("name", ["digits", "cifar10", "folder"])
def test_an_image_size_below_one_is_refused(name, tmp_path, write_cifar, write_folder):
    source = {"digits": None, "cifar10": str(write_cifar(tmp_path / "cifar"))}.get(name)
    if name == "folder":
        files = {f"{split}/{kind}/1.png": (2, 2) for split in ("train", "val") for kind in ("a", "b")}
        source = str(write_folder(tmp_path / "folder", files))
    with pytest.raises(UsageError, match=r"image_size is 0; .* at least 1"):
        data.load(name, source, 0)
