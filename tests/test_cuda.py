"""What only a CUDA device can show: kernels agree with the CPU, steps do not wait, mixed precision trains."""

import pytest
import torch
from toy import Source, trainer

from orthostream import models
from orthostream.ops import forced, implementation, orthogonal_update
from orthostream.training.distributed import World

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float32, 1e-5), (torch.bfloat16, 2**-8), (torch.float16, 2**-10)])
@pytest.mark.parametrize(("shape", "dim"), [((4, 65, 384), -1), ((4, 64, 9, 9), 1), ((4, 64, 9, 9), (1, 2, 3))])
def test_update_and_gradients_agree_with_float64_on_the_cpu(dtype, rtol, shape, dim):
    generator = torch.Generator().manual_seed(0)
    x, u, g = (torch.randn(shape, generator=generator).to(dtype) for _ in range(3))
    x[0] = 0

    def run(device, dtype):
        leaves = [t.to(device, dtype).requires_grad_() for t in (x, u)]
        y = orthogonal_update(*leaves, dim)
        y.backward(g.to(device, dtype))
        return [t.detach().cpu().double() for t in (y, *(leaf.grad for leaf in leaves))]

    for actual, expected in zip(run("cuda", dtype), run("cpu", torch.float64), strict=True):
        # one rounding of the result, and float32 sums of up to 5,184 terms
        torch.testing.assert_close(actual, expected, rtol=2 * rtol, atol=2 * rtol)


@pytest.mark.parametrize("amp", [None, torch.bfloat16])
def test_steps_between_log_rows_do_not_wait_for_the_device(tmp_path, amp):
    made = on_cuda(tmp_path, amp)
    steps = made.train_batches.epoch(0)
    made._step(next(steps), NoSignal())
    micros = [tuple((images.cuda(), labels.cuda()) for images, labels in next(steps)) for _ in range(3)]
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for micro in micros:
            made._step(micro, NoSignal())
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("amp", [None, torch.bfloat16, torch.float16])
def test_training_goes_on_where_it_stopped(tmp_path, amp):
    from orthostream.training import checkpoint as checkpoints

    whole = on_cuda(tmp_path / "whole", amp)
    whole.fit()
    on_cuda(tmp_path / "parts", amp, max_steps=9).fit()
    resumed = on_cuda(tmp_path / "parts", amp)
    saved, _ = checkpoints.newest(tmp_path / "parts" / "checkpoints")
    # what a run of nine steps saved at its end, put back to the middle of its epoch
    saved.state["position"] |= {"epoch": 1, "step_in_epoch": 3}
    resumed.resume(saved)
    resumed.fit()
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name


class NoSignal:
    signal = 0


def on_cuda(folder, amp, **changes):
    """A toy trainer on the first CUDA device."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    world = World(0, 1, torch.device("cuda", 0))
    return trainer(folder, source=Source(), world=world, autocast_dtype=amp, log_interval=100, **changes)


# Kernels inside models, graphs and compiled code.


@pytest.mark.parametrize("amp", [None, torch.bfloat16])
@pytest.mark.parametrize("name", ["vit_s", "preact_resnet18"])
def test_models_by_kernels_agree_with_the_plain_formula(name, amp):
    """ViT: the pair and the update on tokens; ResNet: the update on channels_last maps."""
    torch.manual_seed(0)
    sizes = {"vit_s": {"embed_dim": 96, "depth": 2, "num_heads": 3}, "preact_resnet18": {"widths": (16, 32, 64, 128)}}
    model = models.create(name, num_classes=10, connection="orthogonal", **sizes[name]).cuda()
    images = torch.randn(8, 3, 32, 32, device="cuda")
    if name != "vit_s":
        model.to(memory_format=torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)

    def numbers(implementation):
        model.zero_grad()
        with forced(implementation), torch.autocast("cuda", amp, enabled=amp is not None):
            logits = model(images)
            logits.float().square().sum().backward()
        return [logits.detach().float(), *(parameter.grad.clone() for parameter in model.parameters())]

    tolerance = 1e-3 if amp is None else 0.05
    for found, expected in zip(numbers("triton"), numbers("reference"), strict=True):
        assert (found - expected).norm() <= tolerance * expected.norm() + 1e-6


def test_kernels_are_what_a_device_runs():
    for shape, dim in (((4, 65, 384), -1), ((4, 64, 9, 9), 1), ((4, 64, 9, 9), (1, 2, 3))):
        x = torch.randn(shape, device="cuda")
        assert implementation(x, x, dim).name == "triton", implementation(x, x, dim).reason


def test_forward_and_backward_are_captured_in_a_graph():
    x, u, g = (torch.randn(64, 384, device="cuda") for _ in range(3))
    leaves = [x.requires_grad_(), u.requires_grad_()]

    def step():
        y = orthogonal_update(*leaves)
        return [y, *torch.autograd.grad(y, leaves, g)]

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    with torch.no_grad():
        x.mul_(-0.5)
    graph.replay()
    for found, expected in zip(captured, step(), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("name", ["closed_form", "triton"])
def test_compiled_by_inductor(name):
    """The closed form, fused, and the opaque operator around the kernels."""
    torch._dynamo.reset()
    x, u, g = (torch.randn(64, 384, device="cuda") for _ in range(3))
    leaves = [x.requires_grad_(), u.requires_grad_()]

    def site(x, u):
        return torch.nn.functional.layer_norm(orthogonal_update(x, u.tanh()), (384,))

    with forced(name):
        compiled = torch.compile(site, fullgraph=True)
        y = compiled(*leaves)
        found = [y, *torch.autograd.grad(y, leaves, g)]
    with forced("reference"):
        y = site(*leaves)
        expected = [y, *torch.autograd.grad(y, leaves, g)]
    for actual, exact in zip(found, expected, strict=True):
        torch.testing.assert_close(actual, exact, rtol=1e-4, atol=1e-4)
