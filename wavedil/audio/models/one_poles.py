"""One-pole low-pass filters: memory that is longer than any receptive field, at the price of one number each."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wavedil.core.stream import State
from wavedil.errors import WavedilError

BLOCK = 128  # samples that one matrix filters


class OnePoles(nn.Module):
    """A bank of filters ``s[t] = a s[t-1] + (1 - a) x[t]``, a = exp(-1 / (time constant * sample rate)).

    ``(batch, 1, time) -> (batch, 1 + filters, time)``: the input and, below it, each filter's output. Time constants
    are learned. Before time 0 filter k holds ``charges[k]``, which then dies away: the start-up of a circuit whose
    coupling capacitors charge when it is switched on.

    Args:
        time_constants: in seconds, where training starts.
        charges: one for each filter; default 0.
    """

    def __init__(self, time_constants: Sequence[float], charges: Sequence[float] | None, sample_rate: int):
        super().__init__()
        charges = [0.0] * len(time_constants) if charges is None else list(charges)
        if len(charges) != len(time_constants):
            raise WavedilError(
                f"charges has {len(charges)} numbers: expected one for each of {len(time_constants)} time_constants"
            )
        if any(not 0 < t < math.inf for t in time_constants):
            raise WavedilError(f"time_constants is {list(time_constants)}: expected seconds, more than 0")
        self.time_constants, self.charges = tuple(time_constants), tuple(charges)
        samples = torch.tensor([t * sample_rate for t in time_constants])
        self.log_samples = nn.Parameter(samples.log()) if len(charges) else None

    def __len__(self) -> int:
        return len(self.charges)

    @property
    def decay(self) -> Tensor:
        """(filters,): a."""
        return torch.exp(-torch.exp(-self.log_samples)) if len(self) else torch.zeros(0)

    @property
    def settle(self) -> float:
        """Seconds until a charge is below 1e-4, and at least five time constants (of where training starts)."""
        each = zip(self.time_constants, self.charges, strict=True)
        return max((tau * max(5.0, math.log(1e4 * max(abs(charge), 1e-9))) for tau, charge in each), default=0.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.step(x)[0]

    def step(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """The next chunk; ``state`` holds each filter's last output, ``(batch, filters)``."""
        if not len(self):
            return x, {}
        batch, _, time = x.shape
        held = x.new_tensor(self.charges).expand(batch, -1) if state is None else state["held"]
        if held.shape != (batch, len(self)):
            raise WavedilError(
                f"state is of shape {tuple(held.shape)}, this chunk needs {(batch, len(self))}: start with state=None"
            )
        if not time:
            return torch.cat([x, x.new_zeros(batch, len(self), 0)], dim=1), {"held": held.clone()}
        blocks = F.pad(x[:, 0], (0, -time % BLOCK)).view(batch, -1, BLOCK)
        num = blocks.shape[1]
        rate = torch.exp(-self.log_samples)[:, None, None]  # -log a
        # Within each block from rest, then what each block's end leaves to those after it: two small products.
        inner = -torch.expm1(-rate) * blocks.unsqueeze(1) @ _powers(BLOCK, rate)
        ends = torch.cat([held.to(x.dtype).unsqueeze(2), inner[:, :, :-1, -1]], dim=2)
        carried = (ends.unsqueeze(2) @ _powers(num, rate * BLOCK)).squeeze(2)  # at the start of each block
        decay = torch.exp(-rate * torch.arange(1, BLOCK + 1, device=x.device))
        slow = (inner + carried.unsqueeze(3) * decay).flatten(2)[:, :, :time]
        return torch.cat([x, slow], dim=1), {"held": slow[:, :, -1].detach().clone()}


def _powers(size: int, rate: Tensor) -> Tensor:
    """(filters, size, size) of exp(-rate * (column - row)), zero below the diagonal."""
    steps = torch.arange(size, device=rate.device)
    distance = steps - steps.unsqueeze(1)
    return torch.where(distance >= 0, torch.exp(-rate * distance.clamp(min=0)), 0.0)
