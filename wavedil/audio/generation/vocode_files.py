"""Generates audio files with a vocoder: the Python function behind ``wavedil sample``."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from wavedil.audio.conditioning.conditioner import read_features
from wavedil.audio.data import audio_files
from wavedil.audio.generation.clips import Clips
from wavedil.audio.models.vocoder import Vocoder
from wavedil.errors import WavedilError
from wavedil.outputs import check_outputs, claim_folder


def vocode_files(
    model: Vocoder,
    out: str | Path,
    *,
    condition: str | Path | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Writes one clip, ``OUT/clip_000_seed0.wav``, and ``OUT/index.html`` with a player.

    Args:
        out: folder for the files, where no clip of an earlier call is replaced; or an audio file, which is replaced.
        condition: an audio file to compute log-mels of, or a .npy file of log-mels ``(channels, frames)``.
        seed: of the random start.
        progress: called with the numbers of generated and of all samples.

    Returns:
        ``files``, ``seconds_each``, ``samples_per_second`` and ``real_time_factor``.

    Raises:
        WavedilError: there is no condition, or it cannot be read.
    """
    if condition is None:
        raise WavedilError(
            "condition is missing: a vocoder needs a recording, or a .npy file of log-mels (--condition)"
        )
    clips = Clips(out, 1, (".wav",), seed)
    with claim_folder(clips.folder, clips.names(0), [condition]):
        clips.keep_others()
        path = clips.folder / clips.names(0)[0]
        check_outputs([path], [condition])
        device = next(model.parameters()).device
        mels, samples = read_features(model.features, condition, model.sample_rate, device)
        model(mels[..., :8], seed)  # imports librosa before the speed is measured
        started = time.perf_counter()
        sound = model(mels, seed)[0, :, :samples].cpu()
        elapsed = time.perf_counter() - started
        if progress is not None:
            progress(samples, samples)
        audio_files.write(path, sound, model.sample_rate)
        clips.finish("Generated clips")
    return {
        "files": [str(path)],
        "seconds_each": samples / model.sample_rate,
        "samples_per_second": round(samples / elapsed, 1),
        "real_time_factor": round(samples / elapsed / model.sample_rate, 4),
    }
