"""Bits per sample of a model on sound, with full context: the figure that models of one resolution are compared by."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from wavedil.audio.conditioning.conditioner import Conditioning
from wavedil.audio.generation.engines import choose, session_class
from wavedil.audio.models.wavenet import WaveNet
from wavedil.errors import WavedilError

#: Samples in one pass; longer files go on in the next with the state carried, so that memory is bounded: a model of 20
#: layers of 64 channels takes about 0.6 GB.
CHUNK = 2**16

DEFINITION = (
    "mean over all samples of all files of -log2 p(code | all earlier codes of the file{given}), "
    "{codes} {quantizer} at {rate} Hz; every file starts from zero history and the zero-amplitude code"
)


@dataclass(frozen=True)
class BitsPerSample:
    bits_per_sample: float
    count: int  # samples
    files: int
    definition: str

    def __str__(self) -> str:
        text = f"{self.bits_per_sample:.4f} bits per sample over {self.count} samples of {self.files} files"
        return f"{text}\n({self.definition})"


def nll_by_chunk(
    model: WaveNet, codes: Tensor, conditioning: Conditioning | None = None, precision: str | None = None
) -> Iterator[Tensor]:
    """Negative log-likelihoods of ``(1, time)`` codes with full context, flat, chunk by chunk.

    ``precision``: by the engine that samples, with weights in it; None: by the model's own ``step``.
    """
    conditioning = conditioning or Conditioning()
    conditioning.check(codes.shape[1])
    score = _own_step(model, conditioning) if precision is None else _engine(model, conditioning, precision)
    for start in range(0, codes.shape[1], CHUNK):
        chunk = codes[:, start : start + CHUNK]
        yield model.distribution.nll(score(chunk, start), chunk)


def _own_step(model: WaveNet, conditioning: Conditioning) -> Callable[[Tensor, int], Tensor]:
    state = None

    def score(chunk: Tensor, start: int) -> Tensor:
        nonlocal state
        parameters, state = model.step(chunk, state, conditioning.joined(start, start + chunk.shape[1]))
        return parameters

    return score


def _engine(model: WaveNet, conditioning: Conditioning, precision: str) -> Callable[[Tensor, int], Tensor]:
    plan = model.plan()
    make = session_class(choose("auto", plan, 1, precision=precision))
    session = make(plan, model.start(1), speaker=conditioning.speaker, precision=precision)
    return lambda chunk, start: session.score(chunk, conditioning.features(start, start + chunk.shape[1]))


def _check_frames(features: Tensor, sound: Tensor, hop: int) -> None:
    frames = -(-sound.shape[1] // hop)
    if features.shape[-1] != frames:
        raise WavedilError(
            f"features have {features.shape[-1]} frames, the sound {sound.shape[1]} samples: expected {frames}, one "
            f"every {hop} samples"
        )


@torch.inference_mode()
def evaluate(
    model: WaveNet,
    sounds: Iterable[Tensor],
    progress: Callable[[int], None] | None = None,
    speakers: Iterable[str] | None = None,
    precision: str | None = None,
    features: Iterable[Tensor] | None = None,
) -> BitsPerSample:
    """Bits per sample over whole sounds, each float ``(time,)`` in [-1, 1] at the model's rate.

    A model of local features hears those of the sound itself, or else ``features``, ``(channels, frames)`` for each
    sound, where these are made elsewhere. A model of speakers needs the name of each sound's in
    ``speakers``. ``progress`` is called with the number of samples finished. With a ``precision`` it is what the engine
    that samples makes of weights in it.
    """
    device = next(model.parameters()).device
    nats, count, files = 0.0, 0, 0
    none = itertools.repeat(None)
    for sound, speaker, own in zip(sounds, speakers or none, features or none, strict=False):
        sound = sound.to(device).unsqueeze(0)
        if own is not None:
            _check_frames(own, sound, model.conditioner.local.hop_length)
        conditioning = model.conditioning(model.features(sound) if own is None else own.unsqueeze(0), speaker)
        for part in nll_by_chunk(model, model.encode(sound), conditioning, precision):
            nats += part.double().sum().item()
            count += len(part)
            if progress is not None:
                progress(count)
        files += 1
    conditioner = model.conditioner
    heard = ", the features of its sound" if features is None else ", features given beside it"
    given = (heard if conditioner.local else "") + (", its speaker" if model.speakers else "")
    definition = DEFINITION.format(
        given=given, codes=model.num_codes, quantizer=model.quantizer.text, rate=model.sample_rate
    )
    definition += "" if precision is None else f"; sampled from with weights in {precision}"
    return BitsPerSample(nats / math.log(2) / count if count else math.nan, count, files, definition)
