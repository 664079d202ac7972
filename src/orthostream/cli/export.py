"""Export a ViT for people who were not there when it was trained; logits are compared before anything is kept.

SOURCE is anything that orthostream convert reads: a run folder or checkpoint, the authors' .pt file, a Hugging Face
folder of type ortho_vit, timm's weights.

forms of --to:
  hub-folder    model, preprocessor, model card, code for use without orthostream, images with their logits
  torch_export  a program of torch.export, one .pt2 file; any batch size
  onnx          one .onnx file; any batch size; needs onnx, onnxscript and onnxruntime

example:
  orthostream export runs/vit_s --best --to hub-folder --out vit-s --runs runs/vit_s-seed* --licence apache-2.0
  orthostream export 0090000.pt --to torch_export --out vit_b.pt2
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from orthostream import build, data, recipe
from orthostream.analysis.compare import Comparison
from orthostream.analysis.runs import find_runs, grouped, read_run, read_runs
from orthostream.cli.convert import as_text, check_out, draft_beside, language_run, put_in_place, read
from orthostream.data.description import Description
from orthostream.errors import UsageError
from orthostream.layouts import NAMES, Layout, detect, timm_vit
from orthostream.layouts.architecture import Trained
from orthostream.layouts.verify import TOLERANCE

HUB_FOLDER = "hub-folder"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``orthostream export``."""
    parser.add_argument("source", metavar="SOURCE", type=Path, help="what to export; its layout is detected")
    parser.add_argument("--to", required=True, choices=[HUB_FOLDER, "torch_export", "onnx"], help="the form")
    parser.add_argument("--out", required=True, type=Path, metavar="PATH", help="what to write; must not exist")
    parser.add_argument("--best", action="store_true", help="of a run folder: its best checkpoint, not its newest")
    parser.add_argument("--average", action="store_true", help="the averaged weights of a checkpoint")
    parser.add_argument("--image-size", type=int, nargs="+", metavar="PIXELS", help="where images are no square")
    parser.add_argument("--num-heads", type=int, help="attention heads, where neither a file nor a preset says them")
    parser.add_argument("--activation", choices=[timm_vit.ACTIVATION], help="of bare timm weights")
    parser.add_argument("--data", metavar="NAME", help="data set with the classes and the evaluation transform")
    parser.add_argument("--data-source", metavar="PATH", help="where the data set is; default: as in training")
    parser.add_argument("--preprocessor", type=Path, metavar="FILE", help="a preprocessor_config.json to take instead")
    parser.add_argument("--labels", type=Path, metavar="FILE", help="names of the classes, one a line, to take instead")
    parser.add_argument("--runs", type=Path, nargs="+", help="finished runs of this recipe, for the card")
    parser.add_argument("--licence", help="of the weights, as the Hub writes it; left open with a marker by default")
    parser.add_argument("--title", help="of the model card; default: the name of --out")
    parser.add_argument(
        "--tolerance", type=float, default=TOLERANCE, help="largest difference allowed, in units of the largest logit"
    )
    parser.add_argument("--force", action="store_true", help="replace what stands at --out, if it is of that form")


def run(options: argparse.Namespace) -> int:
    """Carry out ``orthostream export``."""
    layout = detect(options.source)
    print(f"{options.source}: {NAMES[layout]}")
    if layout == "training" and language_run(options):
        raise UsageError(
            f"{options.source} is of a language model, and what is exported is a ViT; orthostream convert "
            f"{options.source} --to hf writes a folder of it"
        )
    if options.to == HUB_FOLDER:
        return _export_folder(options, layout)
    return _export_graph(options, layout)


def _export_folder(options: argparse.Namespace, layout: Layout) -> int:
    from orthostream.hub.export import check_hub_folder, write_hub_folder
    from orthostream.hub.model_card import Card

    check_out(options.source, options.out, "hf", options.force)
    trained = read(layout, options.source, options)
    print(as_text(trained.architecture))
    trained, preprocessor = described(options, layout, trained)
    card = Card(
        title=options.title or options.out.name,
        trained=trained,
        chosen=tuple(word for word in ("best", "average") if getattr(options, word)),
        preprocessor=preprocessor,
        evidence=evidence(options),
        licence=options.licence,
    )
    with draft_beside(options.out, elsewhere=False) as draft:
        for note in (*trained.notes, *write_hub_folder(draft, card)):
            print(f"note: {note}")
        for line in check_hub_folder(draft, options.tolerance):
            print(f"verification: {line}; allowed {options.tolerance:g} of it")
        put_in_place(draft, options.out)
    print(f"wrote a folder for the Hub: {options.out}")
    return 0


