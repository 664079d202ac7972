"""Class folders: train's classes rule, and nothing is passed over in silence."""

import os

import pytest
import torch

from orthostream import data
from orthostream.data.errors import DataError
from orthostream.data.transforms import evaluation_transform, train_transform

PLAIN = {
    "train/cat/2.png": (4, 3),
    "train/cat/10.png": (5, 3),
    "train/Dog/1.JPG": (6, 3),
    "train/Dog/deeper/still/0.webp": (7, 3),
    "val/cat/1.png": (8, 3),
    "val/Dog/1.png": (9, 3),
}


def test_samples_are_sorted_by_class_and_path(tmp_path, write_folder):
    splits = data.load("folder", str(write_folder(tmp_path, PLAIN)))
    # Capital letters come first, and names are texts: 10 before 2.
    assert splits.description.classes == ("Dog", "cat")
    shown = [(splits.train.path(i).relative_to(tmp_path).as_posix(), splits.train.label(i)) for i in range(4)]
    assert shown == [
        ("train/Dog/1.JPG", 0),
        ("train/Dog/deeper/still/0.webp", 0),
        ("train/cat/10.png", 1),
        ("train/cat/2.png", 1),
    ]
    assert [splits.train.image(i).width for i in range(4)] == [6, 7, 5, 4]
    assert [splits.evaluation.label(i) for i in range(2)] == [0, 1]
    assert splits.notes == ()
    assert (splits.description.image_size, splits.description.patch_size, splits.description.channels) == (224, 16, 3)


@pytest.mark.parametrize(
    ("present", "used"),
    [
        (["val"], "val"),
        (["valid"], "valid"),
        (["validation"], "validation"),
        (["test"], "test"),
        (["test", "valid"], "valid"),
    ],
)
def test_the_evaluation_split_goes_by_several_names(present, used, tmp_path, write_folder):
    files = {name: shape for name, shape in PLAIN.items() if name.startswith("train")}
    files |= {f"{split}/cat/1.png": (4, 4) for split in present} | {f"{split}/Dog/1.png": (4, 4) for split in present}
    splits = data.load("folder", str(write_folder(tmp_path, files)))
    assert splits.description.eval_split == used
    assert any("not used: test" in note for note in splits.notes) == (len(present) > 1)


def test_hidden_folders_and_other_files_are_no_classes_and_are_told(tmp_path, write_folder):
    root = write_folder(tmp_path, PLAIN | {"train/.ipynb_checkpoints/1.png": (2, 2), "val/cat/.x.png": (2, 2)})
    (root / "train" / "labels.csv").write_text("no image")
    (root / "train" / "cat" / "notes.txt").write_text("no image")
    splits = data.load("folder", str(root))
    assert splits.description.classes == ("Dog", "cat") and (len(splits.train), len(splits.evaluation)) == (4, 2)
    assert "2 hidden files and folders ignored" in splits.notes[0] and ".ipynb_checkpoints" in splits.notes[0]
    assert splits.notes[1].startswith("2 files ignored") and "notes.txt" in splits.notes[1]


def test_a_class_missing_in_evaluation_is_noted_and_labels_do_not_shift(tmp_path, write_folder):
    files = {name: shape for name, shape in PLAIN.items() if name != "val/Dog/1.png"}
    splits = data.load("folder", str(write_folder(tmp_path, files)))
    assert [splits.evaluation.label(i) for i in range(len(splits.evaluation))] == [1]
    assert splits.notes == ("1 of 2 classes have no image in val: Dog",)


def test_a_class_that_only_evaluation_has_is_refused(tmp_path, write_folder):
    with pytest.raises(DataError, match=r"val has 1 class folders that .*train has not: bird"):
        data.load("folder", str(write_folder(tmp_path, PLAIN | {"val/bird/1.png": (2, 2)})))


