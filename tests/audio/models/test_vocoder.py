"""Vocoders that generate all samples at once: losses, magnitudes, seeds, files, errors."""

import json
import math

import numpy as np
import pytest
import torch

pytest.importorskip("torchaudio.functional", reason="torchaudio does not import beside this torch")

from wavedil.audio import LogMel, SpectralGenerator, Vocoder, load, save
from wavedil.audio.generation.vocode_files import vocode_files
from wavedil.audio.models.diffwave import DiffWave
from wavedil.audio.models.parallel_wavegan import ParallelWaveGANGenerator
from wavedil.audio.resynthesis import resynthesize
from wavedil.audio.spectrogram import reconstruct_phases
from wavedil.audio.vocoder_evaluation import evaluate_vocoder
from wavedil.core.receptive_field import receptive_field
from wavedil.errors import WavedilError

RATE, MELS, HOP = 8000, 20, 50


def features(hop=HOP, rate=RATE, mels=MELS):
    return LogMel(sample_rate=rate, n_mels=mels, n_fft=512, hop_length=hop)


def spectral(**options):
    shape = {"channels": 8, "dilations": "1,2", "mels": MELS, "n_fft": 256, "hop_length": HOP, "sample_rate": RATE}
    return SpectralGenerator(**shape | options)


def vocoders():
    parallel = ParallelWaveGANGenerator(8, 8, "1,2", 3, hidden_channels=8, mels=MELS, scales=(5, 10), sample_rate=RATE)
    diffusion = DiffWave(8, "1,2", mels=MELS, noise=[0.01, 0.1], sample_rate=RATE)
    return {
        "spectral": Vocoder(features(), spectral()),
        "parallel_wavegan": Vocoder(features(), parallel),
        "diffwave": Vocoder(features(hop=256), diffusion),
    }


def sound(frames, hop=HOP, batch=1):
    t = torch.arange(frames * hop) / RATE
    phases = torch.arange(batch)[:, None]
    return 0.3 * torch.sin(2 * math.pi * 440 * t + phases) + 0.1 * torch.sin(2 * math.pi * 1500 * t)


@pytest.mark.parametrize("name", vocoders())
def test_a_vocoder_learns_generates_and_survives_a_folder(name, tmp_path):
    torch.manual_seed(0)
    model = vocoders()[name]
    hop = model.hop_length
    clip = sound(2100 // hop, hop, batch=2)
    mels = model.features(clip)
    loss = model.loss(clip.unsqueeze(1), mels)
    loss.backward()
    assert math.isfinite(float(loss.detach())) and all(p.grad is not None for p in model.generator.out.parameters())
    first = model(mels, seed=3)
    assert first.shape == (2, 1, clip.shape[1]) and torch.isfinite(first).all()
    assert torch.equal(model(mels, seed=3), first) and not torch.equal(model(mels, seed=4), first)
    save(model, tmp_path / "model")
    loaded = load(tmp_path / "model")
    assert torch.equal(loaded(mels, seed=3), first) and loaded.features.hop_length == hop


def test_the_loss_compares_with_the_magnitudes_of_frames_inside_the_crop():
    model = spectral(n_fft=255 + 1)
    clip = sound(12)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(256) / 256)
    padded = np.pad(clip[0].double().numpy(), (103, 103))
    target = np.stack([np.abs(np.fft.rfft(padded[f * HOP : f * HOP + 256] * window)) for f in range(12)], axis=1)
    mels = features()(clip)
    error = np.abs(model(mels)[0].detach().numpy() - np.log(np.maximum(target, 3e-3)))
    # 103 samples on each side of a hop: three frames at each end have a window that leaves the crop.
    assert float(model.loss(clip.unsqueeze(1), mels).detach()) == pytest.approx(error[:, 3:-3].mean(), rel=1e-4)


