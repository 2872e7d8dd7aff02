"""Delays between input and target of an effect."""

import numpy as np
import pytest

from wavedil.audio.data import audio_files
from wavedil.audio.data.alignment import estimate_delay
from wavedil.audio.data.overdrive import overdrive
from wavedil.audio.data.pluck import compose, render_melody
from wavedil.audio.data.recordings import find_recordings, split_recordings
from wavedil.errors import WavedilError

RATE = 16000


@pytest.fixture(scope="module")
def strings():
    return render_melody(compose(6.0, np.random.default_rng(3)), RATE)


def shifted(sound, delay):
    return np.roll(np.pad(sound, 8000), delay)[8000:-8000]


@pytest.mark.parametrize("delay", [0, 1, 200, -200, 5000, -7000])
def test_delays_of_distorted_inverted_and_noisy_targets(strings, delay):
    noise = np.random.default_rng(0).standard_normal(len(strings))
    targets = {
        "clean": 0.3 * strings,
        "overdriven": overdrive(strings, 1.0, RATE),
        "inverted": -overdrive(strings, 0.5, RATE),
        "noisy": strings + 0.1 * np.std(strings) * noise,
    }
    for name, target in targets.items():
        found = estimate_delay(strings, shifted(target, delay), RATE)
        assert abs(found.samples - delay) <= 4, name
        assert (found.correlation < 0) == (name == "inverted")
        assert found.certain == (abs(delay) > 1), name


def test_what_has_no_delay(strings):
    assert estimate_delay(strings[:1000], strings[:1000], RATE) is None
    assert estimate_delay(np.zeros(9000), strings[:9000], RATE) is None
    one, two = np.random.default_rng(0).standard_normal((2, 50_000))
    assert abs(estimate_delay(one, two, RATE).correlation) < 0.1
    tone = np.sin(0.1 * np.arange(50_000))
    assert not estimate_delay(tone, np.tanh(9 * tone), RATE).certain


def test_pairs_that_do_not_belong_together_are_reported_before_training(tmp_path, strings):
    audio_files.write(tmp_path / "input" / "a.wav", strings, RATE, "FLOAT")

    def split(target, context=2000):
        audio_files.write(tmp_path / "target" / "a.wav", target, RATE, "FLOAT")
        return split_recordings(find_recordings(tmp_path), RATE, context=context)

    wet = overdrive(strings, 1.0, RATE)
    split(wet)
    with pytest.raises(
        WavedilError, match=r"a.wav is 20\d samples \(1\d.\d ms\) earlier .* the first 20\d samples of the inp"
    ):
        split(shifted(wet, -205))
    with pytest.raises(
        WavedilError, match=r"a.wav is 500\d samples .* later .* receives only 2000 .* of the target and"
    ):
        split(shifted(wet, 5003))
    with pytest.warns(UserWarning, match=r"a.wav is 150\d samples \(9\d.\d ms\) later than its input: if that is"):
        split(shifted(wet, 1500))
    with pytest.warns(UserWarning, match=r"a.wav is identical to its input"):
        split(strings)
    other = render_melody(compose(6.0, np.random.default_rng(4)), RATE)[: len(strings)]
    with pytest.warns(UserWarning, match=r"a.wav does not resemble its input \(correlation 0.0"):
        split(np.random.default_rng(0).uniform(-0.1, 0.1, len(strings)))
    assert not estimate_delay(strings[: len(other)], other, RATE).certain
