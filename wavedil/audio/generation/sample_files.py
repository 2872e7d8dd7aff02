"""Generates audio files: the Python function behind ``wavedil sample``."""

import hashlib
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from wavedil.audio.conditioning.conditioner import read_features
from wavedil.audio.data import audio_files
from wavedil.audio.data.levels import check_level
from wavedil.audio.generation.clips import Clips
from wavedil.audio.generation.engines import choose
from wavedil.audio.generation.generate import generate
from wavedil.audio.models.wavenet import WaveNet
from wavedil.batches import Batches, Record, fingerprint, refuse_batches
from wavedil.errors import WavedilError, check_positive, shown
from wavedil.outputs import check_outputs, claim_folder

MAX_NUM = 2**20  # clips that are generated together, or whose names are compared with the inputs

_log = logging.getLogger("wavedil")


def sample_files(
    model: WaveNet,
    out: str | Path,
    *,
    seconds: float | None = None,
    num: int = 1,
    seed: int = 0,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    prime: str | Path | None = None,
    with_prime: bool = False,
    condition: str | Path | None = None,
    speaker: str | None = None,
    guidance: float = 1.0,
    engine: str = "auto",
    precision: str = "fp32",
    threads: int = 1,
    batch: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Writes ``num`` clips, ``OUT/clip_000_seed0.wav`` and so on, and ``OUT/index.html`` with players.

    The names are those of :class:`wavedil.audio.generation.clips.Clips`: no clip of an earlier call is replaced.

    Args:
        out: folder for the files; or, for one clip, a file with the suffix of an audio file, which is replaced.
        seconds: length of each clip; default: that of the condition, or 2.
        prime: an audio file that the clips continue.
        with_prime: write this recording before each clip.
        condition: an audio file to compute features of, or a .npy file of features ``(channels, frames)``.
        batch: generate this many clips at a time; the call then continues earlier ones with the same arguments, and
            shares the work with other processes (:mod:`wavedil.batches`). None: all clips at a time.
        progress: called with the numbers of generated and of all samples, over all clips.
        num, seed, temperature, top_k, top_p, speaker, guidance, engine, precision, threads: as for
            :func:`wavedil.audio.generate`.

    Returns:
        ``files``, or ``count`` and ``manifest`` with ``batch``; ``seconds_each``; ``samples_per_second`` over all clips
        of this call, or None without any; ``real_time_factor``, ``engine`` and ``precision``.

    Raises:
        WavedilError: an argument out of range, or a file that cannot be read.
    """
    if seconds is not None and not 0 < seconds < 1e9:
        raise WavedilError(f"seconds is {seconds:g}: expected more than 0 and less than 1e9")
    check_positive(num=num)
    if batch is None:
        refuse_batches(out)
    else:
        check_positive(batch=batch)
    if num > MAX_NUM and batch is None:
        raise WavedilError(f"num is {shown(num)}: expected at most {MAX_NUM} without batch (--batch)")
    if with_prime and prime is None:
        raise WavedilError("with_prime is set, but prime is not: set it to a recording, or leave with_prime out")
    clips = Clips(out, num, (".wav",), seed, temperature, speaker)
    if clips.is_file and batch is not None:
        raise WavedilError(f"out {out} is a file: expected a folder, for the manifest of batch")
    inputs = [path for path in (prime, condition) if path is not None]

    def names() -> list[str]:
        return [name for index in range(min(num, MAX_NUM)) for name in clips.names(index)]

    with claim_folder(clips.folder, names(), inputs, shared=batch is not None):
        if batch is None:
            clips.keep_others()
            check_outputs([clips.folder / name for name in names()], inputs)
        rate = model.sample_rate
        start = None
        if prime is not None:
            sound = check_level(audio_files.read(prime, sample_rate=rate)[0], prime)
            start = torch.from_numpy(sound.clip(-1, 1)).unsqueeze(0)  # generate does not warn again
        features = length = None
        if condition is not None:
            source = getattr(model.conditioner.upsampling, "features", None)
            features, length = read_features(source, condition, rate, next(model.parameters()).device)
        if length is not None and start is not None:
            length = max(1, length - start.shape[2])  # the condition covers the recording, too
        if seconds is not None or length is None:
            length = max(1, round((2.0 if seconds is None else seconds) * rate))
        together = num if batch is None else min(batch, num)
        chosen = choose(engine, model.plan(), together, guidance, precision)
        options = {"condition": features, "guidance": guidance, "engine": engine, "precision": precision}
        options |= {"seed": seed, "temperature": temperature, "top_k": top_k, "top_p": top_p}
        options |= {"speaker": speaker, "threads": threads}
        generate(model, 1, num=together, **options)  # compiles or loads the engine before the speed is measured
        made = elapsed = 0

        def write(numbers: range, progress: Callable[[int, int], None] | None = None) -> list[Record]:
            """Generates clips and returns a record of each."""
            nonlocal made, elapsed
            started = time.perf_counter()
            sound = generate(
                model, length, num=len(numbers), first=numbers.start, prime=start, progress=progress, **options
            )
            elapsed += time.perf_counter() - started
            made += sound.shape[0] * sound.shape[2]
            if sound.shape[2] < length:
                if batch is not None:
                    raise KeyboardInterrupt
                seconds = sound.shape[2] / rate
                _log.warning("interrupted: the clips have %.2f of %.2f seconds", seconds, length / rate)
            records = []
            for index, clip in zip(numbers, sound, strict=True):
                path = clips.folder / clips.names(index)[0]
                clip = clip.cpu()
                audio_files.write(path, torch.cat([start.view(1, -1), clip], 1) if with_prime else clip, rate)
                records.append({"clip": index, "files": {"sound": str(path)}})
            return records

        if batch is None:
            report = None if progress is None else lambda done, total: progress(done * num, total * num)
            result = {"files": [record["files"]["sound"] for record in write(range(num), report)]}
            samples_each = made / num
            clips.finish("Generated clips")
        else:
            report = None if progress is None else lambda done, total: progress(done * length, total * length)
            settings = options | {"model": fingerprint(model), "samples": length, "prime": start}
            settings |= {"with_prime": True} if with_prime else {}
            settings.pop("threads", None)
            batches = Batches(out, num, batch, {name: _plain(value) for name, value in settings.items()})
            manifest, count = batches.run(write, report)
            result = {"count": count, "manifest": None if manifest is None else str(manifest)}
            samples_each = length
    per_second = made / elapsed if made else None
    return result | {
        "seconds_each": samples_each / rate,
        "samples_per_second": per_second and round(per_second, 1),
        "real_time_factor": per_second and round(per_second / rate, 4),
        "engine": chosen,
        "precision": precision,
    }


def _plain(value: Any) -> Any:
    """A setting for :class:`Batches`; of a tensor its checksum."""
    if isinstance(value, torch.Tensor):
        return hashlib.sha256(value.cpu().contiguous().numpy().tobytes()).hexdigest()
    return value
