"""Suite ``ops``: the orthogonal update alone, forward and backward, against a device copy.

The base of every ratio is ``y.copy_(x)`` over as many bytes as the update must move at least, in the same turns.
That copy is what the memory can do, so 1 / ratio is the share of it that a side reaches. Counted are, in forward,
reading the stream and the update and writing the result and the coefficients; in backward, reading the gradient,
stream, result and coefficients and writing two gradients. All sides are held against these bytes, also those that
move more. The backward pass of the plain sum moves nothing and is left out.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from benchmarks.cases import Case, Outcome, Setting, implementations
from benchmarks.extension import extension, fits
from benchmarks.passes import Side, clock_of, prepared
from benchmarks.rows import timed_row
from benchmarks.sites import Site
from benchmarks.turns import Call, in_turn, rotating, sets_beyond_cache
from orthostream import ops
from orthostream.ops.choice import Name
from orthostream.ops.orthogonal_update.reference import Rule, reference
from orthostream.shapes import Axes

EPS = 1e-6
GLOBAL = (1, 2, 3)
PLAIN_ADD = "plain add"


def cases(device: torch.device) -> list[Case]:
    """One a site; both passes in one case, since one compilation serves both."""
    return [
        Case(site.name, partial(measure, site)) for site in (cuda_sites() if device.type == "cuda" else cpu_sites())
    ]


def cpu_sites() -> list[Site]:
    """Small: a second or two each."""
    sites = []
    for dtype in (torch.float32, torch.bfloat16):
        sites += [Site("tokens", shape, dtype) for shape in ((64, 65, 384), (16, 197, 768))]
        for shape in ((32, 64, 32, 32), (32, 256, 8, 8)):
            sites += [Site("map", shape, dtype, channels_last=last) for last in (False, True)]
        sites.append(Site("map", (32, 64, 32, 32), dtype, dim=GLOBAL))
    return sites


def cuda_sites() -> list[Site]:
    """Streams of the models of the paper at both sizes of images, and of language models."""
    half, single = torch.bfloat16, torch.float32
    sites = []
    for place, features in (("ViT-S 224x224", 384), ("ViT-B 224x224", 768)):
        shape = (256, 197, features)
        # The second pair is what autocast makes of a ViT: a float32 stream, half-precision updates.
        sites += [Site(place, shape, half), Site(place, shape, single, half), Site(place, shape, single)]
    # Images of 32x32 meet a stem that keeps their size; those of 224x224 one that leaves 56x56.
    for place, shape in (
        ("ResNet-34 32x32, first stage", (256, 64, 32, 32)),
        ("ResNet-34 32x32, last stage", (256, 512, 4, 4)),
        ("ResNet-50 32x32, first stage", (256, 256, 32, 32)),
        ("ResNet-50 32x32, last stage", (256, 2048, 4, 4)),
        ("ResNet-34 224x224, first stage", (128, 64, 56, 56)),
        ("ResNet-34 224x224, last stage", (128, 512, 7, 7)),
        ("ResNet-50 224x224, first stage", (128, 256, 56, 56)),
        ("ResNet-50 224x224, last stage", (128, 2048, 7, 7)),
    ):
        sites += [Site(place, shape, half, channels_last=last) for last in (True, False)]
    sites += [Site("ResNet-50 224x224, first stage", (128, 256, 56, 56), half, channels_last=True, dim=GLOBAL)]
    sites += [Site("LLM", shape, half) for shape in ((4096, 4096), (16384, 4096), (16384, 8192))]
    sites += [Site("LLM", (16384, 4096), single)]
    return sites


def measure(site: Site, setting: Setting) -> Iterator[Outcome]:
    """Rows of both passes."""
    passes = prepared(site, sides_of(site, setting), setting.device)
    yield from passes.failures
    passes.backward.pop(PLAIN_ADD, None)
    yield from against_copy(f"{site.name}, forward", site.forward_bytes, passes.forward, setting)
    yield from against_copy(f"{site.name}, backward", site.backward_bytes, passes.backward, setting)


def sides_of(site: Site, setting: Setting) -> dict[str, Side]:
    """What is compared, by label."""
    formula = partial(reference, rule=Rule(site.axes, EPS))
    sides: dict[str, Side] = {PLAIN_ADD: add, "reference": formula}
    if site.dtype.itemsize < torch.float32.itemsize:
        sides[f"formula in {str(site.dtype).removeprefix('torch.')}"] = partial(formula_as_written, dim=site.axes)
    if setting.compiles:
        sides["torch.compile"] = torch.compile(formula, dynamic=False)
        if setting.device.type == "cpu" and fits(site):
            sides["C++ extension"] = partial(extension, site=site, eps=EPS)
    for name in implementations(setting.device)[1:]:
        sides[f"ours ({name})"] = partial(ours, name=name, dim=site.axes)
    return sides


def add(x: Tensor, update: Tensor) -> Tensor:
    return x + update


def formula_as_written(x: Tensor, update: Tensor, dim: Axes) -> Tensor:
    """The formula in the dtype of its operands, without care for rounding: what it costs to write it down."""
    coefficient = (x * update).sum(dim, keepdim=True) / ((x * x).sum(dim, keepdim=True) + EPS)
    return x + update - coefficient * x


def ours(x: Tensor, update: Tensor, *, name: Name, dim: Axes) -> Tensor:
    with ops.forced(name):
        return ops.orthogonal_update(x, update, dim, EPS)


def against_copy(case: str, moved: int, calls: dict[str, Call], setting: Setting) -> Iterator[Outcome]:
    """Rows of one pass, all sides in turn with a copy of as many bytes."""
    base = f"copy of {moved / 2e6:.4g} MB"
    copy = copy_of(moved, setting.device)
    times = in_turn({base: copy, **calls}, clock_of(setting.device), setting.rounds)
    for label in calls:
        row = timed_row("ops", case, base, label, times[base], times[label])
        yield replace(row, base_gb_s=rate(moved, row.base_ms), other_gb_s=rate(moved, row.other_ms))


def rate(moved: int, milliseconds: float) -> float:
    """Bytes moved in a time, in GB/s."""
    return 1e-6 * moved / milliseconds


def copy_of(moved: int, device: torch.device) -> Call:
    """A copy that reads half of so many bytes and writes the other half."""
    count = moved // 2 // torch.float32.itemsize
    pairs = [
        (torch.empty(count, device=device), torch.ones(count, device=device))
        for _ in range(sets_beyond_cache(moved, device))
    ]
    return rotating([partial(target.copy_, source) for target, source in pairs])
