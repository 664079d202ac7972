"""Polar factors against recorded ones and against the decomposition in float64, and what they do with bad input."""

import copy
import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import golden
from orthostream.errors import UsageError
from orthostream.optim.methods import METHODS
from orthostream.optim.polar import Polar, polar

_, SIDECAR = golden.load("optim/polar")
CASES = SIDECAR["cases"]
# Options that compute what was recorded.
RECORDED = {
    "ns_muon5_f32": {"method": "muon"},
    "ns_you5_f32": {"method": "you"},
    "ns_pe6_f32": {"method": "polar_express", "steps": 6},
    "ns_pe8_f32": {"method": "polar_express", "steps": 8},
    "ns_cubic20_f32": {"method": "newton_schulz", "steps": 20},
}
EXACT = ("svd", "eigh")
# Every method as it stands, those that end near 1 with how near.
CONVERGENT = {"auto": 2e-3, "svd": 1e-5, "eigh": 1e-5, "newton_schulz": 2e-3, "quintic": 2e-3, "polar_express": 2e-3}
METHODS_AS_THEY_ARE = [name for name in METHODS if name != "custom"]


def random(*shape, seed=0, dtype=torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def with_condition(rows, columns, condition, seed=0) -> torch.Tensor:
    """Singular values log-uniform from 1 to 1 / condition."""
    side = min(rows, columns)
    u, v = (torch.linalg.qr(random(n, side, seed=seed + n, dtype=torch.float64))[0] for n in (rows, columns))
    return (u * torch.logspace(0, -math.log10(condition), side, dtype=torch.float64)) @ v.T


def reference(matrix) -> torch.Tensor:
    """``U_r V_r^T`` by the decomposition in float64, the plain formula."""
    u, s, vh = torch.linalg.svd(matrix.double(), full_matrices=False)
    kept = (s > 2e-7 * s[..., :1]).double()
    return (u * kept.unsqueeze(-2)) @ vh


def distance(result, matrix) -> float:
    """``||U_r^T O - V_r^T||_F / sqrt(r)``."""
    u, s, vh = torch.linalg.svd(matrix.double(), full_matrices=False)
    rank = int((s > 2e-7 * s[0]).sum())
    return float((u.mT[:rank] @ result.double() - vh[:rank]).norm()) / rank**0.5


# --- against recorded factors


@pytest.mark.parametrize("recorded", RECORDED)
@pytest.mark.parametrize("case", [case for case in CASES if "ns_tol_abs" in CASES[case]])
def test_published_iterations_are_computed_as_recorded(case, recorded):
    tensors, _ = golden.load("optim/polar")
    expected = tensors[f"{case}/{recorded}"]
    result = polar(tensors[f"{case}/grad"].flatten(1), **RECORDED[recorded])
    golden.compare(result.view_as(expected), expected, CASES[case]["ns_tol_abs"][recorded], 0.0, what=case)


@pytest.mark.parametrize("case", [case for case in CASES if "ns_tol_abs" in CASES[case]])
def test_muon_in_bfloat16_is_that_of_torch(case):
    tensors, _ = golden.load("optim/polar")
    expected, gradient = tensors[f"{case}/torch_muon_ns5_bf16_as_f32"], tensors[f"{case}/grad"].flatten(1)
    result = polar(gradient, method="muon", precision="bfloat16")
    if gradient.shape[0] <= gradient.shape[1] and case.startswith(("square", "wide", "dense", "row")):
        # The same operations in the same order.
        golden.compare(result.view_as(expected), expected, 4e-3, 0.0, what=case)
    if CASES[case]["full_rank"] and CASES[case]["cond_nonzero"] < 1e3:
        golden.compare(result.view_as(expected), expected, 3e-2, 0.0, what=case)
    else:
        # Rounding noise fills null directions, differently on every processor.
        kept = reference(gradient).mT.float()
        product = kept @ expected.flatten(1)
        golden.compare(kept @ result, product, 6e-2, 0.0, what=case, file="optim/polar")


@pytest.mark.parametrize("method", [*EXACT, "auto"])
@pytest.mark.parametrize("case", CASES)
def test_partial_completion_is_the_factor_of_the_row_space(case, method):
    tensors, _ = golden.load("optim/polar")
    expected = tensors[f"{case}/polar_rowspace_f64"]
    result = polar(tensors[f"{case}/grad"].flatten(1), method=method)
    tolerance = CASES[case]["tol_f32"] or 0.0
    golden.compare(result.view_as(expected), expected, tolerance if method in EXACT else tolerance + 2e-3, 0.0)


@pytest.mark.parametrize("method", ["svd", "auto"])
@pytest.mark.parametrize("case", CASES)
def test_svd_completion_is_the_official_update(case, method):
    tensors, _ = golden.load("optim/polar")
    gradient, official = tensors[f"{case}/grad"].flatten(1), tensors[f"{case}/official_svd_f32"]
    result = polar(gradient, method=method, completion="svd")
    if CASES[case]["rank"] == 0:
        # The official code moves along a truncated identity here.
        assert not result.any() and official.any()
        return
    assert (torch.linalg.svdvals(result.double()) - 1).abs().max() < 1e-5
    if CASES[case]["official_is_unique"]:
        golden.compare(result.view_as(official), official, CASES[case]["tol_f32"], 0.0, what=case)
    u, _, vh = torch.linalg.svd(gradient.double(), full_matrices=False)
    rank = CASES[case]["rank"]
    golden.compare(u.mT[:rank] @ result.double(), vh[:rank], CASES[case]["tol_f32"], 0.0, file="optim/polar")


# --- against the decomposition


@settings(max_examples=120, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 10**6))
def test_the_default_is_near_the_factor_of_any_random_matrix(rows, columns, seed):
    matrix = random(rows, columns, seed=seed)
    assert distance(polar(matrix), matrix) < 2e-3


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 30), st.integers(1, 60), st.integers(1, 30), st.integers(0, 10**6))
def test_the_default_leaves_null_directions_at_zero(rows, columns, rank, seed):
    rank = min(rank, rows, columns)
    left, right = with_condition(rows, rank, 30.0, seed), with_condition(columns, rank, 30.0, seed + 50)
    matrix = left @ right.mT
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    result = polar(matrix.float())
    assert (result - u[:, :rank] @ vh[:rank]).abs().max() < 2e-3
    assert torch.linalg.matrix_norm(result.double(), 2) < 1 + 4e-3


