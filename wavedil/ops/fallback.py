"""When a hand-written form may stand in for plain PyTorch, and how the two meet."""

import warnings
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad


def plain_eager(*tensors: Tensor | None) -> bool:
    """Whether these are ordinary CPU tensors in ordinary eager mode.

    Tracing, `torch.compile`, export, `torch.func` transforms, forward-mode derivatives and tensor
    subclasses need operations PyTorch can see through, so they get the plain form.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    if torch._C._functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0:
        return False
    return all(t is None or (type(t) in (Tensor, torch.nn.Parameter) and t.device.type == "cpu") for t in tensors)


def flat(x: Tensor) -> Any:
    """A contiguous tensor's numbers as a flat numpy array, bfloat16 as uint16; shares memory."""
    x = x.detach().reshape(-1)
    return (x.view(torch.uint16) if x.dtype == torch.bfloat16 else x).numpy()


def differentiable_backward(
    ctx: torch.autograd.function.FunctionCtx,
    plain: Callable[..., Tensor | tuple[Tensor, ...]],
    inputs: tuple[Tensor | None, ...],
    grads: tuple[Tensor, ...],
) -> list[Tensor | None]:
    """Gradients of `plain(*inputs)` that can themselves be differentiated.

    For the backward of a fast form when it runs with grad mode on (`create_graph=True`).
    """
    wanted = [i for i, t in enumerate(inputs) if t is not None and ctx.needs_input_grad[i]]
    outputs = plain(*inputs)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    sources = [inputs[i] for i in wanted]
    found = torch.autograd.grad(outputs, sources, grads, create_graph=True)
    gradients: list[Tensor | None] = [None] * len(inputs)
    for i, gradient in zip(wanted, found, strict=True):
        gradients[i] = gradient
    return gradients


def tried(kernels: str, trial: Callable[[ModuleType], object]) -> ModuleType | None:
    """The module of numba loops by its name, after a small trial; None where numba is not usable."""
    try:
        module = import_module(kernels)
    except ImportError:
        return None
    try:
        trial(module)
    except Exception as error:  # numba is an accelerator: whatever it trips over, plain torch works
        warnings.warn(f"numba cannot run {kernels} ({error}); plain PyTorch does", stacklevel=3)
        return None
    return module
