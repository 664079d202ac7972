"""The same pixels are found wherever they lie, and nothing else is."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from orthostream.data.doctor import list_source, scan
from orthostream.data.doctor.duplicates import find_duplicates
from orthostream.data.doctor.source import InFile, Item

TRAIN, VAL = 0, 1


def duplicates(images):
    """Findings about images given as (split, label, digest)."""
    items = [Item(split, label, f"{number}.png", InFile("")) for number, (split, label, _) in enumerate(images)]
    digests = np.array([digest for *_, digest in images], np.uint64).reshape(-1, 2)
    found = find_duplicates(items, digests, ["train", "val"], TRAIN)
    return [(each.item, each.partner, each.kind) for each in found]


def test_each_kind_of_repetition_has_its_name():
    one, two = (1, 2), (3, 4)
    assert duplicates([(TRAIN, 0, one), (TRAIN, 0, one)]) == [(1, 0, "duplicate")]
    assert duplicates([(TRAIN, 0, one), (TRAIN, 1, one)]) == [(1, 0, "contradiction")]
    assert duplicates([(TRAIN, 0, one), (VAL, 0, one)]) == [(1, 0, "leaked")]
    assert duplicates([(TRAIN, 0, one), (VAL, 1, one)]) == [(1, 0, "leaked"), (1, 0, "contradiction")]
    assert duplicates([(VAL, 0, one), (VAL, 0, one)]) == [(1, 0, "duplicate")]
    assert duplicates([(TRAIN, 0, one), (VAL, 0, two)]) == []
    # Labels that do not count contradict nothing.
    assert duplicates([(TRAIN, -1, one), (TRAIN, 1, one)]) == [(1, 0, "duplicate")]


def test_the_original_is_the_first_of_training_even_behind_others():
    assert duplicates([(VAL, 0, (1, 2)), (TRAIN, 0, (1, 2))]) == [(0, 1, "leaked")]


def test_digests_that_share_one_half_differ():
    assert duplicates([(TRAIN, 0, (1, 2)), (TRAIN, 0, (1, 3)), (TRAIN, 0, (2, 2))]) == []


def test_images_that_could_not_be_read_are_no_duplicates():
    assert duplicates([(TRAIN, 0, (0, 0)), (VAL, 0, (0, 0))]) == []


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 2), st.tuples(st.integers(0, 3), st.integers(0, 1)))))
def test_every_repetition_is_found_once_and_points_to_its_like(images):
    found = duplicates(images)
    readable = [digest for *_, digest in images if digest != (0, 0)]
    assert len({item for item, *_ in found}) == len(readable) - len(set(readable))
    for item, partner, kind in found:
        assert images[item][2] == images[partner][2]
        assert (kind == "leaked") <= (images[partner][0] == TRAIN != images[item][0])
        assert (kind == "contradiction") <= (images[partner][1] != images[item][1])


def test_duplicates_are_found_across_formats_and_splits(tmp_path, write_folder):
    from PIL import Image

    files = {f"{split}/{name}/1.png": (8, 8) for split in ("train", "val") for name in ("cat", "dog")}
    root = write_folder(tmp_path, files)
    with Image.open(root / "train" / "cat" / "1.png") as image:
        image.save(root / "val" / "dog" / "again.bmp")
        image.save(root / "train" / "cat" / "copy.webp", lossless=True)
    found = [(each.kind, each.where, each.detail) for each in scan(list_source(str(root)), workers=2).findings]
    assert found == [
        ("duplicate", "train/cat/copy.webp", "as train/cat/1.png"),
        ("leaked", "val/dog/again.bmp", "as train/cat/1.png"),
        ("contradiction", "val/dog/again.bmp", "as train/cat/1.png"),
    ]
