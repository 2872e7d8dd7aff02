"""Drop-outs of a target: each planted one is found where it is, and clean recordings have none."""

import numpy as np
import pytest

from wavedil.audio.data import audio_files
from wavedil.audio.data.dropouts import constant_stretches, find_faults, repeated_buffers
from wavedil.audio.data.recording_files import find_recordings
from wavedil.audio.data.recordings import split_recordings

RATE = 8000


@pytest.fixture(scope="module")
def dry():
    """20 seconds of decaying notes with pauses, and the noise of pickups."""
    generator = np.random.default_rng(0)
    sound = 1e-4 * generator.standard_normal(20 * RATE)
    times = np.arange(RATE) / RATE
    for start in np.sort(generator.uniform(0, 19, 50)):
        pitch = 80 * 2 ** (generator.uniform(0, 24) / 12)
        note = sum(np.sin(2 * np.pi * pitch * h * times * (1 + 1e-3 * h) + h) / h for h in range(1, 15))
        first = int(start * RATE)
        sound[first : first + RATE] += 0.1 * note * np.exp(-5 * times)
    sound[5 * RATE : 6 * RATE] *= 1e-3
    return sound.astype(np.float32)


def amplifier(dry, gate=0.0):
    """A low-pass filter, distortion, noise and a gate."""
    low = np.convolve(dry, np.exp(-np.arange(40) / 8) / 8)[: len(dry)]
    wet = np.tanh(6 * low) + 1e-4 * np.random.default_rng(1).standard_normal(len(dry))
    envelope = np.convolve(np.abs(dry), np.ones(160) / 160)[: len(dry)]
    return (wet * (envelope >= gate)).astype(np.float32)


@pytest.fixture(scope="module")
def wet(dry):
    return amplifier(dry)


def places(dry, size, seed):
    """First samples of passages in which the input is loud."""
    generator = np.random.default_rng(seed)
    while True:
        at = int(generator.integers(4 * RATE, 16 * RATE))
        if np.std(dry[at : at + size]) > np.std(dry):
            yield at


@pytest.mark.parametrize(("size", "gate"), [(100, 0.0), (200, 2e-3), (3000, 0.0), (1000, 2e-3)])
def test_constant_stretches(dry, size, gate):
    for seed, value in enumerate((0.0, None, 0.1)):
        at = next(places(dry, size, seed))
        faulty = amplifier(dry, gate)
        faulty[at : at + size] = faulty[at - 1] if value is None else value
        (fault,) = constant_stretches(dry, faulty, RATE)
        assert fault.kind == "constant" and abs(fault.start - at) <= 1 and abs(fault.samples - size) <= 1


@pytest.mark.parametrize("size", [64, 300, 4000])
def test_repeated_buffers(dry, wet, size):
    for seed, distance in enumerate((size, 2 * size + 7)):
        at = next(places(dry, size, seed))
        faulty = wet.copy()
        faulty[at : at + size] = wet[at - distance : at - distance + size]
        (fault,) = repeated_buffers(dry, faulty)
        assert (fault.kind, fault.start, fault.samples, fault.value) == ("repeated", at, size, distance)


@pytest.mark.parametrize("size", [-500, -12, 8, 64, 1000])
def test_lost_and_inserted_samples(dry, wet, size):
    at = next(places(dry, 1000, abs(size)))
    parts = [wet[:at], wet[at - 3 * RATE :][: max(0, -size)], wet[at + max(0, size) :], wet[: max(0, size)]]
    (fault,) = find_faults(dry, np.concatenate(parts)[: len(dry)], RATE)
    assert fault.kind == "shifted" and abs(fault.samples - size) <= 1
    assert abs(fault.start - at) < 0.6 * RATE


def test_clean_recordings_have_no_drop_outs(dry, wet):
    tremolo = 0.5 + 0.5 * np.sin(2 * np.pi * 4 * np.arange(len(dry)) / RATE)
    delayed = np.concatenate([np.zeros(3000, np.float32), 0.5 * wet[:-3000]])
    clean = {
        "as it is": wet,
        "16 bits": np.round(wet * 2**15) / 2**15,
        "gate": amplifier(dry, 2e-3),
        "strong gate": amplifier(dry, 2e-2),
        "rectifier": np.maximum(dry, 0),
        "dead zone": np.sign(dry) * np.maximum(np.abs(dry) - 0.01, 0),
        "square": np.sign(dry) / 2,
        "clipped": np.clip(10 * dry, -0.4, 0.4),
        "tremolo": tremolo * wet,
        "chopped": (tremolo > 0.5) * wet,
        "echo": wet + delayed,
    }
    for name, target in clean.items():
        assert find_faults(dry, target.astype(np.float32), RATE) == [], name
    pauses = dry.copy()
    pauses[8 * RATE : 10 * RATE] = 0
    assert find_faults(pauses, np.tanh(5 * pauses), RATE) == []
    twice = np.concatenate([dry[: 4 * RATE], dry[: 4 * RATE]])
    assert find_faults(twice, np.tanh(5 * twice), RATE) == []
    for short in (dry[:0], dry[:1], dry[:50], dry[: RATE // 2]):
        assert find_faults(short, np.tanh(short), RATE) == []


def test_lines_have_position_and_figure(dry, wet, tmp_path):
    """Positions are those of the file, also if a delay was removed."""
    faulty = wet.copy()
    starts = [next(places(dry, 400, seed)) for seed in (1, 2)]
    faulty[starts[0] : starts[0] + 400] = 0
    faulty[starts[1] : starts[1] + 400] = wet[starts[1] - 400 : starts[1]]
    faulty = np.concatenate([np.zeros(RATE // 2, np.float32), faulty])[: len(dry)]
    audio_files.write(tmp_path / "dry.wav", dry, RATE, "FLOAT")
    audio_files.write(tmp_path / "wet.wav", faulty, RATE, "FLOAT")
    pair = find_recordings(f"{tmp_path}/dry.wav,{tmp_path}/wet.wav")
    lines = [line for line in split_recordings(pair, RATE, context=100)[2].lines if "drop-out" in line]
    assert len(lines) == 2
    times = [f"{start / RATE + 0.5:.2f} s" for start in starts]
    assert f"possible drop-out: 400 samples (50 ms) from {times[0]} on are silent, but the input is not" in lines[0]
    assert f"from {times[1]} on repeat the samples 400 earlier" in lines[1]
