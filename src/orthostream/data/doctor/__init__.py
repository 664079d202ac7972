"""The doctor of data sets: every image of a source looked at once, before a run stumbles over one.

:func:`list_source` says what a source holds, :func:`scan` looks at its images, and the rest shows what was found.
"""

from orthostream.data.doctor.findings import KINDS, Finding, Kind, Severity, worst
from orthostream.data.doctor.listing import list_source
from orthostream.data.doctor.scan import Scan, scan

__all__ = ["KINDS", "Finding", "Kind", "Scan", "Severity", "list_source", "scan", "worst"]
