"""Quantizers: sound to codes and back, by mu-law companding or in linear steps.

Mu-law is the curve of ITU-T G.711 with any number of codes, as in WaveNet (van den Oord et al. 2016, arXiv 1609.03499,
section 2.2)::

    f(x) = sign(x) * ln(1 + mu |x|) / ln(1 + mu),    mu = num_codes - 1

f(x) in [-1, 1] is rounded to the nearest of ``num_codes`` equally spaced levels. Codes equal those of
``torchaudio.functional.mu_law_encoding``. librosa's ``mu_compress(quantize=True)`` has the same curve but rounds up
instead of to nearest, so its codes (plus ``num_codes // 2``) differ by at most one.

A quantizer may have pre-emphasis a: it codes ``e[t] = x[t] - a x[t-1]`` in place of the sound x. Speech has little
energy at high frequencies, and the filter that undoes the pre-emphasis, ``x[t] = e[t] + a x[t-1]``, attenuates the
quantization noise there (LPCNet: Valin & Skoglund 2019, arXiv 1810.11846). Bits per sample are comparable only for the
same a.
"""

import math
from abc import ABC, abstractmethod
from typing import Annotated

import torch
from torch import Tensor
from torch.nn import functional as F

from wavedil.audio.data.levels import check_floating
from wavedil.core.schema import Range, checked
from wavedil.core.tensors import to_tensor
from wavedil.errors import WavedilError, one_of

_MAX_CODES = 65536  # with more, neighboring mu-law codes would decode to the same float32 value
_BLOCK = 512  # samples of which one matrix product undoes the pre-emphasis
Codes = Annotated[int, Range(2, _MAX_CODES)]
PreEmphasis = Annotated[float, Range(0, 1, exclude_high=True)]


def mu_law_encode(sound: Tensor, num_codes: int = 256) -> Tensor:
    """Quantizes sound to mu-law codes.

    Zero amplitude is code ``num_codes // 2`` (128 of 256). Values outside [-1, 1] are clipped.

    Args:
        sound: floating point in [-1, 1], any shape and device.
        num_codes: number of levels, 2 to 65536.

    Returns:
        int64 in [0, num_codes), same shape.

    Raises:
        WavedilError: integer sound, NaN, or a number of codes out of range.
    """
    return MuLaw(num_codes).encode(sound)


def mu_law_decode(code: Tensor, num_codes: int = 256) -> Tensor:
    """Decodes mu-law codes to the amplitude at the middle of each code; :func:`mu_law_encode` returns the same codes.

    With an even number of codes no code decodes to exactly zero: 128 of 256 gives 8.6e-5.

    Args:
        code: integers in [0, num_codes), any shape and device.
        num_codes: number of levels, 2 to 65536.

    Returns:
        float32 in [-1, 1], same shape.

    Raises:
        WavedilError: codes that are not integers or are outside [0, num_codes).
    """
    return MuLaw(num_codes).decode(code)