SHAPES = [(16, 27), (64, 576), (64, 64), (10, 64), (96, 100), (200, 640), (300, 256), (256, 256), (1, 50), (50, 1)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("method", CONVERGENT)
def test_convergent_methods_reach_their_accuracy(method, shape):
    matrix = with_condition(*shape, condition=30.0).float()
    assert distance(polar(matrix, method=method), matrix) < CONVERGENT[method]


@pytest.mark.parametrize("condition", [1e1, 1e2, 1e3, 1e4, 1e5])
@pytest.mark.parametrize("shape", [(64, 576), (48, 48), (96, 20), (230, 460), (460, 230)], ids=str)
def test_the_default_stays_accurate_on_a_cpu_whatever_the_condition(shape, condition):
    matrix = with_condition(*shape, condition).float()
    result = polar(matrix)
    assert distance(result, matrix) < 2e-3
    assert torch.linalg.matrix_norm(result.double(), 2) < 1 + 2e-3


@pytest.mark.parametrize("condition", [1e1, 1e2, 3e2, 1e3, 1e5])
@pytest.mark.parametrize("shape", [(40, 400), (230, 460)], ids=str)
def test_a_larger_tol_holds_for_what_float32_can_tell_from_null(shape, condition):
    matrix = with_condition(*shape, condition).float()
    u, s, vh = torch.linalg.svd(matrix.double(), full_matrices=False)
    difference = (u.mT @ polar(matrix, tol=2e-2).double() - vh)[s > 2e-3 * s[0]]
    assert difference.norm() / len(difference) ** 0.5 < 2e-2


@pytest.mark.parametrize("tol", [2e-2, 2e-3, 1e-5])
def test_null_directions_of_large_matrices_stay_at_zero(tol):
    matrix = (with_condition(300, 40, 30.0) @ with_condition(40, 500, 3.0)).float()
    u, _, vh = torch.linalg.svd(matrix.double(), full_matrices=False)
    result = polar(matrix, tol=tol).double()
    assert (u.mT[:40] @ result - vh[:40]).norm() / 40**0.5 < tol
    assert (result - u[:, :40] @ vh[:40]).norm() / 40**0.5 < tol


@pytest.mark.parametrize("rank", [1, 3, 20])
@pytest.mark.parametrize(
    "options",
    [
        *({"method": "polar_express", "steps": steps} for steps in (6, 8, 10, 14)),
        *({"method": "newton_schulz", "steps": steps} for steps in (20, 40)),
        *({"method": method} for method in ("quintic", "muon_refined", "cans", "muon")),
    ],
    ids=lambda options: " ".join(map(str, options.values())),
)
@pytest.mark.parametrize("shape", [(21, 200), (64, 5000), (21, 24)], ids=str)
def test_rounding_in_null_directions_never_grows_beyond_one(shape, options, rank):
    """Long schedules multiply it by thousands, and rounding can make a Gram matrix indefinite."""
    schedule = Polar(**options).schedule
    for seed in range(3):
        matrix = random(shape[0], rank, seed=seed) @ random(rank, shape[1], seed=seed + 9)
        for scaled in (matrix, matrix.abs()):
            largest = torch.linalg.matrix_norm(polar(scaled, **options).double(), 2)
            assert largest < schedule.range(1e-6)[1] + 1e-3


@pytest.mark.parametrize("tol", [0.1, 2e-2, 2e-3, 1e-4, 1e-6])
@pytest.mark.parametrize("method", ["auto", "polar_express", "newton_schulz", "quintic"])
def test_tol_is_what_singular_values_keep(method, tol):
    options = Polar(method=method, tol=tol, floor=1e-2)
    matrix = with_condition(40, 120, 30.0).float()
    values = torch.linalg.svdvals(options(matrix).double())
    assert options.stated_error() <= tol
    # Rounding of the Gram matrix, relative to its largest eigenvalue.
    assert (values - 1).abs().max() < tol + 1e-4


@pytest.mark.parametrize("method", ["muon", "you", "cans", "cubic5", "muon_refined", "polar_express", "newton_schulz"])
def test_the_stated_error_bounds_what_is_measured_and_is_nearly_reached(method):
    options = Polar(method=method, steps=5, precision="float64", norm="gram")
    matrix = torch.diag_embed(torch.logspace(-2, 0, 1500, dtype=torch.float64)[:, None])
    bounds = [abs(float(options(value.view(1, 1))) - 1) for value in matrix.flatten()[:1]]
    assert bounds[0] <= options.stated_error(floor=0.5)
    # A diagonal matrix whose norm is that of its largest entry but for a little.
    values = torch.cat([torch.ones(1, dtype=torch.float64), torch.logspace(-2.5, -1, 60, dtype=torch.float64)])
    diagonal = torch.diag(values)
    norm = diagonal.mm(diagonal).norm().sqrt()
    result = options(diagonal).diagonal()
    floor = float(values.min() / norm)
    measured = float((result - 1).abs().max())
    assert 0.6 * options.stated_error(floor) <= measured <= options.stated_error(floor) + 1e-9


# --- laws


def rounding(method) -> float:
    """How much rounding moves entries of results in float32: steep first polynomials amplify it."""
    return 1e-4 if method == "cans" else 2e-5


@pytest.mark.parametrize("method", METHODS_AS_THEY_ARE)
@pytest.mark.parametrize("shape", [(12, 30), (20, 20), (24, 200)], ids=str)
def test_the_transpose_has_the_transposed_factor(method, shape):
    matrix = with_condition(*shape, 20.0).float()
    expected = polar(matrix, method=method).mT
    torch.testing.assert_close(polar(matrix.mT, method=method), expected, atol=rounding(method), rtol=0)


@pytest.mark.parametrize("scale", [1e-42, 1e-30, 1e-12, 1e-3, 1e6, 1e19, 1e30])
@pytest.mark.parametrize("method", METHODS_AS_THEY_ARE)
def test_scale_does_not_matter(method, scale):
    matrix = with_condition(20, 64, 20.0).float()
    expected = polar(matrix, method=method)
    result = polar((matrix.double() * scale).float(), method=method)
    # Numbers below 1e-38 have few digits left.
    torch.testing.assert_close(result, expected, atol=5e-2 if scale < 1e-38 else rounding(method), rtol=0)
    torch.testing.assert_close(polar(-matrix, method=method), -expected, atol=0, rtol=0)


@pytest.mark.parametrize("method", METHODS_AS_THEY_ARE)
def test_rotations_commute_with_the_factor(method):
    matrix = with_condition(20, 64, 20.0)
    rotation = torch.linalg.qr(random(20, 20, seed=5, dtype=torch.float64))[0]
    rotated = polar((rotation @ matrix).float(), method=method)
    expected = (rotation @ polar(matrix.float(), method=method).double()).float()
    torch.testing.assert_close(rotated, expected, atol=rounding(method), rtol=0)


@pytest.mark.parametrize("method", METHODS_AS_THEY_ARE)
def test_zero_stays_zero_in_whole_rows_and_columns(method):
    matrix = with_condition(20, 64, 20.0).float()
    matrix[3] = 0
    matrix[:, [0, 40]] = 0
    result = polar(matrix, method=method)
    if method in ("svd", "eigh", "auto"):
        assert result[3].abs().max() < 1e-6 and result[:, [0, 40]].abs().max() < 1e-6
    else:
        assert not result[3].any() and not result[:, [0, 40]].any()
    for zero in (torch.zeros(4, 6), torch.zeros(6, 4), torch.zeros(20, 64), torch.zeros(1, 3), torch.zeros(200, 300)):
        assert torch.equal(polar(zero, method=method), torch.zeros_like(zero))


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float64"])
@pytest.mark.parametrize("method", ["auto", "muon", "you", "polar_express", "svd"])
def test_zero_stays_zero_in_every_precision(method, precision):
    zero = torch.zeros(2, 6, 20)
    assert torch.equal(polar(zero, method=method, precision=precision), zero)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("shape", [(5, 12), (12, 5), (20, 64), (30, 30), (1, 9), (200, 210)], ids=str)
@pytest.mark.parametrize("method", METHODS_AS_THEY_ARE)
def test_a_non_finite_matrix_is_nan_and_its_neighbours_are_untouched(method, shape, bad):
    stack = torch.stack([random(*shape, seed=seed) for seed in range(3)])
    spoilt = stack.clone()
    spoilt[1, 0, -1] = bad
    result = polar(spoilt, method=method)
    assert result[1].isnan().all()
    expected = polar(stack, method=method)
    assert torch.equal(result[[0, 2]], expected[[0, 2]])


@pytest.mark.parametrize("completion", ["partial", "svd"])
def test_a_non_finite_matrix_is_nan_in_both_completions(completion):
    matrix = random(2, 4, 6)
    matrix[0, 1, 1] = math.inf
    result = polar(matrix, method="svd", completion=completion)
    assert result[0].isnan().all() and result[1].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("method", METHODS_AS_THEY_ARE)
def test_dtype_and_shape_are_kept_and_lower_ones_are_raised(method, dtype):
    matrix = with_condition(2 * 6, 15, 10.0).view(2, 6, 15).to(dtype)
    before = matrix.clone()
    result = polar(matrix, method=method)
    assert result.dtype == dtype and result.shape == matrix.shape
    assert torch.equal(matrix, before) and result.data_ptr() != matrix.data_ptr()
    if method in ("svd", "eigh", "auto"):
        expected = reference(matrix)
        rounding = torch.finfo(dtype).eps
        torch.testing.assert_close(result.double(), expected, atol=2e-3 + rounding, rtol=0)


def test_float64_is_computed_in_float64():
    matrix = with_condition(40, 100, 1e2)
    for method in ("svd", "eigh"):
        assert (polar(matrix, method=method) - reference(matrix)).abs().max() < 1e-11
    assert (polar(matrix, precision="float64") - reference(matrix)).abs().max() < 1e-9
    assert (polar(matrix, method="newton_schulz", precision="float64") - reference(matrix)).abs().max() < 1e-9


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0), (0, 3, 4), (3, 0, 4), (2, 3, 0)], ids=str)
def test_empty_matrices_stay_empty(shape):
    assert polar(torch.zeros(shape)).shape == shape


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 3), max_size=3), st.integers(1, 20), st.integers(1, 40))
def test_each_trailing_matrix_is_for_itself(batch, rows, columns):
    matrix = random(*batch, rows, columns)
    result = polar(matrix)
    flat = matrix.reshape(-1, rows, columns)
    alone = torch.stack([polar(single) for single in flat]).view(matrix.shape)
    torch.testing.assert_close(result, alone, atol=2e-6, rtol=0)


