"""Bits per sample of an audio generator on recordings.

Figures of models are comparable only if the models have the same sample rate and quantizer.
"""

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

#: Samples per chunk. Longer files are evaluated in chunks that carry the state, which bounds memory: a model with 20
#: layers of 64 channels needs about 0.6 GB.
CHUNK = 2**16

DEFINITION = (
    "mean over all samples of all files of -log2 p(code | all earlier codes of the file{condition}), "
    "{codes} {quantizer} at {rate} Hz; each file starts with zero history and the zero-amplitude code"
)


@dataclass(frozen=True)
class BitsPerSample:
    """Mean negative log-likelihood in bits per sample."""

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
    """Computes negative log-likelihoods in nats, each with all earlier codes as context.

    Args:
        model: in eval mode.
        codes: ``(1, time)`` int64.
        conditioning: for a model with conditioning inputs.
        precision: ``"fp32"`` or ``"bf16"`` evaluates with the sampling engine and its weights in that precision; None
            uses ``model.step``.

    Yields:
        ``(samples,)`` for each chunk.
    """
    conditioning = conditioning or Conditioning()
    conditioning.check(codes.shape[1])
    if precision is None:
        score = _score_by_step(model, conditioning)
    else:
        score = _score_by_engine(model, conditioning, precision)
    for start in range(0, codes.shape[1], CHUNK):
        chunk = codes[:, start : start + CHUNK]
        yield model.distribution.nll(score(chunk, start), chunk)


def _score_by_step(model: WaveNet, conditioning: Conditioning) -> Callable[[Tensor, int], Tensor]:
    state = None

    def score(chunk: Tensor, start: int) -> Tensor:
        nonlocal state
        parameters, state = model.step(chunk, state, conditioning.condition(start, start + chunk.shape[1]))
        return parameters

    return score


def _score_by_engine(model: WaveNet, conditioning: Conditioning, precision: str) -> Callable[[Tensor, int], Tensor]:
    plan = model.plan()
    make = session_class(choose("auto", plan, 1, precision=precision))
    session = make(plan, model.start(1), speaker=conditioning.speaker, precision=precision)
    return lambda chunk, start: session.score(chunk, conditioning.upsampled_features(start, start + chunk.shape[1]))


def _check_frames(features: Tensor, sound: Tensor, hop: int) -> None:
    frames = -(-sound.shape[1] // hop)
    if features.shape[-1] != frames:
        raise WavedilError(
            f"features have {features.shape[-1]} frames, the sound {sound.shape[1]} samples: expected {frames} frames, "
            f"one every {hop} samples"
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
    """Computes bits per sample over sounds, each with its full context.

    Args:
        model: in eval mode.
        sounds: float ``(time,)`` in [-1, 1] at the model's sample rate.
        progress: called with the number of finished samples.
        speakers: speaker of each sound, for a model with speakers.
        precision: ``"fp32"`` or ``"bf16"`` evaluates the sampling engine with weights in that precision; None evaluates
            the model.
        features: ``(channels, frames)`` for each sound, for a model with precomputed features. Other models compute
            their features from the sound.

    Raises:
        WavedilError: ``features`` and a sound differ in duration, or the model needs features or speakers that are not
            passed.
    """
    device = next(model.parameters()).device
    nats, count, files = 0.0, 0, 0
    none = itertools.repeat(None)
    for sound, speaker, frames in zip(sounds, speakers or none, features or none, strict=False):
        sound = sound.to(device).unsqueeze(0)
        if frames is not None:
            _check_frames(frames, sound, model.conditioner.upsampling.hop_length)
        conditioning = model.conditioning(model.features(sound) if frames is None else frames.unsqueeze(0), speaker)
        for part in nll_by_chunk(model, model.encode(sound), conditioning, precision):
            nats += part.double().sum().item()
            count += len(part)
            if progress is not None:
                progress(count)
        files += 1
    source = ", the features of its sound" if features is None else ", its precomputed features"
    condition = (source if model.conditioner.upsampling else "") + (", its speaker" if model.speakers else "")
    definition = DEFINITION.format(
        condition=condition, codes=model.num_codes, quantizer=model.quantizer.text, rate=model.sample_rate
    )
    definition += "" if precision is None else f"; evaluated by the sampling engine with weights in {precision}"
    return BitsPerSample(nats / math.log(2) / count if count else math.nan, count, files, definition)