def test_an_empty_class_folder_is_named(tmp_path, write_folder):
    (write_folder(tmp_path, PLAIN) / "train" / "ant").mkdir()
    with pytest.raises(DataError, match=r"1 class folders of .*train hold no image: ant; remove them or fill them"):
        data.load("folder", str(tmp_path))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"images/cat/1.png": (2, 2)}, "has no train folder; it holds: images"),
        (
            {"train/cat/1.png": (2, 2), "train/dog/1.png": (2, 2)},
            r"no evaluation split \(val, valid, validation, test\)",
        ),
        ({"train/cat/1.png": (2, 2), "val/cat/1.png": (2, 2)}, r"1 class folders \(cat\); a classifier needs two"),
        ({"train/1.png": (2, 2), "val/1.png": (2, 2)}, "0 class folders; a classifier needs two"),
        ({"train/a/1.png": (2, 2), "train/b/1.png": (2, 2), "val/1.png": (2, 2)}, "val holds no image in any class"),
    ],
)
def test_another_layout_is_explained(files, message, tmp_path, write_folder):
    with pytest.raises(DataError, match=message):
        data.load("folder", str(write_folder(tmp_path, files)))


def test_a_source_is_needed_and_must_be_there(tmp_path):
    with pytest.raises(DataError, match=r"data\.source is missing"):
        data.load("folder")
    with pytest.raises(DataError, match="no folder"):
        data.load("folder", str(tmp_path / "nowhere"))


@pytest.mark.skipif(os.geteuid() == 0, reason="the super-user may read any folder")
def test_a_forbidden_folder_is_named(tmp_path, write_folder):
    closed = write_folder(tmp_path, PLAIN) / "train" / "cat"
    closed.chmod(0)
    try:
        with pytest.raises(DataError, match=r"cannot read the folder .*cat: Permission denied"):
            data.load("folder", str(tmp_path))
    finally:
        closed.chmod(0o755)


def test_a_loop_of_links_ends_and_is_told(tmp_path, write_folder):
    root = write_folder(tmp_path, PLAIN)
    (root / "train" / "cat" / "up").symlink_to(root / "train")
    splits = data.load("folder", str(root))
    assert len(splits.train) == 4 and "links to folders" in splits.notes[0]


def test_a_class_folder_may_be_a_link(tmp_path, write_folder):
    root = write_folder(tmp_path, PLAIN | {"elsewhere/1.png": (2, 2)})
    (root / "train" / "ant").symlink_to(root / "elsewhere")
    assert data.load("folder", str(root)).description.classes == ("Dog", "ant", "cat")


def test_names_that_are_no_utf8_are_read_and_printable(tmp_path, write_folder):
    odd = os.fsdecode(b"caf\xe9")
    root = write_folder(tmp_path, PLAIN | {f"train/{odd}/ \u00fc {odd}.png": (3, 2)})
    splits = data.load("folder", str(root))
    assert splits.description.classes == ("Dog", "caf\\xe9", "cat")
    assert splits.train.image(2).size == (3, 2)
    "".join([*splits.description.classes, *splits.notes, splits.train.where(2)]).encode("utf-8")


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (5000, 1)])
@pytest.mark.parametrize("pipeline", ["vit", "resnet", "none"])
def test_every_transform_takes_the_smallest_and_the_longest_image(shape, pipeline, tmp_path, write_folder):
    splits = data.load("folder", str(write_folder(tmp_path, PLAIN | {"train/cat/0.png": shape})), 32)
    index = next(i for i in range(len(splits.train)) if splits.train.image(i).size == shape)
    strong = {"randaugment_n": 2, "randaugment_m": 5, "random_erase": 1.0} if pipeline == "vit" else {}
    for transform in (
        train_transform(splits.description, pipeline, **strong),
        evaluation_transform(splits.description, pipeline),
    ):
        out = transform(splits.train.image(index))
        assert out.shape == (3, 32, 32) and out.dtype == torch.float32 and out.isfinite().all()
