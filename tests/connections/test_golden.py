"""Connections against the outputs and gradients of the authors' code, and of float64 evaluations of the formulas.

The sidecars say what each tensor is; the file list of a case stands in them too, so a new case needs no new test.
"""

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from analysis.golden_variants import choice_of
from golden import compare, load
from locations import GOLDEN
from orthostream import connections
from orthostream.connections import Connection, Site
from orthostream.connections.hyper_connections import HyperConnections
from orthostream.ops import forced
from orthostream.ops.orthogonal_update.reference import accumulation_dtype, parallel_coefficient

# One rounding to bfloat16 (8 bits of mantissa) is at most 2^-9 of the value; a factor of two for the rounding of ties.
ONE_ROUNDING = 2.0**-8
# (atol, rtol) against the authors' float32 values, as their sidecar says.
FLOAT32 = (2e-5, 1e-5)
# Where the sidecar does not say by how much the authors' bfloat16 arithmetic is off: twice the largest that it says.
THEIR_ERROR = 0.06


def cases_of(file: str) -> list[Any]:
    cases = json.loads((GOLDEN / f"ortho/connect/{file}.json").read_text())["cases"]
    return [pytest.param(file, case, id=f"{file}-{case}") for case in cases]


def made(case: dict[str, Any], tensors: dict[str, Tensor], layout: str) -> tuple[Connection, dict[str, nn.Parameter]]:
    """The connection of a golden case with the learned values of its sidecar, and these by their golden name."""
    axis, features = (1, tensors["bchw.x"].shape[1]) if layout == "bchw" else (-1, None)
    name, options = choice_of(case, tuple(case.get("reduce_dims", (axis,))))
    connection = connections.create(name, site=Site(axis=axis, features=features), **options)
    ours = {"proj_weight": "rescale_proj.weight"}
    learned = {key: connection.get_parameter(ours.get(key, key)) for key in case.get("params", {})}
    for key, parameter in learned.items():
        value = case["params"][key]
        parameter.data.copy_(tensors[f"{layout}.{key}"] if isinstance(value, str) else torch.tensor(value))
    return connection, learned


@pytest.mark.parametrize(("file", "name"), cases_of("fp32"))
@pytest.mark.parametrize("implementation", ["reference", "blocked", "triton"])
def test_variant_by_every_implementation(file: str, name: str, implementation: Any) -> None:
    """The interpreter does not round bfloat16, so kernels see float32 here and half precision in their own tests."""
    if implementation == "triton" and torch.cuda.is_available():
        pytest.skip("kernels are compiled where a device is, and golden tensors are on the CPU")
    with forced(implementation):
        test_variant(file, name)


@pytest.mark.parametrize(("file", "name"), [case for file in ("fp32", "bf16", "mixed") for case in cases_of(file)])
def test_variant(file: str, name: str) -> None:
    tensors, sidecar = load(f"ortho/connect/{file}")
    case = sidecar["cases"][name]
    connection, learned = made(case, tensors, case["layout"])
    x, f = (tensors[f"{case['layout']}.{key}"].clone().requires_grad_() for key in "xf")
    update = f + case["perturbation"] * tensors[f"{name}.noise"] if "perturbation" in case else f

    stream, note = connection.read(connection.expand(x))
    y = connection.reduce(connection.write(stream, update, note))
    y.backward(tensors[f"{case['layout']}.g"])

    assert y.dtype == x.dtype
    dtype = accumulation_dtype(x, f)
    coefficient = parallel_coefficient(x.to(dtype), f.to(dtype), tuple(case["reduce_dims"]), case["eps"])
    results = {"y": y, "dx": x.grad, "df": f.grad, "s": coefficient}
    results |= {f"d_{key}": value.grad for key, value in learned.items()}
    compared = {key for key in tensors if key.startswith(f"{name}.") and not key.endswith(".noise")}
    for key in sorted(compared):
        result = results[key.removeprefix(f"{name}.").removesuffix("_ref64")]
        assert result is not None
        compare(result, tensors[key], *tolerance(key, result.dtype, case, file), what=key)


def tolerance(key: str, dtype: torch.dtype, case: dict[str, Any], file: str) -> tuple[float, float]:
    """(atol, rtol): float32 arithmetic, the final rounding of ours, and the error of theirs by the sidecar."""
    atol, rtol = FLOAT32
    name = key.rpartition(".")[2].removesuffix("_ref64")
    if dtype == torch.bfloat16:
        rtol = ONE_ROUNDING
    # The update is recovered from a rounded result, so the gradient of the stream carries a second rounding; it must
    # still be closer to float64 than the authors' own.
    if file != "fp32" and (not key.endswith("_ref64") or key.endswith("dx_ref64")):
        atol += case.get("max_abs_err_of_official_vs_float64", {}).get(name, THEIR_ERROR)
    return atol, rtol


