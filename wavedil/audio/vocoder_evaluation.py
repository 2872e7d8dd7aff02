"""Evaluates a vocoder on recordings."""

from collections.abc import Callable
from pathlib import Path

import torch

from wavedil.audio import resynthesis
from wavedil.audio.data.corpus import Corpus
from wavedil.audio.data.published import recordings_to_evaluate
from wavedil.audio.data.resampling import log_resampling
from wavedil.audio.models.vocoder import Vocoder
from wavedil.audio.resynthesis import Resynthesis
from wavedil.errors import WavedilError


def evaluate_vocoder(
    model: Vocoder,
    data: str | Path,
    *,
    held_out: bool = False,
    validation: str | None = None,
    exclude: str | None = None,
    dataset: str | None = None,
    normalize: str | None = None,
    trim_db: float | None = None,
    resynthesize: int = 8,
    progress: Callable[[int, int], None] | None = None,
) -> Resynthesis:
    """The quality of clips that a vocoder generates from the log-mels of recordings.

    Args:
        data: an audio file, or a folder that is searched for them.
        held_out: only every tenth of the sorted files, which recipes hold out.
        validation: only files whose path matches this regular expression, as in a recipe's data.
        exclude: leave out files by a regular expression, or @FILE with a list, as in a recipe's data.
        dataset: name of a published dataset in DATA, as in a recipe's data.
        normalize: peak or rms, as in the recipe's data.
        trim_db: remove silence more than this many dB below the loudest frame, as in the recipe's data.
        resynthesize: number of files, whose first 3 seconds are generated (default 8).
        progress: called with the numbers of finished and of all clips.

    Raises:
        WavedilError: the data cannot be read, or have no clip of 1024 samples.
    """
    if resynthesize < 1:
        raise WavedilError(f"resynthesize is {resynthesize}: expected a number of files, at least 1")
    _, files, _ = recordings_to_evaluate(data, dataset, held_out, validation, exclude)
    corpus = Corpus(files, model.sample_rate, normalize=normalize, trim_db=trim_db)
    if progress is not None:
        log_resampling(corpus.rates, model.sample_rate)
    count = min(resynthesize, len(corpus))
    return resynthesis.resynthesize(
        model, (torch.from_numpy(corpus.sound(index)) for index in range(count)), progress=progress
    )
