"""Checkpoints of our own training, read with their recipe and written so that ``orthostream evaluate`` takes them."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from orthostream import __version__, build, models, recipe
from orthostream.data.description import Description
from orthostream.errors import UsageError
from orthostream.layouts.architecture import Architecture, Rule, Trained, check_weights, image_of, needed
from orthostream.models.vit import FINAL_NORM_EPS, ViT
from orthostream.recipe import ConnectionRecipe, DataRecipe, ModelRecipe, Recipe
from orthostream.training import checkpoint as checkpoints
from orthostream.training.checkpoint import Checkpoint

LAYOUT = "the training layout"


def trained_of(saved: Checkpoint, *, average: bool = False) -> Trained:
    """A checkpoint of a run: its weights, and the architecture that its recipe makes for them.

    Args:
        saved: the checkpoint, as :func:`orthostream.training.checkpoint.load` returns it.
        average: take the averaged weights.

    Raises:
        UsageError: where it is not of a ViT, has no averaged weights, or its weights do not fit its recipe.
    """
    weights = saved.weights
    if average:
        if saved.average is None:
            raise UsageError(f"{saved.path} holds no averaged weights; leave out --average")
        weights = saved.average
    chosen = recipe.from_dict(saved.manifest["recipe"])
    if models.family(chosen.model.name) != "vit":
        raise UsageError(f"{saved.path} is of the model {chosen.model.name!r}; the ViT alone can be converted")
    model = build.build_model(chosen, _description(chosen, weights, str(saved.path)))
    assert isinstance(model, ViT)
    check_weights(weights, model.state_dict(), str(saved.path))
    architecture, notes = _as_evaluated(Architecture.of(model), chosen.connection)
    return Trained(
        architecture=architecture,
        weights=weights,
        recipe=saved.manifest["recipe"],
        step=saved.manifest.get("step", 0),
        epoch=saved.manifest.get("epoch", 0),
        notes=notes,
    )


def write_checkpoint(folder: Path, trained: Trained) -> tuple[str, ...]:
    """Write a checkpoint folder with a recipe: weights for evaluation, without the state of an optimizer.

    Returns:
        Notes on what a recipe cannot say.

    Raises:
        UsageError: for an architecture that no recipe describes.
    """
    described = trained.recipe if trained.recipe is not None else recipe.to_dict(_recipe_for(trained.architecture))
    chosen = recipe.from_dict(described)
    checkpoints.save(
        folder.parent,
        folder.name,
        weights=trained.weights,
        average=None,
        state={},
        details={
            "step": trained.step,
            "epoch": trained.epoch,
            "world_size": 1,
            "versions": {"orthostream": __version__},
            "recipe": described,
            "recipe_sha256": recipe.fingerprint(chosen),
        },
    )
    notes = [
        "the state of the optimizer is left out: evaluate, convert and inspect it, but a run cannot resume from it"
    ]
    if trained.recipe is None:
        notes.append(f"no data set is known; the recipe says {chosen.data.name!r}, so give orthostream evaluate --data")
    return tuple(notes)


def _description(chosen: Recipe, weights: Mapping[str, Tensor], source: str) -> Description:
    """What the model has to know of its data set, from the shapes of the weights: the data need not be there."""
    patch = needed(weights, "patchify.weight", 4, source)
    tokens = needed(weights, "pos_embed", 3, source).shape[1]
    classes = needed(weights, "classifier.1.weight", 2, source).shape[0]
    height, _ = image_of(tokens, patch.shape[-1], None, source)
    return Description(
        name=chosen.data.name,
        family="imagenet",
        classes=tuple(str(number) for number in range(classes)),
        channels=patch.shape[1],
        image_size=height,
        patch_size=patch.shape[-1],
        mean=(),
        std=(),
        eval_split="",
    )


def _as_evaluated(architecture: Architecture, connection: ConnectionRecipe) -> tuple[Architecture, tuple[str, ...]]:
    """Where blocks were drawn in training, the connections that evaluations use."""
    if connection.probability is None or connection.at_evaluation == "orthogonal":
        return architecture, ()
    if connection.at_evaluation == "last":
        raise UsageError(
            "this run evaluates whatever blocks were drawn last, which no other layout can say; train with "
            "connection.at_evaluation orthogonal or linear"
        )
    plain: Rule = ("linear", {})
    note = "connection.at_evaluation is linear, so the model is converted with plain sums"
    return replace(architecture, rules=(plain,) * len(architecture.rules)), (note,)


def _recipe_for(architecture: Architecture) -> Recipe:
    height, width = architecture.image_size
    if height != width:
        raise UsageError(f"a recipe has square images, and this model takes {height}x{width}; convert it to hf or timm")
    rule, blocks = architecture.rule_by_block("a recipe")
    options: dict[str, Any] = {
        "patch_size": architecture.patch_size,
        "embed_dim": architecture.embed_dim,
        "depth": architecture.depth,
        "num_heads": architecture.num_heads,
        "mlp_ratio": architecture.hidden_features / architecture.embed_dim,
        "affine_norm": architecture.affine_norm,
        "qk_norm": architecture.qk_norm,
        "pool": architecture.pool,
        "registers": architecture.registers,
    }
    if architecture.layer_scale:
        options["layer_scale"] = 1.0
    if architecture.final_norm_eps != FINAL_NORM_EPS:
        options["final_norm_eps"] = architecture.final_norm_eps
    return Recipe(
        model=ModelRecipe(name="vit_s", options=options),
        connection=ConnectionRecipe(name=rule[0], options=dict(rule[1]), blocks=blocks),
        data=DataRecipe(name="folder", image_size=height),
    )
