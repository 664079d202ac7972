"""What a source holds is listed with patience: what stops a run becomes a finding, and the listing goes on."""

import io
import os
import socket
import tarfile

import numpy as np
import pytest
from PIL import Image

from orthostream import data
from orthostream.data.doctor import KINDS, Severity, list_source, scan
from orthostream.data.doctor.listing import split_name
from orthostream.data.errors import DataError

PLAIN = {
    "train/cat/2.png": (4, 3),
    "train/cat/10.png": (5, 3),
    "train/Dog/1.JPG": (6, 3),
    "train/Dog/deeper/still/0.webp": (7, 3),
    "val/cat/1.png": (8, 3),
    "val/Dog/1.png": (9, 3),
}


def found(source, *, but=()):
    """Kind and place of each finding."""
    return sorted((finding.kind, finding.where) for finding in source.findings if finding.kind not in but)


def test_whole_class_folders_are_listed_as_training_lists_them(tmp_path, write_folder):
    root = write_folder(tmp_path, PLAIN | {"train/.hidden/1.png": (2, 2), "val/cat/.x.png": (2, 2)})
    (root / "train" / "cat" / "notes.txt").write_text("no image")
    (root / "train" / "cat" / "up").symlink_to(root / "train")
    source, splits = list_source(str(root)), data.load("folder", str(root))
    assert source.splits == ["train", "val"] and tuple(source.classes) == splits.description.classes
    for number, opened in enumerate((splits.train, splits.evaluation)):
        listed = [(item.place.path, item.label) for item in source.items if item.split == number]
        assert listed == [(str(opened.path(i)), opened.label(i)) for i in range(len(opened))]
    assert found(source) == [
        ("hidden", "train/.hidden"),
        ("hidden", "val/cat/.x.png"),
        ("ignored", "train/cat/notes.txt"),
        ("link_not_followed", "train/cat/up"),
    ]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("train/ant/", [("empty_class", "train/ant"), ("never_evaluated", "val")]),
        ("val/bird/1.png", [("class_not_in_training", "val/bird")]),
        ("-val/Dog/1.png", [("never_evaluated", "val")]),
        ("-train/Dog", [("class_not_in_training", "val/Dog"), ("too_few_classes", "train")]),
        ("-val/Dog/1.png -val/cat/1.png", [("empty_split", "val")]),
        ("-val", [("no_evaluation", ".")]),
        ("wds/", [("not_scanned", "wds")]),
        (".cache/", [("hidden", ".cache")]),
        ("train/loose.png", [("ignored", "train/loose.png")]),
    ],
)
def test_what_is_wrong_with_class_folders(change, expected, tmp_path, write_folder):
    root = write_folder(tmp_path, PLAIN)
    for word in change.split():
        path = root / word.lstrip("-")
        if word.startswith("-"):
            _remove(path)
        elif word.endswith("/"):
            path.mkdir()
        else:
            write_folder(root, {word: (2, 2)})
    source = list_source(str(root))
    # A class that is empty in training is no class of evaluation's either: only images count there.
    assert found(source) == sorted(set(expected) - ({("never_evaluated", "val")} if change == "train/ant/" else set()))
    is_refused = any(KINDS[kind].severity is Severity.ERROR for kind, _ in expected) or change == "-val"
    if is_refused:
        with pytest.raises(DataError):
            data.load("folder", str(root))
    else:
        data.load("folder", str(root))


def _remove(path):
    if path.is_dir():
        for inside in path.iterdir():
            _remove(inside)
        path.rmdir()
    else:
        path.unlink()


def test_a_folder_of_class_folders_is_one_split(tmp_path, write_folder):
    source = list_source(str(write_folder(tmp_path / "photos", {"a/1.png": (2, 2), "b/1.png": (2, 2)})))
    assert source.splits == ["photos"] and [item.label for item in source.items] == [0, 1]
    assert found(source) == [("no_training", ".")]


def test_ten_times_as_many_images_in_a_class_are_told(tmp_path, write_folder):
    files = {f"photos/{name}/{i}.png": (2, 2) for name, count in (("a", 10), ("b", 1)) for i in range(count)}
    source = list_source(str(write_folder(tmp_path, files) / "photos"))
    assert ("imbalance", "photos") in found(source)
    (tmp_path / "photos" / "a" / "0.png").unlink()
    assert "imbalance" not in dict(found(list_source(str(tmp_path / "photos"))))


