"""Generates audio files: the Python function behind ``wavedil sample``."""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from wavedil.audio.conditioning.conditioner import read_features
from wavedil.audio.data import audio_files
from wavedil.audio.generation.engines import choose
from wavedil.audio.generation.generate import generate
from wavedil.audio.models.wavenet import WaveNet
from wavedil.errors import WavedilError


def sample_files(
    model: WaveNet,
    out: str | Path,
    *,
    seconds: float | None = None,
    num: int = 1,
    prime: str | Path | None = None,
    condition: str | Path | None = None,
    guidance: float = 1.0,
    engine: str = "auto",
    precision: str = "fp32",
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Writes ``OUT/sample_000.wav`` and so on: ``num`` clips.

    Args:
        out: folder for the files.
        seconds: length of each clip; default: that of the condition, or 2.
        prime: an audio file that the clips continue.
        condition: an audio file to compute features of, or a .npy file of features ``(channels, frames)``.
        progress: called with the numbers of generated and of all samples, over all clips.
        num, guidance, engine, precision, options: as for :func:`wavedil.audio.generate`.

    Returns:
        ``files``, ``seconds_each``, ``samples_per_second`` (over all clips), ``real_time_factor``, ``engine`` and
        ``precision``.

    Raises:
        WavedilError: an argument out of range, or a file that cannot be read.
    """
    if seconds is not None and not 0 < seconds < 1e9:
        raise WavedilError(f"seconds is {seconds:g}: expected more than 0 and less than 1e9")
    rate = model.sample_rate
    start = None
    if prime is not None:
        start = torch.from_numpy(audio_files.read(prime, sample_rate=rate)[0]).unsqueeze(0)
    features, length = (None, None) if condition is None else read_features(model, condition)
    if length is not None and start is not None:
        length = max(1, length - start.shape[2])  # the condition covers the recording, too
    if seconds is not None or length is None:
        length = max(1, round((2.0 if seconds is None else seconds) * rate))
    options |= {"num": num, "condition": features, "guidance": guidance, "engine": engine, "precision": precision}
    generate(model, 1, **options)  # compiles or loads the engine before the speed is measured
    started = time.perf_counter()
    report = None if progress is None else lambda done, total: progress(done * num, total * num)
    sound = generate(model, length, **options, prime=start, progress=report)
    elapsed = time.perf_counter() - started
    made = sound.shape[2]
    if made < length:
        logging.getLogger("wavedil").warning(
            "interrupted: the clips have %.2f of %.2f seconds", made / rate, length / rate
        )
    files = []
    for index, clip in enumerate(sound):
        path = Path(out) / f"sample_{index:03d}.wav"
        audio_files.write(path, clip.cpu(), rate)
        files.append(str(path))
    per_second = sound.shape[0] * made / elapsed
    return {
        "files": files,
        "seconds_each": made / rate,
        "samples_per_second": round(per_second, 1),
        "real_time_factor": round(per_second / rate, 4),
        "engine": choose(engine, model.plan(), num, guidance, precision),
        "precision": precision,
    }
