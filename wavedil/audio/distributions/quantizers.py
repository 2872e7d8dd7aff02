"""Sound to codes and back: mu-law companding and linear steps.

The mu-law curve is that of ITU-T G.711, with any number of codes, as WaveNet uses it (van den Oord et al.
2016, arXiv:1609.03499, section 2.2):

    f(x) = sign(x) * ln(1 + mu |x|) / ln(1 + mu),    mu = num_codes - 1

and f(x) in [-1, 1] is rounded to the nearest of ``num_codes`` equally spaced levels. Codes equal those of
``torchaudio.functional.mu_law_encoding``. librosa's ``mu_compress(quantize=True)`` has the same
curve but rounds up instead of to nearest, so its codes (plus ``num_codes // 2``) differ by at most one.

Models take a :class:`Quantizer`: what their codes mean.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from wavedil.errors import WavedilError

_MOST = 65536  # more levels than this and neighboring codes decode to one float32 value


def mu_law_encode(sound: Tensor, num_codes: int = 256) -> Tensor:
    """Quantize sound to mu-law codes.

    Zero amplitude becomes code ``num_codes // 2`` (128 of 256). Values outside [-1, 1] are clipped.

    Args:
        sound: floating point in [-1, 1], any shape and device.
        num_codes: number of levels, 2 to 65536.

    Returns:
        int64 in [0, num_codes), same shape.

    Raises:
        WavedilError: integer sound, NaN, or a number of codes out of range.
    """
    mu = _mu(num_codes)
    sound = _checked_sound(sound, "mu_law_encode").clamp(-1, 1)
    compressed = sound.sign() * torch.log1p(mu * sound.abs()) / torch.log1p(sound.new_tensor(mu))
    return ((compressed + 1) / 2 * mu + 0.5).to(torch.int64)


def mu_law_decode(code: Tensor, num_codes: int = 256) -> Tensor:
    """The amplitude at the middle of each code; the inverse of :func:`mu_law_encode` on codes.

    With an even number of codes no code decodes to exactly zero: 128 of 256 gives 8.6e-5.

    Args:
        code: integers in [0, num_codes), any shape and device.
        num_codes: number of levels, 2 to 65536.

    Returns:
        float32 in [-1, 1], same shape.

    Raises:
        WavedilError: codes that are not integers or lie outside [0, num_codes).
    """
    mu = _mu(num_codes)
    _check_codes(code, num_codes, "mu_law_decode")
    compressed = code.float() / mu * 2 - 1
    expanded = torch.expm1(compressed.abs() * torch.log1p(compressed.new_tensor(mu))) / mu
    return (compressed.sign() * expanded).clamp(-1, 1)  # rounding can overshoot by one ulp


class Quantizer:
    """What the codes of a model mean: ``codes`` cells, each with an amplitude, that share out all amplitudes.

    Code c holds the amplitudes from ``boundary(c)`` to ``boundary(c + 1)``; the first and the last cell go on without
    end, since :meth:`encode` clips. Zero amplitude is code ``num_codes // 2``.
    """

    #: How messages and definitions call the codes.
    text: str

    def __init__(self, num_codes: int):
        if not isinstance(num_codes, int) or not 2 <= num_codes <= _MOST:
            raise WavedilError(
                f"num_codes is {num_codes!r}: expected 2 to {_MOST}; 256 is usual for mu-law, 65536 for linear"
            )
        self.num_codes = num_codes

    def encode(self, sound: Tensor) -> Tensor:
        """Sound in [-1, 1] (clipped) to int64 codes of the same shape; the input's precision is kept."""
        raise NotImplementedError

    def decode(self, codes: Tensor) -> Tensor:
        """Codes to float32 amplitudes in [-1, 1] of the same shape; ``encode`` gives the codes back."""
        raise NotImplementedError

    def boundary(self, index: Tensor) -> Tensor:
        """The amplitude where code ``index - 1`` ends and ``index`` begins, float64; outside [-1, 1] at the ends."""
        raise NotImplementedError

    @property
    def zero(self) -> int:
        """The code of zero amplitude."""
        return self.num_codes // 2

    @property
    def levels(self) -> Tensor:
        """The amplitude of each code: float32 ``(codes,)``, on the CPU."""
        return self.decode(torch.arange(self.num_codes, device="cpu"))

    @property
    def edges(self) -> Tensor:
        """The amplitudes between neighboring codes: float64 ``(codes - 1,)``, on the CPU."""
        return self.boundary(torch.arange(1, self.num_codes, device="cpu"))

    @property
    def finest(self) -> float:
        """Width of the narrowest cell."""
        return float(self.boundary(torch.arange(self.num_codes + 1, device="cpu")).diff().min())


