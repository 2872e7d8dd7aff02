"""Arithmetic coding of binary decisions with 16-bit probabilities, in integers (Witten, Neal & Cleary 1987)."""

from wavedil.errors import WavedilError

ONE = 1 << 16  # a probability of 1; those of decisions are from 1 to ONE - 1
#: For files that are damaged.
REMEDY = "copy the file again, or compress the sound again"
_FULL = 0xFFFFFFFF
_TOP = 0xFF000000


def _middle(low: int, high: int, probability: int) -> int:
    """The last number of the part of [low, high] that stands for True."""
    return low + ((high - low) * probability >> 16)


class Encoder:
    """Appends decisions to ``data``."""

    def __init__(self) -> None:
        self.data = bytearray()
        self._low, self._high = 0, _FULL

    def encode(self, decision: bool, probability: int) -> None:
        """Appends a decision; ``probability`` is that of True, in units of ``1 / ONE``."""
        middle = _middle(self._low, self._high, probability)
        if decision:
            self._high = middle
        else:
            self._low = middle + 1
        while not (self._low ^ self._high) & _TOP:  # the first byte is decided
            self.data.append(self._high >> 24)
            self._low, self._high = self._low << 8 & _FULL, self._high << 8 & _FULL | 0xFF

    def finish(self) -> bytes:
        """All bytes, with as many more as the last decisions need."""
        return bytes(self.data + _last_bytes(self._low, self._high))


def _last_bytes(low: int, high: int) -> bytes:
    """The fewest bytes that, followed by zeros, are in [low, high]."""
    for count in range(4):
        shift = 32 - 8 * count
        value = (low + (1 << shift) - 1) >> shift << shift
        if value <= high:
            return value.to_bytes(4, "big")[:count]
    return low.to_bytes(4, "big")


class Decoder:
    """Reads the decisions of an :class:`Encoder`, with the same probabilities in the same order."""

    def __init__(self, data: bytes):
        self._data, self._at = data, 4
        self._low, self._high = 0, _FULL
        self._value = int.from_bytes(data[:4].ljust(4, b"\0"), "big")

    def decode(self, probability: int) -> bool:
        """The next decision.

        Raises:
            WavedilError: the data ended some time ago.
        """
        middle = _middle(self._low, self._high, probability)
        decision = self._value <= middle
        if decision:
            self._high = middle
        else:
            self._low = middle + 1
        while not (self._low ^ self._high) & _TOP:
            if self._at > len(self._data) + 8:
                raise WavedilError(f"the data end too early: {REMEDY}")
            following = self._data[self._at] if self._at < len(self._data) else 0
            self._low, self._high = self._low << 8 & _FULL, self._high << 8 & _FULL | 0xFF
            self._value = self._value << 8 & _FULL | following
            self._at += 1
        return decision

    def is_at_end(self) -> bool:
        """Whether the data end with the last decision."""
        return self._data[self._at - 4 :] == _last_bytes(self._low, self._high)
