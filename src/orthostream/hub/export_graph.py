"""A ViT as one graph: a program of ``torch.export``, or a file of ONNX. Both take a batch of any size.

Which one it is, is a pair of functions: one writes a file, the other reads it back as a function of images, by the
library that will run it. The pair is what a comparison of logits needs.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import torch
from torch.export import Dim, ExportedProgram

from orthostream.errors import UsageError
from orthostream.layouts.architecture import Trained
from orthostream.layouts.verify import TOLERANCE, Agreement, Forward, compare

Form: TypeAlias = Literal["onnx", "torch_export"]

# The newest operators that runtimes of two years have.
ONNX_OPSET = 18


@dataclass(frozen=True)
class Graph:
    """A form of graph.

    Args:
        suffix: of its files.
        needs: packages beside torch.
        write: a traced model to a path.
        read: path to a function of images.
    """

    suffix: str
    needs: tuple[str, ...]
    write: Callable[[ExportedProgram, Path], None]
    read: Callable[[Path], Forward]


def write_graph(path: Path, trained: Trained, form: Form, tolerance: float = TOLERANCE) -> Agreement:
    """Write a graph, read it back and compare its logits on another batch size with those of the model.

    Args:
        path: of the file, which does not exist.
        trained: the model; it is written in float32 and evaluation.
        form: which graph.
        tolerance: largest difference, in units of the largest logit.

    Returns:
        How far the two are from each other.

    Raises:
        UsageError: where a package is missing, or the two differ by more.
    """
    graph = GRAPHS[form]
    refuse_missing(form)
    graph.write(_traced(trained), path)
    agreement = compare(trained.model(), graph.read(path), trained.architecture)
    agreement.check(tolerance)
    return agreement


def refuse_missing(form: Form) -> None:
    """Refuse a form whose packages are not installed, before anything is computed.

    Raises:
        UsageError: naming what to install.
    """
    missing = []
    for package in GRAPHS[form].needs:
        try:
            importlib.import_module(package)
        except ImportError:
            missing.append(package)
    if missing:
        raise UsageError(
            f"--to {form} writes and compares with {', '.join(GRAPHS[form].needs)}, and {', '.join(missing)} cannot be "
            f"imported; install with: pip install {' '.join(missing)}"
        )


def _traced(trained: Trained) -> ExportedProgram:
    built = trained.architecture
    # Two images: a batch of one is taken for a constant. Strict: otherwise len() of a tensor is one too.
    images = torch.zeros(2, built.in_channels, *built.image_size)
    with torch.no_grad():
        return torch.export.export(trained.model(), (images,), dynamic_shapes=({0: Dim("batch")},), strict=True)


def _read_program(path: Path) -> Forward:
    return torch.export.load(path).module()


def _write_onnx(program: ExportedProgram, path: Path) -> None:
    torch.onnx.export(
        program,
        f=path,
        dynamo=True,
        input_names=["images"],
        output_names=["logits"],
        opset_version=ONNX_OPSET,
        external_data=False,
    )


def _read_onnx(path: Path) -> Forward:
    runtime = importlib.import_module("onnxruntime")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])


GRAPHS: dict[Form, Graph] = {
    "torch_export": Graph(".pt2", (), torch.export.save, _read_program),
    "onnx": Graph(".onnx", ("onnx", "onnxscript", "onnxruntime"), _write_onnx, _read_onnx),
}
