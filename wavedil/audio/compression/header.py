"""The header of a compressed file: 21 bytes, and the speaker.

magic, with the version of the format     5 bytes
fingerprint of the model                  4 bytes
checksum of the codes                     4 bytes: first ones of SHA-256
channels, samples                         2 and 5 bytes, big-endian
length of the speaker, its name as JSON   1 byte, and as many; 0 without a speaker
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from torch import Tensor

from wavedil.audio.compression.arithmetic import REMEDY
from wavedil.audio.conditioning.conditioner import Speaker
from wavedil.errors import WavedilError, shown

MAGIC = b"wdil\x01"
_SIZE = len(MAGIC) + 4 + 4 + 2 + 5 + 1
_MAX_CHANNELS, _MAX_SAMPLES = 1024, 2**40 - 1


@dataclass(frozen=True)
class Header:
    """``model`` and ``codes`` are 8 hexadecimal digits each."""

    model: str
    codes: str
    channels: int
    samples: int
    speaker: Speaker | None

    def to_bytes(self) -> bytes:
        """Raises WavedilError if a number or the speaker's name is too large for its field."""
        if self.channels > _MAX_CHANNELS or self.samples > _MAX_SAMPLES:
            raise WavedilError(
                f"the sound has {self.channels} channels of {self.samples} samples: compressed files have at most "
                f"{_MAX_CHANNELS} of {_MAX_SAMPLES}"
            )
        speaker = b"" if self.speaker is None else json.dumps(self.speaker, ensure_ascii=False).encode()
        if len(speaker) > 255:
            raise WavedilError(f"speaker is {shown(self.speaker)}: expected a name of at most 253 bytes")
        sizes = self.channels.to_bytes(2, "big") + self.samples.to_bytes(5, "big") + bytes([len(speaker)])
        return MAGIC + bytes.fromhex(self.model) + bytes.fromhex(self.codes) + sizes + speaker

    @classmethod
    def read(cls, content: bytes, path: Path) -> tuple[Self, bytes]:
        """Header and data of a file; raises WavedilError if it is not a compressed one."""
        if not content.startswith(MAGIC):
            raise WavedilError(f"{path} is not a file that wavedil compress wrote, or of a later version")
        start = len(MAGIC)
        end = _SIZE + content[_SIZE - 1] if len(content) >= _SIZE else _SIZE
        fields = content[start : start + 4], content[start + 4 : start + 8]
        channels, samples = (
            int.from_bytes(content[first:last], "big")
            for first, last in ((start + 8, start + 10), (start + 10, _SIZE - 1))
        )
        try:
            speaker = json.loads(content[_SIZE:end]) if end > _SIZE else None
            is_valid = type(speaker) in (str, int, type(None)) and 0 < channels <= _MAX_CHANNELS and samples > 0
        except (ValueError, RecursionError):
            is_valid = False
        if len(content) < end or not is_valid:
            raise WavedilError(f"{path}: its header is damaged ({content[:_SIZE].hex()}): {REMEDY}")
        return cls(*(field.hex() for field in fields), channels, samples, speaker), content[end:]


def digest(codes: Tensor) -> str:
    """The checksum of codes in a header."""
    return hashlib.sha256(codes.cpu().numpy().astype("<i4").tobytes()).hexdigest()[:8]