def _export_graph(options: argparse.Namespace, layout: Layout) -> int:
    from orthostream.hub.export_graph import GRAPHS, refuse_missing, write_graph

    for option in ("data", "data_source", "preprocessor", "labels", "runs", "licence", "title"):
        if getattr(options, option) is not None:
            raise UsageError(f"--{option.replace('_', '-')} belongs to --to {HUB_FOLDER}; a graph has no place for it")
    suffix = GRAPHS[options.to].suffix
    if options.out.suffix != suffix:
        raise UsageError(
            f"--to {options.to} writes one file; give --out a name that ends in {suffix}, got {options.out}"
        )
    if options.out.is_dir() or (options.out.exists() and not options.force):
        raise UsageError(f"{options.out} exists; choose another --out, or replace a file with --force")
    refuse_missing(options.to)
    trained = read(layout, options.source, options)
    print(as_text(trained.architecture))
    for note in trained.notes:
        print(f"note: {note}")
    with draft_beside(options.out, elsewhere=False) as draft:
        agreement = write_graph(draft, trained, options.to, options.tolerance)
        print(f"verification: {agreement}; allowed {options.tolerance:g} of it")
        put_in_place(draft, options.out)
    print(f"wrote {options.out}")
    return 0


def described(options: argparse.Namespace, layout: Layout, trained: Trained) -> tuple[Trained, dict[str, Any] | None]:
    """The model with the names of its classes, and how its images are prepared; what is not known is ``None``.

    Raises:
        UsageError: where the data set cannot be opened, or does not belong to the model.
    """
    from orthostream.hub.export import PREPROCESSOR
    from orthostream.hub.export_preprocessor import preprocessor_of, read_preprocessor

    labels, preprocessor = trained.labels, None
    if options.preprocessor is not None:
        preprocessor = dict(read_preprocessor(options.preprocessor))
    if options.labels is not None:
        labels = _lines(options.labels)
    chosen = None if trained.recipe is None else recipe.from_dict(trained.recipe)
    name = options.data or (chosen.data.name if chosen else None)
    if name is None and preprocessor is None and layout == "hf" and (options.source / PREPROCESSOR).is_file():
        preprocessor = dict(read_preprocessor(options.source / PREPROCESSOR))
    if name is not None and (labels is None or preprocessor is None):
        is_own = chosen is not None and name == chosen.data.name
        description = _description(name, options.data_source, chosen.data if chosen and is_own else None, trained)
        labels = description.classes if labels is None or options.data else labels
        preprocessor = preprocessor or preprocessor_of(description, build.pipeline_of(chosen) if chosen else "vit")
    if labels is not None and len(labels) != trained.architecture.num_classes:
        raise UsageError(
            f"there are {len(labels)} names of classes, and the model has {trained.architecture.num_classes}; "
            "give the data set it was trained on, or --labels FILE with one name a line"
        )
    return replace(trained, labels=labels), preprocessor


def _lines(path: Path) -> tuple[str, ...]:
    try:
        return tuple(path.read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--labels {path} cannot be read: {error}; give a text file with one name a line") from None


def _description(name: str, source: str | None, trained_on: recipe.DataRecipe | None, trained: Trained) -> Description:
    height, width = trained.architecture.image_size
    if height != width:
        raise UsageError(
            f"data sets here have square images and the model takes {height}x{width}; give --preprocessor and --labels"
        )
    try:
        splits = data.load(name, source or (trained_on.source if trained_on else None), height)
    except UsageError as error:
        raise UsageError(
            f"{error}\nThe folder takes names of classes and the transform of evaluation from the data set: give "
            "--data-source PATH, or both --preprocessor FILE and --labels FILE"
        ) from error
    description = splits.description
    if description.channels != trained.architecture.in_channels:
        raise UsageError(
            f"{name} has images of {description.channels} channels, and the model takes "
            f"{trained.architecture.in_channels}; give the --data it was trained on"
        )
    return description


def evidence(options: argparse.Namespace) -> Comparison | None:
    """The runs whose numbers are shown: those given, or else the source itself where it is a finished run.

    Raises:
        UsageError: where a given run cannot be read, or none is finished.
    """
    if options.runs is None:
        if not (options.source / "result.json").is_file():
            return None
        own = read_run(options.source)
        return Comparison({own.label: {own.seed: own}})
    found = read_runs(folder for root in options.runs for folder in find_runs(root))
    if found.unreadable:
        folder, reason = next(iter(found.unreadable.items()))
        raise UsageError(f"{folder} cannot be read: {reason}; a card shows all runs or none")
    comparison = Comparison(grouped(found.read))
    if not comparison.measures:
        raise UsageError(f"none of the runs in {', '.join(map(str, options.runs))} is finished; leave out --runs")
    return comparison
