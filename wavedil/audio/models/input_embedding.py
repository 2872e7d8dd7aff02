"""Fronts: how the code before a sample enters the stack.

A front takes ``(batch, time)`` int64 codes to ``(batch, channels, time)``; ``step(codes, state)`` takes the next chunk;
the state holds codes. Before the start there is no code, which is code number ``codes`` in the state and adds nothing.
``plan()`` is the front as engines read it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wavedil.audio.distributions.quantizers import Quantizer
from wavedil.audio.generation.plan import AmplitudeEmbeddingPlan, CodeEmbeddingPlan
from wavedil.core import DilatedConv
from wavedil.core.stream import State
from wavedil.errors import WavedilError

_RMS = 0.1  # of sound, about: what a scalar front is initialized for


class _InputEmbedding(nn.Module):
    def __init__(self, num_codes: int, kernel_size: int):
        super().__init__()
        if not isinstance(kernel_size, int) or kernel_size < 1:
            raise WavedilError(f"input_kernel_size is {kernel_size!r}: expected a positive integer")
        self.num_codes, self.receptive_field = num_codes, kernel_size

    def forward(self, codes: Tensor) -> Tensor:
        return self.step(codes)[0]

    def step(self, codes: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        past = self.receptive_field - 1
        history = codes.new_full((codes.shape[0], past), self.num_codes) if state is None else state["history"]
        joined = torch.cat([history, codes], dim=1)
        return self._join(joined, past), {"history": joined[:, joined.shape[1] - past :].clone()}

    def _join(self, codes: Tensor, past: int) -> Tensor:
        """``(batch, past + time)`` to ``(batch, channels, time)``."""
        raise NotImplementedError


class CodeEmbedding(_InputEmbedding):
    """Causal convolution over one-hot codes, as a look-up: tap j adds row ``codes[:, t - j]`` of its own table."""

    def __init__(self, quantizer: Quantizer, channels: int, kernel_size: int = 1):
        super().__init__(quantizer.num_codes, kernel_size)
        tables = torch.empty(kernel_size, quantizer.num_codes, channels)  # all at once: a kernel too large fails here
        for table in tables:
            table.copy_(_smooth_features(quantizer, channels))
        self.tables = nn.Parameter(tables / kernel_size**0.5)  # newest tap last

    def _join(self, codes: Tensor, past: int) -> Tensor:
        time = codes.shape[1] - past
        # Under autocast the stream starts in its dtype: the small tables are cast, not the long result.
        device = self.tables.device.type
        autocast = torch.is_autocast_enabled(device)
        tables = self.tables.to(torch.get_autocast_dtype(device)) if autocast else self.tables
        out = F.embedding(codes[:, past:], tables[-1])
        for tap in range(past):  # these may look at "nothing", whose row is zero
            out = out + F.embedding(codes[:, tap : tap + time], F.pad(tables[tap], (0, 0, 0, 1)))
        return out.transpose(1, 2)

    def plan(self) -> CodeEmbeddingPlan:
        return CodeEmbeddingPlan(self.tables.detach())


class AmplitudeEmbedding(_InputEmbedding):
    """Causal convolution over the amplitudes of the codes, with a bias; "no code yet" has amplitude 0."""

    def __init__(self, quantizer: Quantizer, channels: int, kernel_size: int = 1):
        super().__init__(quantizer.num_codes, kernel_size)
        self.conv = DilatedConv(1, 1, channels, kernel_size, padding="causal")
        self.register_buffer("levels", F.pad(quantizer.levels.to(self.conv.weight.device), (0, 1)), persistent=False)
        nn.init.normal_(self.conv.weight, std=1 / (_RMS * kernel_size**0.5))
        nn.init.normal_(self.conv.bias)

    def _join(self, codes: Tensor, past: int) -> Tensor:
        sound = self.levels[codes].unsqueeze(1)
        return self.conv.step(sound[..., past:], {"history": sound[..., :past]})[0]

    def plan(self) -> AmplitudeEmbeddingPlan:
        weight, bias = self.conv.weight.detach(), self.conv.bias.detach()
        return AmplitudeEmbeddingPlan(weight=weight[:, 0].T.contiguous(), bias=bias, levels=self.levels[:-1])


#: The names that a recipe and a config.json give fronts.
INPUT_EMBEDDINGS = {"codes": CodeEmbedding, "scalar": AmplitudeEmbedding}


def make_input_embedding(
    name: str, quantizer: Quantizer, channels: int, kernel_size: int
) -> CodeEmbedding | AmplitudeEmbedding:
    """A front by name."""
    if name not in INPUT_EMBEDDINGS:
        raise WavedilError(f"input is {name!r}: expected one of {', '.join(INPUT_EMBEDDINGS)}")
    return INPUT_EMBEDDINGS[name](quantizer, channels, kernel_size)


def _smooth_features(quantizer: Quantizer, channels: int) -> Tensor:
    """(codes, channels) random waves over the code's amplitude, of mean 0 and variance 1.

    Neighboring codes start with similar vectors, as they sound; independent vectors have to learn that first.
    """
    number = torch.linspace(-1, 1, quantizer.num_codes)
    level = quantizer.levels.to(number.device)
    channel = torch.arange(channels)
    cycles = torch.rand(channels) * torch.where(channel % 2 == 1, 3.0, 0.75)  # fine and coarse
    value = torch.where(channel % 4 == 3, level.unsqueeze(1), number.unsqueeze(1))
    table = torch.sin(2 * math.pi * (cycles * value + torch.rand(channels)))
    return (table - table.mean(0)) / table.std(0).clamp(min=1e-3)
