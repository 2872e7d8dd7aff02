"""Candidates for a gap: streams that continue the sound before it, selected by the likelihood of the sound after it."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wavedil.audio.data.resampling import resample_crop
from wavedil.audio.generation.generate import Stream
from wavedil.audio.models.wavenet import WaveNet

FOLLOW_MS = 20.0  # of sound after a gap that select a candidate
FADE_MS = 10.0
MAX_ROUNDS = 16
_PARAMETERS = 2**24  # that are computed at a time


def correction(
    model: WaveNet,
    sound: np.ndarray,
    start: int,
    stop: int,
    following: int,
    rate: int,
    candidates: int,
    first_stream: int,
    options: dict[str, Any],
) -> np.ndarray:
    """What to add to the samples from ``start`` to ``stop``, which linear prediction has filled.

    Args:
        following: where the next gap begins.
        first_stream: number of the first candidate, for its random numbers.
        options: of :class:`Stream`.
    """
    model_rate = model.sample_rate
    low, high = start * model_rate // rate, -(-stop * model_rate // rate)
    first = max(0, low - model.receptive_field)
    last = min(following * model_rate // rate, high + max(1, round(FOLLOW_MS * model_rate / 1000)))
    excerpt = _at_rate(sound, rate, model_rate, first, last)
    parts = torch.from_numpy(excerpt).float().clamp(-1, 1).split([low - first, high - low, last - high])
    correction = _best(model, *parts, candidates, first_stream, options).numpy()
    return _at_rate(correction, model_rate, rate, start, stop, low)


def _at_rate(sound: np.ndarray, source_rate: int, rate: int, start: int, stop: int, offset: int = 0) -> np.ndarray:
    """Samples from ``start`` to ``stop``, at ``rate``, of sound at ``source_rate``.

    The first sample of ``sound`` is number ``offset``; before it and after the last one there is silence.
    """
    if source_rate == rate:
        return sound[start - offset : stop - offset]

    def decode(first: int, frames: int | None) -> np.ndarray:
        begin, end = (min(max(each - offset, 0), len(sound)) for each in (first, first + frames))
        part = sound[begin:end].astype(np.float32)
        before = max(0, min(frames, offset - first))
        return np.pad(part, (before, frames - before - len(part)))[None]

    return resample_crop(decode, source_rate, rate, start, stop - start)[0]


def _best(
    model: WaveNet,
    past: Tensor,
    guide: Tensor,
    after: Tensor,
    candidates: int,
    first_stream: int,
    options: dict[str, Any],
) -> Tensor:
    """What to add to ``guide``, the interpolation of a gap; all tensors are ``(time,)`` at the model's rate."""
    length, fade = len(guide), max(1, round(FADE_MS * model.sample_rate / 1000))
    distance = torch.arange(length) + 0.5
    weight = (math.pi / 2 * (torch.minimum(distance, length - distance) / fade).clamp(max=1)).sin().square()
    best, best_score, cut = guide, -math.inf, 0
    for index in range(max(1, min(int(math.log2(length / fade)), MAX_ROUNDS))):
        prime = torch.cat([past, best[:cut]]).view(1, 1, -1)
        first = first_stream + index * candidates
        source = Stream(model, num=candidates, first=first, prime=prime, **options)
        # The codes of the cross-faded end are not those that were drawn; the state is that before this end.
        free = max(0, length - cut - fade)
        state = source.state()
        drawn = source.next_sound(free) if free else guide.new_zeros(candidates, 0)
        state = source.state() if free else state
        drawn = torch.cat([drawn, source.next_sound(length - cut - free)], 1).cpu()
        mixed = guide[cut:] + weight[cut:] * (drawn - guide[cut:])
        before = mixed[:, free - 1] if free else prime[0, 0, -1].expand(candidates)
        ends = torch.cat([mixed[:, free:], after.expand(candidates, -1)], 1)
        codes = model.quantizer.encode_sound(ends, before).to(next(model.parameters()).device)
        scores = log_likelihood(model, codes, state, source.conditioning.condition(0, codes.shape[1]))
        if scores.max() > best_score:
            best_score = float(scores.max())
            best = torch.cat([best[:cut], mixed[scores.argmax()]])
        cut = length - (length - cut) // 2
    return best - guide


def log_likelihood(model: WaveNet, codes: Tensor, state: dict[str, Tensor], condition: Tensor | None) -> Tensor:
    """Log-likelihood ``(streams,)`` in nats of codes ``(streams, time)`` after a state of the streams."""
    size = max(1, _PARAMETERS // (model.distribution.num_parameters * codes.shape[1]))
    scores = []
    for first in range(0, len(codes), size):
        rows = slice(first, first + size)
        part = {key: value[rows] for key, value in state.items()}
        parameters, _ = model.step(codes[rows], part, None if condition is None else condition[rows])
        nll = model.distribution.nll(parameters, codes[rows]).double()
        scores.append(-nll.view(codes[rows].shape).sum(1))
    return torch.cat(scores).cpu()
