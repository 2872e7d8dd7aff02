"""Fills gaps in recordings: candidates continue the sound before a gap, and the sound after it selects one of them."""

import math
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor, nn

from wavedil.audio.conditioning.conditioner import Speaker
from wavedil.audio.data import audio_files
from wavedil.audio.data.levels import check_level
from wavedil.audio.data.packed import PackedSound
from wavedil.audio.data.streams import coding, open_sound, written_blocks
from wavedil.audio.distributions.base import Temperature
from wavedil.audio.gap_candidates import MAX_ROUNDS, correction
from wavedil.audio.linear_prediction import interpolate
from wavedil.audio.models.wavenet import WaveNet
from wavedil.core.schema import AnyPath, Range, SampleRate, checked
from wavedil.core.tensors import to_tensor
from wavedil.errors import WavedilError, with_article
from wavedil.ops.memory import check_memory
from wavedil.outputs import claim_file

MAX_GAP_MS = 100.0
CONTEXT_MS = 10.0  # least sound on each side of a gap
#: How the samples of a coding are read and written without a change: type, and the step between two values.
_EXACT = {"FLOAT": ("float32", 0), "DOUBLE": ("float64", 0), "ULAW": ("int16", 1), "ALAW": ("int16", 1)}
_BITS = {"PCM_S8": 8, "PCM_U8": 8, "PCM_16": 16, "PCM_24": 24, "PCM_32": 32}
_EXACT |= {name: ("int32", 2 ** (32 - bits)) for name, bits in _BITS.items()}

Candidates = Annotated[int, Range(0, 4096)]
Gaps = Sequence[tuple[float, float]]
Progress = Callable[[int, int], None]


@checked
def inpaint(
    model: nn.Module,
    sound: Tensor | np.ndarray,
    gaps: Gaps,
    *,
    sample_rate: SampleRate | None = None,
    candidates: Candidates = 32,
    temperature: Temperature = 0.7,
    seed: int = 0,
    speaker: Speaker | None = None,
    engine: str = "auto",
    progress: Progress | None = None,
) -> Tensor:
    """Fills gaps in a recording; all other samples are returned as they are.

    Each candidate is a stream that continues the sound before the gap. The one is taken with which the model finds the
    20 ms after the gap most likely. Then the second half of the gap is generated again, from the middle of the best
    candidate on, then its last quarter, and so on. Over 10 ms at both ends the result is cross-faded, inside the gap,
    with an interpolation by linear prediction (:mod:`wavedil.audio.linear_prediction`).

    Args:
        model: a :class:`wavedil.audio.WaveNet` without features of the sound.
        sound: ``(time,)`` or ``(channels, time)`` in [-1, 1]; channels are filled one by one. Samples in the gaps are
            ignored and may be NaN.
        gaps: start and stop of each in seconds: at most 100 ms, at least 10 ms apart and from both ends of the sound.
        sample_rate: of the sound in Hz; default: the model's. At another rate, the model fills the frequencies that it
            has, and linear prediction fills the others.
        candidates: number of streams; 0 uses linear prediction alone.
        temperature: of the candidates; see :class:`wavedil.audio.distributions.base.Sampling`.
        seed: of the random numbers.
        speaker: for a model with speakers.
        engine: as for :func:`wavedil.audio.generate`.
        progress: called with (finished, total) gaps of all channels.

    Raises:
        WavedilError: gaps that cannot be filled, NaN outside of them, or a model that cannot fill them.
    """
    tensor = to_tensor("sound", sound, floating=True)
    if tensor.ndim not in (1, 2) or not tensor.numel():
        raise WavedilError(f"sound has shape {tuple(tensor.shape)}: expected (time,) or (channels, time)")
    rate = sample_rate or getattr(model, "sample_rate", 0)
    options = {"candidates": candidates, "temperature": temperature, "seed": seed}
    options |= {"speaker": speaker, "engine": engine, "progress": progress}
    channels = tensor.detach().cpu().double().reshape(-1, tensor.shape[-1]).numpy()
    result = tensor.detach().clone()
    for channel, start, samples in _fills(model, channels, gaps, rate, "sound", **options):
        row = result if result.ndim == 1 else result[channel]
        row[start : start + len(samples)] = torch.from_numpy(samples).to(row)
    return result


