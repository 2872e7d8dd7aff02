"""Mu-law companding: sound to codes and back.

The curve is that of ITU-T G.711, with any number of codes, as WaveNet uses it (van den Oord et al.
2016, arXiv:1609.03499, section 2.2):

    f(x) = sign(x) * ln(1 + mu |x|) / ln(1 + mu),    mu = codes - 1

and f(x) in [-1, 1] is rounded to the nearest of `codes` equally spaced levels. Codes equal those of
``torchaudio.functional.mu_law_encoding``. librosa's ``mu_compress(quantize=True)`` has the same
curve but rounds up instead of to nearest, so its codes (plus ``codes // 2``) differ by at most one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from wavedil.errors import WavedilError

_MOST = 65536  # more levels than this and neighbouring codes decode to one float32 value


def mu_law_encode(sound: Tensor, codes: int = 256) -> Tensor:
    """Quantise sound to mu-law codes.

    Zero amplitude becomes code ``codes // 2`` (128 of 256). Values outside [-1, 1] are clipped.

    Args:
        sound: floating point in [-1, 1], any shape and device.
        codes: number of levels, 2 to 65536.

    Returns:
        int64 in [0, codes), same shape.

    Raises:
        WavedilError: integer sound, NaN, or a number of codes out of range.
    """
    mu = _mu(codes)
    if not sound.is_floating_point():
        raise WavedilError(
            f"mu_law_encode: expected floating-point sound in [-1, 1], got {sound.dtype}; "
            "divide 16-bit integers by 32768 first"
        )
    # Half precision cannot tell neighbouring codes apart near full scale.
    sound = sound if sound.dtype == torch.float64 else sound.float()
    if torch.isnan(sound).any():
        count = int(torch.isnan(sound).sum())
        raise WavedilError(f"mu_law_encode: {count} of {sound.numel()} samples are NaN")
    sound = sound.clamp(-1, 1)
    compressed = sound.sign() * torch.log1p(mu * sound.abs()) / torch.log1p(sound.new_tensor(mu))
    return ((compressed + 1) / 2 * mu + 0.5).to(torch.int64)


def mu_law_decode(code: Tensor, codes: int = 256) -> Tensor:
    """The amplitude at the middle of each code; the inverse of :func:`mu_law_encode` on codes.

    With an even number of codes no code decodes to exactly zero: 128 of 256 gives 8.6e-5.

    Args:
        code: integers in [0, codes), any shape and device.
        codes: number of levels, 2 to 65536.

    Returns:
        float32 in [-1, 1], same shape.

    Raises:
        WavedilError: codes that are not integers or lie outside [0, codes).
    """
    mu = _mu(codes)
    if code.is_floating_point() or code.is_complex() or code.dtype == torch.bool:
        raise WavedilError(f"mu_law_decode: expected integer codes, got {code.dtype}")
    if code.numel() and not code.is_meta:
        low, high = (int(value) for value in code.aminmax())
        if low < 0 or high >= codes:
            raise WavedilError(
                f"mu_law_decode: codes span {low}..{high}, expected 0..{codes - 1}; "
                "encode and decode with the same number of codes"
            )
    compressed = code.float() / mu * 2 - 1
    expanded = torch.expm1(compressed.abs() * torch.log1p(compressed.new_tensor(mu))) / mu
    return (compressed.sign() * expanded).clamp(-1, 1)  # rounding can overshoot by one ulp


def _mu(codes: int) -> float:
    if not 2 <= codes <= _MOST:
        raise WavedilError(f"mu-law needs 2 to {_MOST} codes, got {codes}; 256 is usual")
    return float(codes - 1)
