"""Suite ``pair``: write and norm in one operation, against a plain addition and the norm one after the other.

The norm has no gain and no bias, as in the blocks of the ViTs, and its result is in the dtype of the update: what the
next branch reads. Gradients come in from both results, the stream and its norm.
"""

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.cases import Case, Outcome, Setting, Skip
from benchmarks.passes import Side, clock_of, prepared
from benchmarks.rows import timed_row
from benchmarks.sites import Site
from benchmarks.turns import in_turn
from orthostream import ops

EPS = 1e-6
NORM_EPS = 1e-6
BASE = "plain add, norm"


def cases(device: torch.device) -> list[Case]:
    """Tokens of the ViTs with LayerNorm, streams of language models with RMSNorm.

    Raises:
        Skip: where the library has no such operation.
    """
    if not hasattr(ops, "orthogonal_update_norm"):
        raise Skip("this version of orthostream has no orthogonal_update_norm")
    half, single = torch.bfloat16, torch.float32
    if device.type != "cuda":
        tokens = [Site("tokens", (16, 197, 384), dtype) for dtype in (single, half)]
        language: list[Site] = []
    else:
        places = (("ViT-S 224x224", 384), ("ViT-B 224x224", 768))
        pairs = ((half, half), (single, half), (single, single))
        tokens = [Site(place, (256, 197, features), *dtypes) for place, features in places for dtypes in pairs]
        language = [Site("LLM", shape, half) for shape in ((4096, 4096), (16384, 4096), (16384, 8192))]
    return [
        Case(f"{site.name}, {kind} norm", partial(measure, site, kind))
        for kind, sites in (("layer", tokens), ("rms", language))
        for site in sites
    ]


def measure(site: Site, kind: str, setting: Setting) -> Iterator[Outcome]:
    """Rows of forward, of backward, and of both together."""
    dtype = site.update_dtype or site.dtype
    passes = prepared(site, sides_of(kind, dtype, setting), setting.device)
    yield from passes.failures
    clock = clock_of(setting.device)
    times = {
        "forward": in_turn(passes.forward, clock, setting.rounds),
        "backward": in_turn(passes.backward, clock, setting.rounds),
    }
    times["forward and backward"] = {
        label: [sum(both) for both in zip(*(times[which][label] for which in times), strict=True)]
        for label in passes.forward
    }
    for which, of_side in times.items():
        for label in of_side:
            if label != BASE and BASE in of_side:
                name = f"{site.name}, {kind} norm, {which}"
                yield timed_row("pair", name, BASE, label, of_side[BASE], of_side[label])


def sides_of(kind: str, dtype: torch.dtype, setting: Setting) -> dict[str, Side]:
    """What is compared, by label."""
    plain = partial(plain_add_then_norm, kind=kind, dtype=dtype)
    in_one = partial(ops.orthogonal_update_norm, eps=EPS, norm=kind, norm_eps=NORM_EPS, dtype=dtype)
    sides: dict[str, Side] = {
        BASE: plain,
        "orthogonal, norm": partial(orthogonal_then_norm, kind=kind, dtype=dtype),
        "orthogonal and norm in one": in_one,
    }
    if setting.compiles:
        sides[f"{BASE}, torch.compile"] = torch.compile(plain, dynamic=False)
        sides["orthogonal and norm in one, torch.compile"] = torch.compile(in_one, dynamic=False)
    return sides


def plain_add_then_norm(x: Tensor, update: Tensor, *, kind: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    y = x + update
    return y, normed(y, kind).to(dtype)


def orthogonal_then_norm(x: Tensor, update: Tensor, *, kind: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    y = ops.orthogonal_update(x, update, eps=EPS)
    return y, normed(y, kind).to(dtype)


def normed(y: Tensor, kind: str) -> Tensor:
    norm = functional.layer_norm if kind == "layer" else functional.rms_norm
    return norm(y, y.shape[-1:], eps=NORM_EPS)
