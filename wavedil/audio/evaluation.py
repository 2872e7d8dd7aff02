"""Evaluates a WaveNet on recordings: bits per sample, or the quality of resynthesized clips.

Bits per sample of two models are comparable only if both have the same sample rate and quantizer.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from wavedil.audio import resynthesis
from wavedil.audio.conditioning.conditioner import Conditioning
from wavedil.audio.conditioning.speakers import speakers_of
from wavedil.audio.data.corpus import Corpus, SilentFilesError
from wavedil.audio.data.feature_files import FeatureFiles
from wavedil.audio.data.levels import Levels, check_level
from wavedil.audio.data.published import recordings_to_evaluate
from wavedil.audio.data.resampling import log_resampling
from wavedil.audio.data.split import Piece
from wavedil.audio.generation.engines import choose, session_class
from wavedil.audio.models.wavenet import WaveNet
from wavedil.audio.resynthesis import Resynthesis
from wavedil.batches import BATCH, Batches, Record, check_records, fingerprint, fingerprint_paths
from wavedil.core.schema import checked
from wavedil.core.tensors import to_tensor
from wavedil.errors import WavedilError, count_text, matched

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
        text = (
            f"{self.bits_per_sample:.4f} bits per sample over {self.count} samples of {count_text(self.files, 'file')}"
        )
        return f"{text}\n({self.definition})"


def nll_by_chunk(
    model: WaveNet, codes: Tensor, conditioning: Conditioning | None = None, precision: str | None = None
) -> Iterator[Tensor]:
    """Computes negative log-likelihoods in nats, each with all earlier codes as context.

    Args:
        model: in eval mode.
        codes: ``(1, time)`` int64.
        conditioning: for a model with conditioning inputs.
        precision: ``"fp32"``, ``"bf16"`` or ``"int8"`` evaluates with the sampling engine in that precision; None
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


@dataclass
class _Total:
    """Sums over sounds."""

    nats: float = 0.0
    count: int = 0  # samples
    sounds: int = 0

    def add(self, nats: float, count: int, sounds: int) -> None:
        self.nats, self.count, self.sounds = self.nats + nats, self.count + count, self.sounds + sounds


