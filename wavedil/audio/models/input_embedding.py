"""Input embeddings: from the previous codes to the input of the stack.

``forward``: int64 ``(batch, time) -> (batch, channels, time)``. ``step(codes, state)`` takes the next chunk; its state
holds the last codes. Before the start there is no code: the state has ``num_codes`` in its place, which adds nothing.
``plan()`` describes the embedding to the generation engines.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wavedil.audio.distributions.quantizers import Quantizer
from wavedil.audio.generation.plan import AmplitudeEmbeddingPlan, CodeEmbeddingPlan
from wavedil.core import DilatedConv
from wavedil.core.stream import State
from wavedil.errors import WavedilError, one_of

_RMS = 0.1  # of usual sound; AmplitudeEmbedding is initialized for it


class _InputEmbedding(nn.Module):
    """Causal convolution over codes; a subclass defines :meth:`_convolve`."""

    def __init__(self, num_codes: int, kernel_size: int):
        super().__init__()
        self.num_codes, self.receptive_field = num_codes, kernel_size

    def forward(self, codes: Tensor) -> Tensor:
        return self.step(codes)[0]

    def step(self, codes: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        past = self.receptive_field - 1
        history = codes.new_full((codes.shape[0], past), self.num_codes) if state is None else state["history"]
        codes = torch.cat([history, codes], dim=1)
        return self._convolve(codes, past), {"history": codes[:, codes.shape[1] - past :].clone()}

    def _convolve(self, codes: Tensor, past: int) -> Tensor:
        """``(batch, past + time)`` to ``(batch, channels, time)``."""
        raise NotImplementedError


class CodeEmbedding(_InputEmbedding):
    """Causal convolution over one-hot codes, computed as a look-up: tap j adds row ``codes[:, t - j]`` of its table."""

    def __init__(self, quantizer: Quantizer, channels: int, kernel_size: int = 1):
        super().__init__(quantizer.num_codes, kernel_size)
        tables = torch.empty(
            kernel_size, quantizer.num_codes, channels
        )  # at once, so that too large a kernel fails here
        for table in tables:
            table.copy_(_smooth_table(quantizer, channels))
        self.tables = nn.Parameter(tables / kernel_size**0.5)  # newest tap last

    def _convolve(self, codes: Tensor, past: int) -> Tensor:
        time = codes.shape[1] - past
        # Under autocast the output has autocast's dtype: the small tables are cast, not the long output.
        device = self.tables.device.type
        autocast = torch.is_autocast_enabled(device)
        tables = self.tables.to(torch.get_autocast_dtype(device)) if autocast else self.tables
        out = F.embedding(codes[:, past:], tables[-1])
        for tap in range(past):  # the older taps may see "no code": one more row, of zeros
            out = out + F.embedding(codes[:, tap : tap + time], F.pad(tables[tap], (0, 0, 0, 1)))
        return out.transpose(1, 2)

    def plan(self) -> CodeEmbeddingPlan:
        return CodeEmbeddingPlan(self.tables.detach())


class AmplitudeEmbedding(_InputEmbedding):
    """Causal convolution over the amplitudes of the codes, with a bias; "no code" has amplitude 0."""

    def __init__(self, quantizer: Quantizer, channels: int, kernel_size: int = 1):
        super().__init__(quantizer.num_codes, kernel_size)
        self.conv = DilatedConv(1, 1, channels, kernel_size, padding="causal")
        self.register_buffer("levels", F.pad(quantizer.levels.to(self.conv.weight.device), (0, 1)), persistent=False)
        nn.init.normal_(self.conv.weight, std=1 / (_RMS * kernel_size**0.5))
        nn.init.normal_(self.conv.bias)

    def _convolve(self, codes: Tensor, past: int) -> Tensor:
        amplitudes = self.levels[codes].unsqueeze(1)
        return self.conv.step(amplitudes[..., past:], {"history": amplitudes[..., :past]})[0]

    def plan(self) -> AmplitudeEmbeddingPlan:
        weight, bias = self.conv.weight.detach(), self.conv.bias.detach()
        return AmplitudeEmbeddingPlan(weight=weight[:, 0].T.contiguous(), bias=bias, levels=self.levels[:-1])


#: Input embeddings by the names that recipes and config.json use.
INPUT_EMBEDDINGS = {"codes": CodeEmbedding, "scalar": AmplitudeEmbedding}


def make_input_embedding(
    name: str, quantizer: Quantizer, channels: int, kernel_size: int
) -> CodeEmbedding | AmplitudeEmbedding:
    """An input embedding by name."""
    if name not in INPUT_EMBEDDINGS:
        raise WavedilError(f"input is {name!r}: expected {one_of(name, INPUT_EMBEDDINGS)}")
    return INPUT_EMBEDDINGS[name](quantizer, channels, kernel_size)


def _smooth_table(quantizer: Quantizer, channels: int) -> Tensor:
    """``(num_codes, channels)`` random sines over the code's amplitude, of mean 0 and variance 1.

    Neighboring codes start with similar vectors; with independent vectors training has to learn that first.
    """
    number = torch.linspace(-1, 1, quantizer.num_codes)
    level = quantizer.levels.to(number.device)
    channel = torch.arange(channels)
    cycles = torch.rand(channels) * torch.where(channel % 2 == 1, 3.0, 0.75)  # fast and slow sines
    value = torch.where(channel % 4 == 3, level.unsqueeze(1), number.unsqueeze(1))
    table = torch.sin(2 * math.pi * (cycles * value + torch.rand(channels)))
    return (table - table.mean(0)) / table.std(0).clamp(min=1e-3)
