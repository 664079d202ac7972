"""CIFAR-10 and CIFAR-100, from parquet files, the hub, or the original archives."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from orthostream.data import hub
from orthostream.data.description import Description, checked_size, default_patch
from orthostream.data.errors import DataError
from orthostream.data.images import ImageTensorSet
from orthostream.data.parquet import read_images, split_files
from orthostream.data.splits import Splits
from orthostream.errors import needs_extra

with needs_extra("vision"):
    from torchvision import datasets as torchvision_datasets

SIZE = 32
OFFICIAL = {"train": 50_000, "test": 10_000}
CLASSES_10 = "airplane automobile bird cat deer dog frog horse ship truck"
CLASSES_100 = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
    caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant
    flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree
    motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate
    poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider
    squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
    wardrobe whale willow_tree wolf woman worm
"""


@dataclass(frozen=True)
class Cifar:
    """What tells the two sets apart.

    Args:
        name: as in the table of data sets.
        classes: in the official order.
        label_column: in the parquet files.
        hub_id: where they are on the hub.
        archive: folder that the original archive unpacks to.
        download: where that archive is.
        mean: of each channel over the training split, for values in [0, 1].
        std: likewise.
    """

    name: str
    classes: tuple[str, ...]
    label_column: str
    hub_id: str
    archive: str
    download: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


CIFAR10 = Cifar(
    name="cifar10",
    classes=tuple(CLASSES_10.split()),
    label_column="label",
    hub_id="uoft-cs/cifar10",
    archive="cifar-10-batches-py",
    download="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
)

CIFAR100 = Cifar(
    name="cifar100",
    classes=tuple(CLASSES_100.split()),
    label_column="fine_label",
    hub_id="uoft-cs/cifar100",
    archive="cifar-100-python",
    download="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
    mean=(0.5071, 0.4867, 0.4408),
    std=(0.2675, 0.2565, 0.2761),
)

ARCHIVE_READERS: Mapping[str, type[torchvision_datasets.CIFAR10]] = {
    "cifar10": torchvision_datasets.CIFAR10,
    "cifar100": torchvision_datasets.CIFAR100,
}


def cifar10(*, source: str | None = None, image_size: int | None = None) -> Splits:
    """CIFAR-10: 50,000 training and 10,000 test images of ten classes, 32x32 RGB.

    Args:
        source: a folder with ``train-*.parquet`` and ``test-*.parquet`` (columns ``img`` and ``label``), a folder
            that holds the original ``cifar-10-batches-py``, or a hub id; ``uoft-cs/cifar10`` by default.
        image_size: pixels a side after the transforms; 32 by default.

    Raises:
        DataError: naming what was tried and how to get the data.

    Reference: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.
    """
    return _load(CIFAR10, source, image_size)


def cifar100(*, source: str | None = None, image_size: int | None = None) -> Splits:
    """CIFAR-100 with its 100 fine classes: 50,000 training and 10,000 test images, 32x32 RGB.

    Args:
        source: as for CIFAR-10; the label column is ``fine_label``, the archive ``cifar-100-python``, the hub id
            ``uoft-cs/cifar100`` by default.
        image_size: pixels a side after the transforms; 32 by default.

    Raises:
        DataError: naming what was tried and how to get the data.

    Reference: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.
    """
    return _load(CIFAR100, source, image_size)


def _load(kind: Cifar, source: str | None, image_size: int | None) -> Splits:
    size = checked_size(image_size, SIZE)
    description = Description(
        name=kind.name,
        family="cifar",
        classes=kind.classes,
        channels=3,
        image_size=size,
        patch_size=default_patch(size),
        mean=kind.mean,
        std=kind.std,
        eval_split="test",
    )
    folder, notes = _folder(kind, source or kind.hub_id)
    is_archive = (folder / kind.archive).is_dir()
    read = _read_archive if is_archive else _read_parquet
    splits = {}
    for split, official in OFFICIAL.items():
        images, labels = read(kind, folder, split)
        splits[split] = ImageTensorSet(images, labels, len(kind.classes), f"{folder}, {split} split")
        if len(labels) != official:
            notes = (*notes, f"{split}: {len(labels):,} of the official {official:,} images; results do not compare")
    return Splits(splits["train"], splits["test"], description, notes)


def _folder(kind: Cifar, source: str) -> tuple[Path, tuple[str, ...]]:
    """The folder that a source means; downloaded where it is a hub id."""
    path = Path(source).expanduser()
    if path.name == kind.archive and path.is_dir():
        return path.parent, ()
    if path.is_dir():
        _check_folder(kind, path)
        return path, ()
    if path.exists():
        raise DataError(
            f"data.source {source!r} is a file; give the folder that holds it (an archive: unpack it first)"
        )
    if hub.is_hub_id(source):
        return hub.download(source)
    raise DataError(f"data.source {source!r} is no folder ({path.absolute()}); {_how_to_get(kind)}")


def _check_folder(kind: Cifar, folder: Path) -> None:
    try:
        has_data = (folder / kind.archive).is_dir() or any(folder.glob("*.parquet")) or any(folder.glob("*/*.parquet"))
    except OSError as error:
        raise DataError(f"cannot read the folder {folder}: {error.strerror}") from error
    if not has_data:
        raise DataError(
            f"{folder} holds neither train-*.parquet and test-*.parquet nor {kind.archive}/; {_how_to_get(kind)}"
        )


def _how_to_get(kind: Cifar) -> str:
    return (
        f"give a folder of parquet files, the hub id {kind.hub_id}, or the folder in which {kind.download} was unpacked"
    )


def _read_parquet(kind: Cifar, folder: Path, split: str) -> tuple[Tensor, Tensor]:
    return read_images(
        split_files(folder, split),
        image_column="img",
        label_column=kind.label_column,
        size=SIZE,
        classes=kind.classes,
    )


def _read_archive(kind: Cifar, folder: Path, split: str) -> tuple[Tensor, Tensor]:
    """The original pickles. torchvision opens them only where their digests are the official ones."""
    try:
        opened = ARCHIVE_READERS[kind.name](str(folder), train=split == "train", download=False)
    except RuntimeError as error:
        raise DataError(
            f"{folder / kind.archive} is not the complete official archive (torchvision: {error}); "
            f"unpack {kind.download} again"
        ) from error
    return torch.from_numpy(opened.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(opened.targets)
