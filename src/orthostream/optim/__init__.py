"""Orthogonal gradients before any optimizer (arXiv:2202.07052): exact or fast, on one process or many.

:func:`orthogonalize` wraps an optimizer, :func:`polar` is the operation by itself, :func:`normalize` the baselines of
the paper, :func:`transformation` tells what a wrapped optimizer does.
"""

from orthostream.optim.lars import LARS
from orthostream.optim.methods import METHODS
from orthostream.optim.normalize import NormRule, normalized
from orthostream.optim.orthogonalize import PolarRule, normalize, orthogonalize
from orthostream.optim.polar import Polar, polar
from orthostream.optim.scale import factor as scale_factor
from orthostream.optim.selection import Choice, Selector
from orthostream.optim.threshold import split_outliers
from orthostream.optim.transform import Counts, Transformation, transformation

__all__ = [
    "LARS",
    "METHODS",
    "Choice",
    "Counts",
    "NormRule",
    "Polar",
    "PolarRule",
    "Selector",
    "Transformation",
    "normalize",
    "normalized",
    "orthogonalize",
    "polar",
    "scale_factor",
    "split_outliers",
    "transformation",
]
