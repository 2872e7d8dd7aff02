"""Weighted sums of losses, and losses with optional inputs, for sound and images."""

import inspect
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from torch import Tensor, nn

from wavedil.errors import WavedilError, count_text


class WeightedSum(nn.Module):
    """Weighted sum of losses.

    Args:
        losses: modules called as ``loss(prediction, target)``.
        weights: one for each loss; default 1.
    """

    def __init__(self, losses: list[nn.Module], weights: list[float] | None = None):
        super().__init__()
        self.losses, self.weights = nn.ModuleList(losses), [1.0] * len(losses) if weights is None else weights
        if not losses or len(self.weights) != len(losses):
            raise WavedilError(
                f"losses has {count_text(len(losses), 'entry')} and weights {len(self.weights)}: "
                "expected one weight for each loss"
            )

    def set_frequencies(self, counts: Tensor) -> None:
        """Passes class frequencies to the losses that use them; see :mod:`wavedil.vision.losses`."""
        for loss in self.losses:
            if hasattr(loss, "set_frequencies"):
                loss.set_frequencies(counts)

    def forward(self, prediction: Tensor, target: Tensor, **inputs: Tensor | None) -> Tensor:
        """The sum; ``inputs`` go to the losses that declare them, see :func:`call_loss`."""
        terms = (call_loss(loss, prediction, target, **inputs) for loss in self.losses)
        return sum(weight * term for weight, term in zip(self.weights, terms, strict=True))


def call_loss(loss: Callable[..., Tensor], prediction: Tensor, target: Tensor, **inputs: Any) -> Tensor:
    """Calls a loss with the optional inputs that its signature declares.

    Args:
        loss: a module or a function of ``(prediction, target)``; it may declare any of ``inputs`` as further arguments.
        inputs: optional inputs by argument name. Those that ``loss`` does not declare are not passed.
    """
    if not inputs:
        return loss(prediction, target)
    declared = _parameters(type(loss).forward if isinstance(loss, nn.Module) else loss)
    return loss(prediction, target, **{name: inputs[name] for name in inputs if declared is None or name in declared})


@lru_cache
def _parameters(function: Callable[..., Any]) -> frozenset[str] | None:
    """Names of a function's parameters; None if it takes any keyword."""
    parameters = inspect.signature(function).parameters
    takes_any = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    return None if takes_any else frozenset(parameters)
