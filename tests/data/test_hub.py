"""The hub: a clear answer within seconds where it does not answer, and the cached copy where there is one."""

import http.server
import socket
import threading
import time

import huggingface_hub
import pytest
from huggingface_hub import constants

from orthostream import data
from orthostream.data import hub
from orthostream.data.errors import DataError


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of the hub."""
    folder = tmp_path / "cache"
    folder.mkdir()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return folder


@pytest.fixture
def mute_hub(monkeypatch):
    """A server that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setattr(hub, "SECONDS_TO_ANSWER", 0.3)
        yield


def cached_copy(cache, write_cifar):
    """CIFAR-10 as an earlier download left it."""
    folder = cache / "datasets--uoft-cs--cifar10"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    write_cifar(folder / "snapshots" / ("0" * 40) / "plain_text")


def test_a_mute_hub_is_given_up_within_seconds(cache, mute_hub):
    begun = time.monotonic()
    with pytest.raises(DataError, match=r"no folder 'uoft-cs/cifar10' here; .*gave nothing.*give a folder with"):
        data.load("cifar10")
    # 0.3 s of waiting and the import of the hub's client; without our limit it tries for a minute.
    assert time.monotonic() - begun < 5


def test_a_refused_connection_is_told(cache, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        free_port = server.getsockname()[1]
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{free_port}")
    with pytest.raises(DataError, match="Connection refused"):
        data.load("cifar10", "somebody/cifar10")


def test_an_earlier_download_is_used_and_said(cache, mute_hub, write_cifar):
    cached_copy(cache, write_cifar)
    splits = data.load("cifar10")
    assert len(splits.train) == 7
    assert "hub's cache" in splits.notes[0]
    # Whichever limit strikes first, that of the connection or that of the thread.
    assert splits.notes[0].endswith(("no answer within 0.3 s", "timed out"))


def test_a_hub_that_answers_is_asked_for_the_files(cache, monkeypatch, write_cifar):
    # A plain server of files stands for the hub: it answers, and what it answers does not matter here.
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    asked = []

    def download(hub_id, **options):
        asked.append((hub_id, options))
        return str(write_cifar(cache / "snapshot"))

    monkeypatch.setattr(hub, "snapshot_download", download)
    splits = data.load("cifar10", "somebody/cifar10")
    server.shutdown()
    server.server_close()
    assert len(splits.train) == 7 and not any("cache" in note for note in splits.notes)
    assert asked == [
        ("somebody/cifar10", {"repo_type": "dataset", "allow_patterns": ["*.parquet"], "local_files_only": False})
    ]


def test_an_incomplete_download_is_noticed(cache, mute_hub, write_cifar):
    cached_copy(cache, write_cifar)
    next(cache.rglob("train-00001*")).unlink()
    with pytest.raises(DataError, match="1 train files, but their names speak of 2"):
        data.load("cifar10")


def test_offline_mode_asks_nobody(cache, monkeypatch, write_cifar):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub.urllib.request, "urlopen", lambda *a, **k: pytest.fail("the hub was asked"))
    with pytest.raises(DataError, match="HF_HUB_OFFLINE is set"):
        data.load("cifar10")
    cached_copy(cache, write_cifar)
    assert "HF_HUB_OFFLINE is set" in data.load("cifar10").notes[0]


@pytest.mark.parametrize(
    ("name", "message"), [("GatedRepoError", "accept its terms"), ("RepositoryNotFoundError", "no data set of this id")]
)
def test_a_refusal_of_the_hub_is_explained(name, message, monkeypatch):
    kind = getattr(huggingface_hub.errors, name)

    def refuse(*args, **options):
        raise kind.__new__(kind)

    monkeypatch.setattr(hub, "snapshot_download", refuse)
    monkeypatch.setattr(hub, "_silence", lambda *a: None)
    with pytest.raises(DataError, match=message):
        hub.download("some/set")


@pytest.mark.parametrize(
    ("text", "is_id"),
    [
        ("uoft-cs/cifar10", True),
        ("./data/x", False),
        ("../x", False),
        ("/data/x", False),
        ("a/b/c", False),
        ("x", False),
        ("~/x", False),
    ],
)
def test_what_counts_as_a_hub_id(text, is_id):
    assert hub.is_hub_id(text) == is_id


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("somebody/vit", None),
        ("timm/imagenet-1k-wds", None),
        ("somebody/resnet50.a1_in1k", None),
        ("./vit", "begins with '.'"),
        (".cache/vit", "begins with '.'"),
        ("/vit", "begins with '/'"),
        ("~/vit", "begins with '~'"),
        ("somebody/vit.PT", "ends in '.pt'"),
        ("shards/val-000000.tar", "ends in '.tar'"),
        ("runs/vit", "there is a folder 'runs' here"),
        ("file/vit", None),
    ],
)
def test_what_is_surely_a_path(text, reason, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "file").touch()
    found = hub.path_reason(text)
    assert found is None if reason is None else reason in found
    assert hub.is_hub_id(text) == (reason is None)


def test_names_with_brackets_are_no_patterns(monkeypatch):
    asked = []
    monkeypatch.setattr(hub, "_silence", lambda *a: None)
    monkeypatch.setattr(hub, "list_repo_files", lambda *a, **k: ["val-[1].tar", "val-1.tar"])
    monkeypatch.setattr(hub, "snapshot_download", lambda *a, **k: asked.append(k) or "folder")
    hub.download("some/set", "dataset", lambda names: names[:1])
    found = huggingface_hub.utils.filter_repo_objects(
        ["val-[1].tar", "val-1.tar"], allow_patterns=asked[0]["allow_patterns"]
    )
    assert list(found) == ["val-[1].tar"]