@pytest.mark.parametrize("name", ["orthogonal_feature", "linear_rezero_constrained", "linear_rescale_scalar"])
def test_edge_rows(name: str) -> None:
    """Zero, tiny and huge streams; parallel, zero and orthogonal updates: each relative to the maximum of its row."""
    tensors, sidecar = load("ortho/connect/edge")
    method, _, pattern = name.partition("_")
    case = sidecar["cases"][name] | {
        "method": method,
        "pattern": "rescale_stream" if "rescale" in pattern else pattern if "rezero" in pattern else "default",
    }
    connection, _ = made(case, tensors, "btd")
    x, f = (tensors[key].clone().requires_grad_() for key in "xf")
    y = connection.write(x, f)
    y.backward(tensors["g"])
    for key, result in {"y": y, "dx": x.grad, "df": f.grad}.items():
        for golden in (f"{name}.{key}", f"{name}.{key}_ref64"):
            scale = tensors[golden].abs().amax(-1, keepdim=True).clamp_min(1e-30)
            compare(result / scale, tensors[golden] / scale, 1e-5, 0, what=golden, file="ortho/connect/edge")


def test_orthogonal_in_float64() -> None:
    tensors, sidecar = load("residual/orthogonal")
    stream, update = (tensors[f"input/{key}"].requires_grad_() for key in ("stream", "branch_output"))
    loss = torch.zeros((), dtype=torch.float64)
    for name, dim in {"feature": None, "global_from_last": -1, "global_from_1": (1, 2)}.items():
        connection = connections.create("orthogonal", dim=dim, eps=sidecar["hyper_parameters"]["eps"])
        result = connection.write(stream, update)
        compare(result, tensors[f"output/stream_{name}"], 1e-12, 1e-9, what=name)
        loss = loss + (result * tensors[f"weight/stream_{name}"]).sum()
    loss.backward()
    compare(loss.reshape(1), tensors["grad/loss"], 1e-12, 1e-9, what="loss")
    for key, leaf in {"stream": stream, "branch_output": update}.items():
        compare(leaf.grad, tensors[f"grad/input/{key}"], 1e-12, 1e-9, what=key)


def test_rezero_in_a_transformer_layer() -> None:
    """The layer of the reference code: attention and GELU MLP without norms, one scalar for both sites."""
    tensors, _ = load("residual/rezero")
    connection = connections.create("rezero").double()
    assert torch.equal(connection.alpha.detach(), tensors["init/resweight"])
    layer = nn.ModuleDict(
        {
            "self_attn": nn.MultiheadAttention(8, 1),
            "linear1": nn.Linear(8, 8),
            "linear2": nn.Linear(8, 8),
        }
    ).double()
    state = {key.removeprefix("param/"): value for key, value in tensors.items() if key.startswith("param/")}
    connection.load_state_dict({"alpha": state.pop("resweight")})
    layer.load_state_dict(state)

    x = tensors["input/x"].requires_grad_()
    attention = layer["self_attn"](x, x, x, need_weights=False)[0]
    first = connection.write(x, attention)
    mlp = layer["linear2"](nn.functional.gelu(layer["linear1"](first)))
    stream = connection.write(first, mlp)
    results = {"attention_branch": attention, "after_first_write": first, "mlp_branch": mlp, "stream": stream}
    for key, result in results.items():
        compare(result, tensors[f"output/{key}"], 1e-12, 1e-9, what=key)

    (stream * tensors["weight/stream"]).sum().backward()
    gradients = {"input/x": x.grad, "param/resweight": connection.alpha.grad}
    gradients |= {f"param/{key}": parameter.grad for key, parameter in layer.named_parameters()}
    for key, gradient in gradients.items():
        compare(gradient, tensors[f"grad/{key}"], 1e-12, 1e-9, what=key)


HYPER = ["hyper_connections", "hyper_connections_no_tanh", "hyper_connections_layernorm"]
# (atol relative to the largest value, rtol): float64 differs by the order of sums, float32 by its rounding.
PRECISIONS = [
    pytest.param(torch.float64, (1e-13, 1e-9), id="float64"),
    pytest.param(torch.float32, (2e-5, 0), id="float32"),
]


def hyper(file: str, sidecar: dict[str, Any], index: int, dtype: torch.dtype) -> HyperConnections:
    parameters = sidecar["hyper_parameters"]
    connection = connections.create(
        "hyper_connections",
        site=Site(features=parameters["dim"], index=index),
        streams=parameters["streams"],
        tanh=parameters["tanh"],
        norm="layer" if file.endswith("layernorm") else "rms",
    )
    assert isinstance(connection, HyperConnections)
    return connection.to(dtype)