@checked
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
        precision: ``"fp32"``, ``"bf16"`` or ``"int8"`` evaluates the sampling engine in that precision; None evaluates
            the model.
        features: ``(channels, frames)`` for each sound, for a model with precomputed features. Other models compute
            their features from the sound.

    Raises:
        WavedilError: ``features`` and a sound differ in duration, the model needs features or speakers that are not
            passed, or a peak exceeds 16.
    """
    levels = Levels()
    sounds = (
        check_level(to_tensor(f"sound {index}", sound), f"sound {index}", levels) for index, sound in enumerate(sounds)
    )
    total = _total(model, sounds, progress, speakers, precision, features)
    levels.warn()
    return _bits_per_sample(model, total, precision, features is not None)


@torch.inference_mode()
def _total(
    model: WaveNet,
    sounds: Iterable[Tensor],
    progress: Callable[[int], None] | None,
    speakers: Iterable[str] | None,
    precision: str | None,
    features: Iterable[Tensor] | None,
) -> _Total:
    """Sum of the negative log-likelihoods of sounds; arguments as for :func:`evaluate`."""
    device = next(model.parameters()).device
    total = _Total()
    for sound, speaker, frames in matched(sounds=sounds, speakers=speakers, features=features):
        if sound.ndim != 1 or not len(sound):
            raise WavedilError(f"sound has shape {tuple(sound.shape)}: expected (time,), with at least one sample")
        sound = sound.to(device).unsqueeze(0)
        if frames is not None:
            if model.conditioner.upsampling is None:
                raise WavedilError("features are given, but the model takes none: leave them out")
            frames, hop = to_tensor("features", frames), model.conditioner.upsampling.hop_length
            if frames.ndim != 2:
                raise WavedilError(f"features have shape {tuple(frames.shape)}: expected (channels, frames)")
            expected = -(-sound.shape[1] // hop)
            if frames.shape[-1] != expected:
                raise WavedilError(
                    f"features have {frames.shape[-1]} frames, the sound {sound.shape[1]} samples: expected {expected} "
                    f"frames, one every {hop} samples"
                )
        conditioning = model.conditioning(model.features(sound) if frames is None else frames.unsqueeze(0), speaker)
        for part in nll_by_chunk(model, model.encode(sound), conditioning, precision):
            total.add(part.double().sum().item(), len(part), 0)
            if progress is not None:
                progress(total.count)
        total.sounds += 1
    return total


def _bits_per_sample(model: WaveNet, total: _Total, precision: str | None, has_features: bool) -> BitsPerSample:
    source = ", its precomputed features" if has_features else ", the features of its sound"
    condition = (source if model.conditioner.upsampling else "") + (", its speaker" if model.speakers else "")
    definition = DEFINITION.format(
        condition=condition, codes=model.num_codes, quantizer=model.quantizer.text, rate=model.sample_rate
    )
    definition += "" if precision is None else f"; evaluated by the sampling engine in {precision}"
    bits = total.nats / math.log(2) / total.count if total.count else math.nan
    return BitsPerSample(bits, total.count, total.sounds, definition)


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
    records: str | None = None,
    batch: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> BitsPerSample | Resynthesis:
    """Bits per sample over recordings, or the quality of clips resynthesized from their features.

    Args:
        data: an audio file, or a folder that is searched for them.
        held_out: only the held-out files of a recipe: every tenth of the sorted files.
        validation: only files whose path matches this regular expression, as in a recipe's data.
        exclude: files to exclude: a regular expression, or @FILE with a list, as in a recipe's data.
        dataset: name of a published data set in DATA, as in a recipe's data.
        speakers: source of the speakers' names: folders, a .csv file, or a regular expression with one group.
        normalize: peak or rms, as in the recipe's data.
        trim_db: remove silence more than this many dB below the loudest frame, as in the recipe's data.
        precision: evaluate with the sampling engine in fp32, bf16 or int8.
        resynthesize: for vocoders: quality of the clips generated from the features of N files, compared with
            Griffin-Lim; with the extra metrics also PESQ and STOI.
        temperature: sampling temperature for resynthesize (default 1).
        guidance: guidance scale for resynthesize (default 1).
        records: folder for the results of each batch of files. Repeat the command to continue after an interruption;
            run it several times in parallel to share the work. Not with resynthesize.
        batch: files per batch, with records; default 16.
        progress: called with the numbers of finished and of all samples (or clips, or files with records).

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
    if resynthesize is not None and records is not None:
        raise WavedilError("records is for bits per sample, not for resynthesize: leave one of them out")
    check_records(records, batch, data)
    root, files, source = recordings_to_evaluate(data, dataset, held_out, validation, exclude)
    speakers = speakers or source

    def open_corpus(files: Sequence[Path]) -> tuple[Corpus, Iterator[Tensor], list[str] | None]:
        """The recordings, their sounds and their speakers."""
        corpus = Corpus(files, model.sample_rate, normalize=normalize, trim_db=trim_db)
        sounds = (torch.from_numpy(corpus.sound(index)) for index in range(len(corpus)))
        return corpus, sounds, speakers_of(corpus.paths, root, speakers, model.speakers) if model.speakers else None

    upsampling = model.conditioner.upsampling
    has_features = upsampling is not None and not upsampling.features.from_sound

    def measure(files: Sequence[Path], progress: Callable[[int, int], None] | None = None) -> _Total:
        corpus, sounds, names = open_corpus(files)
        if progress is not None:
            log_resampling(corpus.rates, model.sample_rate)
        samples = int(corpus.lengths.sum())
        report = None if progress is None else lambda done: progress(done, samples)
        features = map(FeatureFiles(corpus, upsampling).whole, range(len(corpus))) if has_features else None
        return _total(model, sounds, report, names, precision, features)

    if resynthesize is not None:
        _, sounds, names = open_corpus(files)
        sounds = itertools.islice(sounds, resynthesize)
        names = None if names is None else names[:resynthesize]
        return resynthesis.resynthesize(model, sounds, names, **drawing, progress=progress)
    if records is None:
        total = measure(files, progress)
    else:
        pieces = [file if isinstance(file, Piece) else Piece(file) for file in files]
        settings = {"model": fingerprint(model), "files": fingerprint_paths(piece.path for piece in pieces)}
        settings |= {"parts": sorted({(piece.start, piece.stop) for piece in pieces}), "speakers": speakers}
        settings |= {"normalize": normalize, "trim_db": trim_db, "precision": precision}

        def measure_batch(numbers: range) -> list[Record]:
            try:
                return [vars(measure(files[numbers.start : numbers.stop]))]
            except SilentFilesError:  # other batches may have sound
                return [vars(_Total())]

        batches = Batches(records, len(files), batch or BATCH, settings)
        batches.run(measure_batch, progress)
        total = _Total()
        for record in batches.records():
            total.add(**record)
        if not total.sounds:
            raise WavedilError(f"trim_db is {trim_db}, which removes all {len(files)} files: set it to null")
    return _bits_per_sample(model, total, precision, has_features)
