"""Chunks of matrices: every matrix once, alike in all processes, and the same results as one by one."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from orthostream.errors import UsageError
from orthostream.optim import batch
from orthostream.optim.methods import METHODS
from orthostream.optim.polar import Polar, polar
from orthostream.optim.schedules import ROOT

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
METHODS_AS_THEY_ARE = [name for name in METHODS if name != "custom"]
# The matrices of a ResNet-20 for 32 x 32 images.
RESNET20 = [(16, 27), *[(16, 144)] * 6, (32, 144), *[(32, 288)] * 5, (64, 288), *[(64, 576)] * 5, (10, 64)]
MIXED = [(16, 27), (16, 144), (144, 16), (3, 16, 40), (5, 20), (20, 5), (1, 9), (30, 30), (2, 30, 30), (200, 210)]


def random(shape, seed=0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def gradients(shapes) -> list[torch.Tensor]:
    return [random(shape, seed) * 10.0 ** (seed % 5 - 4) for seed, shape in enumerate(shapes)]


def factors(matrices, options=None) -> list[torch.Tensor]:
    """Of all matrices, chunk by chunk."""
    options = options or Polar()
    found = {}
    for chunk in batch.plan([tuple(matrix.shape) for matrix in matrices], options, CPU):
        found |= zip(chunk.indices, batch.run([matrices[i] for i in chunk.indices], options), strict=True)
    return [found[i] for i in range(len(matrices))]


sides = st.integers(0, 40)
shapes = st.lists(st.one_of(st.tuples(sides, sides), st.tuples(st.integers(0, 3), sides, sides)), max_size=12)


@settings(max_examples=60, deadline=None)
@given(shapes, st.sampled_from(METHODS_AS_THEY_ARE), st.sampled_from([CPU, CUDA]))
def test_each_matrix_is_in_one_chunk_with_its_cost(given_shapes, method, device):
    chunks = batch.plan(given_shapes, Polar(method=method), device)
    assert sorted(index for chunk in chunks for index in chunk.indices) == list(range(len(given_shapes)))
    assert [chunk.indices[0] for chunk in chunks] == sorted(chunk.indices[0] for chunk in chunks)
    for chunk in chunks:
        has_entries = any(math.prod(given_shapes[i]) for i in chunk.indices)
        assert (chunk.cost > 0) == has_entries
    total = sum(chunk.cost for chunk in chunks)
    alone = [chunk for shape in given_shapes for chunk in batch.plan([shape], Polar(method=method), device)]
    assert total == pytest.approx(sum(chunk.cost for chunk in alone))


def test_a_residual_network_needs_few_chunks():
    chunks = batch.plan(RESNET20, Polar(), CPU)
    assert [len(chunk.indices) for chunk in chunks] == [7, 6, 6, 1]
    costs = [chunk.cost for chunk in chunks]
    assert max(costs) == costs[2]


def test_large_matrices_stand_alone_on_a_cpu_and_together_elsewhere():
    many = [(384, 1536)] * 4
    assert len(batch.plan(many, Polar(), CPU)) == 4
    assert len(batch.plan(many, Polar(), CUDA)) == 1
    assert len(batch.plan([(2048, 8192)] * 4, Polar(), CUDA)) == 4


def test_a_stack_costs_as_much_as_its_matrices():
    (stack,), apart = batch.plan([(5, 20, 64)], Polar(), CPU), batch.plan([(20, 64)] * 5, Polar(), CPU)
    assert stack.cost == pytest.approx(sum(chunk.cost for chunk in apart))


def test_a_dearer_way_costs_more():
    cost = {method: batch.plan([(64, 576)], Polar(method=method), CPU)[0].cost for method in ("you", "newton_schulz")}
    assert cost["newton_schulz"] > cost["you"]
    assert batch.plan([(64, 577)], Polar(), CPU)[0].cost > batch.plan([(64, 576)], Polar(), CPU)[0].cost


@pytest.mark.parametrize("method", METHODS_AS_THEY_ARE)
def test_together_is_as_one_by_one(method):
    matrices = gradients(MIXED)
    # Steep first polynomials amplify rounding, which differs with the order of sums.
    exact = ("auto", "svd", "eigh", "newton_schulz", "quintic")
    tolerance = 1e-4 if method == "cans" else 2e-6 if method in exact else 1e-5
    for matrix, result in zip(matrices, factors(matrices, Polar(method=method)), strict=True):
        assert result.shape == matrix.shape
        torch.testing.assert_close(result, polar(matrix, method=method), atol=tolerance, rtol=0)


def test_together_is_as_one_by_one_in_a_residual_network():
    matrices = gradients(RESNET20)
    for matrix, result in zip(matrices, factors(matrices), strict=True):
        torch.testing.assert_close(result, polar(matrix), atol=2e-6, rtol=0)


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(len(RESNET20))))
def test_the_order_of_matrices_does_not_matter(order):
    matrices = gradients(RESNET20)
    results = factors([matrices[i] for i in order])
    for i, result in zip(order, results, strict=True):
        torch.testing.assert_close(result, polar(matrices[i]), atol=2e-6, rtol=0)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 20), st.integers(1, 60), st.integers(0, 8), st.integers(0, 8))
def test_padding_with_zeros_does_not_matter(rows, columns, more_rows, more_columns):
    u, _, vh = torch.linalg.svd(random((rows, columns), rows + columns), full_matrices=False)
    matrix = u * torch.linspace(1, 5, u.shape[1]) @ vh
    padded = torch.nn.functional.pad(matrix, (0, more_columns, 0, more_rows))
    expected = torch.nn.functional.pad(polar(matrix, method="newton_schulz"), (0, more_columns, 0, more_rows))
    torch.testing.assert_close(polar(padded, method="newton_schulz"), expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize("method", METHODS_AS_THEY_ARE)
def test_a_chunk_has_the_same_bits_whoever_runs_it_and_when(method):
    matrices = gradients([*RESNET20, *MIXED])
    before = [matrix.clone() for matrix in matrices]
    options = Polar(method=method)
    chunks = batch.plan([tuple(matrix.shape) for matrix in matrices], options, CPU)
    once = {chunk: batch.run([matrices[i] for i in chunk.indices], options) for chunk in chunks}
    again = {chunk: batch.run([before[i] for i in chunk.indices], Polar(method=method)) for chunk in reversed(chunks)}
    for chunk in chunks:
        assert all(torch.equal(a, b) for a, b in zip(once[chunk], again[chunk], strict=True))
    assert all(torch.equal(a, b) for a, b in zip(matrices, before, strict=True))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("method", METHODS_AS_THEY_ARE)
def test_a_non_finite_matrix_spoils_no_other_of_its_chunk(method, bad):
    matrices = gradients([*RESNET20, *MIXED])
    expected = factors(matrices, Polar(method=method))
    spoilt = {3, len(RESNET20) + 3, len(RESNET20) + 8}
    for index in spoilt:
        matrices[index][..., 0, 0] = bad
    for index, result in enumerate(factors(matrices, Polar(method=method))):
        if index in spoilt:
            assert result.isnan().all()
        else:
            assert torch.equal(result, expected[index])


def test_extreme_sizes_side_by_side():
    plain = gradients([(16, 144)] * 4)
    matrices = [plain[0] * 1e-30, plain[1] * 1e25, torch.zeros(16, 144), plain[3]]
    for matrix, result in zip(plain, factors(matrices), strict=True):
        expected = torch.zeros_like(matrix) if matrix is plain[2] else polar(matrix)
        torch.testing.assert_close(result, expected, atol=2e-5, rtol=0)
    assert not factors(matrices)[2].any()


def test_null_directions_in_one_matrix_leave_the_others_as_they_are():
    """What the iteration misses is decomposed, and nothing else."""
    matrices = gradients([(16, 144)] * 4)
    expected = factors(matrices)
    matrices[1] -= matrices[1].mean(0)
    results = factors(matrices)
    for index in (0, 2, 3):
        assert torch.equal(results[index], expected[index])
    assert results[1].sum(0).abs().max() < 1e-5
    assert torch.linalg.svdvals(results[1])[:15] == pytest.approx([1.0] * 15, abs=1e-5)


def test_dtypes_side_by_side():
    matrices = [random((16, 60), i).to(d) for i, d in enumerate((torch.float32, torch.bfloat16, torch.float16))]
    results = batch.run(matrices, Polar())
    assert [result.dtype for result in results] == [matrix.dtype for matrix in matrices]
    for matrix, result in zip(matrices, results, strict=True):
        torch.testing.assert_close(result, polar(matrix), atol=2e-6, rtol=torch.finfo(matrix.dtype).eps)


def test_stacks_are_separate_matrices():
    stack = random((3, 8, 30))
    (result,) = batch.run([stack], Polar())
    torch.testing.assert_close(result, torch.stack([polar(matrix) for matrix in stack]), atol=2e-6, rtol=0)


def test_empty_matrices_and_no_matrices():
    assert batch.plan([], Polar(), CPU) == ()
    assert batch.run([], Polar()) == []
    shapes = [(0, 4), (2, 0, 4), (0, 2, 2)]
    results = factors([torch.zeros(shape) for shape in shapes])
    assert [tuple(result.shape) for result in results] == shapes


def test_root_is_refused_when_the_work_is_divided():
    assert (2048, 2048) in ROOT
    with pytest.raises(UsageError, match="2048 x 2048"):
        batch.plan([(64, 576), (2048, 2048)], Polar(method="root"), CPU)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
def test_chunks_on_cuda_agree_with_those_on_a_cpu():
    matrices = gradients(RESNET20)
    options = Polar(method="polar_express")
    expected = factors(matrices, options)
    for chunk in batch.plan(RESNET20, options, CUDA):
        results = batch.run([matrices[i].cuda() for i in chunk.indices], options)
        for i, result in zip(chunk.indices, results, strict=True):
            torch.testing.assert_close(result.cpu(), expected[i], atol=2e-5, rtol=0)
