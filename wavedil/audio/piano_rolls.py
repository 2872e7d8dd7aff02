"""Piano rolls: files, built-in pieces, likelihood under a model, sampling, and rendering as sound.

A piano roll is a uint8 array ``(time, 88)``: 1 where a key sounds in a time step, else 0.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wavedil.audio.data.pluck import pluck
from wavedil.errors import WavedilError, count_text
from wavedil.matlab import read_cells

KEYS = 88  # keys of a piano
LOWEST = 21  # MIDI note of key 0, A0
STEP_SECONDS = 0.25  # duration of a time step: an eighth note at 120 beats per minute

DEFINITION = (
    "mean over all time steps except each piece's first of -log p(the 88 keys | all earlier steps of the piece), in "
    "nats; keys are independent given the past"
)

_PARTS = ("traindata", "validdata", "testdata")


@dataclass(frozen=True)
class PianoRolls:
    """Pieces for training, validation and test, each a uint8 array ``(time, 88)`` of 0 and 1."""

    train: list[np.ndarray]
    valid: list[np.ndarray]
    test: list[np.ndarray]

    def __str__(self) -> str:
        return ", ".join(
            f"{name} {count_text(len(rolls), 'piece')} of {sum(map(len, rolls))} steps"
            for name, rolls in (("train", self.train), ("valid", self.valid), ("test", self.test))
        )


def read_rolls(path: str | Path) -> PianoRolls:
    """Reads piano rolls from a MATLAB file with cells ``traindata``, ``validdata`` and ``testdata`` of arrays.

    JSB chorales, Nottingham and MuseData are available in this format (Boulanger-Lewandowski et al. 2012, arXiv
    1206.6392; in the repository of Bai et al.).

    Raises:
        WavedilError: the file is missing, is not a MATLAB 5 file, or has other contents.
    """
    path = Path(path)
    rolls: dict[str, list[np.ndarray]] = {}
    for name, roll in read_cells(path, _PARTS):
        rolls.setdefault(name, []).append(_check(roll, path, name))
    missing = [name for name in _PARTS if name not in rolls]
    if missing:
        raise WavedilError(f"{path} has no pieces in {', '.join(missing)}: expected cells {', '.join(_PARTS)}")
    return PianoRolls(*(rolls[name] for name in _PARTS))


def _check(roll: np.ndarray, path: Path, name: str) -> np.ndarray:
    if roll.ndim != 2 or roll.shape[1] != KEYS or len(roll) < 2:
        raise WavedilError(f"{path}: an array of {name} has shape {roll.shape}: expected (time, 88), time >= 2")
    if not np.isin(roll, (0, 1)).all():
        raise WavedilError(f"{path}: {name} has values other than 0 and 1: expected 1 where a key sounds")
    return roll.astype(np.uint8)


def make_rolls(num: int = 60, seed: int = 0) -> PianoRolls:
    """Composes built-in pieces: triads of a major scale in four voices, in random keys.

    A chord lasts two or four steps; the next one is a second, third, fourth or fifth away. The same arguments give the
    same pieces on each machine.

    Args:
        num: pieces for training; a fifth as many are for validation, and a fifth for test.
        seed: of the pieces.
    """
    counts = (num, max(1, num // 5), max(1, num // 5))
    generator = np.random.default_rng(seed)
    return PianoRolls(*([_compose(generator) for _ in range(count)] for count in counts))


def _compose(generator: np.random.Generator) -> np.ndarray:
    scale = np.add.outer(12 * np.arange(7), [0, 2, 4, 5, 7, 9, 11]).ravel()  # semitones above the lowest tonic
    tonic = int(generator.integers(27, 39)) - LOWEST
    roll = np.zeros((int(generator.integers(12, 25)) * 2, KEYS), np.uint8)
    degree, start = 0, 0
    while start < len(roll):
        length = int(generator.choice([2, 4]))
        voices = [7 + degree, 14 + degree, 14 + degree + 2, 21 + degree + 4 - 7]
        roll[start : start + length, tonic + scale[voices]] = 1
        degree = (degree + int(generator.choice([1, 2, 3, 4, -1, -2]))) % 7
        start += length
    return roll


def transpose(roll: np.ndarray, semitones: int) -> np.ndarray:
    """Transposes a piece up by ``semitones``, or by fewer if its notes would leave the keyboard."""
    keys = np.flatnonzero(roll.any(0))
    if not len(keys):
        return roll
    semitones = int(np.clip(semitones, -keys[0], KEYS - 1 - keys[-1]))
    return np.roll(roll, semitones, axis=1)


def collate(rolls: Sequence[np.ndarray]) -> dict[str, Tensor]:
    """Makes a batch of pieces ``(time, 88)``.

    Returns:
        ``"roll"``: float ``(batch, 88, time)``, shorter pieces padded with zeros. ``"mask"``: bool ``(batch, time)``,
        false in the padding.
    """
    length = max(map(len, rolls))
    batch = np.zeros((len(rolls), KEYS, length), np.float32)
    mask = np.zeros((len(rolls), length), bool)
    for index, roll in enumerate(rolls):
        batch[index, :, : len(roll)] = roll.T
        mask[index, : len(roll)] = True
    return {"roll": torch.from_numpy(batch), "mask": torch.from_numpy(mask)}


def roll_nll(model: nn.Module, roll: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Computes the negative log-likelihood of a batch of pieces.

    The first step of each piece has no past and is not predicted, as in Bai et al. (2018).

    Args:
        model: ``(batch, 88, time) -> (batch, 88, time)``; the output at t is the logit of each key at t + 1.
        roll, mask: a batch of :func:`collate`.

    Returns:
        The sum over steps of -log p(keys of the step | earlier steps) in nats, and the number of steps.
    """
    logits = model(roll[..., :-1])
    nats = F.binary_cross_entropy_with_logits(logits.float(), roll[..., 1:], reduction="none").sum(1)
    counted = mask[:, 1:]
    return nats.masked_select(counted).sum(), counted.sum()


