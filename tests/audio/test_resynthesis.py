"""Griffin-Lim, filtered noise and resynthesis from log-mels."""

import json
import math

import pytest
import torch

from wavedil.audio import Features, LogMel, NearestUpsampling, WaveNet
from wavedil.audio.resynthesis import SOURCES, filtered_noise, griffin_lim, resynthesize
from wavedil.audio.speech_measures import UNITS, log_spectral_distance
from wavedil.errors import WavedilError

MELS = LogMel(sample_rate=8000, n_mels=60, n_fft=512, hop_length=64)


def tones(time=8000):
    t = torch.arange(time) / 8000
    return 0.3 * torch.sin(2 * math.pi * 440 * t) + 0.1 * torch.sin(2 * math.pi * 1230 * t) * (t > 0.4)


def test_griffin_lim_reconstructs_sound_and_timing():
    pytest.importorskip("torchaudio.functional", reason="torchaudio does not import beside this torch")
    sound = tones()
    reconstructed = griffin_lim(MELS, MELS(sound.unsqueeze(0))[0])
    assert reconstructed.shape == sound.shape
    assert log_spectral_distance(reconstructed, sound) < log_spectral_distance(reconstructed.roll(800), sound) < 40
    spectra = [torch.fft.rfft(x[4000:8000]).abs() for x in (reconstructed, sound)]
    assert [int(s.argmax()) for s in spectra] == pytest.approx([220, 220], abs=8)  # 440 Hz; a transform's bin is 16 Hz
    # The second tone begins where it does in the recording, at 0.4 s, to within a few frames.
    high = torch.stft(reconstructed, 256, 64, window=torch.hann_window(256), return_complex=True).abs()[38:41].sum(0)
    begins = int((high > high.max() / 2).nonzero()[0]) * 64
    assert abs(begins - 3200) <= 4 * 64


def test_filtered_noise_has_the_level_of_the_mels_and_no_pitch():
    pytest.importorskip("torchaudio.functional", reason="torchaudio does not import beside this torch")
    sound = 0.1 * torch.randn(16000, generator=torch.Generator().manual_seed(0))
    sound[8000:] *= 0.1
    noise = filtered_noise(MELS, MELS(sound.unsqueeze(0))[0])
    assert noise.shape == sound.shape and abs(float(torch.corrcoef(torch.stack([noise, sound]))[0, 1])) < 0.1
    for part in (slice(500, 7500), slice(8500, 15500)):
        assert float(noise[part].std() / sound[part].std()) == pytest.approx(1, abs=0.25)
    # Two realizations of one noise are about 8 dB apart.
    assert log_spectral_distance(noise[500:7500], sound[500:7500]) == pytest.approx(7.9, abs=0.8)


def test_resynthesis_returns_both_distances():
    pytest.importorskip("torchaudio.functional", reason="torchaudio does not import beside this torch")
    torch.manual_seed(0)
    model = WaveNet(8, 8, "1..8", sample_rate=8000, condition=NearestUpsampling(MELS), speakers=["ann", "ben"]).eval()
    calls = []
    result = resynthesize(
        model,
        [tones(), tones(60), tones(9000)],
        ["ann", "nobody", "ben"],
        seconds=0.5,
        progress=lambda *a: calls.append(a),
    )
    assert result.clips == 2 and calls == [(1, 2), (2, 2)]
    assert 0 < result.griffin_lim_db < result.distance_db  # of a model that has learned nothing
    assert "the first 0.5 s of each file at 8000 Hz" in result.definition
    assert "temperature 1 with guidance 1" in result.definition
    assert list(result.measures) == list(SOURCES)
    assert result.measures["model"]["log_spectral_distance"] == result.distance_db
    assert result.measures["codes"]["log_spectral_distance"] < result.distance_db / 2
    lines = str(result).splitlines()
    assert lines[0].split("  ")[0] == "" and "mel cepstral distortion (dB)" in lines[0]
    assert lines[1].startswith("the model ") and lines[5] == "2 clips"
    assert set(result.measures["noise"]) <= set(UNITS) and json.loads(json.dumps(vars(result)))["clips"] == 2
    likeliest = resynthesize(model, [tones(), tones(9000)], ["ann", "ben"], seconds=0.5, temperature=0, guidance=2)
    assert likeliest.distance_db != result.distance_db and likeliest.griffin_lim_db == result.griffin_lim_db
    assert "temperature 0 with guidance 2" in likeliest.definition
    with pytest.raises(WavedilError, match="has 1024 samples"):
        resynthesize(model, [tones(60)], ["ann"])
    other = WaveNet(8, 8, "1..8", sample_rate=8000, condition=NearestUpsampling(Features(3, 10)))
    with pytest.raises(WavedilError, match="not conditioned on log-mels"):
        resynthesize(other, [tones()])