class MuLaw(Quantizer):
    """Mu-law codes: fine steps near zero, coarse ones near full scale. See the module's text.

    In the order of its arithmetic, with x clipped to [-1, 1]: ``f = sign(x) * log1p(mu * |x|) / log1p(mu)`` and
    ``code = trunc((f + 1) / 2 * mu + 0.5)``.
    """

    text = "mu-law codes"

    def encode(self, sound: Tensor) -> Tensor:
        return mu_law_encode(sound, self.num_codes)

    def decode(self, codes: Tensor) -> Tensor:
        return mu_law_decode(codes, self.num_codes)

    def boundary(self, index: Tensor) -> Tensor:
        mu = _mu(self.num_codes)
        compressed = (2 * index - self.num_codes).double() / mu  # of whole numbers, so exact also close to zero
        return compressed.sign() * torch.expm1(compressed.abs() * math.log1p(mu)) / mu


class Linear(Quantizer):
    """Equal steps of ``2 / codes``: code c stands for ``(c - codes // 2) * 2 / codes``.

    65536 codes are the values of 16-bit sound files, zero among them, without loss. With x clipped to [-1, 1],
    ``code = floor(x * (codes / 2) + 0.5) + codes // 2``, at most ``codes - 1``.
    """

    text = "linear codes"

    def encode(self, sound: Tensor) -> Tensor:
        sound = _checked_sound(sound, "Linear.encode").clamp(-1, 1)
        return (
            torch.floor(sound * (self.num_codes / 2) + 0.5).to(torch.int64).add(self.zero).clamp(0, self.num_codes - 1)
        )

    def decode(self, codes: Tensor) -> Tensor:
        _check_codes(codes, self.num_codes, "Linear.decode")
        return (codes - self.zero).float() / (self.num_codes / 2)

    def boundary(self, index: Tensor) -> Tensor:
        return (2 * (index - self.zero) - 1).double() / self.num_codes


#: The names that a recipe and a config.json give quantizers.
QUANTIZERS = {"mulaw": MuLaw, "linear": Linear}


def make_quantizer(name: str, num_codes: int) -> Quantizer:
    """A quantizer by name."""
    if name not in QUANTIZERS:
        raise WavedilError(f"quantizer is {name!r}: expected one of {', '.join(QUANTIZERS)}")
    return QUANTIZERS[name](num_codes)


def _checked_sound(sound: Tensor, where: str) -> Tensor:
    """Sound in float32 or, where it came so, float64: half precision cannot tell neighboring codes apart."""
    if not sound.is_floating_point():
        raise WavedilError(
            f"{where}: expected floating-point sound in [-1, 1], got {sound.dtype}; "
            "divide 16-bit integers by 32768 first"
        )
    sound = sound if sound.dtype == torch.float64 else sound.float()
    if torch.isnan(sound).any():
        raise WavedilError(f"{where}: {int(torch.isnan(sound).sum())} of {sound.numel()} samples are NaN")
    return sound


def _check_codes(code: Tensor, num_codes: int, where: str) -> None:
    if code.is_floating_point() or code.is_complex() or code.dtype == torch.bool:
        raise WavedilError(f"{where}: expected integer codes, got {code.dtype}")
    if code.numel() and not code.is_meta:
        low, high = (int(value) for value in code.aminmax())
        if low < 0 or high >= num_codes:
            raise WavedilError(
                f"{where}: codes span {low}..{high}, expected 0..{num_codes - 1}; "
                "encode and decode with the same number of codes"
            )


def _mu(num_codes: int) -> float:
    if not 2 <= num_codes <= _MOST:
        raise WavedilError(f"mu-law needs 2 to {_MOST} codes, got {num_codes}; 256 is usual")
    return float(num_codes - 1)