class Quantizer(ABC):
    """Maps amplitudes to ``num_codes`` codes and back.

    The cell of code c is the interval from ``boundary(c)`` to ``boundary(c + 1)``; the first and the last cell extend
    to infinity, since :meth:`encode` clips. Zero amplitude is code ``num_codes // 2``.

    :meth:`encode` and :meth:`decode` map each amplitude by itself. :meth:`encode_sound` and :meth:`decode_sound` also
    apply and undo the pre-emphasis along time.

    Args:
        num_codes: 2 to 65536.
        pre_emphasis: coefficient a in [0, 1) of ``x[t] - a x[t-1]``, which is coded; 0 codes the sound itself.
    """

    #: Name of the codes in messages and definitions.
    name: str

    @checked
    def __init__(self, num_codes: Codes, pre_emphasis: PreEmphasis = 0.0):
        self.num_codes, self.pre_emphasis = num_codes, pre_emphasis

    @property
    def text(self) -> str:
        """Name of the codes, with the pre-emphasis, in messages and definitions."""
        return self.name + (f" with pre-emphasis {self.pre_emphasis:g}" if self.pre_emphasis else "")

    def encode_sound(self, sound: Tensor, before: Tensor | None = None) -> Tensor:
        """Sound ``(..., time)``, clipped to [-1, 1], to int64 codes of the same shape.

        Args:
            sound: floating point.
            before: ``(...,)``, the sample before the first; default zero. Used only with pre-emphasis.
        """
        if not self.pre_emphasis:
            return self.encode(sound)
        sound = _checked_sound(sound)
        delayed = F.pad(sound, (1, 0))[..., :-1]
        if before is not None and sound.shape[-1]:
            delayed[..., 0] = before.clamp(-1, 1)
        return self.encode(sound - self.pre_emphasis * delayed)

    def decode_sound(self, codes: Tensor, before: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Codes ``(..., time)`` to sound of the same shape, float32 in [-1, 1], and the state after it.

        Args:
            codes: integers in [0, num_codes).
            before: the state after the codes before, float64 ``(...,)``; None at the start, and without pre-emphasis.
        """
        values = self.decode(codes)
        if not self.pre_emphasis:
            return values, None
        sound = _undo_pre_emphasis(values.cpu().double(), self.pre_emphasis, before)
        last = sound[..., -1].clone() if sound.shape[-1] else before
        return sound.clamp(-1, 1).float().to(codes.device), last

    def encode(self, sound: Tensor) -> Tensor:
        """Sound, clipped to [-1, 1], to int64 codes of the same shape; float64 sound is computed in float64."""
        return self._encode(_checked_sound(sound))

    def decode(self, codes: Tensor) -> Tensor:
        """Codes to float32 amplitudes in [-1, 1] of the same shape; ``encode`` returns the same codes."""
        codes = to_tensor("codes", codes, floating=False)
        self.check_range(codes)
        return self._decode(codes)

    def check_range(self, codes: Tensor) -> None:
        """Raises WavedilError unless all codes are from 0 to ``num_codes - 1``."""
        if codes.numel():
            low, high = (int(value) for value in codes.aminmax())
            if low < 0 or high >= self.num_codes:
                raise WavedilError(
                    f"codes span {low}..{high}: expected 0..{self.num_codes - 1}; encode and decode with one num_codes"
                )

    @abstractmethod
    def _encode(self, sound: Tensor) -> Tensor:
        """:meth:`encode` of float32 or float64 sound in [-1, 1]."""

    @abstractmethod
    def _decode(self, codes: Tensor) -> Tensor:
        """:meth:`decode` of codes in range."""

    @abstractmethod
    def boundary(self, index: Tensor) -> Tensor:
        """The amplitude between codes ``index - 1`` and ``index``, float64; outside [-1, 1] for 0 and num_codes."""

    @property
    def zero(self) -> int:
        """The code of zero amplitude."""
        return self.num_codes // 2

    @property
    def levels(self) -> Tensor:
        """The amplitude of each code: float32 ``(num_codes,)``, on the CPU."""
        return self.decode(torch.arange(self.num_codes, device="cpu"))

    @property
    def edges(self) -> Tensor:
        """The amplitudes between neighboring cells: float64 ``(num_codes - 1,)``, on the CPU."""
        return self.boundary(torch.arange(1, self.num_codes, device="cpu"))

    @property
    def finest(self) -> float:
        """Width of the narrowest cell."""
        return float(self.boundary(torch.arange(self.num_codes + 1, device="cpu")).diff().min())


class MuLaw(Quantizer):
    """Mu-law codes: fine steps near zero, coarse ones near full scale.

    :meth:`encode` computes, in this order, with x clipped to [-1, 1]: ``f = sign(x) * log1p(mu * |x|) / log1p(mu)`` and
    ``code = trunc((f + 1) / 2 * mu + 0.5)``.
    """

    name = "mu-law codes"

    def _encode(self, sound: Tensor) -> Tensor:
        mu = float(self.num_codes - 1)
        compressed = sound.sign() * torch.log1p(mu * sound.abs()) / torch.log1p(sound.new_tensor(mu))
        return ((compressed + 1) / 2 * mu + 0.5).to(torch.int64)

    def _decode(self, codes: Tensor) -> Tensor:
        mu = float(self.num_codes - 1)
        compressed = codes.float() / mu * 2 - 1
        expanded = torch.expm1(compressed.abs() * torch.log1p(compressed.new_tensor(mu))) / mu
        return (compressed.sign() * expanded).clamp(-1, 1)  # rounding can overshoot by one ulp

    def boundary(self, index: Tensor) -> Tensor:
        mu = float(self.num_codes - 1)
        compressed = (2 * index - self.num_codes).double() / mu  # of integers, so exact near zero too
        return compressed.sign() * torch.expm1(compressed.abs() * math.log1p(mu)) / mu


class Linear(Quantizer):
    """Equal steps of ``2 / num_codes``: code c is the amplitude ``(c - num_codes // 2) * 2 / num_codes``.

    65536 codes are the values of 16-bit audio files, without loss. With x clipped to [-1, 1],
    ``code = floor(x * (num_codes / 2) + 0.5) + num_codes // 2``, at most ``num_codes - 1``.
    """

    name = "linear codes"

    def _encode(self, sound: Tensor) -> Tensor:
        steps = torch.floor(sound * (self.num_codes / 2) + 0.5).to(torch.int64)
        return steps.add(self.zero).clamp(0, self.num_codes - 1)

    def _decode(self, codes: Tensor) -> Tensor:
        return (codes - self.zero).float() / (self.num_codes / 2)

    def boundary(self, index: Tensor) -> Tensor:
        return (2 * (index - self.zero) - 1).double() / self.num_codes


#: Quantizers by the names that recipes and config.json use.
QUANTIZERS = {"mulaw": MuLaw, "linear": Linear}


def make_quantizer(name: str, num_codes: int, pre_emphasis: float = 0.0) -> Quantizer:
    """A quantizer by name."""
    if name not in QUANTIZERS:
        raise WavedilError(f"quantizer is {name!r}: expected {one_of(name, QUANTIZERS)}")
    return QUANTIZERS[name](num_codes, pre_emphasis)


def _checked_sound(sound: Tensor) -> Tensor:
    """Sound in float32 or float64, clipped to [-1, 1]; raises WavedilError for integers or NaN."""
    sound = to_tensor("sound", sound)
    check_floating(sound)
    # Half precision cannot distinguish neighboring codes.
    sound = sound if sound.dtype == torch.float64 else sound.float()
    if torch.isnan(sound).any():
        raise WavedilError(f"sound: {int(torch.isnan(sound).sum())} of {sound.numel()} samples are NaN")
    return sound.clamp(-1, 1)


def _undo_pre_emphasis(values: Tensor, coefficient: float, before: Tensor | None) -> Tensor:
    """``x[t] = values[t] + coefficient * x[t-1]`` along the last axis, in float64 on the CPU.

    In float64 the result, rounded to float32, does not depend on how a sound is divided into chunks.
    """
    steps = torch.arange(_BLOCK + 1, dtype=torch.float64)
    distance = (steps[:-1] - steps[:-1, None]).clamp(min=0)
    within = torch.triu(coefficient**distance)  # the effect of each value on the later ones of its block
    decay = coefficient ** steps[1:]
    last = values.new_zeros(values.shape[:-1]) if before is None else before.to(values)
    parts = []
    for block in values.split(_BLOCK, dim=-1):
        size = block.shape[-1]
        part = block @ within[:size, :size] + last.unsqueeze(-1) * decay[:size]
        last = part[..., -1] if size else last
        parts.append(part)
    return torch.cat(parts, dim=-1)
