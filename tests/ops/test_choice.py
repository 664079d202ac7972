"""Which implementation runs, the reason given, and how one is forced."""

import os
import subprocess
import sys
import warnings

import pytest
import torch

from orthostream.errors import UsageError
from orthostream.ops import KernelError, choice, forced, implementation, orthogonal_update, read_streams

X = torch.ones(2, 3)


def asked(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        check=False,
    )


def test_the_cpu_runs_plain_pytorch_whatever_is_installed() -> None:
    found = implementation(X, X)
    assert found.name == "closed_form"
    assert "not on a CUDA device" in found.reason
    large = torch.ones(2**10, 2**7)
    assert implementation(large, large).name == "blocked"
    assert implementation(large[:-1], large[:-1]).name == "closed_form"


def test_a_compiler_gets_plain_pytorch() -> None:
    seen = []

    def ask(x):
        seen.append(implementation(x, x))
        return x

    torch.compile(ask, backend="eager")(X)
    assert seen[0].name == "closed_form"
    assert "compiler" in seen[0].reason
    torch._dynamo.reset()


@pytest.mark.parametrize("transform", [torch.vmap, lambda f: torch.func.grad(lambda x: f(x).sum())])
def test_transforms_get_the_formula(transform) -> None:
    seen = []

    def ask(x):
        seen.append(implementation(x, x))
        return x

    transform(ask)(X)
    assert seen[0].name == "reference"
    with torch.autograd.forward_ad.dual_level():
        assert implementation(X, X).name == "reference"


@pytest.mark.parametrize("name", ["reference", "closed_form", "blocked", "triton"])
def test_transforms_get_the_formula_whatever_is_forced(name) -> None:
    x, update = torch.randn(2, 3), torch.randn(2, 3)
    expected = orthogonal_update(x, update)
    streams = torch.randn(2, 4, 3)
    weights = torch.randn(2, 4)
    with forced(name):
        torch.testing.assert_close(torch.vmap(orthogonal_update)(x, update), expected)
        gradient = torch.func.grad(lambda leaf: orthogonal_update(leaf, update).square().sum())(x)
        _, slope = torch.func.jvp(orthogonal_update, (x, update), (x, torch.zeros_like(x)))
        read = torch.vmap(read_streams)(streams, weights)
    leaf = x.clone().requires_grad_()
    orthogonal_update(leaf, update).square().sum().backward()
    torch.testing.assert_close(gradient, leaf.grad)
    # y(t x) = t x + u - <x, u> x / <x, x> but for eps: its slope at t = 1 is x
    torch.testing.assert_close(slope, x, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(read, read_streams(streams, weights))


@pytest.mark.parametrize("name", ["reference", "closed_form", "blocked"])
def test_forced_inside_a_block_alone(name) -> None:
    with forced(name):
        found = implementation(X, X)
        assert (found.name, name in found.reason) == (name, True)
        is_ours = type(orthogonal_update(X.clone().requires_grad_(), X).grad_fn).__name__.startswith("OrthogonalUpdate")
        assert is_ours is (name != "reference")
    assert implementation(X, X).name == "closed_form"
    with pytest.raises(UsageError, match="did you mean closed_form"), forced("closed-form"):
        pass


def test_forced_by_the_environment() -> None:
    program = "import torch; from orthostream.ops import implementation as i; print(i(torch.ones(3), torch.ones(3)))"
    done = asked(program, ORTHOSTREAM_IMPLEMENTATION="reference")
    assert "name='reference'" in done.stdout
    assert "ORTHOSTREAM_IMPLEMENTATION" in done.stdout
    wrong = asked(program, ORTHOSTREAM_IMPLEMENTATION="cuda")
    assert wrong.returncode != 0
    assert "known: blocked, closed_form, reference, triton" in wrong.stderr


def test_forced_kernels_do_not_fall_back_in_silence() -> None:
    program = "import torch; from orthostream.ops import orthogonal_update as o; o(torch.ones(3), torch.ones(3))"
    done = asked(program, ORTHOSTREAM_IMPLEMENTATION="triton", TRITON_INTERPRET="0")
    assert "KernelError" in done.stderr
    assert "not on a CUDA device" in done.stderr


def test_sharded_and_other_tensors_take_plain_pytorch(monkeypatch) -> None:
    class Wrapped(torch.Tensor):
        pass

    monkeypatch.setattr(choice, "interprets", lambda: True)
    assert choice.choose(X, X).name == "triton"
    assert choice.choose(torch.nn.Parameter(X), X).name == "triton"
    assert "plain tensor" in choice.choose(X, X.as_subclass(Wrapped)).reason
    assert "float64" in choice.choose(X, X.double()).reason


def test_a_device_that_cannot_run_kernels_says_so_once(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (6, 1))
    choice._on_cuda.cache_clear()
    with pytest.warns(UserWarning, match=r"cuda:0.*\(6, 1\)") as seen:
        found = choice._on_cuda(0)
        assert choice._on_cuda(0) is found
    assert len(seen) == 1
    assert found.name == "closed_form"
    choice._on_cuda.cache_clear()


def test_a_kernel_that_fails_to_compile_says_why(monkeypatch) -> None:
    def broken(device):
        raise RuntimeError("no C compiler\nand more")

    from orthostream.ops import probe

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (9, 0))
    monkeypatch.setattr(probe, "launch", broken)
    choice._on_cuda.cache_clear()
    with pytest.warns(UserWarning, match="RuntimeError.*no C compiler"):
        assert choice._on_cuda(0).name == "closed_form"
    choice._on_cuda.cache_clear()


def test_without_triton_a_cuda_device_runs_plain_pytorch(monkeypatch) -> None:
    monkeypatch.setattr(choice.importlib.util, "find_spec", lambda name: None)
    choice._on_cuda.cache_clear()
    with pytest.warns(UserWarning, match="Triton is not installed"):
        assert choice._on_cuda(0).name == "closed_form"
    choice._on_cuda.cache_clear()


def test_nothing_is_said_where_there_is_nothing_to_say() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        orthogonal_update(X, X)
        with pytest.raises(KernelError), forced("triton"):
            implementation(X.double(), X.double())
