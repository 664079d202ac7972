"""A run of a language model converted to a folder of transformers, for ``orthostream convert``."""

import argparse

from orthostream import build
from orthostream.cli.convert import draft_beside, put_in_place
from orthostream.cli.evaluate import weights_of
from orthostream.data.text import CONTEXT, TextDescription
from orthostream.errors import UsageError
from orthostream.hub.language_folder import VOCABULARY, check_language_folder, write_language_folder
from orthostream.hub.language_model import LanguageModel
from orthostream.recipe import Recipe
from orthostream.training.checkpoint import Checkpoint
from orthostream.training.weights import load_weights

# Options of the verb that speak of images.
OF_IMAGES = ("image_size", "num_heads", "activation", "weights_only")


def convert_language(options: argparse.Namespace, saved: Checkpoint, chosen: Recipe) -> int:
    """Write the folder, and compare it with the run before it is put in its place.

    Raises:
        UsageError: for another layout, a connection that differs from block to block, or logits that differ.
    """
    refuse(options, chosen)
    model = load(saved, chosen, average=options.average)
    vocabulary = [chr(point) for point in model.get_buffer(VOCABULARY).tolist()]
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f"Llama: {parameters:,} parameters, {len(vocabulary)} characters, connection {chosen.connection.name}")
    with draft_beside(options.out, elsewhere=options.dry_run) as draft:
        write_language_folder(draft, model, (chosen.connection.name, chosen.connection.options), vocabulary)
        found = "left out, as asked for; whether the logits agree is not known"
        if not options.no_verify:
            found = check_language_folder(draft, model, vocabulary, options.tolerance)
        print(f"verification: {found}")
        if options.dry_run:
            print(f"dry run: nothing was written to {options.out}")
            return 0
        put_in_place(draft, options.out)
    print(f"wrote a Hugging Face folder of model type ortho_llama: {options.out}")
    return 0


def refuse(options: argparse.Namespace, chosen: Recipe) -> None:
    """Refuse what a folder of a language model cannot be.

    Raises:
        UsageError: saying what it can.
    """
    if options.to != "hf":
        raise UsageError(
            f"{options.source} is of the language model {chosen.model.name!r}, for which there is --to hf alone, not "
            f"{options.to}"
        )
    if strange := [f"--{name.replace('_', '-')}" for name in OF_IMAGES if getattr(options, name)]:
        raise UsageError(f"{', '.join(strange)} says nothing of a language model; leave it out")
    connection = chosen.connection
    is_drawn = connection.probability is not None and connection.at_evaluation != "orthogonal"
    if connection.blocks is not None or is_drawn:
        raise UsageError(
            "a config has one connection for all blocks and evaluations; connection.blocks, and a probability with "
            "connection.at_evaluation other than orthogonal, have no place in it"
        )


def load(saved: Checkpoint, chosen: Recipe, *, average: bool) -> LanguageModel:
    """The model of a checkpoint, with its vocabulary.

    Raises:
        UsageError: where its weights are not those of its recipe.
    """
    weights = weights_of(saved, average)
    if VOCABULARY not in weights:
        raise UsageError(f"{saved.path} holds no {VOCABULARY}, so that nobody knows its characters; train it again")
    vocabulary = tuple(chr(point) for point in weights[VOCABULARY].tolist())
    description = TextDescription(name=chosen.data.name, vocabulary=vocabulary, context=chosen.data.context or CONTEXT)
    model = build.build_model(chosen, description)
    load_weights(model, weights, str(saved.path))
    assert isinstance(model, LanguageModel)
    return model
