"""Generates MIDI and audio files with a model of piano rolls: the Python function behind ``wavedil sample``."""

import io
import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from wavedil.audio.data import audio_files
from wavedil.audio.generation.clips import MIDI, Clips
from wavedil.audio.piano_rolls import KEYS, LOWEST, STEP_SECONDS, collate, make_rolls, notes, play, read_rolls
from wavedil.audio.piano_rolls import sample_rolls as generate_rolls
from wavedil.errors import WavedilError, check_positive, first_line, shown
from wavedil.extras import install_extra
from wavedil.files import check_regular_file
from wavedil.outputs import check_outputs, claim_folder
from wavedil.writing import atomic_write

SAMPLE_RATE = 32000  # Hz: the highest key of a piano, plucked, needs 25 kHz
PRIME_STEPS = 8
MAX_STEPS, MAX_NUM = 100_000, 1000
_TICKS = 240  # of a time step, with 480 in a quarter note

_log = logging.getLogger("wavedil")


def sample_roll_files(
    model: nn.Module,
    out: str | Path,
    *,
    steps: int | None = None,
    seconds: float | None = None,
    num: int = 1,
    seed: int = 0,
    temperature: float = 1.0,
    prime: str | Path | None = None,
    with_prime: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Writes ``num`` pieces as MIDI and, on plucked strings, as sound: ``OUT/clip_000_seed0.mid`` and ``.wav``.

    The names are those of :class:`wavedil.audio.generation.clips.Clips`. Without the package mido (extra ``midi``) only
    sound is written, with a warning.

    Args:
        out: folder for the files; or, for one piece, a MIDI or audio file, which is replaced.
        steps: length of each piece in time steps of a quarter second; default 64.
        seconds: the same in seconds; set only one of them.
        prime: the pieces continue the first 8 steps of the test pieces of a ``.mat`` file, or of a MIDI file. Default:
            a chord.
        with_prime: write these steps before each piece.
        num, seed, temperature: see :func:`wavedil.audio.piano_rolls.sample_rolls`.
        progress: called with the numbers of sampled and of all steps.

    Returns:
        ``files``, ``seconds_each``, ``samples_per_second`` (time steps of all pieces), ``real_time_factor``.

    Raises:
        WavedilError: an argument out of range, or a file that cannot be read.
    """
    check_positive(num=num)
    if num > MAX_NUM:
        raise WavedilError(f"num is {shown(num)}: expected at most {MAX_NUM}")
    if steps is not None and seconds is not None:
        raise WavedilError(f"steps is {steps} and seconds is {seconds:g}: set only one of them")
    if seconds is not None:
        if not 0 < seconds <= MAX_STEPS * STEP_SECONDS:
            raise WavedilError(f"seconds is {seconds:g}: expected above 0 and at most {MAX_STEPS * STEP_SECONDS:g}")
        steps = max(1, round(seconds / STEP_SECONDS))
    steps = 64 if steps is None else steps
    if not 1 <= steps <= MAX_STEPS:
        raise WavedilError(f"steps is {shown(steps)}: expected 1 to {MAX_STEPS}")
    if not (math.isfinite(temperature) and temperature > 0):
        raise WavedilError(f"temperature is {temperature}: expected a number above 0")
    if with_prime and prime is None:
        raise WavedilError("with_prime is set, but prime is not: set it to a file, or leave with_prime out")
    channels = model.config.get("in_channels"), model.config.get("out_channels")
    if channels != (KEYS, KEYS):
        raise WavedilError(f"in_channels and out_channels are {channels}: expected {KEYS} of each, the keys")
    clips = Clips(out, num, (".mid", ".wav"), seed, temperature)
    if clips.is_file and clips.suffixes[0].lower() in MIDI:
        pass
    elif not (has_midi := _has_mido()):
        clips.suffixes = tuple(suffix for suffix in clips.suffixes if suffix != ".mid")
    inputs = [] if prime is None else [prime]

    def names() -> list[str]:
        return [name for index in range(num) for name in clips.names(index)]

    with claim_folder(clips.folder, names(), inputs):
        clips.keep_others()
        check_outputs([clips.folder / name for name in names()], inputs)
        starts = _starts(prime, num, seed)
        device = next(model.parameters()).device
        started = time.perf_counter()
        prompt = collate(starts)["roll"].to(device)
        sampled = generate_rolls(model, prompt, steps, seed, temperature, progress)
        elapsed = time.perf_counter() - started
        if with_prime:
            sampled = torch.cat([prompt, sampled], 2)
        files = []
        for index, roll in enumerate(sampled.transpose(1, 2).to(torch.uint8).cpu().numpy()):
            for name in clips.names(index):
                _write(clips.folder / name, roll)
                files.append(str(clips.folder / name))
        clips.finish("Generated pieces")
    if not clips.is_file and not has_midi:
        _log.warning("MIDI files are not written: mido is not installed: %s", install_extra("midi"))
    return {
        "files": files,
        "seconds_each": sampled.shape[2] * STEP_SECONDS,
        "samples_per_second": round(num * steps / elapsed, 1),
        "real_time_factor": round(num * steps * STEP_SECONDS / elapsed, 4),
    }


def _has_mido() -> bool:
    try:
        import mido  # noqa: F401
    except ModuleNotFoundError:
        return False
    return True


def _starts(prime: str | Path | None, num: int, seed: int) -> list[np.ndarray]:
    """The first steps of each piece, of the same length."""
    if prime is None:
        return [roll[:2] for roll in make_rolls(5 * num, seed).test[:num]]  # a chord lasts at least two steps
    pieces = [read_midi(prime)] if Path(prime).suffix.lower() in MIDI else read_rolls(prime).test
    pieces = [pieces[index % len(pieces)][:PRIME_STEPS] for index in range(num)]
    shortest = min(map(len, pieces))
    return [piece[:shortest] for piece in pieces]


def _write(path: Path, roll: np.ndarray) -> None:
    if path.suffix.lower() in MIDI:
        write_midi(path, roll)
    else:
        audio_files.write(path, torch.from_numpy(play(roll, SAMPLE_RATE))[None], SAMPLE_RATE)


def write_midi(path: str | Path, roll: np.ndarray) -> None:
    """Writes a piece ``(time, 88)`` as a MIDI file: a time step is an eighth note at 120 beats per minute."""
    import mido

    events = [(step, kind, key) for key, *ends in notes(roll) for kind, step in zip((1, 0), ends, strict=True)]
    track, now = mido.MidiTrack(), 0
    for step, kind, key in sorted(events):  # the end of a note comes before the start of one at the same step
        message = "note_on" if kind else "note_off"
        track.append(mido.Message(message, note=LOWEST + key, velocity=64, time=(step - now) * _TICKS))
        now = step
    track.append(mido.MetaMessage("end_of_track", time=(len(roll) - now) * _TICKS))
    content = io.BytesIO()
    mido.MidiFile(type=0, ticks_per_beat=2 * _TICKS, tracks=[track]).save(file=content)
    with atomic_write(path) as beside:
        beside.write_bytes(content.getvalue())


def read_midi(path: str | Path) -> np.ndarray:
    """The piano roll ``(time, 88)`` of a MIDI file, in time steps of a quarter second; drums are left out.

    Raises:
        WavedilError: the file cannot be read, or has no notes.
    """
    import mido

    check_regular_file(Path(path), "a MIDI file")
    try:
        messages = list(mido.MidiFile(path, clip=True))
    except (OSError, EOFError, ValueError, LookupError, TypeError) as error:
        raise WavedilError(f"{path} cannot be read as a MIDI file: {first_line(error)}") from None
    roll, began, now = np.zeros((MAX_STEPS, KEYS), np.uint8), {}, 0.0
    for message in messages:
        now += message.time
        if message.type not in ("note_on", "note_off") or message.channel == 9:
            continue
        key, step = message.note - LOWEST, round(now / STEP_SECONDS)
        if message.type == "note_on" and message.velocity:
            began[key] = step
        elif key in began and 0 <= key < KEYS:
            roll[began[key] : max(step, began.pop(key) + 1), key] = 1
    sounding = np.flatnonzero(roll.any(1))
    if not len(sounding):
        raise WavedilError(f"{path} has no notes of a piano: expected a MIDI file with notes {LOWEST} to {LOWEST + 87}")
    return roll[sounding[0] : sounding[-1] + 1]
