"""What the stream does: statistics at every site, figures and pages drawn from saved tables.

``record`` and ``metrics`` need torch alone. ``runs``, ``compare``, ``plots``, ``gallery`` and ``report`` read what runs
have saved; they need the extras "vision" and "report", and are imported by name.
"""

from orthostream.analysis.record import Recording, record

__all__ = ["Recording", "record"]
