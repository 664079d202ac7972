"""The authors' command line becomes a recipe, and the name of a run."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from orthostream.authors.flags import FLAGS
from orthostream.authors.groups import GROUPS, PATCH_SIZES, Group
from orthostream.authors.request import Request, read_request
from orthostream.errors import UsageError
from orthostream.recipe import Recipe, Resolved, Tables
from orthostream.recipe.given import Given, from_python
from orthostream.recipe.load import override_layers
from orthostream.recipe.resolve import resolve
from orthostream.recipe.save import flat

AUTHORS_DEFAULT = Given(None, "default of train_classifier.py", is_default=True)

REFUSED = {
    ("dataset", "imagenet1k-latents"): "the authors' program has no code for it; use imagenet1k",
    ("dataset", "tiny-imagenet-randaug"): "it crashes in the authors' program; use tiny-imagenet, with randaugment_N",
    ("torch_compile_backend", "aot_ts"): "TorchScript is deprecated in torch; use inductor or aot_eager",
}


@dataclass(frozen=True)
class Translation:
    """What the authors' command line asks for.

    Args:
        resolved: the recipe, with the source of each value; its notes say where a flag's meaning needed a decision.
        run_name: such as ``vit-S/4_orthogonal_feature_cifar10_seed42``.
        results_dir: parent of numbered run folders.
        run_dir: the run folder itself, where it was given.
        resume: go on with the run in ``run_dir``.
        overwrite: delete the run in ``run_dir`` first.
        debug: log everything.
    """

    resolved: Resolved
    run_name: str
    results_dir: Path
    run_dir: Path | None
    resume: bool
    overwrite: bool
    debug: bool

    def folder(self, index: int) -> Path:
        """The run folder of a number: ``results-classifier/000-vit-S-4_orthogonal_feature_cifar10_seed42``."""
        return self.results_dir / f"{index:03d}-{self.run_name.replace('/', '-')}"

    def new_folder(self) -> Path:
        """Make the next run folder; its number is that of the entries there, as in the authors' program."""
        self.results_dir.mkdir(parents=True, exist_ok=True)
        index = len(list(self.results_dir.iterdir()))
        while True:
            try:
                self.folder(index).mkdir()
            except FileExistsError:
                # Another run took it between counting and making.
                index += 1
            else:
                return self.folder(index)


def translate(argv: Sequence[str], tables: Tables | None = None) -> Translation:
    """Read the authors' flags.

    Values come from the file that ``--config_file`` names, then from flags, then from ``field=value``. Where the file
    is flat or there is none, flags that are not given have the defaults of the authors' program; a file in the
    layout of a recipe has its own, and flags change what they name.

    Args:
        argv: the arguments, without the name of the program.
        tables: as for :func:`orthostream.recipe.load`.

    Raises:
        UsageError: for what is unknown, of a wrong type, out of range, contradictory, or not supported.
    """
    request = read_request(argv)
    _refuse_unsupported(request)
    layers = request.layers or []
    if request.layers is None:
        values = {name: flag.default for name, flag in FLAGS.items()} | dict(request.values)
        changes, notes = _all_fields(request, values)
    else:
        standing = resolve(layers, tables).recipe
        values = _values_of(standing) | dict(request.values)
        changes, notes = _changed_fields(request, values, standing)
    resolved = resolve([*layers, *_layer(changes), *override_layers(request.overrides)], tables)
    notes = [*request.notes, *notes, *_remarks(request)]
    return Translation(
        resolved=replace(resolved, notes=(*notes, *resolved.notes)),
        run_name=run_name(values, resolved.recipe),
        results_dir=Path(values["results_dir"]),
        run_dir=None if values["run_dir"] is None else Path(values["run_dir"]),
        resume=values["resume"],
        overwrite=values["overwrite"],
        debug=values["debug"],
    )


def run_name(values: Mapping[str, Any], recipe: Recipe) -> str:
    """``{model}-{preset}/{patch}_{linear|orthogonal}_{method}_{dataset}_seed{seed}``, as in the authors' program.

    Args:
        values: of all flags.
        recipe: what they mean; a model or connection that they cannot name goes by its own name.
    """
    model, connection = recipe.model, recipe.connection
    is_theirs = model.name in (f"vit_{values['preset'].lower()}", f"preact_{values['model']}")
    patch = model.options.get("patch_size", PATCH_SIZES.get(recipe.data.name, "auto"))
    first = f"{values['model']}-{values['preset']}/{patch}" if is_theirs else model.name
    if connection.name == "orthogonal" or connection.options.get("base") == "orthogonal":
        rule = "orthogonal_feature" if connection.options.get("dim") is None else "orthogonal_global"
    elif connection.name == "negative":
        rule = "linear_negative"
    elif connection.name == "linear" or "base" in connection.options:
        rule = "linear_linear"
    else:
        rule = f"{connection.name}_{connection.name}"
    return f"{first}_{rule}_{recipe.data.name}_seed{recipe.seed}"


