"""Which tensors are taken, and the reason that is given for each."""

import pytest
import torch
from torch import nn
from torch.optim import SGD

from orthostream import models, optim
from orthostream.errors import UsageError
from orthostream.optim.matrices import Layout
from orthostream.optim.selection import Selector, table


class Mixed(nn.Module):
    """Layers of many kinds, and parameters that belong to none."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(11, 6)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 6))
        self.pos_embed = nn.Parameter(torch.zeros(1, 5, 6))
        self.mixing = nn.Parameter(torch.eye(4))
        self.stem = nn.Conv2d(3, 8, 3)
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8)
        self.line = nn.Conv1d(4, 6, 5)
        self.up = nn.ConvTranspose2d(4, 6, 2)
        self.norm = nn.LayerNorm([4, 6])
        self.attention = nn.MultiheadAttention(6, 2)
        self.recurrent = nn.GRU(6, 4)
        self.head = nn.Linear(6, 10)


def taken(which, model=None, **options) -> set[str]:
    made = Mixed() if model is None else model
    choices = Selector(which=which, **options).select(list(made.named_parameters()), made)
    assert all(choice.reason for choice in choices)
    return {choice.name for choice in choices if choice.is_chosen}


LAYERS = {
    "stem.weight",
    "depthwise.weight",
    "line.weight",
    "up.weight",
    "attention.in_proj_weight",
    "attention.out_proj.weight",
    "recurrent.weight_ih_l0",
    "recurrent.weight_hh_l0",
    "head.weight",
}


def test_weights_are_those_of_layers():
    assert taken("weights") == LAYERS


def test_paper_takes_everything_with_two_axes():
    assert taken("paper") == LAYERS | {"words.weight", "cls_token", "pos_embed", "mixing", "norm.weight", "norm.bias"}


def test_conv_takes_convolutions_of_any_dimension():
    assert taken("conv") == {"stem.weight", "depthwise.weight", "line.weight", "up.weight"}


def test_muon_leaves_out_both_ends():
    assert taken("muon") == LAYERS - {"stem.weight", "head.weight"}


def test_timm_decides_by_shape():
    assert taken("timm") == (LAYERS - {"depthwise.weight"}) | {"words.weight", "mixing", "norm.weight", "norm.bias"}


def test_patterns_add_and_remove():
    assert taken("weights", include=["words.*", "pos_embed"], exclude=["attention.*"]) == (
        {name for name in LAYERS if not name.startswith("attention")} | {"words.weight", "pos_embed"}
    )


def test_without_a_model_shapes_speak():
    model = Mixed()
    choices = Selector().select(list(model.named_parameters()))
    chosen = {choice.name for choice in choices if choice.is_chosen}
    assert "words.weight" in chosen
    assert not {"cls_token", "pos_embed"} & chosen


def test_without_a_model_convolutions_are_told_by_four_axes():
    choices = Selector(which="conv").select(list(Mixed().named_parameters()))
    assert {c.name for c in choices if c.is_chosen} == {"stem.weight", "depthwise.weight", "up.weight"}


def test_muon_needs_the_model():
    with pytest.raises(UsageError, match="pass the model"):
        Selector(which="muon").select(list(Mixed().named_parameters()))


def test_a_vit_keeps_its_tokens_and_positions():
    model = models.create("vit_s", num_classes=10, image_size=32, patch_size=8, embed_dim=24, depth=1, num_heads=2)
    names = taken("weights", model)
    assert not {name for name in names if "token" in name or "pos" in name}
    assert {name for name, p in model.named_parameters() if p.ndim == 2} <= names


def test_names_come_from_the_model_then_the_optimizer_then_the_place():
    model = Mixed()
    optimizer = optim.orthogonalize(SGD(model.parameters(), 0.1), model)
    assert optim.transformation(optimizer).choices[0].name == "cls_token"
    optimizer = optim.orthogonalize(SGD(model.named_parameters(), 0.1))
    assert optim.transformation(optimizer).choices[0].name == "cls_token"
    optimizer = optim.orthogonalize(SGD(model.parameters(), 0.1))
    assert optim.transformation(optimizer).choices[0].name == "groups.0.0"


def test_a_compiled_model_has_plain_names():
    model = torch.compile(nn.Sequential(nn.Linear(3, 4)), backend="eager")
    optimizer = optim.orthogonalize(SGD(model.parameters(), 0.1), model, exclude=["0.bias"])
    assert [choice.name for choice in optim.transformation(optimizer).choices] == ["0.weight", "0.bias"]


def test_the_table_says_yes_or_no_and_why():
    model = nn.Sequential(nn.Conv2d(2, 4, 3, groups=2), nn.Linear(4, 3))
    text = table(Selector(grouped="apart").select(list(model.named_parameters()), model))
    lines = text.splitlines()
    assert lines[0].split() == ["parameter", "shape", "matrices", "why"]
    assert lines[1].split() == ["yes", "0.weight", "4x1x3x3", "2", "x", "2", "x", "9", "convolution", "(Conv2d)"]
    assert lines[2].split()[:3] == ["no", "0.bias", "4"]
    assert lines[-1] == "2 of 4 tensors are chosen, 48 of 55 numbers"


@pytest.mark.parametrize("shape", [(6, 4), (6, 4, 3), (6, 2, 3, 3), (6, 2, 3, 3, 2)])
@pytest.mark.parametrize("blocks", [1, 3])
@pytest.mark.parametrize("order", ["contiguous", "channels last", "transposed"])
def test_a_layout_undoes_itself_in_any_order_of_memory(shape, blocks, order):
    tensor = torch.randn(shape)
    if order == "channels last":
        tensor = tensor.movedim(1, -1).contiguous().movedim(-1, 1)
    elif order == "transposed":
        tensor = tensor.transpose(0, -1).contiguous().transpose(0, -1)
    layout = Layout(shape, blocks)
    matrices = layout.flatten(tensor)
    assert tuple(matrices.shape) == layout.matrix
    assert torch.equal(layout.restore(matrices, tensor), tensor)
    assert torch.equal(matrices.reshape(6, -1).norm(dim=1), tensor.flatten(1).norm(dim=1)) or torch.allclose(
        matrices.reshape(6, -1).norm(dim=1), tensor.flatten(1).norm(dim=1)
    )


def test_blocks_must_divide():
    with pytest.raises(UsageError, match="does not divide into 4 blocks"):
        Layout((6, 4), 4)
