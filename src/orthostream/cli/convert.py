"""Convert a ViT between layouts of checkpoints; logits of both sides are compared before anything is written.

Read are run folders and checkpoints of orthostream, .pt files of the authors' program, Hugging Face folders of type
ortho_vit, and timm's folders or .safetensors files; which one it is, is seen from the files. Nothing in them is run.

layouts of --to:
  hf        config.json and model.safetensors under the published names, for orthostream.hub and the Auto classes
  timm      config.json and model.safetensors for timm.create_model("local-dir:FOLDER", pretrained=True)
  training  a checkpoint folder that orthostream evaluate takes
  authors   a .pt file as the authors' program writes it

A run of a language model becomes --to hf alone: config, weights and a tokenizer by characters, for
AutoModelForCausalLM, AutoTokenizer and pipeline("text-generation") once orthostream.hub is imported.

example:
  orthostream convert runs/vit_b --best --to hf --out vit_b-hf
  orthostream convert 0090000.pt --to hf --out ortho-vit-b
  orthostream convert vit_small.safetensors --num-heads 6 --activation gelu_tanh --to training --out vit_small
"""

import argparse
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

from orthostream import build, recipe
from orthostream.cli.evaluate import located
from orthostream.errors import UsageError
from orthostream.layouts import NAMES, Layout, detect, ortho_vit, timm_vit
from orthostream.layouts.architecture import Architecture, Overrides, Trained
from orthostream.layouts.authors_file import read_file, write_file
from orthostream.layouts.model_folder import read_folder, read_tensors, write_folder
from orthostream.layouts.run_checkpoint import trained_of, write_checkpoint
from orthostream.layouts.verify import TOLERANCE, compare, forward_of
from orthostream.recipe import Recipe
from orthostream.training.checkpoint import Checkpoint, flush_folder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``orthostream convert``."""
    parser.add_argument("source", metavar="SOURCE", type=Path, help="what to convert; its layout is detected")
    parser.add_argument("--to", required=True, choices=get_args(Layout), help="the layout that is wanted")
    parser.add_argument("--out", required=True, type=Path, metavar="PATH", help="what to write; must not exist")
    parser.add_argument("--best", action="store_true", help="of a run folder: its best checkpoint, not its newest")
    parser.add_argument("--average", action="store_true", help="the averaged weights of a checkpoint")
    parser.add_argument(
        "--image-size",
        type=int,
        nargs="+",
        metavar="PIXELS",
        help="height and width, where images are no square",
    )
    parser.add_argument("--num-heads", type=int, help="attention heads, where neither a file nor a preset says them")
    parser.add_argument(
        "--activation", choices=[timm_vit.ACTIVATION], help="of bare timm weights: the tanh form of GELU"
    )
    parser.add_argument(
        "--weights-only",
        action="store_true",
        help="to timm: even where the connection is not its plain sum",
    )
    parser.add_argument(
        "--tolerance", type=float, default=TOLERANCE, help="largest difference allowed, in units of the largest logit"
    )
    parser.add_argument("--no-verify", action="store_true", help="write without comparing logits")
    parser.add_argument("--force", action="store_true", help="replace what stands at --out, if it is of that layout")
    parser.add_argument("--dry-run", action="store_true", help="convert and compare, and leave nothing behind")


def run(options: argparse.Namespace) -> int:
    """Carry out ``orthostream convert``."""
    source, out, target = options.source, options.out, options.to
    layout = detect(source)
    print(f"{source}: {NAMES[layout]}")
    check_out(source, out, target, options.force)
    if layout == "training" and (run := language_run(options)):
        # Here and not above: a ViT is converted without transformers.
        from orthostream.cli.convert_language import convert_language

        return convert_language(options, *run)
    trained = read(layout, source, options)
    print(as_text(trained.architecture))
    with draft_beside(out, elsewhere=options.dry_run) as draft:
        notes = [*trained.notes, *write(target, draft, trained, weights_only=options.weights_only)]
        for note in notes:
            print(f"note: {note}")
        print(f"verification: {verified(options, layout, trained, draft)}")
        if options.dry_run:
            print(f"dry run: {NAMES[target]} was not written to {out}")
            return 0
        put_in_place(draft, out)
    print(f"wrote {NAMES[target]}: {out}")
    return 0


def language_run(options: argparse.Namespace) -> tuple[Checkpoint, Recipe] | None:
    """Checkpoint and recipe where the source is a run of a language model; None where it is one of images.

    Raises:
        UsageError: where it is no valid checkpoint.
    """
    saved = located(options.source, options.best)
    chosen = recipe.from_dict(saved.manifest["recipe"])
    return (saved, chosen) if build.is_language_model(chosen.model.name) else None


def read(layout: Layout, source: Path, options: argparse.Namespace) -> Trained:
    """A source of any layout.

    Raises:
        UsageError: where it cannot be read, or an option does not fit it.
    """
    overrides = Overrides(
        image_size=image_size(options.image_size), num_heads=options.num_heads, activation=options.activation
    )
    if layout == "training":
        overrides.refuse("a checkpoint of orthostream", "image_size", "num_heads", "activation")
        return trained_of(located(source, options.best), average=options.average)
    if options.best or options.average:
        raise UsageError(f"--best and --average choose among the weights of a run of orthostream, and {source} is none")
    if layout == "authors":
        return read_file(source, overrides)
    if layout == "timm":
        state, config = (read_tensors(source), None) if source.is_file() else read_folder(source)
        return timm_vit.from_timm(state, config, overrides)
    overrides.refuse("config.json", "image_size", "num_heads", "activation")
    return ortho_vit.from_hub(*read_folder(source))


def write(layout: Layout, path: Path, trained: Trained, *, weights_only: bool = False) -> tuple[str, ...]:
    """Write a model in any layout to a path that does not exist.

    Returns:
        Notes on what the layout cannot say.

    Raises:
        UsageError: where the layout has no place for it.
    """
    if weights_only and layout != "timm":
        raise UsageError(f"--weights-only belongs to --to timm; {layout} carries the connection")
    if layout == "training":
        return write_checkpoint(path, trained)
    if layout == "authors":
        return write_file(path, trained)
    if layout == "timm":
        state = timm_vit.to_timm(trained.weights, trained.architecture, weights_only=weights_only)
        write_folder(path, state, timm_vit.config_of(trained.architecture))
        return timm_vit.remarks(trained.architecture)
    dtype = trained.weights["pos_embed"].dtype
    config = ortho_vit.config_of(trained.architecture, trained.labels, dtype)
    write_folder(path, ortho_vit.to_hub(trained.weights, trained.architecture), config)
    return ()


def verified(options: argparse.Namespace, layout: Layout, trained: Trained, draft: Path) -> str:
    """What the comparison of both models found; the draft is read back from disk for it.

    Raises:
        UsageError: where they differ by more than rounding.
    """
    if options.no_verify:
        return "left out, as asked for; whether the logits agree is not known"
    if options.weights_only and any(name != "linear" for name, _ in trained.architecture.rules):
        return "left out: timm does not compute this connection, the weights alone were converted"
    target, architecture = options.to, trained.architecture
    again = argparse.Namespace(image_size=None, num_heads=None, activation=None, best=False, average=False)
    if target == "authors":
        again.image_size, again.num_heads = list(architecture.image_size), architecture.num_heads
    reread = read(target, draft, again)
    agreement = compare(forward_of(layout, options.source, trained), forward_of(target, draft, reread), architecture)
    agreement.check(options.tolerance)
    return f"{agreement}; allowed {options.tolerance:g} of it"


def check_out(source: Path, out: Path, target: Layout, force: bool) -> None:
    """Refuse an output that would destroy something.

    Raises:
        UsageError: where it exists and may not be replaced, or lies where the source is read.
    """
    if target == "authors" and out.suffix not in (".pt", ".pth"):
        raise UsageError(f"--to authors writes one file; give --out a name that ends in .pt, got {out}")
    if out.resolve() == source.resolve() or out.resolve() in source.resolve().parents:
        raise UsageError(f"--out {out} is or holds the source {source}; choose another place")
    if not out.exists():
        return
    if not force:
        raise UsageError(f"{out} exists; choose another --out, or replace it with --force")
    try:
        found = detect(out)
    except UsageError:
        found = None
    if found != target or (out / "checkpoints").exists():
        what = "a run folder" if (out / "checkpoints").exists() else NAMES[found] if found else "something else"
        raise UsageError(f"{out} is {what}, and --force replaces only {NAMES[target]}; choose another --out")


@contextmanager
def draft_beside(out: Path, *, elsewhere: bool) -> Iterator[Path]:
    """A path to write to, in a folder that is gone afterwards; beside ``out``, so that a rename can end the work."""
    if not elsewhere:
        out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.tmp-", dir=None if elsewhere else out.parent))
    try:
        yield folder / out.name
    except OSError as error:
        raise UsageError(f"{out} cannot be written: {error}; nothing was changed") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def put_in_place(draft: Path, out: Path) -> None:
    """Rename a finished draft; what stood there goes into the draft's folder, which is deleted last."""
    if out.is_dir():
        out.rename(draft.parent / "replaced")
    draft.replace(out)
    flush_folder(out.parent)


def image_size(given: list[int] | None) -> tuple[int, int] | None:
    """(height, width) from one number or two.

    Raises:
        UsageError: for more.
    """
    if given is None:
        return None
    if len(given) > 2:
        raise UsageError(f"--image-size is one side in pixels, or height and width, got {given}")
    return given[0], given[-1]


def as_text(architecture: Architecture) -> str:
    """The architecture in one line."""
    height, width = architecture.image_size
    rules = sorted({name for name, _ in architecture.rules})
    return (
        f"ViT: width {architecture.embed_dim}, {architecture.depth} blocks, {architecture.num_heads} heads, MLP "
        f"{architecture.hidden_features}, images {height}x{width}x{architecture.in_channels}, patches "
        f"{architecture.patch_size}, {architecture.num_classes} classes, connection {', '.join(rules)}"
    )
