"""One-pole low-pass filters: memory longer than the receptive field, with one state value per filter."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wavedil.core.schema import SampleRate, Scale, Seconds, checked
from wavedil.core.stream import State
from wavedil.errors import WavedilError, count_text

BLOCK = 128  # samples that one matrix product filters


class OnePoles(nn.Module):
    """Bank of filters ``s[t] = a s[t-1] + (1 - a) x[t]`` with a = exp(-1 / (time constant * sample rate)).

    ``(batch, 1, time) -> (batch, 1 + filters, time)``: the input, then the output of each filter. Time constants are
    learned. Before time 0 filter k has the value ``charges[k]``, which then decays: as in a circuit whose coupling
    capacitors charge when it is switched on.

    Args:
        time_constants: initial values in seconds.
        charges: one per filter; default 0.
        sample_rate: in Hz.
    """

    @checked
    def __init__(self, time_constants: Sequence[Seconds], charges: Sequence[Scale] | None, sample_rate: SampleRate):
        super().__init__()
        charges = [0.0] * len(time_constants) if charges is None else list(charges)
        if len(charges) != len(time_constants):
            raise WavedilError(
                f"charges has {count_text(len(charges), 'value')}: expected one per time constant, "
                f"{len(time_constants)}"
            )
        self.time_constants, self.charges = tuple(time_constants), tuple(charges)
        samples = torch.tensor([t * sample_rate for t in time_constants])
        self.log_samples = nn.Parameter(samples.log()) if len(charges) else None

    def __len__(self) -> int:
        return len(self.charges)

    @property
    def decay(self) -> Tensor:
        """The coefficients a, ``(filters,)``, in float64: near 1 a float32 is too coarse."""
        return torch.exp(-torch.exp(-self.log_samples.double())) if len(self) else torch.zeros(0)

    @property
    def settle(self) -> float:
        """Seconds until every charge is below 1e-4, and at least five (initial) time constants."""
        pairs = zip(self.time_constants, self.charges, strict=True)
        return max((tau * max(5.0, math.log(1e4 * max(abs(charge), 1e-9))) for tau, charge in pairs), default=0.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.step(x)[0]

    def step(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """The next chunk, of any length; the state is the last output of each filter, ``(batch, filters)``."""
        if not len(self):
            return x, {}
        batch, _, time = x.shape
        last = x.new_tensor(self.charges).expand(batch, -1) if state is None else state["held"]
        if last.shape != (batch, len(self)):
            raise WavedilError(f"state has shape {tuple(last.shape)}: expected {(batch, len(self))}; or use state=None")
        if not time:
            return torch.cat([x, x.new_zeros(batch, len(self), 0)], dim=1), {"held": last.clone()}
        blocks = F.pad(x[:, 0], (0, -time % BLOCK)).view(batch, -1, BLOCK)
        num = blocks.shape[1]
        inverse_time = torch.exp(-self.log_samples)[:, None, None]  # -log a
        # Two small matrix products: within each block from zero, then the contribution of the blocks before.
        inner = -torch.expm1(-inverse_time) * blocks.unsqueeze(1) @ _powers(BLOCK, inverse_time)
        ends = torch.cat([last.to(x.dtype).unsqueeze(2), inner[:, :, :-1, -1]], dim=2)
        carried = (ends.unsqueeze(2) @ _powers(num, inverse_time * BLOCK)).squeeze(2)  # at the start of each block
        decay = torch.exp(-inverse_time * torch.arange(1, BLOCK + 1, device=x.device))
        filtered = (inner + carried.unsqueeze(3) * decay).flatten(2)[:, :, :time]
        return torch.cat([x, filtered], dim=1), {"held": filtered[:, :, -1].detach().clone()}


def _powers(size: int, inverse_time: Tensor) -> Tensor:
    """``(filters, size, size)`` matrices exp(-inverse_time * (column - row)), zero below the diagonal."""
    steps = torch.arange(size, device=inverse_time.device)
    distance = steps - steps.unsqueeze(1)
    return torch.where(distance >= 0, torch.exp(-inverse_time * distance.clamp(min=0)), 0.0)
