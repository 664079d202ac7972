"""A Hugging Face classifier made ready for an evaluation: logits, the transform that it wants, and what fits it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import AutoImageProcessor, AutoModelForImageClassification

from orthostream import data
from orthostream.data.description import Description
from orthostream.data.folder import EVALUATION_NAMES, Ignored, open_train, photographs
from orthostream.data.hub import download, is_hub_id
from orthostream.data.shards import NoTraining, numbered
from orthostream.data.transforms import Transform, evaluation_transform
from orthostream.errors import UsageError

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
FILES = ("*.json", "*.safetensors")
SHOWN = 4


class Logits(nn.Module):
    """A classifier of transformers, called on images and answering with logits alone."""

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, images: Tensor) -> Tensor:
        """``[batch, classes]`` for images ``[batch, channels, height, width]``."""
        logits: Tensor = self.classifier(pixel_values=images).logits
        return logits


@dataclass(frozen=True)
class Published:
    """A classifier from a Hugging Face folder.

    Args:
        name: as it was asked for.
        folder: where its files are.
        model: returns logits.
        classes: names of the classes, by index.
        channels: of its images.
        image_size: (height, width) of its images.
        notes: what a reader of the results should know.
    """

    name: str
    folder: Path
    model: Logits
    classes: tuple[str, ...]
    channels: int
    image_size: tuple[int, int]
    notes: tuple[str, ...] = ()


def open_published(name: str) -> Published:
    """Load a classifier from a folder or from the hub; no code of the repository is run, no pickle opened.

    Args:
        name: a folder with ``config.json``, or a hub id.

    Returns:
        The model on the CPU in evaluation mode, and the facts of its config.

    Raises:
        UsageError: within seconds where the hub does not answer; where the folder holds no such model, or weights and
            config differ.

    Example:
        >>> open_published("ortho-vit-b-hf").image_size  # doctest: +SKIP
        (224, 224)
    """
    folder = Path(name).expanduser()
    notes: tuple[str, ...] = ()
    if not folder.exists() and is_hub_id(name):
        folder, notes = download(name, "model", FILES)
    config = _read_config(folder, name)
    try:
        model, info = AutoModelForImageClassification.from_pretrained(
            folder, output_loading_info=True, trust_remote_code=False, use_safetensors=True, dtype=torch.float32
        )
    except UsageError:
        raise
    # Its loader raises OSError, ValueError and RuntimeError, and errors of safetensors and of huggingface_hub.
    except Exception as error:
        raise UsageError(
            f"{name} of type {config['model_type']!r} is no image classifier that transformers loads: {error}; "
            "expected config.json and model.safetensors of a model type that it or orthostream.hub knows"
        ) from error
    # The library's own classes go on with random numbers in the place of what is missing.
    missing = sorted(info["missing_keys"])
    if missing:
        more = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
        raise UsageError(
            f"{name} lacks weights of {type(model).__name__}: {', '.join(missing[:SHOWN])}{more}; "
            "it was saved without a head, or is incomplete"
        )
    found = model.config
    for key in ("image_size", "num_channels"):
        if getattr(found, key, None) is None:
            raise UsageError(f"{folder / CONFIG} of {name} has no {key}, so which images fit it is not known; add it")
    height, width = found.image_size if isinstance(found.image_size, list | tuple) else [found.image_size] * 2
    classes = tuple(str(found.id2label[index]) for index in range(found.num_labels))
    return Published(name, folder, Logits(model.eval()), classes, found.num_channels, (height, width), notes)


def open_data(name: str, source: str | None, image_size: int) -> data.Splits:
    """Open a data set for a published model, which knows its classes: class folders need no training split.

    Args:
        name: of the data set.
        source: where it is; for ``folder`` also a folder with ``val`` alone, or one of class folders.
        image_size: pixels a side.

    Raises:
        UsageError: where it is not there, or not what it should be.
    """
    root = Path(source or "").expanduser()
    if name != "folder" or source is None or not root.is_dir() or (root / "train").is_dir():
        return data.load(name, source, image_size)
    split = next((root / each for each in EVALUATION_NAMES if (root / each).is_dir()), root)
    ignored = Ignored()
    # Every class must have an image here: the order of the folders is the order of the classes.
    images, names = open_train(split, ignored)
    description = photographs("folder", names, image_size, split.name)
    return data.Splits(NoTraining(), images, description, tuple(ignored.notes()))


def transform_of(published: Published, description: Description) -> tuple[Transform, str]:
    """What images go through: as the model's ``preprocessor_config.json`` says, else as the data set's evaluation.

    For photographs the latter is the protocol of the published models: the shorter side resized to the image size,
    bicubic, centre cropped, and normalised by ImageNet's mean and deviation.

    Args:
        published: the model.
        description: of the data set, at the model's image size.

    Returns:
        The transform, and where it comes from.

    Raises:
        UsageError: where its images do not fit the model.

    Reference: the model card of the ViT-B of arXiv:2505.11881.
    """
    if (published.folder / PREPROCESSOR).is_file():
        return _preprocessor(published), PREPROCESSOR
    height, width = published.image_size
    if height != width:
        raise UsageError(
            f"{published.name} takes images of {height} x {width} pixels and has no {PREPROCESSOR}; the default "
            "transform makes square images, so add that file"
        )
    origin = f"no {PREPROCESSOR}: the default of {description.family} at {height} pixels"
    return evaluation_transform(description, "vit"), origin


def check_fits(published: Published, description: Description) -> tuple[str, ...]:
    """Labels are indices into the model's classes; their number and the channels must be the model's.

    Shards that name no classes do not say how many there are, so their labels may end below the model's.

    Returns:
        Notes for the reader of the result.

    Raises:
        UsageError: naming both numbers.
    """
    given, wanted = description.num_classes, len(published.classes)
    is_counted = description.name != "shards" or description.classes != numbered(given)
    if given > wanted or (is_counted and given < wanted):
        held = f"{given} classes" if is_counted else f"labels up to {given - 1}"
        raise UsageError(
            f"the data set {description.name!r} has {held}, and {published.name} has {wanted} classes; labels are "
            "matched by index, so choose the data that the model was trained for"
        )
    if description.channels != published.channels:
        raise UsageError(
            f"images of the data set {description.name!r} have {description.channels} channels, and "
            f"{published.name} takes {published.channels}"
        )
    return (f"labels reach {given - 1}; the model has {wanted} classes",) if given < wanted else ()


def _read_config(folder: Path, name: str) -> dict[str, Any]:
    """The config of a folder, which must say a model type."""
    try:
        config: Any = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{name} has no {CONFIG} that can be read ({error}); expected a checkpoint or run folder of orthostream, a "
            "Hugging Face folder, or a hub id"
        ) from error
    if not isinstance(config, dict) or "model_type" not in config:
        raise UsageError(
            f"{folder / CONFIG} names no model_type, so it is not Hugging Face's; one of timm becomes that by: "
            f"orthostream convert {name} --to hf --out FOLDER"
        )
    return config


def _preprocessor(published: Published) -> Transform:
    try:
        processor = AutoImageProcessor.from_pretrained(published.folder, trust_remote_code=False)
    except Exception as error:
        raise UsageError(
            f"{published.folder / PREPROCESSOR} cannot be used: {error}; mend it, or remove it for the default "
            "transform"
        ) from error

    def transform(image: Image.Image) -> Tensor:
        pixels: Tensor = processor(image, return_tensors="pt")["pixel_values"][0]
        return pixels

    height, width = published.image_size
    probe = Image.new("RGB" if published.channels == 3 else "L", (width + 8, height + 4))
    made, wanted = list(transform(probe).shape), [published.channels, height, width]
    if made != wanted:
        raise UsageError(
            f"{published.folder / PREPROCESSOR} makes images {made}, and the model takes {wanted}; mend its sizes"
        )
    return transform