def test_strides_do_not_matter():
    matrix = random(6, 40)
    for other in (
        matrix.T.contiguous().T,
        matrix.repeat(1, 2)[:, ::1][:, :40],
        torch.stack([matrix, matrix], -1)[..., 0],
    ):
        torch.testing.assert_close(polar(other), polar(matrix), atol=2e-6, rtol=0)


def test_no_graph_is_recorded():
    matrix = random(4, 6).requires_grad_()
    assert not polar(matrix).requires_grad


# --- precision


BF16 = {"auto": 2e-2, "you": 3e-2, "polar_express": 2e-2, "muon_refined": 2e-2}


@pytest.mark.parametrize("method", BF16)
@pytest.mark.parametrize("shape", [(64, 576), (96, 384), (200, 800)], ids=str)
def test_bfloat16_is_as_near_as_its_rounding_allows(method, shape):
    matrix = random(*shape)
    result = polar(matrix, method=method, precision="bfloat16")
    assert result.dtype == torch.float32
    assert distance(result, matrix) < BF16[method]
    # It is really computed in bfloat16.
    assert torch.equal(result, result.bfloat16().float()) and distance(result, matrix) > 1e-4


@pytest.mark.parametrize("shape", [(256, 300), (256, 1024), (40, 90)], ids=str)
@pytest.mark.parametrize("method", ["polar_express", "auto", "svd"])
def test_neither_faster_products_nor_autocast_change_the_result(method, shape):
    matrix = random(*shape)
    expected = polar(matrix, method=method)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        allowed = torch.backends.mkldnn.matmul.fp32_precision
        assert torch.equal(polar(matrix, method=method), expected)
        assert torch.backends.mkldnn.matmul.fp32_precision == allowed
    finally:
        torch.set_float32_matmul_precision(before)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(polar(matrix, method=method), expected)
        assert torch.is_autocast_enabled("cpu")


