"""What goes wrong with data, and names of files that can be printed."""

from orthostream.errors import UsageError


class DataError(UsageError):
    """Data that is missing, unreadable or not what its description says; the message says what to do."""


def printable(name: str) -> str:
    """A file name that any terminal and file takes: bytes that are no UTF-8 become ``\\xff``."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
