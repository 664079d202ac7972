"""Models without a stream that a connection could write: plain networks, and those of other libraries."""

from collections.abc import Mapping
from typing import Any

from orthostream.connections import Choice
from orthostream.connections.linear import Linear
from orthostream.errors import UsageError
from orthostream.models.base import Model
from orthostream.shapes import describe


class ModelWithoutSites(Model):
    """A model that carries no connection: it has no sites, no ``begin`` and no ``end``.

    Args:
        connection: must be the plain sum, since there is no place for another one.
        in_channels: channels of the images.

    Raises:
        UsageError: for any other connection.
    """

    family = "cnn"
    sites = ()

    def __init__(self, connection: Choice, in_channels: int) -> None:
        super().__init__()
        if not is_plain_sum(connection):
            given = connection[0] if isinstance(connection, tuple) else connection
            raise UsageError(
                f"{type(self).__name__} has no site where a connection could stand, got connection {given!r}; leave it "
                "'linear', or take a model with sites, such as resnet20, preact_resnet18 or vit_s"
            )
        self.in_channels = in_channels

    def check_images(self, images: Any) -> None:
        """Refuse what is not a batch of images with the model's channels.

        Raises:
            UsageError: with the shape that was given.
        """
        if images.ndim != 4 or images.shape[1] != self.in_channels:
            raise UsageError(
                f"images must be [batch, channels, height, width] with {self.in_channels} channels, "
                f"got {describe(images)}"
            )


def is_plain_sum(choice: Choice) -> bool:
    """Whether a choice is the linear connection by name, without options, or an instance of it."""
    if isinstance(choice, tuple):
        name, options = choice
        return name == "linear" and isinstance(options, Mapping) and not options
    return choice == "linear" or isinstance(choice, Linear)
