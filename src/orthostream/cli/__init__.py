"""The command line: one file a verb, imported only when it is called."""

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Sequence

from orthostream import __version__
from orthostream.errors import UsageError

VERBS = {
    "train": "train a classifier from a recipe, or go on with a run",
    "evaluate": "top-1, top-5 and loss of a checkpoint, each sample counted once",
    "compare": "train one recipe in several settings and seeds; one table",
    "reproduce": "the cells of a published table; the paper's numbers and these side by side",
    "report": "an HTML page of runs that are there",
    "convert": "between layouts of checkpoints: Hugging Face, timm, the authors' .pt, ours",
    "export": "a folder for the Hub, or a graph, from a trained ViT; compared before it is kept",
    "data": "check a data set: every image read once, what is wrong with it in a table and a picture",
    "list": "connections, models, recipes, data sets and optimizers",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; the exit code is 2 for a mistake of the caller, whose message says what to do."""
    # Not list(...): once the verb of that name is imported, it stands in this module.
    arguments = [*(sys.argv[1:] if argv is None else argv)]
    parser = argparse.ArgumentParser(
        prog="orthostream",
        description="The residual stream of deep networks: train, compare, look.",
        epilog="orthostream VERB --help shows the options of a verb and an example.",
    )
    parser.add_argument("--version", action="version", version=f"orthostream {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name, summary in VERBS.items():
        # Only the chosen verb pays for its imports; the others lend their name to the help.
        if arguments[:1] == [name]:
            module = importlib.import_module(f"orthostream.cli.{name}")
            verb = verbs.add_parser(
                name,
                help=summary,
                description=module.__doc__,
                formatter_class=argparse.RawDescriptionHelpFormatter,
            )
            module.add_arguments(verb)
            verb.set_defaults(run=module.run)
        else:
            verbs.add_parser(name, help=summary, add_help=False)
    options, rest = parser.parse_known_args(arguments)
    # argparse takes field=value only right behind the recipe; people also write it after the options.
    if any(word.startswith("-") or "=" not in word or not hasattr(options, "overrides") for word in rest):
        parser.error(f"unrecognized arguments: {' '.join(rest)}; see orthostream {options.verb} --help")
    if rest:
        options.overrides += rest
    return guarded(lambda: int(options.run(options)))


def guarded(action: Callable[[], int]) -> int:
    """Run an action; a mistake of the caller ends it with its message and code 2."""
    try:
        return action()
    except UsageError as error:
        rank = os.environ.get("RANK", "0")
        print(f"error: {error}" if rank == "0" else f"error on rank {rank}: {error}", file=sys.stderr, flush=True)
        return 2
    except KeyboardInterrupt:
        return 130
