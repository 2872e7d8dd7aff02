"""The Triton kernels of the fused operations against the references.

test_triton.py runs this file in a separate process: in Triton's interpreter, or on a GPU.
"""

from functools import partial

import pytest
import torch

from wavedil.audio import WaveNet
from wavedil.core import GatedBlock
from wavedil.ops import launch
from wavedil.ops.cross_entropy import IGNORED, cross_entropy
from wavedil.ops.cross_entropy import reference as plain_cross_entropy
from wavedil.ops.cross_entropy import triton as entropy
from wavedil.ops.gate import gate
from wavedil.ops.gate import reference as plain_gate
from wavedil.ops.gate import triton as gates
from wavedil.ops.gate.triton_kernels import COMPILED
from wavedil.ops.gated_residual import gated_residual
from wavedil.ops.gated_residual import reference as plain_residual

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of NumPy in the interpreter: infinity, NaN
DEVICE = "cuda" if COMPILED else "cpu"
HALVES = (torch.bfloat16, torch.float16)
# Relative; half a step of bfloat16 is 3.9e-3, of float16 4.9e-4: so rounding must be to nearest.
TOLERANCE = {torch.float32: 3e-6, torch.bfloat16: 4.2e-3, torch.float16: 6e-4}


@pytest.fixture(autouse=True)
def small_tensors_too(monkeypatch):
    monkeypatch.setattr(launch, "device_type", DEVICE)
    monkeypatch.setattr(launch, "_MIN_ELEMENTS", 1)
    torch.manual_seed(0)


def randn(*shape, dtype=torch.float32, scale=2.0):
    return (scale * torch.randn(*shape, device=DEVICE)).to(dtype)


def outputs_and_gradients(function, tensors, grads):
    """Outputs, then gradients of the tensors that are not None."""
    inputs = [None if t is None else t.detach().requires_grad_() for t in tensors]
    outputs = function(*inputs)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    needed = [t for t in inputs if t is not None]
    gradients = torch.autograd.grad(outputs, needed, [g.to(o.dtype) for g, o in zip(grads, outputs, strict=True)])
    return [t.detach() for t in (*outputs, *gradients)]


def wide(tensors):
    return [None if t is None else t.double() for t in tensors]


def check(function, plain, tensors, grads, tolerance, absolute=1e-6):
    ours = outputs_and_gradients(function, tensors, grads)
    exact = outputs_and_gradients(plain, wide(tensors), wide(grads))
    dtypes = [t.dtype for t in tensors if t is not None]
    assert [t.dtype for t in ours[-len(dtypes) :]] == dtypes
    for a, b in zip(ours, exact, strict=True):
        assert a.shape == b.shape
        assert torch.allclose(a.double(), b, rtol=tolerance, atol=absolute * (1 + float(b.abs().max()))), (a, b)


@pytest.mark.parametrize(
    ("shape", "bias", "condition", "dtype"),
    [
        ((1, 1, 1), False, None, torch.float32),
        ((3, 3, 17), True, None, torch.float32),
        ((1, 3, 1030), True, None, torch.float32),
        ((3, 3, 17), True, (3, 6, 17), torch.float32),
        ((2, 3, 17), False, (1, 6, 1), torch.bfloat16),
        ((2, 5, 3, 7), True, (2, 10, 1, 7), torch.float16),
        ((3, 64, 17), True, None, torch.bfloat16),
        ((3, 4), True, (1, 8), torch.float32),
    ],
    ids=str,
)
@pytest.mark.parametrize("channels_last", [False, True])
def test_gate(shape, bias, condition, dtype, channels_last):
    batch, channels, *space = shape
    h = randn(batch, *space, 2 * channels, dtype=dtype).movedim(-1, 1)
    h = h if channels_last else h.contiguous()
    tensors = [
        h,
        randn(2 * channels) if bias else None,  # float32, as under autocast
        randn(*condition, dtype=dtype) if condition else None,
    ]
    order = "sigmoid_first" if channels_last else "tanh_first"
    assert gates.supports(*tensors)
    z = gate(h, order)
    assert (z.movedim(1, -1) if channels_last else z).is_contiguous()
    # With a condition the sum is rounded to the dtype of h.
    tolerance = TOLERANCE[dtype] * (4 if condition and dtype in HALVES else 1)
    absolute = 3e-3 if condition and dtype in HALVES else 1e-6
    check(
        lambda h, bias, condition: gate(h, order, bias, condition),
        lambda h, bias, condition: plain_gate(h, order, bias, condition),
        tensors,
        [randn(*shape, dtype=dtype)],
        tolerance,
        absolute,
    )