@dataclass(frozen=True)
class RollLikelihood:
    """Mean negative log-likelihood in nats per time step."""

    nll_nats_per_step: float
    count: int  # time steps
    pieces: int
    definition: str = DEFINITION

    def __str__(self) -> str:
        text = (
            f"{self.nll_nats_per_step:.4f} nats per step over {self.count} steps of {count_text(self.pieces, 'piece')}"
        )
        return f"{text}\n({self.definition})"


@torch.inference_mode()
def evaluate_rolls(
    model: nn.Module, rolls: Sequence[np.ndarray], progress: Callable[[int, int], None] | None = None
) -> RollLikelihood:
    """Computes the negative log-likelihood of pieces in nats per step.

    Args:
        model: see :func:`roll_nll`; in eval mode.
        rolls: pieces ``(time, 88)``.
        progress: called with the numbers of finished and of all pieces.
    """
    device = next(model.parameters()).device
    nats, count = 0.0, 0
    for index, roll in enumerate(rolls, 1):
        batch = collate([roll])
        total, steps = roll_nll(model, batch["roll"].to(device), batch["mask"].to(device))
        nats += total.item()
        count += int(steps)
        if progress is not None:
            progress(index, len(rolls))
    return RollLikelihood(nats / count if count else math.nan, count, len(rolls))


def evaluate_roll_file(
    model: nn.Module,
    data: str | Path,
    *,
    held_out: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> RollLikelihood:
    """Negative log-likelihood of a file's test pieces, in nats per step: the function behind ``wavedil evaluate``.

    Args:
        data: a MATLAB file of piano rolls; see :func:`read_rolls`.
        held_out: use the validation pieces instead of the test pieces.
        progress: called with the numbers of finished and of all pieces.

    Raises:
        WavedilError: the file cannot be read, or the model's channels are not piano keys.
    """
    channels = model.config.get("in_channels"), model.config.get("out_channels")
    if channels != (KEYS, KEYS):
        raise WavedilError(f"in_channels and out_channels are {channels}: expected {KEYS} of each, the keys")
    rolls = read_rolls(data)
    return evaluate_rolls(model, rolls.valid if held_out else rolls.test, progress)


@torch.inference_mode()
def sample_rolls(
    model: nn.Module,
    start: Tensor,
    steps: int,
    seed: int = 0,
    temperature: float = 1.0,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Samples continuations; each key is drawn independently from the model's probability.

    Args:
        model: with ``step(x, state)``, see :func:`roll_nll`; in eval mode.
        start: bool or float ``(batch, 88, time)``, the first steps of each piece.
        steps: number of steps to sample.
        seed: the result for piece i depends on ``seed``, i and its start only.
        temperature: the logits are divided by it; values below 1 make likely keys more likely.
        progress: called with the numbers of sampled and of all steps.

    Returns:
        float ``(batch, 88, steps)`` of 0 and 1.
    """
    generators = [torch.Generator().manual_seed(seed + index) for index in range(len(start))]
    x, state, sampled = start.float(), None, []
    for index in range(steps):
        logits, state = model.step(x, state)
        uniforms = torch.stack([torch.rand(KEYS, generator=generator) for generator in generators])
        x = (uniforms < (logits[..., -1] / temperature).sigmoid().cpu()).float().unsqueeze(2).to(start.device)
        sampled.append(x)
        if progress is not None:
            progress(index + 1, steps)
    return torch.cat(sampled, 2)


def notes(roll: np.ndarray) -> Iterator[tuple[int, int, int]]:
    """Key, first step and end of each note of a piece ``(time, 88)``; consecutive steps of a key are one note."""
    edges = np.diff(np.pad(roll.astype(np.int8), ((1, 1), (0, 0))), axis=0)
    for key in np.flatnonzero(roll.any(0)):
        starts, ends = np.flatnonzero(edges[:, key] == 1), np.flatnonzero(edges[:, key] == -1)
        yield from ((int(key), int(start), int(end)) for start, end in zip(starts, ends, strict=True))


def play(roll: np.ndarray, sample_rate: int, step_seconds: float = STEP_SECONDS) -> np.ndarray:
    """Renders a piece on plucked strings.

    Consecutive steps of a key are one note.

    Args:
        roll: ``(time, 88)``.
        sample_rate: in Hz; at least 25.2 kHz for the highest key.
        step_seconds: duration of a time step.

    Returns:
        float32 ``(samples,)``.
    """
    step = round(step_seconds * sample_rate)
    sound = np.zeros(len(roll) * step)
    for key, start, end in notes(roll):
        note = pluck(LOWEST + key, (end - start) * step / sample_rate, 0.25, sample_rate)
        fade = min(len(note), step // 10)
        note[len(note) - fade :] *= np.linspace(1, 0, fade)
        sound[start * step : start * step + len(note)] += note
    return np.clip(sound, -1, 1).astype(np.float32)