# --- options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "newton"}, "unknown method of polar factors 'newton': did you mean newton_schulz"),
        ({"completion": "full"}, "unknown completion 'full'"),
        ({"precision": "float16"}, "unknown precision 'float16'"),
        ({"norm": "spectral"}, "unknown norm 'spectral'"),
        ({"method": "muon", "steps": 0}, "whole number from 1, got 0"),
        ({"method": "muon", "steps": 2.5}, "whole number from 1, got 2.5"),
        ({"tol": 0.0}, "between 0 and 1, got 0"),
        ({"tol": 1.5}, "between 0 and 1, got 1.5"),
        ({"floor": 0.0}, "floor is a share"),
        ({"method": "svd", "steps": 3}, "has no number of steps"),
        ({"steps": 3}, "has no number of steps"),
        ({"method": "polar_express", "steps": 3, "tol": 0.1}, "both given"),
        ({"method": "muon", "completion": "svd"}, "choose method='svd' or 'auto'"),
        ({"method": "eigh", "completion": "svd"}, "choose method='svd' or 'auto'"),
        ({"method": "muon", "tol": 0.1}, r"within 0\.53 of 1, and tol=0.1"),
        ({"method": "you", "tol": 0.1, "floor": 1e-4}, r"within 0\.95 of 1"),
        ({"method": "polar_express", "tol": 1e-9}, "rounding in float32"),
        ({"tol": 1e-3, "precision": "bfloat16"}, "rounding in bfloat16"),
        ({"method": "custom"}, "belong together"),
        ({"coefficients": ((1.5, -0.5, 0.0),)}, "belong together"),
        ({"method": "custom", "coefficients": ()}, "triples of numbers"),
        ({"method": "custom", "coefficients": ((1.5, -0.5),)}, "triples of numbers"),
        ({"method": "custom", "coefficients": (1.5, -0.5, 0.0)}, "triples of numbers"),
        ({"method": "custom", "coefficients": ((3.4916, -4.8224, 2.1095),) * 5}, r"reach 1\.2245.*below 1\.2235"),
        ({"method": "custom", "coefficients": ((4.0, -5.0, 0.0),) * 5}, "negative"),
        ({"method": "cans", "precision": "bfloat16"}, "escape"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        Polar(**options)


@pytest.mark.parametrize("matrix", [torch.zeros(3), torch.zeros(()), torch.zeros(2, 3, dtype=torch.int64)], ids=str)
def test_what_is_no_matrix_of_numbers_is_refused(matrix):
    with pytest.raises(UsageError, match="floating-point matrices"):
        polar(matrix)


def test_own_coefficients_are_the_method_that_has_them():
    matrix = random(9, 40)
    own = polar(matrix, method="custom", coefficients=[[1.5, -0.5, 0]] * 20)
    torch.testing.assert_close(own, polar(matrix, method="newton_schulz", steps=20), atol=1e-5, rtol=0)
    assert Polar(method="custom", coefficients=((1.5, -0.5, 0.0),) * 20, tol=1e-3, floor=1e-2).tol == 1e-3


def test_steps_are_taken_as_often_as_asked():
    matrix = with_condition(8, 20, 5.0)
    result = polar(matrix, method="newton_schulz", steps=1)
    x = matrix / matrix.norm()
    torch.testing.assert_close(result, 1.5 * x - 0.5 * x @ x.T @ x)


def test_the_gram_norm_starts_nearer_to_one():
    matrix = random(30, 90)
    near, far = (
        distance(polar(matrix, method="polar_express", steps=4, norm=norm), matrix) for norm in ("gram", "frobenius")
    )
    assert near < far


def test_options_are_equal_hashed_copied_and_pickled_by_value():
    options = Polar(method="custom", coefficients=((1.5, -0.5, 0.0),) * 3)
    matrix = random(4, 9)
    for other in (copy.deepcopy(options), pickle.loads(pickle.dumps(options))):
        assert other == options and hash(other) == hash(options)
        assert torch.equal(other(matrix), options(matrix))
    with pytest.raises(AttributeError):
        options.steps = 3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
@pytest.mark.parametrize("method", METHODS_AS_THEY_ARE)
def test_polynomials_on_cuda_agree_and_never_wait(method):
    matrices = [random(3, 20, 64), random(64, 576), random(30, 30), random(5, 1)]
    for matrix in matrices:
        expected = polar(matrix, method=method)
        on_device = matrix.cuda()
        polar(on_device, method=method)
        torch.cuda.synchronize()
        # Decompositions wait by themselves.
        torch.cuda.set_sync_debug_mode("default" if method in EXACT else "error")
        try:
            result = polar(on_device, method=method)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        torch.testing.assert_close(result.cpu(), expected, atol=4e-3 if method == "auto" else 2e-5, rtol=0)


@pytest.mark.parametrize("shape", [(2, 2), (5, 3), (4, 24), (40, 8)])
@pytest.mark.parametrize("method", ["auto", "svd", "eigh", "polar_express", "newton_schulz", "muon", "you"])
def test_every_power_of_ten_gives_the_same_factor(method, shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    polar = Polar(method=method)
    expected = polar(matrix)
    for power in range(-30, 31):
        torch.testing.assert_close(polar(matrix * 10.0**power), expected, atol=2e-5, rtol=0, msg=f"1e{power}")
