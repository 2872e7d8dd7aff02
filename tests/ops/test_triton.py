"""The Triton kernels of the fused operations without a GPU: their cases in Triton's interpreter, and compilation."""

import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from wavedil.errors import WavedilError
from wavedil.ops import launch
from wavedil.ops.cross_entropy import triton as cross_entropy
from wavedil.ops.gate import gate, reference
from wavedil.ops.gate import triton as gates
from wavedil.ops.gated_residual import triton as gated_residual

needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed (torch for CPUs alone)")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@needs_triton
@pytest.mark.parametrize("interpret", ["1", pytest.param("0", marks=needs_cuda)], ids=["interpreter", "cuda"])
def test_cases(interpret, run_cases):
    run_cases(Path(__file__).with_name("triton_cases.py"), interpret)


def run_gate(kernels, dtype):
    h, bias = torch.empty(2, 128, 8000, dtype=dtype), torch.empty(128)
    z, total = gates.forward(kernels, h, bias, h, "tanh_first")
    gates.backward(kernels, total, bias, z, "tanh_first", need_sums=True)


def run_residual(kernels, dtype):
    x = torch.empty(2, 64, 8000, dtype=dtype)
    gated_residual.add_residual(kernels, x, x, torch.empty(64))


def run_cross_entropy(kernels, dtype):
    logits, targets = torch.empty(2, 256, 8000, dtype=dtype), torch.empty(2, 8000, dtype=torch.int64)
    nats, *sums = cross_entropy.forward(kernels, logits, targets)
    cross_entropy.backward(kernels, logits, targets, *sums, nats)


@needs_triton
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize(
    ("module", "run", "count"),
    [(gates, run_gate, 2), (gated_residual, run_residual, 1), (cross_entropy, run_cross_entropy, 2)],
    ids=["gate", "residual", "cross_entropy"],
)
def test_kernels_compile_for_an_h100(module, run, count, dtype, monkeypatch, compile_for_h100):
    """No register is spilled, and where time is innermost, each thread reads 16 bytes at once."""
    compiled = []

    def compile(kernel, programs, device, *arguments, **constants):
        assert programs > 1
        compiled.append(compile_for_h100(kernel, arguments, constants))

    monkeypatch.setattr(module, "launch", compile)
    run(import_module(f"{module.__package__}.triton_kernels"), dtype)
    assert len(compiled) == count
    assert all(stack == 0 and "ld.global.v4" in kernel.asm["ptx"] for kernel, stack in compiled)


def test_the_environment_variable(monkeypatch):
    monkeypatch.setattr(launch, "device_type", "cpu")
    h = torch.randn(2, 64, 1000)
    assert launch.can_launch(h) and not launch.can_launch(h[:1, :, :9])
    monkeypatch.setenv("WAVEDIL_TRITON", "0")
    assert not launch.can_launch(h)
    monkeypatch.setenv("WAVEDIL_TRITON", "off")
    with pytest.raises(WavedilError, match="WAVEDIL_TRITON is 'off': expected 0 or 1"):
        gate(h)


@pytest.fixture
def no_kernels_yet():
    gates.compiled_kernels.cache_clear()
    yield
    gates.compiled_kernels.cache_clear()


def test_without_triton_plain_operations_are_used(monkeypatch, no_kernels_yet):
    monkeypatch.setattr(launch, "device_type", "cpu")
    monkeypatch.setitem(sys.modules, "wavedil.ops.gate.triton_kernels", None)  # makes the import fail
    h = torch.randn(2, 64, 1000)
    assert torch.equal(gate(h), reference(h))


@needs_triton
def test_a_warning_and_plain_operations_where_triton_fails(monkeypatch, no_kernels_yet):
    monkeypatch.setattr(launch, "device_type", "cpu")  # compiled kernels take no CPU tensors
    h = torch.randn(2, 64, 1000)
    with pytest.warns(UserWarning, match="cannot compile wavedil.ops.gate.triton_kernels .*plain PyTorch"):
        assert torch.equal(gate(h), reference(h))
    assert torch.equal(gate(h), reference(h))  # without another warning
