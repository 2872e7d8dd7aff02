"""Bits per sample of a model on sound, with full context: the figure that models of one resolution are compared by."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from wavedil.audio.wavenet import WaveNet

#: Samples in one pass; longer files go on in the next with the state carried, so that memory is bounded.
CHUNK = 2**17

DEFINITION = (
    "mean over all samples of all files of -log2 p(code | all earlier codes of the file), {codes} mu-law codes at "
    "{rate} Hz; every file starts from zero history and the zero-amplitude code"
)


@dataclass(frozen=True)
class BitsPerSample:
    bits_per_sample: float
    count: int  # samples
    files: int
    definition: str


@torch.inference_mode()
def evaluate(
    model: WaveNet, sounds: Iterable[Tensor], progress: Callable[[int], None] | None = None
) -> BitsPerSample:
    """Bits per sample over whole sounds, each float ``(time,)`` in [-1, 1] at the model's rate.

    ``progress`` is called with the number of samples finished.
    """
    device = next(model.parameters()).device
    nats, count, files = 0.0, 0, 0
    for sound in sounds:
        state = None
        for chunk in sound.split(CHUNK):
            codes = model.encode(chunk.to(device)).unsqueeze(0)
            logits, state = model.step(codes, state)
            nats += model.distribution.nats(logits, codes).double().sum().item()
            count += codes.shape[1]
            if progress is not None:
                progress(count)
        files += 1
    definition = DEFINITION.format(codes=model.codes, rate=model.sample_rate)
    return BitsPerSample(nats / math.log(2) / count if count else math.nan, count, files, definition)
