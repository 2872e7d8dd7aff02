"""The definition of the precisions bf16 and int8: the torch engine with rounded weights and inputs of products.

Only weights of products and their inputs are rounded: the inputs of layers, the gates, the features of a condition and
the inputs of the head's products. Sums, biases, the input embedding and the residual stream are not.

- bf16: to nearest, ties to even.
- int8: integers from -127 to 127 times a scale. Each row of weights (one output) has the scale
  ``largest magnitude / 127``. The taps of a convolution are separate matrices. So are the two halves of the inputs of
  the residual, the skip product and the last product of the head, since two threads may compute one half each; the
  first half has one channel more if their number is odd. One half of the gates of all layers is the input of one skip
  matrix. Inputs are scaled anew in each step, so they need no calibration: each row has the scale
  ``largest magnitude / 127``, rounded to 16 binary digits. Gates are in [-1, 1] and have the scale 1 / 127.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from wavedil.audio.generation.engines.reference import TorchSession
from wavedil.audio.generation.plan import LayerPlan
from wavedil.core.stream import State

_SMALLEST = 1e-30  # least of the largest magnitudes


class RoundedSession(TorchSession):
    """Sampling with the numbers of a precision, step by step in torch, for plans that compiled engines can run."""

    precisions = ("bf16", "int8")

    def setup(self, state: State) -> None:
        plan = self.plan
        weight = _rounded_int8_weight if self.precision == "int8" else _round_bf16

        def layer(old: LayerPlan) -> LayerPlan:
            condition = old.condition
            if plan.condition_channels:
                local = weight(condition[:, : plan.condition_channels])
                condition = torch.cat([local, condition[:, plan.condition_channels :].double()], 1)
            residual = None if old.residual is None else _by_halves(weight, old.residual)
            taps = torch.stack([weight(tap) for tap in old.weight])
            return replace(old, weight=taps, condition=condition, residual=residual)

        (hidden_weight, hidden_bias), (out_weight, out_bias) = plan.head
        skip = _by_halves(weight, plan.skip_weight.unflatten(1, (len(plan.layers), plan.hidden)))
        self.plan = replace(
            plan,
            layers=tuple(layer(old) for old in plan.layers),
            skip_weight=skip.flatten(1),
            head=((weight(hidden_weight), hidden_bias), (_by_halves(weight, out_weight), out_bias)),
        )
        super().setup(state)
        for ring in self.rings:
            ring.slots = self.rounded(ring.slots)

    def rounded(self, x: Tensor) -> Tensor:
        return _rounded_int8_rows(x) if self.precision == "int8" else _round_bf16(x)

    def rounded_gates(self, z: Tensor) -> Tensor:
        return (127 * z).round() / 127 if self.precision == "int8" else _round_bf16(z)

    def rounded_hidden(self, x: Tensor) -> Tensor:
        return _by_halves(self.rounded, x)


def _by_halves(function: Callable[[Tensor], Tensor], values: Tensor) -> Tensor:
    """A function of each half of the last dimension; the other dimensions but the first belong to one row."""
    first = -(-values.shape[-1] // 2)
    parts = values.split([first, values.shape[-1] - first], dim=-1)
    return torch.cat([function(part.flatten(1)).view(part.shape) if part.numel() else part for part in parts], -1)


def _round_bf16(x: Tensor) -> Tensor:
    return x.to(torch.bfloat16).double()


def _rounded_int8_weight(weight: Tensor) -> Tensor:
    weight = weight.float()
    scale = weight.abs().amax(1, keepdim=True).clamp_min(_SMALLEST) / 127
    return (weight / scale).round().double() * scale.double()


def _rounded_int8_rows(x: Tensor) -> Tensor:
    if not x.numel():
        return x
    scale = x.abs().amax(-1, keepdim=True).float().clamp_min(_SMALLEST) / 127
    scale = ((scale.view(torch.int32) + 0x80) & ~0xFF).view(torch.float32).double()
    return (x / scale).round() * scale
