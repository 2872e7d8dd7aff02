"""Delays between input and target of an effect."""

import numpy as np
import pytest

from wavedil.audio.data import audio_files
from wavedil.audio.data.alignment import Delay, choose_shifts, estimate_delay
from wavedil.audio.data.overdrive import overdrive
from wavedil.audio.data.pluck import compose, render_melody
from wavedil.audio.data.recording_files import find_recordings
from wavedil.audio.data.recordings import split_recordings
from wavedil.errors import WavedilError

RATE = 16000


@pytest.fixture(scope="module")
def strings():
    return render_melody(compose(6.0, np.random.default_rng(3)), RATE)


def shifted(sound, delay):
    return np.roll(np.pad(sound, 8000), delay)[8000:-8000]


@pytest.mark.parametrize("delay", [0, 1, 200, -200, 5000, -7000])
def test_delays_of_distorted_inverted_filtered_and_noisy_targets(strings, delay):
    def noisy(sound):
        return sound + 0.1 * np.std(sound) * np.random.default_rng(0).standard_normal(len(sound))

    low = np.exp(-np.arange(20) / 1.5)
    targets = {
        "clean": (0.3 * strings, 0),
        "clipped": (np.clip(200 * strings, -0.5, 0.5), 0),
        "overdriven": (overdrive(strings, 1.0, RATE), 0),
        "inverted": (-overdrive(strings, 0.5, RATE), 1),
        "low-passed": (np.convolve(overdrive(strings, 1.0, RATE), low)[: len(strings)], 2),
        "noisy": (noisy(overdrive(strings, 1.0, RATE)), 0),
        "noisy and inverted": (noisy(-np.tanh(10 * strings)), 0),
    }
    for name, (target, filtered) in targets.items():
        found = estimate_delay(strings, shifted(target, delay), RATE)
        assert delay <= found.samples <= delay + filtered, name
        assert (found.correlation < 0) == ("inverted" in name)
        assert found.certain, name


def test_what_has_no_delay(strings):
    assert estimate_delay(strings[:1000], strings[:1000], RATE) is None
    assert estimate_delay(np.zeros(9000), strings[:9000], RATE) is None
    one, two = np.random.default_rng(0).standard_normal((2, 50_000))
    assert abs(estimate_delay(one, two, RATE).correlation) < 0.1
    tone = np.sin(0.1 * np.arange(50_000))
    assert not estimate_delay(tone, np.tanh(9 * tone), RATE).certain


def test_small_delays_are_left_and_early_targets_moved_together():
    delays = [Delay(samples, 0.8, 0.3) for samples in (3, -2, 900, -40)] + [Delay(700, 0.3, 0.29), None]
    assert choose_shifts(delays, "auto", 48000) == [-14, -14, 888, -52, 0, 0]
    assert choose_shifts(delays[:1], "auto", 48000) == [0]
    assert choose_shifts(delays, "none", 48000) == [0] * 6 and choose_shifts(delays, 7, 48000) == [7] * 6


@pytest.mark.parametrize("shift", [5003, -205])
def test_delayed_pairs_are_aligned(tmp_path, strings, shift):
    wet = overdrive(strings, 1.0, RATE)
    for name, sound in (("dry", strings), ("wet", shifted(wet, shift))):
        audio_files.write(tmp_path / f"{name}.wav", sound, RATE, "FLOAT")
    pair = find_recordings(f"{tmp_path}/dry.wav,{tmp_path}/wet.wav")
    train, valid, findings = split_recordings(pair, RATE, context=300)
    assert f"wet.wav: delay of {shift} samples" in str(findings) and "reduced" in str(findings)
    shift -= 4  # a quarter of a millisecond is left for filters
    assert f"reduced to 4 samples (0.25 ms), which filters may cause: the first {abs(shift)} samples" in str(findings)
    first = max(0, -shift)
    np.testing.assert_array_equal(train[0].input, strings[first : first + len(train[0])])
    size = len(train[0]) - 10
    np.testing.assert_array_equal(
        train[0].target[:size], wet[first - 4 : first - 4 + size] if first else np.r_[np.zeros(4), wet[: size - 4]]
    )
    assert len(train[0]) + len(valid[0]) - valid[0].skip == len(strings) - abs(shift)
    train, _, findings = split_recordings(pair, RATE, context=300, align=shift)
    assert len(train[0]) == size + 10 and "as set by data.align" in str(findings)
    train, _, findings = split_recordings(pair, RATE, context=300, align="none")
    assert len(train[0]) == len(strings) * 9 // 10 and "wet.wav: delay" not in str(findings)
    for bad in ("often", 11 * RATE, 1.5, None):
        with pytest.raises(WavedilError, match="align is .*: expected auto, none, or the samples"):
            split_recordings(pair, RATE, context=300, align=bad)
    with pytest.raises(WavedilError, match="too few for a delay of 159999"):
        split_recordings(pair, RATE, context=300, align=159999)
