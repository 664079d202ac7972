"""What the stream does: statistics at every site, figures and pages drawn from saved tables.

``record`` and ``metrics`` need torch alone. ``runs``, ``compare``, ``plots`` and ``report`` read what a run has saved
and need the extra "report"; they are imported by name.
"""

from orthostream.analysis.record import Recording, record

__all__ = ["Recording", "record"]
