"""Webdataset shards: every image once, at its own label, and a clear word where a shard is not whole."""

import importlib
import io
import json
import socket
import tarfile
import time

import huggingface_hub
import numpy as np
import pytest
import torch
from huggingface_hub import constants
from PIL import Image

from locations import data_folder
from orthostream import data
from orthostream.data import hub
from orthostream.data.errors import DataError
from orthostream.data.loader import EvalLoader
from orthostream.data.transforms import evaluation_transform

# The package holds the function of this name, which hides the module.
module = importlib.import_module("orthostream.data.shards")


def png(index):
    pixels = np.random.default_rng(index).integers(0, 256, (12, 10, 3), dtype=np.uint8)
    held = io.BytesIO()
    Image.fromarray(pixels).save(held, "PNG")
    return held.getvalue()


def write(path, members, kind="w"):
    """A tar file of names and contents."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, kind) as opened:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            opened.addfile(entry, io.BytesIO(content))
    return path


def samples(indices, label=".cls"):
    """Members of a shard: an image and its class, which is ``index % 3``."""
    for index in indices:
        said = str(index % 3) if label == ".cls" else json.dumps({"label": index % 3, "name": "x"})
        yield f"s{index:04d}.png", png(index)
        yield f"s{index:04d}{label}", said.encode()


@pytest.fixture
def folder(tmp_path):
    """Two evaluation shards of 5 and 4 images, one of each way to state a label, and one for training."""
    write(tmp_path / "val-000000.tar", samples(range(5)))
    write(tmp_path / "val-000001.tar", samples(range(5, 9), ".json"))
    write(tmp_path / "train-000000.tar", samples(range(20, 23)))
    return tmp_path


def same(image, index):
    return np.array_equal(np.asarray(image), np.asarray(Image.open(io.BytesIO(png(index)))))


def test_every_image_has_its_label(folder):
    splits = data.load("shards", str(folder), 8)
    found = splits.evaluation
    assert len(found) == 9 and [found.label(i) for i in range(9)] == [0, 1, 2] * 3
    # Any order, as the shares of several processes ask.
    assert all(same(found.image(i), i) for i in (8, 0, 4, 5, 7))
    assert found.where(6) == f"{folder / 'val-000001.tar'}: s0006.png, index 6"
    assert splits.description.classes == ("0", "1", "2") and splits.description.eval_split == "val"
    assert splits.description.image_size == 8


@pytest.mark.parametrize("workers", [0, 2])
def test_shares_of_processes_are_the_whole(folder, workers):
    splits = data.load("shards", str(folder), 8)
    transform = evaluation_transform(splits.description, "vit")
    seen = []
    for rank in range(3):
        batches = EvalLoader(splits.evaluation, transform, batch_size=2, rank=rank, world_size=3, workers=workers)
        seen += [image for images, _ in batches for image in images]
    expected = [transform(Image.open(io.BytesIO(png(i)))) for i in range(9)]
    assert len(seen) == 9 and all(sum(torch.equal(image, each) for each in seen) == 1 for image in expected)


def test_one_file_is_a_source(folder):
    splits = data.load("shards", str(folder / "val-000001.tar"))
    assert len(splits.evaluation) == 4 and same(splits.evaluation.image(0), 5)


def test_labels_beside_images_of_other_folders_and_long_endings(tmp_path):
    members = [("a/x.seg.png", png(0)), ("b/x.png", png(1)), ("b/x.cls", b" 7\n"), ("a/x.cls", b"4")]
    found = data.load("shards", str(write(tmp_path / "v.tar", members))).evaluation
    assert [found.label(i) for i in range(2)] == [4, 7] and same(found.image(1), 1)


def test_cls_is_the_label_where_both_are_there(tmp_path):
    members = [("x.json", b'{"text": "no label"}'), ("x.cls", b"2"), ("x.png", png(0))]
    assert data.load("shards", str(write(tmp_path / "v.tar", members))).evaluation.label(0) == 2


def test_there_is_nothing_to_train_on(folder):
    with pytest.raises(DataError, match="evaluation alone"):
        len(data.load("shards", str(folder)).train)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("x.png", png(0))], r"'x' has no label"),
        ([("x.png", png(0)), ("x.cls", b"1"), ("y.cls", b"1")], r"1 samples are not whole; 'y' has no image"),
        ([("x.png", png(0)), ("x.cls", b"cat")], r"x\.cls holds no class number: b'cat'"),
        ([("x.png", png(0)), ("x.cls", b"-1")], r"holds no class number: b'-1'"),
        ([("x.png", png(0)), ("x.json", b'{"label": true}')], r"number from 0 under the key label"),
        ([("x.png", png(0)), ("x.json", b"[]")], r"number from 0 under the key label"),
        ([("x.png", png(0)), ("x.jpg", png(1)), ("x.cls", b"1")], r"two images of the sample 'x'"),
        ([("readme", b"words")], r"holds no sample"),
    ],
)
def test_a_shard_that_is_not_whole_is_refused(tmp_path, members, message):
    with pytest.raises(DataError, match=message):
        data.load("shards", str(write(tmp_path / "val.tar", members)))


# Inside an image, between two members, and before the closing blocks.
@pytest.mark.parametrize("where", ["inside", "between", "end"])
def test_a_cut_shard_is_refused(folder, where):
    path = folder / "val-000000.tar"
    with tarfile.open(path) as opened:
        members = opened.getmembers()
        end = opened.offset
    kept = {"inside": members[4].offset_data + 100, "between": members[4].offset, "end": end}[where]
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DataError, match=r"val-000000\.tar.*download it again"):
        data.load("shards", str(folder))


def test_a_shard_that_is_broken_in_the_middle_is_refused(folder):
    path = folder / "val-000000.tar"
    with tarfile.open(path) as opened:
        at = opened.getmembers()[4].offset
    content = bytearray(path.read_bytes())
    content[at : at + 512] = b"\xff" * 512
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"cut or broken at byte {at}, after 2 images"):
        data.load("shards", str(folder))


def test_a_compressed_shard_is_refused(tmp_path):
    with pytest.raises(DataError, match="without compression"):
        data.load("shards", str(write(tmp_path / "v.tar", samples(range(2)), "w:gz")))


def test_an_unreadable_image_is_named_when_it_is_asked_for(tmp_path):
    found = data.load("shards", str(write(tmp_path / "v.tar", [("x.png", b"no image"), ("x.cls", b"0")]))).evaluation
    with pytest.raises(DataError, match=r"v\.tar: x\.png, index 0"):
        found.image(0)


def test_a_missing_shard_is_noticed(folder):
    write(folder / "val-000004.tar", samples(range(9, 11)))
    with pytest.raises(DataError, match=r"3 shards val-\*\.tar up to number 4, without 2, 3"):
        data.load("shards", str(folder))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (None, "source is missing"),
        ("/nowhere/at/all", "does not exist, and is no hub id"),
        ("", "no shard of an evaluation split"),
    ],
)
def test_a_source_without_shards_is_refused(source, message, tmp_path):
    # "interval" holds the letters of a split and is none.
    write(tmp_path / "interval-0.tar", samples(range(2)))
    with pytest.raises(DataError, match=message):
        data.load("shards", str(tmp_path) if source == "" else source)


@pytest.mark.parametrize("name", ["imagenet1k-validation-00.tar", "val.tar", "valid_3.tar", "test0.tar"])
def test_names_of_an_evaluation_split(name, tmp_path):
    write(tmp_path / name, samples(range(2)))
    if name == "valid_3.tar":
        for number in range(3):
            write(tmp_path / f"valid_{number}.tar", [])
    assert len(data.load("shards", str(tmp_path)).evaluation) == 2


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of the hub, and a hub that takes connections and never says a word."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "SECONDS_TO_ANSWER", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        yield tmp_path / "cache"


def test_a_mute_hub_is_given_up_within_seconds(cache):
    begun = time.monotonic()
    with pytest.raises(DataError, match="as a data set on the hub it is not in the cache"):
        data.load("shards", "timm/imagenet-1k-wds")
    # The hub's client alone tries for a minute.
    assert time.monotonic() - begun < 20


def test_an_earlier_download_is_used_and_said(cache):
    root = cache / "datasets--timm--imagenet-1k-wds"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text("0" * 40)
    write(root / "snapshots" / ("0" * 40) / "imagenet1k-validation-00.tar", samples(range(4)))
    splits = data.load("shards", "timm/imagenet-1k-wds")
    assert len(splits.evaluation) == 4 and "hub's cache" in splits.notes[0]


HUB_FILES = (
    "imagenet1k-train-0000.tar",
    "imagenet1k-validation-00.tar",
    "old/imagenet1k-validation-00.tar",
    "data/validation-00000-of-00001.parquet",
    "data/test-00000-of-00001.parquet",
    "README.md",
)


def test_only_evaluation_shards_are_fetched(monkeypatch, folder):
    asked = []
    monkeypatch.setattr(hub, "_silence", lambda *a: None)
    monkeypatch.setattr(hub, "list_repo_files", lambda *a, **k: [*HUB_FILES])
    monkeypatch.setattr(hub, "snapshot_download", lambda *a, **k: asked.append((a, k)) or str(folder))
    assert len(data.load("shards", "timm/imagenet-1k-wds").evaluation) == 9
    (arguments, options) = asked[0]
    assert arguments == ("timm/imagenet-1k-wds",) and options["repo_type"] == "dataset"
    matches = huggingface_hub.utils.filter_repo_objects(HUB_FILES, allow_patterns=options["allow_patterns"])
    assert list(matches) == ["imagenet1k-validation-00.tar"]


@pytest.mark.parametrize("kind", ["dataset", "model"])
@pytest.mark.parametrize(
    ("name", "message"), [("GatedRepoError", "accept its terms at"), ("RepositoryNotFoundError", "no {} of this id")]
)
def test_a_refusal_of_the_hub_is_explained(kind, name, message, monkeypatch):
    error = getattr(huggingface_hub.errors, name)

    def refuse(*args, **options):
        raise error.__new__(error)

    monkeypatch.setattr(hub, "snapshot_download", refuse)
    monkeypatch.setattr(hub, "_silence", lambda *a: None)
    with pytest.raises(DataError, match=message.format("data set" if kind == "dataset" else "model")):
        hub.download("some/thing", kind, ("*.tar",))


def test_real_shards_hold_the_bytes_of_the_class_folders():
    root = data_folder("imagenet-1k-sample")
    found = data.load("shards", str(root / "wds")).evaluation
    wnids = sorted(path.name for path in (root / "val").iterdir())
    assert len(found) == 120
    for index in range(120):
        (path,) = (root / "val" / wnids[found.label(index)]).iterdir()
        with Image.open(path) as opened:
            assert np.array_equal(np.asarray(opened.convert("RGB")), np.asarray(found.image(index))), path
