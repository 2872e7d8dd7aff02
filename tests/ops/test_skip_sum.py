"""The fused sum of skips against the reference."""

import pytest
import torch

from wavedil.ops.skip_sum import cpu, reference, skip_sum

TOLERANCE = {torch.float64: 1e-13, torch.float32: 3e-6, torch.bfloat16: 1e-2}


def parts(dtype, time=701, batch=2, widths=(9, 16, 8), skip=11):
    gates = [torch.randn(batch, time, w).transpose(1, 2) for w in widths]
    tensors = [torch.randn(skip, sum(widths), 1), torch.randn(skip), *gates]
    return [t.to(dtype).requires_grad_() for t in tensors]


def results(function, tensors):
    weight, bias, *gates = tensors
    torch.manual_seed(1)
    y = function(gates, weight, bias)
    d = torch.randn(y.shape, dtype=torch.float64).to(weight.dtype)
    return [y, *torch.autograd.grad(y, [t for t in tensors if t is not None], d)]


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_fused_equals_reference(dtype, bias, monkeypatch):
    monkeypatch.setattr(cpu, "_PIECE_BYTES", 30_000)  # several pieces, the last one shorter
    tensors = parts(dtype)
    tensors[1] = tensors[1] if bias else None
    assert cpu.supports(tensors[2:], *tensors[:2])
    ours = results(skip_sum, tensors)
    wide = [None if t is None else t.detach().double().requires_grad_() for t in tensors]
    for a, b in zip(ours, results(reference, wide), strict=True):
        assert a.dtype == dtype and a.shape == b.shape
        assert (a.double() - b).norm() / b.norm() < TOLERANCE[dtype]


def test_two_axes_equal_the_sum_of_products():
    gates = [torch.randn(1, 3, 4, 5) for _ in range(3)]
    weight, bias = torch.randn(2, 9, 1, 1), torch.randn(2)
    products = [torch.nn.functional.conv2d(g, w) for g, w in zip(gates, weight.split(3, 1), strict=True)]
    expected = sum(products) + bias[:, None, None]
    torch.testing.assert_close(skip_sum(gates, weight, bias), expected, rtol=1e-4, atol=1e-5)


def test_gradcheck():
    tensors = parts(torch.float64, time=40)

    def function(weight, bias, *gates):
        return skip_sum(gates, weight, bias)

    assert torch.autograd.gradcheck(function, tensors, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, tensors, fast_mode=True)


def test_autocast_and_layout():
    weight, bias, *gates = parts(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        y = skip_sum(gates, weight, bias)
    assert y.dtype == torch.bfloat16 and y.stride() == (11 * 701, 1, 11)
