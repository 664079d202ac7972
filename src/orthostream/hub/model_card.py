"""The model card of an exported folder: what the model is, how it was trained, what it reached, how it is loaded."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from orthostream import __version__, connections, recipe
from orthostream.analysis.compare import Comparison
from orthostream.analysis.runs import Run, decisive_fields
from orthostream.errors import UsageError
from orthostream.layouts.architecture import Trained

TO_FILL = "FILL IN BEFORE PUBLISHING"

CHOSEN = {"best": "the checkpoint with the best top-1 of its run", "average": "averaged over steps"}

# Of a recipe, what says something about a person's machine and nothing about the model.
PRIVATE = ("data.source",)

# Sections in which the recipe of a run must be that of the weights for its numbers to be theirs, and of these the
# fields that say where and how fast it was computed.
SHARED = ("model", "connection", "data")
FREE = (*PRIVATE, "data.workers", "data.eval_batch_size", "model.gradient_checkpointing", "model.channels_last")


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a card is made of.

    Args:
        title: name of the model.
        trained: the model.
        chosen: of ``best`` and ``average``, what was asked for among the weights of a run.
        preprocessor: how images are prepared; ``None`` where that is not known.
        evidence: runs whose numbers are shown.
        licence: identifier of the weights' licence; ``None`` leaves a marker.
        remote_refusal: why the folder holds no code for use without orthostream; ``None`` where it does.

    Raises:
        UsageError: where the evidence is of another model than this one, naming the fields that differ.
    """

    title: str
    trained: Trained
    chosen: tuple[str, ...] = ()
    preprocessor: Mapping[str, Any] | None = None
    evidence: Comparison | None = None
    licence: str | None = None
    remote_refusal: str | None = None

    def __post_init__(self) -> None:
        if self.evidence is not None and self.trained.recipe is not None:
            for run in self.evidence.runs:
                check_belongs(run, self.trained.recipe)

    @property
    def is_evidence_checked(self) -> bool:
        """Whether the runs could be compared with how the weights were trained."""
        return self.trained.recipe is not None

    def __str__(self) -> str:
        sections = [self._front, self._model, self._loading, self._golden, self._images, self._numbers, self._recipe]
        return "\n".join(line for section in [*sections, self._licence] for line in [*section(), ""])

    def _front(self) -> Iterator[str]:
        yield "---"
        # Quoted as JSON, which is YAML: a licence or a name cannot end the field.
        if self.licence is None:
            yield f"# license: {TO_FILL}"
        else:
            yield f"license: {json.dumps(self.licence)}"
        yield "library_name: transformers"
        yield "pipeline_tag: image-classification"
        yield "tags:"
        yield "- ortho_vit"
        yield "- residual-connections"
        if self.remote_refusal is None:
            yield "- custom_code"
        yield "---"

    def _model(self) -> Iterator[str]:
        built, (name, options) = self.trained.architecture, self.trained.architecture.rules[0]
        entry = connections.table[name]
        said = f" with {_code(options)}" if options else ""
        height, width = built.image_size
        yield f"# {_line(self.title)}"
        yield ""
        yield (
            f"A vision transformer for {built.num_classes} classes whose residual connection is `{name}`{said}: "
            f"{entry.summary}{f' ({entry.reference})' if entry.reference else ''}."
        )
        if name == "orthogonal":
            yield ""
            yield (
                "Of the update `u` of each branch, the part parallel to the stream `x` is left out: "
                "`y = x + u - s x` with `s = <x, u> / (<x, x> + eps)` (Oh et al., Orthogonal Residual Updates, "
                "NeurIPS 2025, arXiv:2505.11881)."
            )
        yield ""
        yield (
            f"Width {built.embed_dim}, {built.depth} blocks, {built.num_heads} heads, MLP {built.hidden_features}, "
            f"images {height} x {width} with {built.in_channels} channels, patches of {built.patch_size} pixels, "
            f"{sum(tensor.numel() for tensor in self.trained.weights.values()):,} parameters."
        )
        if self.trained.step:
            which = f" ({', '.join(CHOSEN[word] for word in self.chosen)})" if self.chosen else ""
            yield f"Weights after {self.trained.step:,} optimizer steps, {self.trained.epoch} epochs{which}."
        for note in self.trained.notes:
            yield f"Note: {_line(note)}."

    def _loading(self) -> Iterator[str]:
        yield "## Loading"
        yield ""
        yield "With orthostream (`pip install 'orthostream[hub]'`), no code of this folder is run:"
        yield ""
        yield from _loading_code("import orthostream.hub  # makes the model type known", "")
        yield ""
        if self.remote_refusal is not None:
            yield f"Without orthostream this model cannot be loaded: {_line(self.remote_refusal)}"
            return
        yield "Without orthostream, by the two Python files in this folder, which need torch and transformers alone:"
        yield ""
        yield from _loading_code("", ", trust_remote_code=True")

    def _golden(self) -> Iterator[str]:
        yield "## Check"
        yield ""
        yield (
            "`golden.safetensors` holds random `pixel_values` and the `logits` that the trained model computed for "
            "them in float32 on a CPU. A loaded model must return them to rounding:"
        )
        yield ""
        yield "```python"
        yield "from safetensors.torch import load_file"
        yield ""
        yield 'golden = load_file("FOLDER/golden.safetensors")'
        yield 'print((model(golden["pixel_values"]).logits - golden["logits"]).abs().max())'
        yield "```"

    def _images(self) -> Iterator[str]:
        yield "## Images"
        yield ""
        if self.preprocessor is None:
            yield f"**{TO_FILL}**: how images are prepared is not known; add a `preprocessor_config.json`."
            return
        yield (
            "`preprocessor_config.json` is the transform of evaluation. Pillow resizes as evaluation did: "
            '`AutoImageProcessor.from_pretrained("FOLDER", backend="pil")`. Resized tensors, the default of '
            "transformers 5, differ from it by up to one of 255 levels."
        )
        yield ""
        if self.trained.architecture.in_channels != 3:
            yield (
                'The pipeline "image-classification" of transformers turns every image into RGB, which this model does '
                "not take; call the image processor and the model."
            )
            yield ""
        yield "```json"
        yield json.dumps(self.preprocessor, indent=2)
        yield "```"

    def _numbers(self) -> Iterator[str]:
        yield "## Numbers"
        yield ""
        if self.evidence is None:
            yield f"**{TO_FILL}**: no run with results was given; none is claimed."
            return
        yield (
            "Of the runs below, as they were trained; mean and standard deviation (n - 1) over seeds, where there is "
            "more than one. The weights in this folder are of one run."
        )
        if not self.is_evidence_checked:
            yield (
                "That these runs are of this model is the word of whoever exported it: its source holds no recipe to "
                "compare with theirs."
            )
        yield ""
        yield "| measure | setting | seeds | value | unit | each seed |"
        yield "| --- | --- | --- | --- | --- | --- |"
        for measure in self.evidence.measures:
            for label in self.evidence.labels:
                spread = self.evidence.spread(label, measure)
                cells = (measure.title, label, str(spread.n), str(spread), measure.unit, spread.seeds_text)
                yield f"| {' | '.join(_cell(cell) for cell in cells)} |"
        yield ""
        counts = sorted({run.epochs[-1].get("val/n", 0) for run in self.evidence.runs if run.epochs})
        yield f"Each accuracy is over {' or '.join(f'{count:,}' for count in counts)} evaluated images."
        for cell in self.evidence.missing:
            yield f"Missing: {_cell(cell.label)} seed {cell.seed}: not finished."

    def _recipe(self) -> Iterator[str]:
        yield "## Recipe"
        yield ""
        if self.trained.recipe is None:
            yield f"**{TO_FILL}**: the source of this folder does not say how the model was trained."
            return
        yield f"Trained with orthostream; this folder was written by version {__version__}."
        yield ""
        yield "```yaml"
        for name, value in decisive_fields(self.trained.recipe).items():
            if name not in PRIVATE:
                yield f"{name}: {json.dumps(value)}"
        yield f"seed: {self.trained.recipe.get('seed')}"
        yield "```"

    def _licence(self) -> Iterator[str]:
        yield "## Licence"
        yield ""
        if self.licence is None:
            yield f"**{TO_FILL}**: the licence of these weights, here and as `license` at the top of this file."
        else:
            yield f"The weights are under `{_line(self.licence)}`."