def test_links_that_lead_out_of_the_source_are_not_followed_unless_asked(tmp_path, write_folder):
    root = write_folder(tmp_path / "source", PLAIN)
    outside = write_folder(tmp_path / "outside", {"secret/1.png": (2, 2)})
    (root / "train" / "ant").symlink_to(outside / "secret")
    (root / "train" / "cat" / "0.png").symlink_to(outside / "secret" / "1.png")
    (root / "train" / "cat" / "3.png").symlink_to(root / "train" / "cat" / "2.png")
    held = list_source(str(root))
    assert found(held) == [("link_outside", "train/ant"), ("link_outside", "train/cat/0.png")]
    assert "train/cat/3.png" in [item.name for item in held.items] and len(held.items) == len(PLAIN) + 1
    followed = list_source(str(root), follow_links=True)
    assert len(followed.items) == len(PLAIN) + 3 and "link_outside" not in dict(found(followed))


def test_links_to_nowhere_and_to_themselves_and_pipes_are_errors_of_their_own(tmp_path, write_folder):
    root = write_folder(tmp_path, PLAIN)
    (root / "train" / "cat" / "gone.png").symlink_to("nowhere.png")
    (root / "train" / "cat" / "loop.png").symlink_to("loop.png")
    os.mkfifo(root / "train" / "cat" / "pipe.png")
    with socket.socket(socket.AF_UNIX) as held:
        held.bind(str(root / "train" / "cat" / "plug.png"))
        scanned = scan(list_source(str(root)), workers=0)
    assert {(each.where, each.kind, each.detail) for each in scanned.findings} == {
        ("train/cat/gone.png", "unreadable", "No such file or directory"),
        ("train/cat/loop.png", "unreadable", "Too many levels of symbolic links"),
        ("train/cat/pipe.png", "special_file", "a named pipe"),
        ("train/cat/plug.png", "special_file", "a socket"),
    }


@pytest.mark.skipif(os.geteuid() == 0, reason="the super-user may read anything")
def test_what_may_not_be_read_is_named(tmp_path, write_folder):
    root = write_folder(tmp_path, PLAIN)
    closed = [root / "train" / "cat" / "2.png", root / "train" / "Dog" / "deeper"]
    modes = [path.stat().st_mode for path in closed]
    try:
        for path in closed:
            path.chmod(0)
        scanned = scan(list_source(str(root)), workers=0)
    finally:
        for path, mode in zip(closed, modes, strict=True):
            path.chmod(mode)
    told = {(each.kind, each.where, each.detail) for each in scanned.findings}
    assert told >= {("unreadable", "train/cat/2.png", "Permission denied")}
    assert told >= {("unreadable", "train/Dog/deeper", "Permission denied")}


def png(index):
    pixels = np.random.default_rng(index).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    held = io.BytesIO()
    Image.fromarray(pixels).save(held, "PNG")
    return held.getvalue()


def write_tar(path, members):
    """A tar file of names and contents; a content may be a prepared entry."""
    with tarfile.open(path, "w") as opened:
        for name, content in members:
            entry = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
            body = b"" if isinstance(content, tarfile.TarInfo) else content
            entry.size = len(body)
            opened.addfile(entry, io.BytesIO(body))
    return path


def special(name, kind, target=""):
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, target
    return name, entry


