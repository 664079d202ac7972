"""Published experiments: which runs make up each table of a paper, and what the paper reports of them."""

from orthostream.experiments import orthogonal_gradients
from orthostream.experiments.published import Experiment, Published, Setting
from orthostream.registry import Registry

__all__ = ["Experiment", "Published", "Setting", "table"]

table: Registry[Experiment] = Registry("table", orthogonal_gradients.EXPERIMENTS)
