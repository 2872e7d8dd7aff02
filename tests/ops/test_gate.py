"""The fused gate against the reference."""

import threading

import pytest
import torch
from torch.autograd import forward_ad

from wavedil import WavedilError
from wavedil.ops.gate import GATE_ORDERS, cpu, gate, reference

pytest.importorskip("numba")

# Per number. Half a step of bfloat16 is 3.9e-3, so rounding must be to nearest.
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 4.1e-3}


def rows(batch: int, channels: int, *space: int, dtype: torch.dtype) -> torch.Tensor:
    """A random ``(batch, channels, *space)`` with channels innermost in memory."""
    return (3 * torch.randn(batch, *space, channels)).to(dtype).movedim(-1, 1)


def value_and_gradient(function, h, d):
    h = h.detach().requires_grad_()
    g = function(h)
    (gradient,) = torch.autograd.grad(g, h, d.to(g.dtype))
    return g.detach(), gradient


@pytest.mark.parametrize("order", GATE_ORDERS)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("shape", [(2, 10, 701), (1, 128, 63), (3, 34, 7, 9), (2, 6, 5, 7, 11)])
def test_kernels_equal_reference(shape, dtype, order):
    h = rows(*shape, dtype=dtype)
    d = torch.randn(shape[0], shape[1] // 2, *shape[2:]).to(dtype)
    assert cpu.supports(h)
    ours = value_and_gradient(lambda h: gate(h, order), h, d)
    exact = value_and_gradient(lambda h: reference(h, order), h.double(), d.double())
    for a, b in zip(ours, exact, strict=True):
        assert a.dtype == dtype and a.shape == b.shape
        torch.testing.assert_close(a.double(), b, rtol=TOLERANCE[dtype], atol=1e-6)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_extreme_values(dtype):
    """Large values saturate without overflow, small values keep their precision, NaN stays NaN."""
    values = torch.tensor([0.0, -0.0, 1e-30, -1e-7, 1e-3, 0.3, -9.0, 20, 60, -75, 1e4, -3e38])
    values = torch.cat([values, torch.tensor([float("inf"), -float("inf"), float("nan")])])
    h = torch.cartesian_prod(values, values).repeat(16, 1).to(dtype)[None].transpose(1, 2)
    assert cpu.supports(h)
    d = torch.ones(1, 1, h.shape[2], dtype=dtype)
    ours = value_and_gradient(gate, h, d)
    exact = value_and_gradient(reference, h.double(), d.double())
    for a, b in zip(ours, exact, strict=True):
        # 1 - tanh^2 cancels in float64: at 20 its error is 1e-17.
        b = b.where(~b.isnan() | h.isnan().any(1, keepdim=True), torch.zeros_like(b))  # inf * 0
        torch.testing.assert_close(a.double(), b, rtol=TOLERANCE[dtype], atol=2e-16, equal_nan=True)


def test_unsupported_tensors():
    assert not cpu.supports(torch.randn(2, 64, 500))  # time innermost
    assert not cpu.supports(rows(2, 64, 500, dtype=torch.float64))
    assert not cpu.supports(rows(2, 64, 500, dtype=torch.float16))
    assert not cpu.supports(rows(1, 64, 1, dtype=torch.float32))  # one sample of a stream
    assert gate(torch.randn(2, 64, 0)).shape == (2, 32, 0)


def test_gradient_that_is_a_slice():
    h = rows(2, 20, 300, dtype=torch.float32).requires_grad_()
    d = torch.randn(2, 300, 40).transpose(1, 2)[:, 5:15]
    ours, exact = torch.autograd.grad(gate(h), h, d), torch.autograd.grad(reference(h), h, d)
    torch.testing.assert_close(ours, exact, rtol=1e-5, atol=1e-6)


def test_second_derivatives():
    h = rows(1, 8, 300, dtype=torch.float32).requires_grad_()
    second = []
    for function in (gate, reference):
        (first,) = torch.autograd.grad(function(h).square().sum(), h, create_graph=True)
        second.append(torch.autograd.grad(first.square().sum(), h)[0])
    torch.testing.assert_close(*second, rtol=1e-4, atol=1e-5)


def test_function_transforms():
    h = rows(2, 20, 300, dtype=torch.float32)
    torch.testing.assert_close(torch.func.vmap(lambda h: gate(h[None])[0])(h), reference(h))
    with forward_ad.dual_level():
        tangents = [forward_ad.unpack_dual(f(forward_ad.make_dual(h, h))).tangent for f in (gate, reference)]
    torch.testing.assert_close(*tangents)


def test_concurrent_calls_with_several_threads():
    h = rows(2, 64, 4000, dtype=torch.float32)
    expected = reference(h)
    threads, results = torch.get_num_threads(), []
    torch.set_num_threads(3)
    try:
        workers = [threading.Thread(target=lambda: results.append(gate(h))) for _ in range(4)]
        [worker.start() for worker in workers]
        [worker.join() for worker in workers]
    finally:
        torch.set_num_threads(threads)
    assert len(results) == 4
    for result in results:
        torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-6)


def test_errors():
    with pytest.raises(WavedilError, match="expected .batch, 2 . channels"):
        gate(torch.zeros(2, 3, 4))
    with pytest.raises(WavedilError, match="order is 'tanh': expected one of tanh_first"):
        gate(torch.zeros(2, 4, 4), order="tanh")
