"""What a model hears besides its own past: features that change from sample to sample, and a speaker."""

from __future__ import annotations

import torch
from torch import Tensor


class Conditioning:
    """Conditioning of a batch of streams, in the form that engines take.

    This one is of a model without any. ``samples`` is the length that the features last, None where there is no end;
    ``speaker`` is ``(batch, speaker channels)`` or None.
    """

    samples: int | None = None
    speaker: Tensor | None = None

    def features(self, start: int, stop: int) -> Tensor | None:
        """``(batch, condition channels, stop - start)`` of the samples from ``start`` to ``stop``."""
        return None

    def joined(self, start: int, stop: int) -> Tensor | None:
        """Features and speaker as one ``(batch, channels, stop - start)``, what the model's stack takes."""
        features = self.features(start, stop)
        if self.speaker is None:
            return features
        speaker = self.speaker.unsqueeze(2).expand(-1, -1, stop - start)
        return speaker if features is None else torch.cat([features, speaker], dim=1)

    def select(self, streams: list[int]) -> Conditioning:
        """That of some streams of the batch."""
        return self