def test_true_magnitudes_give_the_sound_back_at_its_time():
    clip = sound(80) * (torch.arange(80 * HOP) > 30 * HOP)

    def magnitudes(x):
        padded = torch.nn.functional.pad(x, (103, 103))
        return torch.stft(padded, 256, HOP, window=torch.hann_window(256), center=False, return_complex=True).abs()

    target = magnitudes(clip[0])
    found = reconstruct_phases(target, 256, HOP)
    assert found.shape == (80 * HOP,)
    errors = [float((magnitudes(found.roll(shift)) - target).norm() / target.norm()) for shift in (0, HOP, -HOP)]
    assert errors[0] < 0.1 < min(errors[1:])


def test_the_receptive_field_is_that_of_the_stack_in_frames():
    model = spectral(dilations="1..4")
    frames = receptive_field("1..4", kernel_size=3) + 2  # and the input convolution's
    assert model.receptive_field == (frames - 1) * HOP + 256
    x = torch.zeros(1, MELS, 61, requires_grad=True)
    model(x)[0, :, 30].sum().backward()
    seen = x.grad[0].abs().sum(0).nonzero().flatten()
    assert int(seen[-1] - seen[0]) + 1 == frames


def test_training_reduces_the_loss_and_griffin_lim_is_measured_beside():
    torch.manual_seed(0)
    model = Vocoder(features(), spectral(channels=16))
    clip = sound(200)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    for _ in range(60):
        loss = model.loss(clip.unsqueeze(1), model.features(clip))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    result = resynthesize(model, [clip[0]], seconds=1.0)
    assert set(result.measures) == {"model", "griffin_lim", "noise"}
    assert result.distance_db < result.griffin_lim_db + 6 and "temperature" not in str(result)


def test_files_are_written_from_recordings_and_features(tmp_path):
    from wavedil.audio import read, write

    model = vocoders()["spectral"]
    write(tmp_path / "in.wav", sound(41)[:, :2025], RATE)  # not a multiple of the hop
    result = vocode_files(model, tmp_path / "out", condition=tmp_path / "in.wav", seed=1)
    clip, rate = read(result["files"][0])
    assert clip.shape == (1, 2025) and rate == RATE and (tmp_path / "out" / "index.html").exists()
    np.save(tmp_path / "mels.npy", model.features(sound(20))[0].numpy())
    result = vocode_files(model, tmp_path / "a.wav", condition=tmp_path / "mels.npy")
    assert read(tmp_path / "a.wav")[0].shape == (1, 1000) and result["seconds_each"] == 1000 / RATE
    evaluated = evaluate_vocoder(model, tmp_path / "in.wav", resynthesize=3)
    assert evaluated.clips == 1 and json.loads(json.dumps(vars(evaluated)))["measures"]["model"]
    with pytest.raises(WavedilError, match="condition is missing"):
        vocode_files(model, tmp_path / "out")
    with pytest.raises(WavedilError, match="resynthesize is 0"):
        evaluate_vocoder(model, tmp_path / "in.wav", resynthesize=0)


def test_refusals():
    cases = {
        "n_mels=20, the generator is for 10": lambda: Vocoder(features(), spectral(mels=10)),
        "hop_length=64, the generator is for 50": lambda: Vocoder(features(hop=64), spectral()),
        "sample_rate=16000, the generator is for 8000": lambda: Vocoder(features(rate=16000), spectral()),
        "features is a Linear": lambda: Vocoder(torch.nn.Linear(2, 2), spectral()),
        "generator is a Linear, without loss": lambda: Vocoder(features(), torch.nn.Linear(2, 2)),
        "n_fft is 90 and hop_length 50": lambda: spectral(n_fft=90),
        "mel has shape \\(1, 3, 4\\)": lambda: spectral()(torch.zeros(1, 3, 4)),
        "mels has shape \\(1, 20, 0\\)": lambda: Vocoder(features(), spectral())(torch.zeros(1, MELS, 0)),
        "mels has NaN": lambda: Vocoder(features(), spectral())(torch.full((1, MELS, 3), math.nan)),
    }
    for message, call in cases.items():
        with pytest.raises(WavedilError, match=message):
            call()
