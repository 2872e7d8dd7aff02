"""Parameter counts and multiply-adds of modules."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode


def count_parameters(module: nn.Module) -> int:
    """Number of elements of the module's parameters; shared parameters count once."""
    return sum(parameter.numel() for parameter in module.parameters())


def zero_share(module: nn.Module) -> float:
    """Share of zeros among the weights: the parameters with more than one axis."""
    weights = [parameter for parameter in module.parameters() if parameter.ndim > 1]
    total = sum(weight.numel() for weight in weights)
    return 1 - sum(int(weight.count_nonzero()) for weight in weights) / total if total else 0.0


def count_multiply_adds(module: nn.Module, *example_inputs: Tensor) -> int:
    """Multiply-adds of one forward pass of ``module`` over ``example_inputs``, for the complete batch.

    Counts convolutions and matrix products, but no element-wise operations. Divide by the number of positions for the
    cost per position. The module runs in evaluation mode without gradients; its training flags are restored.
    """
    from torch.autograd.forward_ad import dual_level

    training = {part: part.training for part in module.modules()}
    try:
        module.eval()
        # In forward-mode differentiation wavedil.ops uses plain PyTorch (ops/fallback.py), which the counter knows.
        with torch.no_grad(), dual_level(), _Counter() as counter:
            module(*example_inputs)
    finally:
        for part, flag in training.items():
            part.training = flag
    return counter.operations // 2  # a multiply-add is two


class _Counter(TorchDispatchMode):
    """Adds up the operations of ``torch.utils.flop_counter``.

    Its ``FlopCounterMode`` would do, but imports torch._dynamo and sympy, which takes 2 s.
    """

    def __init__(self) -> None:
        from torch.utils.flop_counter import flop_registry  # takes 0.1 s to import

        super().__init__()
        self.formulas = {torch.ops.aten.mkldnn_rnn_layer: _lstm_operations, **flop_registry}
        self.operations = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # True would import torch._dynamo

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        formula = self.formulas.get(func._overloadpacket)
        if formula is None:
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        result = func(*args, **kwargs)
        if formula is not None:
            self.operations += formula(*args, **kwargs, out_val=result)
        return result


def _lstm_operations(x: Tensor, inputs: Tensor, hidden: Tensor, *others: Any, out_val: Any) -> int:
    """Operations of an LSTM layer on CPUs, which the registry does not have; ``x`` is ``(time, batch, channels)``."""
    return 2 * x.shape[0] * x.shape[1] * (inputs.numel() + hidden.numel())
