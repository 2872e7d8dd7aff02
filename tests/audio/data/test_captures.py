"""Findings about pairs of input and target: levels, lengths, replicates, names."""

import numpy as np
import pytest

from wavedil.audio.data import audio_files
from wavedil.audio.data.captures import Findings, find_replicate
from wavedil.audio.data.overdrive import overdrive
from wavedil.audio.data.pluck import compose, render_melody
from wavedil.audio.data.recording_files import find_recordings
from wavedil.audio.data.recordings import split_recordings
from wavedil.errors import WavedilError

RATE = 8000


@pytest.fixture(scope="module")
def strings():
    return render_melody(compose(5.0, np.random.default_rng(4)), RATE)[: 5 * RATE]


@pytest.fixture
def find(tmp_path):
    def find(dry, wet, **options):
        audio_files.write(tmp_path / "dry.wav", dry, RATE, "FLOAT")
        audio_files.write(tmp_path / "wet.wav", wet, RATE, "FLOAT")
        pair = find_recordings(f"{tmp_path}/dry.wav,{tmp_path}/wet.wav")
        return split_recordings(pair, RATE, context=100, **options)

    return find


def test_findings_have_figures(find, strings):
    wet = overdrive(strings, 0.5, RATE)
    centered = wet - wet.mean()
    text = str(find(strings, centered)[2])
    assert "wet.wav: delay of 0 samples" in text or "wet.wav: delay of 1 samples" in text
    assert "clipped" not in text and "offset" not in text and "inverted" not in text
    text = str(find(strings, -np.clip(3 * centered, -0.5, 0.4))[2])
    assert "inverted polarity" in text and "possible clipping" in text and "at the peak, 0.500" in text
    assert "wet.wav: DC offset, mean +0.050" in str(find(strings, centered + 0.05)[2])
    assert "wet.wav is identical to its input" in str(find(strings, strings)[2])
    noise = np.random.default_rng(0).uniform(-0.1, 0.1, len(strings))
    assert "wet.wav does not resemble its input (correlation 0.0" in str(find(strings, noise)[2])
    assert "wet.wav has 2 channels and" in str(find(strings, np.stack([wet, wet]))[2])


def test_lengths_are_corrected_or_refused(find, strings):
    wet = overdrive(strings, 0.5, RATE)
    for dry, target in ((strings, wet[:-3000]), (strings[:-3000], wet)):
        train, valid, findings = find(dry, target)
        assert len(train[0]) + len(valid[0]) - valid[0].skip == len(strings) - 3000
        assert "the last 3000 samples (0.375 s) of" in str(findings)
    cut = wet.copy()
    cut[32_000:] = 0
    train, valid, findings = find(strings, cut)
    assert len(train[0]) + len(valid[0]) - valid[0].skip <= 32_000 and "is silent from 4.00 s to its end" in str(
        findings
    )
    cut[20_000:] = 0
    with pytest.raises(WavedilError, match=r"wet.wav is silent from 2.50 s to its end .* record it again"):
        find(strings, cut)
    with pytest.raises(WavedilError, match=r"dry.wav has 40000 samples and .*wet.wav 20000: expected the same"):
        find(strings, wet[:20_000])
    with pytest.raises(WavedilError, match=r"wet.wav is constant at 0.1 in all its 40000 samples"):
        find(strings, np.full(40_000, 0.1))
    with pytest.raises(WavedilError, match=r"dry.wav is silent in all its 40000 samples"):
        find(np.zeros(40_000), wet)


def test_two_passes_of_one_passage_state_the_noise_floor(find, strings):
    generator = np.random.default_rng(0)
    dry = np.concatenate([strings[:16_000], generator.uniform(-0.1, 0.1, 15_000).astype(np.float32), strings[:16_000]])
    wet = overdrive(dry, 1.0, RATE)
    noise = 0.01 * np.sqrt(np.square(wet).mean()) * generator.standard_normal(len(wet))
    found = find_replicate(dry, wet + noise, settle=100)
    assert (found.second - found.first, found.length) == (31_000, 15_900)
    assert found.esr_percent == pytest.approx(0.02, rel=0.2)
    findings = find(dry, (wet + noise).astype(np.float32))[2]
    assert "noise floor" in str(findings) and findings.noise_floor == pytest.approx(0.02, rel=0.2)
    dry = generator.uniform(-0.1, 0.1, 30_000).astype(np.float32)
    assert find_replicate(dry, dry, settle=100) is None and find_replicate(dry[:100], dry[:100], 0) is None
    dry[:] = 0
    assert find_replicate(dry, dry, settle=100) is None


def test_many_lines_are_shortened():
    assert len(str(Findings([f"line {n}\n" for n in range(50)])).splitlines()) == 21


def test_knobs_from_file_names(tmp_path):
    sound = np.random.default_rng(0).uniform(-0.5, 0.5, 2000)
    for name in ("input", "gain=0.5,tone=3", "gain=1,tone=-2"):
        audio_files.write(tmp_path / f"{name}.wav", sound, RATE)
    found = find_recordings(tmp_path)
    assert [recording.knobs for recording in found] == [{"gain": 0.5, "tone": 3.0}, {"gain": 1.0, "tone": -2.0}]
    assert {recording.input.name for recording in found} == {"input.wav"}
    for name, message in (
        ("gain=2", "gain=2.wav: expected a name with one value for each knob, as KNOB=VALUE,KNOB=VALUE: gain, tone"),
        ("gain=2,tone=x", "tone is 'x': expected a number"),
        ("loud", "loud.wav: expected a name with one value for each knob"),
        ("gain=2,gain=3", "expected a name with one value for each knob"),
    ):
        path = audio_files.write(tmp_path / f"{name}.wav", sound, RATE)
        with pytest.raises(WavedilError, match=message):
            find_recordings(tmp_path)
        path.unlink()
    for path in tmp_path.glob("gain*"):
        path.unlink()
    with pytest.raises(WavedilError, match="has input.wav but no target"):
        find_recordings(tmp_path)


def test_pairs_of_files(tmp_path):
    for name in ("a.wav", "b,c.wav"):
        audio_files.write(tmp_path / name, np.ones(10) / 2, RATE)
    (found,) = find_recordings(f"{tmp_path}/a.wav, {tmp_path}/b,c.wav")
    assert (found.input.name, found.target.name) == ("a.wav", "b,c.wav")
    for text, missing in (("a.wav,d.wav", "d.wav"), ("d.wav,a.wav", "d.wav"), ("a.wav,", "the second file")):
        root = ",".join(f"{tmp_path}/{part}" if part else "" for part in text.split(","))
        with pytest.raises(WavedilError, match=f"{missing} is not a file: expected DRY.wav,WET.wav"):
            find_recordings(root)
    with pytest.raises(WavedilError, match="a.wav is not a CSV table"):
        find_recordings(tmp_path / "a.wav")
