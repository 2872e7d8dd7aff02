"""Measures of speech: known values, units, and clips without pitch or speech."""

import math

import pytest
import torch

from wavedil.audio.speech_measures import (
    UNITS,
    log_spectral_distance,
    mean_measures,
    mel_cepstral_distortion,
    pesq,
    pitch_errors,
    speech_measures,
    stoi,
)


def noise(time=8000, seed=0):
    return torch.randn(time, generator=torch.Generator().manual_seed(seed)) / 10


def voice(frequency, time=16000, rate=16000):
    t = torch.arange(time) / rate
    return sum(0.2 / k * torch.sin(2 * math.pi * frequency * k * t) for k in range(1, 9))


def test_a_gain_gives_a_distance_of_as_many_decibels():
    noise = torch.randn(4000, generator=torch.Generator().manual_seed(0)) / 10
    assert log_spectral_distance(noise, noise) == 0
    assert log_spectral_distance(noise / 2, noise) == pytest.approx(20 * math.log10(2), abs=0.01)
    # Silence is clamped at 80 dB below the loudest bin, so the distance is the level of each bin above that.
    assert 60 < log_spectral_distance(torch.zeros(4000), noise) < 80


def test_cepstra_ignore_gain_and_measure_tilt():
    pytest.importorskip("torchaudio.functional", reason="torchaudio does not import beside this torch")
    assert mel_cepstral_distortion(noise(), noise(), 16000) == 0
    assert mel_cepstral_distortion(noise() / 2, noise(), 16000) == pytest.approx(0, abs=0.01)
    smooth = mel_cepstral_distortion((noise() + noise().roll(1)) / 2, noise(), 16000)
    rough = mel_cepstral_distortion(noise(seed=1), noise(), 16000)
    assert 3 < smooth < 15 and 1 < rough < smooth


def test_f0_error_in_cents_and_voicing_error_in_percent():
    low, high = voice(150.0), voice(150.0 * 2 ** (30 / 1200))
    f0, voicing = pitch_errors(high, low, 16000)
    assert f0 == pytest.approx(30, abs=6) and voicing == 0
    half = low.clone()
    half[8000:] = 0
    f0, voicing = pitch_errors(half, low, 16000)
    assert f0 < 10 and 30 < voicing < 60
    f0, voicing = pitch_errors(torch.zeros(16000), low, 16000)
    assert math.isnan(f0) and voicing > 90


def test_means_leave_out_undefined_values():
    clips = [{"f0_error": math.nan, "pesq": math.nan}, {"f0_error": 4.0, "pesq": math.nan}]
    assert mean_measures(clips) == {"f0_error": 4.0, "pesq": None}


def test_all_measures_of_a_clip():
    pytest.importorskip("torchaudio.functional", reason="torchaudio does not import beside this torch")
    found = speech_measures(voice(150.0, 8000) + noise(8000), voice(150.0, 8000), 16000)
    assert set(list(UNITS)[:4]) <= set(found) <= set(UNITS)
    assert all(math.isfinite(value) for value in found.values())


@pytest.mark.parametrize("rate", [8000, 16000, 22050])
def test_perfect_copies_have_the_best_pesq_and_stoi(rate):
    pytest.importorskip("pesq", reason="the extra metrics is not installed")
    pytest.importorskip("pystoi", reason="the extra metrics is not installed")
    sound = voice(150.0, 2 * rate, rate) * (1 + torch.sin(torch.arange(2 * rate) / rate * 20)) / 2
    assert pesq(sound, sound, rate) > 4.4 and stoi(sound, sound, rate) == pytest.approx(1, abs=1e-3)
    worse = sound + 0.3 * noise(2 * rate)
    assert pesq(worse, sound, rate) < 4 and stoi(worse, sound, rate) < 0.99
    assert math.isnan(pesq(sound, torch.zeros_like(sound), rate))
    short = sound[: rate // 5]
    assert math.isnan(pesq(short, short, rate)) and math.isnan(stoi(short, short, rate))
