"""What the doctor can find in a source of images, how grave it is, and what training and evaluation do with it."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum


class Severity(IntEnum):
    """How grave a finding is.

    A note is dealt with as documented, and nothing is lost. A warning lets training and evaluation go on, with results
    that may not be what one means. At an error they stop.
    """

    NOTE = 0
    WARNING = 1
    ERROR = 2


@dataclass(frozen=True)
class Kind:
    """One kind of finding.

    Args:
        severity: how grave it is.
        meaning: what is the matter, in a few words.
        outcome: what training and evaluation do with it.
    """

    severity: Severity
    meaning: str
    outcome: str


STOP = "stop when they come to it, naming it"
STOP_FIRST = "stop before the first step"
SKIPPED = "pass it over, with a note"

KINDS: Mapping[str, Kind] = {
    # Files and bytes that give no image.
    "unreadable": Kind(Severity.ERROR, "the operating system does not give the file or folder", STOP),
    "special_file": Kind(Severity.ERROR, "a pipe, socket or device in the place of a file", STOP),
    "empty": Kind(Severity.ERROR, "no bytes", STOP),
    "not_an_image": Kind(Severity.ERROR, "no image format that is known", STOP),
    "truncated": Kind(Severity.ERROR, "the image ends too early", STOP),
    "broken": Kind(Severity.ERROR, "the decoder gives up on the bytes", STOP),
    "bomb": Kind(Severity.ERROR, "more pixels than a decoder should be trusted with", STOP),
    "unknown_range": Kind(Severity.ERROR, "float or 32-bit pixels, whose range of values is not known", STOP),
    "decoder_died": Kind(Severity.ERROR, "the process that decoded it died or did not end", "lose a worker and stop"),
    # Images that are not what they seem.
    "huge": Kind(Severity.WARNING, "so large that the doctor read its header alone", "decode it, in much memory"),
    "foreign_format": Kind(Severity.ERROR, "a format that no image ending means; not decoded", STOP),
    "rotated": Kind(Severity.WARNING, "the camera noted a rotation", "do not apply it, as the papers' programs"),
    "one_pixel": Kind(Severity.WARNING, "a side of one pixel", "resize it to a smear"),
    "elongated": Kind(Severity.WARNING, "more than 16 times as long as wide", "evaluation keeps the middle"),
    "sixteen_bits": Kind(Severity.NOTE, "16 bits a channel", "scale it to 8 bits"),
    "cmyk": Kind(Severity.NOTE, "colours of print", "convert it to RGB, without the profile"),
    "palette": Kind(Severity.NOTE, "colours from a palette", "convert it to RGB"),
    "bilevel": Kind(Severity.NOTE, "black and white alone", "convert it to RGB"),
    "alpha": Kind(Severity.NOTE, "transparency", "lay it on white"),
    "animated": Kind(Severity.NOTE, "more than one frame or page", "see the first"),
    "other_ending": Kind(Severity.NOTE, "the ending of its name means another format", "go by the bytes"),
    # The same pixels more than once.
    "leaked": Kind(Severity.WARNING, "the same pixels in training and evaluation", "use both; results flatter"),
    "contradiction": Kind(Severity.WARNING, "the same pixels in two classes", "use both"),
    "duplicate": Kind(Severity.NOTE, "the same pixels again", "use both"),
    # Labels and classes.
    "bad_label": Kind(Severity.ERROR, "a label that is missing, no number or out of range", STOP_FIRST),
    "incomplete_sample": Kind(Severity.ERROR, "an image without label, or a label without its one image", STOP_FIRST),
    "too_few_classes": Kind(Severity.ERROR, "less than two classes to learn", STOP_FIRST),
    "empty_class": Kind(Severity.ERROR, "a class folder of training without images", STOP_FIRST),
    "class_not_in_training": Kind(Severity.ERROR, "a class folder that training has not", STOP_FIRST),
    "other_classes": Kind(Severity.ERROR, "files name different classes", STOP_FIRST),
    "never_trained": Kind(Severity.WARNING, "labels that no training image has", "count them as any other"),
    "never_evaluated": Kind(Severity.NOTE, "classes without an image to evaluate", "go on, with a note"),
    "imbalance": Kind(Severity.NOTE, "the largest class has ten times the images of the smallest", "use all"),
    # The source as a whole.
    "empty_split": Kind(Severity.ERROR, "a split without images", STOP_FIRST),
    "broken_shard": Kind(Severity.ERROR, "a tar or parquet file that is cut, broken or of another layout", STOP_FIRST),
    "missing_shard": Kind(Severity.ERROR, "a number is left out among the files of a split", STOP_FIRST),
    "unsafe_member": Kind(
        Severity.WARNING,
        "a member of a tar file that is a link, a device, a pickle or leads out of its folder",
        "never unpack or open it",
    ),
    "link_outside": Kind(
        Severity.WARNING, "a link that leads out of the source; the doctor does not follow it", "follow it"
    ),
    "link_not_followed": Kind(Severity.NOTE, "a link to a folder, inside a class folder", SKIPPED),
    "hidden": Kind(Severity.NOTE, "a name that begins with a dot", SKIPPED),
    "ignored": Kind(Severity.NOTE, "no image by its ending, or in no class folder", SKIPPED),
    "not_scanned": Kind(Severity.NOTE, "beside the splits", "do not look at it"),
    "no_training": Kind(Severity.NOTE, "no training split", "evaluation alone is possible"),
    "no_evaluation": Kind(Severity.NOTE, "no evaluation split", "training needs one"),
    "odd_name": Kind(Severity.NOTE, "a name that is no UTF-8", "print its odd bytes as \\xff"),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that the doctor found.

    Args:
        kind: a key of :data:`KINDS`.
        where: its place in the source, printable.
        detail: what there is to say beyond the kind.
        split: that it belongs to.
        item: number of the image among those scanned, where it is about one.
        partner: of duplicates, the number of the image that has the same pixels.
    """

    kind: str
    where: str
    detail: str = ""
    split: str = ""
    item: int | None = None
    partner: int | None = None

    @property
    def severity(self) -> Severity:
        """How grave it is."""
        return KINDS[self.kind].severity


def worst(findings: "list[Finding] | tuple[Finding, ...]") -> Severity:
    """The gravest severity among findings; a note where there are none.

    Example:
        >>> worst([Finding("alpha", "a.png"), Finding("rotated", "b.jpg")]).name
        'WARNING'
    """
    return max((finding.severity for finding in findings), default=Severity.NOTE)