def our_keys(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Golden parameters by our names: no 0-dim tensors, and the gain as its distance from one."""
    found = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    if "norm_weight" in found:
        found["norm_gamma"] = found.pop("norm_weight") - float("grad" not in prefix)
    return {key.replace(".", "_"): value if value.ndim else value.reshape(1) for key, value in found.items()}


def close(actual: Tensor, expected: Tensor, tolerances: tuple[float, float], what: str, file: str) -> None:
    atol, rtol = tolerances
    compare(actual, expected, atol * float(expected.abs().max()), rtol, what=what, file=f"residual/{file}")


@pytest.mark.parametrize("file", HYPER[:2])
def test_hyper_connections_start_as_the_reference_code(file: str) -> None:
    tensors, sidecar = load(f"residual/{file}")
    connection = hyper(file, sidecar, sidecar["hyper_parameters"]["layer_index"], torch.float64)
    state = connection.state_dict()
    golden = our_keys(tensors, "init/")
    weights = connection.coefficients(tensors["input/stream"])
    state |= {"H_pre": weights.read, "H_res": weights.mixing, "H_post": weights.write}
    assert state.keys() == golden.keys()
    for key, value in golden.items():
        # The scales are 0.01 as a float32 number in both.
        compare(state[key], value, 1e-8, 0, what=key, file=f"residual/{file}")


@pytest.mark.parametrize(("dtype", "tolerances"), PRECISIONS)
@pytest.mark.parametrize("file", HYPER)
def test_hyper_connections_site(file: str, dtype: torch.dtype, tolerances: tuple[float, float]) -> None:
    tensors, sidecar = load(f"residual/{file}")
    connection = hyper(file, sidecar, sidecar["hyper_parameters"]["layer_index"], dtype)
    connection.load_state_dict(our_keys(tensors, "param/"))
    stream, update = (tensors[f"input/{key}"].to(dtype).requires_grad_() for key in ("stream", "branch_output"))

    weights = connection.coefficients(stream)
    branch_input, note = connection.read(stream)
    written = connection.write(stream, update, note)
    results = {
        "coef/H_pre": weights.read,
        "coef/H_res": weights.mixing,
        "coef/H_post": note.write,
        "output/branch_input": branch_input,
        "output/mixed_stream": connection.write(stream, torch.zeros_like(update), note),
        "output/stream": written,
    }
    for key, result in results.items():
        if key in tensors:
            close(result, tensors[key], tolerances, key, file)

    outputs = {"branch_input": branch_input, "stream": written}
    loss = torch.stack([(value * tensors[f"weight/{key}"].to(dtype)).sum() for key, value in outputs.items()]).sum()
    loss.backward()
    close(loss.reshape(1), tensors["grad/loss"], tolerances, "loss", file)
    close(stream.grad, tensors["grad/input/stream"], tolerances, "stream", file)
    close(update.grad, tensors["grad/input/branch_output"], tolerances, "branch_output", file)
    for key, gradient in our_keys(tensors, "grad/param/").items():
        close(connection.get_parameter(key).grad, gradient, tolerances, key, file)


@pytest.mark.parametrize(("dtype", "tolerances"), PRECISIONS)
@pytest.mark.parametrize("file", HYPER)
def test_hyper_connections_trunk(file: str, dtype: torch.dtype, tolerances: tuple[float, float]) -> None:
    """expand, three sites with the branch ``tanh(u W)``, reduce; values, and gradients of input and branches."""
    tensors, sidecar = load(f"residual/{file}")
    x = tensors["trunk/x"].to(dtype).requires_grad_()
    branches = [tensors[f"trunk/branch_weight/{site}"].to(dtype).requires_grad_() for site in range(3)]
    sites = [hyper(file, sidecar, site, dtype) for site in range(3)]
    stream = sites[0].expand(x)
    for index, (connection, weight) in enumerate(zip(sites, branches, strict=True)):
        connection.load_state_dict(our_keys(tensors, f"trunk/param/{index}/"))
        branch_input, note = connection.read(stream)
        stream = connection.write(stream, (branch_input @ weight).tanh(), note)
    output = sites[-1].reduce(stream)
    close(output, tensors["trunk/output"], tolerances, "trunk/output", file)

    (output * tensors["weight/trunk_output"].to(dtype)).sum().backward()
    close(x.grad, tensors["trunk/grad/x"], tolerances, "trunk/grad/x", file)
    for index, weight in enumerate(branches):
        close(weight.grad, tensors[f"trunk/grad/branch_weight/{index}"], tolerances, f"branch {index}", file)