@checked
def inpaint_file(model: nn.Module, source: AnyPath, target: AnyPath, gaps: Gaps, **options: Any) -> dict[str, Any]:
    """Fills gaps in an audio file; all other samples are copied bit by bit, at the same rate and bit depth.

    Args:
        model, gaps: as for :func:`inpaint`.
        source: an audio file at any rate, in PCM, floating point, A-law or mu-law.
        target: the file to write, in a format that has the same coding.
        options: those of :func:`inpaint` except ``sample_rate``.

    Returns:
        A dict of ``file``, ``gaps``, ``channels``, ``sample_rate`` and ``seconds_per_gap``, the time of filling.

    Raises:
        WavedilError: as :func:`inpaint`; or the coding of the file is lossy, or the target does not have it.
    """
    info = audio_files.info(source)
    if info.subtype not in _EXACT:
        raise WavedilError(
            f"{source} is in {info.subtype}, which cannot be written again without loss: convert it to .wav or .flac"
        )
    (kind, step), subtype = _EXACT[info.subtype], coding(Path(target), like=info.subtype)[1]
    if subtype != info.subtype:
        raise WavedilError(f"{target}: its format does not have {info.subtype}, the coding of {source}: use .wav")
    size = 24 * info.frames * info.channels
    check_memory(size, f"{source} has {info.frames} samples", "cut it, and join the parts again")
    with open_sound(Path(source)) as file:
        if isinstance(file, PackedSound):
            raise WavedilError(f"{source} is packed: expected an audio file")
        data = file.read(info.frames, kind, always_2d=True).T.copy()
    scale = -float(np.iinfo(kind).min) if step else 1.0
    started = time.perf_counter()
    with claim_file(target, [source]):
        fills = list(
            _fills(model, data / scale if step else data.astype(float), gaps, info.sample_rate, str(source), **options)
        )
        elapsed = time.perf_counter() - started
        for channel, start, samples in fills:
            if step:
                samples = (np.round(samples * scale / step) * step).clip(-scale, scale - step)
            data[channel, start : start + len(samples)] = samples
        with written_blocks(target, info.sample_rate, info.channels, subtype, info.tags) as append:
            append(data)
    return {
        "file": str(target),
        "gaps": len(gaps),
        "channels": info.channels,
        "sample_rate": info.sample_rate,
        "seconds_per_gap": round(elapsed / len(fills), 3),
    }


@checked
@torch.inference_mode()
def _fills(
    model: nn.Module,
    sound: np.ndarray,
    gaps: Gaps,
    rate: int,
    name: str,
    *,
    candidates: Candidates = 32,
    temperature: Temperature = 0.7,
    seed: int = 0,
    speaker: Speaker | None = None,
    engine: str = "auto",
    progress: Progress | None = None,
) -> list[tuple[int, int, np.ndarray]]:
    """Channel, start and samples of each filled gap of sound ``(channels, time)``, which is changed."""
    if not isinstance(model, WaveNet):
        raise WavedilError(f"model is {with_article(model)}, which has no distribution of sound: expected a WaveNet")
    if model.conditioner.upsampling is not None:
        raise WavedilError("model is conditioned on features of the sound, which a gap does not have: use another")
    spans = _spans(gaps, rate, sound.shape[1])
    for start, stop in spans:
        sound[:, start:stop] = 0
    if not np.isfinite(sound).all():
        raise WavedilError(f"{name} has NaN or infinity outside of the gaps: repair it, or fill these samples, too")
    sound = check_level(sound, name).clip(-1, 1)
    options = {"temperature": temperature, "seed": seed, "speaker": speaker, "engine": engine}
    fills, next_starts = [], [*(start for start, _ in spans[1:]), sound.shape[1]]
    for channel, row in enumerate(sound):
        for (start, stop), following in zip(spans, next_starts, strict=True):
            row[start:stop] = interpolate(row[:following], start, stop, rate)
        for (start, stop), following in zip(spans, next_starts, strict=True):
            if candidates:
                first = len(fills) * MAX_ROUNDS * candidates
                row[start:stop] += correction(model, row, start, stop, following, rate, candidates, first, options)
            row[start:stop] = row[start:stop].clip(-1, 1)
            fills.append((channel, start, row[start:stop].copy()))
            if progress is not None:
                progress(len(fills), len(sound) * len(spans))
    return fills


def _spans(gaps: Gaps, rate: int, length: int) -> list[tuple[int, int]]:
    """Gaps in samples, sorted; raises WavedilError for those that cannot be filled."""
    if not gaps:
        raise WavedilError("gaps is empty: expected at least one (start, stop) in seconds")
    seconds, spans = length / rate, []
    for start, stop in sorted(gaps):
        text = f"gap {start:g}:{stop:g}"
        if not 0 <= start < stop < math.inf:  # also for NaN
            raise WavedilError(f"{text}: expected 0 <= start < stop, in seconds")
        if stop > seconds + 0.5 / rate:
            raise WavedilError(f"{text} ends after the sound, which has {seconds:.6g} seconds")
        if stop - start > MAX_GAP_MS / 1000 + 0.5 / rate:
            raise WavedilError(
                f"{text} has {1000 * (stop - start):.6g} ms: expected at most {MAX_GAP_MS:g} ms; what a longer gap had "
                "cannot be guessed"
            )
        span = round(start * rate), round(stop * rate)
        if span[0] == span[1]:
            raise WavedilError(f"{text} is shorter than a sample at {rate} Hz")
        spans.append(span)
    least = CONTEXT_MS * rate / 1000 - 1  # the ends of gaps are rounded
    for one, two in pairwise([(0, 0), *spans, (length, length)]):
        if two[0] - one[1] < least:
            where = [f"{each[0] / rate:g}:{each[1] / rate:g}" for each in (one, two) if each[0] < each[1]]
            if len(where) == 2:
                raise WavedilError(
                    f"gaps {where[0]} and {where[1]} overlap or have less than {CONTEXT_MS:g} ms between them: "
                    "join them to one gap"
                )
            side = "before" if one == (0, 0) else "after"
            raise WavedilError(
                f"gap {where[0]} has less than {CONTEXT_MS:g} ms of sound {side} it: expected more, on both sides"
            )
    return spans
