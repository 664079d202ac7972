"""The typed description of a run: read, changed, checked, compared and saved.

Nothing here knows a model, a connection or a data set; the tables that say which there are come in as arguments.
"""

from orthostream.recipe.find import find, names
from orthostream.recipe.help import FieldHelp, field_help
from orthostream.recipe.load import load, load_python
from orthostream.recipe.options import Tables
from orthostream.recipe.resolve import Resolved
from orthostream.recipe.save import differences, dump, fingerprint, from_dict, to_dict
from orthostream.recipe.schema import (
    AugmentRecipe,
    CheckpointRecipe,
    ConnectionRecipe,
    DataRecipe,
    LogRecipe,
    ModelRecipe,
    OptimizerRecipe,
    Recipe,
    ScheduleRecipe,
    StatisticsRecipe,
    TrainRecipe,
)

__all__ = [
    "AugmentRecipe",
    "CheckpointRecipe",
    "ConnectionRecipe",
    "DataRecipe",
    "FieldHelp",
    "LogRecipe",
    "ModelRecipe",
    "OptimizerRecipe",
    "Recipe",
    "Resolved",
    "ScheduleRecipe",
    "StatisticsRecipe",
    "Tables",
    "TrainRecipe",
    "differences",
    "dump",
    "field_help",
    "find",
    "fingerprint",
    "from_dict",
    "load",
    "load_python",
    "names",
    "to_dict",
]
