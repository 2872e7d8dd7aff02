"""Codes as binary decisions, whose probabilities are the model's, rounded so that every engine rounds alike.

A code is found by halving the range of codes, with one decision in each step. Its log odds L, of the upper half against
the lower, are rounded down to a multiple of ``STEP``; the probability comes from a table of integers.

Engines and machines compute L with different rounding errors. The encoder therefore shifts the grid, for a block of
samples at a time, by the first of ``SHIFTS`` shifts with which no L of the block is within ``TOLERANCE`` of a boundary,
and writes that shift. A decoder whose L differs by less rounds to the same probabilities. In a block of ``BLOCK``
decisions a shift is clear in two of three cases, and all 64 fail with a probability of about 1e-30. Only a sample of
hundreds of channels has so many decisions that all may fail; then the shift with the largest margin is used.
"""

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from wavedil.audio.compression.arithmetic import ONE, REMEDY, Decoder, Encoder
from wavedil.audio.distributions.base import Distribution
from wavedil.audio.distributions.categorical import Categorical
from wavedil.audio.generation.engines.session import Session
from wavedil.errors import WavedilError

STEP = 0.25
SHIFTS = 64
TOLERANCE = 5e-5
LIMIT = 11.05  # log odds beyond it are rounded to it; no multiple of STEP / SHIFTS is close to it
BLOCK = 1024  # decisions
DECODED_LEVELS = 6  # at once, since calls for one sample take longer than their arithmetic
CHUNK = 32  # blocks that the encoder scores at a time
_FIRST = ONE * 3 // 4  # probability that a shift is the right one
_LOWEST = math.floor(-LIMIT / STEP)


def _table() -> list[list[int]]:
    """The probability of the upper half, by shift and rounded log odds."""
    rows = []
    for shift in range(SHIFTS):
        indices = range(_LOWEST, -_LOWEST + 2)
        odds = [index * STEP - shift * STEP / SHIFTS for index in indices]
        rows.append([min(max(round(ONE / (1 + math.exp(-value))), 1), ONE - 1) for value in odds])
    return rows


_PROBABILITIES = _table()


