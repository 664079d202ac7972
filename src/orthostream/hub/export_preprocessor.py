"""The evaluation transform of a data set as a ``preprocessor_config.json``."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from orthostream.data.description import Description
from orthostream.data.transforms import Pipeline, evaluation_transform
from orthostream.errors import UsageError, needs_extra

with needs_extra("vision"):
    from torchvision.transforms import InterpolationMode, v2

# The numbers of Pillow's filters, which these files hold.
RESAMPLE = {InterpolationMode.BILINEAR: 2, InterpolationMode.BICUBIC: 3}


def preprocessor_of(description: Description, pipeline: Pipeline = "vit") -> dict[str, Any]:
    """What an image processor of transformers has to know to do what evaluation did.

    The steps are read off the transform itself. Images whose sides differ by more than 16 to 1 are cut at the ends
    there and not here; the processor resizes all of them first.

    Args:
        description: of the data set.
        pipeline: whose transform.

    Returns:
        The mapping of a ``ViTImageProcessor``.

    Example:
        >>> from orthostream import data
        >>> preprocessor_of(data.load("digits").description)["size"]
        {'height': 8, 'width': 8}
    """
    size = description.image_size
    values: dict[str, Any] = {
        "image_processor_type": "ViTImageProcessor",
        "do_convert_rgb": description.channels == 3,
        "do_resize": True,
        # Images of the data set have this size already, where the transform does not say otherwise.
        "size": {"height": size, "width": size},
        "resample": RESAMPLE[InterpolationMode.BILINEAR],
        "do_center_crop": False,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
    }
    for step in cast(v2.Compose, evaluation_transform(description, pipeline)).transforms:
        if isinstance(step, v2.Resize):
            values["resample"] = RESAMPLE[InterpolationMode(step.interpolation)]
            if len(step.size) == 1:
                values["size"] = {"shortest_edge": step.size[0]}
        elif isinstance(step, v2.CenterCrop):
            values |= {"do_center_crop": True, "crop_size": {"height": step.size[0], "width": step.size[1]}}
        elif isinstance(step, v2.Normalize):
            values |= {"image_mean": list(step.mean), "image_std": list(step.std)}
    return values


def read_preprocessor(path: Path) -> Mapping[str, Any]:
    """A ``preprocessor_config.json`` that is there.

    Raises:
        UsageError: where it is none.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read as a preprocessor_config.json: {error}") from None
    if not isinstance(found, dict) or "image_processor_type" not in found:
        raise UsageError(f"{path} names no image_processor_type, so it is no preprocessor_config.json; save it again")
    return found
