"""The fused cross entropy against the reference."""

import pytest
import torch

from wavedil.ops.cross_entropy import cpu, cross_entropy, reference

pytest.importorskip("numba")

TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 4.1e-3}  # of the gradient; the cross entropy itself is float32


def results(function, logits, targets, d):
    logits = logits.detach().requires_grad_()
    nats = function(logits, targets)
    return nats.detach(), torch.autograd.grad(nats, logits, d.to(nats.dtype))[0]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("rows", "num_classes", "scale"), [(63, 256, 3), (500, 5, 1), (130, 37, 200)])
def test_kernels_equal_reference(rows, num_classes, scale, dtype):
    logits = (scale * torch.randn(rows, num_classes)).to(dtype)
    targets, d = torch.randint(0, num_classes, (rows,)), torch.randn(rows)
    assert cpu.supports(logits, targets)
    nats, gradient = results(cross_entropy, logits, targets, d)
    exact_nats, exact_gradient = results(reference, logits.double(), targets, d)
    assert nats.dtype == torch.float32 and gradient.dtype == dtype
    torch.testing.assert_close(nats.double(), exact_nats, rtol=2e-6, atol=1e-6 * scale)
    torch.testing.assert_close(gradient.double(), exact_gradient, rtol=TOLERANCE[dtype], atol=1e-6 * scale)


def test_infinite_and_nan_logits():
    logits = torch.randn(20, 128)
    logits[0, 3:] = -float("inf")
    logits[1, 5] = float("nan")
    targets = torch.arange(20) % 3
    ours, exact = cross_entropy(logits, targets), reference(logits, targets)
    assert ours[1].isnan()
    torch.testing.assert_close(ours, exact, equal_nan=True)


@pytest.mark.parametrize("wrong", [-1, 128])
def test_target_out_of_range(wrong):
    targets = torch.zeros(20, dtype=torch.int64)
    targets[7] = wrong
    with pytest.raises(IndexError, match="out of bounds"):
        cross_entropy(torch.randn(20, 128), targets)


def test_second_derivatives():
    logits, targets = torch.randn(20, 128).requires_grad_(), torch.arange(20)
    second = []
    for function in (cross_entropy, reference):
        nats = function(logits, targets).square().sum()
        (first,) = torch.autograd.grad(nats, logits, create_graph=True)
        second.append(torch.autograd.grad(first.square().sum(), logits)[0])
    torch.testing.assert_close(*second, rtol=1e-4, atol=1e-5)