class LogOdds:
    """Log odds of the upper half of ranges of codes, from distribution parameters ``(n, num_parameters)``.

    There are ``depth`` levels; the range of level 0 has all codes.

    Args:
        levels: number of successive levels that are computed at once, from the probabilities of the smallest ranges of
            these levels.
    """

    def __init__(self, distribution: Distribution, parameters: Tensor, levels: int = 1):
        if not bool(torch.isfinite(parameters).all()):
            raise WavedilError("the model's numbers overflow: its weights are too large; use an earlier checkpoint")
        self.num_codes = distribution.quantizer.num_codes
        self.depth = (self.num_codes - 1).bit_length()
        self.levels = levels
        self.setup(distribution, parameters)

    def setup(self, distribution: Distribution, parameters: Tensor) -> None:
        self.distribution, self.parameters, self.rows = distribution, parameters, np.arange(len(parameters))

    def __call__(self, low: np.ndarray, level: int) -> np.ndarray:
        """For the ranges that start at ``low`` ``(n,)``; minus infinity where no code is in the upper half.

        Levels are asked for one after the other, and each range is a half of the one before it.
        """
        if level % self.levels == 0:
            self._compute(low, level)
        half = 1 << (self.depth - 1 - level)
        ranges = (1 << level % self.levels) + (low - self.start) // (2 * half)
        return np.where(low + half >= self.num_codes, -np.inf, self.odds[self.rows, ranges])

    def _compute(self, low: np.ndarray, level: int) -> None:
        """Log odds of the ranges of the next levels, as a heap: the halves of range i are 2i and 2i + 1."""
        count = 1 << min(self.levels, self.depth - level)
        ends = low[:, None] + np.arange(count + 1) * ((1 << self.depth - level) // count)
        ends = np.minimum(ends, self.num_codes)
        empty = ends[:, :-1] == ends[:, 1:]
        first = np.where(empty, 0, ends[:, :-1])  # any range with codes
        last = np.where(empty, 1, ends[:, 1:])
        parameters = self.parameters.repeat_interleave(count, 0)
        first, last = (torch.from_numpy(each.reshape(-1)).to(parameters.device) for each in (first, last))
        logs = self.distribution.log_between(parameters, first, last).double().cpu().numpy()
        logs = np.where(empty, -np.inf, logs.reshape(-1, count))
        self.start, self.odds = low.copy(), np.zeros((len(low), count))  # a copy, since the decoder changes low
        while count > 1:
            lower, upper, count = logs[:, 0::2], logs[:, 1::2], count // 2
            with np.errstate(invalid="ignore"):
                self.odds[:, count : 2 * count] = upper - lower
            logs = np.logaddexp(lower, upper)
        self.odds = np.nan_to_num(self.odds, copy=False, nan=0.0, posinf=1e6, neginf=-1e6)


class CategoricalLogOdds(LogOdds):
    """The same for a softmax, some ten times faster: the sums of all ranges are computed at once, from pairs."""

    def setup(self, distribution: Distribution, parameters: Tensor) -> None:
        logits = parameters.double().cpu().numpy()
        first = 1 << self.depth
        sums = np.zeros((len(logits), 2 * first))  # a heap: the halves of range i are 2i and 2i + 1
        np.exp(logits - logits.max(axis=1, keepdims=True), out=sums[:, first : first + self.num_codes])
        while first > 1:
            np.add(sums[:, first : 2 * first : 2], sums[:, first + 1 : 2 * first : 2], out=sums[:, first // 2 : first])
            first //= 2
        self.logs = np.log(np.maximum(sums, 1e-300))
        self.rows = np.arange(len(sums))

    def __call__(self, low: np.ndarray, level: int) -> np.ndarray:
        halves = 2 * ((1 << level) + (low >> (self.depth - level)))
        odds = self.logs[self.rows, halves + 1] - self.logs[self.rows, halves]
        return np.where(low + (1 << (self.depth - 1 - level)) >= self.num_codes, -np.inf, odds)


def make_log_odds(distribution: Distribution, parameters: Tensor, levels: int = 1) -> LogOdds:
    kind = CategoricalLogOdds if type(distribution) is Categorical else LogOdds
    return kind(distribution, parameters, levels)


def block_samples(num_codes: int, channels: int) -> int:
    """Number of samples in a block, at least 1."""
    return max(1, BLOCK // ((num_codes - 1).bit_length() * channels))


def encode_codes(session: Session, codes: Tensor, encoder: Encoder) -> Iterator[int]:
    """Writes codes ``(channels, time)``; yields the number of samples done, after each chunk."""
    block = block_samples(session.plan.distribution.quantizer.num_codes, len(codes))
    for start in range(0, codes.shape[1], CHUNK * block):
        chunk = codes[:, start : start + CHUNK * block]
        parameters = session.score(chunk).transpose(1, 2).flatten(0, 1)  # (channels * time, parameters)
        log_odds, targets = make_log_odds(session.plan.distribution, parameters), chunk.flatten().cpu().numpy()
        odds, decisions = [], []
        for level in range(log_odds.depth):
            shift = log_odds.depth - 1 - level
            odds.append(log_odds(targets >> (shift + 1) << (shift + 1), level))
            decisions.append(targets >> shift & 1)
        # In the order of the decoder: time, level, channel.
        shape = log_odds.depth, *chunk.shape
        odds, decisions = (np.stack(each).reshape(shape).transpose(2, 0, 1) for each in (odds, decisions))
        for first in range(0, len(odds), block):
            _encode_block(encoder, odds[first : first + block], decisions[first : first + block])
        yield start + chunk.shape[1]


def _encode_block(encoder: Encoder, odds: np.ndarray, decisions: np.ndarray) -> None:
    """Writes a shift and the decisions ``(time, depth, channels)``."""
    known = np.isfinite(odds)
    limited, margins = np.clip(odds[known], -LIMIT, LIMIT), []
    for shift in range(SHIFTS):
        position = _position(limited, shift)
        margins.append(STEP * np.abs(position - np.round(position)).min(initial=1))
        if margins[-1] >= TOLERANCE:
            break
    shift = int(np.argmax(margins))
    position = _position(limited, shift)
    for _ in range(shift):
        encoder.encode(False, _FIRST)
    encoder.encode(True, _FIRST)
    table = _PROBABILITIES[shift]
    for index, decision in zip((np.floor(position).astype(int) - _LOWEST).tolist(), decisions[known], strict=True):
        encoder.encode(bool(decision), table[index])


def decode_codes(session: Session, time: int, decoder: Decoder) -> Iterator[Tensor]:
    """The codes of ``time`` samples, ``(channels,)`` each."""
    placeholder = torch.zeros(session.batch, 1, dtype=torch.int64, device=session.plan.device)
    block = block_samples(session.plan.distribution.quantizer.num_codes, session.batch)
    for at in range(time):
        if at % block == 0:
            shift = 0
            while not decoder.decode(_FIRST):
                shift += 1
                if shift == SHIFTS:
                    raise WavedilError(f"the data are damaged: {REMEDY}")
            table = _PROBABILITIES[shift]
        log_odds = make_log_odds(session.plan.distribution, session.score(placeholder)[:, :, 0], DECODED_LEVELS)
        low = np.zeros(session.batch, np.int64)
        for level in range(log_odds.depth):
            bits = []
            for value in log_odds(low, level).tolist():
                index = math.floor(_position(min(max(value, -LIMIT), LIMIT), shift)) - _LOWEST
                bits.append(value > -math.inf and decoder.decode(table[index]))
            low += np.array(bits) * (1 << (log_odds.depth - 1 - level))
        codes = torch.from_numpy(low).to(placeholder.device)
        session.replace_last(codes)
        yield codes


def _position(odds: float | np.ndarray, shift: int) -> float | np.ndarray:
    """Log odds on the grid whose boundaries are the integers. Even odds, the most frequent, are far from them."""
    return (odds + shift * STEP / SHIFTS) / STEP + 0.5
