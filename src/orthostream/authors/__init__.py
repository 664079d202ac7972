"""The command line of the authors' training program, translated into a recipe."""

from orthostream.authors.translate import Translation, run_name, translate

__all__ = ["Translation", "run_name", "translate"]
