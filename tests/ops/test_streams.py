"""Reading and writing parallel streams: values and gradients against float64, by every implementation."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, jacrev, jvp, vmap

from orthostream.ops import KernelError, forced
from orthostream.ops.streams import read_streams, write_streams

# (dtype of the streams, of the update, of mixing and weights)
KERNEL_DTYPES = [
    (torch.float32, torch.float32, torch.float32),
    (torch.bfloat16, torch.bfloat16, torch.float32),
    (torch.float16, torch.float16, torch.float32),
    (torch.float32, torch.bfloat16, torch.float32),
    (torch.bfloat16, torch.float32, torch.bfloat16),
]
DTYPES = [
    *KERNEL_DTYPES,
    (torch.float64, torch.float64, torch.float64),
    (torch.float64, torch.float32, torch.float32),
    (torch.float32, torch.float32, torch.float64),
]
# (shape, axis of the streams): rows in one piece, pixels side by side, one place, one stream, one feature; numbers of
# streams that are no power of two, odd widths, and widths of several steps and several warps.
SHAPES = [
    ((3, 5, 4, 33), -2),
    ((70, 2, 7), 1),
    ((4, 16), -2),
    ((5, 1, 3), -2),
    ((2, 3, 1), -2),
    ((2, 8, 140), -2),
    ((3, 5, 1100), -2),
    ((1, 4, 16385), -2),
    ((2, 4, 6, 3, 5), 1),
    ((2, 3, 20, 6, 6), 1),
    ((1, 8, 70, 2, 2), 1),
    ((2, 2, 5, 4), 0),
]


def operands(
    shape: tuple[int, ...], axis: int, dtypes: tuple[torch.dtype, ...] = (torch.float64,) * 3, seed: int = 0
) -> dict[str, Tensor]:
    """Random operands of both operations, and gradients of their results, by name."""
    generator = torch.Generator().manual_seed(seed)
    axis %= len(shape)
    places, n = (*shape[:axis], *shape[axis + 2 :]), shape[axis]
    plain = (*shape[:axis], *shape[axis + 1 :])
    streams, update, weights = dtypes

    def random(size: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return torch.randn(size, dtype=torch.float64, generator=generator).to(dtype)

    return {
        "streams": random(shape, streams),
        "update": random(plain, update),
        "mixing": random((*places, n, n), weights),
        "read": random((*places, n), weights),
        "write": random((*places, n), weights),
        "grad_x": random(plain, streams),
        "grad_streams": random(shape, streams),
    }


LEAVES = ("streams", "update", "mixing", "read", "write")


def exact_read(streams: Tensor, weights: Tensor, axis: int = -2) -> Tensor:
    """Written anew, with the streams in front."""
    weights = weights.movedim(-1, 0).unsqueeze(axis % streams.ndim + 1)
    return (weights * streams.movedim(axis, 0)).sum(0)


def exact_write(streams: Tensor, update: Tensor, mixing: Tensor, weights: Tensor, axis: int = -2) -> Tensor:
    mixed = [
        exact_read(streams, mixing.select(-2, stream), axis)
        + weights.select(-1, stream).unsqueeze(axis % streams.ndim) * update
        for stream in range(mixing.shape[-1])
    ]
    return torch.stack(mixed, axis % streams.ndim)


def derived(given: dict[str, Tensor], axis: int, read=read_streams, write=write_streams) -> dict[str, Tensor]:
    """Both results, and all gradients of each operation on its own."""
    leaves = {name: given[name].detach().requires_grad_() for name in LEAVES}
    x = read(leaves["streams"], leaves["read"], axis)
    written = write(*(leaves[name] for name in ("streams", "update", "mixing", "write")), axis)
    by_read = torch.autograd.grad(x, [leaves["streams"], leaves["read"]], given["grad_x"])
    writers = [leaves[name] for name in ("streams", "update", "mixing", "write")]
    by_write = torch.autograd.grad(written, writers, given["grad_streams"])
    names = ("read: streams", "read: weights", "write: streams", "write: update", "write: mixing", "write: weights")
    return {"x": x.detach(), "written": written.detach()} | dict(zip(names, (*by_read, *by_write), strict=True))


def exactly(given: dict[str, Tensor], axis: int) -> dict[str, Tensor]:
    return derived({name: tensor.double() for name, tensor in given.items()}, axis, exact_read, exact_write)


def assert_rounded_once(found: dict[str, Tensor], exact: dict[str, Tensor], dtypes: tuple[torch.dtype, ...]) -> None:
    """Within one rounding of the result, and float32 sums of terms of order one before it."""
    streams, update, weights = dtypes
    expected_dtypes = (streams, streams, streams, weights, streams, update, weights, weights)
    is_wide = torch.float64 in dtypes
    for (name, value), dtype in zip(found.items(), expected_dtypes, strict=True):
        assert value.dtype == dtype, name
        assert value.shape == exact[name].shape, name
        # Triton's interpreter cuts bfloat16 off instead of rounding it.
        step = torch.finfo(dtype).eps * (1 if dtype == torch.bfloat16 else 0.5)
        scale = max(1.0, exact[name].abs().max().item())
        slack = scale * (1e-14 if is_wide and dtype == torch.float64 else 2e-6)
        torch.testing.assert_close(
            value.double(), exact[name], rtol=step, atol=slack, msg=lambda text, name=name: f"{name}: {text}"
        )


def each_with_two(dtypes: list) -> list:
    """Every shape with the first two combinations of dtypes, and every other one with two shapes."""
    every = [(each, shape, axis) for each in dtypes[:2] for shape, axis in SHAPES]
    return every + [(each, *SHAPES[place]) for each in dtypes[2:] for place in (0, 8)]


@pytest.mark.parametrize("engine", ["reference", "closed_form"])
@pytest.mark.parametrize(("dtypes", "shape", "axis"), each_with_two(DTYPES))
def test_plain_forms_are_exact_rounded_once(dtypes, shape, axis, engine) -> None:
    given = operands(shape, axis, dtypes)
    with forced(engine):
        found = derived(given, axis)
    assert_rounded_once(found, exactly(given, axis), dtypes)


# Kernels.


def by_kernels(given: dict[str, Tensor], axis: int, device: torch.device) -> dict[str, Tensor]:
    with forced("triton"):
        found = derived({name: tensor.to(device) for name, tensor in given.items()}, axis)
    return {name: tensor.cpu() for name, tensor in found.items()}


@pytest.mark.parametrize(("dtypes", "shape", "axis"), each_with_two(KERNEL_DTYPES))
def test_kernels_are_exact_rounded_once(dtypes, shape, axis, kernel_device, poisoned) -> None:
    given = operands(shape, axis, dtypes)
    assert_rounded_once(by_kernels(given, axis, kernel_device), exactly(given, axis), dtypes)


@pytest.mark.parametrize("streams", range(1, 9))
@pytest.mark.parametrize("layout", ["tokens", "maps"])
def test_any_number_of_streams(streams, layout, kernel_device, poisoned) -> None:
    shape, axis = ((3, streams, 37), -2) if layout == "tokens" else ((2, streams, 11, 5, 3), 1)
    given = operands(shape, axis, KERNEL_DTYPES[0])
    assert_rounded_once(by_kernels(given, axis, kernel_device), exactly(given, axis), KERNEL_DTYPES[0])


def in_memory_as(tensor: Tensor, order: tuple[int, ...]) -> Tensor:
    """The same values with the axes in another order of memory, outermost first."""
    back = sorted(range(len(order)), key=order.__getitem__)
    return tensor.permute(order).contiguous().permute(back)


def with_gaps(tensor: Tensor) -> Tensor:
    return torch.stack([tensor, torch.full_like(tensor, torch.nan)], -1)[..., 0]


@pytest.mark.parametrize(
    "order",
    # pixels, then streams, then features; streams outside the pixels; streams last; streams outermost; samples inside
    [(0, 3, 4, 1, 2), (0, 1, 3, 4, 2), (0, 2, 3, 4, 1), (1, 0, 2, 3, 4), (2, 1, 4, 3, 0)],
)
def test_maps_in_any_order_of_memory(order, kernel_device, poisoned) -> None:
    given = operands((2, 3, 6, 4, 5), 1, KERNEL_DTYPES[0])
    exact = exactly(given, 1)
    for name in ("streams", "grad_streams"):
        given[name] = in_memory_as(given[name], order)
    found = by_kernels(given, 1, kernel_device)
    assert_rounded_once(found, exact, KERNEL_DTYPES[0])
    # Samples inside the pixels are no two axes: such streams are copied, once.
    if order[-1] != 0:
        assert found["written"].stride() == given["streams"].stride()
        assert found["read: streams"].stride() == found["write: streams"].stride() == given["streams"].stride()
        without_streams = tuple(axis - (axis > 1) for axis in order if axis != 1)
        assert found["x"].stride() == in_memory_as(found["x"], without_streams).stride()


@pytest.mark.parametrize("layout", ["tokens", "maps"])
@pytest.mark.parametrize("odd", ["gaps", "reversed", "repeated"])
def test_operands_that_are_not_dense(odd, layout, kernel_device, poisoned) -> None:
    shape, axis = ((3, 5, 4, 33), -2) if layout == "tokens" else ((3, 4, 33, 2, 3), 1)
    given = operands(shape, axis, KERNEL_DTYPES[0])
    for name, tensor in given.items():
        if odd == "gaps":
            given[name] = with_gaps(tensor)
        elif odd == "reversed":
            given[name] = in_memory_as(tensor, tuple(reversed(range(tensor.ndim))))
        else:
            given[name] = tensor[:1].expand(tensor.shape)
    exact = exactly(given, axis)
    assert_rounded_once(by_kernels(given, axis, kernel_device), exact, KERNEL_DTYPES[0])


@pytest.mark.parametrize("layout", ["tokens", "maps"])
def test_weights_that_all_places_share(layout, kernel_device, poisoned) -> None:
    """Static coefficients and an upstream gradient of ones, expanded from a few numbers."""
    shape, axis = ((2, 5, 3, 17), -2) if layout == "tokens" else ((2, 3, 17, 2, 3), 1)
    given = operands(shape, axis, KERNEL_DTYPES[0])
    for name in ("mixing", "read", "write"):
        axes = 2 if name == "mixing" else 1
        shared = given[name].flatten(0, -1 - axes)[0]
        given[name] = shared.expand(given[name].shape)
    for name in ("grad_x", "grad_streams"):
        given[name] = torch.ones(()).expand(given[name].shape)
    assert_rounded_once(by_kernels(given, axis, kernel_device), exactly(given, axis), KERNEL_DTYPES[0])


@pytest.mark.parametrize("layout", ["tokens", "maps"])
def test_coefficients_that_are_views_of_one_table(layout, kernel_device, poisoned) -> None:
    shape, axis = ((3, 5, 4, 17), -2) if layout == "tokens" else ((2, 4, 17, 2, 3), 1)
    given = operands(shape, axis, KERNEL_DTYPES[0])
    places = given["read"].shape[:-1]
    table = torch.randn(*places, 4, 6, generator=torch.Generator().manual_seed(1))
    given |= {"read": table[..., 0], "mixing": table[..., 1:-1].mT, "write": table[..., -1]}
    assert_rounded_once(by_kernels(given, axis, kernel_device), exactly(given, axis), KERNEL_DTYPES[0])


@pytest.mark.parametrize(("shape", "axis"), [((5, 2, 700), -2), ((2, 2, 70, 3, 5), 1)])
def test_results_are_bit_identical(shape, axis, kernel_device) -> None:
    given = operands(shape, axis, KERNEL_DTYPES[1])
    for first, second in zip(*(by_kernels(given, axis, kernel_device).values() for _ in range(2)), strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("size", "strides"),
    [
        pytest.param((3, 2, 3), (2**30, 3, 1), id="rows"),
        pytest.param((2, 3, 4), (4, 2**30, 1), id="streams"),
        pytest.param((2, 2, 3), (2, 1, 2**30), id="features"),
    ],
)
def test_elements_beyond_32_bits(size, strides, kernel_device) -> None:
    """Memory that is only reserved: no more than a few pages of it are ever touched."""
    given = operands(size, -2, KERNEL_DTYPES[2])
    far = torch.empty(2**31 + 64, dtype=torch.float16, device=kernel_device).as_strided(size, strides)
    far.copy_(given["streams"])
    found = by_kernels(given | {"streams": far}, -2, kernel_device)
    assert_rounded_once(found, exactly(given, -2), KERNEL_DTYPES[2])


@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_shape(kernel_device, data: st.DataObject) -> None:
    places = data.draw(st.lists(st.integers(0, 4), max_size=3))
    n, features = data.draw(st.integers(1, 8)), data.draw(st.integers(0, 70))
    axis = data.draw(st.integers(0, len(places)))
    shape = (*places[:axis], n, features, *places[axis:])
    given = operands(shape, axis, KERNEL_DTYPES[0])
    exact = exactly(given, axis)
    if exact["x"].numel() == 0:
        found = by_kernels(given, axis, kernel_device)
        assert all(torch.equal(found[name].double(), value) for name, value in exact.items())
    else:
        assert_rounded_once(by_kernels(given, axis, kernel_device), exact, KERNEL_DTYPES[0])


def test_kernels_refuse_what_they_cannot_run(kernel_device) -> None:
    many = operands((2, 9, 3), -2, KERNEL_DTYPES[0])
    with pytest.raises(KernelError, match="kernels hold up to 8 streams"):
        by_kernels(many, -2, kernel_device)
    with pytest.raises(KernelError, match="an operand is float64"):
        by_kernels(operands((2, 3, 3), -2), -2, kernel_device)
    # Left free, plain PyTorch takes them.
    assert_rounded_once(derived(many, -2), exactly(many, -2), KERNEL_DTYPES[0])


def test_second_derivatives_around_kernels(kernel_device) -> None:
    given = operands((2, 3, 5), -2, KERNEL_DTYPES[0])

    def penalty(given: dict[str, Tensor], read, write) -> tuple[Tensor, ...]:
        leaves = [given[name].detach().requires_grad_() for name in LEAVES]
        streams, update, mixing, to_read, to_write = leaves
        loss = read(streams, to_read).sin().sum() + write(streams, update, mixing, to_write).sin().sum()
        first = torch.autograd.grad(loss, leaves, create_graph=True)
        return torch.autograd.grad(sum(each.square().sum() for each in first), leaves)

    with forced("triton"):
        found = penalty({name: tensor.to(kernel_device) for name, tensor in given.items()}, read_streams, write_streams)
    exact = penalty({name: tensor.double() for name, tensor in given.items()}, exact_read, exact_write)
    for value, expected in zip(found, exact, strict=True):
        torch.testing.assert_close(value.cpu().double(), expected, rtol=1e-4, atol=1e-4)


# What the operations are, in float64.


def test_identity_mixing_with_unit_weights_is_the_plain_sum_bit_for_bit() -> None:
    for dtypes in DTYPES[:6]:
        given = operands((3, 4, 7), -2, dtypes)
        mixing, weights = torch.eye(4).expand(3, 4, 4), torch.ones(3, 4)
        written = write_streams(given["streams"], given["update"], mixing, weights)
        assert torch.equal(written, (given["streams"] + given["update"].unsqueeze(-2)).to(dtypes[0]))
        one_hot = torch.tensor([0.0, 0.0, 1.0, 0.0]).expand(3, 4)
        assert torch.equal(read_streams(given["streams"], one_hot), given["streams"][:, 2])


def test_reading_after_writing_is_one_read_with_the_weights_carried_back() -> None:
    """``<w, M X + b u> = <M^T w, X> + <w, b> u``."""
    given = operands((3, 4, 7), -2)
    written = write_streams(*(given[name] for name in ("streams", "update", "mixing", "write")))
    carried = (given["read"].unsqueeze(-2) @ given["mixing"]).squeeze(-2)
    share = (given["read"] * given["write"]).sum(-1, keepdim=True)
    expected = read_streams(given["streams"], carried) + share * given["update"]
    torch.testing.assert_close(read_streams(written, given["read"]), expected, rtol=1e-12, atol=1e-12)


def test_zeros() -> None:
    given = operands((2, 3, 5), -2)
    zero = torch.zeros_like(given["streams"])
    nothing = torch.zeros_like(given["update"])
    assert torch.equal(read_streams(zero, given["read"]), nothing)
    assert torch.equal(write_streams(zero, nothing, given["mixing"], given["write"]), zero)
    found = derived(given | {"streams": zero, "update": nothing}, -2)
    for name in ("read: weights", "write: mixing", "write: weights"):
        assert not found[name].any()


@pytest.mark.parametrize("engine", ["reference", "closed_form"])
@pytest.mark.parametrize(("shape", "axis"), [((2, 3, 4), -2), ((2, 3, 2, 2), 1), ((3, 2), 0)])
def test_derivatives(shape, axis, engine) -> None:
    given = operands(shape, axis)
    leaves = [given[name].requires_grad_() for name in LEAVES]

    def both(streams: Tensor, update: Tensor, mixing: Tensor, read: Tensor, write: Tensor) -> tuple[Tensor, Tensor]:
        return read_streams(streams, read, axis), write_streams(streams, update, mixing, write, axis)

    with forced(engine):
        assert gradcheck(both, leaves)
        assert gradgradcheck(both, leaves)


# What is kept, and under which engines.


@pytest.mark.parametrize(("shape", "axis"), [((2, 5, 4, 16), -2), ((2, 4, 16, 3, 3), 1)])
@pytest.mark.parametrize("dtypes", KERNEL_DTYPES)
def test_keeps_its_operands_and_nothing_else(dtypes, shape, axis) -> None:
    given = operands(shape, axis, dtypes)
    leaves = {name: given[name].requires_grad_() for name in LEAVES}
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.data_ptr()) or t, lambda t: t):
        read_streams(leaves["streams"], leaves["read"], axis)
        write_streams(*(leaves[name] for name in ("streams", "update", "mixing", "write")), axis)
    names = ("streams", "read", "streams", "update", "mixing", "write")
    assert kept == [leaves[name].data_ptr() for name in names]


def test_vmap_equals_a_loop() -> None:
    given = operands((3, 2, 4, 5), -2)
    writers = [given[name] for name in ("streams", "update", "mixing", "write")]
    torch.testing.assert_close(vmap(write_streams)(*writers), exact_write(*writers), rtol=1e-13, atol=1e-13)
    shared = given["read"][0, 0]
    read = vmap(vmap(lambda each: read_streams(each, shared)))(given["streams"])
    torch.testing.assert_close(read, exact_read(given["streams"], shared.expand(3, 2, 4)), rtol=1e-13, atol=1e-13)


def test_function_transforms() -> None:
    given, tangents = operands((2, 3, 4), -2), operands((2, 3, 4), -2, seed=1)
    names = ("streams", "update", "mixing", "write")
    primals, directions = (tuple(each[name] for name in names) for each in (given, tangents))
    torch.testing.assert_close(
        jvp(write_streams, primals, directions), jvp(exact_write, primals, directions), rtol=1e-12, atol=1e-12
    )
    torch.testing.assert_close(
        jacrev(write_streams, argnums=2)(*primals), jacrev(exact_write, argnums=2)(*primals), rtol=1e-12, atol=1e-12
    )

    def loss(streams: Tensor, weights: Tensor) -> Tensor:
        return read_streams(streams, weights).square().sum()

    def exact_loss(streams: Tensor, weights: Tensor) -> Tensor:
        return exact_read(streams, weights).square().sum()

    pair = given["streams"], given["read"]
    torch.testing.assert_close(
        vmap(grad(loss, argnums=(0, 1)))(*pair), vmap(grad(exact_loss, argnums=(0, 1)))(*pair), rtol=1e-12, atol=1e-12
    )


def site(
    streams: Tensor, update: Tensor, mixing: Tensor, read: Tensor, write: Tensor, axis: int = -2
) -> tuple[Tensor, Tensor]:
    return read_streams(2 * streams, read, axis).sin(), write_streams(streams, update.tanh(), mixing, write, axis).sin()


def site_gradients(function, given: dict[str, Tensor], axis: int = -2) -> list[Tensor]:
    leaves = [given[name].detach().requires_grad_() for name in LEAVES]
    x, written = function(*leaves, axis)
    return [x, written, *torch.autograd.grad(x.double().sum() + written.double().square().sum(), leaves)]


@pytest.mark.parametrize(("shape", "axis"), [((2, 5, 4, 16), -2), ((2, 4, 16, 3, 3), 1)])
@pytest.mark.parametrize("dtypes", [KERNEL_DTYPES[0], KERNEL_DTYPES[1], DTYPES[5]])
def test_compiles_to_one_graph(dtypes, shape, axis) -> None:
    torch._dynamo.reset()
    given = operands(shape, axis, dtypes)
    compiled = torch.compile(site, fullgraph=True, backend="aot_eager")
    # the same sums in another order, of terms below about ten
    slack = 16 * torch.finfo(dtypes[0]).eps
    for found, expected in zip(site_gradients(compiled, given, axis), site_gradients(site, given, axis), strict=True):
        torch.testing.assert_close(found, expected, rtol=slack, atol=slack)


def test_forced_kernels_refuse_a_compiler(kernel_device) -> None:
    """The formula would run in their place, and nobody would see it."""
    torch._dynamo.reset()
    given = {name: tensor.to(kernel_device) for name, tensor in operands((2, 3, 4), -2, KERNEL_DTYPES[0]).items()}
    # Dynamo wraps what is raised while it traces.
    with forced("triton"), pytest.raises(Exception, match="a compiler is tracing"):
        torch.compile(site, fullgraph=True, backend="aot_eager")(*(given[name] for name in LEAVES))


@pytest.mark.parametrize("engine", ["reference", "closed_form"])
def test_arithmetic_stays_float32_under_autocast(engine) -> None:
    given = operands((2, 5, 4, 16), -2, KERNEL_DTYPES[3])
    with forced(engine):
        expected = derived(given, -2)
        with torch.autocast("cpu", torch.bfloat16):
            found = derived(given, -2)
    # The formula's backward is autograd's own, which autocast rounds where somebody runs it inside.
    for name in ("x", "written") if engine == "reference" else expected:
        value = expected[name]
        assert torch.equal(found[name], value), name


# Refusals.


def test_refuses_operands_that_do_not_match() -> None:
    streams, update = torch.ones(2, 4, 3), torch.ones(2, 3)
    mixing, weights = torch.ones(2, 4, 4), torch.ones(2, 4)
    with pytest.raises(ValueError, match=r"weights of streams float32\[2, 4, 3\] must have shape \[2, 4\], got"):
        read_streams(streams, torch.ones(4))
    with pytest.raises(ValueError, match=r"update of streams float32\[2, 4, 3\] must have shape \[2, 3\], got"):
        write_streams(streams, torch.ones(2, 4, 3), mixing, weights)
    with pytest.raises(ValueError, match=r"mixing of streams float32\[2, 4, 3\] must have shape \[2, 4, 4\], got"):
        write_streams(streams, update, torch.ones(4, 4), weights)
    for axis in (-1, 2, 3, -4):
        with pytest.raises(ValueError, match="axis must be that of the streams, with the features just behind it"):
            read_streams(streams, weights, axis)
    with pytest.raises(TypeError, match="streams must be floating point"):
        read_streams(streams.long(), weights)
    with pytest.raises(TypeError, match="weights must be floating point"):
        read_streams(streams, weights.long())
