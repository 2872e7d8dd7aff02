"""Gaps are filled from both sides, and nothing else changes."""

import numpy as np
import pytest
import soundfile
import torch

from wavedil.audio import NearestUpsampling, WaveNet, load, write
from wavedil.audio.conditioning.features import LogMel
from wavedil.audio.data.pluck import compose, render_melody
from wavedil.audio.distributions.mixtures import MixtureOfLogistics
from wavedil.audio.evaluation import nll_by_chunk
from wavedil.audio.gap_candidates import log_likelihood
from wavedil.audio.inpainting import inpaint, inpaint_file
from wavedil.audio.linear_prediction import interpolate
from wavedil.errors import WavedilError


def make(**options):
    torch.manual_seed(0)
    return WaveNet(**{"channels": 6, "skip_channels": 6, "dilations": "1..4", "sample_rate": 8000, **options}).eval()


def noise(*shape):
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def snr(sound, recording):
    return 10 * np.log10(np.sum(recording**2) / np.sum((sound - recording) ** 2))


@pytest.mark.parametrize("rate", [1000, 8000, 44100])
@pytest.mark.parametrize("length", [1, 2, 5, 40])
def test_linear_prediction_continues_sines(rate, length):
    times = np.arange(rate // 4 + 50)
    sound = 0.5 * np.sin(0.3 * times) + 0.2 * np.sin(0.7 * times + 1)
    start = len(sound) // 2
    found = interpolate(np.where((times < start) | (times >= start + length), sound, 9), start, start + length, rate)
    assert found.shape == (length,) and snr(found, sound[start : start + length]) > 25


def test_linear_prediction_of_silence_and_short_sounds():
    assert not interpolate(np.zeros(100), 40, 60, 8000).any()
    for start, stop in ((0, 3), (1, 5), (5, 6)):
        assert np.isfinite(interpolate(np.ones(6), start, stop, 8000)).all()


@pytest.mark.parametrize("rate", [8000, 6000, 11025, 48000])
@pytest.mark.parametrize("candidates", [0, 1, 5])
def test_only_gaps_change(rate, candidates):
    sound, model = noise(2, rate // 5), make()
    gaps = [(0.1, 0.1 + 1 / rate), (0.02, 0.05)]
    result = inpaint(model, sound, gaps, sample_rate=rate, candidates=candidates)
    inside = torch.zeros(sound.shape[1], dtype=torch.bool)
    for start, stop in gaps:
        inside[round(start * rate) : round(stop * rate)] = True
    assert torch.equal(result[:, ~inside], sound[:, ~inside]) and (result[:, inside] != sound[:, inside]).all()
    unknown = sound.clone()
    unknown[:, inside] = torch.nan  # what was in a gap is not known
    again = inpaint(model, unknown, gaps, sample_rate=rate, candidates=candidates)
    assert torch.equal(again, result)
    if candidates:
        others = [inpaint(model, sound, gaps, sample_rate=rate, candidates=candidates, seed=seed) for seed in (1, 2)]
        assert not torch.equal(others[0], result) and not torch.equal(others[0], others[1])


@pytest.mark.parametrize(
    "options",
    [
        {"distribution": "logistics", "quantizer": "linear", "num_codes": 65536, "input": "scalar"},
        {"distribution": "gaussians", "num_codes": 1000, "input": "scalar"},
        {"pre_emphasis": 0.85},
        {"speakers": ("ann", "bob"), "dilations": "1"},
        {"distribution": MixtureOfLogistics(2)},
    ],
)
def test_all_models_without_features_fill_gaps(options):
    model, sound = make(**options), noise(600)
    speaker = "bob" if "speakers" in options else None
    result = inpaint(model, sound.numpy(), [(0.03, 0.045)], candidates=3, speaker=speaker)
    assert result.shape == sound.shape and result.isfinite().all() and result.abs().max() <= 1
    assert torch.equal(result, inpaint(model, sound, [(0.03, 0.045)], candidates=3, speaker=speaker, engine="torch"))


def test_the_sound_after_a_gap_selects_the_candidate():
    """Of strings, the selected of 16 candidates is closer to what was lost than a single one."""
    model, gap = load("pluck"), [(0.26, 0.32)]
    sound = render_melody(compose(1, np.random.default_rng(7)), model.sample_rate)[2000:5000].astype(np.float32)
    errors = []
    for candidates in (1, 16):
        options = {"candidates": candidates, "temperature": 1.0}
        fills = [inpaint(model, sound, gap, seed=seed, **options).numpy() for seed in (0, 3)]
        errors.append(np.mean(np.square(np.stack(fills) - sound)))
    assert 0 < errors[1] < 0.7 * errors[0]


@torch.inference_mode()
def test_the_score_is_the_likelihood_of_evaluation(monkeypatch):
    """Also for mixtures and speakers, and if the parameters are computed in parts."""
    monkeypatch.setattr("wavedil.audio.gap_candidates._PARAMETERS", 2 * 256 * 200)
    for options in ({}, {"distribution": "logistics", "num_codes": 1000}, {"speakers": ("ann", "bob")}):
        model, sound = make(**options), noise(300)
        codes, conditioning = (
            model.encode(sound).unsqueeze(0),
            model.conditioning(None, "bob" if model.speakers else None),
        )
        nll = torch.cat(list(nll_by_chunk(model, codes, conditioning))).double()
        _, state = model.step(codes[:, :100], None, conditioning.condition(0, 100))
        states = {key: value.expand(5, *value.shape[1:]) for key, value in state.items()}
        condition = conditioning.select([0] * 5).condition(0, 200)
        scores = log_likelihood(model, codes[:, 100:].expand(5, -1), states, condition)
        assert torch.allclose(scores, -nll[100:].sum().expand(5), rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "subtype"),
    [("a.wav", "PCM_16"), ("a.wav", "PCM_U8"), ("a.wav", "PCM_24"), ("a.wav", "PCM_32"), ("a.wav", "FLOAT"),
     ("a.wav", "DOUBLE"), ("a.wav", "ULAW"), ("a.wav", "ALAW"), ("a.flac", "PCM_16"), ("a.flac", "PCM_24"),
     ("a.aiff", "PCM_S8")],
)  # fmt: skip
def test_files_keep_every_other_sample(name, subtype, tmp_path):
    values = np.random.default_rng(0).uniform(-1, 1, (2000, 2))
    values[:4] = [[1, -1], [-1, 1], [0.99999, 0.7], [0, 1e-9]]
    soundfile.write(tmp_path / name, values, 11025, subtype)
    result = inpaint_file(make(), tmp_path / name, tmp_path / f"out_{name}", [(0.05, 0.07)], candidates=2)
    assert result["gaps"] == 1 and result["channels"] == 2 and result["sample_rate"] == 11025
    info = soundfile.info(tmp_path / f"out_{name}")
    assert (info.subtype, info.samplerate, info.frames) == (subtype, 11025, 2000)
    before, after = (soundfile.read(tmp_path / each, dtype="float64")[0] for each in (name, f"out_{name}"))
    outside = np.r_[:551, 772:2000]
    assert np.array_equal(before[outside], after[outside]) and (before[551:772] != after[551:772]).mean() > 0.9


@pytest.mark.parametrize(
    ("gaps", "message"),
    [
        ([], "gaps is empty"),
        ([(0.05, 0.05)], "start < stop"),
        ([(0.06, 0.05)], "start < stop"),
        ([(float("nan"), 0.05)], "start < stop"),
        ([(0.05, float("inf"))], "start < stop"),
        ([(-0.1, 0.05)], "start < stop"),
        ([(0.0, 0.05)], "less than 10 ms of sound before"),
        ([(0.005, 0.05)], "less than 10 ms of sound before"),
        ([(0.95, 1.0)], "less than 10 ms of sound after"),
        ([(0.95, 1.1)], "ends after the sound, which has 1 seconds"),
        ([(5, 6)], "ends after the sound"),
        ([(0.1, 0.202)], "has 102 ms: expected at most 100 ms"),
        ([(0.1, 0.15), (0.12, 0.17)], "overlap"),
        ([(0.1, 0.15), (0.1, 0.15)], "overlap"),
        ([(0.1, 0.15), (0.155, 0.17)], "less than 10 ms between"),
        ([(0.1, 0.10001)], "shorter than a sample"),
        ([(0.1,)], "gaps"),
        ([("a", "b")], "gaps"),
        (0.1, "gaps"),
    ],
)
def test_gaps_that_cannot_be_filled_are_refused(gaps, message):
    with pytest.raises(WavedilError, match=message):
        inpaint(make(), noise(8000), gaps)


def test_odd_input_is_refused(tmp_path):
    gap, sound = [(0.05, 0.06)], noise(800)
    condition = NearestUpsampling(LogMel(8000, 8, 64, 16))
    with pytest.raises(WavedilError, match="features of the sound"):
        inpaint(make(condition=condition), sound, gap)
    with pytest.raises(WavedilError, match="expected a WaveNet"):
        inpaint(torch.nn.Linear(1, 1), sound, gap)
    with pytest.raises(WavedilError, match="needs a speaker"):
        inpaint(make(speakers=("ann", "bob")), sound, gap)
    with pytest.raises(WavedilError, match="takes no speaker"):
        inpaint(make(), sound, gap, speaker="ann")
    with pytest.raises(WavedilError, match="NaN or infinity outside"):
        inpaint(make(), torch.where(torch.arange(800) == 7, torch.nan, sound), gap)
    for odd in (torch.zeros(0), torch.zeros(1, 1, 800), torch.zeros(800, dtype=torch.int16)):
        with pytest.raises(WavedilError, match="sound"):
            inpaint(make(), odd, gap)
    for options in ({"candidates": -1}, {"candidates": 10**6}, {"temperature": -1}, {"seed": -1}, {"sample_rate": 0}):
        with pytest.raises(WavedilError, match=next(iter(options))):
            inpaint(make(), sound, gap, **options)
    write(tmp_path / "a.ogg", sound, 8000)
    with pytest.raises(WavedilError, match="VORBIS, which cannot be written again"):
        inpaint_file(make(), tmp_path / "a.ogg", tmp_path / "b.wav", gap)
    with pytest.warns(UserWarning, match="outside \\[-1, 1\\]"):
        assert inpaint(make(), sound + 1, gap, candidates=0).max() > 1
    write(tmp_path / "a.wav", sound, 8000, "FLOAT")
    with pytest.raises(WavedilError, match="does not have FLOAT"):
        inpaint_file(make(), tmp_path / "a.wav", tmp_path / "b.flac", gap)
    assert not (tmp_path / "b.flac").exists() and not (tmp_path / "b.wav").exists()