def _refuse_unsupported(request: Request) -> None:
    for (flag, value), reason in REFUSED.items():
        if request.values.get(flag) == value:
            raise UsageError(f"{request.given[flag].source}: {flag} {value} is not supported: {reason}")
    if (request.values.get("resume") or request.values.get("overwrite")) and not request.values.get("run_dir"):
        raise UsageError("--resume and --overwrite need the run folder: add --run_dir")


Fields = dict[str, tuple[Any, Given]]


def _all_fields(request: Request, values: Mapping[str, Any]) -> tuple[Fields, list[str]]:
    """Everything that the flags mean: those given, and the authors' defaults of the rest."""
    fields: Fields = {}
    for name, flag in FLAGS.items():
        if flag.place is not None:
            fields[flag.place] = (flag.words.get(values[name], values[name]), _giver(request, [name]))
    notes: list[str] = []
    for group in GROUPS:
        meaning = group.meaning(values, request.given.keys())
        notes += meaning.notes
        for place, value in meaning.fields.items():
            fields[place] = (value, _giver(request, group.places[place]))
    return fields, notes


def _changed_fields(request: Request, values: Mapping[str, Any], standing: Recipe) -> tuple[Fields, list[str]]:
    """What the flags of the command line change of a recipe."""
    fields: Fields = {}
    for name in sorted(request.typed):
        flag = FLAGS[name]
        if flag.place is not None:
            fields[flag.place] = (flag.words.get(values[name], values[name]), request.given[name])
    notes: list[str] = []
    present = flat(standing)
    for group in GROUPS:
        if not _is_touched(group, request, standing):
            continue
        meaning = group.meaning(values, request.typed)
        notes += meaning.notes
        nulls = {place: None for place in group.exclusive if present.get(place) is not None}
        for place, value in {**nulls, **meaning.fields}.items():
            deciding = group.places[place] if place in meaning.fields else (*group.places[place], *group.choosing)
            if request.typed & set(deciding) and present.get(place) != value:
                fields[place] = (value, _giver(request, deciding))
    return fields, notes


def _is_touched(group: Group, request: Request, standing: Recipe) -> bool:
    """Whether flags of the command line change a group.

    Raises:
        UsageError: where they would change a part of a recipe that has no counterpart among the flags.
    """
    touching = request.typed & group.flags
    if not touching or group.flags_of(standing) is not None or touching & set(group.choosing):
        return bool(touching)
    # The model and the data set are flags of their own, and only touch other groups in passing.
    if own := sorted(touching - {"model", "dataset"}):
        raise UsageError(
            f"{', '.join(own)} cannot change the model {standing.model.name!r} with the connection "
            f"{standing.connection.name!r} of this recipe, which the authors' program does not have; change it by "
            "field=value, such as connection.eps=1e-5"
        )
    return False


def _values_of(recipe: Recipe) -> dict[str, Any]:
    """Flags that mean a recipe; the authors' defaults where there are none."""
    values = {name: flag.default for name, flag in FLAGS.items()}
    present = flat(recipe)
    for name, flag in FLAGS.items():
        if flag.place is not None:
            words = {ours: theirs for theirs, ours in flag.words.items()}
            values[name] = words.get(present[flag.place], present[flag.place])
    for group in GROUPS:
        values |= group.flags_of(recipe) or {}
    return values


def _giver(request: Request, flags: Iterable[str]) -> Given:
    """Where the first of these flags was given, the command line before the file."""
    given = [request.given[name] for name in flags if name in request.given]
    typed = [request.given[name] for name in flags if name in request.typed]
    return next(iter([*typed, *given]), AUTHORS_DEFAULT)


def _layer(fields: Fields) -> list[Given]:
    sections: dict[str, Any] = {}
    for place, (value, giver) in fields.items():
        given = replace(from_python(value, giver.origin), line=giver.line, is_default=giver.is_default)
        section, _, name = place.partition(".")
        if name:
            sections.setdefault(section, Given({}, giver.origin)).value[name] = given
        else:
            sections[section] = given
    return [Given(sections, AUTHORS_DEFAULT.origin)] if sections else []


def _remarks(request: Request) -> Iterator[str]:
    """Flags whose meaning needed a decision, whatever the others say."""
    values = request.values
    if values.get("gradient_checkpointing") == "unsloth":
        yield "gradient_checkpointing unsloth: each block is computed again by torch's own checkpointing"
    if values.get("orthogonal_perturbation") is not None:
        yield "orthogonal_perturbation is added in training only; the authors' program adds it in evaluations too"
    if "max_train_steps" in values:
        steps = values["max_train_steps"]
        yield f"max_train_steps: {steps} optimizer steps and no more; the authors' program takes one more"
    if "save_every_steps" in request.typed:
        yield "save_every_steps: of these checkpoints the newest two stay, and the best; see checkpoint.keep"
