"""Rolling hashes of all windows of a sound, to find equal passages."""

import numpy as np

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd, so that it has an inverse modulo 2^64


def window_hashes(sound: np.ndarray, size: int) -> np.ndarray:
    """A 64-bit hash of each window of ``size`` samples, ``(time - size + 1,)``; equal windows have equal hashes."""
    inverse = np.uint64(pow(int(_MULTIPLIER), -1, 2**64))
    # In place: there may be 2^24 samples.
    sums = sound.astype(np.float32).view(np.uint32).astype(np.uint64)
    powers = np.cumprod(np.full(len(sums), _MULTIPLIER))  # modulo 2^64
    sums *= powers
    np.cumsum(sums, out=sums)
    hashes = sums[size - 1 :].copy()
    hashes[1:] -= sums[:-size]
    powers[:] = inverse
    hashes *= np.cumprod(powers, out=powers)[: len(hashes)]
    return hashes
