"""Evaluates a WaveNet on recordings: bits per sample, or the spectral distance of resynthesized clips.

Bits per sample of two models are comparable only if both have the same sample rate and quantizer.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from wavedil.audio import resynthesis
from wavedil.audio.conditioning.conditioner import Conditioning
from wavedil.audio.conditioning.speakers import speakers_of
from wavedil.audio.data.audio_files import list_audio_files
from wavedil.audio.data.corpus import Corpus
from wavedil.audio.data.feature_files import FeatureFiles
from wavedil.audio.data.published import find_published
from wavedil.audio.data.split import split_files
from wavedil.audio.generation.engines import choose, session_class
from wavedil.audio.models.wavenet import WaveNet
from wavedil.audio.resynthesis import Resynthesis
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
    session, state = None, None
    if precision is not None:
        plan = model.plan()
        make = session_class(choose("auto", plan, 1, precision=precision))
        session = make(plan, model.start(1), speaker=conditioning.speaker, precision=precision)
    for start in range(0, codes.shape[1], CHUNK):
        chunk = codes[:, start : start + CHUNK]
        span = start, start + chunk.shape[1]
        if session is None:
            parameters, state = model.step(chunk, state, conditioning.condition(*span))
        else:
            parameters = session.score(chunk, conditioning.upsampled_features(*span))
        yield model.distribution.nll(parameters, chunk)


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
            hop = model.conditioner.upsampling.hop_length
            expected = -(-sound.shape[1] // hop)
            if frames.shape[-1] != expected:
                raise WavedilError(
                    f"features have {frames.shape[-1]} frames, the sound {sound.shape[1]} samples: expected {expected} "
                    f"frames, one every {hop} samples"
                )
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


def evaluate_recordings(
    model: WaveNet,
    data: str | Path,
    *,
    held_out: bool = False,
    validation: str | None = None,
    exclude: str | None = None,
    dataset: str | None = None,
    speakers: str | None = None,
    normalize: str | None = None,
    trim_db: float | None = None,
    precision: str | None = None,
    resynthesize: int | None = None,
    temperature: float | None = None,
    guidance: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> BitsPerSample | Resynthesis:
    """Bits per sample over recordings, or the spectral distance of clips resynthesized from their mels.

    Args:
        data: an audio file, or a folder that is searched for them.
        held_out: only every tenth of the sorted files, which recipes hold out.
        validation: only files whose path matches this regular expression, as in a recipe's data.
        exclude: leave out files whose path matches this regular expression, as in a recipe's data.
        dataset: name of a published dataset in DATA, as in a recipe's data.
        speakers: source of the speakers' names: folders, a .csv file, or a regular expression with one group.
        normalize: peak or rms, as in the recipe's data.
        trim_db: remove silence more than this many dB below the loudest frame, as in the recipe's data.
        precision: evaluate with the sampling engine, with its weights in fp32 or bf16.
        resynthesize: vocoders: spectral distance of clips generated from the mels of N files, and of Griffin-Lim's.
        temperature: of the clips of resynthesize (default 1).
        guidance: of the clips of resynthesize (default 1).
        progress: called with the numbers of finished and of all samples (or clips).

    Raises:
        WavedilError: the data cannot be read, or an argument does not fit the model or the others.
    """
    drawing = {"temperature": temperature, "guidance": guidance}
    drawing = {name: value for name, value in drawing.items() if value is not None}
    if resynthesize is None and drawing:
        raise WavedilError(f"{next(iter(drawing))} is for generated clips, not for bits per sample: add resynthesize")
    if resynthesize is not None and precision is not None:
        raise WavedilError(f"precision {precision} is for bits per sample, not for resynthesize: leave one of them out")
    if resynthesize is not None and resynthesize < 1:
        raise WavedilError(f"resynthesize is {resynthesize}: expected a number of files, at least 1")
    data = Path(data)
    root = data.parent if data.is_file() else data
    if dataset is not None:
        root, files, source = find_published(dataset, data)
        speakers = speakers or source
    else:
        files = [data] if data.is_file() else list_audio_files(data)
    if held_out or validation or exclude:
        files = split_files(files, validation=validation, exclude=exclude).validation
    corpus = Corpus(files, model.sample_rate, normalize=normalize, trim_db=trim_db)
    count = len(corpus) if resynthesize is None else min(resynthesize, len(corpus))
    sounds = (torch.from_numpy(corpus.sound(index)) for index in range(count))
    names = speakers_of(corpus.paths[:count], root, speakers, model.speakers) if model.speakers else None
    if resynthesize is not None:
        return resynthesis.resynthesize(model, sounds, names, **drawing, progress=progress)
    total = int(corpus.lengths.sum())
    report = None if progress is None else lambda done: progress(done, total)
    upsampling = model.conditioner.upsampling
    features = None
    if upsampling is not None and not upsampling.features.from_sound:
        features = map(FeatureFiles(corpus, upsampling).whole, range(count))
    return evaluate(model, sounds, report, names, precision, features)