def test_tar_shards_are_split_by_name_and_read_in_place(tmp_path):
    write_tar(tmp_path / "x-train-000000.tar", [("a.png", png(0)), ("a.cls", b"0"), ("b.png", png(1)), ("b.cls", b"1")])
    write_tar(tmp_path / "x-val-000000.tar", [("c.png", png(2)), ("c.json", b'{"label": 1}'), ("c.txt", b"a cat")])
    scanned = scan(list_source(str(tmp_path)), workers=0)
    source = scanned.source
    assert source.splits == ["train", "val"]
    assert [(item.split, item.label, item.where()) for item in source.items] == [
        (0, 0, "x-train-000000.tar: a.png"),
        (0, 1, "x-train-000000.tar: b.png"),
        (1, 1, "x-val-000000.tar: c.png"),
    ]
    assert found(source) == [("never_evaluated", "val")] and scanned.forms == {"PNG RGB": 3}
    assert scanned.sides.tolist() == [[5, 6]] * 3


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ([("a.png", png(0))], [("incomplete_sample", "v.tar: a")]),
        ([("a.cls", b"1")], [("empty_split", "v"), ("incomplete_sample", "v.tar: a")]),
        ([("a.png", png(0)), ("a.jpg", png(1)), ("a.cls", b"1")], [("incomplete_sample", "v.tar: a")]),
        ([("a.png", png(0)), ("a.cls", b"-1")], [("bad_label", "v.tar: a.cls")]),
        ([("a.png", png(0)), ("a.cls", b"-100")], [("bad_label", "v.tar: a.cls")]),
        ([("a.png", png(0)), ("a.cls", b"cat")], [("bad_label", "v.tar: a.cls")]),
        ([("a.png", png(0)), ("a.cls", bytes(2**21))], [("bad_label", "v.tar: a.cls")]),
        ([("a.png", png(0)), ("a.json", b'{"label": true}')], [("bad_label", "v.tar: a.json")]),
        ([("a.png", png(0)), ("a.cls", b"7")], [("bad_label", "v.tar: a.png")]),
        (
            [("/a.png", png(0)), ("/a.cls", b"1")],
            [("unsafe_member", "v.tar: /a.cls"), ("unsafe_member", "v.tar: /a.png")],
        ),
        (
            [("x/../../a.png", png(0)), ("x/../../a.cls", b"1")],
            [("unsafe_member", "v.tar: x/../../a.cls"), ("unsafe_member", "v.tar: x/../../a.png")],
        ),
        (
            [("a.png", png(0)), ("a.cls", b"1"), special("l.png", tarfile.SYMTYPE, "/etc/passwd")],
            [("unsafe_member", "v.tar: l.png")],
        ),
        (
            [("a.png", png(0)), ("a.cls", b"1"), special("h.png", tarfile.LNKTYPE, "a.png")],
            [("unsafe_member", "v.tar: h.png")],
        ),
        (
            [("a.png", png(0)), ("a.cls", b"1"), special("d.png", tarfile.CHRTYPE)],
            [("unsafe_member", "v.tar: d.png")],
        ),
        ([("a.png", png(0)), ("a.cls", b"1"), ("a.pkl", b"\x80")], [("unsafe_member", "v.tar: a.pkl")]),
    ],
)
def test_what_is_wrong_inside_a_tar_file(members, expected, tmp_path):
    path = write_tar(tmp_path / "v.tar", members)
    assert found(list_source(str(path), num_classes=5), but=("no_training",)) == sorted(expected)


def test_a_cut_shard_is_told_and_its_whole_images_are_scanned(tmp_path):
    path = write_tar(tmp_path / "v.tar", [("a.png", png(0)), ("a.cls", b"0"), ("b.png", png(1)), ("b.cls", b"1")])
    content = path.read_bytes()
    path.write_bytes(content[: 512 * 2 + 512 * 2 + 512 + 100])
    scanned = scan(list_source(str(path)), workers=0)
    assert ("broken_shard", "v.tar") in found(scanned.source)
    assert [item.name for item in scanned.source.items] == ["a.png"] and scanned.done == 1
    path.write_bytes(b"no tar file at all" * 100)
    assert ("broken_shard", "v.tar") in found(list_source(str(path)))


def test_numbers_left_out_among_shards_are_told(tmp_path):
    for number in (0, 1, 3):
        write_tar(tmp_path / f"val-{number:06d}.tar", [("a.png", png(number)), ("a.cls", b"0")])
    source = list_source(str(tmp_path))
    assert ("missing_shard", "val-*.tar") in found(source)
    assert next(each.detail for each in source.findings if each.kind == "missing_shard") == "1 of 4: number 2"
    write_tar(tmp_path / "val-000002.tar", [("a.png", png(2)), ("a.cls", b"0")])
    assert "missing_shard" not in dict(found(list_source(str(tmp_path))))


