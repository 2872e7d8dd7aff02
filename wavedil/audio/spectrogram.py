"""Short-time Fourier transform with a Hann window, for features, losses and evaluation.

``wavedil.report.spectrogram`` computes its pictures with numpy instead (symmetric window, no padding), so that it works
without importing ``wavedil.audio``.
"""

from collections.abc import Callable

import numpy as np
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


def reconstruct_phases(magnitudes: Tensor, n_fft: int, hop_length: int, iterations: int = 60, seed: int = 0) -> Tensor:
    """Sound ``(hop_length * frames,)`` of magnitudes ``(n_fft // 2 + 1, frames)`` by Griffin-Lim, with librosa.

    Griffin & Lim (1984), fast version of Perraudin et al. (2013). Each window is centered on its frame's samples.
    """
    from librosa import griffinlim

    def synthesize(magnitudes: np.ndarray, length: int) -> np.ndarray:
        options = {"n_fft": n_fft, "hop_length": hop_length, "n_iter": iterations, "random_state": seed}
        return griffinlim(magnitudes, length=length, **options)

    return invert_frames(magnitudes, hop_length, synthesize)


def invert_frames(magnitudes: Tensor, hop_length: int, synthesize: Callable[[np.ndarray, int], np.ndarray]) -> Tensor:
    """Calls ``synthesize(magnitudes, length)``, whose frames are centered on multiples of the hop, as librosa's are.

    The frames of ``magnitudes`` are centered half a hop later.
    """
    shift, time = hop_length // 2, hop_length * magnitudes.shape[1]
    sound = synthesize(np.pad(magnitudes.double().cpu().numpy(), [(0, 0), (0, 1)], mode="edge"), time + shift)
    return torch.from_numpy(np.pad(sound, (shift, 0))[:time].astype(np.float32))
