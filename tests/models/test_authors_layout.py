"""State dicts between our layout and that of the authors' training code."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch

from orthostream import models
from orthostream.errors import UsageError
from orthostream.models.authors_layout import from_authors, to_authors

MakeTiny = Callable[..., models.Model]

CHOICES: list[Any] = [
    "linear",
    "orthogonal",
    "negative",
    "rezero",
    "rezero_constrained",
    "rescale_stream",
    ("orthogonal", {"eps": 0.75}),
]
CONV1X1 = ("rescale_stream", {"mode": "conv1x1"})


@pytest.mark.parametrize(
    ("family", "choice"),
    [*itertools.product(("vit", "resnet", "bottleneck"), CHOICES), ("resnet", CONV1X1), ("bottleneck", CONV1X1)],
    ids=str,
)
def test_there_and_back_without_loss(make_tiny: MakeTiny, family: str, choice: Any) -> None:
    model = make_tiny(family, choice)
    state = model.state_dict()
    theirs = to_authors(state, model)
    back = from_authors(theirs, model)
    assert list(back) == list(state)
    assert all(torch.equal(back[key], state[key]) for key in state)


def test_their_names(make_tiny: MakeTiny) -> None:
    vit, resnet = make_tiny("vit", "rezero_constrained"), make_tiny("resnet", CONV1X1)
    theirs = to_authors(vit.state_dict(), vit)
    assert theirs["blocks.1._pattern_params.mlp_theta"].shape == (1,)
    assert theirs["blocks.0.residual_eps"].shape == (1,)
    assert theirs["blocks.0.residual_eps"].dtype == torch.float32
    theirs = to_authors(resnet.state_dict(), resnet)
    assert theirs["stage2.0._pattern_modules.conv_rescale_proj.weight"].shape == (6, 6, 1, 1)
    assert theirs["stage1.1.residual_eps"].shape == ()


def test_another_eps_is_refused(make_tiny: MakeTiny) -> None:
    trained = make_tiny("vit", ("orthogonal", {"eps": 1e-5}))
    theirs = to_authors(trained.state_dict(), trained)
    with pytest.raises(UsageError, match=r"residual_eps is 1e-05, but the connection there uses eps=1e-06"):
        from_authors(theirs, make_tiny("vit", "orthogonal"))
    # the plain sum has no eps, so a file of either value describes it
    assert from_authors(theirs, make_tiny("vit", "linear"))


def test_unknown_and_missing_keys_are_refused(make_tiny: MakeTiny) -> None:
    model = make_tiny("vit", "orthogonal")
    theirs = to_authors(model.state_dict(), model)
    with pytest.raises(UsageError, match=r"not known to the model: blocks\.0\.attn\.rotary"):
        from_authors(theirs | {"blocks.0.attn.rotary": torch.zeros(1)}, model)
    with pytest.raises(UsageError, match=r"missing: blocks\.1\.residual_eps; not known to the model: nothing"):
        from_authors({key: value for key, value in theirs.items() if key != "blocks.1.residual_eps"}, model)
    with pytest.raises(UsageError, match=r"missing: blocks\.0\._pattern_params\.attn_alpha"):
        from_authors(theirs, make_tiny("vit", "rezero"))
    with pytest.raises(UsageError, match="not one of this model; missing: cls_token"):
        to_authors({key: value for key, value in model.state_dict().items() if key != "cls_token"}, model)


def test_parts_that_their_code_has_not_are_refused(make_tiny: MakeTiny) -> None:
    for model in (
        make_tiny("vit", registers=2),
        make_tiny("vit", layer_scale=0.1),
        make_tiny("vit", qk_norm=True),
        make_tiny("vit", affine_norm=True),
        make_tiny("vit", "hyper_connections"),
    ):
        with pytest.raises(UsageError, match="the authors' layout has no place for"):
            to_authors(model.state_dict(), model)


def test_two_eps_in_one_block_are_refused(make_tiny: MakeTiny) -> None:
    model = make_tiny("vit", {"*.attn": ("orthogonal", {"eps": 1e-3}), "default": "orthogonal"})
    with pytest.raises(UsageError, match=r"connections of blocks.0 use eps \[1e-06, 0.001\]"):
        to_authors(model.state_dict(), model)
