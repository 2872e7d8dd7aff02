"""Evaluates a WaveNet on a file or folder of recordings: the function behind ``wavedil evaluate``."""

from collections.abc import Callable
from pathlib import Path

import torch

from wavedil.audio import evaluation, resynthesis
from wavedil.audio.conditioning.speakers import speakers_of
from wavedil.audio.data.audio_files import list_audio_files
from wavedil.audio.data.corpus import Corpus
from wavedil.audio.data.feature_files import FeatureFiles
from wavedil.audio.data.published import find_published
from wavedil.audio.data.split import split_files
from wavedil.audio.evaluation import BitsPerSample
from wavedil.audio.models.wavenet import WaveNet
from wavedil.audio.resynthesis import Resynthesis
from wavedil.errors import WavedilError

Progress = Callable[[int, int], None]


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
    progress: Progress | None = None,
) -> BitsPerSample | Resynthesis:
    """Bits per sample over recordings, or the spectral distance of clips resynthesized from their mels.

    Args:
        data: an audio file, or a folder that is searched for them.
        held_out: only every tenth of the sorted files, those that a recipe holds out.
        validation: only files whose path matches this regular expression, as in a recipe's data.
        exclude: leave out files whose path matches this regular expression, as in a recipe's data.
        dataset: name of a published dataset in DATA, as in a recipe's data.
        speakers: source of the speakers' names: folders, a .csv file, or a regular expression with one group.
        normalize: peak or rms, as in the recipe's data.
        trim_db: remove silence at this many dB below the peak, as in the recipe's data.
        precision: evaluate the engine that samples, with weights in fp32 or bf16.
        resynthesize: vocoders: spectral distance of clips generated from the mels of N files, and of Griffin-Lim's.
        temperature: of the clips of resynthesize (default 1).
        guidance: of the clips of resynthesize (default 1).
        progress: called with the samples (or clips) finished so far and their total.

    Raises:
        WavedilError: the data cannot be read, or an argument does not fit the model or the others.
    """
    drawing = {"temperature": temperature, "guidance": guidance}
    drawing = {name: value for name, value in drawing.items() if value is not None}
    if resynthesize is None and drawing:
        raise WavedilError(
            f"{next(iter(drawing))} applies to generated clips, not to bits per sample: add resynthesize"
        )
    if resynthesize is not None and precision is not None:
        raise WavedilError(
            f"precision {precision} applies to bits per sample, not to resynthesize: leave one of them out"
        )
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
    is_stored = upsampling is not None and not upsampling.features.from_sound
    stored = FeatureFiles(corpus, upsampling) if is_stored else None
    features = None if stored is None else map(stored.whole, range(count))
    return evaluation.evaluate(model, sounds, report, names, precision, features)
