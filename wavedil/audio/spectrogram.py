"""Short-time Fourier transform with a Hann window, for features, losses and evaluation.

``wavedil.report.spectrogram`` computes its pictures with numpy instead (symmetric window, no padding), so that it works
without importing ``wavedil.audio``.
"""

import torch
from torch import Tensor


def hann_stft(sound: Tensor, n_fft: int, hop_length: int, win_length: int | None = None, center: bool = True) -> Tensor:
    """Complex spectrum ``(..., n_fft // 2 + 1, frames)`` of sound ``(..., time)``.

    Args:
        sound: real, with at most one batch axis.
        n_fft: length of the transform in samples.
        hop_length: samples from one frame to the next.
        win_length: length of the periodic Hann window; default ``n_fft``.
        center: whether frame f is centered on sample ``f * hop_length``, with reflected samples before the start and
            after the end; otherwise it starts there, and all frames are inside the sound.
    """
    win_length = n_fft if win_length is None else win_length
    window = torch.hann_window(win_length, device=sound.device, dtype=sound.dtype)
    return torch.stft(sound, n_fft, hop_length, win_length, window, center=center, return_complex=True)