def test_gate_of_slices_and_of_a_gradient_that_is_one():
    h = randn(2, 20, 40)[:, 3:9, 5:22]
    d = randn(2, 17, 40).transpose(1, 2)[:, 5:8]
    check(gate, plain_gate, [h], [d], TOLERANCE[torch.float32])
    check(gate, plain_gate, [h[:, :, :1].expand(2, 6, 17)], [d], TOLERANCE[torch.float32])


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_extreme_gate_inputs(dtype):
    """Large values saturate without overflow, small values keep their precision, NaN stays NaN."""
    values = [0.0, 1e-7, -1e-3, 0.3, -0.62, 0.63, -9.0, 20, 100, -100, 6e4, float("inf"), -float("inf"), float("nan")]
    values = torch.tensor(values, device=DEVICE)
    h = torch.cartesian_prod(values, values).to(dtype).T[None].contiguous()
    d = torch.ones(1, 1, h.shape[2], dtype=dtype, device=DEVICE)
    for a, b in zip(
        outputs_and_gradients(gate, [h], [d]), outputs_and_gradients(plain_gate, wide([h]), wide([d])), strict=True
    ):
        b = b.where(~b.isnan() | h.isnan().any(1, keepdim=True), 0)  # inf * 0
        # In float64 1 - tanh^2 cancels: at 20 its error is 1e-17. In float16 the smallest number is 6e-8.
        smallest = 6e-8 if dtype == torch.float16 else 2e-16
        assert torch.allclose(a.double(), b, rtol=TOLERANCE[dtype], atol=smallest, equal_nan=True)


def second_derivatives(function, tensors, total=lambda o: o.square().sum()):
    inputs = [t.detach().requires_grad_() for t in tensors]
    outputs = function(*inputs)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    first = torch.autograd.grad(sum(map(total, outputs)), inputs, create_graph=True)
    return torch.autograd.grad(sum(g.square().sum() for g in first), inputs)


def close(ours, exact, tolerance=1e-4):
    for a, b in zip(ours, exact, strict=True):
        assert torch.allclose(a.double(), b.double(), rtol=tolerance, atol=tolerance * float(b.abs().max())), (a, b)


@pytest.mark.parametrize("total", [torch.sum, lambda z: z.square().sum()], ids=["sum", "squares"])
@pytest.mark.parametrize("added", [0, 1, 2], ids=["h", "bias", "condition"])
def test_second_derivatives_of_the_gate(added, total):
    tensors = [randn(2, 6, 9, scale=1), randn(6), randn(2, 6, 1)][: 1 + added]
    ours, exact = (
        second_derivatives(lambda h, *others, f=f: f(h, "tanh_first", *others), tensors, total)
        for f in (gate, plain_gate)
    )
    close(ours, exact)


def layer(channels, hidden, time, dtype=torch.float32, batch=2, bias=True, condition=None):
    parameters = [randn(2 * hidden, channels, 2), randn(2 * hidden), randn(channels, hidden, 1), randn(channels)]
    if not bias:
        parameters[1] = parameters[3] = None
    condition = None if condition is None else randn(*condition, dtype=dtype)
    return [randn(batch, channels, time, dtype=dtype), *parameters, condition]


def call_layer(function, x, weight, bias, residual_weight, residual_bias, condition):
    return function(
        x,
        weight,
        bias,
        residual_weight,
        residual_bias,
        padding=[(3, 0)],
        dilation=(3,),
        order="tanh_first",
        condition=condition,
    )


@pytest.mark.parametrize(
    ("channels", "hidden", "time", "bias", "condition"),
    [(1, 1, 1, True, None), (3, 5, 17, False, None), (64, 3, 17, True, (2, 6, 1)), (9, 7, 30, True, (1, 14, 30))],
)
def test_gated_residual(channels, hidden, time, bias, condition, monkeypatch):
    tensors = layer(channels, hidden, time, bias=bias, condition=condition)
    grads = [randn(2, channels, time), randn(2, hidden, time)]
    check(partial(call_layer, gated_residual), partial(call_layer, plain_residual), tensors, grads, 1e-4, 1e-5)


def test_gated_residual_under_autocast():
    tensors = layer(8, 8, 17, condition=(2, 16, 17))
    tensors[-1] = tensors[-1].bfloat16()  # the output of a convolution
    grads = [randn(2, 8, 17), randn(2, 8, 17)]
    with torch.autocast(DEVICE, torch.bfloat16):
        ours, plain = (
            outputs_and_gradients(partial(call_layer, f), tensors, grads) for f in (gated_residual, plain_residual)
        )
    exact = outputs_and_gradients(partial(call_layer, plain_residual), wide(tensors), wide(grads))
    assert [t.dtype for t in ours] == [torch.bfloat16] * 2 + [torch.float32] * 5 + [torch.bfloat16]
    for a, b, c in zip(ours, plain, exact, strict=True):
        assert (a.double() - c).norm() < 1.5 * (b.double() - c).norm()


def test_second_derivatives_of_the_layer():
    tensors = layer(3, 5, 8, condition=(2, 10, 8))
    ours, exact = (second_derivatives(partial(call_layer, f), tensors) for f in (gated_residual, plain_residual))
    close(ours, exact, 1e-3)


