"""Number formats of weights and of inputs of products, as words in arrays; ``arithmetic`` multiplies them.

Inputs are rows of k numbers, weights are matrices (k, columns), with k a multiple of 4.
"""

import numpy as np

from wavedil.audio.generation.engines.cpu.arithmetic import VECTORS
from wavedil.errors import WavedilError
from wavedil.ops.vector import round_bits

_UPPER = np.uint32(0xFFFF0000)
_SIXTEEN = np.uint32(16)


class Format:
    """Float32, one number per word."""

    dtype = np.dtype(np.float32)
    numbers_per_word = 1
    #: Words after those of a row of inputs: its scale.
    scales = 0

    def words(self, width: int) -> int:
        """Words of a row of ``width`` inputs, with its scale."""
        return width // self.numbers_per_word + self.scales

    def inputs(self, rows: np.ndarray) -> np.ndarray:
        """Float32 ``(..., k)`` as words."""
        return rows

    def values(self, words: np.ndarray) -> np.ndarray:
        """The inverse of :meth:`inputs`: float32 ``(..., k)``."""
        return words

    def weights(self, matrix: np.ndarray) -> np.ndarray:
        """A float32 matrix as words ``(header + words, columns)``."""
        return matrix


class RoundedFormat(Format):
    """Bfloat16 in words of float32."""

    def __init__(self):
        self.pairs = PairFormat()

    def inputs(self, rows: np.ndarray) -> np.ndarray:
        return self.values_of_bits(_to_bfloat16(rows.view(np.uint32)))

    def weights(self, matrix: np.ndarray) -> np.ndarray:
        words = self.pairs.weights(matrix)
        pairs = np.stack([(words << _SIXTEEN).view(np.float32), words.view(np.float32)], axis=1)
        return pairs.reshape(matrix.shape)

    @staticmethod
    def values_of_bits(upper: np.ndarray) -> np.ndarray:
        return (upper << _SIXTEEN).view(np.float32)


class PairFormat(Format):
    """Pairs of bfloat16, neighbors in a row, the first in the lower half."""

    dtype = np.dtype(np.uint32)
    numbers_per_word = 2

    def inputs(self, rows: np.ndarray) -> np.ndarray:
        short = _to_bfloat16(rows.view(np.uint32))
        return np.ascontiguousarray(short[..., 0::2] | short[..., 1::2] << _SIXTEEN)

    def values(self, words: np.ndarray) -> np.ndarray:
        both = np.stack([words << _SIXTEEN, words & _UPPER], axis=-1)
        return both.reshape(*words.shape[:-1], 2 * words.shape[-1]).view(np.float32)

    def weights(self, matrix: np.ndarray) -> np.ndarray:
        """Without dot products, the loop does not clear the lower half when it uses the upper one.

        It uses the complete word as a float32. The upper half is therefore chosen so that this float32 is as close to
        the weight as possible; the error is at most that of rounding to bfloat16.
        """
        bits = matrix.view(np.uint32).reshape(-1, 2, matrix.shape[1])
        lower = _to_bfloat16(bits[:, 0])
        if VECTORS.has_dot:
            return lower | _to_bfloat16(bits[:, 1]) << _SIXTEEN
        magnitude = (bits[:, 1] & np.uint32(0x7FFFFFFF)).astype(np.int64)
        upper = np.maximum(magnitude - lower + 0x8000, 0) >> 16
        upper = np.where(magnitude == 0, 0, upper).astype(np.uint32)
        upper |= bits[:, 1] >> _SIXTEEN & np.uint32(0x8000)
        return upper << _SIXTEEN | lower


class Int8Format(Format):
    """Four int8 per word, neighbors in a row, the first in the lowest byte.

    A row of inputs has one scale, its largest magnitude / 127, rounded to 16 digits of mantissa: so a row that was
    rounded once does not change when it is rounded again. Each column of weights has one scale.
    """

    dtype = np.dtype(np.int32)
    numbers_per_word = 4
    scales = 1
    _offset = np.array(VECTORS.offset * 0x01010101, np.uint32).view(np.int32)

    def inputs(self, rows: np.ndarray) -> np.ndarray:
        scale = input_scale(np.abs(rows).max(axis=-1, keepdims=True, initial=0))
        words = self._pack(np.rint(rows / scale)) ^ self._offset
        return np.concatenate([words, scale.view(np.int32)], axis=-1)

    def values(self, words: np.ndarray) -> np.ndarray:
        numbers, scale = words[..., :-1] ^ self._offset, words[..., -1:]
        parts = [numbers << np.int32(24 - 8 * index) >> np.int32(24) for index in range(4)]
        rows = np.stack(parts, axis=-1).reshape(*numbers.shape[:-1], 4 * numbers.shape[-1])
        return rows.astype(np.float32) * scale.view(np.float32)

    def weights(self, matrix: np.ndarray) -> np.ndarray:
        if len(matrix) > 2**17:
            raise WavedilError(
                f"precision is 'int8': sums of {len(matrix)} products could overflow, and the model's largest product "
                "has as many: use fp32 or bf16"
            )
        scale = np.maximum(np.abs(matrix).max(axis=0, keepdims=True), np.float32(1e-30)) / np.float32(127)
        numbers = np.rint(matrix / scale)
        first = -VECTORS.offset * numbers.sum(axis=0, keepdims=True, dtype=np.float64)
        header = [scale.view(np.int32), first.astype(np.int32)]
        return np.concatenate([*header, self._pack(numbers.T).T])

    @staticmethod
    def _pack(numbers: np.ndarray) -> np.ndarray:
        """Integers ``(..., 4 * words)`` as words."""
        parts = [numbers[..., index::4].astype(np.int32) & np.int32(0xFF) for index in range(4)]
        return parts[0] | parts[1] << np.int32(8) | parts[2] << np.int32(16) | parts[3] << np.int32(24)


def input_scale(largest: np.ndarray) -> np.ndarray:
    """The scale of a row of inputs from its largest magnitude, float32."""
    scale = np.maximum(largest, np.float32(1e-30)) / np.float32(127)
    return ((scale.view(np.uint32) + np.uint32(0x80)) & np.uint32(0xFFFFFF00)).view(np.float32)


def choose_format(precision: str, batch: int) -> Format:
    """The format of a precision for a batch of streams."""
    if precision == "int8":
        return Int8Format()
    if precision == "fp32":
        return Format()
    # Without dot products, unpacking pairs for several streams costs more than the halved memory traffic saves.
    return PairFormat() if batch == 1 or VECTORS.has_dot else RoundedFormat()


def _to_bfloat16(bits: np.ndarray) -> np.ndarray:
    """float32 bits to bfloat16 bits, rounded to nearest, ties to even."""
    return round_bits(bits) >> _SIXTEEN