def check_belongs(run: Run, trained: Mapping[str, Any]) -> None:
    """Refuse a run as evidence for weights of another model, connection or data set; seeds may differ.

    Args:
        run: whose numbers would be shown.
        trained: the recipe that the weights were trained by.

    Raises:
        UsageError: naming the fields that differ, with the value of the weights first.
    """
    # Not `run.recipe`, which a plain YAML reader made: to it 1e-08 is a text.
    changed = recipe.differences(recipe.from_dict(trained), recipe.load(run.folder / "recipe.yaml").recipe)
    differing = [
        line for line in changed if line.startswith(tuple(f"{each}." for each in SHARED)) and _field(line) not in FREE
    ]
    if differing:
        raise UsageError(
            f"the run {run.folder} is of another recipe than these weights ({'; '.join(differing)}), and its numbers "
            "are not theirs; give runs of the same model, connection and data, whatever their seeds"
        )


def _field(line: str) -> str:
    return line.partition(":")[0]


def _loading_code(first: str, options: str) -> Iterator[str]:
    yield "```python"
    if first:
        yield first
    yield "from transformers import AutoModelForImageClassification"
    yield ""
    yield f'model = AutoModelForImageClassification.from_pretrained("FOLDER"{options})'
    yield "```"


def _line(text: str) -> str:
    return " ".join(text.split())


def _cell(text: str) -> str:
    return _line(text).replace("|", "\\|")


def _code(options: Mapping[str, Any]) -> str:
    return ", ".join(f"`{name}={value}`" for name, value in options.items())
