"""Two hundred broken and odd files: what each gives in the doctor, in training and in evaluation."""

import json

import pytest
import torch
from PIL import Image

from data.broken_files import READS, STOPS, BrokenFile, files, write
from orthostream.data.description import Description
from orthostream.data.doctor import KINDS, Severity, list_source, scan, worst
from orthostream.data.doctor.report import as_json, by_kind, kind_rows, split_rows, summary
from orthostream.data.doctor.sheet import write_sheet
from orthostream.data.errors import DataError, printable
from orthostream.data.folder import MEAN, STD
from orthostream.data.images import ImageFileSet
from orthostream.data.loader import EvalLoader, TrainLoader
from orthostream.data.transforms import evaluation_transform, train_transform

FILES = files()
SIZE = 16
DESCRIPTION = Description(
    name="folder",
    family="imagenet",
    classes=("a", "b"),
    channels=3,
    image_size=SIZE,
    patch_size=4,
    mean=MEAN,
    std=STD,
    eval_split="val",
)


def label(file: BrokenFile) -> str:
    return file.name[:40].encode("unicode_escape").decode()


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """The broken files as one class of two, in training; and whole images."""
    made = tmp_path_factory.mktemp("source")
    write(made / "train" / "broken")
    for place, folder in enumerate(("train/whole", "val/broken", "val/whole")):
        (made / folder).mkdir(parents=True)
        Image.new("RGB", (9, 9), (place, 1, 2)).save(made / folder / "plain.png")
    return made


@pytest.fixture(scope="module")
def scanned(root):
    return scan(list_source(str(root)), workers=2)


@pytest.fixture(scope="module")
def found(scanned):
    """Kinds of findings by the name of the file."""
    held = {}
    for finding in scanned.findings:
        held.setdefault(finding.where, []).append(finding.kind)
    return held


def test_there_are_two_hundred_of_all_sorts():
    assert len(FILES) >= 200
    assert {STOPS, READS} == {file.outcome for file in FILES}
    of_images = set(list(KINDS)[: list(KINDS).index("leaked")])
    expected = {each for file in FILES for kinds in file.kinds for each in ((kinds,) if type(kinds) is str else kinds)}
    # These need a pipe, a decoder that dies, gigabytes, or a plugin: tests of their own.
    assert of_images - expected == {"unreadable", "special_file", "decoder_died", "huge", "foreign_format"}


@pytest.mark.parametrize("file", FILES, ids=label)
def test_the_doctor_finds_what_is_there_and_nothing_else(file, found):
    kinds = found.get(printable(f"train/broken/{file.name}"), [])
    assert len(kinds) == len(file.kinds), kinds
    for expected in file.kinds:
        assert expected in kinds if isinstance(expected, str) else set(expected) & set(kinds), kinds


@pytest.mark.parametrize("file", FILES, ids=label)
def test_the_doctor_calls_an_error_what_stops_a_run(file, scanned):
    where = printable(f"train/broken/{file.name}")
    grave = worst([finding for finding in scanned.findings if finding.where == where])
    assert (grave is Severity.ERROR) == (file.outcome == STOPS)


def loaded(loader):
    """The only batch of a loader."""
    (batch,) = loader
    images, labels = batch[0] if isinstance(batch[0], tuple) else batch
    return images, labels


@pytest.mark.parametrize("in_training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("file", FILES, ids=label)
def test_training_and_evaluation_stop_with_its_name_or_read_it(file, in_training, root):
    images = ImageFileSet(root / "train", [f"broken/{file.name}"], torch.tensor([1]), 2)
    if in_training:
        augment = train_transform(DESCRIPTION, "vit", randaugment_n=1, randaugment_m=5)
        batches = TrainLoader(images, augment, seed=0, batch_size=1).epoch(0)
    else:
        batches = EvalLoader(images, evaluation_transform(DESCRIPTION, "vit"), batch_size=1)
    if file.outcome == STOPS:
        with pytest.raises(DataError) as caught:
            loaded(batches)
        assert printable(file.name) in str(caught.value) and "index 0" in str(caught.value)
        str(caught.value).encode("utf-8")
    else:
        pixels, labels = loaded(batches)
        assert pixels.shape == (1, 3, SIZE, SIZE) and pixels.isfinite().all() and labels.tolist() == [1]


def test_every_file_is_scanned_once(scanned):
    assert scanned.is_whole and scanned.done == len(scanned.source.items) == len(FILES) + 3
    assert sum(scanned.forms.values()) == scanned.done


def test_the_report_tells_each_kind_with_its_count_and_is_printable(scanned):
    held = by_kind(scanned.findings)
    rows = kind_rows(scanned)
    assert {row[1]: row[2] for row in rows} == {kind: f"{len(found):,}" for kind, found in held.items()}
    severities = [KINDS[row[1]].severity for row in rows]
    assert severities == sorted(severities, reverse=True)
    text = "\n".join(cell for row in [*rows, *split_rows(scanned)] for cell in row)
    assert "\x1b" not in text and text.count("\n") == sum(len(row) for row in [*rows, *split_rows(scanned)]) - 1
    text.encode("utf-8")
    counted = json.loads(json.dumps(as_json(scanned), ensure_ascii=False).encode("utf-8"))
    assert counted["counts"]["error"] == sum(finding.severity is Severity.ERROR for finding in scanned.findings)
    assert counted["kinds"] == {kind: len(found) for kind, found in held.items()}
    assert len(counted["findings"]) == len(scanned.findings)
    assert summary(scanned).startswith(f"{counted['counts']['error']} errors, ")


def test_the_sheet_has_a_row_for_each_kind_about_images(scanned, tmp_path):
    assert write_sheet(tmp_path / "sheet.png", scanned)
    kinds = {finding.kind for finding in scanned.findings if finding.item is not None}
    with Image.open(tmp_path / "sheet.png") as sheet:
        # At least one tile of 112 pixels with its title a kind, and one row of classes.
        assert sheet.height > 112 * (len(kinds) + 1)
        assert len(sheet.getcolors(2**24)) > 500