def test_a_condition_with_a_larger_batch_than_x():
    x, *parameters, condition = layer(3, 5, 8, batch=1, condition=(2, 10, 8))
    ours, exact = (call_layer(f, x, *parameters, condition) for f in (gated_residual, plain_residual))
    close(ours, exact)


@pytest.mark.parametrize(
    ("shape", "dtype", "scale"),
    [
        ((1, 1, 1), torch.float32, 1),
        ((3, 256, 17), torch.float32, 3),
        ((1, 256, 70), torch.bfloat16, 3),
        ((3, 3, 1030), torch.float16, 200),
        ((2, 600, 5), torch.float32, 1e4),  # three blocks of classes
        ((7, 300), torch.bfloat16, 100),  # rows
    ],
    ids=str,
)
@pytest.mark.parametrize("channels_last", [False, True])
def test_cross_entropy(shape, dtype, scale, channels_last):
    batch, num_classes, *space = shape
    logits = randn(*shape, dtype=dtype, scale=scale)
    if channels_last:
        logits = logits.movedim(1, -1).contiguous().movedim(-1, 1)
    targets = torch.randint(num_classes, (batch, *space), device=DEVICE)
    targets[..., ::5] = IGNORED
    assert entropy.supports(logits, targets)
    grads = [randn(batch, *space)]
    nats = cross_entropy(logits, targets)
    assert nats.dtype == torch.float32 and bool((nats[..., ::5] == 0).all())
    ours = partial(cross_entropy, targets=targets)
    check(ours, partial(plain_cross_entropy, targets=targets), [logits], grads, TOLERANCE[dtype])


def test_infinite_and_nan_logits_and_targets_out_of_range():
    logits, targets = randn(1, 300, 8), torch.arange(8, device=DEVICE)[None] % 3
    logits[0, 3:, 0] = logits[0, :280, 1] = logits[0, 9:, 7] = -float("inf")
    logits[0, 5, 2] = float("nan")
    logits[0, 5, 3] = float("inf")
    targets[0, 1], targets[0, 7] = 290, IGNORED
    ours, exact = (
        outputs_and_gradients(partial(f, targets=targets), [logits], [torch.ones(1, 8, device=DEVICE)])
        for f in (cross_entropy, plain_cross_entropy)
    )
    for a, b in zip(ours, exact, strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-6, equal_nan=True)
    for wrong in (-1, 300, 2**62):
        nats, gradient = outputs_and_gradients(
            partial(cross_entropy, targets=targets.fill_(0).index_fill_(1, torch.tensor([4], device=DEVICE), wrong)),
            [randn(1, 300, 8)],
            [torch.ones(1, 8, device=DEVICE)],
        )
        assert nats.isnan().tolist() == [[i == 4 for i in range(8)]]
        assert gradient.isnan().all(1).tolist() == nats.isnan().tolist()


def test_second_derivatives_of_the_cross_entropy():
    logits, targets = randn(2, 5, 7), torch.randint(5, (2, 7), device=DEVICE)
    targets[0, 3] = IGNORED
    ours, exact = (
        second_derivatives(partial(f, targets=targets), [logits]) for f in (cross_entropy, plain_cross_entropy)
    )
    close(ours, exact)


def test_unsupported_tensors(monkeypatch):
    h, targets = randn(2, 6, 9), torch.zeros(2, 9, dtype=torch.int64, device=DEVICE)
    assert gates.supports(h) and entropy.supports(h, targets)
    assert not gates.supports(h.double()) and not entropy.supports(h.double(), targets)
    assert not gates.supports(h[:0]) and gate(h[:0]).shape == (0, 3, 9)
    assert not gates.supports(h, None, h.bfloat16())
    assert not gates.supports(h, None, randn(2, 6, 9, 1)) and not gates.supports(h, randn(3))
    assert not entropy.supports(h, targets.int()) and not entropy.supports(h, targets[:1])
    assert torch.autograd.gradcheck(gate, [h.double().requires_grad_()])
    monkeypatch.setattr(launch, "_MIN_ELEMENTS", 200)
    assert not gates.supports(h)


def test_a_network_trains_alike_with_and_without_the_kernels(monkeypatch):
    torch.manual_seed(1)
    model = WaveNet(6, 5, "1,2,4", num_codes=31).to(DEVICE)
    codes, mask = torch.randint(31, (2, 40), device=DEVICE), torch.rand(2, 40, device=DEVICE) > 0.3
    results = []
    for enabled in ("1", "0"):
        monkeypatch.setenv("WAVEDIL_TRITON", enabled)
        model.zero_grad()
        loss = model.loss(codes, mask)
        loss.backward()
        results.append([loss.detach(), *[p.grad for p in model.parameters()]])
    close(*results)


def test_equal_results_in_each_call():
    block = GatedBlock(1, 6, causal=True, condition_channels=2).to(DEVICE)
    x, condition = randn(2, 6, 1030), randn(2, 2, 1030)
    results = []
    for _ in range(2):
        block.zero_grad()
        sum(out.square().sum() for out in block(x, condition)).backward()
        results.append([p.grad.clone() for p in block.parameters()])
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)