def test_parquet_files_are_read_by_row_and_their_classes_have_names(tmp_path, cells, write_cells):
    held, labels = cells(range(7))
    write_cells(tmp_path / "train-00000-of-00001.parquet", held, labels, image="image", names=["a", "b", "c"], rows=3)
    write_cells(
        tmp_path / "test-00000-of-00001.parquet", *cells(range(7, 10)), label="fine_label", names=["a", "b", "c"]
    )
    scanned = scan(list_source(str(tmp_path)), workers=0)
    assert scanned.source.splits == ["train", "test"] and scanned.source.classes == ["a", "b", "c"]
    assert [item.label for item in scanned.source.items] == [*labels, 1, 2, 0]
    assert found(scanned.source) == [] and scanned.findings == [] and scanned.forms == {"PNG RGB": 10}
    assert scanned.source.items[4].where() == "train-00000-of-00001.parquet: row 4"


def test_what_is_wrong_inside_parquet_files(tmp_path, cells, write_cells):
    held, _ = cells(range(5))
    held[1], held[2] = None, {"bytes": None, "path": "elsewhere.png"}
    held[3] = {"bytes": b"<html>", "path": "3.png"}
    labels = [0, 1, 2, None, -100]
    write_cells(tmp_path / "train-00000-of-00003.parquet", held, labels, names=["a", "b"])
    write_cells(tmp_path / "train-00001-of-00003.parquet", *cells(range(5, 7)), names=["b", "a"])
    write_cells(tmp_path / "val-0.parquet", *cells(range(7, 9)), label="species")
    (tmp_path / "val-1.parquet").write_bytes(b"PAR1" + bytes(50))
    scanned = scan(list_source(str(tmp_path)), workers=0)
    assert {(each.kind, each.where) for each in scanned.findings} >= {
        ("bad_label", "train-00000-of-00003.parquet: row 2"),
        ("bad_label", "train-00000-of-00003.parquet: row 3"),
        ("bad_label", "train-00000-of-00003.parquet: row 4"),
        ("empty", "train-00000-of-00003.parquet: row 1"),
        ("empty", "train-00000-of-00003.parquet: row 2"),
        ("not_an_image", "train-00000-of-00003.parquet: row 3"),
        ("other_classes", "train-00001-of-00003.parquet"),
        ("missing_shard", "train-*.parquet"),
        ("broken_shard", "val-0.parquet"),
        ("broken_shard", "val-1.parquet"),
        ("empty_split", "val"),
    }


def test_labels_that_training_never_shows_are_told(tmp_path, cells, write_cells):
    write_cells(tmp_path / "train-0.parquet", *cells([0, 1, 3, 4]))
    write_cells(tmp_path / "val-0.parquet", *cells([2, 5, 6]))
    held = list_source(str(tmp_path))
    assert found(held) == [("never_evaluated", "val"), ("never_trained", "val")]
    assert {each.kind: each.detail for each in held.findings} == {
        "never_evaluated": "1 of 2: 1",
        "never_trained": "1: 2",
    }


@pytest.mark.parametrize(
    ("stem", "split"),
    [
        ("train-00000-of-00002", "train"),
        ("imagenet1k-validation-63", "validation"),
        ("valid", "valid"),
        ("retrained-003", "retrained"),
        ("photos_12", "photos"),
        ("0001", "0001"),
    ],
)
def test_shards_belong_to_the_split_that_their_names_say(stem, split):
    assert split_name(stem) == split


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: root / "nowhere", "expected class folders"),
        (lambda root: root / "set.zip", "unpack it first"),
        (lambda root: root / "text.txt", "expected a folder"),
        (lambda root: root / "blank", "it holds: nothing"),
        (lambda root: root / "archive", "made of pickles and is not opened"),
    ],
)
def test_what_is_no_source_is_explained(make, message, tmp_path):
    (tmp_path / "set.zip").write_bytes(b"PK")
    (tmp_path / "text.txt").write_bytes(b"x")
    (tmp_path / "blank").mkdir()
    (tmp_path / "archive" / "cifar-10-batches-py").mkdir(parents=True)
    with pytest.raises(DataError, match=message):
        list_source(str(make(tmp_path)))
