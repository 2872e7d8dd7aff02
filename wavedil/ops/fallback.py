"""Conditions for replacing plain PyTorch by a fused operation, and helpers at the border between the two."""

import warnings
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad


def is_eager_cpu(*tensors: Tensor | None) -> bool:
    """Whether all tensors are plain CPU tensors in eager mode; see :func:`is_eager`."""
    return is_eager("cpu", *tensors)


def is_eager(device_type: str, *tensors: Tensor | None) -> bool:
    """Whether all tensors are plain tensors on a device of this type, in eager mode.

    Tracing, ``torch.compile``, export, ``torch.func`` transforms, forward-mode differentiation and tensor subclasses
    need operations that PyTorch can inspect, so they use the plain implementation.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    if torch._C._functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0:
        return False
    plain = (Tensor, torch.nn.Parameter)
    return all(t is None or (type(t) in plain and t.device.type == device_type) for t in tensors)


def channels_last(x: Tensor) -> Tensor:
    """``(batch, channels, *space)`` as a view ``(batch, *space, channels)``."""
    return x.movedim(1, -1)


def flat_numpy(x: Tensor) -> Any:
    """A contiguous tensor as a flat NumPy array that shares its memory; bfloat16 as uint16."""
    x = x.detach().reshape(-1)
    return (x.view(torch.uint16) if x.dtype == torch.bfloat16 else x).numpy()


def differentiable_backward(
    ctx: torch.autograd.function.FunctionCtx,
    plain: Callable[..., Tensor | tuple[Tensor, ...]],
    inputs: tuple[Tensor | None, ...],
    grads: tuple[Tensor, ...],
) -> list[Tensor | None]:
    """Differentiable gradients of ``plain(*inputs)``.

    For the backward of a fused operation that runs with gradients enabled (``create_graph=True``).

    Args:
        ctx: context of the fused operation, whose first inputs are ``inputs``.
        plain: the same operation in plain PyTorch.
        inputs: inputs of ``plain``.
        grads: gradients of its outputs.

    Returns:
        The gradient of each input; None where it is not needed.
    """
    needed = [i for i, t in enumerate(inputs) if t is not None and ctx.needs_input_grad[i]]
    outputs = plain(*inputs)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    computed = torch.autograd.grad(outputs, [inputs[i] for i in needed], grads, create_graph=True)
    gradients: list[Tensor | None] = [None] * len(inputs)
    for i, gradient in zip(needed, computed, strict=True):
        gradients[i] = gradient
    return gradients


def load_kernels(name: str, trial: Callable[[ModuleType], object]) -> ModuleType | None:
    """Imports a module of numba or Triton kernels and tests it with a small call; None if it does not work.

    Args:
        name: import path of the module.
        trial: calls the kernels once, which also compiles them.
    """
    try:
        module = import_module(name)
    except ImportError:
        return None
    try:
        trial(module)
    except Exception as error:  # kernels only accelerate: after any failure plain PyTorch computes the same
        warnings.warn(f"cannot compile {name} ({error}); using plain PyTorch, which is slower", stacklevel=3)
        return None
    return module
